"""Integrity checks: states that must not be, found by a query each.

Here: the registry that the asset checks, the schedule and `moltpipe check` read. Not here: mending
(`ledger.repairs`). A new check is a function and a line in `CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.calls import ambiguous_calls
from moltpipe.ledger.schema import episodes, limited_series, production_jobs, scripts, voting_periods
from moltpipe.studio.screenplay import EPISODES_PER_SERIES

Cell = str | int | float | bool | None
MAX_ROWS = 50


class Severity(StrEnum):
    """What a finding means for the operator."""

    ERROR = "error"
    WARNING = "warning"


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

    @property
    def passed(self) -> bool:
        """Nothing was found."""
        return self.count == 0

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
        }


@dataclass(frozen=True)
class Check:
    """One integrity check: which asset it stands on, what it promises, how it looks."""

    name: str
    asset: str
    description: str
    look: Callable[[Connection], Finding]


def selected_scripts_have_series(db: Connection) -> Finding:
    """Selected scripts without a series: the orphan for which nobody will ever make a film."""
    orphans = (
        sa.select(
            scripts.c.id.label("script_id"),
            scripts.c.title,
            scripts.c.genre,
            scripts.c.voting_period_id,
            scripts.c.submitted_at,
            sa.func.coalesce(voting_periods.c.processed_at, scripts.c.submitted_at).label("since"),
        )
        .outerjoin(limited_series, limited_series.c.id == scripts.c.series_id)
        .outerjoin(voting_periods, voting_periods.c.id == scripts.c.voting_period_id)
        .where(scripts.c.pilot_status == "selected", limited_series.c.id.is_(None))
    )
    return _finding(
        db,
        orphans,
        name="selected_scripts_have_series",
        asset="scripts",
        remedy="`moltpipe repair` makes the series, its episodes and their production jobs.",
    )


def series_have_all_episodes_and_jobs(db: Connection) -> Finding:
    """Series with fewer than five episodes, or with an episode for which no production job stands."""
    counted = (
        sa.select(
            limited_series.c.id.label("series_id"),
            limited_series.c.title,
            limited_series.c.script_id,
            sa.func.count(episodes.c.id.distinct()).label("episodes"),
            sa.func.count(production_jobs.c.episode_id.distinct()).label("episodes_with_job"),
            limited_series.c.created_at.label("since"),
        )
        .outerjoin(episodes, episodes.c.series_id == limited_series.c.id)
        .outerjoin(production_jobs, production_jobs.c.episode_id == episodes.c.id)
        .group_by(limited_series.c.id)
        .having(sa.func.count(production_jobs.c.episode_id.distinct()) < EPISODES_PER_SERIES)
    )
    return _finding(
        db,
        counted,
        name="series_have_all_episodes_and_jobs",
        asset="limited_series",
        remedy="`moltpipe repair` adds the missing episodes and production jobs.",
    )


def ambiguous_calls_are_decided(db: Connection) -> Finding:
    """Calls that a provider may have accepted: sent again by themselves, they might be paid for twice."""
    return _finding(
        db,
        ambiguous_calls(),
        name="ambiguous_calls_are_decided",
        asset="clips",
        remedy="See at the provider what became of the request. `moltpipe repair --resubmit CALL_ID` sends it again, "
        "and `moltpipe repair --give-up CALL_ID` leaves it failed.",
    )


CHECKS = (
    Check(
        "selected_scripts_have_series",
        "scripts",
        "Every selected script has its limited series.",
        selected_scripts_have_series,
    ),
    Check(
        "series_have_all_episodes_and_jobs",
        "limited_series",
        "Every limited series has five episodes, each with its production job.",
        series_have_all_episodes_and_jobs,
    ),
    Check(
        "ambiguous_calls_are_decided",
        "clips",
        "No call waits for a person to say whether its request is to be sent again.",
        ambiguous_calls_are_decided,
    ),
)


def run_checks(db: Connection) -> list[Finding]:
    """What every check finds now."""
    return [check.look(db) for check in CHECKS]


def _finding(db: Connection, statement: sa.Select[Any], *, name: str, asset: str, remedy: str) -> Finding:
    """An error over the rows of a statement, which names the time since when each is so as `since`."""
    found = statement.subquery()
    total = db.execute(sa.select(sa.func.count(), sa.func.min(found.c.since)).select_from(found)).one()
    rows = db.execute(sa.select(found).order_by(found.c.since).limit(MAX_ROWS)).mappings()
    return Finding(
        name=name,
        asset=asset,
        severity=Severity.ERROR,
        count=total[0],
        rows=[{column: _cell(value) for column, value in row.items()} for row in rows],
        remedy=remedy,
        since=total[1],
    )


def _cell(value: object) -> Cell:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)
