"""Reading what the sweeps observed.

Here: how a check takes its rows from `observations`, and when it cannot. Not here: the checks themselves, sweeping
(`ledger.sweeps`).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.finding import CouldNotCheck
from moltpipe.ledger.schema import observations, sweeps


def see_that_it_goes_on(db: Connection, sweep: str) -> None:
    """Let a check pass on to what a sweep observed. One that was never made has claimed nothing.

    Raises:
        CouldNotCheck: the sweep met an error, so that nobody knows what it would have seen.
    """
    error = db.execute(sa.select(sweeps.c.error).where(sweeps.c.name == sweep)).scalar_one_or_none()
    if error is not None:
        raise CouldNotCheck(f"the sweep over {sweep} cannot go on: {error}")


def observed(check_name: str, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """These columns of what a check's sweep observed, with `since`."""
    return sa.select(*columns, observations.c.since.label("since")).where(observations.c.check_name == check_name)
