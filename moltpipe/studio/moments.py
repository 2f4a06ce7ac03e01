"""Points in time: always with a time zone, always shown in UTC.

Here: the one check and the one notation. Not here: a clock; `now` is always handed in.
"""

from __future__ import annotations

from datetime import UTC, datetime


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC.

    Raises:
        ValueError: it has no time zone, so it means another moment on every machine.
    """
    if moment.utcoffset() is None:
        raise ValueError(f"{moment.isoformat()} has no time zone: expected one, such as {moment.isoformat()}+00:00")
    return moment.astimezone(UTC)


def spelled(moment: datetime) -> str:
    """A moment for the operator, to the second: `2026-02-09 00:00:00 UTC`.

    Raises:
        ValueError: it has no time zone.
    """
    return f"{in_utc(moment):%Y-%m-%d %H:%M:%S} UTC"
