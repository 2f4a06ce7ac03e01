"""Dagster's tables over connections that stay open, on a real Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import dagster as dg
import psycopg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.test_utils import create_run_for_test

from moltpipe.runtime.environment import dagster_url

STORAGE = {
    "module": "moltpipe.runtime.instance_storage",
    "class": "PooledPostgresStorage",
}


@pytest.fixture
def ref(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> InstanceRef:
    storage = {"custom": {**STORAGE, "config": {"postgres_url": dagster_url(database_url)}}}
    return InstanceRef.from_dir(str(tmp_path_factory.mktemp("instance")), overrides={"storage": storage})


@pytest.fixture
def instance(ref: InstanceRef) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_ref(ref) as made:
        yield made


def backends(database_url: str) -> set[int]:
    """The server's processes that work for others in this database."""
    with psycopg.connect(database_url) as db:
        rows = db.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return {pid for (pid,) in rows}


def write(instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("episodes", [str(uuid4())])
    instance.report_runless_asset_event(dg.AssetMaterialization("clips"))
    create_run_for_test(instance)


def test_what_is_written_one_after_the_other_goes_through_the_same_connections(
    instance: dg.DagsterInstance, database_url: str
) -> None:
    """An event needs a second one inside the first."""
    write(instance)
    before = backends(database_url)
    for _ in range(5):
        write(instance)
    assert backends(database_url) == before
    assert len(before) <= 2


def test_the_instances_of_a_process_share_their_connections(
    instance: dg.DagsterInstance, ref: InstanceRef, database_url: str
) -> None:
    """A sensor's tick has an instance of its own."""
    instance.get_runs_count()
    before = backends(database_url)
    for _ in range(5):
        with dg.DagsterInstance.from_ref(ref) as another:
            another.get_runs_count()
    assert backends(database_url) == before


def test_a_connection_that_was_lost_is_replaced(instance: dg.DagsterInstance, database_url: str) -> None:
    """Postgres was started again: with a connection for every statement nobody would have noticed."""
    instance.add_dynamic_partitions("episodes", ["before"])
    before = backends(database_url)
    with psycopg.connect(database_url) as db:
        for pid in before:
            db.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    instance.add_dynamic_partitions("episodes", ["after"])
    assert instance.get_dynamic_partitions("episodes") == ["before", "after"]
    assert not backends(database_url) & before


def test_the_first_who_comes_makes_the_tables_and_the_webserver_may_have_its_own_way(
    instance: dg.DagsterInstance, ref: InstanceRef, database_url: str
) -> None:
    with psycopg.connect(database_url) as db:
        assert db.execute("SELECT to_regclass('dagster.runs')").fetchone() == ("dagster.runs",)
    with dg.DagsterInstance.from_ref(ref) as webservers:
        webservers.optimize_for_webserver(statement_timeout=5000, pool_recycle=60, max_overflow=1)
        assert webservers.get_runs_count() == instance.get_runs_count() == 0


@pytest.mark.parametrize("given", [{}, {"postgres_url": "x", "should_autocreate_tables": False}, {"postgres_db": {}}])
def test_what_it_does_not_know_is_refused(given: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = str(tmp_path_factory.mktemp("instance"))
    ref = InstanceRef.from_dir(folder, overrides={"storage": {"custom": {**STORAGE, "config": given}}})
    with pytest.raises(dg.DagsterInvalidConfigError):
        dg.DagsterInstance.from_ref(ref)
