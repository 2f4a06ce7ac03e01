"""Calls to engines: what each one's row in `provider_jobs` says, from the claim to the result.

Here: the legal ways from one state to the next, and what each means for the money that was reserved. Not here:
what is called and when (`production.calls`), when a request may leave (`ledger.accounts`). The row is committed
before the request leaves, so that after a crash somebody knows that it may have left: a paid call is made at
most once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger.schema import episodes, provider_jobs, shots
from moltpipe.ledger.spending import NO_CAPS, Caps, Purchase, lock_budget, reservation
from moltpipe.ledger.text import storable

NEW_JOBS_IN_A_ROW = 3
"""How many jobs are made of one request while each of them ends with "a new one is fine"."""
RECENT = timedelta(days=2)
"""How far back another call's job may be taken for a lost one."""

_RETRY_SAFE = "retry_safe"
_NEVER_AGAIN = frozenset({"invalid_input", "filtered", "ambiguous"})
"""Classes of a failure that would come again, or be paid for again, although nobody accepted the request."""


class CallState(StrEnum):
    """Where a call is."""

    CLAIMED = "claimed"
    """The request has not left, or has certainly not been accepted."""
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
AT_PROVIDER = frozenset({CallState.SUBMITTING, CallState.SUBMITTED, CallState.RUNNING})
"""The request has left, or is leaving, and nobody knows of an end."""
_UNDER_WAY = frozenset({CallState.SUBMITTED, CallState.RUNNING})
_MAY_HAVE_LEFT = frozenset({CallState.SUBMITTING, CallState.AMBIGUOUS})
_SETTLED = OVER | {CallState.SUCCEEDED, CallState.INGESTED}
_FROM: dict[CallState, frozenset[CallState]] = {
    # It was certainly not accepted after all.
    CallState.CLAIMED: _MAY_HAVE_LEFT,
    CallState.SUBMITTING: frozenset({CallState.CLAIMED}),
    # From ambiguous: the id was found at the engine after all.
    CallState.SUBMITTED: _MAY_HAVE_LEFT,
    CallState.RUNNING: frozenset({CallState.SUBMITTED}),
    CallState.SUCCEEDED: _UNDER_WAY,
    CallState.INGESTED: frozenset({CallState.SUCCEEDED}),
    # From succeeded: what arrived cannot be used, or cannot be fetched any more.
    CallState.FAILED: _UNDER_WAY | _MAY_HAVE_LEFT | {CallState.CLAIMED, CallState.SUCCEEDED},
    CallState.AMBIGUOUS: _UNDER_WAY | {CallState.SUBMITTING},
    CallState.CANCELED: _UNDER_WAY | {CallState.CLAIMED},
    # From failed: a person says that the request is to be made again.
    CallState.EXPIRED: frozenset(CallState) - OVER | {CallState.FAILED},
}


@dataclass(frozen=True)
class Intent:
    """A request that is about to be made."""

    fingerprint: str
    """Hex sha256: two requests with the same one are the same purchase."""
    engine: str
    model: str
    operation: str
    """`write`, `speak`, `film` or `compose`."""
    request: dict[str, Any]
    process_uuid: str
    episode_id: UUID | None
    subject_id: UUID
    """The shot or, for an episode's script and music, the episode."""
    variant_number: int
    take_number: int
    account: str | None
    """Whose limits hold at the provider; None for an engine of this machine, whose calls cost nothing."""
    quote_usd: Decimal | None
    """What it will cost; None where no price is known."""
    basis: str
    """The reckoning behind the quote, in words."""


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
    model: str
    account: str | None
    episode_id: UUID | None
    subject_id: UUID | None
    variant_number: int
    take_number: int
    reserved_usd: Decimal
    """What it may still cost; nothing once it is over."""
    left_at: datetime | None
    """When the request left, or may have left."""
    claimed_at: datetime
    result: dict[str, Any] | None
    """What the engine made, with the key of its object."""
    request: dict[str, Any]


class CallExists(Exception):
    """The same request is under way, or done, in a call that was not put aside."""

    def __init__(self, call: Call) -> None:
        super().__init__(f"call {call.id} to {call.engine} for the same request is {call.state}: go on with that one")
        self.call = call


class GivenUp(Exception):
    """The same request failed before in a way that will come again, or was given up by a person."""

    def __init__(self, call: Call) -> None:
        super().__init__(
            f"call {call.id} to {call.engine} for the same request failed for good "
            f"({call.error_class}: {call.error}): `moltpipe repair --resubmit {call.id}` sends it again"
        )
        self.call = call


