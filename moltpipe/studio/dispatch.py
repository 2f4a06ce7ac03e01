"""Which runs are dead, and whose production job is given back: over ledger and Dagster.

Here: pure functions beside `studio.jobs`. Not here: the sensors around them (`defs`).

The incidents behind it: jobs of a killed worker stayed `processing`, and the queue behind them stood still for ever.
Under Dagster's own launcher a run whose process died stays STARTED for ever, with its place in the pool.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from moltpipe.studio.jobs import LeaseState, lease_state
from moltpipe.studio.records import Job

HEARD_AGAIN_EVERY = timedelta(seconds=30)
"""Who has not looked for so long was away, and so was perhaps everybody who had something to say."""


@dataclass(frozen=True)
class WorkingRun:
    """A Dagster run behind which a process should stand."""

    run_id: str
    last_event: datetime
    """Its newest event, of any kind. The time of its last change of status will not do: that is its start, and a
    healthy run between its third and fourth step would look dead."""
    patience: timedelta
    """How long it may be silent in its state without a heartbeat."""


@dataclass(frozen=True)
class DeadRun:
    """A run whose process is gone, with the jobs that it owns."""

    run_id: str
    jobs: tuple[Job, ...]
    why: str


@dataclass(frozen=True)
class Listening:
    """Since when somebody has looked for signs of life without a gap."""

    since: datetime
    last: datetime

    @classmethod
    def after(cls, before: Listening | None, now: datetime) -> Listening:
        """What this look makes of the one before; None when that is not known."""
        kept = before is not None and timedelta() <= now - before.last <= HEARD_AGAIN_EVERY
        return cls(before.since if before is not None and kept else now, now)


def dead_runs(
    runs: Iterable[WorkingRun],
    jobs: Iterable[Job],
    listening: Listening,
    clock: datetime,
    lease: timedelta,
    heartbeat: timedelta,
) -> list[DeadRun]:
    """Runs whose process is gone. `jobs`: those that these runs own, `clock`: what the ledger's clock says.

    Hearts beat by the ledger's clock: by that of a machine that is a lease ahead of it, every run would be dead.

    A run whose heart beats in any of its jobs is alive, however long it works without a word. One whose lease has
    lapsed is dead, and so is one that owns nothing, or lets it rest between two steps, and was silent for its patience:
    it died between launch and claim, or between steps, or is not about an episode.

    Nobody is dead for having been silent while nobody could be heard: after the database was away, every living run
    gets the time for two beats.
    """
    if listening.last - listening.since < 2 * heartbeat:
        return []
    owned: dict[str, list[Job]] = {}
    for job in jobs:
        if job.process_uuid is not None:
            owned.setdefault(job.process_uuid, []).append(job)
    dead = []
    for run in runs:
        mine = tuple(owned.get(run.run_id, ()))
        why = _why_dead(run, mine, listening.last, clock, lease)
        if why is not None:
            dead.append(DeadRun(run.run_id, mine, why))
    return dead


def _why_dead(run: WorkingRun, jobs: Collection[Job], now: datetime, clock: datetime, lease: timedelta) -> str | None:
    states = {lease_state(job, clock, lease) for job in jobs}
    if LeaseState.HELD in states:
        return None
    if LeaseState.LAPSED in states:
        return f"its heart has not beaten for more than {lease / timedelta(seconds=1):g} s"
    silent = now - run.last_event
    if silent > run.patience:
        return f"nothing was heard of it for {silent / timedelta(seconds=1):.0f} s"
    return None


@dataclass(frozen=True)
class EndedRun:
    """A run that is over, as far as Dagster knows."""

    status: str
    """Dagster's word for how it ended."""
    at: datetime


@dataclass(frozen=True)
class GivenBack:
    """A job whose owner's run is over without having given it back itself."""

    job: Job
    error: str | None
    """Why it counts as an attempt; None when the run ended well and simply did not go on to the last stage."""
    lost: bool
    """Whether its process died; else somebody ended the run, who has a reason."""


def jobs_to_give_back(
    jobs: Iterable[Job], ended_runs: Mapping[str, EndedRun], now: datetime, lease: timedelta, heartbeat: timedelta
) -> list[GivenBack]:
    """Jobs that are owned by a run that has ended, by run id, and by no process any more.

    A run that fails gives its job back itself; this is for one that was terminated by an operator, or
    whose process died and was noticed by Dagster. Without it such a job waits until its lease runs out.

    Dagster's word is not enough. Two daemons launched one run twice: the second process saw that and left, the second
    code server took that for the end of the run and marked it as failed, and the first process was hard at work. So a
    heart that beats after the end of its run keeps the job, and every run gets the time for two beats.
    """
    given_back = []
    for job in jobs:
        ended = ended_runs.get(job.process_uuid) if job.process_uuid is not None else None
        if ended is None or _still_at_work(job, ended, now, lease, heartbeat):
            continue
        error = None
        if ended.status != "SUCCESS":
            error = f"run {job.process_uuid} ended as {ended.status} without giving the job back"
        given_back.append(GivenBack(job, error, lost=ended.status == "FAILURE"))
    return given_back


def _still_at_work(job: Job, ended: EndedRun, now: datetime, lease: timedelta, heartbeat: timedelta) -> bool:
    if now - ended.at < 2 * heartbeat:
        return True
    beats = job.heartbeat_at is not None and job.heartbeat_at > ended.at
    return beats and lease_state(job, now, lease) is LeaseState.HELD


def jobs_that_failed_at_the_door(jobs: Iterable[Job], failed_at: Mapping[str, datetime]) -> list[Job]:
    """Jobs nobody owns, with a run that ended badly since they became available and never got to claim them.

    One that fails before its claim, because its resources do not open, leaves no trace in the ledger. The incident
    behind it: our own first demo started two hundred runs in eight minutes, each of which failed at the door.

    Args:
        jobs: Unfinished ones.
        failed_at: When the latest run of a partition ended that never got to its work, by partition key.
    """
    return [
        job
        for job in jobs
        if job.process_uuid is None
        and job.completed_at is None
        and (failed := failed_at.get(job.partition_key)) is not None
        and failed > job.available_at
    ]
