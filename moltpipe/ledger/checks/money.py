"""Money: calls that a person must decide about, and caps that are nearly reached.

Here: what `ledger.calls` and `ledger.spending` know. Not here: deciding (`ledger.decisions`).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.calls import ambiguous_calls
from moltpipe.ledger.checks.finding import Check, Conditions


def _undecided(_db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    return ambiguous_calls()


AMBIGUOUS_CALLS_ARE_DECIDED = Check(
    "ambiguous_calls_are_decided",
    "clips",
    "No call waits for a person to say whether its request is to be sent again.",
    _undecided,
    remedy="See at the provider what became of the request. `moltpipe repair --resubmit CALL_ID` sends it again, "
    "and `moltpipe repair --give-up CALL_ID` leaves it failed.",
)
