"""`moltpipe adopt`: bring the database of a MOLT studio over.

Here: the command and what it says. Not here: reading and writing (`ledger.molt`), what becomes of a row
(`studio.adoption`).
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from moltpipe.cli.options import Json
from moltpipe.cli.report import complain, heading, print_json, print_table, say
from moltpipe.cli.session import operator, session
from moltpipe.ledger.database import psycopg_url
from moltpipe.ledger.molt import Adoption, AdoptionRefused, SameDatabase, adopt
from moltpipe.studio.adoption import Remark

_REMARKS_SHOWN = 40
_NAMES = {
    "studios": "studios",
    "voting_periods": "voting periods",
    "scripts": "scripts",
    "limited_series": "series",
    "script_votes": "votes",
}


def _postgres_url(url: str) -> str:
    try:
        psycopg_url(url)
    except ValueError as error:
        # Its text does not show the address, which may hold a password.
        raise typer.BadParameter(str(error)) from None
    return url


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="adopt")(adopt_)


def adopt_(
    url: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="URL",
            callback=_postgres_url,
            help="The old database, which is only read; a password may come from PGPASSWORD.",
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Bring studios, pilots, votes, periods and series of a MOLT database over, with their ids.

    Every row that breaks a rule is reported, with what was done with it; none keeps the others from coming. Run again,
    it adds what is new there and changes nothing here.
    """
    try:
        with session() as opened:
            adoption = adopt(opened.database, url, operator(), datetime.now(UTC), dry_run=dry_run)
    except SameDatabase as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error
    except AdoptionRefused as error:
        complain(f"refused: {error}")
        sys.exit(1)
    if as_json:
        print_json(adoption.as_json())
    else:
        _tell(adoption)


def _tell(adoption: Adoption) -> None:
    plan = adoption.plan
    if adoption.unchanged:
        say(f"unchanged: nothing in {adoption.source} is new")
    else:
        say(f"{'would be adopted' if adoption.dry_run else 'adopted'} from {adoption.source}")
        rows = [(_NAMES[table], count, plan.already_here[table]) for table, count in plan.adopted.items()]
        print_table(["", "new", "here before"], rows, numbers=["new", "here before"])
    if plan.not_for_us:
        say(f"{plan.not_for_us} texts, links and deleted drafts stay where they are")
    _tell_remarks("rows that break a rule", plan.remarks)
    _tell_remarks("rows that changed there after they were adopted", plan.changed)
    if adoption.not_valid:
        say()
        say(f"NOT VALID, so that what happened stays to be seen: {', '.join(adoption.not_valid)}")
        say("They hold for every row that is written from now on. `moltpipe repair` validates them when all is mended.")
    if not adoption.unchanged and not adoption.dry_run:
        say()
        say("next: `moltpipe check` says what is wrong, `moltpipe repair --dry-run` what it would do about it")


def _tell_remarks(title: str, remarks: tuple[Remark, ...]) -> None:
    if not remarks:
        return
    say()
    heading(f"{title}: {len(remarks)}")
    for one in remarks[:_REMARKS_SHOWN]:
        value = "nothing" if one.value is None else one.value
        say(f"{one.table} {one.id}")
        say(f"  {one.field} = {value}: {one.rule}. {one.done[:1].upper()}{one.done[1:]}.")
    if len(remarks) > _REMARKS_SHOWN:
        say(f"and {len(remarks) - _REMARKS_SHOWN} more: `--json` shows all of them")
