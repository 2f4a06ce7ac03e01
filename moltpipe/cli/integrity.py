"""`moltpipe check` and `moltpipe repair`: integrity without a daemon."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from moltpipe.cli.options import Json
from moltpipe.cli.report import print_json, say
from moltpipe.cli.session import session
from moltpipe.ledger.checks import Finding, Severity, run_checks
from moltpipe.ledger.repairs import plan_repairs, repair

_ROWS_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="check")(check)
    app.command(name="repair")(repair_)


def check(as_json: Json = False) -> None:
    """Run every integrity check; exit 1 when one fails. A warning is shown and does not fail."""
    with session() as opened, opened.database.begin() as db:
        findings = run_checks(db)
    if as_json:
        print_json({"checks": [finding.as_json() for finding in findings]})
    else:
        for finding in findings:
            _tell(finding)
    failed = any(not finding.passed and finding.severity is Severity.ERROR for finding in findings)
    sys.exit(1 if failed else 0)


def repair_(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Mend what `check` can name a safe remedy for."""
    with session() as opened, opened.database.begin() as db:
        repairs = plan_repairs(db) if dry_run else repair(db)
    if as_json:
        print_json({"dry_run": dry_run, "repairs": [one.as_json() for one in repairs]})
        return
    if not repairs:
        say("nothing to repair")
    for one in repairs:
        say(f"{'to do' if dry_run else 'done'}: {one.what}")


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
