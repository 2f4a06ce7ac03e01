"""Accounts at providers: who may start a call now, and who has to wait for what.

Here: limits that hold over every process on every machine, because each decision is made under the lock of the
account's one row and by the clock of the database; and the circuit that keeps calls from a provider that refuses
them all. Not here: waiting (`production.calls`), places on this machine (`ledger.slots`).

Without the circuit, an account that ran out of credit would be asked once per shot, and every episode would use up
its attempts within minutes on requests that nobody could have served.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger.calls import (
    AT_PROVIDER,
    Call,
    CallState,
    IllegalTransition,
    call_by_id,
    lock_call,
    mark_submitting,
)
from moltpipe.ledger.schema import engine_accounts, engine_queues, production_jobs, provider_jobs
from moltpipe.ledger.text import storable

_AT_PROVIDER = sorted(state.value for state in AT_PROVIDER)

PROBE = timedelta(seconds=60)
"""How long the others wait for the one call that tries whether the provider is well again."""
_DOUBLINGS = 8
DOUBT = timedelta(minutes=3)
"""How long a call that may have been accepted counts as in flight: one that waits for a person must not stop others."""
STILL_WAITING = timedelta(seconds=3)
"""How long the calls of a process keep their place in the queue after one of them has asked. While there is somebody to
send them one asks every second; that their run is alive would say less, which may rest where a provider refused it."""
FAULTS = 5
"""Faults in a row after which the provider is left alone for a while."""


@dataclass(frozen=True)
class _Rest:
    """How long a circuit stays open: at first, and at most; it doubles in between."""

    first: timedelta
    longest: timedelta

    def after(self, opened_before: int) -> timedelta:
        """The rest when the circuit opened this many times in a row before."""
        doubled: timedelta = self.first * 2 ** min(opened_before, _DOUBLINGS)
        return min(self.longest, doubled)


_REFUSED = _Rest(timedelta(minutes=5), timedelta(minutes=60))
_FAULTY = _Rest(timedelta(minutes=1), timedelta(minutes=30))


@dataclass(frozen=True)
class StartLimits:
    """What an account allows."""

    max_concurrency: int
    """Calls in flight at once."""
    start_delay: timedelta
    """The least time between two starts."""
    deadline: timedelta
    """How long after its start a call still counts as in flight."""


@dataclass(frozen=True)
class Started:
    """The request may leave now, and counts as having left."""

    call: Call


@dataclass(frozen=True)
class NotYet:
    """The request may not leave yet."""

    wait: timedelta | None
    """The exact rest; None where it depends on others."""
    why: str
    blocked: bool = False
    """Whether the provider, or its account, takes no request at all."""
    abandoned: bool = False
    """Whether every place is held by a call whose run is gone: the next run of its episode frees it, and none other."""


@dataclass(frozen=True)
class AccountState:
    """What an account is doing, for the operator."""

    account: str
    in_flight: int
    """Calls whose request has left, and of which nobody knows an end; ambiguous ones are not among them."""
    blocked_until: datetime | None
    """None when it takes requests."""
    reason: str | None


def start_call(db: Connection, call_id: UUID, limits: StartLimits) -> Started | NotYet:
    """Let a claimed call's request leave, if its account allows it at this moment. Commit before it does.

    Of processes that wait, the one with the oldest call goes first. Places used to go to whoever asked in the right
    moment: five episodes that needed the same voices all had theirs at the end, and no camera worked until then.

    After a circuit's rest one call at a time tries whether the provider is well again, until one succeeds.

    Raises:
        UnknownCall: there is no such call.
        IllegalTransition: it is not claimed: somebody else sent it, or it is over.
        ValueError: it is a call of this machine, which has no account.
    """
    account = call_by_id(db, call_id).account
    if account is None:
        raise ValueError(f"call {call_id} goes to an engine of this machine: expected one that has an account")
    row, now = _hold(db, account)
    call = lock_call(db, call_id)
    if call.state is not CallState.CLAIMED:
        raise IllegalTransition(call_id, call.state, CallState.SUBMITTING)
    _queue(db, account, call.process_uuid, now)
    hindrance = _hindrance(row, now) or _no_place(db, call, account, limits, now) or _too_soon(row, now)
    if hindrance is not None:
        return hindrance
    started = mark_submitting(db, call_id)
    left_at = started.left_at or now
    probing = {"probing_until": now + PROBE} if row.circuit_opened else {}
    _write(db, account, next_start_at=left_at + limits.start_delay, **probing)
    return Started(started)


def note_answered(db: Connection, account: str, start_delay: timedelta) -> None:
    """The provider has answered: the next start keeps its distance from here as well as from the last start."""
    row, now = _hold(db, account)
    _write(db, account, next_start_at=_later(row.next_start_at, now + start_delay))


def block_account(db: Connection, account: str, wait: timedelta, why: str) -> None:
    """The provider asked to wait: nothing is sent before that. A longer wait stays."""
    row, now = _hold(db, account)
    # The one that tried has its answer: the next one need not wait for it.
    changes: dict[str, object] = {"probing_until": None}
    until = now + wait
    if _later(row.blocked_until, until) == until:
        changes |= {"blocked_until": until, "blocked_reason": storable(why)}
    _write(db, account, **changes)


def open_circuit(db: Connection, account: str, why: str) -> datetime:
    """The account needs a person, for its key or its credit: nothing is sent for five minutes, later for up to an hour.

    Calls that were on their way when it opened do not open it again.

    Returns:
        When a request may try again.
    """
    row, now = _hold(db, account)
    return _open(db, account, row, now, _REFUSED, why)


def note_fault(db: Connection, account: str, why: str) -> datetime | None:
    """The provider failed. After the fifth time in a row, or while it is being tried again, the circuit opens.

    Returns:
        When a request may try again; None while the circuit is closed.
    """
    row, now = _hold(db, account)
    faults = row.faults_in_a_row + 1
    _write(db, account, faults_in_a_row=faults)
    if faults < FAULTS and not row.circuit_opened:
        return None
    return _open(db, account, row, now, _FAULTY, why)


def note_success(db: Connection, account: str, left_at: datetime | None = None) -> None:
    """A call has succeeded: the circuit closes, and counting begins anew. A wait that the provider asked for stays.

    Of a call whose request had left (`left_at`) before the circuit opened, the success proves nothing: an account
    without credit goes on finishing what it was paid for.
    """
    row, _ = _hold(db, account)
    if not row.circuit_opened:
        _write(db, account, faults_in_a_row=0)
    elif left_at is None or left_at > row.opened_at:
        _write(
            db,
            account,
            faults_in_a_row=0,
            circuit_opened=0,
            opened_at=None,
            probing_until=None,
            blocked_until=None,
            blocked_reason=None,
        )


def account_states(db: Connection) -> list[AccountState]:
    """Every account that was ever used, by name."""
    in_flight = (
        sa.select(sa.func.count())
        .where(provider_jobs.c.account == engine_accounts.c.account, provider_jobs.c.state.in_(_AT_PROVIDER))
        .correlate(engine_accounts)
        .scalar_subquery()
    )
    is_blocked = engine_accounts.c.blocked_until > sa.func.clock_timestamp()
    rows = db.execute(
        sa.select(
            engine_accounts.c.account,
            in_flight.label("in_flight"),
            sa.case((is_blocked, engine_accounts.c.blocked_until)).label("blocked_until"),
            sa.case((is_blocked, engine_accounts.c.blocked_reason)).label("reason"),
        ).order_by(engine_accounts.c.account)
    )
    return [AccountState(row.account, row.in_flight, row.blocked_until, row.reason) for row in rows]


def _hindrance(row: Row[Any], now: datetime) -> NotYet | None:
    """What the provider, or its account, has against any start."""
    if row.blocked_until is not None and row.blocked_until > now:
        return NotYet(row.blocked_until - now, row.blocked_reason, blocked=True)
    if row.circuit_opened and row.probing_until is not None and row.probing_until > now:
        return NotYet(None, f"another call tries whether it is over: {row.blocked_reason}")
    return None


def _no_place(db: Connection, call: Call, account: str, limits: StartLimits, now: datetime) -> NotYet | None:
    """Whether the account is full, or its free places are for calls that came earlier."""
    at_provider = sa.and_(provider_jobs.c.state.in_(_AT_PROVIDER), provider_jobs.c.left_at > now - limits.deadline)
    in_doubt = sa.and_(
        provider_jobs.c.state == CallState.AMBIGUOUS.value,
        provider_jobs.c.left_at > now - min(DOUBT, limits.deadline),
    )
    in_flight = at_provider | in_doubt
    attended = provider_jobs.c.episode_id.is_(None) | sa.exists().where(
        production_jobs.c.episode_id == provider_jobs.c.episode_id,
        production_jobs.c.process_uuid == provider_jobs.c.process_uuid,
    )
    waits_ahead = _waits_ahead(call, account, now)
    taken, of_the_living, ahead = db.execute(
        sa.select(
            sa.func.count().filter(in_flight),
            sa.func.count().filter(in_flight & attended),
            sa.func.count().filter(waits_ahead),
        ).where(provider_jobs.c.account == account, provider_jobs.c.id != call.id, in_flight | waits_ahead)
    ).one()
    if taken + ahead < limits.max_concurrency:
        return None
    why = f"{taken} of {limits.max_concurrency} in flight"
    if taken < limits.max_concurrency:
        return NotYet(None, f"{why}, {ahead} that came earlier are next")
    if of_the_living:
        return NotYet(None, why)
    return NotYet(None, f"{why}, all of them of runs that are gone", abandoned=True)


def _waits_ahead(call: Call, account: str, now: datetime) -> sa.ColumnElement[bool]:
    """Whether a row is a waiting call of another process, and older than every waiting call of this one's.

    A process ranks by the oldest of its calls, whichever of them asks. By the one that asks, two processes could each
    wait for a call of the other's that stands behind the one that asks there.
    """
    asks = sa.exists().where(
        engine_queues.c.account == account,
        engine_queues.c.process_uuid == provider_jobs.c.process_uuid,
        engine_queues.c.asked_at > now - STILL_WAITING,
    )
    ours = provider_jobs.alias()
    rank = (
        sa.select(sa.func.min(ours.c.claimed_at))
        .where(
            ours.c.account == account,
            ours.c.process_uuid == call.process_uuid,
            ours.c.state == CallState.CLAIMED.value,
        )
        .scalar_subquery()
    )
    return sa.and_(
        provider_jobs.c.state == CallState.CLAIMED.value,
        provider_jobs.c.process_uuid != call.process_uuid,
        asks,
        sa.tuple_(provider_jobs.c.claimed_at, provider_jobs.c.process_uuid)
        < sa.tuple_(rank, sa.literal(call.process_uuid)),
    )


def _queue(db: Connection, account: str, process_uuid: str, now: datetime) -> None:
    """Note that a process asks, and forget those that no longer do."""
    db.execute(
        insert(engine_queues)
        .values(account=account, process_uuid=process_uuid, asked_at=now)
        .on_conflict_do_update(constraint=engine_queues.primary_key, set_={"asked_at": now})
    )
    gone = sa.and_(engine_queues.c.account == account, engine_queues.c.asked_at < now - STILL_WAITING)
    db.execute(sa.delete(engine_queues).where(gone))


def _too_soon(row: Row[Any], now: datetime) -> NotYet | None:
    if row.next_start_at is None or row.next_start_at <= now:
        return None
    return NotYet(row.next_start_at - now, "the last start was a moment ago")


def _open(db: Connection, account: str, row: Row[Any], now: datetime, rest: _Rest, why: str) -> datetime:
    """Open the circuit for twice as long as the last time, unless it is open."""
    if row.circuit_opened and row.blocked_until is not None and row.blocked_until > now:
        return _later(row.blocked_until, now)
    until = _later(row.blocked_until, now + rest.after(row.circuit_opened))
    _write(
        db,
        account,
        circuit_opened=row.circuit_opened + 1,
        opened_at=now,
        probing_until=None,
        blocked_until=until,
        blocked_reason=storable(why),
    )
    return until


def _hold(db: Connection, account: str) -> tuple[Row[Any], datetime]:
    """The account's row, held until the transaction ends and made when missing, and the time at which it was had."""
    held = sa.select(engine_accounts).where(engine_accounts.c.account == account).with_for_update()
    row = db.execute(held).one_or_none()
    if row is None:
        db.execute(insert(engine_accounts).values(account=account).on_conflict_do_nothing())
        row = db.execute(held).one()
    # A statement of its own: the time of one that had to wait for the row would be from before the wait.
    now: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return row, now


def _write(db: Connection, account: str, **values: object) -> None:
    db.execute(sa.update(engine_accounts).where(engine_accounts.c.account == account).values(**values))


def _later(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else max(one, other)
