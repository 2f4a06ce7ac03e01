"""Sweeps: looks that take longer than a tick, how far each has come, and what it found.

Here: the cursor, the observations, and the keys that rows tell of. Not here: the objects in S3 and the walk along both
sides (`production.sweeping`), saying what was observed (`ledger.checks`).

A sweep writes what a query cannot see as observations, and checks read them as rows like any others. An observation
keeps its first time for as long as it is found again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from moltpipe.ledger.schema import (
    clip_variants,
    departures,
    episodes,
    limited_series,
    observations,
    production_jobs,
    scores,
    sweeps,
    takes,
    voiceovers,
    voting_periods,
)
from moltpipe.ledger.text import storable
from moltpipe.ledger.windows import PERIODS, period_from
from moltpipe.studio.keys import period_key
from moltpipe.studio.sweeping import Expected, Stray

OBJECTS = "objects"
PARTITION_KEYS = "partition_keys"
CATALOG = "catalog"
MEDIA_OBJECTS_ARE_THERE = "media_objects_are_there"
OBJECTS_ARE_KNOWN = "objects_are_known"
PARTITION_KEYS_FOLLOW_THE_RULE = "partition_keys_follow_the_rule"

Detail = Mapping[str, str | int | None]

_SOURCES: tuple[tuple[sa.Table, sa.Column[Any], sa.ColumnElement[Any]], ...] = (
    (takes, takes.c.media_key, takes.c.bytes),
    (takes, takes.c.sound_key, takes.c.sound_bytes),
    (voiceovers, voiceovers.c.media_key, voiceovers.c.bytes),
    (scores, scores.c.media_key, scores.c.bytes),
    (clip_variants, clip_variants.c.video_key, clip_variants.c.bytes),
    (clip_variants, clip_variants.c.captions_key, sa.null()),
    (clip_variants, clip_variants.c.thumbnail_key, sa.null()),
    (limited_series, limited_series.c.poster_key, sa.null()),
)
"""Columns that tell of an object, with the one that keeps its size."""


@dataclass(frozen=True)
class Sweep:
    """How far a sweep has come."""

    cursor: str
    """The last key that was judged; empty before the first."""
    began_at: datetime
    completed_at: datetime | None
    """When a round was last through; of the round before when this one is under way."""
    error: str | None
    """Why it cannot go on; None while it can."""

    @property
    def under_way(self) -> bool:
        """Whether a round has begun and is not through."""
        return self.completed_at is None or self.completed_at < self.began_at

    def rests(self, now: datetime, times: int = 1) -> bool:
        """Whether the last round is not yet over for so many times as it took, by the ledger's clock."""
        if self.completed_at is None or self.under_way:
            return False
        return now - self.completed_at < times * (self.completed_at - self.began_at)


def load_sweep(db: Connection, name: str) -> Sweep | None:
    """How far it has come; None when it was never begun."""
    row = db.execute(sa.select(sweeps).where(sweeps.c.name == name)).one_or_none()
    return None if row is None else Sweep(row.cursor, row.began_at, row.completed_at, row.error)


def begin_round(db: Connection, name: str) -> None:
    """Begin at the first key."""
    fresh = {"cursor": "", "began_at": sa.func.clock_timestamp(), "error": None}
    db.execute(insert(sweeps).values(name=name, **fresh).on_conflict_do_update(index_elements=["name"], set_=fresh))


def move_on(db: Connection, name: str, cursor: str) -> None:
    """Note the last key that was judged."""
    _write(db, name, cursor=cursor, error=None)


def complete_round(db: Connection, name: str) -> None:
    """Note that a round is through."""
    _write(db, name, completed_at=sa.func.clock_timestamp(), error=None)


def stop_at(db: Connection, name: str, error: str) -> None:
    """Note why it cannot go on. What was observed before stays, and so does the place to go on from."""
    written = insert(sweeps).values(name=name, error=storable(error))
    db.execute(written.on_conflict_do_update(index_elements=["name"], set_={"error": written.excluded.error}))


def _write(db: Connection, name: str, **values: object) -> None:
    db.execute(sa.update(sweeps).where(sweeps.c.name == name).values(**values))


def expected_objects(db: Connection, after: str, before: str, limit: int) -> list[Expected]:
    """Objects that rows tell of, with keys between two keys, in byte order: as S3 lists them, whatever the locale.

    Of a cut, the captions and the thumbnail are told of without their size.
    """
    pages = []
    for table, column, size in _SOURCES:
        key = bytewise(column)
        page = (
            sa.select(
                key.label("key"),
                sa.literal(table.name).label("table"),
                table.c.id.label("row_id"),
                sa.cast(size, sa.BigInteger).label("bytes"),
            )
            .where(key > after, key < before)
            .order_by(key)
            .limit(limit)
        )
        pages.append(page.subquery().select())
    merged = sa.union_all(*pages).subquery()
    rows = db.execute(sa.select(merged).order_by(merged.c.key).limit(limit))
    return [Expected(row.key, row.table, row.row_id, row.bytes) for row in rows]


