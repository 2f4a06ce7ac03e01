from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import (
    JobHeld,
    JobMissing,
    Superseded,
    claim_job,
    claim_of,
    complete_idle_job,
    complete_job,
    fail_job,
    give_back_lapsed,
    heartbeat,
    load_jobs,
    postpone_job,
    release_job,
    reopen_job,
    rest_job,
    resume_jobs_of,
    still_mine,
)
from moltpipe.ledger.production import UnknownEpisode
from moltpipe.studio.jobs import REST_AFTER_A_LOSS, LeaseState, backoff, lease_state
from moltpipe.studio.records import Claim, Episode, Job
from moltpipe_tests.ledger.beginnings import LEASE, await_a_waiter, series


@pytest.fixture
def pilot(database: Database) -> Episode:
    with database.begin() as db:
        return series(db)[0]


def job_of(database: Database, episode: Episode) -> Job:
    with database.begin() as db:
        return next(job for job in load_jobs(db, unfinished_only=False) if job.episode_id == episode.id)


def claim(database: Database, episode: Episode, process_uuid: str) -> Claim:
    with database.begin() as db:
        return claim_job(db, episode.partition_key, process_uuid, LEASE)


def let_lapse(database: Database) -> None:
    with database.begin() as db:
        db.execute(sa.text("UPDATE production_jobs SET heartbeat_at = heartbeat_at - interval '61 seconds'"))


def test_the_pilot_comes_before_the_other_episodes(database: Database, pilot: Episode) -> None:
    with database.begin() as db:
        keys = [job.partition_key for job in load_jobs(db)]
    assert keys[0] == pilot.partition_key
    assert keys[1:] == sorted(keys[1:])


def test_a_claimed_job_is_refused_to_others(database: Database, pilot: Episode) -> None:
    claim(database, pilot, "run-1")
    with pytest.raises(JobHeld) as refused:
        claim(database, pilot, "run-2")
    assert refused.value.by == "run-1"
    assert job_of(database, pilot).process_uuid == "run-1"


def test_of_many_claimers_at_once_one_gets_the_job(database: Database, pilot: Episode) -> None:
    together = threading.Barrier(4)

    def try_to(number: int) -> str | None:
        together.wait()
        try:
            return claim(database, pilot, f"run-{number}").process_uuid
        except JobHeld:
            return None

    with ThreadPoolExecutor(4) as pool:
        winners = [uuid for uuid in pool.map(try_to, range(4)) if uuid]
    assert winners == [job_of(database, pilot).process_uuid]


def test_a_process_may_claim_its_own_job_again(database: Database, pilot: Episode) -> None:
    claim(database, pilot, "run-1")
    before = job_of(database, pilot)
    claim(database, pilot, "run-1")
    after = job_of(database, pilot)
    assert (after.claimed_at, after.attempt_count) == (before.claimed_at, 0)


def test_a_lapsed_lease_is_taken_over_and_counts_as_an_attempt(database: Database, pilot: Episode) -> None:
    lost = claim(database, pilot, "run-1")
    let_lapse(database)
    claim(database, pilot, "run-2")
    job = job_of(database, pilot)
    assert (job.process_uuid, job.attempt_count) == ("run-2", 1)
    assert "run-1 was lost" in (job.last_error or "")
    with database.begin() as db:
        assert not heartbeat(db, lost)


def test_a_heartbeat_keeps_the_lease(database: Database, pilot: Episode) -> None:
    mine = claim(database, pilot, "run-1")
    let_lapse(database)
    with database.begin() as db:
        assert heartbeat(db, mine)
    with pytest.raises(JobHeld):
        claim(database, pilot, "run-2")


def test_a_resting_job_passes_on_without_an_attempt(database: Database, pilot: Episode) -> None:
    mine = claim(database, pilot, "run-1")
    with database.begin() as db:
        rest_job(db, mine)
    assert lease_state(job_of(database, pilot), datetime.now(UTC), LEASE) is LeaseState.RESTING
    claim(database, pilot, "run-2")
    job = job_of(database, pilot)
    assert (job.process_uuid, job.attempt_count, job.last_error) == ("run-2", 0, None)


def test_a_late_heartbeat_does_not_wake_a_resting_job(database: Database, pilot: Episode) -> None:
    mine = claim(database, pilot, "run-1")
    with database.begin() as db:
        rest_job(db, mine)
        assert heartbeat(db, mine)
    assert job_of(database, pilot).heartbeat_at is None


def test_a_superseded_process_can_do_nothing_more(database: Database, pilot: Episode) -> None:
    lost = claim(database, pilot, "run-1")
    let_lapse(database)
    claim(database, pilot, "run-2")
    before = job_of(database, pilot)
    for act in (
        still_mine,
        rest_job,
        complete_job,
        release_job,
        lambda db, mine: fail_job(db, mine, "too late", datetime.now(UTC)),
        lambda db, mine: postpone_job(db, mine, datetime.now(UTC), "too late"),
    ):
        with pytest.raises(Superseded, match="run-1"), database.begin() as db:
            act(db, lost)
    assert job_of(database, pilot) == before


