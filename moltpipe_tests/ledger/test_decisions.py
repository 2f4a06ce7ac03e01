from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from moltpipe.ledger.calls import (
    Call,
    CallState,
    GivenUp,
    UnknownCall,
    call_by_id,
    claim_call,
    mark_ambiguous,
    mark_failed,
    mark_ingested,
    mark_running,
    mark_submitted,
    mark_submitting,
    mark_succeeded,
)
from moltpipe.ledger.checks.finding import Conditions
from moltpipe.ledger.checks.money import AMBIGUOUS_CALLS_ARE_DECIDED
from moltpipe.ledger.database import Database
from moltpipe.ledger.decisions import (
    Decision,
    NothingToDecide,
    decide,
    give_up,
    plan_give_up,
    plan_resubmit,
    resubmit,
)
from moltpipe.ledger.jobs import claim_job, complete_job, fail_job, load_jobs, still_mine
from moltpipe.studio.records import Episode, Job
from moltpipe_tests.ledger.beginnings import LEASE, await_a_waiter, claimed, intent, one, series, submitted

FINGERPRINT = "f" * 64


@pytest.fixture
def episode(database: Database) -> Episode:
    with database.begin() as db:
        return series(db)[1]


def lost(db: sa.Connection, episode: Episode, fingerprint: str = FINGERPRINT, subject_id: UUID | None = None) -> Call:
    """A call that may have been accepted."""
    call = claim_call(
        db,
        intent(fingerprint=fingerprint, episode_id=episode.id, subject_id=subject_id or uuid4(), quote_usd=Decimal(2)),
    )
    mark_submitting(db, call.id)
    return mark_ambiguous(db, call.id, "no answer")


def failed(db: sa.Connection, episode: Episode, error_class: str = "filtered") -> Call:
    call = submitted(db, fingerprint=FINGERPRINT, episode_id=episode.id, quote_usd=Decimal(2))
    return mark_failed(db, call.id, error_class, "withheld")


def claim_again(db: sa.Connection, episode: Episode) -> Call:
    return claim_call(db, intent(fingerprint=FINGERPRINT, episode_id=episode.id))


def job_of(db: sa.Connection, episode: Episode) -> Job:
    return next(job for job in load_jobs(db, unfinished_only=False) if job.episode_id == episode.id)


def use_up_attempts(db: sa.Connection, episode: Episode) -> None:
    for _ in range(3):
        fail_job(db, claim_job(db, episode.partition_key, "run-9", LEASE), "no answer", datetime.now(UTC))


# The check -----------------------------------------------------------------------------------------------------------


