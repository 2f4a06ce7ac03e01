"""Pruning of media, objects and records: what is read, judged and taken away, batch by batch.

Here: the walks. Not here: what may go (`studio.retention`), the transactions (`ledger.retention`), Dagster's runs and
what they printed (`runtime.pruning`).

Every batch is whole: it may be interrupted between any two of them, and the next prune goes on. Objects go while the
jobs of their episodes are held, after their rows are gone in a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from moltpipe.ledger import retention
from moltpipe.ledger.database import Database
from moltpipe.ledger.retention import FIRST, KINDS, Kind
from moltpipe.ledger.sweeps import known_objects
from moltpipe.store import MOST_PER_PAGE, Store
from moltpipe.studio.retention import (
    ARRIVALS,
    CONFORMED,
    Before,
    Medium,
    Pruned,
    Stranger,
    conformed_film_may_go,
    incident_may_go,
    medium_may_go,
    news_may_go,
    stranger_may_go,
    watcher_may_go,
)
from moltpipe.studio.sweeping import AREAS, Listed

BATCH = 500
"""Rows that are judged at a time, and objects that leave at a time. Episodes are held for as long as that takes."""
_ARRIVED = "results as they arrived"
_CACHED = "conformed films"
_STRANGERS = "objects of nobody"
_LEFT_BEHIND = "objects that an interrupted prune left"

PlaceT = TypeVar("PlaceT", UUID, int)
ThingT = TypeVar("ThingT")


@dataclass
class Tally:
    """What has gone so far, by kind, in the order of their first mention. Told of after each batch."""

    told: Callable[[str], None]
    counts: dict[str, Pruned] = field(default_factory=dict)

    def begin(self, what: str) -> None:
        """Mention a kind, of which perhaps nothing goes."""
        self.counts.setdefault(what, Pruned(what))

    def add(self, what: str, count: int, size: int | None = 0, oldest: datetime | None = None) -> None:
        """Count what one batch took away, or would."""
        self.begin(what)
        if count:
            self.counts[what] = self.counts[what].and_also(count, size, oldest)
        self.told(f"{self.counts[what].count} {what}")

    def look(self, what: str) -> None:
        """Say that a page was looked at, though nothing of it goes.

        A run that is silent for a minute is taken for dead, and a million objects that all stay take longer to list.
        """
        self.add(what, 0)

    def result(self) -> list[Pruned]:
        """What went of each kind."""
        return list(self.counts.values())


@dataclass(frozen=True)
class Pruning:
    """What a prune works on, and by which moments."""

    database: Database
    store: Store
    before: Before
    dry_run: bool
    tally: Tally


def pages(read: Callable[[PlaceT], tuple[list[ThingT], PlaceT | None]], first: PlaceT) -> Iterator[list[ThingT]]:
    """Page after page, each read behind the last row of the one before. What a page gave may be gone by then."""
    place: PlaceT | None = first
    while place is not None:
        page, place = read(place)
        yield page


# Media ----------------------------------------------------------------------------------------------------------------


def prune_media(pruning: Pruning) -> None:
    """Superseded takes, voiceovers and music: rows first, and then their objects.

    Raises:
        DatabaseUnavailable, StoreError: one of them is away. What has gone has gone, and the next prune goes on.
    """
    _see_off(pruning, what=_LEFT_BEHIND)
    for kind in KINDS:
        pruning.tally.begin(kind.name)
        if kind.name == KINDS[-1].name:
            pruning.tally.begin(_ARRIVED)

        def read(after: UUID, kind: Kind = kind) -> tuple[list[Medium], UUID | None]:
            with pruning.database.begin() as db:
                return retention.superseded_page(db, kind, after=after, limit=BATCH)

        for page in pages(read, FIRST):
            pruning.tally.look(kind.name)
            chosen = [one for one in page if medium_may_go(one, pruning.before.takes)]
            if chosen and pruning.dry_run:
                _count(pruning, kind, chosen)
                with pruning.database.begin() as db:
                    for size_of in retention.arrivals_of(db, chosen).values():
                        pruning.tally.add(_ARRIVED, 1, size_of[1], size_of[2])
            elif chosen:
                _retire(pruning, kind, chosen)


def _retire(pruning: Pruning, kind: Kind, chosen: Sequence[Medium]) -> None:
    with pruning.database.begin() as db:
        idle = retention.hold_idle(db, [one.episode_id for one in chosen])
        # Looked at again: until the episodes were held, a run might have taken one of these up.
        now = retention.superseded(db, kind, [one.id for one in chosen if one.episode_id in idle])
        going = [one for one in now if medium_may_go(one, pruning.before.takes)]
        arrived = retention.retire(db, kind, going)
    _count(pruning, kind, going)
    for one in arrived:
        pruning.tally.add(one.what, one.count, one.bytes, one.oldest)
    _see_off(pruning, what=None)


def _count(pruning: Pruning, kind: Kind, media: Sequence[Medium]) -> None:
    moments = [one.recorded_at for one in media if one.recorded_at is not None]
    size = sum(sum(one.objects.values()) for one in media)
    pruning.tally.add(kind.name, len(media), size, min(moments, default=None))


def _see_off(pruning: Pruning, *, what: str | None) -> None:
    """Delete the objects whose rows are gone. `what` counts them, where their rows were not counted by this prune."""
    after, more = "", True
    while more:
        with pruning.database.begin() as db:
            page = retention.departures_page(db, after=after, limit=BATCH)
            idle = retention.hold_idle(db, [one.episode_id for one in page])
            leaving = [one for one in page if one.episode_id in idle]
            # The same bytes may have been made again under the same key.
            told = known_objects(db, [one.key for one in leaving], departing=False)
            if not pruning.dry_run:
                pruning.store.delete([one.key for one in leaving if one.key not in told])
                retention.departed(db, [one.key for one in leaving])
        if what is not None and leaving:
            gone = [one for one in leaving if one.key not in told]
            pruning.tally.add(
                what, len(gone), sum(one.bytes for one in gone), min((one.since for one in gone), default=None)
            )
        more = len(page) == BATCH
        after = page[-1].key if page else after


# Objects of nobody ----------------------------------------------------------------------------------------------------


def prune_objects(pruning: Pruning) -> None:
    """Cuts that were replaced, uploads that never got their row, and what has lain in the cache for long.

    Raises:
        DatabaseUnavailable, StoreError: one of them is away. What has gone has gone, and the next prune goes on.
    """
    for area in AREAS:
        _prune_area(pruning, area, _STRANGERS)
    _prune_area(pruning, ARRIVALS, _ARRIVED)
    for page in old_objects(pruning, CONFORMED, pruning.before.takes, _CACHED):
        going = [one for one in page if conformed_film_may_go(one.modified_at, pruning.before.takes)]
        delete_counted(pruning, going, _CACHED)


def old_objects(pruning: Pruning, prefix: str, before: datetime, what: str) -> Iterator[list[Listed]]:
    """The objects under a prefix that are older than a moment, page by page, some of them empty."""
    pruning.tally.begin(what)
    after, more = "", True
    while more:
        page = pruning.store.page(prefix, after, MOST_PER_PAGE)
        pruning.tally.look(what)
        yield [one for one in page.objects if one.modified_at < before]
        more = page.more
        after = page.objects[-1].key if page.objects else after


def delete_counted(pruning: Pruning, objects: Sequence[Listed] | Sequence[Stranger], what: str) -> None:
    """Delete objects that no row has anything to do with, and count them."""
    if not objects:
        return
    if not pruning.dry_run:
        pruning.store.delete([one.key for one in objects])
    size, oldest = sum(one.bytes for one in objects), min(one.modified_at for one in objects)
    pruning.tally.add(what, len(objects), size, oldest)


def _prune_area(pruning: Pruning, area: str, what: str) -> None:
    for page in old_objects(pruning, area, pruning.before.takes, what):
        with pruning.database.begin() as db:
            chosen = _to_go(pruning, retention.strangers(db, page))
        if not chosen or pruning.dry_run:
            delete_counted(pruning, chosen, what)
            continue
        with pruning.database.begin() as db:
            idle = retention.hold_idle(db, frozenset().union(*(one.episodes for one in chosen)))
            held = {one.key for one in chosen if one.episodes <= idle}
            # Looked at again, now that nobody can lay or record anything under these keys.
            going = _to_go(pruning, retention.strangers(db, [one for one in page if one.key in held]))
            delete_counted(pruning, going, what)
            retention.forget_strangers(db, [one.key for one in going])


def _to_go(pruning: Pruning, found: Sequence[Stranger]) -> list[Stranger]:
    return [one for one in found if stranger_may_go(one, pruning.before.takes)]


# Records --------------------------------------------------------------------------------------------------------------


def prune_records(pruning: Pruning) -> None:
    """Incidents that are over with their alerts, news of calls that are settled, watchers that are no more.

    Raises:
        DatabaseUnavailable: Postgres is away. What has gone has gone, and the next prune goes on.
    """
    database, before, tally = pruning.database, pruning.before.records, pruning.tally
    tally.begin("incidents")
    tally.begin("alerts")
    after: UUID | None = FIRST
    while after is not None:
        with database.begin() as db:
            page, after = retention.old_incidents(db, before=before, after=after, limit=BATCH)
            over = [one for one in page if incident_may_go(one, before)]
            if not pruning.dry_run:
                retention.remove_incidents(db, [one.id for one in over])
        closed = [one.closed_at for one in over if one.closed_at is not None]
        tally.add("incidents", len(over), None, min(closed, default=None))
        sent = [one.last_sent_at for one in over if one.last_sent_at is not None]
        tally.add("alerts", sum(one.alerts for one in over), None, min(sent, default=None))
    tally.begin("events of webhooks")
    after = FIRST
    while after is not None:
        with database.begin() as db:
            news, after = retention.old_news(db, before=before, after=after, limit=BATCH)
            settled = [one for one in news if news_may_go(one, before)]
            if not pruning.dry_run:
                retention.remove_news(db, [one.id for one in settled])
        tally.add("events of webhooks", len(settled), None, min((one.received_at for one in settled), default=None))
    with database.begin() as db:
        gone = [one for one in retention.all_watchers(db) if watcher_may_go(one, before)]
        if not pruning.dry_run:
            retention.remove_watchers(db, [one.name for one in gone])
    tally.add("watchers", len(gone), None, min((one.ticked_at for one in gone), default=None))
