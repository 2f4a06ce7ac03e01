"""Repairs: what a check found and a function can safely mend.

Here: which damage has a remedy that loses nothing. Not here: finding it (`ledger.checks`), what a person decides
(`ledger.decisions`). A repair goes through the function that the normal way goes through: the old system's repair
scripts wrote rows of their own, and one of them made the damage that another one was written against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.finding import Conditions
from moltpipe.ledger.checks.series import SELECTED_SCRIPTS_HAVE_SERIES, SERIES_HAVE_ALL_EPISODES_AND_JOBS
from moltpipe.ledger.series import make_series


@dataclass(frozen=True)
class Repair:
    """One thing that was mended, or would be."""

    check: str
    subject: str
    """The id of the row that is wrong."""
    what: str

    def as_json(self) -> dict[str, Any]:
        """The shape of `moltpipe repair --json`."""
        return {"check": self.check, "subject": self.subject, "what": self.what}


def plan_repairs(db: Connection, conditions: Conditions) -> list[Repair]:
    """What `repair` would do, in its order. A script stands in the plan once."""
    plan: dict[str, Repair] = {}
    for check, what in (
        (SELECTED_SCRIPTS_HAVE_SERIES, "make the limited series of the selected script"),
        (SERIES_HAVE_ALL_EPISODES_AND_JOBS, "add the missing episodes and production jobs of"),
    ):
        for row in check.look(db, conditions).rows:
            script_id = str(row["script_id"])
            plan.setdefault(script_id, Repair(check.name, script_id, f"{what} {row['title']!r} ({script_id})"))
    return list(plan.values())


def repair(db: Connection, conditions: Conditions) -> list[Repair]:
    """Mend all that can be mended, in the caller's one transaction.

    Returns:
        What was done.
    """
    done: list[Repair] = []
    # A finding lists 50 rows at most, so one look is not enough for a greater damage.
    while plan := plan_repairs(db, conditions):
        for one in plan:
            make_series(db, UUID(one.subject))
        done += plan
    return done
