from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import psycopg
import pytest

from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.slots import EngineSlots

HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"


def busy(url: str, calls: int, at_once: int) -> int:
    """Make calls in a process of its own; the most calls that all processes together had at once."""

    async def call(database: Database, counter: psycopg.AsyncConnection, guard: asyncio.Lock) -> int:
        async with EngineSlots(database, "camera", at_once):
            async with guard:
                cursor = await counter.execute("UPDATE busy SET n = n + 1 RETURNING n")
                row = await cursor.fetchone()
            await asyncio.sleep(0)
            async with guard:
                await counter.execute("UPDATE busy SET n = n - 1")
        return int(row[0]) if row else 0

    async def run() -> int:
        database = Database(url)
        guard = asyncio.Lock()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as counter:
            highest = max(await asyncio.gather(*(call(database, counter, guard) for _ in range(calls))))
        database.dispose()
        return highest

    return asyncio.run(run())


def test_calls_never_exceed_their_limit_across_processes(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute("CREATE TABLE busy AS SELECT 0 AS n")
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawning) as pool:
        highest = [one.result() for one in [pool.submit(busy, database_url, 12, 2) for _ in range(3)]]
    assert max(highest) <= 2
    with psycopg.connect(database_url) as db:
        assert db.execute("SELECT n FROM busy").fetchone() == (0,)


async def test_tasks_of_one_process_share_the_limit_too(database: Database) -> None:
    inside, highest = 0, 0

    async def call() -> None:
        nonlocal inside, highest
        async with EngineSlots(database, "camera", 3):
            inside += 1
            highest = max(highest, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(call() for _ in range(10)))
    assert highest <= 3


async def test_engines_do_not_wait_for_each_other(database: Database) -> None:
    async with EngineSlots(database, "camera", 1), EngineSlots(database, "voice", 1):
        with psycopg.connect(_url(database)) as db:
            assert db.execute(HELD).fetchone() == (2,)


async def test_a_process_that_dies_gives_its_places_back(database: Database, database_url: str) -> None:
    other = Database(database_url)
    held = EngineSlots(other, "camera", 1)
    await held.__aenter__()
    waiting = asyncio.create_task(EngineSlots(database, "camera", 1).__aenter__())
    with psycopg.connect(database_url, autocommit=True) as killer:
        killer.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
    async with asyncio.timeout(10):
        await waiting
    # The one whose connection died leaves without harm, and its process goes on with a new connection.
    await held.__aexit__(None, None, None)
    async with EngineSlots(other, "camera", 2):
        pass
    other.dispose()


async def test_a_task_cancelled_while_it_waits_takes_no_place(database: Database) -> None:
    async with EngineSlots(database, "camera", 1):
        waiting = asyncio.create_task(EngineSlots(database, "camera", 1).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    with psycopg.connect(_url(database)) as db:
        assert db.execute(HELD).fetchone() == (0,)


async def test_a_failed_call_gives_its_place_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with EngineSlots(database, "camera", 1):
            raise ZeroDivisionError
    async with asyncio.timeout(10), EngineSlots(database, "camera", 1):
        pass


async def test_an_absent_database_is_named() -> None:
    with pytest.raises(DatabaseUnavailable):
        await EngineSlots(Database("postgresql://nobody@127.0.0.1:1/nothing"), "camera", 1).__aenter__()


def test_no_place_at_all_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EngineSlots(database, "camera", 0)


def _url(database: Database) -> str:
    with database.begin() as db:
        return db.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
