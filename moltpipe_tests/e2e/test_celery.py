"""Runs on Celery's workers: a backfill that two of them share, the death of one, and what is paid for it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from moltpipe.ledger.database import Database
from moltpipe.ledger.production import load_production
from moltpipe.ledger.schema import production_jobs, provider_jobs
from moltpipe.ledger.series import all_episodes
from moltpipe.runtime.celery_launcher import WORKER_TAG
from moltpipe.runtime.stack import Stack
from moltpipe.settings import Settings
from moltpipe.studio.records import Production
from moltpipe_tests.broker import a_broker
from moltpipe_tests.e2e.studio import Studio, ending, start, terminate, until
from moltpipe_tests.fakes.__main__ import environment
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import Fault, serving
from moltpipe_tests.stories import a_series

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

HERE = {"repositoryLocationName": "moltpipe", "repositoryName": "__repository__"}
PLACES = 2
LONG_S, SHORT_S = 15.0, 0.3
"""How long a film takes: until the first worker is dead, and then."""
SHARED = (
    "MOLTPIPE_DATABASE_URL",
    "MOLTPIPE_S3_ENDPOINT_URL",
    "MOLTPIPE_S3_BUCKET",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION",
)
IN_FLIGHT = {"submitted", "running"}

BEGINNINGS = """
CREATE FUNCTION a_short_script() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shots (episode_id, shot_number, prompt, audio, gen_clip_seconds, duration_seconds, edit_extend_strategy)
    SELECT NEW.id, number,
           jsonb_build_object('camera', 'static', 'scene', 'Shot ' || number || ' of ' || NEW.partition_key),
           jsonb_build_object('type', 'narration', 'description', 'Line ' || number || ' of ' || NEW.partition_key),
           3, 3, 'hold_last_frame'
    FROM generate_series(1, CASE NEW.episode_number WHEN 1 THEN 1 ELSE 2 END) AS number;
    RETURN NEW;
END $$;
CREATE TRIGGER a_short_script AFTER INSERT ON episodes FOR EACH ROW EXECUTE FUNCTION a_short_script();
CREATE FUNCTION a_job_for_later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.available_at := now() + interval '1 day';
    RETURN NEW;
