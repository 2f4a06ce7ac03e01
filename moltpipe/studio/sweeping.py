"""The rows of the ledger beside the objects in S3: which objects are gone, and which nobody knows.

Here: the comparison, pure. Not here: reading either side (`ledger.sweeps`, `store`), walking along both
(`production.sweeping`). Also here: the partition keys of Dagster beside those of the ledger.

Both sides come in byte order, page by page, so that a studio of a million takes is compared without holding it. Only
what the studio publishes or pays for is judged: `conformed/` is a cache, `arrivals/` a safety copy, `compute-logs/`
Dagster's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from moltpipe.studio.keys import BadKeyError, partition_key

AREAS = ("episodes/", "music/", "series/", "takes/", "voiceovers/")
"""The prefixes that are judged, in byte order."""
ON_ITS_WAY = timedelta(hours=1)
"""An object is uploaded before its row is written: one that is younger than this may still get it."""
_SUPERSEDABLE = re.compile(
    r"(?P<stem>episodes/[0-9a-f-]{36}/variant-[0-9]+-|series/[0-9a-f-]{36}/poster-)[0-9a-f]{12}\.[a-z0-9]+"
)


@dataclass(frozen=True)
class Expected:
    """An object that a row tells of."""

    key: str
    table: str
    row_id: UUID
    bytes: int | None
    """None where the row does not keep the size."""


@dataclass(frozen=True)
class Listed:
    """An object as a listing shows it."""

    key: str
    bytes: int
    modified_at: datetime


@dataclass(frozen=True)
class Missing:
    """A row whose object is gone, or has another size than the row says."""

    expected: Expected
    found_bytes: int | None
    """None when there is no object."""


@dataclass(frozen=True)
class Comparison:
    """What two pages tell about the range that both of them cover."""

    up_to: str | None
    """The last key that was judged; None when the range was compared to its end."""
    missing: list[Missing]
    unknown: list[Listed]
    """Objects that no row of the page tells of, whatever their age."""


def compare(rows: Iterable[Expected], objects: Iterable[Listed], *, more_rows: bool, more_objects: bool) -> Comparison:
    """Compare a page of each side, both from the same key on. `more_*`: whether that side goes on behind its page.

    Judged is only what lies within both pages: behind the end of the shorter one, a key that the longer one has may
    stand on the next page of the other.
    """
    expected: dict[str, Expected] = {}
    for row in rows:
        expected.setdefault(row.key, row)
    found = {one.key: one for one in objects}
    ends = [max(keys) for keys, more in ((expected, more_rows), (found, more_objects)) if more and keys]
    up_to = min(ends, default=None)
    keys = sorted(key for key in expected.keys() | found.keys() if up_to is None or key <= up_to)
    return Comparison(
        up_to,
        missing=[gone for key in keys if key in expected and (gone := _missing(expected[key], found.get(key)))],
        unknown=[found[key] for key in keys if key not in expected],
    )


def _missing(expected: Expected, found: Listed | None) -> Missing | None:
    if found is None:
        return Missing(expected, None)
    if expected.bytes is not None and expected.bytes != found.bytes:
        return Missing(expected, found.bytes)
    return None


def area_behind(cursor: str) -> tuple[str, str] | None:
    """The area that a sweep is in after this key, with the key to go on behind; None when it is through.

    A sweep begins behind the empty key.
    """
    for area in AREAS:
        if cursor < end_of(area):
            return area, max(cursor, area)
    return None


def end_of(area: str) -> str:
    """The smallest text that is greater than every key of an area."""
    return area[:-1] + chr(ord(area[-1]) + 1)


def stem_of(key: str) -> str | None:
    """What the key of a cut or a poster shares with that of its successor; None for what is never superseded.

    A cut that is made anew takes the place of the old one in its row, and the old objects stay in S3: they are known
    by the row of their successor.
    """
    match = _SUPERSEDABLE.fullmatch(key)
    return match["stem"] if match else None


@dataclass(frozen=True)
class Stray:
    """A partition key in Dagster that breaks the rule, or that nothing in the ledger has."""

    definition: str
    partition_key: str
    what: str

    @property
    def subject(self) -> str:
        """The same key may stand in both definitions."""
        return f"{self.definition}/{self.partition_key}"


def stray_keys(in_dagster: Mapping[str, Collection[str]], in_ledger: Mapping[str, Collection[str]]) -> Iterator[Stray]:
    """Partition keys, by definition, that must not be there.

    Dagster takes any text, also an empty one or one with commas and newlines, and fails much later; a key of nothing
    is a partition that can be launched and never succeeds.
    """
    for definition, keys in in_dagster.items():
        known = in_ledger[definition]
        for key in sorted(set(keys).difference(known)):
            yield Stray(definition, key, _what_is_wrong(key))


def _what_is_wrong(key: str) -> str:
    try:
        partition_key(key)
    except BadKeyError as error:
        return str(error)
    return "nothing in the ledger has this key"
