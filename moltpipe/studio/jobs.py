"""Production jobs: who holds one, which are to run, and what each waits for.

Here: decisions over jobs and the runs in flight, pure, with `now` handed in. Not here: claiming and
giving back (`ledger.jobs`), launching and ending runs (`defs`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from moltpipe.studio.moments import spelled
from moltpipe.studio.records import Job

MAX_BACKOFF = timedelta(minutes=30)
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


@dataclass(frozen=True)
class RunInFlight:
    """A Dagster run that is not over, as the instance knows it."""

    run_id: str
    last_update: datetime
    """Its newest event, of any kind. The time of its last change of status will not do: that is its start,
    and a healthy run between its third and fourth step would look dead."""
    queued: bool = False
    """Not started yet: it waits for a place, and no process stands behind it that could have died."""


@dataclass(frozen=True)
class Dispatch:
    """What a tick is to do: end the dead runs, then start these jobs."""

    to_run: list[Job]
    dead_runs: list[str]
    """Run ids. Their processes are gone, but Dagster keeps such runs STARTED for ever."""


def backoff(attempt: int) -> timedelta:
    """Rest before the next attempt, after `attempt` of them failed: 1, 2, 4, 8, 16, then 30 minutes.

    Raises:
        ValueError: `attempt` is less than one.
    """
    if attempt < 1:
        raise ValueError(f"backoff after attempt {attempt}: expected the number of failed attempts, at least 1")
    return min(MAX_BACKOFF, timedelta(minutes=2 ** min(attempt - 1, _DOUBLINGS)))


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


def jobs_to_run(
    jobs: Iterable[Job],
    runs_in_flight: Mapping[str, Collection[RunInFlight]],
    now: datetime,
    lease: timedelta,
    claim_patience: timedelta,
) -> Dispatch:
    """Waiting jobs without a live run, the most urgent first, and the runs that are dead.

    `runs_in_flight` by partition key. A run is dead when its job's lease lapsed in its hands, or when it
    stands in the way of a waiting job and nothing was heard of it for `claim_patience`: its process died
    between launch and claim, or between two steps. Runs of jobs that wait for nothing are let be: one that
    has just completed or given back its job needs a moment to end.

    The incident behind it: jobs of a killed worker stayed `processing`, and the queue behind them stood
    still for ever.
    """
    to_run: list[Job] = []
    dead_runs: list[str] = []
    for job in sorted(jobs, key=lambda one: (-one.priority, one.available_at, one.partition_key)):
        runs = runs_in_flight.get(job.partition_key, ())
        dead = sorted(run.run_id for run in runs if _dead(run, job, now, lease, claim_patience))
        dead_runs += dead
        if waiting(job, now, lease) and len(dead) == len(runs):
            to_run.append(job)
    return Dispatch(to_run=to_run, dead_runs=dead_runs)


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


def _dead(run: RunInFlight, job: Job, now: datetime, lease: timedelta, claim_patience: timedelta) -> bool:
    if run.queued:
        return False
    owns = job.process_uuid == run.run_id
    if owns and lease_state(job, now, lease) is LeaseState.LAPSED:
        return True
    return waiting(job, now, lease) and now - run.last_update > claim_patience


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_ERROR else line[: _LONGEST_ERROR - 1] + "…"
