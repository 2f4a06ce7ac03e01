"""Integrity checks: states that must not be, found by a query each.

Here: the registry that the asset checks, the sensor and `moltpipe check` read, and taking all looks. Not here:
mending (`ledger.repairs`). A new check is a `Check` beside its like and a line in `CHECKS`.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.audience import PILOTS_HAVE_THEIR_CLIP_VOTE, PUBLISHED_EPISODES_HAVE_A_SELECTED_VARIANT
from moltpipe.ledger.checks.finding import Check, Conditions, CouldNotCheck, Finding
from moltpipe.ledger.checks.jobs import (
    COMPLETED_JOBS_ARE_PUBLISHED,
    JOBS_DO_NOT_WAIT_TOO_LONG,
    JOBS_HAVE_ATTEMPTS_LEFT,
    JOBS_HAVE_LIVE_OWNERS,
)
from moltpipe.ledger.checks.media import MEDIA_OBJECTS_ARE_THERE, OBJECTS_ARE_KNOWN
from moltpipe.ledger.checks.money import (
    AMBIGUOUS_CALLS_ARE_DECIDED,
    PAID_CALLS_ARE_NOT_FORGOTTEN,
    SPEND_IS_BELOW_ITS_CAPS,
)
from moltpipe.ledger.checks.series import SELECTED_SCRIPTS_HAVE_SERIES, SERIES_HAVE_ALL_EPISODES_AND_JOBS
from moltpipe.ledger.checks.voting import (
    AGENT_PERIODS_DO_NOT_OVERLAP,
    DUE_PERIODS_ARE_CLOSED,
    DUE_PERIODS_ARE_OPEN,
    OUTCOMES_AGREE_WITH_SCRIPTS,
    PROCESSED_PERIODS_ARE_OVER,
    PROCESSED_PERIODS_HAVE_OUTCOME,
)
from moltpipe.ledger.checks.watch import PARTITION_KEYS_FOLLOW_THE_RULE, SENSORS_AND_SCHEDULES_TICK
from moltpipe.ledger.text import one_line

CHECKS: tuple[Check, ...] = (
    SELECTED_SCRIPTS_HAVE_SERIES,
    PROCESSED_PERIODS_ARE_OVER,
    DUE_PERIODS_ARE_CLOSED,
    DUE_PERIODS_ARE_OPEN,
    AGENT_PERIODS_DO_NOT_OVERLAP,
    PROCESSED_PERIODS_HAVE_OUTCOME,
    OUTCOMES_AGREE_WITH_SCRIPTS,
    SERIES_HAVE_ALL_EPISODES_AND_JOBS,
    PILOTS_HAVE_THEIR_CLIP_VOTE,
    PUBLISHED_EPISODES_HAVE_A_SELECTED_VARIANT,
    JOBS_HAVE_LIVE_OWNERS,
    JOBS_HAVE_ATTEMPTS_LEFT,
    JOBS_DO_NOT_WAIT_TOO_LONG,
    COMPLETED_JOBS_ARE_PUBLISHED,
    MEDIA_OBJECTS_ARE_THERE,
    OBJECTS_ARE_KNOWN,
    AMBIGUOUS_CALLS_ARE_DECIDED,
    PAID_CALLS_ARE_NOT_FORGOTTEN,
    SPEND_IS_BELOW_ITS_CAPS,
    SENSORS_AND_SCHEDULES_TICK,
    PARTITION_KEYS_FOLLOW_THE_RULE,
)

PATIENCE_S = 30.0
"""How long all looks together may take. A sensor's tick is ended by Dagster after 60 seconds."""
LOCKED_S = 2.0
"""How long a look waits for a table that somebody has locked."""


def run_checks(db: Connection, conditions: Conditions) -> list[Finding]:
    """What every check finds now. When the patience is used up, the rest could not be checked."""
    end = time.monotonic() + PATIENCE_S
    return [run_check(db, check, conditions, patience_s=end - time.monotonic()) for check in CHECKS]


def run_check(db: Connection, check: Check, conditions: Conditions, *, patience_s: float = PATIENCE_S) -> Finding:
    """What one check finds now. One that cannot look says so and leaves the transaction to the others.

    Raises:
        DBAPIError: the connection is lost.
    """
    # Always taken back: a look changes nothing, neither rows nor the session's limits.
    savepoint = db.begin_nested()
    try:
        _limit(db, patience_s)
        return check.look(db, conditions)
    except CouldNotCheck as error:
        return check.finding(could_not_check=str(error))
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        return check.finding(could_not_check=one_line(error))
    finally:
        savepoint.rollback()


def _limit(db: Connection, patience_s: float) -> None:
    """For this look alone. Compiling a query (`jit`) takes longer than these take to run."""
    limits = {
        "statement_timeout": f"{max(1, round(patience_s * 1000))}ms",
        "lock_timeout": f"{round(LOCKED_S * 1000)}ms",
        "jit": "off",
    }
    db.execute(sa.select(*(sa.func.set_config(name, value, sa.true()) for name, value in limits.items())))
