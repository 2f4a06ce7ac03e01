"""`moltpipe check` and `moltpipe repair`: integrity without a daemon, what only a person can decide, and the audit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from moltpipe.cli.options import Json
from moltpipe.cli.report import complain, print_json, say
from moltpipe.cli.session import operator, session
from moltpipe.ledger.audit import Entry, entries
from moltpipe.ledger.calls import UnknownCall
from moltpipe.ledger.checks import run_checks
from moltpipe.ledger.checks.finding import Conditions, Finding, Severity
from moltpipe.ledger.decisions import Decision, Kind, NothingToDecide, NothingToRemake, NothingToRetry, decide
from moltpipe.ledger.jobs import JobMissing
from moltpipe.ledger.production import UnknownEpisode
from moltpipe.ledger.repairs import REMEDIES, Repair, plan_repairs, repair
from moltpipe.production.sweeping import sweep_objects
from moltpipe.studio.alerts import lasted
from moltpipe.studio.moments import spelled

_SWEEP_S = 3.0
_ROWS_SHOWN = 5
_ENTRIES_SHOWN = 20
_REFUSALS = (UnknownCall, UnknownEpisode, JobMissing, NothingToDecide, NothingToRetry, NothingToRemake)


def _with_remedy(names: list[str] | None) -> list[str] | None:
    known = [remedy.check for remedy in REMEDIES]
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(f"{name!r} is no check that this mends: expected one of {', '.join(known)}")
    return names


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="check")(check)
    app.command(name="repair")(repair_)


def check(as_json: Json = False) -> None:
    """Run every integrity check; exit 1 when one fails or cannot look. A warning is shown and does not fail.

    The objects in S3 are looked over for a few seconds; of a large studio each call, like the daemon, goes on where the
    last one stopped.
    """
    with session() as opened:
        swept = sweep_objects(opened.database, opened.look(), _SWEEP_S, resting=True)
        now = datetime.now(UTC)
        with opened.database.begin() as db:
            findings = run_checks(db, Conditions.of(opened.settings, now))
    if not (swept.through or swept.elsewhere or swept.error):
        complain("the objects in S3 were looked over in part: the next check, or the daemon, goes on from there")
    if as_json:
        print_json({"checks": [finding.as_json() for finding in findings]})
    else:
        _tell_all(findings, now)
    failed = any(not finding.passed and finding.severity is Severity.ERROR for finding in findings)
    sys.exit(1 if failed else 0)


def repair_(
    count: Annotated[int | None, typer.Argument(metavar="[N]", min=1, help="How many entries --log prints.")] = None,
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
    to_retry: Annotated[
        list[str] | None,
        typer.Option(
            "--retry", metavar="PARTITION_KEY", help="Give this episode, which was given up, all its attempts again."
        ),
    ] = None,
    to_remake: Annotated[
        list[str] | None,
        typer.Option(
            "--remake", metavar="KEY", help="Make this medium, whose object is gone, anew; it may cost again."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="CHECK", callback=_with_remedy, help="Mend what this check finds, and no more."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and do nothing.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Print what was repaired and decided, the newest first.")] = False,
    as_json: Json = False,
) -> None:
    """Mend what `check` can name a safe remedy for, or decide what it leaves to a person.

    Each repair is whole or not at all, and what fails keeps nothing else from being mended: exit 1 then. Decisions are
    made together or not at all; nothing else is mended beside them. All is written down: `moltpipe repair --log`.
    """
    decision = _only_one(
        {"resubmit": to_resubmit, "give_up": to_give_up, "retry": to_retry, "remake": to_remake}, log=log
    )
    if count is not None and not log:
        raise typer.BadParameter("goes with --log", param_hint="N")
    if only and (log or decision is not None):
        raise typer.BadParameter("goes with neither a decision nor --log", param_hint="--only")
    if log:
        _tell_log(count or _ENTRIES_SHOWN, as_json=as_json)
        return
    decisions: list[Decision] = []
    repairs: list[Repair] = []
    try:
        with session() as opened, opened.database.begin() as db:
            if decision is not None:
                kind, subjects = decision
                decisions = decide(db, kind, subjects, operator(), dry_run=dry_run)
            else:
                conditions = Conditions.of(opened.settings, datetime.now(UTC))
                chosen = only or ()
                repairs = (
                    plan_repairs(db, conditions, chosen) if dry_run else repair(db, conditions, operator(), chosen)
                )
    except _REFUSALS as error:
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
    else:
        _tell_done(repairs, decisions, dry_run=dry_run)
    sys.exit(1 if any(one.failed for one in repairs) else 0)


def _only_one(asked: dict[Kind, Sequence[object] | None], *, log: bool) -> tuple[Kind, list[str]] | None:
    """The one decision that was asked for; None for repairs or the log."""
    given = [(kind, [str(one) for one in subjects]) for kind, subjects in asked.items() if subjects]
    if len(given) + log > 1:
        raise typer.BadParameter("say one of them", param_hint="--resubmit|--give-up|--retry|--remake|--log")
    return given[0] if given else None


def _tell_done(repairs: Sequence[Repair], decisions: Sequence[Decision], *, dry_run: bool) -> None:
    if not (repairs or decisions):
        say("nothing to repair")
    done = "to do" if dry_run else "done"
    for one in repairs:
        if one.failed is None:
            say(f"{done}: {one.what}")
        else:
            say(f"FAILED: {one.what}: {one.failed}")
    for decision in decisions:
        say(f"{done}: {decision.what}")


def _tell_log(count: int, *, as_json: bool) -> None:
    with session() as opened, opened.database.begin() as db:
        found: list[Entry] = entries(db, count)
    if as_json:
        print_json({"entries": [one.as_json() for one in found]})
        return
    if not found:
        say("nothing was repaired or decided yet")
    for one in found:
        say(f"{spelled(one.at)}  {one.by}  {one.action}  {one.what}")


def _tell_all(findings: Sequence[Finding], now: datetime) -> None:
    """What is wrong in full, and how many are well in one line."""
    wrong = [finding for finding in findings if not finding.passed]
    for finding in wrong:
        _tell(finding, now)
    passed = len(findings) - len(wrong)
    say(f"{passed} checks passed" if wrong else f"all {passed} checks passed")


def _tell(finding: Finding, now: datetime) -> None:
    named = f"{finding.name} ({finding.asset})"
    if finding.could_not_check is not None:
        say(f"UNKNOWN  {named}: could not look: {finding.could_not_check}")
        say()
        return
    verdict = "FAILED " if finding.severity is Severity.ERROR else "warning"
    since = f", for {lasted(now - finding.since)}" if finding.since is not None and finding.since < now else ""
    say(f"{verdict}  {named}: {finding.count} found{since}")
    shown = finding.rows[:_ROWS_SHOWN]
    for row in shown:
        widest = max(len(name) for name in row)
        for name, value in row.items():
            say(f"  {name:<{widest}}  {'' if value is None else value}".rstrip())
        say()
    if len(shown) < finding.count:
        say(f"  and {finding.count - len(shown)} more: `moltpipe check --json`")
    say(f"  remedy: {finding.remedy}")
    say()
