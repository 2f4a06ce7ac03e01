"""One `dagster.yaml` for every deployment: loaded as each of them does it, on a real Postgres, and what then holds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import dagster as dg
import psycopg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.root import LocalArtifactStorage
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_celery.launcher import CeleryRunLauncher
from dagster_k8s import K8sRunLauncher
from dagster_postgres import DagsterPostgresStorage

from moltpipe.media.cores import usable_cores
from moltpipe.runtime.environment import dagster_url, environment
from moltpipe.runtime.launchers import ChosenLauncher, RunQueue
from moltpipe.runtime.services import services
from moltpipe.settings import load_settings

CHECKOUT = Path(__file__).parents[2]
BROKER = "redis://127.0.0.1:1/0"
OURS = ("MOLTPIPE_", "AWS_", "DAGSTER_", "PG")
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "nobody", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "nobody"}}],
    "current-context": "none",
}

Deployment = Callable[[Path, str], dict[str, str]]


@pytest.fixture(scope="module")
def a_database(postgres_url: str, template: str) -> Iterator[str]:
    """Migrated, shared by all deployments: Dagster makes its tables once."""
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE of_the_instance TEMPLATE {template}")
        yield postgres_url.replace("/postgres?", "/of_the_instance?")
        admin.execute("DROP DATABASE of_the_instance WITH (FORCE)")


def a_laptop(folder: Path, database_url: str) -> dict[str, str]:
    """`moltpipe up`; the address stands for the embedded Postgres."""
    return through_moltpipe(
        {
            "MOLTPIPE_DATA_DIR": str(folder),
            "MOLTPIPE_DATABASE_URL": database_url,
            "MOLTPIPE_S3_ENDPOINT_URL": "http://127.0.0.1:1",
        }
    )


def celery(folder: Path, database_url: str) -> dict[str, str]:
    """`moltpipe exec`, on each of several hosts."""
    with set_to(a_laptop(folder, database_url)):
        return through_moltpipe({"MOLTPIPE_LAUNCHER": "celery", "MOLTPIPE_CELERY_BROKER_URL": BROKER})


def compose(folder: Path, database_url: str) -> dict[str, str]:
    """The variables of deploy/compose, its secrets as files, and `moltpipe exec` as the image's entrypoint."""
    file = yaml.safe_load((CHECKOUT / "deploy/compose/compose.yaml").read_text())
    given = {name: _default(value) for name, value in file["x-moltpipe"]["environment"].items()}
    secrets = folder / "secrets"
    secrets.mkdir()
    (secrets / "moltpipe_database_url").write_text(database_url)
    return through_moltpipe({**given, "MOLTPIPE_DATA_DIR": str(folder / "data"), "MOLTPIPE_SECRETS_DIR": str(secrets)})


