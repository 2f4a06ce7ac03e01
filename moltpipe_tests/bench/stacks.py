"""Real stacks for the bench: started as `moltpipe up` does, asked by GraphQL, and what they keep busy and hold.

Here: one stack in a folder, runs and backfills on it, processor time and memory of its processes. Not here: what is
measured on it (`whole_series`, `overhead`, `at_rest`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import psutil

from moltpipe.ledger.database import Database
from moltpipe.runtime.ports import free_ports
from moltpipe.runtime.stack import CODE_SERVER, DEFINITIONS, Stack, stack
from moltpipe.settings import load_settings

T = TypeVar("T")

PATIENCE_S = 600.0
LOOK_S = 0.2
STEADY_S = 120.0
"""After this an idle stack counts as steady, whatever it does."""
_STEADY_LOOK_S = 10.0
"""Two rounds of the sensors."""
_STEADY_SHARE = 0.005
_OURS = ("MOLTPIPE_", "AWS_", "DAGSTER_", "PG")
_SELECTOR = {"repositoryLocationName": "moltpipe", "repositoryName": "__repository__"}

_LAUNCH = """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_RUN = """query($id: ID!) { runOrError(runId: $id) { ... on Run {
  status creationTime endTime stepStats { startTime } } } }"""
_BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_OF_BACKFILL = """query($tags: [ExecutionTag!]!) {
  runsOrError(filter: {tags: $tags}) { ... on Runs { results { status } } } }"""


class NeverHappened(Exception):
    """What a case waits for does not come to pass."""


@dataclass(frozen=True)
class Timing:
    """One run, in seconds from its launch."""

    first_step_s: float
    over_s: float


@dataclass(frozen=True)
class Rest:
    """A stack in which nothing happens."""

    held_mib: Mapping[str, float]
    """By process."""
    cores: float
    """That are busy on average all the same."""