def test_nobody_takes_over_while_the_owner_writes(database: Database, pilot: Episode) -> None:
    mine = claim(database, pilot, "run-1")
    let_lapse(database)
    with database.begin() as db:
        still_mine(db, mine)
        heartbeat(db, mine)
        with ThreadPoolExecutor(1) as pool:
            taking_over = pool.submit(claim, database, pilot, "run-2")
            await_a_waiter(db)
            db.commit()
            with pytest.raises(JobHeld):
                taking_over.result()


def test_a_failed_attempt_rests_longer_each_time(database: Database, pilot: Episode) -> None:
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    for attempt in (1, 2, 3):
        mine = claim(database, pilot, f"run-{attempt}")
        with database.begin() as db:
            fail_job(db, mine, f"the camera fell over {attempt} times", now)
        job = job_of(database, pilot)
        assert (job.process_uuid, job.claimed_at, job.heartbeat_at) == (None, None, None)
        assert (job.attempt_count, job.available_at) == (attempt, now + backoff(attempt))
        assert job.last_error == f"the camera fell over {attempt} times"
    # Attempts are the sensor's affair: an operator still gets the job.
    assert claim(database, pilot, "by-hand").process_uuid == "by-hand"


def test_an_error_is_written_down_whatever_it_holds(database: Database, pilot: Episode) -> None:
    mine = claim(database, pilot, "run-1")
    with database.begin() as db:
        fail_job(db, mine, "stderr: \x00 \udcff " + "x" * 5000, datetime.now(UTC))
    error = job_of(database, pilot).last_error or ""
    assert error.startswith("stderr: \ufffd ?")
    assert len(error) == 4000


def test_a_completed_job_is_finished_and_its_error_forgotten(database: Database, pilot: Episode) -> None:
    first = claim(database, pilot, "run-1")
    with database.begin() as db:
        fail_job(db, first, "once", datetime.now(UTC))
    second = claim(database, pilot, "run-2")
    with database.begin() as db:
        complete_job(db, second)
        assert pilot.partition_key not in [job.partition_key for job in load_jobs(db)]
    job = job_of(database, pilot)
    assert job.completed_at is not None
    assert (job.process_uuid, job.last_error) == (None, None)


def test_a_completed_job_stays_completed_when_it_is_done_again(database: Database, pilot: Episode) -> None:
    mine = claim(database, pilot, "run-1")
    with database.begin() as db:
        complete_job(db, mine)
    completed_at = job_of(database, pilot).completed_at
    again = claim(database, pilot, "by-hand")
    with database.begin() as db:
        fail_job(db, again, "not this time", datetime.now(UTC))
    job = job_of(database, pilot)
    assert (job.completed_at, job.attempt_count, job.last_error) == (completed_at, 0, "not this time")
    third = claim(database, pilot, "by-hand-2")
    with database.begin() as db:
        complete_job(db, third)
    assert job_of(database, pilot).completed_at == completed_at


def test_releasing_costs_no_attempt(database: Database, pilot: Episode) -> None:
    claim(database, pilot, "run-1")
    with database.begin() as db:
        release_job(db, claim_of(job_of(database, pilot)))
    job = job_of(database, pilot)
    assert (job.process_uuid, job.attempt_count) == (None, 0)
    with pytest.raises(ValueError, match="nobody owns"):
        claim_of(job)


def test_postponing_costs_no_attempt_and_says_until_when_and_why(database: Database, pilot: Episode) -> None:
    mine = claim(database, pilot, "run-1")
    tomorrow = datetime(2026, 3, 3, tzinfo=UTC)
    with database.begin() as db:
        postpone_job(db, mine, tomorrow, "the budget of the day is spent")
    job = job_of(database, pilot)
    assert (job.process_uuid, job.claimed_at, job.heartbeat_at) == (None, None, None)
    assert (job.attempt_count, job.available_at) == (0, tomorrow)
    assert job.last_error == "the budget of the day is spent"


def test_a_completed_job_is_not_postponed(database: Database, pilot: Episode) -> None:
    with database.begin() as db:
        complete_job(db, claim_job(db, pilot.partition_key, "run-1", LEASE))
    before = job_of(database, pilot)
    again = claim(database, pilot, "by-hand")
    with database.begin() as db:
        postpone_job(db, again, datetime(2026, 3, 3, tzinfo=UTC), "not today")
    after = job_of(database, pilot)
    assert (after.completed_at, after.available_at) == (before.completed_at, before.available_at)


