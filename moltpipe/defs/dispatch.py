"""Waiting production jobs become runs.

Here: the sensor. Not here: which job is waiting (`studio.jobs`), ending dead runs (`defs.reaper`), what a claim is
(`ledger.jobs`).
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import dagster as dg

from moltpipe.defs.episodes import produce_episode
from moltpipe.defs.partitions import EPISODES, EPISODES_NAME
from moltpipe.defs.runs import PRIORITY_TAG, ended_runs, failed_at_the_door, partitions_in_flight, run_key
from moltpipe.defs.voting import VotesNotClosed, close_votes
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import Superseded, claim_of, fail_job, fail_unclaimed_job, load_jobs, owned_jobs, release_job
from moltpipe.ledger.watching import ticked
from moltpipe.settings import load_settings
from moltpipe.studio.dispatch import jobs_that_failed_at_the_door, jobs_to_give_back
from moltpipe.studio.jobs import jobs_to_run
from moltpipe.studio.records import Job

RUNS_PER_TICK = 50


@dg.sensor(
    target=produce_episode,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Turns waiting production jobs into runs, and takes back those whose run is over.",
)
def production_sensor(
    context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[Database]
) -> dg.SensorResult | dg.SkipReason:
    """The ledger says what waits, Dagster what runs; nothing is kept in a cursor.

    Votes that are over are closed first: left to `period_sensor`, which looks in the same moment, a series would wait
    for another round of Dagster's sensors, five seconds. What cannot be closed keeps no episode from its run, and
    fails the ticks of that one.
    """
    closing = close_votes(context.instance, ledger, datetime.now(UTC))
    if closing.failures:
        context.log.error(str(VotesNotClosed(closing.failures)))
    now = datetime.now(UTC)
    with ledger.begin() as db:
        jobs, owned = load_jobs(db), owned_jobs(db)
        ticked(db, "production_sensor")
    if _settle_ended_runs(context.instance, ledger, jobs, owned, now):
        with ledger.begin() as db:
            jobs = load_jobs(db)
    if not jobs:
        return dg.SkipReason("no production job is unfinished")

    in_flight = partitions_in_flight(context.instance, [job.partition_key for job in jobs])
    lease = timedelta(seconds=load_settings().lease_s)
    to_run = jobs_to_run(jobs, in_flight, now, lease)[:RUNS_PER_TICK]
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


def _settle_ended_runs(
    instance: dg.DagsterInstance, ledger: Database, unfinished: Sequence[Job], owned: Sequence[Job], now: datetime
) -> bool:
    """Give back the jobs of runs that ended without doing so, and count those that never got to claim theirs."""
    owners = [job.process_uuid for job in owned if job.process_uuid is not None]
    settings = load_settings()
    lease, heartbeat = timedelta(seconds=settings.lease_s), timedelta(seconds=settings.heartbeat_s)
    given_back = jobs_to_give_back(owned, ended_runs(instance, owners), now, lease, heartbeat)
    unclaimed = jobs_that_failed_at_the_door(
        unfinished, failed_at_the_door(instance, [job.partition_key for job in unfinished])
    )
    for one in given_back:
        # Superseded: somebody else took the job in the meantime, which is all that this is for.
        with suppress(Superseded), ledger.begin() as db:
            if one.error is None:
                release_job(db, claim_of(one.job))
            else:
                fail_job(db, claim_of(one.job), one.error, now, lost=one.lost)
    for job in unclaimed:
        with ledger.begin() as db:
            fail_unclaimed_job(db, job, "the run ended before it could claim the episode: its log says why", now)
    return bool(given_back or unclaimed)


def _missing_keys(instance: dg.DagsterInstance, jobs: Sequence[Job]) -> list[dg.AddDynamicPartitionsRequest]:
    # One look per job of this tick: all keys of a large studio take a second to read.
    missing = [
        job.partition_key for job in jobs if not instance.has_dynamic_partition(EPISODES_NAME, job.partition_key)
    ]
    return [EPISODES.build_add_request(missing)] if missing else []
