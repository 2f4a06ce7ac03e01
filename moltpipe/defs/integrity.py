"""Integrity: what must never happen again, as asset checks, and the sensor that looks all the time.

Here: each check of the ledger's registry as a Dagster asset check. Not here: the queries
(`ledger.checks`), the remedies (`ledger.repairs`), the sweep along S3 (`production.sweeping`), who is told
(`ledger.incidents`, `defs.alerts`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from moltpipe.alerting import channel_ids
from moltpipe.defs.catalog import complete_catalog
from moltpipe.defs.partitions import EPISODES_NAME, PERIODS_NAME
from moltpipe.defs.reports import Metadata, table
from moltpipe.defs.sizing import pod_of
from moltpipe.ledger.checks import CHECKS, run_check, run_checks
from moltpipe.ledger.checks.finding import Check, Conditions, Finding, Severity
from moltpipe.ledger.database import Database
from moltpipe.ledger.incidents import settle_findings
from moltpipe.ledger.jobs import clock_of
from moltpipe.ledger.sweeps import (
    PARTITION_KEYS,
    begin_round,
    keys_of_episodes,
    keys_of_periods,
    load_sweep,
    observe_partition_keys,
)
from moltpipe.ledger.watching import ticked
from moltpipe.production.sweeping import sweep_objects
from moltpipe.settings import load_settings
from moltpipe.store import Store
from moltpipe.studio.sweeping import stray_keys

SWEEP_S = 2.0
"""What a tick gives to the sweep along S3. A small studio is looked over whole in a tenth of it."""
KEYS_REST = 60
"""The look over all partition keys comes again after so many times as it took: a hundred thousand take a second."""
REPORT_EVERY = timedelta(minutes=10)
"""A result that does not change is reported again, so that the operator sees that somebody still looks."""


@dataclass(frozen=True)
class _Verdict:
    """A finding in the words of Dagster, which knows two: passed, and failed with a severity.

    A check that could not look has not passed. Failed with ERROR would say that the promise is broken, so it has failed
    with WARN, whatever its own severity, and its description begins with what it is. That a check's run failed, which
    Dagster also knows, cannot be reported without a run.
    """

    passed: bool
    severity: dg.AssetCheckSeverity
    metadata: Metadata
    description: str | None


def _verdict(finding: Finding) -> _Verdict:
    if finding.could_not_check is not None:
        why = finding.could_not_check
        metadata: Metadata = {"could_not_check": dg.MetadataValue.text(why)}
        return _Verdict(passed=False, severity=dg.AssetCheckSeverity.WARN, metadata=metadata, description=_unknown(why))
    return _Verdict(
        passed=finding.passed,
        severity=_SEVERITIES[finding.severity],
        metadata=_report(finding),
        description=None if finding.passed else finding.remedy,
    )


def _unknown(why: str) -> str:
    return f"Could not check, so nobody knows: {why}"


_SEVERITIES = {Severity.ERROR: dg.AssetCheckSeverity.ERROR, Severity.WARNING: dg.AssetCheckSeverity.WARN}


def _report(finding: Finding) -> Metadata:
    report: Metadata = {"count": dg.MetadataValue.int(finding.count)}
    if not finding.passed:
        report |= {"rows": table(finding.rows), "remedy": dg.MetadataValue.md(finding.remedy)}
        if finding.since is not None:
            report["since"] = dg.MetadataValue.timestamp(finding.since)
    return report


def _as_asset_check(check: Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=dg.AssetKey(check.asset), name=check.name, description=check.promise, op_tags=pod_of("checks")
    )
    def looks(ledger: dg.ResourceParam[Database]) -> dg.AssetCheckResult:
        with ledger.begin() as db:
            verdict = _verdict(run_check(db, check, Conditions.of(load_settings(), datetime.now(UTC))))
        return dg.AssetCheckResult(
            passed=verdict.passed,
            severity=verdict.severity,
            metadata=verdict.metadata,
            description=verdict.description,
        )

    return looks


INTEGRITY_CHECKS = [_as_asset_check(check) for check in CHECKS]

check_integrity = dg.define_asset_job(
    "check_integrity",
    selection=dg.AssetSelection.checks(*(one.check_key for one in INTEGRITY_CHECKS)),
    description="Run every integrity check once, as a run of its own.",
)


@dg.sensor(
    target=check_integrity,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Runs every integrity check, goes on with the sweep along S3, and records what is found. Tells Dagster "
    "of partitions that were made without its knowledge. Starts no run.",
)
def integrity_sensor(
    context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[Database], store: dg.ResourceParam[Store]
) -> dg.SensorResult:
    """The checks are a query each, so they run in the tick: runs for them would bury the operator's own.

    A result is reported when it changes, and else every ten minutes: every 15 seconds would fill Dagster's tables with
    a hundred thousand events a day. The cursor says what was reported last, and losing it only repeats a report.

    Raises:
        DatabaseUnavailable: nobody could look at anything. An S3 that is away stops the sweep alone.
    """
    settings = load_settings()
    swept = sweep_objects(ledger, store, SWEEP_S, resting=True)
    _look_over_keys(context.instance, ledger)
    caught_up = complete_catalog(context.instance, ledger)
    with ledger.begin() as db:
        now = datetime.now(UTC)
        findings = run_checks(db, Conditions.of(settings, now))
        settle_findings(db, findings, channel_ids(settings.alert_urls))
        ticked(db, "integrity_sensor")
    reported = _read(context.cursor)
    news = [finding for finding in findings if _is_news(finding, reported.get(finding.name), now)]
    told = {finding.name: (_state(finding), finding.count, now.timestamp()) for finding in news}
    known = {finding.name for finding in findings}
    return dg.SensorResult(
        asset_events=[_evaluation(finding) for finding in news],
        cursor=json.dumps({name: one for name, one in (reported | told).items() if name in known}),
        skip_reason=_summary(findings, swept.error, caught_up),
    )


def _look_over_keys(instance: dg.DagsterInstance, ledger: Database) -> None:
    """Compare Dagster's partition keys with the ledger, seldom where there are so many that it takes a while."""
    with ledger.begin() as db:
        last = load_sweep(db, PARTITION_KEYS)
        if last is not None and last.rests(clock_of(db), KEYS_REST):
            return
        begin_round(db, PARTITION_KEYS)
    # Dagster's keys first: they come after the rows, so that no row is too young to be seen.
    in_dagster = {name: instance.get_dynamic_partitions(name) for name in (EPISODES_NAME, PERIODS_NAME)}
    with ledger.begin() as db:
        in_ledger = {EPISODES_NAME: keys_of_episodes(db), PERIODS_NAME: keys_of_periods(db)}
        observe_partition_keys(db, list(stray_keys(in_dagster, in_ledger)))