def test_a_failed_job_that_is_resumed_has_all_of_its_attempts_at_once(database: Database, pilot: Episode) -> None:
    for attempt in range(3):
        mine = claim(database, pilot, f"run-{attempt}")
        with database.begin() as db:
            fail_job(db, mine, "no light", datetime.now(UTC))
    others = job_of(database, pilot)
    with database.begin() as db:
        assert resume_jobs_of(db, pilot.id) == 1
    job = job_of(database, pilot)
    assert (job.attempt_count, job.last_error) == (0, "no light")
    assert job.available_at < others.available_at


def test_resuming_leaves_a_job_with_who_holds_it_and_a_completed_one_alone(database: Database, pilot: Episode) -> None:
    mine = claim(database, pilot, "run-1")
    with database.begin() as db:
        assert resume_jobs_of(db, pilot.id) == 1
        assert still_mine(db, mine).process_uuid == "run-1"
        complete_job(db, mine)
        assert resume_jobs_of(db, pilot.id) == 0


def test_what_cannot_be_claimed_is_named(database: Database, pilot: Episode) -> None:
    with pytest.raises(UnknownEpisode, match="no-such-key"), database.begin() as db:
        claim_job(db, "no-such-key", "run-1", LEASE)
    with database.begin() as db:
        db.execute(sa.text("DELETE FROM production_jobs"))
    with pytest.raises(JobMissing, match=pilot.partition_key):
        claim(database, pilot, "run-1")


def test_leases_are_measured_by_the_clock_of_the_database(database: Database, pilot: Episode) -> None:
    mine = claim(database, pilot, "run-1")
    with database.begin() as db:
        job = still_mine(db, mine)
        clock = db.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    assert job.heartbeat_at is not None
    assert timedelta(0) <= clock - job.heartbeat_at < timedelta(seconds=5)


# Mended from outside -------------------------------------------------------------------------------------------------


def lapsed(database: Database, episode: Episode) -> tuple[Job, datetime]:
    """A job that run-1 holds and of which nothing was heard for two leases, with that last sign of life."""
    with database.begin() as db:
        claim_job(db, episode.partition_key, "run-1", LEASE)
        db.execute(
            sa.text("UPDATE production_jobs SET heartbeat_at = now() - :silence WHERE process_uuid IS NOT NULL"),
            {"silence": 2 * LEASE},
        )
    job = job_of(database, episode)
    assert job.heartbeat_at is not None
    return job, job.heartbeat_at


def test_a_job_whose_owner_is_silent_is_given_back_once(database: Database, pilot: Episode) -> None:
    job, heard = lapsed(database, pilot)
    now = datetime.now(UTC)
    with database.begin() as db:
        assert give_back_lapsed(db, job.id, "run-1", heard, LEASE, now)
        assert not give_back_lapsed(db, job.id, "run-1", heard, LEASE, now)
    given_back = job_of(database, pilot)
    assert (given_back.process_uuid, given_back.attempt_count) == (None, 1)
    assert given_back.available_at == now + REST_AFTER_A_LOSS
    assert "run run-1 was lost" in str(given_back.last_error)


def test_an_owner_that_was_heard_since_or_another_one_is_not_robbed(database: Database, pilot: Episode) -> None:
    job, heard = lapsed(database, pilot)
    with database.begin() as db:
        now = datetime.now(UTC)
        assert not give_back_lapsed(db, job.id, "run-2", heard, LEASE, now)
        assert not give_back_lapsed(db, job.id, "run-1", heard, 3 * LEASE, now)
        assert heartbeat(db, claim_of(job))
        assert not give_back_lapsed(db, job.id, "run-1", heard, LEASE, now)
        still_mine(db, claim_of(job))


def test_a_job_is_opened_again_with_all_of_its_attempts_only_when_it_was_done(
    database: Database, pilot: Episode
) -> None:
    with database.begin() as db:
        claim = claim_job(db, pilot.partition_key, "run-1", LEASE)
        assert not reopen_job(db, claim.job_id)
        fail_job(db, claim, "no light", datetime.now(UTC))
        complete_job(db, claim_job(db, pilot.partition_key, "run-2", LEASE))
        assert reopen_job(db, claim.job_id)
    job = job_of(database, pilot)
    assert (job.completed_at, job.attempt_count, job.process_uuid) == (None, 0, None)


def test_only_a_job_that_nobody_holds_is_completed_from_outside(database: Database, pilot: Episode) -> None:
    with database.begin() as db:
        claim = claim_job(db, pilot.partition_key, "run-1", LEASE)
        assert not complete_idle_job(db, claim.job_id)
        release_job(db, claim)
        assert complete_idle_job(db, claim.job_id)
        assert not complete_idle_job(db, claim.job_id)
    assert job_of(database, pilot).completed_at is not None
