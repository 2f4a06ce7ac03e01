"""Where runs start, and how many: on real Redis and a real instance, with the workers' part where it decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import redis
from celery.contrib.testing.worker import start_worker
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import DefaultRunLauncher, LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test
from pydantic import SecretStr

from moltpipe.runtime import environment as environment_module
from moltpipe.runtime.celery_launcher import CeleryLauncher, Places, celery_app
from moltpipe.runtime.celery_task import may_begin
from moltpipe.runtime.environment import environment
from moltpipe.runtime.launchers import ChosenLauncher, RunQueue
from moltpipe.runtime.services import S3Access, Services
from moltpipe.settings import Settings, SettingsError
from moltpipe_tests.broker import a_broker
from moltpipe_tests.e2e.studio import until

SECRET = "the-password-of-the-broker"  # noqa: S105 - of this test
NOBODY = "redis://127.0.0.1:1/0"
HERE = GrpcServerCodeLocationOrigin("127.0.0.1", port=1, location_name="moltpipe")
STATUSES = dg.DagsterRunStatus
MAX = 7


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with a_broker(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def waiting(broker: str) -> Iterator[redis.Redis]:
    """The broker, emptied."""
    with redis.Redis.from_url(broker) as client:
        client.flushall()
        yield client


@pytest.fixture
def instance(broker: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance that is configured as `dagster.yaml` says, with `MOLTPIPE_LAUNCHER=celery`."""
    monkeypatch.setenv("MOLTPIPE_LAUNCHER", "celery")
    monkeypatch.setenv("MOLTPIPE_CELERY_BROKER_URL", broker)
    classes = {
        "run_launcher": {"module": "moltpipe.runtime.launchers", "class": "ChosenLauncher", "config": {}},
        "run_coordinator": {
            "module": "moltpipe.runtime.launchers",
            "class": "RunQueue",
            "config": {"max_concurrent_runs": MAX},
        },
    }
    with dg.instance_for_test(overrides=classes) as made:
        yield made


def a_settings(tmp_path: Path, **given: Any) -> Settings:  # noqa: ANN401 - of any field
    return Settings(data_dir=tmp_path, **given)


def elsewhere() -> Services:
    return Services(SecretStr("postgresql://u@h/d"), S3Access("https://s3.example"), frozenset())


def a_run(instance: dg.DagsterInstance, status: STATUSES = STATUSES.STARTING) -> dg.DagsterRun:
    repository = RepositoryPythonOrigin(sys.executable, ModuleCodePointer("moltpipe.definitions", "defs", None))
    made: dg.DagsterRun = create_run_for_test(
        instance,
        job_name="produce_episode",
        status=status,
        job_code_origin=JobPythonOrigin("produce_episode", repository),
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(HERE, "__repository__"), "produce_episode"),
    )
    return made


