"""A studio of its own for an end-to-end test: a DATA_DIR, the command, the stack, its GraphQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from moltpipe.ledger.database import Database
from moltpipe.runtime.house import open_house
from moltpipe.runtime.services import open_store
from moltpipe.runtime.stack import Stack, stack
from moltpipe.settings import Settings
from moltpipe.store import Store

T = TypeVar("T")

CHECKOUT = Path(__file__).parents[2]

_LAUNCH = """mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
_RUN = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
_TERMINATE = """mutation($id: String!) { terminateRun(runId: $id) { __typename } }"""
_PARTITIONS = """query($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode {
    assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions } } } }
}"""
_CHECK = """query($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode { assetChecksOrError { ... on AssetChecks { checks {
    name executionForLatestMaterialization { status evaluation { success severity } } } } } } }
}"""


@dataclass(frozen=True)
class Studio:
    """One DATA_DIR and what a user does with it."""

    settings: Settings
    variables: Mapping[str, str] = field(default_factory=dict)
    """What the user set beside that."""

    def environ(self) -> dict[str, str]:
        """The environment of a user who set only the studio's place and a small picture."""
        ours = {
            key: value for key, value in os.environ.items() if not key.startswith(("MOLTPIPE_", "AWS_", "DAGSTER_"))
        }
        return ours | {
            "MOLTPIPE_DATA_DIR": str(self.settings.data_dir),
            "MOLTPIPE_PROFILE": self.settings.profile.name,
            "MOLTPIPE_LEASE_S": str(self.settings.lease_s),
            **self.variables,
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `moltpipe WORDS…` in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "moltpipe", *words],
            env=self.environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, status: int = 0) -> str:
        """Run `moltpipe WORDS…` to its end, expect an exit status, and give what it printed on stdout."""
        done = subprocess.run(
            [sys.executable, "-m", "moltpipe", *words],
            env=self.environ(),
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == status, f"moltpipe {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str, status: int = 0) -> dict[str, Any]:
        """The same with `--json`."""
        document: dict[str, Any] = json.loads(self.run(*words, "--json", status=status))
        return document

    @contextmanager
    def open(self) -> Iterator[tuple[Database, Store]]:
        """Ledger and store, with the services up."""
        with open_house(self.settings) as house:
            database = Database(house.services.database_url.get_secret_value())
            try:
                yield database, open_store(house.services, self.settings.s3_bucket)
            finally:
                database.dispose()

    @contextmanager
    def up(self) -> Iterator[Stack]:
        """Webserver, daemon and code server."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environ().items():
                patch.setenv(name, value)
            with stack(self.settings) as running:
                yield running


def launch(running: Stack, asset: str, partition_key: str, *, regenerate: bool = False) -> str:
    """Materialize one partition as the launchpad does, wait for the run's end, and give its status."""
    return ending(running, start(running, asset, partition_key, regenerate=regenerate), asset)


def terminate(running: Stack, run_id: str) -> None:
    """End a run as the UI's button does."""
    answer = running.graphql(_TERMINATE, {"id": run_id})["terminateRun"]
    assert answer["__typename"] == "TerminateRunSuccess", answer


def start(running: Stack, asset: str, partition_key: str, *, regenerate: bool = False) -> str:
    """Materialize one partition, and give the run's id."""
    config = {"ops": {asset: {"config": {"regenerate": True}}}} if regenerate else {}
    answer = running.graphql(
        _LAUNCH,
        {
            "params": {
                "selector": {
                    "repositoryLocationName": "moltpipe",
                    "repositoryName": "__repository__",
                    "pipelineName": "produce_episode",
                    "assetSelection": [{"path": [asset]}],
                },
                "mode": "default",
                "runConfigData": config,
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition_key}]},
            }
        },
    )["launchPipelineExecution"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def ending(running: Stack, run_id: str, what: str) -> str:
    """The status of a run at its end."""

    def ended() -> str | None:
        status = str(running.graphql(_RUN, {"id": run_id})["runOrError"]["status"])
        return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

    return until(ended, within_s=180, what=f"run {run_id} of {what} ends")


def partitions(running: Stack, asset: str) -> tuple[set[str], set[str]]:
    """Materialized and failed partitions of an asset."""
    node = running.graphql(_PARTITIONS, {"key": {"path": [asset]}})["assetNodeOrError"]
    statuses = node["assetPartitionStatuses"]
    return set(statuses["materializedPartitions"]), set(statuses["failedPartitions"])


def latest_check(running: Stack, asset: str, name: str) -> bool | None:
    """Whether the latest evaluation of a check passed; None when there is none yet."""
    node = running.graphql(_CHECK, {"key": {"path": [asset]}})["assetNodeOrError"]
    for check in node["assetChecksOrError"]["checks"]:
        execution = check["executionForLatestMaterialization"]
        if check["name"] == name and execution and execution["evaluation"]:
            return bool(execution["evaluation"]["success"])
    return None


def until(look: Callable[[], T | None], *, within_s: float, what: str) -> T:
    """Look until there is an answer. The wait between two looks is the price of asking another process."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        answer = look()
        if answer is not None:
            return answer
        time.sleep(0.3)
    raise AssertionError(f"within {within_s} s it did not come to pass that {what}")


def a_studio(folder: Path) -> Studio:
    """A studio with a small picture and a short lease, so that a lost process is noticed soon."""
    return Studio(Settings(data_dir=folder / "data", profile="144p12", lease_s=15))


def kill_everything(studio: Studio) -> None:
    """SIGKILL every process that works in this studio: the command, its stack, runs, Postgres and S3.

    Some end by themselves between the look and the signal, and some are born in it, so it is done until none is left.
    """
    while found := _everything_of(studio):
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=10)


def _everything_of(studio: Studio) -> list[psutil.Process]:
    mark = str(studio.settings.data_dir)
    ours = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.environ().get("MOLTPIPE_DATA_DIR", "")]
        except psutil.Error:
            continue
        if any(mark in word for word in words) and process.pid != psutil.Process().pid:
            ours.append(process)
    return ours
