"""The sweep along a real S3 server and a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.schema import clip_variants, departures, episodes, observations, sweeps, takes
from moltpipe.ledger.sweeps import MEDIA_OBJECTS_ARE_THERE, OBJECTS, OBJECTS_ARE_KNOWN
from moltpipe.ledger.watching import alone
from moltpipe.production import sweeping
from moltpipe.production.sweeping import Swept, sweep_objects
from moltpipe.runtime.services import S3Access
from moltpipe.store import A_LOOK, MOST_PER_PAGE, Page, Store, connect
from moltpipe.studio.keys import take_key, variant_key
from moltpipe_tests.ledger.beginnings import claimed, series
from moltpipe_tests.shelf import Shelf, a_shelf

AT_ONCE = timedelta(0)
LONG_ENOUGH_S = 60.0
HASH = "a" * 64


@pytest.fixture
def shelf(object_storage: S3Access) -> Iterator[Shelf]:
    with a_shelf(object_storage) as made:
        yield made


@pytest.fixture
def nowhere() -> Store:
    return connect(
        "bucket",
        "http://127.0.0.1:9",
        access_key="a",
        secret_key="b",  # noqa: S106 (nobody's)
        region="us-east-1",
        patience=A_LOOK,
    )


def a_take(database: Database, *, size: int = 4) -> str:
    """A row of a take of four bytes; returns its key."""
    with database.begin() as db:
        _, shots = claimed(db, series(db)[1])
        key = take_key(shots[0].id, 1, 1, HASH)
        db.execute(_take(shots[0].id, key, size))
    return key


def _take(shot_id: UUID, key: str, size: int, number: int = 1) -> sa.Insert:
    return sa.insert(takes).values(
        shot_id=shot_id,
        variant_number=1,
        take_number=number,
        media_key=key,
        sha256=HASH,
        bytes=size,
        duration_seconds=5,
        probe={},
        is_current=number == 1,
    )


def observed(database: Database, check_name: str) -> dict[str, Any]:
    with database.begin() as db:
        rows = db.execute(sa.select(observations).where(observations.c.check_name == check_name))
        return {row.subject: row.detail for row in rows}


def missing(database: Database) -> dict[str, int | None]:
    return {key: detail["found_bytes"] for key, detail in observed(database, MEDIA_OBJECTS_ARE_THERE).items()}


def swept(database: Database, shelf: Shelf) -> Swept:
    return sweep_objects(database, shelf.store, LONG_ENOUGH_S, on_its_way=AT_ONCE)


def error_of(database: Database) -> str | None:
    with database.begin() as db:
        error: str | None = db.execute(sa.select(sweeps.c.error).where(sweeps.c.name == OBJECTS)).scalar_one()
        return error


def test_a_small_studio_is_looked_over_in_one_go(database: Database, shelf: Shelf) -> None:
    shelf.lay(a_take(database))
    assert swept(database, shelf) == Swept(rows=1, objects=1, through=True)
    assert missing(database) == observed(database, OBJECTS_ARE_KNOWN) == {}


def test_an_object_that_goes_is_missed_until_it_is_back(database: Database, shelf: Shelf) -> None:
    key = a_take(database)
    swept(database, shelf)
    assert missing(database) == {key: None}
    detail = observed(database, MEDIA_OBJECTS_ARE_THERE)[key]
    assert (detail["table"], detail["expected_bytes"]) == ("takes", 4)
    shelf.lay(key, b"fi")
    swept(database, shelf)
    assert missing(database) == {key: 2}
    shelf.lay(key)
    swept(database, shelf)
    assert missing(database) == {}


def test_an_object_of_nobody_is_known_as_such_until_it_is_gone(database: Database, shelf: Shelf) -> None:
    key = take_key(uuid4(), 1, 1, HASH)
    shelf.lay(key)
    swept(database, shelf)
    assert observed(database, OBJECTS_ARE_KNOWN) == {key: {"bytes": 4}}
    shelf.remove(key)
    swept(database, shelf)
    assert observed(database, OBJECTS_ARE_KNOWN) == {}


def test_an_object_that_was_just_uploaded_may_still_get_its_row(database: Database, shelf: Shelf) -> None:
    shelf.lay(take_key(uuid4(), 1, 1, HASH))
    sweep_objects(database, shelf.store, LONG_ENOUGH_S)
    assert observed(database, OBJECTS_ARE_KNOWN) == {}


def test_what_is_not_ours_to_judge_is_not_looked_at(database: Database, shelf: Shelf) -> None:
    for key in ("conformed/a.mp4", "arrivals/b.bin", "compute-logs/c", "notes.txt"):
        shelf.lay(key)
    assert swept(database, shelf).objects == 0
    assert observed(database, OBJECTS_ARE_KNOWN) == {}


def test_the_objects_of_a_cut_that_was_replaced_stay_known(database: Database, shelf: Shelf) -> None:
    """Nothing in S3 is overwritten or removed, and a warning that never ends would hide the next one."""
    with database.begin() as db:
        episode = series(db)[1]
        new = [variant_key(episode.id, 1, "b" * 64, suffix) for suffix in (".mp4", ".vtt", ".jpg")]
        db.execute(
            sa.insert(clip_variants).values(
                episode_id=episode.id,
                variant_number=1,
                video_key=new[0],
                captions_key=new[1],
                thumbnail_key=new[2],
                sha256="b" * 64,
                bytes=4,
                duration_seconds=5,
            )
        )
    old = [variant_key(episode.id, 1, HASH, suffix) for suffix in (".mp4", ".vtt", ".jpg", ".srt")]
    of_no_row = variant_key(episode.id, 2, HASH)
    for key in [*new, *old, of_no_row]:
        shelf.lay(key)
    swept(database, shelf)
    assert missing(database) == {}
    assert set(observed(database, OBJECTS_ARE_KNOWN)) == {of_no_row}


def test_a_row_that_is_written_between_the_two_looks_is_no_stranger(
    database: Database, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object may lie there for hours before its row: a run that was killed laid it there, the next records it."""
    with database.begin() as db:
        _, shots = claimed(db, series(db)[1])
    key = take_key(shots[0].id, 1, 1, HASH)
    shelf.lay(key)
    listed = shelf.store.page

    def page(prefix: str, after: str, limit: int) -> object:
        shown = listed(prefix, after, limit)
        if prefix == "takes/":
            with database.begin() as db:
                db.execute(_take(shots[0].id, key, 4))
        return shown

    monkeypatch.setattr(shelf.store, "page", page)
    swept(database, shelf)
    assert observed(database, OBJECTS_ARE_KNOWN) == missing(database) == {}