def launch(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.run_launcher.launch_run(LaunchRunContext(run, None))


def status_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> STATUSES:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def messages(broker: redis.Redis) -> list[dict[str, Any]]:
    """All that waits for a worker, whatever its priority."""
    queues = [name for name in broker.keys("dagster*") if broker.type(name) == b"list"]
    return [json.loads(message) for name in queues for message in broker.lrange(name, 0, -1)]


def test_a_laptop_starts_runs_by_itself_and_imports_no_other_way(tmp_path: Path) -> None:
    program = """
import sys
from dagster._core.launcher import RunLauncher
from dagster._serdes import ConfigurableClassData
made = ConfigurableClassData("moltpipe.runtime.launchers", "ChosenLauncher", "{}").rehydrate(as_type=RunLauncher)
print(type(made).__name__, [name for name in ("celery", "kubernetes") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PATH": ""}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "ChosenLauncher []"
    assert issubclass(ChosenLauncher, DefaultRunLauncher)


@pytest.mark.parametrize(
    ("given", "missing", "said"),
    [
        (
            {"launcher": "celery"},
            None,
            (
                "MOLTPIPE_CELERY_BROKER_URL is not set: expected the address of Redis or RabbitMQ,"
                " as MOLTPIPE_LAUNCHER=celery"
            ),
        ),
        (
            {"launcher": "celery", "celery_broker_url": SecretStr(NOBODY)},
            "dagster_celery",
            "dagster_celery is not installed: expected `pip install 'moltpipe[celery]'`, as MOLTPIPE_LAUNCHER=celery",
        ),
        (
            {"launcher": "k8s"},
            "dagster_k8s",
            "dagster_k8s is not installed: expected `pip install 'moltpipe[k8s]'`, as MOLTPIPE_LAUNCHER=k8s",
        ),
    ],
)
def test_a_launcher_that_lacks_something_is_refused_at_the_door(
    given: dict[str, Any], missing: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        environment_module, "find_spec", lambda library: None if library == missing else find_spec(library)
    )
    with pytest.raises(SettingsError) as refusal:
        environment(Settings(data_dir=tmp_path, **given), elsewhere())
    assert str(refusal.value) == said


def test_a_run_waits_at_the_broker_under_its_own_id(instance: dg.DagsterInstance, waiting: redis.Redis) -> None:
    """There is no moment at which a killed daemon leaves a run whose task nobody knows."""
    run = a_run(instance)
    launch(instance, run)
    (message,) = messages(waiting)
    assert message["headers"]["id"] == run.run_id
    assert instance.run_launcher.get_run_worker_debug_info(run) is None


def test_what_waits_at_the_broker_carries_no_password(
    instance: dg.DagsterInstance, waiting: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLTPIPE_DATABASE_URL", f"postgresql://u:{SECRET}@h/d")
    launch(instance, a_run(instance))
    (message,) = messages(waiting)
    assert SECRET not in b64decode(message["body"]).decode()


def test_who_stops_a_run_is_told_to_the_run_first(instance: dg.DagsterInstance) -> None:
    run = a_run(instance, STATUSES.STARTED)
    assert instance.run_launcher.terminate(run.run_id)
    assert status_of(instance, run) is STATUSES.CANCELING
    assert not instance.run_launcher.terminate(a_run(instance, STATUSES.SUCCESS).run_id)
    assert not instance.run_launcher.terminate("no-such-run")


def test_a_broker_that_forgot_everything_is_not_asked_who_lives(
    instance: dg.DagsterInstance, waiting: redis.Redis
) -> None:
    launch(instance, a_run(instance))
    waiting.flushall()
    assert isinstance(instance.run_launcher, CeleryLauncher)
    assert not instance.run_launcher.supports_check_run_worker_health
    assert not instance.run_launcher.supports_resume_run


@pytest.mark.parametrize("status", [STATUSES.STARTED, STATUSES.SUCCESS, STATUSES.FAILURE, STATUSES.CANCELED])
def test_a_message_that_comes_twice_does_nothing(instance: dg.DagsterInstance, status: STATUSES) -> None:
    run = a_run(instance, status)
    assert not may_begin(instance, run.run_id)
    assert status_of(instance, run) is status


def test_a_run_that_is_waited_for_may_begin(instance: dg.DagsterInstance) -> None:
    assert may_begin(instance, a_run(instance).run_id)
    assert not may_begin(instance, "a-run-that-was-deleted")


def test_a_run_that_was_stopped_while_it_waited_ends_when_it_is_taken(instance: dg.DagsterInstance) -> None:
    run = a_run(instance)
    instance.report_run_canceling(run)
    assert not may_begin(instance, run.run_id)
    assert status_of(instance, run) is STATUSES.CANCELED


def test_the_queue_hands_out_no_more_runs_than_workers_have_places(
    instance: dg.DagsterInstance, broker: str, tmp_path: Path
) -> None:
    queue = instance.run_coordinator
    assert isinstance(queue, RunQueue)
    assert queue.dequeue_interval_seconds
    assert queue.get_run_queue_config().max_concurrent_runs == 0
    app = celery_app(Settings(data_dir=tmp_path, celery_broker_url=SecretStr(broker)))
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
        places = Places(app, look_every_s=0)
        until(lambda: places.now() == 1 or None, within_s=30, what="the worker says that it has one place")


def test_who_does_not_take_from_the_queue_asks_no_broker(instance: dg.DagsterInstance) -> None:
    config = instance.get_concurrency_config().run_queue_config
    assert config is not None
    assert config.max_concurrent_runs == MAX


def test_without_a_broker_runs_stay_in_the_queue(tmp_path: Path) -> None:
    assert Places(celery_app(Settings(data_dir=tmp_path, celery_broker_url=SecretStr(NOBODY)))).now() == 0


def test_a_broker_that_goes_away_takes_its_places_along(tmp_path: Path) -> None:
    with a_broker(tmp_path) as url:
        app = celery_app(Settings(data_dir=tmp_path, celery_broker_url=SecretStr(url)))
        places = Places(app, look_every_s=0)
        with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
            until(lambda: places.now() == 1 or None, within_s=30, what="the worker says that it has one place")
    assert places.now() == 0


def test_a_run_that_cannot_be_given_away_goes_back_into_the_queue(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(instance)
    monkeypatch.setenv("MOLTPIPE_CELERY_BROKER_URL", NOBODY)
    with dg.DagsterInstance.from_ref(instance.get_ref()) as cut_off:
        launch(cut_off, run)
    assert status_of(instance, run) is STATUSES.QUEUED


def test_a_run_that_nobody_can_be_told_to_end_stays_as_it_is(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(instance, STATUSES.STARTED)
    monkeypatch.setenv("MOLTPIPE_CELERY_BROKER_URL", NOBODY)
    with dg.DagsterInstance.from_ref(instance.get_ref()) as cut_off:
        assert not cut_off.run_launcher.terminate(run.run_id)
        assert cut_off.run_launcher.get_run_worker_debug_info(run) == "The broker cannot be reached."
    assert status_of(instance, run) is STATUSES.STARTED


def test_what_a_worker_loads_before_it_forks_may_be_forked() -> None:
    """A thread or a connection from before a fork would be half there in every run."""
    program = """
import threading
from importlib import import_module
import moltpipe.runtime.celery_worker
from moltpipe.runtime.stack import DEFINITIONS
import psutil
import_module(DEFINITIONS)
print(threading.active_count(), psutil.Process().net_connections())
"""
    variables = {**os.environ, "MOLTPIPE_LAUNCHER": "celery", "MOLTPIPE_CELERY_BROKER_URL": NOBODY}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 []"
