"""The audit: who changed what beside the normal way, with the rows concerned as they were and as they became.

Here: writing an entry and reading the newest. Not here: what is worth one (repairs, a person's decisions, the reaper,
an adoption). The incident behind it: a period was flipped to processed by hand, and nobody could tell who had done
it, when, or what the row had said before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.schema import audit
from moltpipe.ledger.text import storable

Json: TypeAlias = dict[str, Any] | list[Any]

_DOCUMENTS: sa.ColumnElement[Any] = sa.literal_column(
    "ARRAY['script_data', 'series_bible', 'poster_spec', 'request', 'result']"
)
"""Columns that nothing written down here changes, and that would make an entry unreadable."""
_MAX_ROWS = 200


@dataclass(frozen=True)
class Entry:
    """One thing that was done."""

    at: datetime
    by: str
    """An account of the machine, or the name of a sensor."""
    action: str
    subject: str
    """The id of the row that it was about, or its key."""
    what: str
    before: Json | None
    after: Json | None

    def as_json(self) -> dict[str, Any]:
        """The shape of `moltpipe repair --log --json`."""
        return {
            "at": self.at.isoformat(),
            "by": self.by,
            "action": self.action,
            "subject": self.subject,
            "what": self.what,
            "before": self.before,
            "after": self.after,
        }


def record(
    db: Connection,
    *,
    by: str,
    action: str,
    subject: str,
    what: str,
    before: Json | None = None,
    after: Json | None = None,
) -> None:
    """Write down what is done in this transaction: it is done and written down, or neither."""
    db.execute(
        sa.insert(audit).values(
            # The time of the statement: entries of one transaction keep their order.
            at=sa.func.clock_timestamp(),
            by=storable(by),
            action=action,
            subject=storable(subject),
            what=storable(what),
            before=sa.null() if before is None else before,
            after=sa.null() if after is None else after,
        )
    )


def entries(db: Connection, limit: int) -> list[Entry]:
    """The newest entries, the newest first."""
    rows = db.execute(sa.select(audit).order_by(audit.c.at.desc(), audit.c.id).limit(limit))
    return [
        Entry(
            at=row.at,
            by=row.by,
            action=row.action,
            subject=row.subject,
            what=row.what,
            before=row.before,
            after=row.after,
        )
        for row in rows
    ]


def snapshot(db: Connection, table: sa.Table, where: sa.ColumnElement[bool]) -> list[dict[str, Any]]:
    """Rows of a table as they are now, for `before` and `after`: 200 at most, without the large documents in them."""
    whole = sa.func.to_jsonb(table.table_valued())
    statement = sa.select(whole.op("-")(_DOCUMENTS)).select_from(table).where(where).order_by(*table.primary_key)
    return list(db.execute(statement.limit(_MAX_ROWS)).scalars())
