"""What Dagster knows of the runs of a partition, in the words of `studio.jobs` and `studio.dispatch`.

Here: reading runs, and ending those whose process is gone. Runs are found by their partition, whoever
launched them: a sensor, a backfill or a person in the launchpad.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import dagster as dg

from moltpipe.studio.dispatch import PastRuns
from moltpipe.studio.jobs import RunInFlight

PARTITION_TAG = "dagster/partition"
PRIORITY_TAG = "dagster/priority"
_OVER = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_IN_FLIGHT = tuple(status for status in dg.DagsterRunStatus if status not in _OVER)
_WAITING_FOR_A_PLACE = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED)


def runs_in_flight(instance: dg.DagsterInstance, partition_keys: Sequence[str]) -> dict[str, list[RunInFlight]]:
    """The runs of these partitions that are not over, by partition key."""
    found: dict[str, list[RunInFlight]] = defaultdict(list)
    if not partition_keys:
        return found
    runs = instance.get_runs(dg.RunsFilter(statuses=_IN_FLIGHT, tags={PARTITION_TAG: list(partition_keys)}))
    for run in runs:
        found[run.tags[PARTITION_TAG]].append(
            RunInFlight(
                run_id=run.run_id,
                last_update=_last_heard_of(instance, run.run_id),
                queued=run.status in _WAITING_FOR_A_PLACE,
            )
        )
    return found


def _last_heard_of(instance: dg.DagsterInstance, run_id: str) -> datetime:
    """Time of the run's newest event, of whatever kind. A run without events is new."""
    newest = instance.get_records_for_run(run_id, limit=1, ascending=False).records
    return datetime.fromtimestamp(newest[0].timestamp, UTC) if newest else datetime.now(UTC)


def past_runs(instance: dg.DagsterInstance, partition_keys: Sequence[str]) -> dict[str, PastRuns]:
    """How many runs of each of these partitions are over, when the last one ended and when the last one failed."""
    records: dict[str, list[dg.RunRecord]] = defaultdict(list)
    if partition_keys:
        tags = {PARTITION_TAG: list(partition_keys)}
        for record in instance.get_run_records(dg.RunsFilter(statuses=_OVER, tags=tags)):
            records[record.dagster_run.tags[PARTITION_TAG]].append(record)
    return {
        key: PastRuns(
            count=len(over),
            last_end=max(_end(record) for record in over),
            last_failure=max(
                (_end(one) for one in over if one.dagster_run.status is not dg.DagsterRunStatus.SUCCESS), default=None
            ),
        )
        for key, over in records.items()
    }


def _end(record: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(record.end_time or record.create_timestamp.timestamp(), UTC)


def run_key(instance: dg.DagsterInstance, partition_key: str) -> str:
    """A key for the partition's next run: it counts those that there are.

    Dagster remembers a run key for ever: with the same key for every attempt, what failed once would never
    be tried again. Counting makes a tick that runs twice ask for the same run.
    """
    return f"{partition_key}:{instance.get_runs_count(dg.RunsFilter(tags={PARTITION_TAG: partition_key}))}"


def ended_runs(instance: dg.DagsterInstance, run_ids: Collection[str]) -> dict[str, str]:
    """Final status by run id, of those among these runs that are over."""
    if not run_ids:
        return {}
    runs = instance.get_runs(dg.RunsFilter(run_ids=list(run_ids), statuses=_OVER))
    return {run.run_id: run.status.value for run in runs}


def end_dead_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Mark a run whose process is gone as failed: Dagster's own launcher would leave it STARTED for ever."""
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_failed(run, "The process of this run is gone; moltpipe gave its work to a new run.")
