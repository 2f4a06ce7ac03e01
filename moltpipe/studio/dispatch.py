"""When a closing becomes a run, and whose production job is given back: decisions over ledger and Dagster.

Here: pure functions beside `studio.jobs`. Not here: the sensors around them (`defs`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from moltpipe.studio.jobs import RunInFlight
from moltpipe.studio.records import Job

CLOSING_PATIENCE = timedelta(seconds=60)
"""A closing takes a second; a run of one that was not heard of for so long has lost its process."""
_PAUSE = timedelta(seconds=5)
_PAUSE_AT_MOST = timedelta(minutes=5)
_DOUBLINGS = 6


@dataclass(frozen=True)
class PastRuns:
    """The runs of a partition that are over."""

    count: int
    last_end: datetime
    last_failure: datetime | None = None
    """When the latest of those that did not succeed ended."""


@dataclass(frozen=True)
class Closings:
    """What a tick is to do: end the dead runs, then close these periods."""

    to_request: list[str]
    """Partition keys."""
    dead_runs: list[str]
    """Run ids."""


def closings_to_request(
    due: Sequence[str],
    in_flight: Mapping[str, Collection[RunInFlight]],
    past: Mapping[str, PastRuns],
    now: datetime,
) -> Closings:
    """Due periods without a live run, those whose run failed before after a growing pause.

    A closing that fails is tried for ever: a period that is over and stays open is the one state that must
    not be left to a person who may not look.
    """
    to_request, dead_runs = [], []
    for key in due:
        runs = in_flight.get(key, ())
        dead = [run.run_id for run in runs if not run.queued and now - run.last_update > CLOSING_PATIENCE]
        dead_runs += dead
        if len(dead) == len(runs) and (key not in past or now - past[key].last_end >= _pause(past[key].count)):
            to_request.append(key)
    return Closings(to_request, dead_runs)


def _pause(failures: int) -> timedelta:
    return min(_PAUSE_AT_MOST, _PAUSE * int(2 ** min(failures - 1, _DOUBLINGS)))


@dataclass(frozen=True)
class GivenBack:
    """A job whose owner's run is over without having given it back itself."""

    job: Job
    error: str | None
    """Why it counts as an attempt; None when the run ended well and simply did not go on to the last stage."""


def jobs_to_give_back(jobs: Iterable[Job], ended_runs: Mapping[str, str]) -> list[GivenBack]:
    """Jobs that are owned by a run that has ended. `ended_runs`: Dagster's final status by run id.

    A run that fails gives its job back itself; this is for one that was terminated by an operator, or
    whose process died and was noticed by Dagster. Without it such a job waits until its lease runs out.
    """
    return [
        GivenBack(
            job=job,
            error=None
            if status == "SUCCESS"
            else f"run {job.process_uuid} ended as {status} without giving the job back",
        )
        for job in jobs
        if job.process_uuid is not None and (status := ended_runs.get(job.process_uuid)) is not None
    ]


def jobs_that_failed_at_the_door(jobs: Iterable[Job], past: Mapping[str, PastRuns]) -> list[Job]:
    """Jobs nobody owns whose latest run ended badly since they became available: it never got to claim them.

    A run that fails at its work gives its job back with a rest, so the job becomes available after the run's
    end. One that fails before, because its resources do not open, leaves no trace in the ledger. The incident
    behind it: our own first demo started two hundred runs in eight minutes, each of which failed at the door.
    """
    return [
        job
        for job in jobs
        if job.process_uuid is None
        and job.completed_at is None
        and (runs := past.get(job.partition_key)) is not None
        and runs.last_failure is not None
        and runs.last_failure > job.available_at
    ]
