"""`moltpipe migrate`: the tables, by the role that owns them, before anything else of a new version starts."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from moltpipe.cli.options import Json
from moltpipe.cli.report import print_json, say
from moltpipe.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="migrate")(migrate)


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 when something is pending.")] = False,
    as_json: Json = False,
) -> None:
    """Bring the tables of the ledger and of Dagster to this version. May be run again at any moment."""
    # Alembic and SQLAlchemy take half a second to import, which `--help` need not pay.
    from moltpipe.runtime.environment import environment  # noqa: PLC0415
    from moltpipe.runtime.migration import bring_up_to_date, look  # noqa: PLC0415
    from moltpipe.runtime.services import services  # noqa: PLC0415

    # Whoever migrates calls no engine: a job that holds the owner's password need not hold providers' keys as well.
    settings = load_settings(with_keys=False)
    with services(settings) as held:
        variables = environment(settings, held)
        parts = look(variables) if check else bring_up_to_date(variables, {**os.environ, **variables})
    if as_json:
        print_json({"parts": [{**asdict(part), "pending": part.pending} for part in parts]})
    else:
        for part in parts:
            if part.pending:
                say(f"{part.name}: {part.now or 'no tables'}, {part.newest} is pending")
            elif part.before == part.now:
                say(f"{part.name}: at {part.now}, nothing to do")
            else:
                say(f"{part.name}: {part.before or 'no tables'} → {part.now}")
    sys.exit(1 if any(part.pending for part in parts) else 0)
