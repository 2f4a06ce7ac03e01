from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.migrate import VERSION_TABLE, MigrationRefused, migrate
from moltpipe.ledger.schema import metadata

# Everything that the catalog knows of the tables: columns, constraints as Postgres spells them, and indexes.
CATALOG = """
SELECT table_name AS what, column_name AS name,
       concat_ws(' ', data_type, is_nullable, column_default, numeric_precision, character_maximum_length) AS spelled
FROM information_schema.columns WHERE table_schema = 'public' AND table_name IN :tables
UNION ALL
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text IN :tables
UNION ALL
SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename IN :tables
ORDER BY 1, 2, 3
"""


def _catalog(database: Database) -> list[tuple[str, str, str]]:
    statement = sa.text(CATALOG).bindparams(sa.bindparam("tables", list(metadata.tables), expanding=True))
    with database.begin() as db:
        return [tuple(row) for row in db.execute(statement)]


def test_the_migrated_schema_is_the_schema_module(database: Database, empty_database_url: str) -> None:
    from_metadata = Database(empty_database_url)
    with from_metadata.begin() as db:
        metadata.create_all(db)

    assert _catalog(database) == _catalog(from_metadata)
    from_metadata.dispose()


def test_alembic_sees_no_difference(database: Database) -> None:
    def ours(_: object, name: str | None, kind: str, *__: object) -> bool:
        return not (kind == "table" and name == VERSION_TABLE)

    with database.begin() as db:
        context = MigrationContext.configure(
            db, opts={"version_table": VERSION_TABLE, "compare_server_default": True, "include_object": ours}
        )
        assert compare_metadata(context, metadata) == []


def test_migrating_again_changes_nothing(database: Database, database_url: str) -> None:
    before = _catalog(database)
    migrate(database_url)
    assert _catalog(database) == before


def test_processes_that_start_together_migrate_once(empty_database_url: str) -> None:
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawning) as pool:
        for outcome in [pool.submit(migrate, empty_database_url) for _ in range(2)]:
            outcome.result()

    database = Database(empty_database_url)
    with database.begin() as db:
        assert db.execute(sa.text(f"SELECT count(*) FROM {VERSION_TABLE}")).scalar_one() == 1  # noqa: S608 (a constant)
        assert db.execute(sa.text("SELECT count(*) FROM voting_settings")).scalar_one() == 1
    database.dispose()


def test_dagster_gets_a_schema_of_its_own(database: Database) -> None:
    with database.begin() as db:
        assert db.execute(sa.text("SELECT to_regnamespace('dagster')")).scalar_one() == "dagster"


def test_a_database_from_the_future_is_refused(database: Database, database_url: str) -> None:
    with database.begin() as db:
        db.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))  # noqa: S608 (a constant)
    with pytest.raises(MigrationRefused, match="9999"):
        migrate(database_url)


def test_a_failed_migration_leaves_nothing(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    with database.begin() as db:
        db.execute(sa.text("CREATE TABLE takes (note text)"))
    with pytest.raises(sa.exc.ProgrammingError, match="takes"):
        migrate(empty_database_url)
    with database.begin() as db:
        assert db.execute(sa.text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")).scalar_one() == 1
    database.dispose()


def test_an_absent_server_is_named_without_the_password() -> None:
    password = "do/not:show"  # noqa: S105 (of no server)
    with pytest.raises(DatabaseUnavailable) as caught:
        migrate(f"postgresql://molt:{quote(password, safe='')}@127.0.0.1:1/moltpipe")
    assert (caught.value.host, caught.value.port) == ("127.0.0.1", 1)
    assert password not in str(caught.value)
