from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from moltpipe.ledger.calls import (
    OVER,
    Call,
    CallExists,
    CallOver,
    CallState,
    GivenUp,
    IllegalTransition,
    UnknownCall,
    adopt_call,
    call_by_id,
    claim_call,
    count_at_provider,
    expire_call,
    give_up_call,
    live_call,
    mark_ambiguous,
    mark_canceled,
    mark_failed,
    mark_ingested,
    mark_running,
    mark_submitted,
    mark_submitting,
    mark_succeeded,
    mark_unsent,
    others_of,
    time_since_left,
)
from moltpipe.ledger.database import Database
from moltpipe_tests.ledger.beginnings import intent, one, series, submitted

FINGERPRINT = "f" * 64
DOLLAR = Decimal(1)
FREE = Decimal(0)
Step = Callable[[sa.Connection, UUID], Call]
STEPS: dict[CallState, Step] = {
    CallState.CLAIMED: mark_unsent,
    CallState.SUBMITTING: mark_submitting,
    CallState.SUBMITTED: lambda db, call: mark_submitted(db, call, "job-7"),
    CallState.RUNNING: mark_running,
    CallState.SUCCEEDED: lambda db, call: mark_succeeded(db, call, Decimal("0.25")),
    CallState.INGESTED: mark_ingested,
    CallState.FAILED: lambda db, call: mark_failed(db, call, "provider_fault", "no light"),
    CallState.AMBIGUOUS: lambda db, call: mark_ambiguous(db, call, "no answer"),
    CallState.EXPIRED: expire_call,
}
LEGAL = {
    ("claimed", "submitting"),
    ("claimed", "failed"),
    ("submitting", "claimed"),
    ("submitting", "submitted"),
    ("submitting", "failed"),
    ("submitting", "ambiguous"),
    ("submitted", "running"),
    ("submitted", "succeeded"),
    ("submitted", "failed"),
    ("submitted", "ambiguous"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "ambiguous"),
    ("ambiguous", "claimed"),
    ("ambiguous", "submitted"),
    ("ambiguous", "failed"),
    ("succeeded", "ingested"),
    ("succeeded", "failed"),
    ("ingested", "ingested"),
    ("failed", "expired"),
    *((state.value, "expired") for state in CallState if state not in OVER),
}


def claim(db: sa.Connection, **other: Any) -> Call:  # noqa: ANN401 - any field of the intent
    return claim_call(db, intent(**{"fingerprint": FINGERPRINT, **other}))


def put_in(db: sa.Connection, state: CallState, **other: Any) -> UUID:  # noqa: ANN401 - as above
    call = claim(db, **other)
    db.execute(sa.text("UPDATE provider_jobs SET state = :state WHERE id = :id"), {"state": state, "id": call.id})
    return call.id


def failed(db: sa.Connection, error_class: str, **other: Any) -> Call:  # noqa: ANN401 - as above
    return mark_failed(db, submitted(db, **{"fingerprint": FINGERPRINT, **other}).id, error_class, "no light")


def refused(db: sa.Connection, error_class: str, **other: Any) -> Call:  # noqa: ANN401 - as above
    """One that was certainly not accepted."""
    call = claim(db, **other)
    mark_submitting(db, call.id)
    return mark_failed(db, call.id, error_class, "no")


def test_a_call_goes_from_claim_to_ingest(transaction: sa.Connection) -> None:
    wanted = intent(fingerprint=FINGERPRINT, request={"seconds": 8}, model="reel-2", take_number=3)
    call = claim_call(transaction, wanted)
    assert (call.request, call.model, call.take_number, call.variant_number) == ({"seconds": 8}, "reel-2", 3, 1)
    assert (call.subject_id, call.account, call.left_at) == (wanted.subject_id, wanted.account, None)
    for step in ("submitting", "submitted", "running", "succeeded"):
        call = STEPS[CallState(step)](transaction, call.id)
        assert call.state == step
    call = mark_ingested(transaction, call.id, {"media": {"key": "arrivals/a.bin"}})
    assert (call.external_id, call.cost_usd, call.reserved_usd) == ("job-7", Decimal("0.25"), FREE)
    assert call.result == {"media": {"key": "arrivals/a.bin"}}
    assert call.left_at is not None
    assert call.submitted_at is not None
    assert call.finished_at is not None
    assert call.claimed_at < call.left_at < call.submitted_at < call.finished_at
    assert live_call(transaction, FINGERPRINT) == call == call_by_id(transaction, call.id)


