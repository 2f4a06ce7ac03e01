"""Alerts: failed runs become incidents, and what nobody has been told of yet is sent.

Here: the sensor, and reading Dagster's runs. Not here: failed integrity checks (`defs.integrity` opens their
incidents), words and pace (`studio.alerts`), the queue (`ledger.incidents`), the channels (`moltpipe.alerting`).

Dagster's open-source edition tells nobody about a failed check or run. Its run-failure sensors would be one more way
beside that of the checks, tell of each attempt anew, and never say that it is over.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import dagster as dg
from dagster import DagsterEventType, DagsterRunStatus
from dagster_shared.error import SerializableErrorInfo

from moltpipe import alerting
from moltpipe.alerting import Channel
from moltpipe.defs.runs import PARTITION_TAG
from moltpipe.ledger.database import Database
from moltpipe.ledger.incidents import (
    close_incident,
    let_go,
    note_failed,
    note_sent,
    open_incident,
    open_subjects,
    runs_done_by_others,
    take_due_alerts,
    tell_newcomer,
)
from moltpipe.ledger.jobs import completed_episodes
from moltpipe.ledger.watching import ticked
from moltpipe.settings import load_settings
from moltpipe.studio.alerts import (
    Trouble,
    check_subject,
    failed_delivery,
    failed_run,
    messages,
    over_by_success,
    run_subject,
)
from moltpipe.studio.delivery import RULES

LOOK_BACK = timedelta(days=1)
"""How far the first look goes, and one whose cursor was lost."""
OVERLAP = timedelta(minutes=2)
"""A run is written down some time after it ended, so each look goes back behind the one before."""
RUNS_PER_TICK = 200
_ASSETS_BY_HAND = "__ASSET_JOB"
_LAST_ASSETS = frozenset({dg.AssetKey("stitched_episode"), dg.AssetKey("voting_outcome")})
"""With these a partition is made whole."""
_NOT_ITS_OWN = frozenset({"JobHeld", "Superseded", "DagsterExecutionInterruptedError"})
"""Errors of a run whose work is in the hands of another one, or will be: two daemons that started the same is no
trouble, nor is a process that was told to stop."""
_RUNS_COMPARED = 20
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dg.sensor(
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Turns failed runs into incidents, and tells the channels of ALERT_URLS what is wrong or over.",
)
def alert_sensor(context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[Database]) -> dg.SensorResult:
    """Looks at what ended since its last look. A lost cursor makes it look again, which changes nothing."""
    settings = load_settings()
    channels = alerting.channels(settings.alert_urls)
    told: list[str] = []
    try:
        cursor = _note_ended_runs(context.instance, ledger, Cursor.read(context.cursor), channels)
        with ledger.begin() as db:
            for subject in runs_done_by_others(db):
                close_incident(db, subject, [channel.id for channel in channels])
            ticked(db, "alert_sensor")
    finally:
        # What cannot be noted fails the tick, and keeps nobody from being told of everything else.
        told = tell(ledger, channels, settings.ui_url)
    return dg.SensorResult(skip_reason=dg.SkipReason("; ".join(told) or "nothing to tell"), cursor=cursor.written())


@dataclass(frozen=True)
class Cursor:
    """How far the sensor has looked."""

    since: datetime
    """When the latest of the runs that it has seen ended, by the clock of Dagster's records."""
    seen: frozenset[str] = frozenset()
    """Runs that it will meet again, because looks overlap, each with how it had ended (`_known_as`)."""

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        """From the sensor's cursor; one that cannot be read counts as lost."""
        try:
            document = json.loads(text or "")
            return cls(datetime.fromisoformat(document["since"]), frozenset(document["seen"]))
        except (ValueError, KeyError, TypeError):
            return cls(datetime.now(UTC) - LOOK_BACK)

    def written(self) -> str:
        """As the sensor's cursor."""
        return json.dumps({"since": self.since.isoformat(), "seen": sorted(self.seen)})


