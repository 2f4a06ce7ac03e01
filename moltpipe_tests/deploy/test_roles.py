"""The roles of deploy/postgres, on a real PostgreSQL: what each may, and what it may not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from psycopg import errors

from moltpipe.defs.clips import clips
from moltpipe.defs.episodes import stitched_episode
from moltpipe.defs.partitions import EPISODES_NAME
from moltpipe.defs.scripts import episode_script
from moltpipe.defs.voiceovers import voiceover
from moltpipe.engines.animatic import Animatic
from moltpipe.engines.espeak import Espeak
from moltpipe.engines.outline import Outline
from moltpipe.ledger.database import Database
from moltpipe.ledger.migrate import MigrationRefused, migrate, revisions
from moltpipe.production.line import Crew, Line
from moltpipe.runtime.environment import dagster_url
from moltpipe.runtime.postgres import binaries
from moltpipe.store import Store
from moltpipe.studio.profiles import parse_profile
from moltpipe_tests.deploy.conftest import TOP, Studio, environ_of, run_roles
from moltpipe_tests.stories import a_series


def moltpipe(url: str, data_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moltpipe", *words],
        env=environ_of(url, data_dir),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def studio(empty_studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """Migrated by its owner, from nothing, after every other role was refused."""
    folder = tmp_path_factory.mktemp("data")
    with psycopg.connect(empty_studio.admin) as admin:
        admin.execute("CREATE SCHEMA elsewhere CREATE TABLE secrets (id int)")
    refused = moltpipe(empty_studio.app, folder, "migrate")
    assert refused.returncode == 1
    assert "the role moltpipe_app may not change them: run `moltpipe migrate` as their owner" in refused.stderr
    assert "Traceback" not in refused.stderr

    pending = moltpipe(empty_studio.owner, folder, "migrate", "--check", "--json")
    assert pending.returncode == 1
    assert [part["pending"] for part in json.loads(pending.stdout)["parts"]] == [True, True]

    done = moltpipe(empty_studio.owner, folder, "migrate")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"ledger: no tables → {revisions(empty_studio.owner).newest}" in done.stdout
    assert "dagster: no tables → " in done.stdout
    return empty_studio


def test_migrating_again_has_nothing_to_do_and_says_so(studio: Studio, tmp_path: Path) -> None:
    again = moltpipe(studio.owner, tmp_path, "migrate", "--json")
    assert again.returncode == 0, again.stderr
    parts = json.loads(again.stdout)["parts"]
    assert [(part["name"], part["pending"]) for part in parts] == [("ledger", False), ("dagster", False)]
    assert all(part["before"] == part["now"] == part["newest"] for part in parts)


def test_an_episode_is_voted_for_and_made_by_the_role_that_may_make_no_table(
    studio: Studio, store: Store, tmp_path: Path
) -> None:
    database = Database(studio.app)
    line = Line(
        database=database,
        store=store,
        crew=Crew(Outline(tmp_path), Espeak(tmp_path), Animatic(tmp_path), None),
        profile=parse_profile("144p12"),
        media_url=None,
        workdir=tmp_path,
        lease=timedelta(seconds=60),
        heartbeat=timedelta(seconds=5),
        calls_at_once=2,
        cuts_at_once=2,
    )
    storage = {"postgres": {"postgres_url": dagster_url(studio.app)}}
    with dg.instance_for_test(overrides={"storage": storage}) as instance:
        episode = a_series(database)[1]
        instance.add_dynamic_partitions(EPISODES_NAME, [episode.partition_key])
        made = dg.materialize(
            [episode_script, voiceover, clips, stitched_episode],
            instance=instance,
            partition_key=episode.partition_key,
            resources={"line": line},
        )
        assert made.success
        assert instance.get_run_by_id(made.run_id) is not None
    database.dispose()
    with psycopg.connect(studio.read) as reader:
        assert reader.execute("SELECT count(*) FROM clip_variants").fetchone() == (1,)
        assert reader.execute("SELECT count(*) FROM dagster.runs").fetchone() == (1,)


def test_a_database_at_the_newest_revision_is_opened_by_every_role(studio: Studio) -> None:
    for url in (studio.owner, studio.app, studio.read):
        assert not migrate(url).pending


def test_who_may_not_migrate_is_told_who_may(studio: Studio) -> None:
    newest = revisions(studio.owner).newest
    with psycopg.connect(studio.owner, autocommit=True) as owner:
        owner.execute("UPDATE moltpipe_alembic_version SET version_num = '0003'")
        try:
            for url in (studio.app, studio.read):
                with pytest.raises(MigrationRefused, match="run `moltpipe migrate` as their owner"):
                    migrate(url)
        finally:
            owner.execute("UPDATE moltpipe_alembic_version SET version_num = %s", [newest])


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE of_my_own (id int)",
        "CREATE TABLE dagster.of_my_own (id int)",
        "CREATE TEMPORARY TABLE of_my_own (id int)",
        "CREATE SCHEMA of_my_own",
        "ALTER TABLE takes ADD COLUMN note text",
        "DROP TABLE clip_votes",
        "TRUNCATE clip_votes",
        "DROP INDEX dagster.idx_runs_by_job",
        "ALTER ROLE moltpipe_app CREATEROLE",
        "ALTER ROLE moltpipe_owner PASSWORD 'mine now'",
        "SET ROLE moltpipe_owner",
        "CREATE ROLE of_my_own",
        "COPY takes TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT * FROM elsewhere.secrets",
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ],
)
def test_the_app_changes_rows_and_nothing_else(studio: Studio, statement: str) -> None:
    with psycopg.connect(studio.app) as app, pytest.raises(errors.InsufficientPrivilege):
        app.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO studios (slug, name, genre, agent_name) VALUES ('s', 'S', 'drama', 'a')",
        "UPDATE takes SET is_current = false",
        "DELETE FROM clip_votes",
        "DELETE FROM dagster.runs",
        "CREATE TABLE of_my_own (id int)",
    ],
)
def test_who_only_looks_cannot_write_even_when_the_session_says_so(studio: Studio, statement: str) -> None:
    with psycopg.connect(studio.read) as reader:
        with pytest.raises(errors.ReadOnlySqlTransaction):
            reader.execute(statement)
        reader.rollback()
        reader.execute("SET default_transaction_read_only = off")
        reader.commit()
        with pytest.raises(errors.InsufficientPrivilege):
            reader.execute(statement)


def test_who_only_looks_takes_the_backup(studio: Studio, tmp_path: Path) -> None:
    dump = tmp_path / "moltpipe.dump"
    subprocess.run(
        [binaries() / "pg_dump", "--format=custom", "-n", "public", "-n", "dagster", f"--file={dump}", studio.read],
        check=True,
    )
    listed = subprocess.run([binaries() / "pg_restore", "--list", dump], check=True, capture_output=True, text=True)
    assert {"TABLE DATA public scripts", "TABLE DATA dagster runs", "SEQUENCE SET dagster runs_id_seq"} <= {
        " ".join(line.split()[3:7]) for line in listed.stdout.splitlines()
    }


@pytest.mark.parametrize("schema", ["public", "dagster"])
def test_a_table_of_an_upgrade_belongs_to_the_app_at_once(studio: Studio, schema: str) -> None:
    def connect(url: str) -> psycopg.Connection:
        return psycopg.connect(url, autocommit=True, options=f"-csearch_path={schema}")

    with connect(studio.owner) as owner, connect(studio.app) as app, connect(studio.read) as reader:
        owner.execute("CREATE TABLE of_an_upgrade (id int GENERATED BY DEFAULT AS IDENTITY, note text)")
        try:
            app.execute("INSERT INTO of_an_upgrade (note) VALUES ('new')")
            assert reader.execute("SELECT note FROM of_an_upgrade").fetchone() == ("new",)
            app.execute("DELETE FROM of_an_upgrade")
        finally:
            owner.execute("DROP TABLE of_an_upgrade")


def test_roles_may_be_made_again_with_a_new_password_and_keep_their_rights(studio: Studio) -> None:
    def verifier() -> str:
        with psycopg.connect(studio.admin) as admin:
            found = admin.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'moltpipe_app'").fetchone()
        assert found is not None
        return str(found[0])

    before = verifier()
    assert before.startswith("SCRAM-SHA-256$")
    run_roles(studio.environ)
    assert verifier() != before
    with psycopg.connect(studio.app) as app:
        app.execute("SELECT count(*) FROM episodes")


def test_a_database_that_one_role_has_owned_so_far_is_taken_over_as_the_guide_says(studio: Studio) -> None:
    """First the roles, since nothing can be given to one that is not there."""
    (reassign,) = re.findall(r"`(REASSIGN OWNED BY \w+ TO \w+)`", (TOP / "docs" / "security.md").read_text())
    with psycopg.connect(studio.admin, autocommit=True) as admin:
        known = admin.info.dbname
        name = f"{known}_before"
        admin.execute("CREATE ROLE studio_before LOGIN PASSWORD 'of studio_before'")
        admin.execute(f"CREATE DATABASE {name} OWNER studio_before")
    admin_url, owner, app, read = (
        url.replace(f"/{known}?", f"/{name}?") for url in (studio.admin, studio.owner, studio.app, studio.read)
    )
    try:
        before = owner.replace("moltpipe_owner", "studio_before").replace("of%20'owner'", "of%20studio_before")
        migrate(before)
        with psycopg.connect(before) as made:
            made.execute("CREATE TABLE dagster.made_before (id int GENERATED BY DEFAULT AS IDENTITY)")
        run_roles({**studio.environ, "PGDATABASE": name})
        with psycopg.connect(admin_url) as by_admin:
            by_admin.execute(reassign.replace("old_role", "studio_before"))
        with psycopg.connect(app) as connected:
            connected.execute("INSERT INTO dagster.made_before DEFAULT VALUES")
            connected.execute("DELETE FROM clip_votes")
        with psycopg.connect(read) as connected:
            assert connected.execute("SELECT count(*) FROM dagster.made_before").fetchone() == (1,)
        with psycopg.connect(owner) as connected:
            connected.execute("ALTER TABLE dagster.made_before ADD COLUMN note text")
            connected.execute("CREATE TABLE dagster.made_after (id int)")
            connected.execute("ALTER TABLE clip_votes ADD COLUMN note text")
        with psycopg.connect(app) as connected:
            connected.execute("INSERT INTO dagster.made_after VALUES (1)")
    finally:
        with psycopg.connect(studio.admin, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            admin.execute("DROP ROLE studio_before")


def test_nobody_else_may_connect_or_use_the_tables(studio: Studio) -> None:
    with psycopg.connect(studio.admin, autocommit=True) as admin:
        admin.execute("CREATE ROLE a_stranger LOGIN")
        try:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(
                    studio.admin.replace("postgres:@", "a_stranger:@").replace("//postgres", "//a_stranger")
                )
        finally:
            admin.execute("DROP ROLE a_stranger")