@pytest.mark.parametrize(("state", "wanted"), list(product(CallState, STEPS)))
def test_only_the_legal_ways_are_open(transaction: sa.Connection, state: CallState, wanted: CallState) -> None:
    call_id = put_in(transaction, state)
    if (state.value, wanted.value) in LEGAL:
        assert STEPS[wanted](transaction, call_id).state is wanted
    else:
        with pytest.raises(IllegalTransition) as refusal:
            STEPS[wanted](transaction, call_id)
        assert (refusal.value.state, refusal.value.wanted) == (state, wanted)
        assert one(transaction, "SELECT state FROM provider_jobs") == state


@pytest.mark.parametrize("account", ["api.example/1a2b", None])
def test_of_many_that_claim_the_same_request_one_makes_the_call(database: Database, account: str | None) -> None:
    together = threading.Barrier(4)

    def try_to(_: int) -> UUID | None:
        together.wait()
        try:
            with database.begin() as db:
                return claim(db, account=account).id
        except CallExists:
            return None

    with ThreadPoolExecutor(4) as pool:
        assert len([call for call in pool.map(try_to, range(4)) if call]) == 1


@pytest.mark.parametrize("state", [state for state in CallState if state not in OVER])
def test_a_live_call_keeps_others_from_paying_again(transaction: sa.Connection, state: CallState) -> None:
    call_id = put_in(transaction, state)
    with pytest.raises(CallExists) as existing:
        claim(transaction)
    assert (existing.value.call.id, existing.value.call.state) == (call_id, state)


@pytest.mark.parametrize("state", sorted(OVER))
def test_a_call_that_is_over_frees_its_request(transaction: sa.Connection, state: CallState) -> None:
    call_id = put_in(transaction, state)
    assert live_call(transaction, FINGERPRINT) is None
    assert claim(transaction).id != call_id


# Money ---------------------------------------------------------------------------------------------------------------


def test_a_claim_reserves_what_it_will_cost_rounded_up(transaction: sa.Connection) -> None:
    assert claim(transaction, quote_usd=Decimal("0.0375001")).reserved_usd == Decimal("0.037501")


def test_what_this_machine_does_costs_nothing(transaction: sa.Connection) -> None:
    assert claim(transaction, account=None).reserved_usd == 0


def test_success_turns_the_reservation_into_what_it_cost(transaction: sa.Connection) -> None:
    done = mark_succeeded(transaction, submitted(transaction).id, Decimal("0.8"))
    assert (done.cost_usd, done.reserved_usd) == (Decimal("0.8"), FREE)


@pytest.mark.parametrize(
    ("state", "cost"),
    [("claimed", 0), ("submitting", 0), ("submitted", 1), ("running", 1), ("ambiguous", 1)],
)
def test_a_failure_costs_what_was_reserved_if_it_may_have_been_accepted(
    transaction: sa.Connection, state: str, cost: int
) -> None:
    call_id = put_in(transaction, CallState(state))
    if state in ("submitted", "running"):
        transaction.execute(sa.text("UPDATE provider_jobs SET external_id = 'job-7'"))
    over = mark_failed(transaction, call_id, "provider_fault", "no light")
    assert (over.cost_usd, over.reserved_usd) == (Decimal(cost), FREE)


def test_the_provider_has_the_last_word_on_what_a_failure_costs(transaction: sa.Connection) -> None:
    over = mark_failed(transaction, submitted(transaction).id, "filtered", "withheld", Decimal(0))
    assert (over.cost_usd, over.reserved_usd) == (FREE, FREE)


def test_a_result_that_cannot_be_used_keeps_its_cost(transaction: sa.Connection) -> None:
    done = mark_succeeded(transaction, submitted(transaction).id, Decimal("0.8"))
    over = mark_failed(transaction, done.id, "provider_fault", "no media")
    assert (over.state, over.cost_usd) == (CallState.FAILED, Decimal("0.8"))


