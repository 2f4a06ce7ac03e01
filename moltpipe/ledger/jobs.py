"""Production jobs: claimed, kept alive, finished or given back.

Here: the transactions around a claim. Not here: which job is to run next (`studio.jobs`). Leases are
measured by the clock of the database, since those of two machines differ; what a job waits for until its next
attempt is measured by the caller's.

The incident behind it: a job that was in progress when its process died stayed so for ever, and a worker that
was only slow wrote over the result of the one that had replaced it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger.production import load_episode
from moltpipe.ledger.schema import episodes, production_jobs
from moltpipe.ledger.text import storable
from moltpipe.studio.jobs import LeaseState, backoff, lease_state, rest_after_loss
from moltpipe.studio.moments import spelled
from moltpipe.studio.records import Claim, Job


class JobHeld(Exception):
    """Another process is at work on the episode."""

    def __init__(self, partition_key: str, by: str, since: datetime, heartbeat_at: datetime) -> None:
        super().__init__(
            f"{partition_key} is in the hands of run {by} since {spelled(since)}, which gave a sign of life at "
            f"{spelled(heartbeat_at)}: let it finish, or terminate it"
        )
        self.partition_key = partition_key
        self.by = by
        self.since = since
        self.heartbeat_at = heartbeat_at


class Superseded(Exception):
    """The job is no longer this process's: somebody took it over, or it was given back."""

    def __init__(self, partition_key: str, process_uuid: str) -> None:
        super().__init__(f"run {process_uuid} no longer holds {partition_key}: nothing more is written by it")
        self.partition_key = partition_key
        self.process_uuid = process_uuid


class JobMissing(Exception):
    """An episode has no production job: somebody deleted it."""

    def __init__(self, partition_key: str) -> None:
        super().__init__(f"{partition_key} has no production job: `moltpipe repair` makes it")
        self.partition_key = partition_key


def load_jobs(db: Connection, *, unfinished_only: bool = True) -> list[Job]:
    """Production jobs, the most urgent first."""
    statement = _jobs().order_by(
        production_jobs.c.priority.desc(), production_jobs.c.available_at, episodes.c.partition_key
    )
    if unfinished_only:
        statement = statement.where(production_jobs.c.completed_at.is_(None))
    return [_job(row) for row in db.execute(statement)]


def owned_jobs(db: Connection) -> list[Job]:
    """Production jobs that somebody owns, completed ones included: what is made anew is worked on under them."""
    return load_jobs_where(db, production_jobs.c.process_uuid.is_not(None))


def load_jobs_where(db: Connection, condition: sa.ColumnElement[bool]) -> list[Job]:
    """Production jobs of which this holds, finished or not."""
    return [_job(row) for row in db.execute(_jobs().where(condition).order_by(episodes.c.partition_key))]


def job_of_episode(db: Connection, partition_key: str) -> Job:
    """The production job of an episode.

    Raises:
        UnknownEpisode: no episode has this partition key.
        JobMissing: the episode has no job.
    """
    episode = load_episode(db, partition_key)
    row = db.execute(_of_episode(episode.id)).one_or_none()
    if row is None:
        raise JobMissing(partition_key)
    return _job(row)


def claim_of(job: Job) -> Claim:
    """The claim of the process that owns a job, to give the job back in its name.

    Raises:
        ValueError: nobody owns it.
    """
    if job.process_uuid is None:
        raise ValueError(f"{job.partition_key}: nobody owns this job")
    return Claim(job.id, job.episode_id, job.partition_key, job.process_uuid)


def claim_job(db: Connection, partition_key: str, process_uuid: str, lease: timedelta) -> Claim:
    """Take an episode's production job for a process, whatever the job's attempts, backoff or completion say.

    Those are for the sensor; who claims here was told to by an operator or by the sensor. Taking over from a
    process whose lease lapsed counts as a failed attempt of that process.

    Raises:
        UnknownEpisode: no episode has this partition key.
        JobMissing: the episode has no job.
        JobHeld: another process is at work on it.
    """
    episode = load_episode(db, partition_key)
    row = db.execute(_of_episode(episode.id).with_for_update(of=production_jobs)).one_or_none()
    if row is None:
        raise JobMissing(partition_key)
    job = _job(row)
    changes: dict[str, object] = {}
    if job.process_uuid is not None and job.process_uuid != process_uuid:
        changes = _take_over(job, job.process_uuid, clock_of(db), lease)
    db.execute(
        sa.update(production_jobs)
        .where(production_jobs.c.id == job.id)
        .values(
            process_uuid=process_uuid,
            claimed_at=job.claimed_at if job.process_uuid == process_uuid else sa.func.clock_timestamp(),
            heartbeat_at=sa.func.clock_timestamp(),
            **changes,
        )
    )
    return Claim(job.id, job.episode_id, partition_key, process_uuid)


