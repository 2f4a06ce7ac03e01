"""The sweep along S3 and the ledger: whether every object that a row tells of is there, and every object told of.

Here: the walk, a page of each side at a time, for as long as there is time. Not here: the comparison
(`studio.sweeping`), the cursor and what was found (`ledger.sweeps`), when it goes on (`defs.integrity`, `cli`).

Rows are read before the objects beside them are listed: an object is there before its row, so one that the listing
lacks is gone, and not on its way. An object without a row may be waiting for it, so it is left alone for an hour, and
looked for in the ledger again after the listing: what was laid there before a crash gets its row hours later. And what
a prune takes away between the two looks is neither gone nor of nobody.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.jobs import clock_of
from moltpipe.ledger.sweeps import (
    MEDIA_OBJECTS_ARE_THERE,
    OBJECTS,
    OBJECTS_ARE_KNOWN,
    Detail,
    begin_round,
    complete_round,
    departing_objects,
    expected_objects,
    known_objects,
    load_sweep,
    move_on,
    settle_observations,
    stop_at,
    successors,
)
from moltpipe.ledger.watching import alone
from moltpipe.store import MOST_PER_PAGE, Store, StoreError
from moltpipe.studio.sweeping import ON_ITS_WAY, Missing, area_behind, compare, end_of, stem_of

PAGE = MOST_PER_PAGE
"""Rows and objects that are compared at a time."""
_LOOKS_AT_ONCE = 8


@dataclass(frozen=True)
class Swept:
    """What a sweep did in the time that it had."""

    rows: int = 0
    objects: int = 0
    through: bool = False
    """Whether everything has been compared since the round began."""
    error: str | None = None
    """Why it could not go on, such as that S3 did not answer."""
    elsewhere: bool = False
    """Another process is at it."""


def sweep_objects(
    database: Database, store: Store, budget_s: float, *, resting: bool = False, on_its_way: timedelta = ON_ITS_WAY
) -> Swept:
    """Go on with the sweep for about `budget_s` seconds, at least by one page, and note what is found.

    A round that is through is followed by the next, with `resting` only after a rest as long as the round took: a small
    studio is looked over each time, and of a large one S3 is not asked without a pause. Of two processes one does it.
    An object that is younger than `on_its_way` may still get its row.

    Raises:
        DatabaseUnavailable: the ledger cannot be reached. Whatever else it meets, such as an S3 that does not answer,
            is noted in the ledger instead.
    """
    with alone(database, "sweep objects") as free:
        if not free:
            return Swept(elsewhere=True)
        with database.begin() as db:
            sweep = load_sweep(db, OBJECTS)
            if sweep is None or not sweep.under_way:
                if resting and sweep is not None and sweep.rests(clock_of(db)):
                    return Swept(through=True, error=sweep.error)
                begin_round(db, OBJECTS)
                cursor = ""
            else:
                cursor = sweep.cursor
        try:
            return _walk(database, store, cursor, time.monotonic() + budget_s, on_its_way)
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 (one odd object must not keep the checks behind the sweep from looking)
            first, *_ = str(error).splitlines() or [""]
            why = first if isinstance(error, StoreError) else f"{type(error).__name__}: {first}"
            with database.begin() as db:
                stop_at(db, OBJECTS, why)
            return Swept(error=why)


def _walk(database: Database, store: Store, cursor: str, deadline: float, on_its_way: timedelta) -> Swept:
    rows = objects = 0
    while (behind := area_behind(cursor)) is not None:
        area, after = behind
        with database.begin() as db:
            expected = expected_objects(db, after, end_of(area), PAGE)
            # After the rows: what a prune takes away meanwhile is in one of the two.
            departing = departing_objects(db, after, end_of(area))
        page = store.page(area, after, PAGE)
        comparison = compare(expected, page.objects, more_rows=len(expected) == PAGE, more_objects=page.more)
        missing = _confirmed(store, comparison.missing)
        cursor = end_of(area) if comparison.up_to is None else comparison.up_to
        unknown = [one for one in comparison.unknown if datetime.now(UTC) - one.modified_at >= on_its_way]
        with database.begin() as db:
            # Told of still: a prune, or a repair, takes the row away before the object.
            told = known_objects(db, [one.expected.key for one in missing], departing=False)
            gone = {one.expected.key: _told(one) for one in missing if one.expected.key in told}
            known = known_objects(db, [one.key for one in unknown]) | departing
            succeeded = successors(db, {stem for one in unknown if (stem := stem_of(one.key)) is not None})
            nobodys: dict[str, Detail] = {
                one.key: {"bytes": one.bytes}
                for one in unknown
                if one.key not in known and stem_of(one.key) not in succeeded
            }
            settle_observations(db, MEDIA_OBJECTS_ARE_THERE, gone, after=after, up_to=cursor)
            settle_observations(db, OBJECTS_ARE_KNOWN, nobodys, after=after, up_to=cursor)
            move_on(db, OBJECTS, cursor)
        rows += sum(one.key <= cursor for one in expected)
        objects += sum(one.key <= cursor for one in page.objects)
        if time.monotonic() > deadline and area_behind(cursor) is not None:
            return Swept(rows, objects)
    with database.begin() as db:
        complete_round(db, OBJECTS)
    return Swept(rows, objects, through=True)


def _confirmed(store: Store, suspected: Sequence[Missing]) -> list[Missing]:
    """Those of which S3 says so when it is asked for the object itself: listings of some servers leave one out."""
    if not suspected:
        return []
    with ThreadPoolExecutor(min(_LOOKS_AT_ONCE, len(suspected))) as looks:
        sizes = list(looks.map(store.size, [one.expected.key for one in suspected]))
    return [
        Missing(one.expected, size)
        for one, size in zip(suspected, sizes, strict=True)
        if size is None or one.expected.bytes not in (None, size)
    ]


def _told(missing: Missing) -> Detail:
    return {
        "table": missing.expected.table,
        "row_id": str(missing.expected.row_id),
        "expected_bytes": missing.expected.bytes,
        "found_bytes": missing.found_bytes,
    }