class UnknownCall(Exception):
    """There is no such call."""

    def __init__(self, call_id: UUID) -> None:
        super().__init__(f"there is no call {call_id}")
        self.call_id = call_id


class CallOver(Exception):
    """A call that is over cannot be gone on with."""

    def __init__(self, call: Call) -> None:
        super().__init__(f"call {call.id} to {call.engine} is {call.state}: there is nothing to go on with")
        self.call = call


class IllegalTransition(Exception):
    """A call cannot go from the state that it is in to the one that was asked for."""

    def __init__(self, call_id: UUID, state: CallState, wanted: CallState) -> None:
        legal = ", ".join(sorted(_FROM[wanted]))
        super().__init__(f"call {call_id} is {state} and cannot become {wanted}: expected one that is {legal}")
        self.call_id = call_id
        self.state = state
        self.wanted = wanted


def claim_call(db: Connection, intent: Intent, caps: Caps = NO_CAPS) -> Call:
    """Write down that a request is about to be made, and reserve what it will cost. Commit before it leaves.

    An engine of this machine has neither caps nor a memory: what failed there cost nothing.

    Raises:
        CallExists: a live call has this fingerprint. Its row is held until the transaction ends.
        GivenUp: the newest call with this fingerprint failed for good.
        BudgetReached: a cap does not leave enough.
        PriceUnknown: there is a cap and no price.
    """
    hosted = intent.account is not None
    now = lock_budget(db) if hosted else _clock(db)
    live = _live(db, intent.fingerprint, hold=True)
    if live is not None:
        raise CallExists(live)
    to_reserve = Decimal(0)
    if hosted:
        for_good = failed_for_good(db, intent.fingerprint)
        if for_good is not None:
            raise GivenUp(for_good)
        _put_back_unsent(db, intent)
        to_reserve = reservation(
            db,
            Purchase(intent.engine, intent.quote_usd, intent.basis, intent.process_uuid, intent.episode_id),
            caps,
            now,
        )
    row = db.execute(
        insert(provider_jobs)
        .values(
            fingerprint=intent.fingerprint,
            engine=intent.engine,
            model=intent.model,
            operation=intent.operation,
            state=CallState.CLAIMED.value,
            request=intent.request,
            process_uuid=intent.process_uuid,
            claimed_by=intent.process_uuid,
            claimed_at=now,
            account=intent.account,
            episode_id=intent.episode_id,
            subject_id=intent.subject_id,
            variant_number=intent.variant_number,
            take_number=intent.take_number,
            reserved_usd=to_reserve,
        )
        .on_conflict_do_nothing()
        .returning(provider_jobs)
    ).one_or_none()
    # Nothing: another process of this machine claimed it since; the next look finds its call.
    return _call(row) if row is not None else claim_call(db, intent, caps)


def _put_back_unsent(db: Connection, intent: Intent) -> None:
    """Let go of the money for the same take in other words, or of another engine, whose request never left.

    Nobody comes back for such a call, and what it had reserved counted against the caps for ever.
    """
    db.execute(
        sa.update(provider_jobs)
        .where(
            provider_jobs.c.episode_id == intent.episode_id,
            provider_jobs.c.subject_id == intent.subject_id,
            provider_jobs.c.operation == intent.operation,
            provider_jobs.c.variant_number == intent.variant_number,
            provider_jobs.c.take_number == intent.take_number,
            provider_jobs.c.fingerprint != intent.fingerprint,
            provider_jobs.c.state == CallState.CLAIMED.value,
        )
        .values(state=CallState.CANCELED.value, reserved_usd=0, finished_at=sa.func.clock_timestamp())
    )


def adopt_call(db: Connection, call_id: UUID, process_uuid: str) -> Call:
    """Let another process go on with a live call. Its money stays with the process that claimed it.

    A call whose result is recorded already is only read.

    Raises:
        UnknownCall: there is no such call.
        CallOver: nobody can go on with it.
    """
    call = lock_call(db, call_id)
    if call.state in OVER:
        raise CallOver(call)
    return call if call.state is CallState.INGESTED else _write(db, call_id, process_uuid=process_uuid)


def call_by_id(db: Connection, call_id: UUID) -> Call:
    """One call.

    Raises:
        UnknownCall: there is no such call.
    """
    row = db.execute(sa.select(provider_jobs).where(provider_jobs.c.id == call_id)).one_or_none()
    if row is None:
        raise UnknownCall(call_id)
    return _call(row)


