"""Calls to engines: what each one's row in `provider_jobs` says, from the claim to the result.

Here: the legal ways from one state to the next. Not here: what is called and when (`production.calls`). The
row is committed before the request leaves, so that after a crash somebody knows that it may have left: a paid
call is made at most once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger.schema import provider_jobs
from moltpipe.ledger.text import storable


class CallState(StrEnum):
    """Where a call is."""

    CLAIMED = "claimed"
    """The request has not left."""
    SUBMITTING = "submitting"
    """It may have left."""
    SUBMITTED = "submitted"
    """The engine accepted it and gave it an id."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    """The engine is done; the result is not recorded yet."""
    INGESTED = "ingested"
    """The result is recorded."""
    FAILED = "failed"
    AMBIGUOUS = "ambiguous"
    """Nobody knows whether the engine accepted it. Never submitted again by itself."""
    CANCELED = "canceled"
    EXPIRED = "expired"
    """Put aside: its result is lost, or made anew."""


OVER = frozenset({CallState.FAILED, CallState.CANCELED, CallState.EXPIRED})
_UNDER_WAY = frozenset({CallState.SUBMITTED, CallState.RUNNING})
_FROM: dict[CallState, frozenset[CallState]] = {
    CallState.SUBMITTING: frozenset({CallState.CLAIMED}),
    # From ambiguous: the id was found at the engine after all.
    CallState.SUBMITTED: frozenset({CallState.SUBMITTING, CallState.AMBIGUOUS}),
    CallState.RUNNING: frozenset({CallState.SUBMITTED}),
    CallState.SUCCEEDED: _UNDER_WAY,
    CallState.INGESTED: frozenset({CallState.SUCCEEDED}),
    CallState.FAILED: _UNDER_WAY | {CallState.CLAIMED, CallState.SUBMITTING, CallState.AMBIGUOUS},
    CallState.AMBIGUOUS: _UNDER_WAY | {CallState.SUBMITTING},
    CallState.CANCELED: _UNDER_WAY | {CallState.CLAIMED, CallState.AMBIGUOUS},
    CallState.EXPIRED: frozenset(CallState) - OVER,
}


@dataclass(frozen=True)
class Call:
    """One call to an engine."""

    id: UUID
    fingerprint: str
    engine: str
    operation: str
    state: CallState
    external_id: str | None
    cost_usd: Decimal
    error_class: str | None
    error: str | None
    process_uuid: str
    submitted_at: datetime | None
    finished_at: datetime | None


class CallExists(Exception):
    """The same request is under way, or done, in a call that was not put aside."""

    def __init__(self, call: Call) -> None:
        super().__init__(f"call {call.id} to {call.engine} for the same request is {call.state}: go on with that one")
        self.call = call


class UnknownCall(Exception):
    """There is no such call."""

    def __init__(self, call_id: UUID) -> None:
        super().__init__(f"there is no call {call_id}")
        self.call_id = call_id


class IllegalTransition(Exception):
    """A call cannot go from the state that it is in to the one that was asked for."""

    def __init__(self, call_id: UUID, state: CallState, wanted: CallState) -> None:
        legal = ", ".join(sorted(_FROM[wanted]))
        super().__init__(f"call {call_id} is {state} and cannot become {wanted}: expected one that is {legal}")
        self.call_id = call_id
        self.state = state
        self.wanted = wanted


def claim_call(
    db: Connection, fingerprint: str, engine: str, operation: str, request: dict[str, Any], *, process_uuid: str
) -> Call:
    """Write down that a request is about to be made. Commit before it leaves.

    Raises:
        CallExists: a live call has this fingerprint.
    """
    row = db.execute(
        insert(provider_jobs)
        .values(
            fingerprint=fingerprint,
            engine=engine,
            operation=operation,
            state=CallState.CLAIMED.value,
            request=request,
            process_uuid=process_uuid,
        )
        .on_conflict_do_nothing()
        .returning(provider_jobs)
    ).one_or_none()
    if row is not None:
        return _call(row)
    existing = live_call(db, fingerprint)
    if existing is None:
        # It was put aside between the two statements: the next one to ask gets through.
        return claim_call(db, fingerprint, engine, operation, request, process_uuid=process_uuid)
    raise CallExists(existing)


def live_call(db: Connection, fingerprint: str) -> Call | None:
    """The call with this fingerprint that is neither failed, canceled nor put aside; there is at most one."""
    row = db.execute(
        sa.select(provider_jobs).where(
            provider_jobs.c.fingerprint == fingerprint, provider_jobs.c.state.not_in([state.value for state in OVER])
        )
    ).one_or_none()
    return _call(row) if row is not None else None


def mark_submitting(db: Connection, call_id: UUID) -> Call:
    """The request is about to leave. Commit before it does.

    Raises:
        UnknownCall, IllegalTransition.
    """
    return _go(db, call_id, CallState.SUBMITTING)


def mark_submitted(db: Connection, call_id: UUID, external_id: str) -> Call:
    """The engine accepted the request and named it.

    Raises:
        UnknownCall, IllegalTransition.
    """
    return _go(db, call_id, CallState.SUBMITTED, external_id=external_id, submitted_at=sa.func.clock_timestamp())


def mark_running(db: Connection, call_id: UUID) -> Call:
    """The engine says that it is at work.

    Raises:
        UnknownCall, IllegalTransition.
    """
    return _go(db, call_id, CallState.RUNNING)


def mark_succeeded(db: Connection, call_id: UUID, cost_usd: Decimal) -> Call:
    """The engine is done, and this is what it cost in US dollars.

    Raises:
        UnknownCall, IllegalTransition.
    """
    return _go(db, call_id, CallState.SUCCEEDED, cost_usd=cost_usd, finished_at=sa.func.clock_timestamp())


def mark_ingested(db: Connection, call_id: UUID) -> Call:
    """The result is recorded. Belongs into the transaction that records it.

    Raises:
        UnknownCall, IllegalTransition.
    """
    return _go(db, call_id, CallState.INGESTED)


def mark_failed(db: Connection, call_id: UUID, error_class: str, error: str) -> Call:
    """The engine refused or failed. Of the class `ambiguous`, the call stays alive, in that state.

    Raises:
        UnknownCall, IllegalTransition.
    """
    reached = CallState.AMBIGUOUS if error_class == CallState.AMBIGUOUS.value else CallState.FAILED
    return _go(
        db,
        call_id,
        reached,
        error_class=error_class,
        error=storable(error),
        finished_at=None if reached is CallState.AMBIGUOUS else sa.func.clock_timestamp(),
    )


def mark_canceled(db: Connection, call_id: UUID) -> Call:
    """Nobody waits for the call any more. One that is done or over stays as it is.

    One whose request may just have left becomes ambiguous: calling it canceled would free the fingerprint, and
    the same request would be paid for twice.

    Raises:
        UnknownCall.
    """
    call = _lock(db, call_id)
    if call.state is CallState.SUBMITTING:
        return _go(
            db,
            call_id,
            CallState.AMBIGUOUS,
            error_class=CallState.AMBIGUOUS.value,
            error="canceled while the request was leaving",
        )
    if call.state not in _FROM[CallState.CANCELED]:
        return call
    return _go(db, call_id, CallState.CANCELED, finished_at=sa.func.clock_timestamp())


def expire_call(db: Connection, call_id: UUID) -> Call:
    """Put a live call aside, so that the same request may be made again. What it cost stays on its row.

    Raises:
        UnknownCall, IllegalTransition.
    """
    return _go(
        db,
        call_id,
        CallState.EXPIRED,
        finished_at=sa.func.coalesce(provider_jobs.c.finished_at, sa.func.clock_timestamp()),
    )


def _go(db: Connection, call_id: UUID, state: CallState, **values: object) -> Call:
    call = _lock(db, call_id)
    if call.state not in _FROM[state]:
        raise IllegalTransition(call_id, call.state, state)
    row = db.execute(
        sa.update(provider_jobs)
        .where(provider_jobs.c.id == call_id)
        .values(state=state.value, **values)
        .returning(provider_jobs)
    ).one()
    return _call(row)


def _lock(db: Connection, call_id: UUID) -> Call:
    row = db.execute(sa.select(provider_jobs).where(provider_jobs.c.id == call_id).with_for_update()).one_or_none()
    if row is None:
        raise UnknownCall(call_id)
    return _call(row)


def _call(row: Row[Any]) -> Call:
    return Call(
        id=row.id,
        fingerprint=row.fingerprint,
        engine=row.engine,
        operation=row.operation,
        state=CallState(row.state),
        external_id=row.external_id,
        cost_usd=row.cost_usd,
        error_class=row.error_class,
        error=row.error,
        process_uuid=row.process_uuid,
        submitted_at=row.submitted_at,
        finished_at=row.finished_at,
    )