def test_an_undecided_call_is_found_with_what_hangs_on_it(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        _, shots = claimed(db, episode)
        call = lost(db, episode, subject_id=shots[2].id)
        script = lost(db, episode, "e" * 64)
        finding = AMBIGUOUS_CALLS_ARE_DECIDED.look(db, Conditions(datetime.now(UTC)))
    assert (finding.asset, finding.severity, finding.count, finding.since) == ("clips", "error", 2, call.left_at)
    row = finding.rows[0]
    assert (row["call_id"], row["engine"], row["operation"]) == (str(call.id), "camera", "film")
    assert (row["episode"], row["shot"]) == (episode.partition_key, 3)
    assert (row["reserved_usd"], row["error"]) == (2.0, "no answer")
    assert call.left_at is not None
    assert row["left_at"] == call.left_at.isoformat()
    assert (finding.rows[1]["call_id"], finding.rows[1]["shot"]) == (str(script.id), None)
    assert "--resubmit" in finding.remedy
    assert "--give-up" in finding.remedy


# Sending again -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lost, failed])
def test_a_request_that_is_resubmitted_can_be_claimed_again(
    database: Database, episode: Episode, make: Callable[[sa.Connection, Episode], Call]
) -> None:
    with database.begin() as db:
        call = make(db, episode)
        decision = resubmit(db, call.id, "molt")
        aside = call_by_id(db, call.id)
        assert claim_again(db, episode).id != call.id
        assert AMBIGUOUS_CALLS_ARE_DECIDED.look(db, Conditions(datetime.now(UTC))).passed
    assert (decision.call_id, decision.decision) == (call.id, "resubmit")
    assert "2.00 USD stay on the old one" in decision.what
    assert (aside.state, aside.cost_usd, aside.reserved_usd) == (CallState.EXPIRED, Decimal(2), Decimal(0))
    assert aside.error == f"put aside by molt: {call.error}"


def test_resubmitting_makes_the_episode_s_job_run_at_once(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
        use_up_attempts(db, episode)
        resubmit(db, call.id, "molt")
        job = job_of(db, episode)
        assert job.attempt_count == 0
        assert job.available_at <= one(db, "SELECT clock_timestamp()")


def test_a_completed_job_is_not_run_again_for_it(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
        complete_job(db, claim_job(db, episode.partition_key, "run-1", LEASE))
        before = job_of(db, episode)
        resubmit(db, call.id, "molt")
        assert job_of(db, episode) == before


def test_three_jobs_that_ended_in_a_row_can_be_followed_by_more(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        for _ in range(3):
            call = failed(db, episode, "retry_safe")
        with pytest.raises(GivenUp):
            claim_again(db, episode)
        resubmit(db, call.id, "molt")
        claim_again(db, episode)


def test_a_call_for_no_episode_can_be_resubmitted(database: Database) -> None:
    with database.begin() as db:
        call = claim_call(db, intent())
        mark_submitting(db, call.id)
        mark_ambiguous(db, call.id, "no answer")
        assert resubmit(db, call.id, "molt").call_id == call.id


# Giving up -----------------------------------------------------------------------------------------------------------


def test_a_call_that_is_given_up_is_failed_and_not_made_again(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
        decision = give_up(db, call.id, "molt")
        over = call_by_id(db, call.id)
        with pytest.raises(GivenUp, match="given up by molt: no answer"):
            claim_again(db, episode)
    assert (decision.call_id, decision.decision) == (call.id, "give_up")
    assert (over.state, over.cost_usd, over.reserved_usd) == (CallState.FAILED, Decimal(2), Decimal(0))


def test_who_gave_up_may_think_again(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
        give_up(db, call.id, "molt")
        resubmit(db, call.id, "claw")
        assert call_by_id(db, call.id).error == "put aside by claw: given up by molt: no answer"
        claim_again(db, episode)


# What needs no decision ----------------------------------------------------------------------------------------------


def test_a_job_that_was_found_meanwhile_is_not_thrown_away(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
    with ThreadPoolExecutor(1) as pool, database.begin() as db:
        mark_submitted(db, call.id, "job-7")

        def put_aside() -> Decision:
            with database.begin() as other:
                return resubmit(other, call.id, "molt")

        deciding = pool.submit(put_aside)
        await_a_waiter(db)
        db.commit()
        with pytest.raises(NothingToDecide, match="is submitted"):
            deciding.result()


def test_a_call_that_is_under_way_is_left_alone(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = mark_running(db, submitted(db, episode_id=episode.id).id)
        use_up_attempts(db, episode)
    for act in (resubmit, give_up):
        with pytest.raises(NothingToDecide, match="is running: expected"), database.begin() as db:
            act(db, call.id, "molt")
    with database.begin() as db:
        assert job_of(db, episode).attempt_count == 3


def test_a_failure_that_holds_nothing_up_needs_no_decision(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        harmless = claim_call(db, intent(episode_id=episode.id))
        mark_failed(db, harmless.id, "quota", "no credit")
        put_aside = failed(db, episode)
        resubmit(db, put_aside.id, "molt")
        claim_again(db, episode)
        for call in (harmless, put_aside):
            with pytest.raises(NothingToDecide):
                plan_resubmit(db, call.id)


def test_only_an_ambiguous_call_can_be_given_up(database: Database, episode: Episode) -> None:
    with database.begin() as db, pytest.raises(NothingToDecide, match="expected one that is ambiguous"):
        give_up(db, failed(db, episode).id, "molt")


def test_an_unknown_call_is_named(database: Database) -> None:
    nowhere = uuid4()
    for act in (resubmit, give_up):
        with pytest.raises(UnknownCall, match=str(nowhere)), database.begin() as db:
            act(db, nowhere, "molt")


# Several at once -----------------------------------------------------------------------------------------------------


def test_a_plan_changes_nothing(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
        assert decide(db, "resubmit", [call.id], "molt", dry_run=True) == [plan_resubmit(db, call.id)]
        assert decide(db, "give_up", [call.id], "molt", dry_run=True) == [plan_give_up(db, call.id)]
        assert call_by_id(db, call.id) == call


def test_several_are_decided_together_or_not_at_all(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        calls = [lost(db, episode), lost(db, episode, "e" * 64)]
    ids = [call.id for call in calls]
    with pytest.raises(UnknownCall), database.begin() as db:
        decide(db, "resubmit", [*ids, uuid4()], "molt", dry_run=False)
    with database.begin() as db:
        assert AMBIGUOUS_CALLS_ARE_DECIDED.look(db, Conditions(datetime.now(UTC))).count == 2
        assert [one.call_id for one in decide(db, "resubmit", [*ids, ids[0]], "molt", dry_run=False)] == ids
        assert AMBIGUOUS_CALLS_ARE_DECIDED.look(db, Conditions(datetime.now(UTC))).passed


def test_a_decision_waits_for_a_run_that_writes_and_does_not_block_it(database: Database, episode: Episode) -> None:
    """A run takes its job and then its calls; a decision that took them the other way round would meet it head on."""
    with database.begin() as db:
        call = lost(db, episode)
        mine, _ = claimed(db, episode)

    def put_aside() -> Decision:
        with database.begin() as db:
            return resubmit(db, call.id, "molt")

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            still_mine(db, mine)
            deciding = pool.submit(put_aside)
            await_a_waiter(db)
            mark_submitted(db, call.id, "job-7")
        with pytest.raises(NothingToDecide):
            deciding.result()


def test_a_result_of_which_nothing_could_be_made_can_be_asked_for_again(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = submitted(db, episode_id=episode.id)
        mark_succeeded(db, call.id, Decimal(1))
        mark_ingested(db, call.id, {"media": {"key": "arrivals/x.bin", "sha256": "0" * 64, "bytes": 1}})
        resubmit(db, call.id, "a test")
        assert call_by_id(db, call.id).state is CallState.EXPIRED
        assert call_by_id(db, call.id).cost_usd == 1