def heartbeat(db: Connection, claim: Claim) -> bool:
    """Give a sign of life. False when the job is no longer this process's.

    A resting job stays at rest: a beat that comes late must not make it look as if somebody worked on it.
    """
    beat = sa.case((production_jobs.c.heartbeat_at.is_not(None), sa.func.clock_timestamp()))
    written = db.execute(
        sa.update(production_jobs)
        .where(production_jobs.c.id == claim.job_id, production_jobs.c.process_uuid == claim.process_uuid)
        .values(heartbeat_at=beat)
    )
    return bool(written.rowcount)


def still_mine(db: Connection, claim: Claim) -> Job:
    """Hold the job for the rest of the transaction, so that what is written now is written by its owner.

    Raises:
        Superseded: it is no longer this process's.
    """
    row = db.execute(
        _jobs().where(production_jobs.c.id == claim.job_id).with_for_update(of=production_jobs)
    ).one_or_none()
    if row is None or row.process_uuid != claim.process_uuid:
        raise Superseded(claim.partition_key, claim.process_uuid)
    return _job(row)


def rest_job(db: Connection, claim: Claim) -> None:
    """Stop the heartbeat between two steps of one run: the owner stays, and anybody may take over.

    Raises:
        Superseded: the job is no longer this process's.
    """
    still_mine(db, claim)
    _write(db, claim, heartbeat_at=None)


def complete_job(db: Connection, claim: Claim) -> None:
    """Finish the job: nothing is left to do for its episode.

    Raises:
        Superseded: the job is no longer this process's.
    """
    job = still_mine(db, claim)
    completed = {} if job.completed_at is not None else {"completed_at": sa.func.clock_timestamp()}
    _write(db, claim, **_NOBODY, **completed, last_error=None)


def fail_job(
    db: Connection, claim: Claim, error: str, now: datetime, *, for_good: bool = False, lost: bool = False
) -> None:
    """Give the job back after an attempt that failed, to be tried again after a rest, or by an operator alone.

    A completed job that was worked on again stays completed. `lost`: the process is gone, and nobody knows that it
    would have failed.

    Raises:
        Superseded: the job is no longer this process's.
    """
    job = still_mine(db, claim)
    attempts = max(job.attempt_count + 1, job.max_attempts if for_good else 0)
    rest = rest_after_loss(attempts) if lost else backoff(attempts)
    again = {} if job.completed_at else {"attempt_count": attempts, "available_at": now + rest}
    _write(db, claim, **_NOBODY, **again, last_error=storable(error))


def fail_unclaimed_job(db: Connection, job: Job, error: str, now: datetime) -> bool:
    """Count an attempt that ended before it could claim the job. False when the job has moved on since it was read."""
    written = db.execute(
        sa.update(production_jobs)
        .where(
            production_jobs.c.id == job.id,
            production_jobs.c.process_uuid.is_(None),
            production_jobs.c.completed_at.is_(None),
            production_jobs.c.attempt_count == job.attempt_count,
            production_jobs.c.available_at == job.available_at,
        )
        .values(
            attempt_count=job.attempt_count + 1,
            available_at=now + backoff(job.attempt_count + 1),
            last_error=storable(error),
        )
    )
    return bool(written.rowcount)


def give_back_lapsed(
    db: Connection, job_id: UUID, process_uuid: str, heartbeat_at: datetime, lease: timedelta, now: datetime
) -> bool:
    """Give back, as a failed attempt, a job whose owner gave no sign of life for a lease since `heartbeat_at`.

    Owner and heartbeat are those that the caller saw: a process that has given a sign of life since, or that took the
    job over, is never robbed.

    Returns:
        Whether it was given back; False when the job has moved on.
    """
    row = db.execute(_jobs().where(production_jobs.c.id == job_id).with_for_update(of=production_jobs)).one_or_none()
    if row is None or (row.process_uuid, row.heartbeat_at) != (process_uuid, heartbeat_at):
        return False
    job = _job(row)
    if lease_state(job, clock_of(db), lease) is not LeaseState.LAPSED:
        return False
    fail_job(db, claim_of(job), _lost(process_uuid, heartbeat_at), now, lost=True)
    return True


def reopen_job(db: Connection, job_id: UUID) -> bool:
    """Make a completed job unfinished again, with all of its attempts: something of its episode is gone.

    Who holds it keeps it.

    Returns:
        Whether it was completed.
    """
    written = db.execute(
        sa.update(production_jobs)
        .where(production_jobs.c.id == job_id, production_jobs.c.completed_at.is_not(None))
        .values(completed_at=None, attempt_count=0, available_at=sa.func.clock_timestamp())
    )
    return bool(written.rowcount)


