"""`moltpipe prune`: removing what nobody needs any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import typer

from moltpipe.cli.options import Json
from moltpipe.cli.report import complain, print_json, print_table, report, say, to_the_minute
from moltpipe.cli.session import operator
from moltpipe.ledger.database import Database
from moltpipe.runtime.house import open_house
from moltpipe.runtime.services import open_store
from moltpipe.settings import load_settings
from moltpipe.store import IN_A_TRANSACTION, StoreError
from moltpipe.studio.retention import Pruned

_KILO = 1000
_UNITS = ("B", "kB", "MB", "GB", "TB")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="prune")(prune_)


def prune_(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed and remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what has been superfluous for as long as KEEP_RUNS_DAYS, KEEP_TAKES_DAYS and KEEP_RECORDS_DAYS say.

    Never what is used, shown, voted on or paid for and not settled. It may be interrupted at any time, and goes on the
    next time; beside another one it refuses. What was removed is written into the audit: `moltpipe repair --log`.
    """
    settings = load_settings(with_keys=False)
    with open_house(settings) as house, _environment(house.variables):
        # Dagster takes seconds to import, which `--help` need not pay.
        from dagster import DagsterInstance  # noqa: PLC0415

        from moltpipe.runtime.pruning import AnotherPrune, keeping_of, prune  # noqa: PLC0415

        database = Database(house.services.database_url.get_secret_value())
        try:
            with DagsterInstance.get() as instance:
                pruned = prune(
                    database,
                    open_store(house.services, settings.s3_bucket, IN_A_TRANSACTION),
                    instance,
                    keeping_of(settings),
                    by=operator(),
                    dry_run=dry_run,
                    told=_Progress(),
                )
        except (AnotherPrune, StoreError) as error:
            complain(str(error))
            sys.exit(1)
        finally:
            database.dispose()
    if as_json:
        print_json({"dry_run": dry_run, "pruned": [one.as_json() for one in pruned]})
    else:
        _tell(pruned, dry_run=dry_run)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """These variables for the length of a block: Dagster reads from them where its instance is."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Progress:
    """Says what has gone whenever that is more than before."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, line: str) -> None:
        if line != self._last and not line.startswith("0 "):
            report(line)
        self._last = line


def _tell(pruned: list[Pruned], *, dry_run: bool) -> None:
    gone = [one for one in pruned if one.count]
    if not gone:
        say("nothing to remove")
        return
    print_table(
        ("would be removed" if dry_run else "removed", "count", "size", "oldest (UTC)"),
        [
            (one.what, one.count, _size(one.bytes), to_the_minute(one.oldest) if one.oldest is not None else "")
            for one in gone
        ],
        numbers=("count", "size"),
    )


def _size(size: int | None) -> str:
    """Bytes in the unit that leaves at most three digits before the point."""
    if size is None:
        return ""
    amount, unit = float(size), 0
    while amount >= _KILO and unit < len(_UNITS) - 1:
        amount, unit = amount / _KILO, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"