def lock_call(db: Connection, call_id: UUID) -> Call:
    """One call, held until the transaction ends. Who holds a production job as well takes that first.

    Raises:
        UnknownCall: there is no such call.
    """
    row = db.execute(sa.select(provider_jobs).where(provider_jobs.c.id == call_id).with_for_update()).one_or_none()
    if row is None:
        raise UnknownCall(call_id)
    return _call(row)


def time_since_left(db: Connection, call_id: UUID) -> timedelta:
    """How long ago a call's request left, by the one clock that wrote it down; nothing for one that has not."""
    age: timedelta | None = db.execute(
        sa.select(sa.func.clock_timestamp() - provider_jobs.c.left_at).where(provider_jobs.c.id == call_id)
    ).scalar_one_or_none()
    return age or timedelta(0)


def live_call(db: Connection, fingerprint: str) -> Call | None:
    """The call with this fingerprint that is neither failed, canceled nor put aside; there is at most one."""
    return _live(db, fingerprint, hold=False)


def failed_for_good(db: Connection, fingerprint: str) -> Call | None:
    """The failure that keeps a request from being made again by itself; None when it may be made.

    Of the calls that are over, the newest decides. What was never accepted may be sent again, unless it would be
    refused again. What was accepted and failed may not, because it may have been billed; where the provider says
    that a new job is fine, there may be three of them in a row.
    """
    rows = db.execute(
        sa.select(provider_jobs)
        .where(provider_jobs.c.fingerprint == fingerprint, _is_in(OVER))
        .order_by(provider_jobs.c.claimed_at.desc(), provider_jobs.c.id)
        .limit(NEW_JOBS_IN_A_ROW)
    )
    latest = [_call(row) for row in rows]
    if not latest or latest[0].state is not CallState.FAILED or latest[0].account is None:
        return None
    newest = latest[0]
    if newest.error_class in _NEVER_AGAIN:
        return newest
    if newest.external_id is None:
        return None
    if newest.error_class != _RETRY_SAFE:
        return newest
    again_and_again = len(latest) == NEW_JOBS_IN_A_ROW and all(_ended_retry_safe(call) for call in latest)
    return newest if again_and_again else None


def others_of(db: Connection, call: Call) -> frozenset[str]:
    """External ids that are not this call's, although they look like it.

    Those of other calls to the same engine and account, of the same series or of the last two days.
    """
    series = sa.select(episodes.c.series_id).where(episodes.c.id == call.episode_id).scalar_subquery()
    of_series = provider_jobs.c.episode_id.in_(sa.select(episodes.c.id).where(episodes.c.series_id == series))
    found = db.execute(
        sa.select(provider_jobs.c.external_id).where(
            provider_jobs.c.engine == call.engine,
            provider_jobs.c.account.is_not_distinct_from(call.account),
            provider_jobs.c.id != call.id,
            provider_jobs.c.external_id.is_not(None),
            of_series | (provider_jobs.c.submitted_at > sa.func.clock_timestamp() - RECENT),
        )
    )
    return frozenset(found.scalars())


def ambiguous_calls() -> sa.Select[Any]:
    """The calls that a person has to decide about, as a statement.

    `episode` is its partition key and `shot` its number, where the call is for one. `reserved_usd` is a float.
    """
    return (
        sa.select(
            provider_jobs.c.id.label("call_id"),
            provider_jobs.c.engine,
            provider_jobs.c.operation,
            episodes.c.partition_key.label("episode"),
            shots.c.shot_number.label("shot"),
            provider_jobs.c.left_at,
            sa.cast(provider_jobs.c.reserved_usd, sa.Float).label("reserved_usd"),
            provider_jobs.c.error,
            sa.func.coalesce(provider_jobs.c.left_at, provider_jobs.c.claimed_at).label("since"),
        )
        .outerjoin(episodes, episodes.c.id == provider_jobs.c.episode_id)
        .outerjoin(shots, shots.c.id == provider_jobs.c.subject_id)
        .where(provider_jobs.c.state == CallState.AMBIGUOUS.value)
    )


def count_at_provider(db: Connection) -> int:
    """Calls whose request has left, or is leaving, and of which nobody knows an end."""
    counted: int = db.execute(
        sa.select(sa.func.count()).select_from(provider_jobs).where(_is_in(AT_PROVIDER))
    ).scalar_one()
    return counted


