"""Media: rows whose object is gone, and objects that no row knows.

Here: what the sweep over the object store found, which a query cannot see. Not here: sweeping (`ledger.sweeps`).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.finding import Check, Conditions, Severity
from moltpipe.ledger.checks.sweeping import observed, see_that_it_goes_on
from moltpipe.ledger.schema import observations

_detail = observations.c.detail


def _missing(db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    see_that_it_goes_on(db, "objects")
    return observed(
        "media_objects_are_there",
        observations.c.subject.label("key"),
        _detail["table"].astext.label("table"),
        _detail["row_id"].astext.label("row_id"),
        sa.cast(_detail["expected_bytes"].astext, sa.BigInteger).label("expected_bytes"),
        sa.cast(_detail["found_bytes"].astext, sa.BigInteger).label("found_bytes"),
    )


MEDIA_OBJECTS_ARE_THERE = Check(
    "media_objects_are_there",
    "clips",
    "Every medium on record lies in the object store, at the size on record.",
    _missing,
    remedy="Put the object back under its key from a backup of the bucket, if there is one. Otherwise "
    "`moltpipe repair --remake KEY` takes the row away, so that the next run makes the medium anew; what an engine "
    "made for money costs that money again.",
)


def _unknown(db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    see_that_it_goes_on(db, "objects")
    return observed(
        "objects_are_known",
        observations.c.subject.label("key"),
        sa.cast(_detail["bytes"].astext, sa.BigInteger).label("bytes"),
    )


OBJECTS_ARE_KNOWN = Check(
    "objects_are_known",
    "clips",
    "Every object under the keys of the house belongs to a row.",
    _unknown,
    remedy="It costs space and does no harm: an upload whose run ended before the row was written, or a cut that was "
    "replaced. `moltpipe prune` deletes it once it has been nobody's for KEEP_TAKES_DAYS, unless its key names nothing "
    "of this ledger: then it is another studio's, and this bucket serves two.",
    severity=Severity.WARNING,
)
