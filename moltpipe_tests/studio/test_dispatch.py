"""Which closings and jobs become runs, and whose jobs are given back."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.dispatch import (
    CLOSING_PATIENCE,
    PastRuns,
    closings_to_request,
    jobs_that_failed_at_the_door,
    jobs_to_give_back,
)
from moltpipe.studio.jobs import RunInFlight
from moltpipe_tests.studio.making import NOON as NOW
from moltpipe_tests.studio.making import job

KEY = "20260209-0000z-aaaaaaaa"


def test_a_due_period_without_a_run_is_closed() -> None:
    assert closings_to_request([KEY], {}, {}, NOW).to_request == [KEY]


def test_a_closing_under_way_is_waited_for() -> None:
    run = RunInFlight("a-run", last_update=NOW - timedelta(seconds=2))
    closings = closings_to_request([KEY], {KEY: [run]}, {}, NOW)
    assert (closings.to_request, closings.dead_runs) == ([], [])


def test_a_closing_whose_process_is_gone_is_ended_and_tried_again() -> None:
    run = RunInFlight("a-run", last_update=NOW - CLOSING_PATIENCE - timedelta(seconds=1))
    closings = closings_to_request([KEY], {KEY: [run]}, {}, NOW)
    assert (closings.to_request, closings.dead_runs) == ([KEY], ["a-run"])


def test_a_closing_that_waits_in_the_queue_is_not_dead() -> None:
    run = RunInFlight("a-run", last_update=NOW - timedelta(hours=1), queued=True)
    closings = closings_to_request([KEY], {KEY: [run]}, {}, NOW)
    assert (closings.to_request, closings.dead_runs) == ([], [])


@given(st.integers(min_value=1, max_value=1_000))
def test_a_closing_that_fails_is_tried_for_ever_at_least_every_five_minutes(failures: int) -> None:
    just_failed = {KEY: PastRuns(failures, last_end=NOW - timedelta(seconds=1))}
    assert closings_to_request([KEY], {}, just_failed, NOW).to_request == []
    rested = {KEY: PastRuns(failures, last_end=NOW - timedelta(minutes=5))}
    assert closings_to_request([KEY], {}, rested, NOW).to_request == [KEY]


def test_a_job_of_a_terminated_run_is_given_back_as_an_attempt() -> None:
    one = job(owner="a-run")
    (given_back,) = jobs_to_give_back([one], {"a-run": "CANCELED"})
    assert given_back.job == one
    assert "CANCELED" in (given_back.error or "")


def test_a_job_of_a_run_that_stopped_before_the_last_stage_is_given_back_without_one() -> None:
    (given_back,) = jobs_to_give_back([job(owner="a-run")], {"a-run": "SUCCESS"})
    assert given_back.error is None


def test_a_job_of_a_run_that_goes_on_is_left_alone() -> None:
    assert jobs_to_give_back([job(owner="a-run"), job()], {"another-run": "FAILURE"}) == []


def test_a_run_that_failed_before_its_claim_is_found() -> None:
    one = job()
    past = {one.partition_key: PastRuns(1, last_end=NOW, last_failure=NOW - timedelta(seconds=1))}
    assert jobs_that_failed_at_the_door([one], past) == [one]


def test_a_failure_that_was_counted_is_not_counted_again() -> None:
    """Counting moves `available_at` past the run's end."""
    one = job(attempts=1, available_at=NOW + timedelta(minutes=1))
    past = {one.partition_key: PastRuns(1, last_end=NOW, last_failure=NOW - timedelta(seconds=1))}
    assert jobs_that_failed_at_the_door([one], past) == []


def test_a_run_that_succeeded_without_finishing_the_episode_is_no_failure() -> None:
    one = job()
    assert jobs_that_failed_at_the_door([one], {one.partition_key: PastRuns(1, last_end=NOW)}) == []


def test_a_job_in_somebodys_hands_has_not_failed_at_the_door() -> None:
    one = job(owner="a-run")
    past = {one.partition_key: PastRuns(1, last_end=NOW, last_failure=NOW)}
    assert jobs_that_failed_at_the_door([one], past) == []
