from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from moltpipe.ledger.checks import run_checks
from moltpipe.ledger.checks.audience import PILOTS_HAVE_THEIR_CLIP_VOTE
from moltpipe.ledger.checks.finding import Conditions
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.migrate import VERSION_TABLE, MigrationRefused, alembic_config, alone, migrate, revisions
from moltpipe.ledger.repairs import repair
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


_MADE = ("provider_jobs", "shots", "takes")
_A_TAKE_OF_THE_FIRST_REVISION = (
    "INSERT INTO studios (slug, name, genre, agent_name) VALUES ('s', 'S', 'drama', 'molt')",
    """
    INSERT INTO scripts (studio_id, title, logline, genre, script_data)
    SELECT id, 'T', 'L', 'drama', '{}' FROM studios
    """,
    """
    INSERT INTO limited_series (script_id, studio_id, slug, title, logline, genre, medium, series_bible, poster_spec)
    SELECT id, studio_id, 't', 'T', 'L', 'drama', 'video', '{}', '{}' FROM scripts
    """,
    """
    INSERT INTO episodes (series_id, episode_number, title, partition_key)
    SELECT id, 2, 'E', 't-e02' FROM limited_series
    """,
    """
    INSERT INTO shots (episode_id, shot_number, prompt, audio, gen_clip_seconds, duration_seconds, edit_extend_strategy)
    SELECT id, 1, '{}', '{}', 5, 6, 'none' FROM episodes
    """,
    """
    INSERT INTO provider_jobs (fingerprint, engine, operation, state, external_id, request, process_uuid,
        submitted_at, finished_at)
    VALUES (repeat('f', 64), 'animatic', 'film', 'ingested', 'job-7', '{}', 'run-1', '2026-03-02', '2026-03-03')
    """,
    """
    INSERT INTO takes (shot_id, variant_number, take_number, media_key, sha256, bytes, duration_seconds, probe,
        provider_job_id)
    SELECT shots.id, 1, 1, 'takes/a.mp4', repeat('a', 64), 9, 5, '{}', provider_jobs.id FROM shots, provider_jobs
    """,
)
_A_PILOT_OF_THE_THIRD_REVISION = (
    "UPDATE scripts SET pilot_status = 'selected', submitted_at = now(), series_id = (SELECT id FROM limited_series)",
    """
    INSERT INTO episodes (series_id, episode_number, title, partition_key)
    SELECT id, 1, 'E', 't-e01' FROM limited_series
    """,
    "INSERT INTO production_jobs (episode_id, job_type, completed_at) SELECT id, 'pilot_variants', now() FROM episodes",
    """
    INSERT INTO clip_variants (episode_id, variant_number, video_key, captions_key, thumbnail_key, sha256, bytes,
        duration_seconds)
    SELECT id, number, 'v' || number, 'c', 't', repeat('a', 64), 9, 5 FROM episodes, generate_series(1, 4) AS number
    """,
    """
    INSERT INTO clip_votes (clip_variant_id, voter_key, cast_at)
    SELECT id, voter, moment::timestamptz FROM clip_variants
    JOIN (VALUES (1, 'twice', '2026-03-02'), (2, 'twice', '2026-03-03'), (3, 'once', '2026-03-02'))
        AS cast_before (number, voter, moment) ON number = variant_number
    """,
    """
    INSERT INTO voting_periods (period_type, starts_at, ends_at, is_processed, processed_at, outcome)
    VALUES ('clip_voting', '2026-03-02', '2026-03-03', true, '2026-03-03', '{}')
    """,
)


def _only_row(db: sa.Connection, table: str) -> dict[str, Any]:
    return dict(db.execute(sa.text(f"SELECT * FROM {table}")).mappings().one())  # noqa: S608 - a constant


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


def test_a_ledger_of_a_newer_moltpipe_is_not_called_pending(database: Database, database_url: str) -> None:
    with database.begin() as db:
        db.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))  # noqa: S608 - a constant
    with pytest.raises(MigrationRefused, match=r"another version of moltpipe.*9999"):
        revisions(database_url)


def test_migrating_again_changes_nothing(database: Database, database_url: str) -> None:
    before = _catalog(database)
    migrate(database_url)
    assert _catalog(database) == before


def test_rows_of_the_first_revision_live_on_in_the_second(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    with database.begin() as db:
        command.upgrade(alembic_config(db), "0001")
        for statement in _A_TAKE_OF_THE_FIRST_REVISION:
            db.execute(sa.text(statement))
        before = {table: _only_row(db, table) for table in _MADE}
    migrate(empty_database_url)
    with database.begin() as db:
        after = {table: _only_row(db, table) for table in _MADE}
    for table in _MADE:
        assert {name: after[table][name] for name in before[table]} == before[table]
    call = after["provider_jobs"]
    assert (call["claimed_at"], call["left_at"], call["claimed_by"]) == (
        call["submitted_at"],
        call["submitted_at"],
        "run-1",
    )
    assert (call["account"], call["reserved_usd"], call["variant_number"], call["take_number"]) == (None, 0, 0, 1)
    assert (after["shots"]["kind"], after["shots"]["engine"]) == (None, None)
    database.dispose()


def test_pilots_that_were_out_before_there_was_a_second_vote_get_theirs_by_repair(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    with database.begin() as db:
        command.upgrade(alembic_config(db), "0003")
        for statement in (*_A_TAKE_OF_THE_FIRST_REVISION[:3], *_A_PILOT_OF_THE_THIRD_REVISION):
            db.execute(sa.text(statement))
    migrate(empty_database_url)
    conditions = Conditions(datetime.now(UTC))
    with database.begin() as db:
        assert db.execute(sa.text("SELECT count(*) FROM voting_periods")).scalar_one() == 0
        votes = db.execute(
            sa.text(
                "SELECT voter_key, variant_number FROM clip_votes "
                "JOIN clip_variants ON id = clip_variant_id AND clip_variants.episode_id = clip_votes.episode_id"
            )
        )
        assert sorted(tuple(row) for row in votes) == [("once", 3), ("twice", 2)]
        (finding,) = (one for one in run_checks(db, conditions) if one.asset == "stitched_episode" and not one.passed)
        assert (finding.name, finding.count) == ("pilots_have_their_clip_vote", 1)
        (mended,) = (one for one in repair(db, conditions, "a test") if one.check == finding.name)
        assert mended.failed is None
        assert PILOTS_HAVE_THEIR_CLIP_VOTE.look(db, conditions).passed
    database.dispose()


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


def test_a_database_at_the_newest_revision_is_opened_while_somebody_else_migrates(
    database: Database, database_url: str
) -> None:
    with database.begin() as db:
        # The lock that revisions run under: who asked for it would wait for ever.
        db.execute(sa.text("SELECT pg_advisory_xact_lock(0x6D6F6C74)"))
        assert not migrate(database_url).pending


def test_one_migration_of_the_whole_runs_at_a_time_and_its_lock_outlives_a_quiet_minute(
    database: Database, database_url: str
) -> None:
    held = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = "
                   "(SELECT oid FROM pg_database WHERE datname = current_database())")  # fmt: skip
    idle = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                   " AND state = 'idle in transaction'")  # fmt: skip
    with alone(database_url), database.begin() as db:
        assert db.execute(held).scalar_one() == 1
        assert db.execute(idle).scalar_one() == 0
    # Whoever comes next gets it. Not counted: the server ends a closed session in its own time.
    with alone(database_url), database.begin() as db:
        assert db.execute(held).scalar_one() == 1


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