def test_what_an_expired_call_cost_stays_on_the_books(transaction: sa.Connection) -> None:
    finished = mark_succeeded(transaction, submitted(transaction).id, Decimal("1.5"))
    expired = expire_call(transaction, finished.id)
    assert (expired.cost_usd, expired.finished_at) == (Decimal("1.5"), finished.finished_at)


@pytest.mark.parametrize(("state", "cost"), [("claimed", 0), ("submitting", 1), ("ambiguous", 1)])
def test_a_call_that_is_put_aside_costs_what_it_may_have_cost(
    transaction: sa.Connection, state: str, cost: int
) -> None:
    expired = expire_call(transaction, put_in(transaction, CallState(state)))
    assert (expired.cost_usd, expired.reserved_usd) == (Decimal(cost), FREE)


def test_a_canceled_job_costs_what_was_reserved_unless_the_provider_says_otherwise(transaction: sa.Connection) -> None:
    assert mark_canceled(transaction, submitted(transaction).id).cost_usd == 1
    assert mark_canceled(transaction, submitted(transaction).id, Decimal("0.1")).cost_usd == Decimal("0.1")
    assert mark_canceled(transaction, claim(transaction).id).cost_usd == 0


def test_what_is_unsent_stays_reserved_and_forgets_the_attempt(transaction: sa.Connection) -> None:
    call = claim(transaction)
    mark_submitting(transaction, call.id)
    mark_ambiguous(transaction, call.id, "no answer")
    assert mark_unsent(transaction, call.id) == call


def test_an_ambiguous_call_stays_reserved_until_it_is_found(transaction: sa.Connection) -> None:
    call = claim(transaction)
    mark_submitting(transaction, call.id)
    lost = mark_failed(transaction, call.id, "ambiguous", "no answer\x00")
    assert (lost.state, lost.reserved_usd, lost.finished_at) == (CallState.AMBIGUOUS, DOLLAR, None)
    assert (lost.error_class, lost.error) == ("ambiguous", "no answer\ufffd")
    found = mark_submitted(transaction, call.id, "job-7")
    assert (found.state, found.error_class, found.error) == (CallState.SUBMITTED, None, None)


# Saying it again -----------------------------------------------------------------------------------------------------


def test_the_same_id_again_changes_nothing_and_another_is_refused(transaction: sa.Connection) -> None:
    call = mark_running(transaction, submitted(transaction).id)
    assert mark_submitted(transaction, call.id, "job-7") == call
    with pytest.raises(IllegalTransition):
        mark_submitted(transaction, call.id, "job-8")


def test_an_ingested_call_keeps_its_first_result(transaction: sa.Connection) -> None:
    call = mark_succeeded(transaction, submitted(transaction).id, Decimal(1))
    kept = mark_ingested(transaction, call.id, {"credit": "A. Person"})
    assert mark_ingested(transaction, call.id) == kept
    assert mark_ingested(transaction, call.id, {"credit": "somebody else"}) == kept


# Cancelling ----------------------------------------------------------------------------------------------------------


def test_a_call_canceled_while_its_request_leaves_is_ambiguous(transaction: sa.Connection) -> None:
    call_id = put_in(transaction, CallState.SUBMITTING)
    assert mark_canceled(transaction, call_id).state is CallState.AMBIGUOUS
    with pytest.raises(CallExists):
        claim(transaction)


def test_on_this_machine_nothing_outlives_its_process(transaction: sa.Connection) -> None:
    call_id = put_in(transaction, CallState.SUBMITTING, account=None)
    assert mark_canceled(transaction, call_id).state is CallState.CANCELED


@pytest.mark.parametrize("state", ["claimed", "submitted", "running"])
def test_a_call_that_waits_can_be_canceled(transaction: sa.Connection, state: str) -> None:
    assert mark_canceled(transaction, put_in(transaction, CallState(state))).state is CallState.CANCELED


@pytest.mark.parametrize("state", ["succeeded", "ingested", "failed", "canceled", "expired", "ambiguous"])
def test_canceling_what_is_done_or_undecided_changes_nothing(transaction: sa.Connection, state: str) -> None:
    call_id = put_in(transaction, CallState(state))
    before = call_by_id(transaction, call_id)
    assert mark_canceled(transaction, call_id) == before