_Reported = tuple[str, int, float]
"""State, count, and when that was reported."""


def _read(cursor: str | None) -> dict[str, _Reported]:
    """What was reported last, by check; nothing where that cannot be read."""
    try:
        return {
            name: (str(state), int(count), float(at)) for name, (state, count, at) in json.loads(cursor or "").items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def _is_news(finding: Finding, reported: _Reported | None, now: datetime) -> bool:
    if reported is None:
        return True
    state, count, at = reported
    return (state, count) != (_state(finding), finding.count) or now.timestamp() - at >= REPORT_EVERY.total_seconds()


def _state(finding: Finding) -> str:
    if finding.could_not_check is not None:
        return "unknown"
    return "passed" if finding.passed else "failed"


def _evaluation(finding: Finding) -> dg.AssetCheckEvaluation:
    verdict = _verdict(finding)
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(finding.asset),
        check_name=finding.name,
        passed=verdict.passed,
        severity=verdict.severity,
        metadata=verdict.metadata,
        description=verdict.description,
    )


def _summary(findings: Sequence[Finding], sweep_error: str | None, caught_up: int) -> str:
    named = {
        word: ", ".join(finding.name for finding in findings if _state(finding) == state)
        for word, state in (("failed", "failed"), ("could not look", "unknown"))
    }
    told = [f"{len(findings)} checks", *(f"{word}: {names}" for word, names in named.items() if names)]
    if sweep_error is not None:
        told.append(f"the sweep along S3 stands still: {sweep_error}")
    if len(told) == 1:
        told.append("all passed")
    if caught_up:
        told.append(f"Dagster was told of {caught_up} partitions that were made without its knowledge")
    return "; ".join(told)
