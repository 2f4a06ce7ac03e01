"""`moltpipe check` and `moltpipe repair`: integrity without a daemon."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from moltpipe.cli.report import Json, complain, out, print_json, print_table
from moltpipe.cli.session import session
from moltpipe.ledger.checks import Severity, run_checks
from moltpipe.ledger.repairs import plan_repairs, repair


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
            out.print(f"{'passed' if finding.passed else 'FAILED'}  {finding.name} on {finding.asset}", markup=False)
            if not finding.passed:
                print_table(
                    f"{finding.count} found", list(finding.rows[0]), [list(row.values()) for row in finding.rows]
                )
                complain(f"remedy: {finding.remedy}")
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
        out.print("nothing to repair")
    for one in repairs:
        out.print(f"{'would ' if dry_run else ''}{one.what}", markup=False)
