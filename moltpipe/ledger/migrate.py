"""Bringing a database to the newest schema.

Here: how revisions are run, and by whom when several processes start at once. Not here: the revisions
(`ledger.migrations`), Dagster's own tables (`runtime.migration`). Forward only: a downgrade would have to throw away
records of paid work, and an older moltpipe refuses a newer database instead.

A database that is at the newest revision is only read: the role of a deployment that may create nothing can open it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from moltpipe.ledger.database import engine_for, psycopg_url, unavailable

VERSION_TABLE = "moltpipe_alembic_version"
OLDEST_POSTGRES = 14
_ONE_AT_A_TIME = 0x6D6F6C74  # any number will do, as long as every moltpipe uses the same
_THE_WHOLE = _ONE_AT_A_TIME + 1
_MAY_NOT = ("42501", "25006")
"""Insufficient privilege, and a session that may only read."""


class MigrationRefused(Exception):
    """The database is none that this moltpipe can bring to its schema."""


@dataclass(frozen=True)
class Revisions:
    """Where a schema stands. `current` is None for a database without any table of ours."""

    current: str | None
    newest: str

    @property
    def pending(self) -> bool:
        """Whether something is left to be done."""
        return self.current != self.newest


def migrate(url: str) -> Revisions:
    """Create or bring up to date the ledger's tables, and the schema `dagster` for Dagster's own.

    All revisions run in one transaction under an advisory lock: of two processes that start together one
    migrates, and the other one waits and finds nothing to do.

    Returns:
        Where the ledger stood before.

    Raises:
        MigrationRefused: PostgreSQL is older than 14, the database was migrated by a newer moltpipe, or something is
            pending and the role may not do it.
        DatabaseUnavailable: Postgres cannot be reached.
        ValueError: the URL is not one of PostgreSQL.
    """
    address = psycopg_url(url)
    engine = engine_for(address)
    try:
        with unavailable(address), engine.begin() as db:
            _check_version(db)
            before = _revisions(db)
            if before.pending or not _has_dagster_schema(db):
                db.execute(sa.select(sa.func.pg_advisory_xact_lock(_ONE_AT_A_TIME)))
                # Asked again: IF NOT EXISTS demands the right to create even where there is nothing to do.
                if not _has_dagster_schema(db):
                    db.execute(sa.text("CREATE SCHEMA dagster"))
                command.upgrade(alembic_config(db), "head")
            return before
    except CommandError as error:
        raise _of_another_version(error) from error
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _MAY_NOT:
            raise
        raise MigrationRefused(
            f"the tables are not those of this moltpipe, and the role {address.username} may not change them:"
            " run `moltpipe migrate` as their owner"
        ) from error
    finally:
        engine.dispose()


def revisions(url: str) -> Revisions:
    """Where the ledger stands. Only reads.

    Raises:
        MigrationRefused: PostgreSQL is older than 14, or the database was migrated by a newer moltpipe.
        DatabaseUnavailable: Postgres cannot be reached.
    """
    address = psycopg_url(url)
    engine = engine_for(address)
    try:
        with unavailable(address), engine.begin() as db:
            _check_version(db)
            found = _revisions(db)
            if found.current is not None:
                ScriptDirectory.from_config(alembic_config(db)).get_revision(found.current)
            return found
    except CommandError as error:
        raise _of_another_version(error) from error
    finally:
        engine.dispose()


@contextmanager
def alone(url: str) -> Iterator[None]:
    """No other `moltpipe migrate` on this database for the length of a block; waits for one that runs.

    Held by the session and not by a transaction, which the server would end after a minute in which nothing happens.

    Raises:
        DatabaseUnavailable: Postgres cannot be reached.
    """
    address = psycopg_url(url)
    engine = engine_for(address)
    try:
        with unavailable(address):
            db = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            db.execute(sa.select(sa.func.pg_advisory_lock(_THE_WHOLE)))
        with db:
            yield
    finally:
        # Closes the session, and with it lets go of the lock.
        engine.dispose()


def alembic_config(db: Connection) -> Config:
    """Alembic's configuration over an open connection, without a file."""
    config = Config()
    config.set_main_option("script_location", "moltpipe.ledger:migrations")
    config.attributes["connection"] = db
    return config


def _revisions(db: Connection) -> Revisions:
    context = MigrationContext.configure(db, opts={"version_table": VERSION_TABLE})
    newest = ScriptDirectory.from_config(alembic_config(db)).get_current_head()
    assert newest is not None  # noqa: S101 - there is a first revision
    return Revisions(context.get_current_revision(), newest)


def _of_another_version(error: CommandError) -> MigrationRefused:
    return MigrationRefused(
        f"the database was migrated by another version of moltpipe ({error}): install a newer moltpipe"
    )


def _check_version(db: Connection) -> None:
    number = int(db.execute(sa.text("SHOW server_version_num")).scalar_one())
    if number // 10000 < OLDEST_POSTGRES:
        raise MigrationRefused(f"PostgreSQL {number // 10000} is too old: expected {OLDEST_POSTGRES} or newer")


def _has_dagster_schema(db: Connection) -> bool:
    return db.execute(sa.text("SELECT to_regnamespace('dagster')")).scalar_one() is not None