# Going on with what another process left -----------------------------------------------------------------------------


def test_another_process_goes_on_with_a_live_call(transaction: sa.Connection) -> None:
    call = submitted(transaction)
    assert adopt_call(transaction, call.id, "run-2").process_uuid == "run-2"
    assert one(transaction, "SELECT claimed_by FROM provider_jobs") == "run-1"


def test_a_result_is_read_without_taking_the_call(transaction: sa.Connection) -> None:
    call_id = put_in(transaction, CallState.INGESTED)
    assert adopt_call(transaction, call_id, "run-2").process_uuid == "run-1"


@pytest.mark.parametrize("state", sorted(OVER))
def test_nobody_goes_on_with_what_is_over(transaction: sa.Connection, state: CallState) -> None:
    call_id = put_in(transaction, state)
    with pytest.raises(CallOver, match=f"{call_id}.* is {state}"):
        adopt_call(transaction, call_id, "run-2")


def test_a_live_call_is_held_until_it_is_adopted(database: Database) -> None:
    """Between finding a call and taking it, it cannot end: the one that took it would have nothing to go on with."""
    with database.begin() as db:
        call = submitted(db, fingerprint=FINGERPRINT)

    def fail() -> Call:
        with database.begin() as db:
            return mark_failed(db, call.id, "provider_fault", "no light")

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            with pytest.raises(CallExists):
                claim(db)
            failing = pool.submit(fail)
            assert adopt_call(db, call.id, "run-2").state is CallState.SUBMITTED
        assert failing.result().process_uuid == "run-2"


# What is not tried again by itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error_class", ["provider_fault", "expired", "invalid_input", "filtered", "quota", "auth"])
def test_what_was_accepted_and_failed_is_not_sent_again(transaction: sa.Connection, error_class: str) -> None:
    call = failed(transaction, error_class)
    with pytest.raises(GivenUp, match=f"{error_class}: no light.*moltpipe repair --resubmit {call.id}") as given_up:
        claim(transaction)
    assert given_up.value.call == call


@pytest.mark.parametrize("error_class", ["invalid_input", "filtered"])
def test_what_is_refused_for_what_it_says_is_not_sent_again(transaction: sa.Connection, error_class: str) -> None:
    refused(transaction, error_class)
    with pytest.raises(GivenUp):
        claim(transaction)


@pytest.mark.parametrize("error_class", ["auth", "quota", "throttled", "retry_safe", "provider_fault"])
def test_what_was_never_accepted_may_be_sent_again(transaction: sa.Connection, error_class: str) -> None:
    for _ in range(5):
        refused(transaction, error_class)
    assert claim(transaction).state is CallState.CLAIMED


def test_where_a_new_job_is_fine_three_are_made(transaction: sa.Connection) -> None:
    for _ in range(3):
        last = failed(transaction, "retry_safe")
    with pytest.raises(GivenUp) as given_up:
        claim(transaction)
    assert given_up.value.call == last


def test_a_person_who_puts_the_last_one_aside_allows_three_more(transaction: sa.Connection) -> None:
    for _ in range(3):
        last = failed(transaction, "retry_safe")
    expire_call(transaction, last.id)
    for _ in range(3):
        failed(transaction, "retry_safe")
    with pytest.raises(GivenUp):
        claim(transaction)


def test_a_refusal_in_between_breaks_the_row(transaction: sa.Connection) -> None:
    for _ in range(2):
        failed(transaction, "retry_safe")
    refused(transaction, "throttled")
    failed(transaction, "retry_safe")
    assert claim(transaction).state is CallState.CLAIMED


def test_the_newest_call_decides(transaction: sa.Connection) -> None:
    expire_call(transaction, failed(transaction, "filtered").id)
    refused(transaction, "quota")
    assert claim(transaction).state is CallState.CLAIMED


@pytest.mark.parametrize("state", ["expired", "canceled"])
def test_what_a_person_or_a_run_ended_may_be_sent_again(transaction: sa.Connection, state: str) -> None:
    call = submitted(transaction, fingerprint=FINGERPRINT)
    (expire_call if state == "expired" else mark_canceled)(transaction, call.id)
    assert claim(transaction).state is CallState.CLAIMED


