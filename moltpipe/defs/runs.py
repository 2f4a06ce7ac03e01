"""What Dagster knows of the runs of a partition, in the words of `studio.dispatch`.

Here: reading runs, and ending those whose process is gone. Runs are found by their partition, whoever
launched them: a sensor, a backfill or a person in the launchpad.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from moltpipe.studio.dispatch import EndedRun, WorkingRun

PARTITION_TAG = "dagster/partition"
PRIORITY_TAG = "dagster/priority"
HELD_TAG = "moltpipe/held_by"
"""On a run that found its episode in the hands of another: it failed at nothing."""
CLAIMED_TAG = "moltpipe/claimed"
"""On a run that got to claim its episode: what became of that is in the ledger, by its own hand or by that of whoever
took the job over."""
_FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_OVER = (dg.DagsterRunStatus.SUCCESS, *_FAILED)
_IN_FLIGHT = tuple(status for status in dg.DagsterRunStatus if status not in _OVER)
_WORKING = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
_ASSET_JOB = "__ASSET_JOB"
"""Dagster's name for the job of runs in which assets or checks were picked by hand."""
_SILENCE = timedelta(seconds=60)
"""A run claims its episode within seconds of its start and between two steps; a closing takes one."""
_LAUNCH = {"local": timedelta(seconds=90), "celery": timedelta(minutes=3)}
"""How long a run may take to come up, by launcher: a process on this machine takes seconds. A Celery worker's as well,
but a worker that dies with a run in hand leaves it to the broker until another has a place. A pod may have to wait for
a node and an image, for as long as the deployment's limit says."""


def partitions_in_flight(instance: dg.DagsterInstance, partition_keys: Sequence[str]) -> set[str]:
    """Those of these partitions that have a run which is not over."""
    if not partition_keys:
        return set()
    runs = instance.get_runs(dg.RunsFilter(statuses=_IN_FLIGHT, tags={PARTITION_TAG: list(partition_keys)}))
    return {run.tags[PARTITION_TAG] for run in runs}


def working_runs(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, launcher: str) -> list[WorkingRun]:
    """The runs of this repository behind which a process should stand, with when each was last heard of.

    The launcher goes by its name: the process that asks may lack what another needs to build it, such as the right to
    speak to a Kubernetes cluster.

    Those in the queue are none, and those of other code locations are not ours to judge.
    """
    return [
        WorkingRun(run.run_id, _last_heard_of(instance, run.run_id), _patience(instance, run.status, launcher))
        for run in instance.get_runs(dg.RunsFilter(statuses=_WORKING))
        if _ours(run, repository)
    ]


def _ours(run: dg.DagsterRun, repository: dg.RepositoryDefinition) -> bool:
    if run.job_name != _ASSET_JOB:
        return repository.has_job(run.job_name)
    graph = repository.asset_graph
    assets, checks = run.asset_selection or set(), run.asset_check_selection or set()
    return assets <= graph.get_all_asset_keys() and checks <= graph.asset_check_keys


def _patience(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, launcher: str) -> timedelta:
    if status is dg.DagsterRunStatus.STARTING:
        return _LAUNCH.get(launcher) or timedelta(seconds=instance.run_monitoring_start_timeout_seconds)
    return _SILENCE


def _last_heard_of(instance: dg.DagsterInstance, run_id: str) -> datetime:
    """Time of the run's newest event, of whatever kind. A run without events is new."""
    newest = instance.get_records_for_run(run_id, limit=1, ascending=False).records
    return datetime.fromtimestamp(newest[0].timestamp, UTC) if newest else datetime.now(UTC)


def failed_at_the_door(instance: dg.DagsterInstance, partition_keys: Sequence[str]) -> dict[str, datetime]:
    """When the latest run of each of these partitions ended that never got to its work; those without one are left out.

    One that found its episode in other hands failed at nothing: the other one works. Nor did one that has claimed it:
    a failure at the work is counted in the ledger, and a process that was told to stop gave the job back as it was.
    """
    failed: dict[str, datetime] = {}
    if partition_keys:
        tags = {PARTITION_TAG: list(partition_keys)}
        for record in instance.get_run_records(dg.RunsFilter(statuses=_FAILED, tags=tags)):
            run = record.dagster_run
            if not {HELD_TAG, CLAIMED_TAG} & run.tags.keys():
                key, ended = run.tags[PARTITION_TAG], _end(record)
                failed[key] = max(ended, failed.get(key, ended))
    return failed


def _end(record: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(record.end_time or record.create_timestamp.timestamp(), UTC)


def run_key(instance: dg.DagsterInstance, partition_key: str) -> str:
    """A key for the partition's next run: the one after its newest run.

    Dagster starts no run under a key that a run has already: with the same key for every attempt, what failed once
    would never be tried again. A tick that runs twice finds the same newest run, and asks for the same one.

    The trap behind it: the key counted the partition's runs. Once old ones were deleted, by retention or by a person,
    it came to a number that a younger run had, and Dagster dropped the request, tick after tick, for ever. A run whose
    key names the newest one came after that, so while it is there, that one is not the newest.
    """
    newest = instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: partition_key}), limit=1)
    return f"{partition_key}:{newest[0].run_id if newest else 'first'}"


def ended_runs(instance: dg.DagsterInstance, run_ids: Collection[str]) -> dict[str, EndedRun]:
    """How and when those among these runs ended that are over, by run id."""
    if not run_ids:
        return {}
    records = instance.get_run_records(dg.RunsFilter(run_ids=list(run_ids), statuses=_OVER))
    return {one.dagster_run.run_id: EndedRun(one.dagster_run.status.value, _end(one)) for one in records}


def end_dead_run(instance: dg.DagsterInstance, run_id: str, why: str) -> bool:
    """End a run whose process is gone: Dagster's own launcher would leave it as it is for ever.

    One that somebody was terminating ends as that.

    Returns:
        Whether it was not over yet.
    """
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return False
    said = f"The process of this run is gone: {why}. moltpipe gives its work to a new run."
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, said)
    else:
        instance.report_run_failed(run, said)
    return True
