from __future__ import annotations

import select

import psycopg
import pytest
import sqlalchemy as sa

from moltpipe.ledger.database import Database, DatabaseUnavailable, psycopg_url
from moltpipe_tests.ledger.beginnings import hang_up, one

SECRET = "s3cr:et/@"  # noqa: S105 (of no server)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_usual_way_to_write_the_url_is_read(scheme: str) -> None:
    url = psycopg_url(f"{scheme}://molt:pw@db.example:6543/moltpipe?sslmode=require")
    assert url.render_as_string(hide_password=False) == (
        "postgresql+psycopg://molt:pw@db.example:6543/moltpipe?sslmode=require"
    )


@pytest.mark.parametrize("url", ["mysql://molt:s3cret@db/x", "s3cret", ""])
def test_a_url_of_something_else_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="expected postgresql://") as refused:
        Database(url)
    assert "s3cret" not in str(refused.value)


def test_an_absent_server_is_named_without_the_password() -> None:
    database = Database(
        sa.URL.create("postgresql", "molt", SECRET, "127.0.0.1", 1, "moltpipe").render_as_string(hide_password=False)
    )
    with pytest.raises(DatabaseUnavailable) as refused, database.begin():
        pass
    assert (refused.value.host, refused.value.port) == ("127.0.0.1", 1)
    assert SECRET not in str(refused.value)


def test_a_database_that_does_not_exist_is_unavailable(database_url: str) -> None:
    with (
        pytest.raises(DatabaseUnavailable, match="no_such"),
        Database(database_url.replace("/test_", "/no_such_")).begin(),
    ):
        pass


def test_a_connection_lost_in_the_middle_is_named_and_undone(database: Database, database_url: str) -> None:
    def change_and_hang_up() -> None:
        with database.begin() as db:
            db.execute(sa.text("UPDATE voting_settings SET min_votes = 9"))
            hang_up(db, database_url)

    with pytest.raises(DatabaseUnavailable):
        change_and_hang_up()
    with database.begin() as db:
        assert one(db, "SELECT min_votes FROM voting_settings") == 1


def until_it_speaks(db: sa.Connection) -> None:
    """Until the server has something to say."""
    socket = db.connection.driver_connection
    assert socket is not None
    select.select([socket], [], [], 10)


def test_a_transaction_that_stands_still_is_ended_by_the_server(database: Database) -> None:
    """A process that was stopped would otherwise hold an account's row, and every start at it, for ever."""
    with database.begin() as db:
        assert db.execute(sa.text("SHOW idle_in_transaction_session_timeout")).scalar_one() == "1min"

    def stand_still() -> None:
        with database.begin() as db:
            db.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 20"))
            until_it_speaks(db)
            db.execute(sa.text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        stand_still()
    with database.begin() as db:
        assert db.execute(sa.text("SELECT 1")).scalar_one() == 1


def test_a_pooled_connection_that_died_is_replaced(database: Database, database_url: str) -> None:
    with database.begin() as db:
        pid = one(db, "SELECT pg_backend_pid()")
    with psycopg.connect(database_url, autocommit=True) as killer:
        killer.execute("SELECT pg_terminate_backend(%s)", [pid])
    with database.begin() as db:
        assert one(db, "SELECT pg_backend_pid()") != pid


def test_other_errors_pass_as_they_are_and_nothing_is_kept(database: Database) -> None:
    def change_twice() -> None:
        with database.begin() as db:
            db.execute(sa.text("UPDATE voting_settings SET min_votes = 9"))
            db.execute(sa.text("UPDATE voting_settings SET min_votes = 0"))

    with pytest.raises(sa.exc.IntegrityError):
        change_twice()
    with database.begin() as db:
        assert one(db, "SELECT min_votes FROM voting_settings") == 1