END $$;
CREATE TRIGGER a_job_for_later BEFORE INSERT ON production_jobs FOR EACH ROW EXECUTE FUNCTION a_job_for_later()
"""
"""Nine shots, twelve takes: enough to die in the midst of, and little for two cores. The jobs are for later: the
backfill gets hold of them before the sensor does."""

ADD_KEY = """mutation($repository: RepositorySelector!, $name: String!, $key: String!) {
  addDynamicPartition(repositorySelector: $repository, partitionsDefName: $name, partitionKey: $key) { __typename } }"""
BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
RUNS = """query($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs { results {
  runId status tags { key value } } } } }"""
OF_EPISODES = {"pipelineName": "produce_episode"}


@dataclass(frozen=True)
class Run:
    id: str
    status: str
    worker: str | None
    """The worker that took it."""
    backfill: str | None


@dataclass
class Workers:
    """`moltpipe worker` as on hosts of their own: nothing is shared but Postgres, S3 and the broker."""

    studio: Studio
    shared: Mapping[str, str]
    folder: Path
    alive: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        host = self.folder / name
        host.mkdir(exist_ok=True)
        with (host / "log").open("ab") as log:
            self.alive[name] = subprocess.Popen(
                [sys.executable, "-m", "moltpipe", "worker", "--name", name, "--at-once", str(PLACES)],
                env={**self.studio.environ(), **self.shared, "MOLTPIPE_DATA_DIR": str(host)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def have(self, name: str) -> None:
        """Start it, unless it is there."""
        if name not in self.alive:
            self.start(name)

    def kill(self, name: str) -> None:
        """As if its host had lost its power: the command, Celery, and the runs, all at once."""
        with self.alive.pop(name) as command:
            for process in [*psutil.Process(command.pid).children(recursive=True), psutil.Process(command.pid)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def stop(self, name: str) -> int:
        """As systemd, Docker and Kubernetes do; its exit status."""
        with self.alive.pop(name) as command:
            command.send_signal(signal.SIGTERM)
            return command.wait(60)


@pytest.fixture(scope="module")
def camera() -> Iterator[FakeReplicate]:
    made = FakeReplicate(latency_s=LONG_S)
    with serving(made):
        yield made


@pytest.fixture(scope="module")
def studio(camera: FakeReplicate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("a studio with workers")
    with a_broker(folder) as broker:
        # More runs than both workers have places for: what is too much for them waits in Dagster's queue.
        settings = Settings(data_dir=folder / "data", profile="144p12", lease_s=8, max_concurrent_runs=20)
        yield Studio(
            settings,
            {
                **environment([camera]),
                "MOLTPIPE_CAMERA": "replicate",
                "MOLTPIPE_REPLICATE_START_DELAY_MS": "0",
                # More than there is to film: what the dead had at the provider keeps nobody else waiting.
                "MOLTPIPE_REPLICATE_MAX_CONCURRENCY": "20",
                "MOLTPIPE_HEARTBEAT_S": "2",
                "MOLTPIPE_LAUNCHER": "celery",
                "MOLTPIPE_CELERY_BROKER_URL": broker,
            },
        )


@pytest.fixture(scope="module")
def running(studio: Studio) -> Iterator[Stack]:
    with studio.up() as up:
        yield up


@pytest.fixture(scope="module")
def workers(
    studio: Studio,
    running: Stack,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Workers]:
    shared = {name: running.house.variables[name] for name in SHARED}
    made = Workers(studio, shared, tmp_path_factory.mktemp("hosts"))
    yield made
    for name in list(made.alive):
        made.kill(name)


@pytest.fixture
def database(studio: Studio, running: Stack) -> Iterator[Database]:  # noqa: ARG001 (likewise)
    with studio.open() as (opened, _):
        yield opened


def test_two_workers_share_a_backfill_one_dies_and_nothing_is_paid_twice(
    running: Stack, workers: Workers, database: Database, camera: FakeReplicate
) -> None:
    keys = a_series_for_later(running, database)
    backfill = launch_backfill(running, keys)
    waiting = [(backfill, "QUEUED")] * len(keys)
    until(
        lambda: [(run.backfill, run.status) for run in runs(running)] == waiting or None,
        within_s=120,
        what="the backfill's runs wait, as there is no worker",
    )
    make_due(database)

    workers.start("first")
    workers.start("second")
    until(lambda: taken_by(running, "second") or None, within_s=180, what="the second has its share")
    dying = until(
        lambda: all_paid_and_in_flight(running, database, "first"), within_s=180, what="all that the first does is paid"
    )
    workers.kill("first")
    camera.latency_s = SHORT_S
    at_work = {run.id for run in runs(running) if run.status == "STARTED"}
    assert at_work >= dying
    assert len(at_work) <= 2 * PLACES

    until(lambda: ended_as_failed(running, dying) or None, within_s=180, what="the dead runs are noticed")
    make_due(database)
    until(lambda: finished(database), within_s=600, what="the series is finished by the second worker")
    ended = {run.id: run for run in runs(running)}
    assert {run.worker for run in ended.values()} == {on_this_host("first"), on_this_host("second")}
    assert sum(run.backfill is None for run in ended.values()) >= len(dying)
    assert camera.billed_twice == []
    assert camera.billed == sum(len(one.shots) * one.episode.variants_wanted for one in productions(database))


def test_a_run_that_a_person_stops_is_told_so_and_cancels_what_it_has_at_the_provider(
    running: Stack, workers: Workers, database: Database, camera: FakeReplicate
) -> None:
    workers.have("second")
    run_id = filming_again(running, database, camera, episode=1)
    terminate(running, run_id)
    assert ending(running, run_id, "clips") == "CANCELED"
    until(lambda: calls_of(database, run_id) == {"canceled"} or None, within_s=60, what="every call is cancelled")


def test_a_worker_that_is_told_to_end_interrupts_its_runs_and_leaves_what_they_have_at_the_provider(
    running: Stack, workers: Workers, database: Database, camera: FakeReplicate
) -> None:
    workers.have("second")
    run_id = filming_again(running, database, camera, episode=2)
    assert workers.stop("second") == 0
    assert ending(running, run_id, "clips") == "FAILURE"
    assert calls_of(database, run_id) <= IN_FLIGHT
    with database.begin() as db:
        owners = set(db.scalars(sa.select(production_jobs.c.process_uuid)))
    assert run_id not in owners


def filming_again(running: Stack, database: Database, camera: FakeReplicate, *, episode: int) -> str:
    """A run that makes new takes of an episode, all of which are at the provider and stay there."""
    production = productions(database)[episode]
    camera.fault(Fault.NEVER_ENDS, len(production.shots))
    run_id = start(running, "clips", production.episode.partition_key, regenerate=True)

    def all_at_the_provider() -> bool | None:
        states = calls_of(database, run_id)
        return True if states and states <= IN_FLIGHT else None

    until(all_at_the_provider, within_s=120, what="all takes are at the provider")
    return run_id


def a_series_for_later(running: Stack, database: Database) -> list[str]:
    """Five episodes that are known to Dagster as partitions, and whose jobs no sensor turns into runs yet."""
    with database.begin() as db:
        db.exec_driver_sql(BEGINNINGS)
    keys = [episode.partition_key for episode in a_series(database)]
    for key in keys:
        asked = {"repository": HERE, "name": "moltpipe_episodes", "key": key}
        added = running.graphql(ADD_KEY, asked)["addDynamicPartition"]
        assert added["__typename"] == "AddDynamicPartitionSuccess"
    return keys


def make_due(database: Database) -> None:
    """What waits for its time need not wait longer."""
    with database.begin() as db:
        db.execute(sa.update(production_jobs).values(available_at=sa.func.now()))


def launch_backfill(running: Stack, keys: list[str]) -> str:
    selector = {"partitionSetName": "produce_episode_partition_set", "repositorySelector": HERE}
    params = {"params": {"selector": selector, "partitionNames": keys}}
    answer = running.graphql(BACKFILL, params)["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    return str(answer["backfillId"])


def runs(running: Stack) -> list[Run]:
    found = running.graphql(RUNS, {"filter": OF_EPISODES})["runsOrError"]["results"]
    made = []
    for one in found:
        tags = {tag["key"]: tag["value"] for tag in one["tags"]}
        made.append(Run(one["runId"], one["status"], tags.get(WORKER_TAG), tags.get("dagster/backfill")))
    return made


def on_this_host(name: str) -> str:
    return f"{name}@{socket.gethostname()}"


def taken_by(running: Stack, name: str) -> set[str]:
    return {run.id for run in runs(running) if run.worker == on_this_host(name)}


def ended_as_failed(running: Stack, run_ids: set[str]) -> bool:
    return {run.status for run in runs(running) if run.id in run_ids} == {"FAILURE"}


def all_paid_and_in_flight(running: Stack, database: Database, worker: str) -> set[str] | None:
    """The runs of this worker, once each has a call that is paid and not answered yet."""
    taken = taken_by(running, worker)
    return taken if taken and all(calls_of(database, run_id) & IN_FLIGHT for run_id in taken) else None


def calls_of(database: Database, run_id: str) -> set[str]:
    """The states of what a run has asked the camera for."""
    asked = sa.select(provider_jobs.c.state).where(provider_jobs.c.claimed_by == run_id)
    with database.begin() as db:
        return set(db.scalars(asked.where(provider_jobs.c.engine == "replicate")))


def productions(database: Database) -> list[Production]:
    with database.begin() as db:
        return [load_production(db, episode.partition_key) for episode in all_episodes(db)]


def finished(database: Database) -> bool | None:
    return all(len(one.variants) == one.episode.variants_wanted for one in productions(database)) or None
