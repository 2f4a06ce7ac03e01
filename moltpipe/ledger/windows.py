"""One row of `voting_periods`, whichever of the two votes it is: read, held, and what can be wrong with it.

Here: what the votes on scripts (`ledger.periods`, `ledger.votes`) and on variants (`ledger.audience`) have in common.
Not here: making, opening and closing a period.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger.schema import voting_periods
from moltpipe.studio.audience import ClipOutcome
from moltpipe.studio.moments import spelled
from moltpipe.studio.records import Period
from moltpipe.studio.voting import Outcome

Recorded = TypeVar("Recorded", Outcome, ClipOutcome)

PERIODS = sa.select(*(column for column in voting_periods.c if column.name != "outcome"))
"""Periods as `period_from` reads them: without their outcomes, each of which is as long as all the rest of a period."""


class UnknownPeriodId(Exception):
    """No period has this id."""

    def __init__(self, period_id: UUID) -> None:
        super().__init__(f"there is no voting period {period_id}")
        self.period_id = period_id


class PeriodNotOver(Exception):
    """A period cannot be closed before its time."""

    def __init__(self, period_id: UUID, ends_at: datetime, now: datetime) -> None:
        super().__init__(
            f"period {period_id} ends at {spelled(ends_at)} and it is {spelled(now)}: "
            "wait, or close it early with a reason"
        )
        self.period_id = period_id
        self.ends_at = ends_at
        self.now = now


class OutcomeMissing(Exception):
    """A period is marked as processed, but no outcome was recorded: somebody wrote to the table by hand."""

    def __init__(self, period_id: UUID) -> None:
        super().__init__(
            f"period {period_id} is marked as processed without an outcome: `moltpipe repair` records it from the rows"
        )
        self.period_id = period_id


class OutcomeUnreadable(Exception):
    """The outcome on record is none that a closing wrote: somebody wrote it by hand."""

    def __init__(self, period_id: UUID) -> None:
        super().__init__(
            f"the outcome on record of period {period_id} cannot be read, since somebody wrote it by hand: "
            "put back what was recorded (column `outcome` of `voting_periods`); `moltpipe repair --log` may say what"
        )
        self.period_id = period_id


class ReasonMissing(Exception):
    """Closing early was asked for without saying why."""

    def __init__(self, period_id: UUID) -> None:
        super().__init__(f"period {period_id} cannot be closed early without a reason")
        self.period_id = period_id


class OtherVote(Exception):
    """A vote on scripts was taken for one on variants, or the other way round."""

    def __init__(self, period: Period, expected: str) -> None:
        super().__init__(f"period {period.id} is {period.period_type}: expected {expected}")
        self.period_id = period.id
        self.period_type = period.period_type
        self.expected = expected


def get_period(db: Connection, period_id: UUID) -> Period:
    """One voting period.

    Raises:
        UnknownPeriodId: there is none with this id.
    """
    return _one(db, period_id, PERIODS)


def hold_period(db: Connection, period_id: UUID) -> Period:
    """A period that nobody else may close, and in which nobody else may vote, until the end of the transaction.

    Raises:
        UnknownPeriodId: there is none with this id.
    """
    return _one(db, period_id, PERIODS.with_for_update())


def share_period(db: Connection, period_id: UUID) -> Period:
    """A period that nobody may close until the end of the transaction, so that a closing waits for this vote.

    Raises:
        UnknownPeriodId: there is none with this id.
    """
    return _one(db, period_id, PERIODS.with_for_update(read=True))


def period_from(row: Row[Any]) -> Period:
    """A period from its row."""
    return Period(
        id=row.id,
        period_type=row.period_type,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        is_active=row.is_active,
        is_processed=row.is_processed,
        processed_at=row.processed_at,
        closed_early_reason=row.closed_early_reason,
        episode_id=row.episode_id,
    )


def must_be(period: Period, period_type: str) -> None:
    """Make sure that it is the vote that is meant.

    Raises:
        OtherVote: it is the other one.
    """
    if period.period_type != period_type:
        raise OtherVote(period, period_type)


def may_close(period: Period, now: datetime, reason: str | None) -> str | None:
    """Whether a period that is not closed may be closed now. Without a `reason`, only when its time is over.

    Returns:
        The reason to record: None when the time is over.

    Raises:
        ReasonMissing: the reason says nothing.
        PeriodNotOver: no reason was given, and the time is not over.
    """
    if reason is not None and not reason.strip():
        raise ReasonMissing(period.id)
    if now >= period.ends_at:
        return None
    if reason is None:
        raise PeriodNotOver(period.id, period.ends_at, now)
    return reason.strip()


def recorded_outcome(db: Connection, period_id: UUID, shape: type[Recorded]) -> Recorded:
    """The recorded outcome of a processed period, of the kind of its vote.

    Raises:
        OutcomeMissing: there is none.
        OutcomeUnreadable: it is something else.
    """
    document = db.execute(sa.select(voting_periods.c.outcome).where(voting_periods.c.id == period_id)).scalar_one()
    if document is None:
        raise OutcomeMissing(period_id)
    try:
        return shape.from_json(document)
    except ValidationError as error:
        raise OutcomeUnreadable(period_id) from error


def record_outcome(
    db: Connection, period_id: UUID, document: dict[str, Any], now: datetime, *, closed_early_reason: str | None
) -> None:
    """Mark a period that the caller holds as processed."""
    db.execute(
        sa.update(voting_periods)
        .where(voting_periods.c.id == period_id)
        .values(
            is_active=False,
            is_processed=True,
            processed_at=now,
            closed_early_reason=closed_early_reason,
            outcome=document,
            told_at=None,
        )
    )


def _one(db: Connection, period_id: UUID, statement: sa.Select[Any]) -> Period:
    row = db.execute(statement.where(voting_periods.c.id == period_id)).one_or_none()
    if row is None:
        raise UnknownPeriodId(period_id)
    return period_from(row)
