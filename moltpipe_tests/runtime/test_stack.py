from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from moltpipe.runtime import answering
from moltpipe.runtime import stack as stacks
from moltpipe.runtime.answering import daemon_beats
from moltpipe.runtime.background import ServiceError
from moltpipe.runtime.stack import AlreadyUpError, PortTakenError, Stack, choose_port, stack
from moltpipe.settings import Settings
from moltpipe_tests.runtime.living import alive

pytestmark = pytest.mark.e2e

_DEFINITIONS = """
import os
import time
import dagster as dg

IMPORTED_BY = os.getpid()

@dg.asset
def quick() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"imported_by": IMPORTED_BY, "runs_in": os.getpid()})

@dg.asset
def slow() -> None:
    time.sleep(120)

defs = dg.Definitions(
    assets=[quick, slow],
    jobs=[dg.define_asset_job("q", [quick]), dg.define_asset_job("s", [slow])],
    executor=dg.in_process_executor,
)
"""

_LAUNCH = """mutation ($job: String!) { launchRun(executionParams: {
  selector: {repositoryLocationName: "moltpipe", repositoryName: "__repository__", jobName: $job} runConfigData: {}
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""

_MATERIALIZED = """{ assetOrError(assetKey: {path: ["quick"]}) { ... on Asset {
  assetMaterializations { metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"""

_STATUS = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"""

_UP = """
import sys
from pathlib import Path
from moltpipe.runtime.stack import stack
from moltpipe.settings import Settings
with stack(Settings(data_dir=Path(sys.argv[1])), module="toy_definitions", say=print) as up:
    print(up.url, *up.pids.values(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def _toy_definitions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("definitions")
    (folder / "toy_definitions.py").write_text(_DEFINITIONS)
    (folder / "broken_definitions.py").write_text("raise ValueError('spoilt on purpose')")
    paths = [str(folder), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=None, s3_endpoint_url=None)


@dataclass(frozen=True)
class Shared:
    """A stack that several tests share: whatever one of them does to it, it must come back."""

    stack: Stack
    settings: Settings
    said: list[str]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("shared") / "data", database_url=None, s3_endpoint_url=None)
    said: list[str] = []
    with stack(settings, module="toy_definitions", say=said.append) as running:
        yield Shared(running, settings, said)


def _await(condition: Callable[[], object], within_s: float = 120) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.1)


def _launch(running: Stack, job: str) -> str:
    answer = running.graphql(_LAUNCH, {"job": job})["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run_id: str = answer["run"]["runId"]
    return run_id


def _status(running: Stack, run_id: str) -> str:
    status: str = running.graphql(_STATUS, {"id": run_id})["runOrError"]["status"]
    return status


def _service_pids(settings: Settings) -> list[int]:
    remembered: dict[str, Any] = json.loads((settings.data_dir / "services.json").read_text())
    return [remembered[name]["pid"] for name in ("postgres", "s3")]


def test_a_run_succeeds_and_afterwards_nothing_is_left(settings: Settings) -> None:
    with stack(settings, module="toy_definitions") as running:
        run_id = _launch(running, "q")
        _await(lambda: _status(running, run_id) == "SUCCESS")
        pids = [*running.pids.values(), *_service_pids(settings)]
        assert len(pids) == 5
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)


def test_each_process_that_is_killed_comes_back_with_a_message(shared: Shared) -> None:
    up, said_before = shared.stack, len(shared.said)
    before = up.pids
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    _await(lambda: len(set(up.pids.values()) - set(before.values())) == 3)
    for name in before:
        assert any(name in line and "again" in line for line in shared.said[said_before:])
    _await(lambda: _answers(up))
    run_id = _launch_when_loaded(up, "q")
    _await(lambda: _status(up, run_id) == "SUCCESS")


def test_a_process_that_lives_and_does_not_answer_is_ended_and_comes_back(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    up, said_before = shared.stack, len(shared.said)
    hanging = {name: up.pids[name] for name in ("code-server", "webserver")}
    with monkeypatch.context() as hasty:
        for module, setting in ((answering, "ANSWER_S"), (stacks, "ANSWER_S"), (stacks, "ASK_EVERY_S")):
            hasty.setattr(module, setting, 0.5)
        hasty.setattr(stacks, "HANGS_AFTER_S", 1.0)
        for pid in hanging.values():
            os.kill(pid, signal.SIGSTOP)
        _await(lambda: not any(alive(pid) for pid in hanging.values()))
    said = " ".join(shared.said[said_before:])
    assert all(f"{name} lives and has not answered" in said for name in hanging)
    run_id = _launch_when_loaded(up, "q")
    _await(lambda: _status(up, run_id) == "SUCCESS")


@pytest.mark.parametrize(
    ("ages_s", "beats"),
    [
        pytest.param([1, 80], True, id="lately"),
        pytest.param([1, 100], False, id="one of them long ago"),
        pytest.param([1, None], False, id="one of them never"),
    ],
)
def test_the_daemon_lives_when_all_that_is_required_of_it_wrote_so_lately(
    ages_s: list[int | None],
    beats: bool,  # noqa: FBT001 (a case's)
) -> None:
    statuses: list[dict[str, object]] = [
        {"required": True, "lastHeartbeatTime": age_s and time.time() - age_s} for age_s in ages_s
    ]
    statuses.append({"required": False, "lastHeartbeatTime": None})
    answer = {"instance": {"daemonHealth": {"allDaemonStatuses": statuses}}}
    assert daemon_beats(answer) is beats


def test_what_runs_under_the_code_server_may_be_killed_as_well(shared: Shared) -> None:
    """Dagster's own code server is a proxy in front of the process that has the definitions. When that one was killed,
    every tick and every launch failed from then on, and nobody started it again."""
    up = shared.stack
    for one in psutil.Process(up.pids["code-server"]).children(recursive=True):
        one.kill()
    run_id = _launch_when_loaded(up, "q")
    _await(lambda: _status(up, run_id) == "SUCCESS")


def test_a_run_begins_with_everything_imported(shared: Shared) -> None:
    up = shared.stack
    run_id = _launch_when_loaded(up, "q")
    _await(lambda: _status(up, run_id) == "SUCCESS")
    entries = up.graphql(_MATERIALIZED)["assetOrError"]["assetMaterializations"][0]["metadataEntries"]
    pids = {entry["label"]: entry["intValue"] for entry in entries}
    assert pids["imported_by"] not in (pids["runs_in"], up.pids["code-server"])


def test_dagsters_own_code_server_serves_as_well(settings: Settings) -> None:
    with stack(settings, module="toy_definitions", code_server=("dagster", "api", "grpc")) as running:
        run_id = _launch(running, "q")
        _await(lambda: _status(running, run_id) == "SUCCESS")


def _answers(running: Stack) -> bool:
    try:
        return httpx.get(f"{running.url}/server_info").is_success
    except httpx.HTTPError:
        return False


def _launch_when_loaded(running: Stack, job: str) -> str:
    answer: dict[str, Any] = {}

    def launched() -> bool:
        try:
            answer.update(running.graphql(_LAUNCH, {"job": job})["launchRun"])
        except httpx.HTTPError:
            return False  # a webserver that came back before the code server may have to come back once more
        return bool(answer["__typename"] == "LaunchRunSuccess")

    _await(launched)
    return str(answer["run"]["runId"])


def test_services_that_are_killed_under_a_stack_come_back(shared: Shared) -> None:
    up, settings = shared.stack, shared.settings
    before = _service_pids(settings)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    _await(lambda: len([pid for pid in _service_pids(settings) if pid not in before and alive(pid)]) == 2)
    run_id = _launch_when_loaded(up, "q")
    _await(lambda: _status(up, run_id) == "SUCCESS")


def test_a_second_stack_on_the_same_folder_is_refused_with_the_address_of_the_first(shared: Shared) -> None:
    with pytest.raises(AlreadyUpError, match=shared.stack.url), stack(shared.settings, module="toy_definitions"):
        pass


def test_nothing_survives_a_killed_stack_but_the_services_and_the_next_one_joins_them(
    settings: Settings,
) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", _UP, str(settings.data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    _, *pids = killed.stdout.readline().split()
    services = _service_pids(settings)
    killed.kill()
    killed.communicate()
    with stack(settings, module="toy_definitions") as running:
        assert not any(alive(int(pid)) for pid in pids), "two daemons at once"
        assert _service_pids(settings) == services
        run_id = _launch(running, "q")
        _await(lambda: _status(running, run_id) == "SUCCESS")


def test_a_long_run_does_not_hold_up_the_end(settings: Settings) -> None:
    with stack(settings, module="toy_definitions") as running:
        run_id = _launch(running, "s")
        _await(lambda: _status(running, run_id) == "STARTED")
        workers = [child.pid for child in psutil.Process(running.pids["code-server"]).children(recursive=True)]
        ending = time.monotonic()
    assert time.monotonic() - ending < 40
    assert workers
    assert not any(alive(pid) for pid in workers)


def test_a_taken_port_is_refused_before_anything_is_started(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=str(port)), stack(settings, port, module="toy_definitions"):
            pass
    assert not (settings.data_dir / "services.json").exists()


def test_two_stacks_that_start_together_do_not_share_a_port() -> None:
    with ExitStack() as one, ExitStack() as other:
        first, second = choose_port(None, one), choose_port(None, other)
        assert first != second
        with pytest.raises(PortTakenError):
            choose_port(first, other)
        one.close()
        assert choose_port(first, other) == first


def test_definitions_that_do_not_load_are_named_with_their_error(settings: Settings) -> None:
    with (
        pytest.raises(ServiceError, match="spoilt on purpose"),
        stack(settings, module="broken_definitions"),
    ):
        pass
    assert not any(alive(pid) for pid in _service_pids(settings))
