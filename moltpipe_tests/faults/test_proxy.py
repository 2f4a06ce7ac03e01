"""The door tells the truth about commits: what it says was cut before is not there, what was cut after is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy as sa

from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.runtime.background import ensure_running, stop
from moltpipe.runtime.postgres import EmbeddedPostgres, PostgresRecord
from moltpipe_tests.faults.proxy import Cut, Door, door


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresRecord]:
    """A server that listens on a port, as the session's own does not."""
    service = EmbeddedPostgres(tmp_path_factory.mktemp("behind a door"))
    running = ensure_running(service, None, lambda _: None)
    try:
        with psycopg.connect(running.url()) as db:
            db.execute("CREATE TABLE notes (text text)")
        yield running
    finally:
        stop(service, running.pid)


@pytest.fixture
def passage(record: PostgresRecord) -> Iterator[Door]:
    with door(lambda: record.port, speaks_postgres=True) as made:
        yield made


@pytest.fixture
def database(record: PostgresRecord, passage: Door) -> Iterator[Database]:
    parts = urlsplit(record.url())
    opened = Database(parts._replace(netloc=parts.netloc.replace(str(record.port), str(passage.port))).geturl())
    yield opened
    opened.dispose()


def note(database: Database, text: str) -> None:
    with database.begin() as db:
        db.execute(sa.text("INSERT INTO notes VALUES (:text)"), {"text": text})


def is_there(record: PostgresRecord, text: str) -> bool:
    with psycopg.connect(record.url()) as db:
        return db.execute("SELECT count(*) FROM notes WHERE text = %s", [text]).fetchone() == (1,)


def test_what_goes_through_an_open_door_arrives(database: Database, record: PostgresRecord) -> None:
    note(database, "through")
    assert is_there(record, "through")


@pytest.mark.parametrize(("where", "arrives"), [(Cut.BEFORE, False), (Cut.AFTER, True)])
def test_a_cut_commit_is_lost_or_kept_and_its_author_cannot_tell(
    *, where: Cut, arrives: bool, database: Database, record: PostgresRecord, passage: Door
) -> None:
    # Often enough that the driver has prepared the statement and only names it.
    for _ in range(8):
        note(database, "before")
    passage.cut_commits(1, where)
    with pytest.raises(DatabaseUnavailable):
        note(database, where.value)
    assert passage.cuts == ["notes"]
    assert is_there(record, where.value) is arrives
    note(database, f"next, {where.value}")
    assert is_there(record, f"next, {where.value}")


def test_who_only_reads_is_not_cut(database: Database, passage: Door) -> None:
    passage.cut_commits(1, Cut.BEFORE)
    with database.begin() as db:
        assert db.execute(sa.text("SELECT 1")).scalar_one() == 1
    assert passage.cuts == []


def test_a_closed_door_refuses_and_opens_again(database: Database, record: PostgresRecord, passage: Door) -> None:
    note(database, "connected")
    passage.refuse()
    with pytest.raises(DatabaseUnavailable):
        note(database, "refused")
    passage.let_pass()
    note(database, "again")
    assert is_there(record, "again")
    assert not is_there(record, "refused")


def test_a_silent_door_keeps_who_waits_until_it_carries_on(
    database: Database, record: PostgresRecord, passage: Door
) -> None:
    note(database, "connected")
    passage.fall_silent()
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(note, database, "late")
        assert wait([late], timeout=0.5).not_done
        assert not is_there(record, "late")
        passage.let_pass()
        late.result(10)
    assert is_there(record, "late")
