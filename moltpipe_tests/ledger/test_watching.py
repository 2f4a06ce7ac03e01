"""Who ticked when, on a real PostgreSQL."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.database import Database
from moltpipe.ledger.schema import watchers
from moltpipe.ledger.watching import ASLEEP, SILENCE, alone, ticked

SENSORS = ("period_sensor", "production_sensor")


def last_ticks(db: Connection) -> dict[str, datetime]:
    return {row.name: row.ticked_at for row in db.execute(sa.select(watchers))}


def turn_back(db: Connection, by: timedelta, *names: str) -> None:
    """As if the watchers had ticked earlier: all of them unless some are named."""
    statement = sa.update(watchers).values(ticked_at=watchers.c.ticked_at - by)
    db.execute(statement.where(watchers.c.name.in_(names)) if names else statement)


def clock(db: Connection) -> datetime:
    now: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return now


def test_a_sensor_that_ticks_each_second_does_not_write_each_second(transaction: Connection) -> None:
    ticked(transaction, "period_sensor")
    first = last_ticks(transaction)
    ticked(transaction, "period_sensor")
    assert last_ticks(transaction) == first
    turn_back(transaction, timedelta(seconds=6))
    ticked(transaction, "period_sensor")
    assert last_ticks(transaction)["period_sensor"] > first["period_sensor"]


def test_the_first_tick_of_all_gives_every_watcher_its_time_to_come_up(transaction: Connection) -> None:
    """One that never comes up has a row that grows old, so it is found."""
    ticked(transaction, "period_sensor")
    assert set(last_ticks(transaction)) == set(SILENCE)


def test_who_is_silent_while_others_tick_grows_old(transaction: Connection) -> None:
    ticked(transaction, "period_sensor")
    turn_back(transaction, timedelta(minutes=10), "reaper_sensor")
    turn_back(transaction, timedelta(seconds=10), "period_sensor")
    ticked(transaction, "period_sensor")
    assert clock(transaction) - last_ticks(transaction)["reaper_sensor"] > timedelta(minutes=9)


def test_after_a_night_without_a_daemon_nobody_is_blamed_for_the_night(transaction: Connection) -> None:
    ticked(transaction, "period_sensor")
    turn_back(transaction, timedelta(hours=8))
    ticked(transaction, "production_sensor")
    now = clock(transaction)
    assert all(now - at < timedelta(seconds=5) for at in last_ticks(transaction).values())


def test_every_allowed_silence_is_longer_than_the_gap_that_means_that_no_daemon_ran() -> None:
    """Otherwise a restart within that gap would find those silent that have not come up yet."""
    assert all(allowed > ASLEEP for allowed in SILENCE.values())


def test_two_daemons_that_wake_at_once_wait_for_each_other(database: Database) -> None:
    """Each writes all rows. In any but one order they would wait in a circle, and Postgres would end one of them."""
    for _ in range(10):
        with database.begin() as db:
            db.execute(sa.delete(watchers))
        both = threading.Barrier(len(SENSORS))
        failures: list[Exception] = []

        def wake(name: str, both: threading.Barrier = both, failures: list[Exception] = failures) -> None:
            both.wait()
            try:
                with database.begin() as db:
                    ticked(db, name)
            except Exception as error:  # noqa: BLE001 (whatever it is, the test fails with it)
                failures.append(error)

        threads = [threading.Thread(target=wake, args=[name]) for name in SENSORS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with database.begin() as db:
            assert set(last_ticks(db)) == set(SILENCE)


def test_of_two_processes_one_is_alone(database: Database, database_url: str) -> None:
    another = Database(database_url)
    with alone(database, "a sweep") as first, alone(another, "a sweep") as second, alone(another, "a walk") as other:
        assert (first, second, other) == (True, False, True)
    with alone(another, "a sweep") as afterwards:
        assert afterwards
    another.dispose()


def test_who_dies_at_it_leaves_it_to_the_others(database: Database, database_url: str) -> None:
    dying = Database(database_url)
    with alone(dying, "a sweep"):
        dying.dispose()
        with alone(database, "a sweep") as free:
            assert free