@dataclass(frozen=True)
class Ended:
    """What a run that is over says about its partition."""

    job: str
    partition_key: str
    trouble: Trouble | None
    """None when it succeeded."""
    whole: bool
    delivery: dict[str, Trouble | None]
    """What its delivery checks found, by their subject; None where one passed. Without those that could not look."""


def tell(database: Database, channels: Sequence[Channel], ui_url: str | None) -> list[str]:
    """Send what is due, all channels side by side: one that hangs keeps no other waiting.

    Returns:
        What was done, a line for each channel that had something to be told.
    """
    if not channels:
        return []
    with ThreadPoolExecutor(max_workers=len(channels), thread_name_prefix="alerts") as pool:
        done = [pool.submit(_tell_channel, database, channel, ui_url) for channel in channels]
    return [line for one in done if (line := one.result())]


def _tell_channel(database: Database, channel: Channel, ui_url: str | None) -> str:
    """Send what one channel is to be told.

    Nothing more is tried after a failure: what it met probably meets the next one too. That has its turn in the next
    tick, while the failed one rests.
    """
    with database.begin() as db:
        tell_newcomer(db, channel.id)
        taken = take_due_alerts(db, channel.id)
    sent, error = 0, None
    for message in messages(taken.pending, taken.sent_lately, ui_url):
        if error is not None:
            with database.begin() as db:
                let_go(db, message.alerts)
            continue
        error = alerting.send(channel, message)
        with database.begin() as db:
            if error is None:
                note_sent(db, message.alerts, uuid4())
                sent += 1
            else:
                note_failed(db, message.alerts, error)
    return error or (f"{channel.name}: {sent} sent" if sent else "")


def _note_ended_runs(
    instance: dg.DagsterInstance, database: Database, cursor: Cursor, channels: Sequence[Channel]
) -> Cursor:
    records = instance.get_run_records(
        dg.RunsFilter(
            statuses=[DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE], updated_after=cursor.since - OVERLAP
        ),
        limit=RUNS_PER_TICK + len(cursor.seen),
        order_by="update_timestamp",
        ascending=True,
    )
    fresh = [record for record in records if _known_as(record) not in cursor.seen]
    if not fresh:
        return cursor
    with database.begin() as db:
        are_open = open_subjects(db, "run:")
        completed = completed_episodes(db, [_work(record.dagster_run)[1] for record in fresh])
    ended = [one for record in _newest(fresh) if (one := _ended(instance, record, are_open, completed)) is not None]
    ids = [channel.id for channel in channels]
    for one in ended:
        _settle(database, one, ids)
    since = max(cursor.since, *(record.update_timestamp for record in records))
    return Cursor(since, frozenset(_known_as(one) for one in records if one.update_timestamp > since - OVERLAP))


def _known_as(record: dg.RunRecord) -> str:
    """A run and how it ended: one that Dagster took for dead and called failed may live, and succeed after all."""
    return f"{record.dagster_run.run_id} {record.dagster_run.status.value}"


def _newest(records: Iterable[dg.RunRecord]) -> list[dg.RunRecord]:
    """The last run of each job and partition, in the order in which they ended."""
    ordered = sorted(records, key=_end)
    return sorted({_work(record.dagster_run): record for record in ordered}.values(), key=_end)


