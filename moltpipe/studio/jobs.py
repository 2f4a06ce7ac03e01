"""Production jobs: who holds one, which are to run, and what each waits for.

Here: decisions over jobs, pure, with `now` handed in. Not here: claiming and giving back (`ledger.jobs`), which runs
are dead (`studio.dispatch`), launching them (`defs`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from moltpipe.studio.moments import spelled
from moltpipe.studio.records import Job

MAX_BACKOFF = timedelta(minutes=30)
REST_AFTER_A_LOSS = timedelta(seconds=10)
"""Long enough for the dead run to be ended in Dagster before the job is available again: a run that ended badly since
then, and never got to its work, counts as one more attempt."""
_DOUBLINGS = 5
_LONGEST_ERROR = 600


class LeaseState(StrEnum):
    """Who has a production job."""

    FREE = "free"
    HELD = "held"
    LAPSED = "lapsed"
    """Its process stopped its heartbeat without a word."""
    RESTING = "resting"
    """Its run is between two steps: the owner stays, and any process may take over."""


def backoff(attempt: int) -> timedelta:
    """Rest before the next attempt, after `attempt` of them failed: 1, 2, 4, 8, 16, then 30 minutes.

    Raises:
        ValueError: `attempt` is less than one.
    """
    if attempt < 1:
        raise ValueError(f"backoff after attempt {attempt}: expected the number of failed attempts, at least 1")
    return min(MAX_BACKOFF, timedelta(minutes=2 ** min(attempt - 1, _DOUBLINGS)))


def rest_after_loss(attempt: int) -> timedelta:
    """Rest after the process of the `attempt`th attempt was lost: short at first, and then as after a failure.

    One that is lost says nothing about its episode: the power went, a neighbour took the memory, somebody deployed. One
    that is lost again probably does.

    Raises:
        ValueError: `attempt` is less than one.
    """
    return REST_AFTER_A_LOSS if attempt == 1 else backoff(attempt)


def lease_state(job: Job, now: datetime, lease: timedelta) -> LeaseState:
    """Who has the job at this moment."""
    if job.process_uuid is None:
        return LeaseState.FREE
    if job.heartbeat_at is None:
        return LeaseState.RESTING
    return LeaseState.LAPSED if now - job.heartbeat_at > lease else LeaseState.HELD


def waiting(job: Job, now: datetime, lease: timedelta) -> bool:
    """Whether the job is to be worked on and nobody is at it."""
    return (
        job.completed_at is None
        and job.attempt_count < job.max_attempts
        and job.available_at <= now
        and lease_state(job, now, lease) is not LeaseState.HELD
    )


def jobs_to_run(jobs: Iterable[Job], in_flight: Collection[str], now: datetime, lease: timedelta) -> list[Job]:
    """Waiting jobs without a run, the most urgent first. `in_flight`: partition keys with a run that is not over.

    A run that stands in the way of a waiting job is waited for, dead or alive: whether it is dead is one decision, in
    one place (`studio.dispatch.dead_runs`).
    """
    free = [job for job in jobs if job.partition_key not in in_flight and waiting(job, now, lease)]
    return sorted(free, key=lambda one: (-one.priority, one.available_at, one.partition_key))


def waiting_for(job: Job, state: LeaseState, now: datetime, undecided_call: UUID | None = None) -> str | None:
    """What the job waits for, for the operator; None once it is completed.

    `undecided_call` is a call for its episode of which nobody knows whether the engine accepted it: until a person
    has decided, no attempt can finish the episode.
    """
    if job.completed_at is not None:
        return None
    match state:
        case LeaseState.HELD:
            return f"run {job.process_uuid}"
        case LeaseState.RESTING:
            return f"run {job.process_uuid}, which is between two steps"
        case LeaseState.FREE | LeaseState.LAPSED:
            return _unheld(job, now) if undecided_call is None else _a_person(undecided_call)


def _a_person(call_id: UUID) -> str:
    return (
        f"a person: call {call_id} may have been accepted, and is not sent again by itself: "
        f"`moltpipe repair --resubmit {call_id}` or `--give-up {call_id}`"
    )


def _unheld(job: Job, now: datetime) -> str:
    error = _one_line(job.last_error) if job.last_error else "no error recorded"
    if job.attempt_count >= job.max_attempts:
        return f"an operator: {job.attempt_count} of {job.max_attempts} attempts failed, the last with: {error}"
    if job.process_uuid is not None and job.heartbeat_at is not None:
        return f"a new run: nothing was heard of run {job.process_uuid} since {spelled(job.heartbeat_at)}"
    if job.available_at > now:
        return f"retry at {spelled(job.available_at)} after: {error}"
    return "a free run"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_ERROR else line[: _LONGEST_ERROR - 1] + "…"