def known_objects(db: Connection, keys: Collection[str], *, departing: bool = True) -> set[str]:
    """Those among these keys that a row tells of. With `departing`, also those that a prune is about to take away."""
    if not keys:
        return set()
    asked = sa.func.unnest(sa.bindparam("keys", list(keys), sa.ARRAY(sa.Text))).table_valued("key").render_derived()
    told = [sa.exists().where(bytewise(column) == bytewise(asked.c.key)) for _, column, _ in _SOURCES]
    if departing:
        told.append(sa.exists().where(departures.c.key == asked.c.key))
    return set(db.execute(sa.select(asked.c.key).where(sa.or_(*told))).scalars())


def departing_objects(db: Connection, after: str, before: str) -> set[str]:
    """Keys between two keys, in byte order, whose row a prune has taken away and whose object it is about to."""
    key = bytewise(departures.c.key)
    return set(db.execute(sa.select(departures.c.key).where(key > after, key < before)).scalars())


def successors(db: Connection, stems: Collection[str]) -> set[str]:
    """Those among these beginnings of keys that the key of a cut or a poster in a row begins with, up to its hash."""
    if not stems:
        return set()
    asked = sa.func.unnest(sa.bindparam("stems", list(stems), sa.ARRAY(sa.Text))).table_valued("stem").render_derived()
    stem = bytewise(asked.c.stem)
    # A hash in hex follows, and in ASCII the tilde stands behind every letter.
    begins = [
        sa.exists().where(bytewise(column) >= stem, bytewise(column) < stem.concat("~"))
        for column in (clip_variants.c.video_key, limited_series.c.poster_key)
    ]
    return set(db.execute(sa.select(asked.c.stem).where(sa.or_(*begins))).scalars())


def bytewise(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A text in the order of its bytes."""
    return sa.collate(column, "C")


def settle_observations(
    db: Connection,
    check_name: str,
    found: Mapping[str, Detail],
    *,
    after: str | None = None,
    up_to: str | None = None,
) -> None:
    """Write what is found now, by subject, in place of what was found there before.

    With `after` and `up_to`, only subjects from behind the one up to the other are concerned, in byte order. What was
    found before keeps its time.
    """
    subject = bytewise(observations.c.subject)
    gone = [observations.c.check_name == check_name, observations.c.subject.not_in(list(found))]
    if after is not None:
        gone.append(subject > after)
    if up_to is not None:
        gone.append(subject <= up_to)
    db.execute(sa.delete(observations).where(*gone))
    if not found:
        return
    rows = [{"check_name": check_name, "subject": one, "detail": dict(found[one])} for one in sorted(found)]
    written = insert(observations)
    db.execute(
        written.on_conflict_do_update(
            index_elements=["check_name", "subject"],
            set_={"detail": written.excluded.detail},
            where=observations.c.detail != written.excluded.detail,
        ),
        rows,
    )


def keys_of_episodes(db: Connection) -> set[str]:
    """Partition keys of all episodes."""
    return set(db.execute(sa.select(episodes.c.partition_key)).scalars())


def keys_of_finished_episodes(db: Connection, for_: timedelta) -> set[str]:
    """Partition keys of the episodes that have had nothing left to do for so long, by the ledger's clock."""
    job_of = sa.select(episodes.c.partition_key).join(production_jobs, production_jobs.c.episode_id == episodes.c.id)
    finished = job_of.where(
        production_jobs.c.completed_at < sa.func.clock_timestamp() - for_, production_jobs.c.process_uuid.is_(None)
    )
    return set(db.execute(finished).scalars())


def keys_of_periods(db: Connection) -> set[str]:
    """Partition keys of all voting periods."""
    return _keys_of(db, sa.true())


def keys_of_told_periods(db: Connection, for_: timedelta) -> set[str]:
    """Partition keys of the votes on scripts of whose outcome Dagster was told so long ago, by the ledger's clock."""
    told = voting_periods.c.told_at < sa.func.clock_timestamp() - for_
    return _keys_of(db, sa.and_(voting_periods.c.period_type == "agent_voting", told))


def _keys_of(db: Connection, condition: sa.ColumnElement[bool]) -> set[str]:
    return {period_key(period_from(row)) for row in db.execute(PERIODS.where(condition))}


def observe_partition_keys(db: Connection, strays: Collection[Stray]) -> None:
    """End a round: write which partition keys in Dagster must not be there, in place of those of the last one."""
    found: dict[str, Detail] = {
        storable(one.subject): {
            "partition_key": storable(one.partition_key),
            "definition": one.definition,
            "what": storable(one.what),
        }
        for one in strays
    }
    settle_observations(db, PARTITION_KEYS_FOLLOW_THE_RULE, found)
    complete_round(db, PARTITION_KEYS)
