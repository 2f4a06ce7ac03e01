"""`moltpipe check` and `moltpipe repair`: integrity without a daemon, and what only a person can decide."""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from moltpipe.cli.options import Json
from moltpipe.cli.report import complain, print_json, say
from moltpipe.cli.session import session
from moltpipe.ledger.calls import UnknownCall
from moltpipe.ledger.checks import run_checks
from moltpipe.ledger.checks.finding import Conditions, Finding, Severity
from moltpipe.ledger.decisions import Decision, NothingToDecide, decide
from moltpipe.ledger.repairs import Repair, plan_repairs, repair

_ROWS_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="check")(check)
    app.command(name="repair")(repair_)


def check(as_json: Json = False) -> None:
    """Run every integrity check; exit 1 when one fails. A warning is shown and does not fail."""
    with session() as opened, opened.database.begin() as db:
        findings = run_checks(db, Conditions.of(opened.settings, datetime.now(UTC)))
    if as_json:
        print_json({"checks": [finding.as_json() for finding in findings]})
    else:
        for finding in findings:
            _tell(finding)
    failed = any(not finding.passed and finding.severity is Severity.ERROR for finding in findings)
    sys.exit(1 if failed else 0)


def repair_(
    to_resubmit: Annotated[
        list[UUID] | None,
        typer.Option(
            "--resubmit", metavar="CALL_ID", help="Make this call's request again, although it may be paid for twice."
        ),
    ] = None,
    to_give_up: Annotated[
        list[UUID] | None,
        typer.Option("--give-up", metavar="CALL_ID", help="Leave this call failed; nothing is sent again."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Mend what `check` can name a safe remedy for, or decide about paid calls that it names.

    Decisions are made together or not at all; nothing else is mended beside them.
    """
    if to_resubmit and to_give_up:
        raise typer.BadParameter("say one of them", param_hint="--resubmit|--give-up")
    decisions: list[Decision] = []
    repairs: list[Repair] = []
    try:
        with session() as opened, opened.database.begin() as db:
            if to_resubmit:
                decisions = decide(db, "resubmit", to_resubmit, _operator(), dry_run=dry_run)
            elif to_give_up:
                decisions = decide(db, "give_up", to_give_up, _operator(), dry_run=dry_run)
            else:
                conditions = Conditions.of(opened.settings, datetime.now(UTC))
                repairs = plan_repairs(db, conditions) if dry_run else repair(db, conditions)
    except (UnknownCall, NothingToDecide) as error:
        complain(f"refused: {error}")
        sys.exit(1)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "repairs": [one.as_json() for one in repairs],
                "decided": [one.as_json() for one in decisions],
            }
        )
        return
    done = [one.what for one in repairs] + [one.what for one in decisions]
    if not done:
        say("nothing to repair")
    for what in done:
        say(f"{'to do' if dry_run else 'done'}: {what}")


def _operator() -> str:
    """Who decides, by the name of the system's account."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        return "an operator"


def _tell(finding: Finding) -> None:
    if finding.passed:
        say(f"passed   {finding.name} ({finding.asset})")
        return
    verdict = "FAILED " if finding.severity is Severity.ERROR else "warning"
    say(f"{verdict}  {finding.name} ({finding.asset}): {finding.count} found")
    shown = finding.rows[:_ROWS_SHOWN]
    for row in shown:
        widest = max(len(name) for name in row)
        for name, value in row.items():
            say(f"  {name:<{widest}}  {'' if value is None else value}".rstrip())
        say()
    if len(shown) < finding.count:
        say(f"  and {finding.count - len(shown)} more: `moltpipe check --json`")
    say(f"  remedy: {finding.remedy}")
