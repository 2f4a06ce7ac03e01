"""Integrity: what must never happen again, as asset checks, and the schedule that looks every minute.

Here: each check of the ledger's registry as a Dagster asset check. Not here: the queries
(`ledger.checks`), the remedies (`ledger.repairs`).
"""

from datetime import UTC, datetime

import dagster as dg

from moltpipe.defs.reports import Metadata, table
from moltpipe.ledger.checks import CHECKS, run_check, run_checks
from moltpipe.ledger.checks.finding import Check, Conditions, Finding, Severity
from moltpipe.ledger.database import Database
from moltpipe.settings import load_settings


def _result(finding: Finding) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=finding.asset,
        check_name=finding.name,
        passed=finding.passed,
        severity=_SEVERITIES[finding.severity],
        metadata=_report(finding),
        description=None if finding.passed else finding.remedy,
    )


_SEVERITIES = {Severity.ERROR: dg.AssetCheckSeverity.ERROR, Severity.WARNING: dg.AssetCheckSeverity.WARN}


def _report(finding: Finding) -> Metadata:
    report: Metadata = {"count": dg.MetadataValue.int(finding.count)}
    if not finding.passed:
        report |= {"rows": table(finding.rows), "remedy": dg.MetadataValue.md(finding.remedy)}
        if finding.since is not None:
            report["since"] = dg.MetadataValue.timestamp(finding.since)
    return report


def _as_asset_check(check: Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=dg.AssetKey(check.asset), name=check.name, description=check.promise)
    def looks(ledger: dg.ResourceParam[Database]) -> dg.AssetCheckResult:
        with ledger.begin() as db:
            return _result(run_check(db, check, Conditions.of(load_settings(), datetime.now(UTC))))

    return looks


INTEGRITY_CHECKS = [_as_asset_check(check) for check in CHECKS]

check_integrity = dg.define_asset_job(
    "check_integrity",
    selection=dg.AssetSelection.checks(*(one.check_key for one in INTEGRITY_CHECKS)),
    description="Run every integrity check once, as a run of its own.",
)


@dg.schedule(
    cron_schedule="* * * * *",
    target=check_integrity,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Runs every integrity check each minute and records the results. Starts no run.",
)
def integrity_schedule(context: dg.ScheduleEvaluationContext, ledger: dg.ResourceParam[Database]) -> dg.SkipReason:
    """The checks are a query each, so they run in the tick: 1,440 runs a day would bury the operator's own.

    A check that cannot look fails the tick, which is not the same as a check that fails.
    """
    with ledger.begin() as db:
        findings = run_checks(db, Conditions.of(load_settings(), datetime.now(UTC)))
    for finding in findings:
        result = _result(finding)
        context.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(finding.asset),
                check_name=finding.name,
                passed=result.passed,
                metadata=result.metadata,
                severity=result.severity,
                description=result.description,
            )
        )
    failed = [finding.name for finding in findings if not finding.passed]
    return dg.SkipReason(f"{len(findings)} checks, failed: {', '.join(failed) or 'none'}")
