from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import product
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from moltpipe.ledger.calls import (
    OVER,
    Call,
    CallExists,
    CallState,
    IllegalTransition,
    UnknownCall,
    claim_call,
    expire_call,
    live_call,
    mark_canceled,
    mark_failed,
    mark_ingested,
    mark_running,
    mark_submitted,
    mark_submitting,
    mark_succeeded,
)
from moltpipe.ledger.database import Database
from moltpipe_tests.ledger.beginnings import one

FINGERPRINT = "f" * 64
Step = Callable[[sa.Connection, UUID], Call]
STEPS: dict[CallState, Step] = {
    CallState.SUBMITTING: mark_submitting,
    CallState.SUBMITTED: lambda db, call: mark_submitted(db, call, "job-7"),
    CallState.RUNNING: mark_running,
    CallState.SUCCEEDED: lambda db, call: mark_succeeded(db, call, Decimal("0.25")),
    CallState.INGESTED: mark_ingested,
    CallState.FAILED: lambda db, call: mark_failed(db, call, "provider_fault", "no light"),
    CallState.AMBIGUOUS: lambda db, call: mark_failed(db, call, "ambiguous", "no answer"),
    CallState.EXPIRED: expire_call,
}
LEGAL = {
    ("claimed", "submitting"),
    ("claimed", "failed"),
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
    ("ambiguous", "submitted"),
    ("ambiguous", "failed"),
    ("succeeded", "ingested"),
    *((state.value, "expired") for state in CallState if state not in OVER),
}


def claim(db: sa.Connection, fingerprint: str = FINGERPRINT) -> Call:
    return claim_call(db, fingerprint, "camera", "film", {"seconds": 5}, process_uuid="run-1")


def put_in(db: sa.Connection, state: CallState) -> UUID:
    call = claim(db)
    db.execute(sa.text("UPDATE provider_jobs SET state = :state WHERE id = :id"), {"state": state, "id": call.id})
    return call.id


def test_a_call_goes_from_claim_to_ingest(transaction: sa.Connection) -> None:
    call = claim(transaction)
    for step in ("submitting", "submitted", "running", "succeeded", "ingested"):
        call = STEPS[CallState(step)](transaction, call.id)
        assert call.state == step
    assert (call.external_id, call.cost_usd) == ("job-7", Decimal("0.25"))
    assert call.submitted_at is not None
    assert call.finished_at is not None
    assert live_call(transaction, FINGERPRINT) == call


@pytest.mark.parametrize(("state", "wanted"), list(product(CallState, STEPS)))
def test_only_the_legal_ways_are_open(transaction: sa.Connection, state: CallState, wanted: CallState) -> None:
    call_id = put_in(transaction, state)
    if (state.value, wanted.value) in LEGAL:
        assert STEPS[wanted](transaction, call_id).state is wanted
    else:
        with pytest.raises(IllegalTransition) as refused:
            STEPS[wanted](transaction, call_id)
        assert (refused.value.state, refused.value.wanted) == (state, wanted)
        assert one(transaction, "SELECT state FROM provider_jobs") == state


def test_of_many_that_claim_the_same_request_one_makes_the_call(database: Database) -> None:
    together = threading.Barrier(4)

    def try_to(_: int) -> UUID | None:
        together.wait()
        try:
            with database.begin() as db:
                return claim(db).id
        except CallExists:
            return None

    with ThreadPoolExecutor(4) as pool:
        assert len([call for call in pool.map(try_to, range(4)) if call]) == 1


@pytest.mark.parametrize("state", [state for state in CallState if state not in OVER])
def test_a_live_call_keeps_others_from_paying_again(transaction: sa.Connection, state: CallState) -> None:
    call_id = put_in(transaction, state)
    with pytest.raises(CallExists) as refused:
        claim(transaction)
    assert (refused.value.call.id, refused.value.call.state) == (call_id, state)


@pytest.mark.parametrize("state", sorted(OVER))
def test_a_call_that_is_over_frees_its_request(transaction: sa.Connection, state: CallState) -> None:
    call_id = put_in(transaction, state)
    assert live_call(transaction, FINGERPRINT) is None
    assert claim(transaction).id != call_id


def test_what_an_expired_call_cost_stays_on_the_books(transaction: sa.Connection) -> None:
    call_id = put_in(transaction, CallState.SUBMITTED)
    finished = mark_succeeded(transaction, call_id, Decimal("1.5"))
    expired = expire_call(transaction, call_id)
    assert (expired.cost_usd, expired.finished_at) == (Decimal("1.5"), finished.finished_at)


def test_a_call_canceled_while_its_request_leaves_is_ambiguous(transaction: sa.Connection) -> None:
    call_id = put_in(transaction, CallState.SUBMITTING)
    assert mark_canceled(transaction, call_id).state is CallState.AMBIGUOUS
    with pytest.raises(CallExists):
        claim(transaction)


@pytest.mark.parametrize("state", ["claimed", "submitted", "running", "ambiguous"])
def test_a_call_that_waits_can_be_canceled(transaction: sa.Connection, state: str) -> None:
    assert mark_canceled(transaction, put_in(transaction, CallState(state))).state is CallState.CANCELED


@pytest.mark.parametrize("state", ["succeeded", "ingested", "failed", "canceled", "expired"])
def test_canceling_what_is_done_changes_nothing(transaction: sa.Connection, state: str) -> None:
    assert mark_canceled(transaction, put_in(transaction, CallState(state))).state == state


def test_an_unknown_call_is_named(database: Database) -> None:
    nowhere = uuid4()
    with pytest.raises(UnknownCall, match=str(nowhere)), database.begin() as db:
        mark_submitting(db, nowhere)
