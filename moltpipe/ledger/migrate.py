"""Bringing a database to the newest schema.

Here: how revisions are run, and by whom when several processes start at once. Not here: the revisions
(`ledger.migrations`). Forward only: a downgrade would have to throw away records of paid work, and an older
moltpipe refuses a newer database instead.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from moltpipe.ledger.database import engine_for, psycopg_url, unavailable

VERSION_TABLE = "moltpipe_alembic_version"
OLDEST_POSTGRES = 14
_ONE_AT_A_TIME = 0x6D6F6C74  # any number will do, as long as every moltpipe uses the same


class MigrationRefused(Exception):
    """The database is none that this moltpipe can bring to its schema."""


def migrate(url: str) -> None:
    """Create or bring up to date the ledger's tables, and the schema `dagster` for Dagster's own.

    All revisions run in one transaction under an advisory lock: of two processes that start together one
    migrates, and the other one waits and finds nothing to do.

    Raises:
        MigrationRefused: PostgreSQL is older than 14, or the database was migrated by a newer moltpipe.
        DatabaseUnavailable: Postgres cannot be reached.
        ValueError: the URL is not one of PostgreSQL.
    """
    address = psycopg_url(url)
    engine = engine_for(address)
    try:
        with unavailable(address), engine.begin() as db:
            _check_version(db)
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(_ONE_AT_A_TIME)))
            _create_dagster_schema(db)
            command.upgrade(alembic_config(db), "head")
    except CommandError as error:
        raise MigrationRefused(
            f"the database was migrated by another version of moltpipe ({error}): install a newer moltpipe"
        ) from error
    finally:
        engine.dispose()


def alembic_config(db: Connection) -> Config:
    """Alembic's configuration over an open connection, without a file."""
    config = Config()
    config.set_main_option("script_location", "moltpipe.ledger:migrations")
    config.attributes["connection"] = db
    return config


def _check_version(db: Connection) -> None:
    number = int(db.execute(sa.text("SHOW server_version_num")).scalar_one())
    if number // 10000 < OLDEST_POSTGRES:
        raise MigrationRefused(f"PostgreSQL {number // 10000} is too old: expected {OLDEST_POSTGRES} or newer")


def _create_dagster_schema(db: Connection) -> None:
    # Asked first: IF NOT EXISTS demands the right to create even where there is nothing to do.
    if db.execute(sa.text("SELECT to_regnamespace('dagster')")).scalar_one() is None:
        db.execute(sa.text("CREATE SCHEMA dagster"))