def test_what_failed_on_this_machine_may_be_tried_again(transaction: sa.Connection) -> None:
    for error_class in ("invalid_input", "provider_fault"):
        failed(transaction, error_class, account=None)
    assert claim(transaction, account=None).state is CallState.CLAIMED


def test_what_a_person_gave_up_is_not_sent_again(transaction: sa.Connection) -> None:
    call_id = put_in(transaction, CallState.AMBIGUOUS)
    mark_unsent(transaction, call_id)
    mark_submitting(transaction, call_id)
    mark_ambiguous(transaction, call_id, "no answer")
    over = give_up_call(transaction, call_id, "given up by molt: no answer")
    assert (over.state, over.error_class) == (CallState.FAILED, "ambiguous")
    assert (over.cost_usd, over.reserved_usd) == (DOLLAR, FREE)
    with pytest.raises(GivenUp, match="given up by molt"):
        claim(transaction)


@pytest.mark.parametrize("state", [state for state in CallState if state is not CallState.AMBIGUOUS])
def test_only_an_ambiguous_call_can_be_given_up(transaction: sa.Connection, state: CallState) -> None:
    with pytest.raises(IllegalTransition):
        give_up_call(transaction, put_in(transaction, state), "given up")


# Looking around ------------------------------------------------------------------------------------------------------


def test_jobs_of_other_calls_are_not_taken_for_this_one(database: Database) -> None:
    with database.begin() as db:
        first, second, *_ = series(db)
        mine = submitted(db, "mine", episode_id=first.id)
        submitted(db, "of the same series, long ago", episode_id=second.id)
        submitted(db, "of no series, long ago")
        db.execute(
            sa.text("UPDATE provider_jobs SET submitted_at = now() - interval '49 hours' WHERE external_id <> 'mine'")
        )
        expire_call(db, submitted(db, "put aside").id)
        submitted(db, "of another account", account="api.example/ffff")
        submitted(db, "of another engine", engine="voice")
        claim_call(db, intent())
        assert others_of(db, mine) == {"of the same series, long ago", "put aside"}


def test_calls_that_are_out_are_counted(transaction: sa.Connection) -> None:
    for state in CallState:
        put_in(transaction, state, fingerprint=uuid4().hex * 2)
    assert count_at_provider(transaction) == 3


def test_an_unknown_call_is_named(database: Database) -> None:
    nowhere = uuid4()
    for act in (mark_submitting, mark_unsent, call_by_id, lambda db, call: adopt_call(db, call, "run-2")):
        with pytest.raises(UnknownCall, match=str(nowhere)), database.begin() as db:
            act(db, nowhere)


def test_a_claim_lets_go_of_the_money_for_the_same_take_that_never_left(transaction: sa.Connection) -> None:
    first = intent()
    waiting = claim_call(transaction, first)
    of_another_take = claim_call(transaction, intent(subject_id=first.subject_id, take_number=2))
    at_the_provider = submitted(transaction, subject_id=first.subject_id, take_number=3)
    claim_call(transaction, intent(subject_id=first.subject_id, engine="other-camera"))
    claim_call(transaction, intent(subject_id=first.subject_id, take_number=3))
    assert call_by_id(transaction, waiting.id).state is CallState.CANCELED
    assert call_by_id(transaction, waiting.id).reserved_usd == 0
    assert call_by_id(transaction, of_another_take.id).state is CallState.CLAIMED
    assert call_by_id(transaction, at_the_provider.id) == at_the_provider


def test_the_age_of_a_request_is_told_by_the_clock_that_wrote_it_down(transaction: sa.Connection) -> None:
    claimed = claim_call(transaction, intent())
    assert time_since_left(transaction, claimed.id) == timedelta(0)
    mark_submitting(transaction, claimed.id)
    transaction.execute(sa.text("UPDATE provider_jobs SET left_at = left_at - interval '1 hour'"))
    assert timedelta(hours=1) <= time_since_left(transaction, claimed.id) < timedelta(hours=1, minutes=1)
