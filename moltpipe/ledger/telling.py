"""Votes that are closed and of whose outcome Dagster has not been told.

Here: which those are, and the note that one was told of. Not here: the telling (`defs.voting`), closing
(`ledger.periods`, `ledger.audience`).

The incident behind it: whoever closed a vote told of it afterwards, in a step of its own. A process that died between
the two, and a command that knows no Dagster, left the outcome in the ledger and nothing in the UI.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.schema import voting_periods
from moltpipe.ledger.windows import PERIODS, period_from
from moltpipe.studio.records import Period

_UNTOLD = sa.and_(
    # As the partial index says it.
    voting_periods.c.is_processed,
    voting_periods.c.told_at.is_(None),
    # What was processed too early, or has no outcome, is no result: an incident says so, and its repair records one.
    sa.func.jsonb_typeof(voting_periods.c.outcome) == sa.literal_column("'object'"),
    sa.or_(
        voting_periods.c.processed_at >= voting_periods.c.ends_at, voting_periods.c.closed_early_reason.is_not(None)
    ),
)


def untold_periods(db: Connection) -> list[Period]:
    """Periods with an outcome that Dagster has not been told of, the one that was closed first before the others."""
    rows = db.execute(PERIODS.where(_UNTOLD).order_by(voting_periods.c.processed_at, voting_periods.c.id))
    return [period_from(row) for row in rows]


def hold_untold(db: Connection, period_id: UUID) -> bool:
    """Keep others from telling of an outcome until the end of the transaction.

    Returns:
        Whether it is to be told of; False when somebody else is at it, or was.
    """
    period = sa.select(voting_periods.c.id).where(voting_periods.c.id == period_id, _UNTOLD)
    return db.execute(period.with_for_update(skip_locked=True, key_share=True)).one_or_none() is not None


def note_told(db: Connection, period_id: UUID) -> None:
    """Note that Dagster was told, where that was to be done: an adopted row that breaks a rule cannot be written."""
    period = sa.update(voting_periods).where(voting_periods.c.id == period_id, _UNTOLD)
    db.execute(period.values(told_at=sa.func.clock_timestamp()))