def complete_idle_job(db: Connection, job_id: UUID) -> bool:
    """Finish a job that nobody holds and for whose episode nothing is left to do.

    Returns:
        Whether it was unfinished, and nobody's.
    """
    written = db.execute(
        sa.update(production_jobs)
        .where(
            production_jobs.c.id == job_id,
            production_jobs.c.process_uuid.is_(None),
            production_jobs.c.completed_at.is_(None),
        )
        .values(completed_at=sa.func.clock_timestamp(), last_error=None)
    )
    return bool(written.rowcount)


def release_job(db: Connection, claim: Claim) -> None:
    """Give the job back without an attempt: an operator ended the run, or it stopped before the last stage.

    Raises:
        Superseded: the job is no longer this process's.
    """
    still_mine(db, claim)
    _write(db, claim, **_NOBODY)


def postpone_job(db: Connection, claim: Claim, until: datetime, why: str) -> None:
    """Give the job back without an attempt, to be taken up again at `until`: a budget or a provider says not yet.

    A completed job that was worked on again stays completed.

    Raises:
        Superseded: the job is no longer this process's.
    """
    job = still_mine(db, claim)
    again = {} if job.completed_at else {"available_at": until}
    _write(db, claim, **_NOBODY, **again, last_error=storable(why))


def completed_episodes(db: Connection, partition_keys: Collection[str]) -> dict[str, datetime]:
    """When the jobs of those of these episodes that are completed were so, by partition key."""
    rows = db.execute(
        sa.select(episodes.c.partition_key, production_jobs.c.completed_at)
        .join(production_jobs, production_jobs.c.episode_id == episodes.c.id)
        .where(episodes.c.partition_key.in_(partition_keys), production_jobs.c.completed_at.is_not(None))
    )
    return {row.partition_key: row.completed_at for row in rows}


def resume_jobs_of(db: Connection, episode_id: UUID) -> int:
    """Make the unfinished job of an episode available now, with all of its attempts. Who holds it keeps it.

    Returns:
        How many jobs that were.
    """
    written = db.execute(
        sa.update(production_jobs)
        .where(production_jobs.c.episode_id == episode_id, production_jobs.c.completed_at.is_(None))
        .values(attempt_count=0, available_at=sa.func.clock_timestamp())
    )
    return written.rowcount


_NOBODY: dict[str, object] = {"process_uuid": None, "claimed_at": None, "heartbeat_at": None}


def _take_over(job: Job, owner: str, now: datetime, lease: timedelta) -> dict[str, object]:
    """What changes beside the owner when a job passes from another process to this one."""
    state = lease_state(job, now, lease)
    if job.heartbeat_at is None or state is LeaseState.RESTING:
        return {}
    if state is LeaseState.HELD:
        raise JobHeld(job.partition_key, owner, job.claimed_at or job.heartbeat_at, job.heartbeat_at)
    lost = _lost(owner, job.heartbeat_at)
    return {"last_error": lost} if job.completed_at else {"last_error": lost, "attempt_count": job.attempt_count + 1}


def _lost(owner: str, heartbeat_at: datetime) -> str:
    return f"run {owner} was lost: no sign of life since {spelled(heartbeat_at)}"


def _write(db: Connection, claim: Claim, **values: object) -> None:
    db.execute(sa.update(production_jobs).where(production_jobs.c.id == claim.job_id).values(**values))


def clock_of(db: Connection) -> datetime:
    """What time it is by the clock that the ledger writes times with."""
    now: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return now


def _jobs() -> sa.Select[Any]:
    return sa.select(production_jobs, episodes.c.partition_key).join(
        episodes, episodes.c.id == production_jobs.c.episode_id
    )


def _of_episode(episode_id: UUID) -> sa.Select[Any]:
    """An episode's job, one that is unfinished first."""
    return (
        _jobs()
        .where(production_jobs.c.episode_id == episode_id)
        .order_by(production_jobs.c.completed_at.nulls_first(), production_jobs.c.id)
        .limit(1)
    )


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        episode_id=row.episode_id,
        partition_key=row.partition_key,
        job_type=row.job_type,
        priority=row.priority,
        process_uuid=row.process_uuid,
        attempt_count=row.attempt_count,
        max_attempts=row.max_attempts,
        available_at=row.available_at,
        claimed_at=row.claimed_at,
        heartbeat_at=row.heartbeat_at,
        completed_at=row.completed_at,
        last_error=row.last_error,
    )
