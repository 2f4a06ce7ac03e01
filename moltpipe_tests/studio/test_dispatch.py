"""Which runs are dead, and whose jobs are given back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from moltpipe.studio.dispatch import (
    HEARD_AGAIN_EVERY,
    DeadRun,
    EndedRun,
    GivenBack,
    Listening,
    WorkingRun,
    dead_runs,
    jobs_that_failed_at_the_door,
    jobs_to_give_back,
)
from moltpipe.studio.records import Job
from moltpipe_tests.studio.making import NOON as NOW
from moltpipe_tests.studio.making import job

KEY = "20260209-0000z-aaaaaaaa"
SECOND = timedelta(seconds=1)
LEASE = 60 * SECOND
HEARTBEAT = 5 * SECOND
PATIENCE = 90 * SECOND
ALL_ALONG = Listening(since=NOW - timedelta(days=1), last=NOW)


def run(run_id: str = "run-1", *, silent_for: timedelta = SECOND) -> WorkingRun:
    return WorkingRun(run_id, last_event=NOW - silent_for, patience=PATIENCE)


def dead(runs: list[WorkingRun], *jobs: Job, listening: Listening = ALL_ALONG) -> list[DeadRun]:
    return dead_runs(runs, jobs, listening, NOW, LEASE, HEARTBEAT)


def test_a_run_that_works_in_silence_is_alive_as_long_as_its_heart_beats() -> None:
    assert dead([run(silent_for=timedelta(hours=2))], job(owner="run-1", heartbeat_ago=LEASE)) == []


def test_a_run_whose_lease_lapsed_is_dead_with_its_job() -> None:
    lapsed = job(owner="run-1", heartbeat_ago=LEASE + SECOND)
    (found,) = dead([run()], lapsed)
    assert (found.run_id, found.jobs) == ("run-1", (lapsed,))
    assert found.why == "its heart has not beaten for more than 60 s"


@pytest.mark.parametrize("jobs", [[], [job(owner="run-1")], [job(owner="run-2", heartbeat_ago=LEASE + SECOND)]])
def test_a_run_without_a_heart_is_dead_only_when_it_was_silent_for_its_patience(jobs: list[Job]) -> None:
    """It never claimed its episode, it is between two steps, another one took over, or it is not about an episode."""
    assert dead([run(silent_for=PATIENCE)], *jobs) == []
    (found,) = dead([run(silent_for=PATIENCE + SECOND)], *jobs)
    assert found.jobs == tuple(one for one in jobs if one.process_uuid == "run-1")
    assert found.why == "nothing was heard of it for 91 s"


def test_a_run_is_alive_when_one_of_its_episodes_is() -> None:
    """A backfill over a range is one run: it leaves an episode to rest and goes on with the next."""
    left = job("a-e02", owner="run-1", heartbeat_ago=LEASE + SECOND)
    at_work = job("a-e03", owner="run-1", heartbeat_ago=SECOND)
    assert dead([run(silent_for=timedelta(hours=1))], left, at_work) == []
    (found,) = dead([run()], left, job("a-e03", owner="run-1"))
    assert [one.partition_key for one in found.jobs] == ["a-e02", "a-e03"]


def test_what_is_made_anew_under_a_completed_job_keeps_its_run_alive() -> None:
    assert dead([run(silent_for=timedelta(hours=1))], job(owner="run-1", heartbeat_ago=SECOND, completed=True)) == []


def test_each_run_is_judged_by_its_own_jobs() -> None:
    lapsed = job("a-e02", owner="run-1", heartbeat_ago=LEASE + SECOND)
    alive = job("a-e03", owner="run-2", heartbeat_ago=SECOND)
    assert [one.run_id for one in dead([run("run-1"), run("run-2")], lapsed, alive)] == ["run-1"]


def test_nobody_is_dead_for_having_been_silent_while_nobody_could_be_heard() -> None:
    """The database was away: no heart could beat, and the first tick after it would have ended every living run."""
    lapsed = job(owner="run-1", heartbeat_ago=timedelta(minutes=10))
    just_back = Listening(since=NOW - 2 * HEARTBEAT + SECOND, last=NOW)
    assert dead([run()], lapsed, listening=just_back) == []
    assert dead([run()], lapsed, listening=Listening(since=NOW - 2 * HEARTBEAT, last=NOW)) != []


def test_listening_goes_on_from_look_to_look() -> None:
    first = Listening.after(None, NOW)
    assert first == Listening(NOW, NOW)
    second = Listening.after(first, NOW + 10 * SECOND)
    assert second == Listening(NOW, NOW + 10 * SECOND)


@pytest.mark.parametrize("pause", [HEARD_AGAIN_EVERY + SECOND, -SECOND])
def test_who_was_away_or_whose_clock_was_set_back_begins_to_listen_anew(pause: timedelta) -> None:
    assert Listening.after(ALL_ALONG, NOW + pause) == Listening(NOW + pause, NOW + pause)


def given_back(one: Job, status: str = "FAILURE", *, ended_ago: timedelta = 2 * HEARTBEAT) -> list[GivenBack]:
    return jobs_to_give_back([one], {"a-run": EndedRun(status, NOW - ended_ago)}, NOW, LEASE, HEARTBEAT)


def test_a_job_of_a_terminated_run_is_given_back_as_an_attempt() -> None:
    one = job(owner="a-run", heartbeat_ago=3 * HEARTBEAT)
    (found,) = given_back(one, "CANCELED")
    assert found.job == one
    assert "CANCELED" in (found.error or "")


def test_a_job_of_a_run_that_stopped_before_the_last_stage_is_given_back_without_one() -> None:
    (found,) = given_back(job(owner="a-run"), "SUCCESS")
    assert found.error is None


def test_a_job_of_a_run_that_goes_on_is_left_alone() -> None:
    assert given_back(job(owner="another-run")) == given_back(job()) == []


def test_a_process_that_outlives_its_run_keeps_its_job_as_long_as_its_heart_beats() -> None:
    """Dagster took it for dead; its attempt is not over, and what it makes is not thrown away."""
    ended_ago = timedelta(minutes=5)
    assert given_back(job(owner="a-run", heartbeat_ago=HEARTBEAT), ended_ago=ended_ago) == []
    assert given_back(job(owner="a-run", heartbeat_ago=LEASE + SECOND), ended_ago=ended_ago) != []


def test_a_run_that_has_just_ended_has_the_time_for_two_beats() -> None:
    one = job(owner="a-run", heartbeat_ago=3 * HEARTBEAT)
    assert given_back(one, ended_ago=2 * HEARTBEAT - SECOND) == []
    assert given_back(one, ended_ago=2 * HEARTBEAT) != []


def test_a_run_that_failed_before_its_claim_is_found() -> None:
    one = job()
    assert jobs_that_failed_at_the_door([one], {one.partition_key: NOW - SECOND}) == [one]


def test_a_failure_that_was_counted_is_not_counted_again() -> None:
    """Counting moves `available_at` past the run's end."""
    one = job(attempts=1, available_at=NOW + timedelta(minutes=1))
    assert jobs_that_failed_at_the_door([one], {one.partition_key: NOW - SECOND}) == []


def test_a_job_without_a_failed_run_has_not_failed_at_the_door() -> None:
    assert jobs_that_failed_at_the_door([job()], {}) == []


def test_a_job_in_somebodys_hands_has_not_failed_at_the_door() -> None:
    one = job(owner="a-run")
    assert jobs_that_failed_at_the_door([one], {one.partition_key: NOW}) == []
