"""Waiting production jobs become runs.

Here: the sensor. Not here: which job is waiting and which run is dead (`studio.jobs`), what a claim is
(`ledger.jobs`).
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import dagster as dg

from moltpipe.defs.episodes import produce_episode
from moltpipe.defs.partitions import EPISODES, EPISODES_NAME
from moltpipe.defs.runs import PRIORITY_TAG, end_dead_run, ended_runs, past_runs, run_key, runs_in_flight
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import Superseded, claim_of, fail_job, fail_unclaimed_job, load_jobs, release_job
from moltpipe.settings import load_settings
from moltpipe.studio.dispatch import jobs_that_failed_at_the_door, jobs_to_give_back
from moltpipe.studio.jobs import jobs_to_run
from moltpipe.studio.records import Job

CLAIM_PATIENCE = timedelta(seconds=90)
"""A run claims its job within seconds of its start; one that is silent for so long has lost its process."""
RUNS_PER_TICK = 50


@dg.sensor(
    target=produce_episode,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Turns waiting production jobs into runs, and takes back those whose run died.",
)
def production_sensor(
    context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[Database]
) -> dg.SensorResult | dg.SkipReason:
    """The ledger says what waits, Dagster what runs; nothing is kept in a cursor."""
    now = datetime.now(UTC)
    with ledger.begin() as db:
        jobs = load_jobs(db)
    if _settle_ended_runs(context.instance, ledger, jobs, now):
        with ledger.begin() as db:
            jobs = load_jobs(db)
    if not jobs:
        return dg.SkipReason("no production job is unfinished")

    in_flight = runs_in_flight(context.instance, [job.partition_key for job in jobs])
    lease = timedelta(seconds=load_settings().lease_s)
    dispatch = jobs_to_run(jobs, in_flight, now, lease, CLAIM_PATIENCE)
    for run_id in dispatch.dead_runs:
        end_dead_run(context.instance, run_id)
    to_run = dispatch.to_run[:RUNS_PER_TICK]
    if not to_run:
        return dg.SkipReason(f"{len(jobs)} unfinished production jobs, none of them waits for a run")
    return dg.SensorResult(
        dynamic_partitions_requests=_missing_keys(context.instance, to_run),
        run_requests=[
            dg.RunRequest(
                partition_key=job.partition_key,
                run_key=run_key(context.instance, job.partition_key),
                tags={PRIORITY_TAG: str(job.priority)},
            )
            for job in to_run
        ],
    )


def _settle_ended_runs(instance: dg.DagsterInstance, ledger: Database, jobs: Sequence[Job], now: datetime) -> bool:
    """Give back the jobs of runs that ended without doing so, and count those that never got to claim theirs."""
    owners = [job.process_uuid for job in jobs if job.process_uuid is not None]
    given_back = jobs_to_give_back(jobs, ended_runs(instance, owners))
    unclaimed = jobs_that_failed_at_the_door(jobs, past_runs(instance, [job.partition_key for job in jobs]))
    for one in given_back:
        # Superseded: somebody else took the job in the meantime, which is all that this is for.
        with suppress(Superseded), ledger.begin() as db:
            if one.error is None:
                release_job(db, claim_of(one.job))
            else:
                fail_job(db, claim_of(one.job), one.error, now)
    for job in unclaimed:
        with ledger.begin() as db:
            fail_unclaimed_job(db, job, "the run ended before it could claim the episode: its log says why", now)
    return bool(given_back or unclaimed)


def _missing_keys(instance: dg.DagsterInstance, jobs: Sequence[Job]) -> list[dg.AddDynamicPartitionsRequest]:
    known = set(instance.get_dynamic_partitions(EPISODES_NAME))
    missing = [job.partition_key for job in jobs if job.partition_key not in known]
    return [EPISODES.build_add_request(missing)] if missing else []
