"""What a check is and what it finds.

Here: the shapes, and turning a statement into a finding. Not here: the statements (beside this module, by what they
look at), mending (`ledger.repairs`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.spending import NO_CAPS, Caps
from moltpipe.settings import Settings

Cell = str | int | float | bool | None
MAX_ROWS = 50


class Severity(StrEnum):
    """What a finding means for the operator."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Conditions:
    """Under which circumstances a look is taken."""

    now: datetime
    lease: timedelta = timedelta(seconds=60)
    """How long a production job stays claimed without a heartbeat."""
    caps: Caps = NO_CAPS

    @classmethod
    def of(cls, settings: Settings, now: datetime) -> Conditions:
        """Those of a process with these settings."""
        return cls(now, timedelta(seconds=settings.lease_s), Caps.of(settings))


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    name: str
    asset: str
    severity: Severity
    count: int
    rows: list[dict[str, Cell]]
    """The first 50 of them."""
    remedy: str
    since: datetime | None = None
    """When the oldest of them came to be, where that can be told."""
    could_not_check: str | None = None
    """Why it is not known whether there is anything; None when a look was taken."""

    @property
    def passed(self) -> bool:
        """A look was taken, and nothing was found."""
        return self.count == 0 and self.could_not_check is None

    def as_json(self) -> dict[str, Any]:
        """The shape of `moltpipe check --json`."""
        return {
            "name": self.name,
            "asset": self.asset,
            "passed": self.passed,
            "severity": self.severity.value,
            "count": self.count,
            "rows": self.rows,
            "remedy": self.remedy,
            "since": self.since.isoformat() if self.since else None,
            "could_not_check": self.could_not_check,
        }


@dataclass(frozen=True)
class Check:
    """One integrity check: which asset it stands on, what it promises, how it looks and what helps."""

    name: str
    asset: str
    promise: str
    """The state in which nothing is found, in words."""
    rows: Callable[[Connection, Conditions], sa.Select[Any] | None]
    """What must not be, a row each, with the time since when as `since` (NULL where that cannot be told).

    None when there is nothing to look at, such as a cap that is not set. Raises `CouldNotCheck`.
    """
    remedy: str
    severity: Severity = Severity.ERROR

    def look(self, db: Connection, conditions: Conditions) -> Finding:
        """What is found now. One query."""
        statement = self.rows(db, conditions)
        if statement is None:
            return self.finding()
        found = statement.subquery()
        capped = sa.select(
            found, sa.func.count().over().label("_count"), sa.func.min(found.c.since).over().label("_min")
        )
        rows = db.execute(capped.order_by(found.c.since.nulls_last()).limit(MAX_ROWS)).mappings().all()
        if not rows:
            return self.finding()
        return self.finding(
            count=rows[0]["_count"],
            rows=[{name: _cell(value) for name, value in row.items() if not name.startswith("_")} for row in rows],
            since=rows[0]["_min"],
        )

    def finding(
        self,
        *,
        count: int = 0,
        rows: list[dict[str, Cell]] | None = None,
        since: datetime | None = None,
        could_not_check: str | None = None,
    ) -> Finding:
        """A finding of this check."""
        return Finding(self.name, self.asset, self.severity, count, rows or [], self.remedy, since, could_not_check)


class CouldNotCheck(Exception):
    """It cannot be told whether a promise holds, which is not the same as that it is broken."""


def _cell(value: object) -> Cell:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)
