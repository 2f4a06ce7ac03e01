"""Casting votes on scripts.

Here: one ballot, cast, changed or withdrawn. Not here: when votes may be cast (`studio.voting`), counting
them (`ledger.periods`). Scores are counted from the ballots, never kept: the old system wrote counters
beside its votes, and they drifted apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.schema import script_votes, scripts, studios
from moltpipe.ledger.windows import share_period
from moltpipe.studio.voting import may_vote

BallotKind = Literal["cast", "changed", "withdrawn"]


@dataclass(frozen=True)
class Ballot:
    """What became of a vote, and where the script stands after it."""

    kind: BallotKind
    upvotes: int
    downvotes: int

    @property
    def score(self) -> int:
        """Upvotes less downvotes."""
        return self.upvotes - self.downvotes


class VoteRefused(Exception):
    """A vote was not counted."""


class UnknownScript(VoteRefused):
    """There is no such script."""

    def __init__(self, script_id: UUID) -> None:
        super().__init__(f"there is no script {script_id}")
        self.script_id = script_id


class NotInVoting(VoteRefused):
    """The script does not stand in a voting period."""

    def __init__(self, script_id: UUID, status: str) -> None:
        super().__init__(f"script {script_id} is {status}: expected one that is voting")
        self.script_id = script_id
        self.status = status


class OutsideWindow(VoteRefused):
    """The voting period has not begun, is over, or is closed."""

    def __init__(self, starts_at: datetime, ends_at: datetime, now: datetime, reason: str) -> None:
        super().__init__(reason)
        self.starts_at = starts_at
        self.ends_at = ends_at
        self.now = now


class OwnStudio(VoteRefused):
    """An agent voted on a script of its own."""

    def __init__(self, script_id: UUID, agent_name: str) -> None:
        super().__init__(f"script {script_id} is of a studio of {agent_name!r}: nobody votes on their own")
        self.script_id = script_id
        self.agent_name = agent_name


def cast_vote(db: Connection, script_id: UUID, agent_name: str, value: Literal[-1, 1], now: datetime) -> Ballot:
    """Count an agent's vote on a script. The opposite vote changes it, the same again withdraws it.

    Holds the period in share mode until the end of the transaction, so that a closing waits for this vote or
    this vote finds the period closed.

    Raises:
        UnknownScript: there is no such script.
        OwnStudio: the agent's own studio filed it.
        NotInVoting: it does not stand in a period.
        OutsideWindow: its period has not begun or is over.
    """
    script = db.execute(
        sa.select(scripts.c.voting_period_id, scripts.c.pilot_status, studios.c.agent_name)
        .join(studios, studios.c.id == scripts.c.studio_id)
        .where(scripts.c.id == script_id)
    ).one_or_none()
    if script is None:
        raise UnknownScript(script_id)
    if script.agent_name == agent_name:
        raise OwnStudio(script_id, agent_name)
    if script.voting_period_id is None:
        raise NotInVoting(script_id, script.pilot_status)
    period = share_period(db, script.voting_period_id)
    # Read again under the lock: a closing that held the period has decided in the meantime.
    status = db.execute(
        sa.select(scripts.c.pilot_status).where(scripts.c.id == script_id).with_for_update(key_share=True)
    ).scalar_one()
    refusal = may_vote(period, now)
    if refusal is not None:
        raise OutsideWindow(period.starts_at, period.ends_at, now, refusal)
    if status != "voting":
        raise NotInVoting(script_id, status)
    return _count(db, script_id, _write(db, script_id, agent_name, value, now))


def _write(db: Connection, script_id: UUID, agent_name: str, value: Literal[-1, 1], now: datetime) -> BallotKind:
    mine = sa.and_(script_votes.c.script_id == script_id, script_votes.c.agent_name == agent_name)
    former = db.execute(sa.select(script_votes.c.value).where(mine)).scalar_one_or_none()
    if former is None:
        db.execute(sa.insert(script_votes).values(script_id=script_id, agent_name=agent_name, value=value, cast_at=now))
        return "cast"
    if former == value:
        db.execute(sa.delete(script_votes).where(mine))
        return "withdrawn"
    db.execute(sa.update(script_votes).where(mine).values(value=value, cast_at=now))
    return "changed"


def _count(db: Connection, script_id: UUID, kind: BallotKind) -> Ballot:
    counted = db.execute(
        sa.select(
            sa.func.count().filter(script_votes.c.value == 1).label("upvotes"),
            sa.func.count().filter(script_votes.c.value == -1).label("downvotes"),
        ).where(script_votes.c.script_id == script_id)
    ).one()
    return Ballot(kind=kind, upvotes=counted.upvotes, downvotes=counted.downvotes)