def twin_of(db: Connection, intent: Intent) -> Call | None:
    """The first call of the same series that brought the result of the very same request; None where there is none."""
    series = sa.select(episodes.c.series_id).where(episodes.c.id == intent.episode_id).scalar_subquery()
    row = db.execute(
        sa.select(provider_jobs)
        .where(
            provider_jobs.c.engine == intent.engine,
            provider_jobs.c.model == intent.model,
            provider_jobs.c.operation == intent.operation,
            provider_jobs.c.take_number == intent.take_number,
            provider_jobs.c.state == CallState.INGESTED.value,
            provider_jobs.c.request == intent.request,
            provider_jobs.c.episode_id.in_(sa.select(episodes.c.id).where(episodes.c.series_id == series)),
        )
        .order_by(provider_jobs.c.claimed_at, provider_jobs.c.id)
        .limit(1)
    ).one_or_none()
    return None if row is None else _call(row)


def ingested_calls(db: Connection, episode_id: UUID, operation: str) -> int:
    """How many calls of one operation have brought an episode a result."""
    counted: int = db.execute(
        sa.select(sa.func.count())
        .select_from(provider_jobs)
        .where(
            provider_jobs.c.episode_id == episode_id,
            provider_jobs.c.operation == operation,
            provider_jobs.c.state == CallState.INGESTED.value,
        )
    ).scalar_one()
    return counted


def mark_submitting(db: Connection, call_id: UUID) -> Call:
    """The request is about to leave. Commit before it does.

    Raises:
        UnknownCall, IllegalTransition.
    """
    return _go(db, lock_call(db, call_id), CallState.SUBMITTING, left_at=sa.func.clock_timestamp())


def mark_unsent(db: Connection, call_id: UUID) -> Call:
    """The request was certainly not accepted, and may leave again. What is reserved for it stays so.

    Raises:
        UnknownCall, IllegalTransition.
    """
    return _go(db, lock_call(db, call_id), CallState.CLAIMED, left_at=None, error_class=None, error=None)


def mark_submitted(db: Connection, call_id: UUID, external_id: str) -> Call:
    """The engine accepted the request and named it. To say so again changes nothing.

    Raises:
        UnknownCall, IllegalTransition.
    """
    call = lock_call(db, call_id)
    if call.external_id == external_id and call.state not in _FROM[CallState.SUBMITTED]:
        return call
    return _go(
        db,
        call,
        CallState.SUBMITTED,
        external_id=external_id,
        submitted_at=sa.func.clock_timestamp(),
        error_class=None,
        error=None,
    )


def mark_running(db: Connection, call_id: UUID) -> Call:
    """The engine says that it is at work.

    Raises:
        UnknownCall, IllegalTransition.
    """
    return _go(db, lock_call(db, call_id), CallState.RUNNING)


def mark_succeeded(db: Connection, call_id: UUID, cost_usd: Decimal) -> Call:
    """The engine is done, and this is what it cost in US dollars.

    Raises:
        UnknownCall, IllegalTransition.
    """
    return _end(db, lock_call(db, call_id), CallState.SUCCEEDED, cost_usd)


def mark_ingested(db: Connection, call_id: UUID, result: dict[str, Any] | None = None) -> Call:
    """The result is recorded. Belongs into the transaction that records it. To say so again changes nothing.

    Raises:
        UnknownCall, IllegalTransition.
    """
    # Before the row is held: a voiceover or take of this transaction may point at it, and so may another one's. To want
    # the row for itself where two episodes say the same line was a deadlock.
    known = call_by_id(db, call_id)
    if known.state is CallState.INGESTED:
        return known
    call = lock_call(db, call_id)
    if call.state is CallState.INGESTED:
        return call
    kept = {} if result is None else {"result": result}
    return _go(db, call, CallState.INGESTED, **kept)


def mark_failed(db: Connection, call_id: UUID, error_class: str, error: str, cost_usd: Decimal | None = None) -> Call:
    """The engine refused or failed. Of the class `ambiguous`, the call stays alive, in that state.

    Without a `cost_usd`, what was reserved is the cost of a call that was accepted, or may have been; one that was
    not cost nothing, and one that succeeded before has its cost already.

    Raises:
        UnknownCall, IllegalTransition.
    """
    if error_class == CallState.AMBIGUOUS.value:
        return mark_ambiguous(db, call_id, error)
    call = lock_call(db, call_id)
    cost = _cost(call, frozenset({CallState.AMBIGUOUS})) if cost_usd is None else cost_usd
    return _end(db, call, CallState.FAILED, cost, error_class=error_class, error=storable(error))


def mark_ambiguous(db: Connection, call_id: UUID, error: str) -> Call:
    """Nobody knows whether the engine accepted the request. What is reserved for it stays so.

    Raises:
        UnknownCall, IllegalTransition.
    """
    return _go(
        db,
        lock_call(db, call_id),
        CallState.AMBIGUOUS,
        error_class=CallState.AMBIGUOUS.value,
        error=storable(error),
        finished_at=None,
    )


