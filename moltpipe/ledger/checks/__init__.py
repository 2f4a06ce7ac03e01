"""Integrity checks: states that must not be, found by a query each.

Here: the registry that the asset checks, the sensor and `moltpipe check` read, and taking all looks. Not here:
mending (`ledger.repairs`). A new check is a `Check` beside its like and a line in `CHECKS`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.finding import Check, Conditions, CouldNotCheck, Finding
from moltpipe.ledger.checks.money import AMBIGUOUS_CALLS_ARE_DECIDED
from moltpipe.ledger.checks.series import SELECTED_SCRIPTS_HAVE_SERIES, SERIES_HAVE_ALL_EPISODES_AND_JOBS

CHECKS: tuple[Check, ...] = (
    SELECTED_SCRIPTS_HAVE_SERIES,
    SERIES_HAVE_ALL_EPISODES_AND_JOBS,
    AMBIGUOUS_CALLS_ARE_DECIDED,
)

_PATIENCE_MS = 30_000


def run_checks(db: Connection, conditions: Conditions) -> list[Finding]:
    """What every check finds now."""
    return [run_check(db, check, conditions) for check in CHECKS]


def run_check(db: Connection, check: Check, conditions: Conditions) -> Finding:
    """What one check finds now. One that cannot look says so and leaves the transaction to the others.

    Raises:
        DBAPIError: the connection is lost.
    """
    try:
        with db.begin_nested():
            db.execute(sa.text(f"SET LOCAL statement_timeout = {_PATIENCE_MS}"))
            return check.look(db, conditions)
    except CouldNotCheck as error:
        return check.finding(could_not_check=str(error))
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        return check.finding(could_not_check=" ".join(str(error.orig).split()))
