from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.jobs import (
    REST_AFTER_A_LOSS,
    LeaseState,
    backoff,
    jobs_to_run,
    lease_state,
    rest_after_loss,
    waiting,
    waiting_for,
)
from moltpipe.studio.records import Job
from moltpipe_tests.studio.making import NOON, job

LEASE = timedelta(seconds=60)
SECOND = timedelta(seconds=1)
KEY = "the-kettle-e01"


def dispatched(one: Job, *in_flight: str) -> bool:
    return jobs_to_run([one], set(in_flight), NOON, LEASE) == [one]


def test_the_rest_doubles_from_a_minute_to_half_an_hour() -> None:
    minutes = [backoff(attempt) / timedelta(minutes=1) for attempt in range(1, 8)]
    assert minutes == [1, 2, 4, 8, 16, 30, 30]


@given(attempt=st.integers(1, 10**9))
def test_the_rest_never_shrinks_and_never_exceeds_half_an_hour(attempt: int) -> None:
    assert timedelta(minutes=1) <= backoff(attempt) <= backoff(attempt + 1) <= timedelta(minutes=30)


def test_what_is_lost_goes_on_soon_and_what_is_lost_again_rests_as_after_a_failure() -> None:
    assert rest_after_loss(1) == REST_AFTER_A_LOSS < backoff(1)
    assert [rest_after_loss(attempt) for attempt in range(2, 8)] == [backoff(attempt) for attempt in range(2, 8)]


@pytest.mark.parametrize("rest", [backoff, rest_after_loss])
def test_there_is_no_rest_before_the_first_failure(rest: Callable[[int], timedelta]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        rest(0)


@pytest.mark.parametrize(
    ("one", "state", "is_waiting"),
    [
        (job(), LeaseState.FREE, True),
        (job(owner="run-1", heartbeat_ago=LEASE), LeaseState.HELD, False),
        (job(owner="run-1", heartbeat_ago=LEASE + SECOND), LeaseState.LAPSED, True),
        (job(owner="run-1"), LeaseState.RESTING, True),
        (job(available_at=NOON), LeaseState.FREE, True),
        (job(available_at=NOON + SECOND), LeaseState.FREE, False),
        (job(attempts=2), LeaseState.FREE, True),
        (job(attempts=3), LeaseState.FREE, False),
        (job(completed=True), LeaseState.FREE, False),
    ],
)
def test_a_job_waits_when_it_is_due_has_attempts_left_and_nobody_holds_it(
    one: Job, state: LeaseState, *, is_waiting: bool
) -> None:
    assert lease_state(one, NOON, LEASE) is state
    assert waiting(one, NOON, LEASE) is is_waiting
    assert dispatched(one) is is_waiting


def test_a_heartbeat_from_a_clock_that_runs_ahead_holds_the_job() -> None:
    assert lease_state(job(owner="run-1", heartbeat_ago=-timedelta(minutes=5)), NOON, LEASE) is LeaseState.HELD


def test_a_job_with_a_run_is_not_run_again_be_it_dead_or_alive() -> None:
    assert not dispatched(job(), KEY)
    assert not dispatched(job(owner="run-1", heartbeat_ago=timedelta(hours=1)), KEY)
    assert dispatched(job(), "another-e01")


def test_the_most_urgent_job_runs_first_and_then_the_one_that_waits_longest() -> None:
    pilot = job("pilot-e01", priority=100, available_at=NOON)
    older = job("older-e02", available_at=NOON - timedelta(hours=2))
    newer = job("newer-e02")
    assert jobs_to_run([newer, older, pilot], set(), NOON, LEASE) == [pilot, older, newer]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (job(), "a free run"),
        (job(owner="run-1", heartbeat_ago=SECOND), "run run-1"),
        (job(owner="run-1"), "run run-1, which is between two steps"),
        (
            job(owner="run-1", heartbeat_ago=timedelta(minutes=2)),
            "a new run: nothing was heard of run run-1 since 2026-02-09 11:58:00 UTC",
        ),
        (
            job(attempts=1, available_at=NOON + timedelta(minutes=1), last_error="no\n  voice"),
            "retry at 2026-02-09 12:01:00 UTC after: no voice",
        ),
        (
            job(attempts=3, last_error="x" * 900),
            f"an operator: 3 of 3 attempts failed, the last with: {'x' * 599}…",
        ),
        (job(completed=True), None),
    ],
)
def test_the_operator_is_told_what_a_job_waits_for(one: Job, words: str | None) -> None:
    assert waiting_for(one, lease_state(one, NOON, LEASE), NOON) == words


@pytest.mark.parametrize(
    "one",
    [
        job(),
        job(attempts=3, last_error="no answer"),
        job(attempts=1, available_at=NOON + SECOND),
        job(owner="run-1", heartbeat_ago=timedelta(minutes=2)),
    ],
)
def test_a_job_that_no_attempt_can_finish_waits_for_a_person(one: Job) -> None:
    call = UUID(int=7)
    words = waiting_for(one, lease_state(one, NOON, LEASE), NOON, call) or ""
    assert words.startswith(f"a person: call {call} may have been accepted")
    assert f"--resubmit {call}" in words
    assert f"--give-up {call}" in words


def test_a_run_that_is_at_work_comes_before_the_person() -> None:
    held = job(owner="run-1", heartbeat_ago=SECOND)
    assert waiting_for(held, LeaseState.HELD, NOON, UUID(int=7)) == "run run-1"
    assert waiting_for(job(completed=True), LeaseState.FREE, NOON, UUID(int=7)) is None