def mark_canceled(db: Connection, call_id: UUID, cost_usd: Decimal | None = None) -> Call:
    """Nobody waits for the call any more. One that is done or over stays as it is, and so does an ambiguous one.

    One whose request may just have left becomes ambiguous: calling it canceled would free the fingerprint, and
    the same request would be paid for twice. On this machine nothing outlives its process, so it is canceled.

    Raises:
        UnknownCall.
    """
    call = lock_call(db, call_id)
    if call.state is CallState.SUBMITTING and call.account is not None:
        return mark_ambiguous(db, call_id, "canceled while the request was leaving")
    if call.state is not CallState.SUBMITTING and call.state not in _FROM[CallState.CANCELED]:
        return call
    return _end_now(db, call, CallState.CANCELED, _cost(call, frozenset()) if cost_usd is None else cost_usd)


def expire_call(db: Connection, call_id: UUID, why: str | None = None) -> Call:
    """Put a call aside, so that the same request may be made again. What it cost, or may have cost, stays on its row.

    Raises:
        UnknownCall, IllegalTransition.
    """
    call = lock_call(db, call_id)
    said = {} if why is None else {"error": storable(why)}
    return _end(db, call, CallState.EXPIRED, _cost(call, _MAY_HAVE_LEFT), **said)


def give_up_call(db: Connection, call_id: UUID, why: str) -> Call:
    """Leave an ambiguous call failed, so that nobody waits for it and nobody sends it again by itself.

    Raises:
        UnknownCall, IllegalTransition.
    """
    call = lock_call(db, call_id)
    if call.state is not CallState.AMBIGUOUS:
        raise IllegalTransition(call_id, call.state, CallState.FAILED)
    return _end(db, call, CallState.FAILED, call.reserved_usd, error=storable(why))


def _live(db: Connection, fingerprint: str, *, hold: bool) -> Call | None:
    statement = sa.select(provider_jobs).where(provider_jobs.c.fingerprint == fingerprint, sa.not_(_is_in(OVER)))
    row = db.execute(statement.with_for_update() if hold else statement).one_or_none()
    return _call(row) if row is not None else None


def _ended_retry_safe(call: Call) -> bool:
    return call.state is CallState.FAILED and call.external_id is not None and call.error_class == _RETRY_SAFE


def _cost(call: Call, may_have_been_accepted: frozenset[CallState]) -> Decimal:
    """What a call cost that ends without the provider's word on it."""
    if call.state in _SETTLED:
        return call.cost_usd
    accepted = call.external_id is not None or call.state in may_have_been_accepted
    return call.reserved_usd if accepted else Decimal(0)


def _end(db: Connection, call: Call, state: CallState, cost_usd: Decimal, **values: object) -> Call:
    """Into a state in which nothing is reserved any more."""
    if call.state not in _FROM[state]:
        raise IllegalTransition(call.id, call.state, state)
    return _end_now(db, call, state, cost_usd, **values)


def _end_now(db: Connection, call: Call, state: CallState, cost_usd: Decimal, **values: object) -> Call:
    finished_at = sa.func.coalesce(provider_jobs.c.finished_at, sa.func.clock_timestamp())
    return _write(db, call.id, state=state.value, cost_usd=cost_usd, reserved_usd=0, finished_at=finished_at, **values)


def _go(db: Connection, call: Call, state: CallState, **values: object) -> Call:
    if call.state not in _FROM[state]:
        raise IllegalTransition(call.id, call.state, state)
    return _write(db, call.id, state=state.value, **values)


def _write(db: Connection, call_id: UUID, **values: object) -> Call:
    row = db.execute(
        sa.update(provider_jobs).where(provider_jobs.c.id == call_id).values(**values).returning(provider_jobs)
    ).one()
    return _call(row)


def _is_in(states: frozenset[CallState]) -> sa.ColumnElement[bool]:
    return provider_jobs.c.state.in_(sorted(state.value for state in states))


def _clock(db: Connection) -> datetime:
    now: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return now


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
        model=row.model,
        account=row.account,
        episode_id=row.episode_id,
        subject_id=row.subject_id,
        variant_number=row.variant_number,
        take_number=row.take_number,
        reserved_usd=row.reserved_usd,
        left_at=row.left_at,
        claimed_at=row.claimed_at,
        result=row.result,
        request=row.request,
    )
