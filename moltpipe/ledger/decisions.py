"""Decisions about paid calls: what only a person can say.

Here: what follows when somebody says of a paid call that it is to be made again, or not. Not here: what can be mended
without anybody's word (`ledger.repairs`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.calls import (
    Call,
    CallState,
    call_by_id,
    expire_call,
    failed_for_good,
    give_up_call,
    live_call,
    lock_call,
)
from moltpipe.ledger.jobs import resume_jobs_of
from moltpipe.ledger.schema import scores, takes, voiceovers


@dataclass(frozen=True)
class Decision:
    """What a person decided about a call, or is about to."""

    call_id: UUID
    decision: str
    """`resubmit` or `give_up`."""
    what: str

    def as_json(self) -> dict[str, Any]:
        """The shape of `moltpipe repair --json`."""
        return {"call_id": str(self.call_id), "decision": self.decision, "what": self.what}


class NothingToDecide(Exception):
    """A call is in a state that needs no person, or one in which this decision makes no sense."""

    def __init__(self, call: Call, expected: str) -> None:
        super().__init__(f"call {call.id} to {call.engine} is {call.state}: expected {expected}")
        self.call = call


def decide(
    db: Connection, decision: Literal["resubmit", "give_up"], call_ids: Iterable[UUID], by: str, *, dry_run: bool
) -> list[Decision]:
    """Decide the same about several calls, in the caller's one transaction; with `dry_run`, only say what that means.

    Raises:
        UnknownCall: there is no such call.
        NothingToDecide: one of them needs no decision.
    """
    plan, act = (plan_resubmit, resubmit) if decision == "resubmit" else (plan_give_up, give_up)
    return [plan(db, one) if dry_run else act(db, one, by) for one in dict.fromkeys(call_ids)]


def plan_resubmit(db: Connection, call_id: UUID) -> Decision:
    """What `resubmit` would do.

    Raises:
        UnknownCall: there is no such call.
        NothingToDecide: the request is not held up by this call.
    """
    return _resubmission(db, call_by_id(db, call_id))


def resubmit(db: Connection, call_id: UUID, by: str) -> Decision:
    """Put a call aside that is ambiguous, or failed for good, so that its request is made again, now.

    What was reserved for an ambiguous one stays on it as its cost: nobody can prove that it was not billed. The
    production job of its episode becomes available with all of its attempts.

    Raises:
        UnknownCall: there is no such call.
        NothingToDecide: the request is not held up by this call.
    """
    episode_id = call_by_id(db, call_id).episode_id
    if episode_id is not None:
        # Before the call, as everywhere: a run that holds its job takes its calls after it.
        resume_jobs_of(db, episode_id)
    call = lock_call(db, call_id)
    decision = _resubmission(db, call)
    expire_call(db, call_id, _said(f"put aside by {by}", call))
    return decision


def plan_give_up(db: Connection, call_id: UUID) -> Decision:
    """What `give_up` would do.

    Raises:
        UnknownCall: there is no such call.
        NothingToDecide: the call is not ambiguous.
    """
    return _giving_up(call_by_id(db, call_id))


def give_up(db: Connection, call_id: UUID, by: str) -> Decision:
    """Leave an ambiguous call failed. What was reserved for it is its cost, and its request is not made again.

    Raises:
        UnknownCall: there is no such call.
        NothingToDecide: the call is not ambiguous.
    """
    call = lock_call(db, call_id)
    decision = _giving_up(call)
    give_up_call(db, call_id, _said(f"given up by {by}", call))
    return decision


def _resubmission(db: Connection, call: Call) -> Decision:
    if call.state is not CallState.AMBIGUOUS and not _is_unused(db, call):
        blocking = failed_for_good(db, call.fingerprint)
        if blocking is None or blocking.id != call.id or live_call(db, call.fingerprint) is not None:
            raise NothingToDecide(
                call,
                "one that is ambiguous, that failed and keeps its request from being made, or of no use",
            )
    amount = call.cost_usd + call.reserved_usd
    return Decision(
        call.id,
        "resubmit",
        f"make the request of call {call.id} to {call.engine} again; {amount:.2f} USD stay on the old one as its cost",
    )


def _is_unused(db: Connection, call: Call) -> bool:
    """Whether a result arrived and nothing could be made of it."""
    if call.state is not CallState.INGESTED or call.account is None:
        return False
    return not any(
        db.execute(sa.select(table.c.id).where(table.c.provider_job_id == call.id).limit(1)).first()
        for table in (takes, voiceovers, scores)
    )


def _giving_up(call: Call) -> Decision:
    if call.state is not CallState.AMBIGUOUS:
        raise NothingToDecide(call, "one that is ambiguous")
    return Decision(
        call.id,
        "give_up",
        f"leave call {call.id} to {call.engine} failed; {call.reserved_usd:.2f} USD stay on it as its cost",
    )


def _said(decision: str, call: Call) -> str:
    return f"{decision}: {call.error}" if call.error else decision
