"""Who watches the watchers: when each sensor and schedule last ticked.

Here: the record of ticks, for how long each may be silent, and that of two daemons one looks. Not here: saying that one
is silent (`ledger.checks`), ticking (`defs`).

The incident behind it: every cron job of the old system reported success, and none of them was ever asked whether it
had run at all.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import MappingProxyType

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from moltpipe.ledger.database import Database
from moltpipe.ledger.schema import watchers

SILENCE: Mapping[str, timedelta] = MappingProxyType(
    {
        "alert_sensor": timedelta(minutes=2),
        "integrity_sensor": timedelta(minutes=2),
        "next_period_schedule": timedelta(minutes=3),
        "period_sensor": timedelta(minutes=2),
        "production_sensor": timedelta(minutes=2),
        "reaper_sensor": timedelta(minutes=2),
        # It ticks once a day.
        "retention_schedule": timedelta(hours=25),
    }
)
"""How long each may be silent, while others tick, before something is wrong with it. By the name that Dagster knows."""

ASLEEP = timedelta(seconds=90)
"""When nobody has ticked for so long, no daemon ran: longer than the pause of the quick watchers, shorter than any
allowed silence."""
_WRITTEN_EVERY = timedelta(seconds=5)


def ticked(db: Connection, name: str) -> None:
    """Note that a sensor or schedule has just looked. Most calls write nothing: a sensor may tick each second.

    The first tick after all were silent notes all of them: from there on each has its allowed silence to come up in.
    Otherwise whoever wakes first would find the others silent for as long as the machine was off.

    To be called last in a transaction: it waits for another daemon that notes the same tick, and must not keep others
    waiting.
    """
    now: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    last = {row.name: row.ticked_at for row in db.execute(sa.select(watchers))}
    if name in last and now - last[name] < _WRITTEN_EVERY:
        return
    woke = all(now - at > ASLEEP for at in last.values())
    # In one order, so that two that wake at once wait for each other instead of in a circle.
    names = sorted({name, *SILENCE}) if woke else [name]
    written = insert(watchers).values([{"name": one, "ticked_at": now} for one in names])
    db.execute(
        written.on_conflict_do_update(
            index_elements=["name"],
            set_={"ticked_at": sa.func.greatest(watchers.c.ticked_at, written.excluded.ticked_at)},
        )
    )


@contextmanager
def alone(database: Database, what: str) -> Iterator[bool]:
    """Whether nobody else does the same while the body runs, in any process. Who dies at it leaves it to the others.

    Raises:
        DatabaseUnavailable: on entering, when Postgres cannot be reached.
    """
    room = zlib.crc32(f"moltpipe {what}".encode()) - 2**31
    place = database.take_place(room, [1])
    try:
        yield place is not None
    finally:
        if place is not None:
            database.locks.give_back(room, place)