@contextmanager
def a_stack(
    folder: Path,
    variables: Mapping[str, str] | None = None,
    *,
    module: str = DEFINITIONS,
    code_server: Sequence[str] = CODE_SERVER,
) -> Iterator[Stack]:
    """A stack on embedded services for the length of a block; what the operator's shell has set does not reach it.

    The folder keeps the instance: the next stack in it goes on with the same Postgres and S3. The port is any free
    one: cases have a temp folder of their own, in which no other stack of this machine reserves its port.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    environ |= {"MOLTPIPE_DATA_DIR": str(folder / "studio"), **(variables or {})}
    with (
        patch.dict(os.environ, environ, clear=True),
        stack(load_settings(), free_ports(1)[0], module=module, code_server=code_server) as running,
    ):
        yield running


@contextmanager
def ledger_of(running: Stack) -> Iterator[Database]:
    """The ledger of a stack."""
    database = Database(running.house.services.database_url.get_secret_value())
    try:
        yield database
    finally:
        database.dispose()


def until(look: Callable[[], T | None], what: str, *, within_s: float = PATIENCE_S, every_s: float = LOOK_S) -> T:
    """Look until there is an answer.

    Raises:
        NeverHappened: there is none within the time.
    """
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if (answer := look()) is not None:
            return answer
        time.sleep(every_s)
    raise NeverHappened(f"within {within_s:g} s it did not come to pass that {what}")


def timed_run(running: Stack, job: str) -> Timing:
    """Launch a job as the launchpad does, and wait for its end.

    Raises:
        NeverHappened: it is not launched, or does not succeed.
    """
    params = {"selector": {**_SELECTOR, "pipelineName": job}, "mode": "default", "runConfigData": {}}
    answer = running.graphql(_LAUNCH, {"params": params})["launchPipelineExecution"]
    if answer["__typename"] != "LaunchRunSuccess":
        raise NeverHappened(f"a run of {job} was launched: {answer}")

    def over() -> Timing | None:
        run = running.graphql(_RUN, {"id": answer["run"]["runId"]})["runOrError"]
        if run["status"] in ("FAILURE", "CANCELED"):
            raise NeverHappened(f"a run of {job} succeeded: {run}")
        if run["status"] != "SUCCESS":
            return None
        began: float = run["creationTime"]
        return Timing(min(step["startTime"] for step in run["stepStats"]) - began, run["endTime"] - began)

    return until(over, f"a run of {job} ends")


def backfill(running: Stack, job: str, partition_keys: Sequence[str]) -> None:
    """Backfill partitions of a job, one run each, and wait until all processes of the runs are gone.

    Raises:
        NeverHappened: it is not launched, or a run of it does not succeed.
    """
    params = {
        "selector": {"partitionSetName": f"{job}_partition_set", "repositorySelector": _SELECTOR},
        "partitionNames": list(partition_keys),
    }
    answer = running.graphql(_BACKFILL, {"params": params})["launchPartitionBackfill"]
    if answer["__typename"] != "LaunchBackfillSuccess":
        raise NeverHappened(f"a backfill of {job} was launched: {answer}")
    tags = [{"key": "dagster/backfill", "value": answer["backfillId"]}]

    def over() -> bool | None:
        runs = running.graphql(_OF_BACKFILL, {"tags": tags})["runsOrError"]["results"]
        if any(run["status"] in ("FAILURE", "CANCELED") for run in runs):
            raise NeverHappened(f"all runs of a backfill of {job} succeed: {runs}")
        return True if sum(run["status"] == "SUCCESS" for run in runs) == len(partition_keys) else None

    until(over, f"the backfill of {job} ends")
    await_no_runs(running)


def await_no_runs(running: Stack) -> None:
    """Wait until the processes of runs are gone: only then does their processor time show at their parent."""
    until(lambda: True if not _workers(running) else None, "the processes of all runs end", within_s=60)


def _workers(running: Stack) -> list[psutil.Process]:
    found = []
    for one in psutil.Process(running.pids["code-server"]).children():
        with suppress(psutil.Error):
            began_by = " ".join(one.cmdline())
            if "multiprocessing.spawn" in began_by:
                found.append(one)
            elif "multiprocessing.forkserver" in began_by:
                found += one.children()
    return found


def processor_s(running: Stack) -> float:
    """User and system seconds of Dagster's processes and of Postgres so far, those that have ended included."""
    return sum(_spent_s(one) for tree in _trees(running).values() for one in tree)


def held_mib(running: Stack) -> dict[str, float]:
    """Proportional set size by process, in MiB: pages that several share count for each in parts."""
    held: dict[str, float] = {}
    for name, tree in _trees(running).items():
        held[name] = 0.0
        for one in tree:
            with suppress(psutil.NoSuchProcess):
                held[name] += one.memory_full_info().pss / 2**20
    return held


def await_rest(running: Stack) -> Rest:
    """How a stack is once what it holds does not change any more, or after two minutes."""
    deadline = time.monotonic() + STEADY_S
    before = held_mib(running)
    while True:
        began, spent_s = time.monotonic(), processor_s(running)
        time.sleep(_STEADY_LOOK_S)
        cores = (processor_s(running) - spent_s) / (time.monotonic() - began)
        now = held_mib(running)
        steady = abs(sum(now.values()) - sum(before.values())) < _STEADY_SHARE * sum(now.values())
        if steady or time.monotonic() > deadline:
            return Rest(now, cores)
        before = now


def _trees(running: Stack) -> dict[str, list[psutil.Process]]:
    """Everything that runs for a stack, by the name of who is responsible for it."""
    remembered = json.loads((running.house.settings.data_dir / "services.json").read_text(encoding="utf-8"))
    roots = {**running.pids, **{name: remembered[name]["pid"] for name in running.house.services.embedded}}
    return {name: [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)] for name, pid in roots.items()}


def _spent_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    own: float = times.user + times.system
    return own + float(times.children_user + times.children_system)