def _start(record: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(record.start_time or record.create_timestamp.timestamp(), UTC)


def _end(record: dg.RunRecord) -> float:
    return record.end_time or record.update_timestamp.timestamp()


def _work(run: dg.DagsterRun) -> tuple[str, str]:
    """Job and partition key. One run may make a range of partitions; a job without them has an empty key."""
    first, last = run.tags.get(_RANGE_START, ""), run.tags.get(_RANGE_END, "")
    return run.job_name, run.tags.get(PARTITION_TAG) or (f"{first}...{last}" if first else "")


def _ended(
    instance: dg.DagsterInstance,
    record: dg.RunRecord,
    are_open: frozenset[str],
    completed: Mapping[str, datetime],
) -> Ended | None:
    """What a run says; None when it says nothing of its partition, or nothing that still holds.

    One whose process died after it had completed its episode failed at nothing: no other run would follow, and its
    incident would stay open for ever. One that makes a completed episode anew is told of, as the episode was completed
    before it began.
    """
    run = record.dagster_run
    job, key = _work(run)
    delivery = dict(_delivery(instance, run.run_id))
    whole = job != _ASSETS_BY_HAND or bool(_LAST_ASSETS & (run.asset_selection or frozenset()))
    if run.status is DagsterRunStatus.SUCCESS or (key in completed and completed[key] >= _start(record)):
        return Ended(job, key, None, whole, delivery)
    error = _error(instance, run.run_id)
    if error is None or (run_subject(job, key) not in are_open and _succeeded_since(instance, record)):
        return None
    return Ended(job, key, failed_run(job, key, run.run_id, error), whole, delivery)


def _succeeded_since(instance: dg.DagsterInstance, failed: dg.RunRecord) -> bool:
    """Whether a later run has succeeded: an old failure comes by again when somebody tags it."""
    run = failed.dagster_run
    tags = {PARTITION_TAG: run.tags[PARTITION_TAG]} if PARTITION_TAG in run.tags else {}
    others = instance.get_run_records(
        dg.RunsFilter(job_name=run.job_name, tags=tags, statuses=[DagsterRunStatus.SUCCESS]), limit=_RUNS_COMPARED
    )
    return any(_work(one.dagster_run) == _work(run) and _end(one) > _end(failed) for one in others)


def _error(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """Why a run failed, in the words of what went wrong; None when its work is another run's."""
    kinds = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
    said = ""
    for record in instance.get_records_for_run(run_id, of_type=kinds).records:
        event = record.event_log_entry.dagster_event
        if event is None:
            continue
        # A run that is declared dead fails without any data.
        causes = list(_causes(getattr(event.event_specific_data, "error", None)))
        # Dagster's own wrapper says which step it was, its cause says what was wrong.
        if any(cause.cls_name in _NOT_ITS_OWN for cause in causes):
            return None
        words = causes[min(1, len(causes) - 1)].message if causes else event.message or ""
        said = said or (f"{event.step_key}: " if event.step_key else "") + words.strip()
    return said


def _causes(error: SerializableErrorInfo | None) -> Iterator[SerializableErrorInfo]:
    while error is not None:
        yield error
        error = error.cause


def _delivery(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[str, Trouble | None]]:
    """The subject of each delivery check that could look, with what it found."""
    for record in instance.get_records_for_run(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION).records:
        event = record.event_log_entry.dagster_event
        found = event.event_specific_data if event else None
        if not isinstance(found, dg.AssetCheckEvaluation) or found.check_name not in RULES:
            continue
        partition = found.metadata.get("partition")
        if partition is None or not (found.passed or found.severity is dg.AssetCheckSeverity.ERROR):
            continue
        rule, asset, key = found.check_name, found.asset_key.to_user_string(), str(partition.value)
        trouble = None if found.passed else failed_delivery(rule, asset, key, found.description or "")
        yield check_subject(rule, key), trouble


def _settle(database: Database, ended: Ended, channels: Sequence[str]) -> None:
    with database.begin() as db:
        if ended.trouble is not None:
            open_incident(db, ended.trouble, channels)
        else:
            are_open = open_subjects(db, "run:")
            for subject in over_by_success(are_open, ended.job, ended.partition_key, whole=ended.whole):
                close_incident(db, subject, channels)
        for subject, trouble in sorted(ended.delivery.items()):
            if trouble is not None:
                open_incident(db, trouble, channels)
            else:
                close_incident(db, subject, channels)