def kubernetes(folder: Path, database_url: str) -> dict[str, str]:
    """The variables of deploy/kubernetes and of its Secret, and no `moltpipe exec`: the chart starts Dagster itself."""
    lines = (CHECKOUT / "deploy/kubernetes/settings.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    described = yaml.safe_load((CHECKOUT / "deploy/kubernetes/run-pods.yaml").read_text())
    cluster = folder / "kubeconfig"
    cluster.write_text(yaml.safe_dump(KUBECONFIG))
    pods = folder / "run-pods.yaml"
    pods.write_text(yaml.safe_dump({**described, "load_incluster_config": False, "kubeconfig_file": str(cluster)}))
    (folder / "dagster.yaml").write_bytes((CHECKOUT / "dagster.yaml").read_bytes())
    return {
        **given,
        "MOLTPIPE_DATA_DIR": str(folder / "data"),
        "MOLTPIPE_RUN_PODS": str(pods),
        "MOLTPIPE_DATABASE_URL": database_url,
        "MOLTPIPE_DAGSTER_POSTGRES_URL": dagster_url(database_url),
        "DAGSTER_HOME": str(folder),
    }


LAUNCHERS: Mapping[Deployment, type[object]] = {
    a_laptop: ChosenLauncher,
    celery: CeleryRunLauncher,
    compose: DefaultRunLauncher,
    kubernetes: K8sRunLauncher,
}


def _default(value: object) -> str:
    """What Compose makes of a value where nobody sets the variable in it."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def through_moltpipe(given: Mapping[str, str]) -> dict[str, str]:
    """What `moltpipe exec` makes of these variables."""
    with set_to({**ours_of(os.environ), **given}):
        settings = load_settings()
        with services(settings) as held:
            return {**given, **environment(settings, held)}


def ours_of(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(OURS)}


@contextmanager
def set_to(variables: Mapping[str, str]) -> Iterator[None]:
    """These of our variables, and no others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ours_of(os.environ):
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module", params=LAUNCHERS, ids=lambda deployment: deployment.__name__)
def deployment(request: pytest.FixtureRequest) -> Deployment:
    chosen: Deployment = request.param
    return chosen


@pytest.fixture(scope="module")
def variables(deployment: Deployment, a_database: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with set_to({}):
        return deployment(tmp_path_factory.mktemp(deployment.__name__), a_database)


@pytest.fixture(scope="module")
def instance(variables: dict[str, str]) -> Iterator[dg.DagsterInstance]:
    with set_to(variables), dg.DagsterInstance.get() as made:
        yield made


def test_runs_start_where_the_deployment_says(instance: dg.DagsterInstance, deployment: Deployment) -> None:
    assert isinstance(instance.run_launcher, LAUNCHERS[deployment])


def test_the_queue_is_dagsters_with_the_deployments_limit(
    instance: dg.DagsterInstance, variables: dict[str, str]
) -> None:
    queue = instance.run_coordinator
    assert isinstance(queue, RunQueue)
    assert queue.dequeue_use_threads
    config = instance.get_concurrency_config()
    assert config.run_queue_config is not None
    assert config.run_queue_config.max_concurrent_runs == int(variables["MOLTPIPE_MAX_CONCURRENT_RUNS"])
    # No pools: engines are limited in Postgres, by account, over every process.
    assert config.pool_config.default_pool_limit is None


def test_no_more_processes_are_started_side_by_side_than_there_are_cores(
    instance: dg.DagsterInstance, deployment: Deployment
) -> None:
    """Five at once on two cores: the pilot, which takes longest, came up with the last of its series."""
    queue = instance.run_coordinator
    assert isinstance(queue, RunQueue)
    elsewhere = deployment in (celery, kubernetes)
    assert queue.dequeue_num_workers == (8 if elsewhere else min(8, usable_cores()))


def test_the_queue_is_looked_at_every_second(instance: dg.DagsterInstance) -> None:
    # Of an instance of its own: whoever asks this is taken for the daemon.
    with dg.DagsterInstance.from_ref(instance.get_ref()) as daemons:
        assert isinstance(daemons.run_coordinator, RunQueue)
        assert daemons.run_coordinator.dequeue_interval_seconds == 1


def test_dead_runs_are_noticed_and_let_go_of_what_they_held(instance: dg.DagsterInstance) -> None:
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_settings == {
        "enabled": True,
        "start_timeout_seconds": 600,
        "cancel_timeout_seconds": 60,
        "poll_interval_seconds": 30,
        "max_resume_run_attempts": 0,
        "free_slots_after_run_end_seconds": 60,
    }
    assert not instance.run_retries_enabled


def test_a_run_is_never_resumed(instance: dg.DagsterInstance) -> None:
    """The process that takes it over would have the claim of the one before, which may live."""
    assert not instance.run_will_resume(str(uuid4()))


def test_ticks_are_forgotten_after_their_time(instance: dg.DagsterInstance) -> None:
    for kind in (InstigatorType.SENSOR, InstigatorType.SCHEDULE):
        assert instance.get_tick_retention_settings(kind) == {
            TickStatus.SKIPPED: 1,
            TickStatus.SUCCESS: 30,
            TickStatus.FAILURE: 30,
            TickStatus.STARTED: 30,
        }


def test_sensors_schedules_and_backfills_run_side_by_side(instance: dg.DagsterInstance) -> None:
    assert instance.get_settings("sensors") == {"use_threads": True, "num_workers": 4}
    assert instance.get_settings("schedules") == {"use_threads": True, "num_workers": 4}
    assert instance.get_settings("backfills") == {"use_threads": True, "num_workers": 4, "num_submit_workers": 4}
    assert not instance.auto_materialize_enabled


def test_nobody_is_told_what_is_done_here(instance: dg.DagsterInstance) -> None:
    assert not instance.telemetry_enabled
    assert not instance.nux_enabled


def test_what_runs_print_lies_in_the_bucket(instance: dg.DagsterInstance, variables: dict[str, str]) -> None:
    assert isinstance(instance.compute_log_manager, S3ComputeLogManager)
    config = instance.compute_log_manager.inst_data.config_dict
    assert config["bucket"] == {"env": "MOLTPIPE_S3_BUCKET"}
    assert config["prefix"] == "compute-logs"
    assert isinstance(instance.get_ref().local_artifact_storage, LocalArtifactStorage)
    assert instance.get_ref().local_artifact_storage.base_dir == variables["MOLTPIPE_DATA_DIR"]


def test_dagsters_tables_lie_in_their_schema_by_the_driver_that_is_there(instance: dg.DagsterInstance) -> None:
    storage = instance.get_ref().storage
    assert isinstance(storage, DagsterPostgresStorage)
    assert storage.postgres_url.startswith("postgresql+psycopg2://")
    with psycopg.connect(os.environ["MOLTPIPE_DATABASE_URL"]) as db:
        found = db.execute("SELECT to_regclass('dagster.runs'), to_regclass('public.runs')").fetchone()
    assert found == ("dagster.runs", None)


def test_what_dagster_shows_of_its_configuration_holds_no_secret(
    instance: dg.DagsterInstance, variables: dict[str, str]
) -> None:
    shown = instance.info_str()
    for secret in (variables["MOLTPIPE_DAGSTER_POSTGRES_URL"], variables["MOLTPIPE_DATABASE_URL"], BROKER):
        assert secret not in shown
