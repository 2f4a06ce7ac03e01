"""Repairs: what a check found and a function can safely mend.

Here: which damage has a remedy that loses nothing. Not here: finding it (`ledger.checks`). A repair goes through
the function that the closing of a vote goes through: the old system's repair scripts wrote rows of their own,
and one of them made the damage that another one was written against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from moltpipe.ledger.checks import selected_scripts_have_series, series_have_all_episodes_and_jobs
from moltpipe.ledger.series import make_series


@dataclass(frozen=True)
class Repair:
    """One thing that was mended, or would be."""

    check: str
    script_id: UUID
    what: str

    def as_json(self) -> dict[str, Any]:
        """The shape of `moltpipe repair --json`."""
        return {"check": self.check, "script_id": str(self.script_id), "what": self.what}


def plan_repairs(db: Connection) -> list[Repair]:
    """What `repair` would do, in its order. A script stands in the plan once."""
    plan: dict[UUID, Repair] = {}
    for finding, what in (
        (selected_scripts_have_series(db), "make the limited series of the selected script"),
        (series_have_all_episodes_and_jobs(db), "add the missing episodes and production jobs of"),
    ):
        for row in finding.rows:
            script_id = UUID(str(row["script_id"]))
            plan.setdefault(script_id, Repair(finding.name, script_id, f"{what} {row['title']!r} ({script_id})"))
    return list(plan.values())


def repair(db: Connection) -> list[Repair]:
    """Mend all that can be mended, in the caller's one transaction.

    Returns:
        What was done.
    """
    done: list[Repair] = []
    # A finding lists 50 rows at most, so one look is not enough for a greater damage.
    while plan := plan_repairs(db):
        for one in plan:
            make_series(db, one.script_id)
        done += plan
    return done