def test_a_sweep_goes_on_where_its_time_was_up(
    database: Database, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pages of two keys and no time, each call judges one page, and all of them together everything once."""
    monkeypatch.setattr(sweeping, "PAGE", 2)
    with database.begin() as db:
        _, shots = claimed(db, series(db)[1])
        keys = [take_key(shots[0].id, 1, number, HASH) for number in range(1, 6)]
        for number, key in enumerate(keys, start=1):
            db.execute(_take(shots[0].id, key, 4, number))
    for key in keys[1:]:
        shelf.lay(key)
    stranger = take_key(uuid4(), 1, 1, HASH)
    shelf.lay(stranger)
    calls = [Swept()]
    while not calls[-1].through:
        calls.append(sweep_objects(database, shelf.store, 0, on_its_way=AT_ONCE))
    assert missing(database) == {keys[0]: None}
    assert set(observed(database, OBJECTS_ARE_KNOWN)) == {stranger}
    assert sum(one.rows for one in calls) == 5
    assert sum(one.objects for one in calls) == 5
    assert all(one.rows + one.objects <= 4 for one in calls)


def test_a_rest_is_measured_by_the_clock_that_wrote_its_beginning(
    database: Database, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of this machine is a day behind that of Postgres: nobody rests for a day because of it."""

    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Behind:
            return super().now(tz) - timedelta(days=1)

    assert swept(database, shelf).through
    with database.begin() as db:
        db.execute(sa.update(sweeps).values(completed_at=sweeps.c.completed_at - timedelta(seconds=1)))
        db.execute(sa.update(sweeps).values(began_at=sweeps.c.completed_at - timedelta(milliseconds=1)))
    monkeypatch.setattr("moltpipe.production.sweeping.datetime", Behind)
    key = a_take(database)
    sweep_objects(database, shelf.store, LONG_ENOUGH_S, resting=True)
    assert set(missing(database)) == {key}


def test_what_the_ledger_cannot_take_stops_the_sweep_and_says_so(database: Database, shelf: Shelf) -> None:
    """Whatever it is: the checks that need no sweep come after it in the same tick."""
    shelf.lay("takes/odd.mp4")
    with database.begin() as db:
        db.execute(sa.text("ALTER TABLE observations ADD CONSTRAINT no_takes CHECK (subject NOT LIKE 'takes/%')"))
    error = swept(database, shelf).error or ""
    assert "no_takes" in error
    assert "\n" not in error
    assert error_of(database) == error
    with database.begin() as db:
        db.execute(sa.text("ALTER TABLE observations DROP CONSTRAINT no_takes"))
    assert swept(database, shelf).through
    assert set(observed(database, OBJECTS_ARE_KNOWN)) == {"takes/odd.mp4"}


def test_a_large_studio_is_not_listed_without_a_pause(database: Database, shelf: Shelf) -> None:
    sweep_objects(database, shelf.store, LONG_ENOUGH_S, resting=True)
    with database.begin() as db:
        db.execute(sa.update(sweeps).values(began_at=sweeps.c.completed_at - timedelta(minutes=10)))
    shelf.lay(take_key(uuid4(), 1, 1, HASH))
    assert sweep_objects(database, shelf.store, LONG_ENOUGH_S, resting=True, on_its_way=AT_ONCE).objects == 0
    assert swept(database, shelf).objects == 1


def test_an_s3_that_is_away_is_said_and_forgets_nothing(database: Database, shelf: Shelf, nowhere: Store) -> None:
    key = a_take(database)
    swept(database, shelf)
    away = sweep_objects(database, nowhere, LONG_ENOUGH_S)
    assert "could not list episodes/" in (away.error or "")
    assert error_of(database) == away.error
    assert missing(database) == {key: None}
    swept(database, shelf)
    assert error_of(database) is None


def test_a_ledger_that_is_away_is_no_empty_ledger(shelf: Shelf) -> None:
    with pytest.raises(DatabaseUnavailable):
        sweep_objects(Database("postgresql://nobody@127.0.0.1:1/nothing"), shelf.store, LONG_ENOUGH_S)


def test_of_two_sweeps_at_once_one_looks(database: Database, database_url: str, shelf: Shelf) -> None:
    another = Database(database_url)
    with alone(another, "sweep objects"):
        assert swept(database, shelf) == Swept(elsewhere=True)
    assert swept(database, shelf).through
    another.dispose()


def test_many_sweeps_at_once_find_what_one_finds(database: Database, shelf: Shelf) -> None:
    key = a_take(database)
    done: list[Swept] = []
    threads = [threading.Thread(target=lambda: done.append(swept(database, shelf))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4
    assert any(one.through for one in done)
    assert missing(database) == {key: None}


def test_nothing_is_written_to_the_bucket(database: Database, shelf: Shelf, tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"film")
    shelf.store.put(file, lambda sha256: take_key(UUID(int=1), 1, 1, sha256))
    before = list(shelf.store.listing())
    swept(database, shelf)
    assert list(shelf.store.listing()) == before


class Watched(Store):
    """A store at whose listings something else happens first."""

    def __init__(self, shelf: Shelf, meanwhile: Callable[[], None]) -> None:
        super().__init__(shelf.store.bucket, shelf.client)
        self._meanwhile = meanwhile

    def page(self, prefix: str = "", after: str = "", limit: int = MOST_PER_PAGE) -> Page:
        if prefix == "takes/":
            self._meanwhile()
        return super().page(prefix, after, limit)


def test_what_a_prune_takes_away_meanwhile_is_not_missed(database: Database, shelf: Shelf) -> None:
    """Its row was read, and then the row and the object went."""
    key = a_take(database)
    shelf.lay(key)

    def prune() -> None:
        with database.begin() as db:
            db.execute(sa.delete(takes))
        shelf.remove(key)

    sweep_objects(database, Watched(shelf, prune), LONG_ENOUGH_S, on_its_way=AT_ONCE)
    assert missing(database) == {}


def test_what_a_prune_is_about_to_delete_is_not_of_nobody(database: Database, shelf: Shelf) -> None:
    """Its row was gone when the rows were read; when it is asked for again, the prune is through."""
    key = a_take(database)
    shelf.lay(key)
    with database.begin() as db:
        of = db.execute(sa.select(episodes.c.id).limit(1)).scalar_one()
        db.execute(sa.delete(takes))
        db.execute(sa.insert(departures).values(key=key, bytes=4, episode_id=of))
    listed = Watched(shelf, lambda: None).page("takes/")

    class Late(Store):
        def page(self, prefix: str = "", after: str = "", limit: int = MOST_PER_PAGE) -> Page:
            if prefix != "takes/":
                return super().page(prefix, after, limit)
            shelf.remove(key)
            with database.begin() as db:
                db.execute(sa.delete(departures))
            return listed

    sweep_objects(database, Late(shelf.store.bucket, shelf.client), LONG_ENOUGH_S, on_its_way=AT_ONCE)
    assert observed(database, OBJECTS_ARE_KNOWN) == {}
