"""Dagster's processes: one code server, one webserver, one daemon, watched and ended together.

Here: how they are started, when they are ready, what happens when one dies. Not here: the services under
them (`runtime.services`), their environment (`runtime.environment`), the command that waits for Ctrl-C
(`runtime.foreground`).

One code server, which the other two reach by gRPC: the definitions are imported once and not three times,
and what the UI shows is what the daemon runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from moltpipe.alerting import require_channels
from moltpipe.runtime import tether
from moltpipe.runtime.answering import ANSWER_S, HEARTBEATS, code_server_answers, daemon_beats
from moltpipe.runtime.background import ServiceError
from moltpipe.runtime.environment import environment
from moltpipe.runtime.house import House, open_house
from moltpipe.runtime.locks import FileLock
from moltpipe.runtime.logs import log_file, open_log
from moltpipe.runtime.media_links import media_links, media_port
from moltpipe.runtime.ports import LOOPBACK, answers, free_ports, is_free
from moltpipe.runtime.services import mend, open_store
from moltpipe.settings import Settings

DEFINITIONS = "moltpipe.definitions"
CODE_SERVER = ("moltpipe.runtime.code_server",)
"""What serves the definitions: a module, and its first arguments."""
DEFAULT_PORT = 3000
_PORTS_TRIED = 100

READY_WITHIN_S = 180.0
_LOOK_S = 0.2
_MEND_EVERY_S = 2.0
ASK_EVERY_S = 15.0
HANGS_AFTER_S = 180.0
"""Far more than a busy machine takes: ending a code server that only has much to do ends what it was doing."""
_LEFTOVERS_S = 40.0
_STEADY_S = 60.0
_LONGEST_PAUSE_S = 30.0

_HEALTH = """{
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } }
  workspaceOrError { ... on Workspace { locationEntries {
    loadStatus locationOrLoadError { __typename ... on PythonError { message errorChain { error { message } } } } } } }
}"""

_RUNS_IN_FLIGHT = """{
  runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]}) { ... on Runs { count } }
}"""

Say = Callable[[str], None]


class AlreadyUpError(Exception):
    """A stack runs on this DATA_DIR. Two daemons on one instance would launch every run twice."""

    def __init__(self, data_dir: Path, url: str) -> None:
        self.url = url
        super().__init__(f"moltpipe is up on {data_dir} already: {url or 'it is just starting'}")


class PortTakenError(Exception):
    """Something else listens on the port that was asked for."""

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(f"port {port} is taken: stop what listens there, or choose another with --port")


class GraphQLError(Exception):
    """The webserver refused a query."""


@dataclass
class _Member:
    """One process of the stack, with its tether."""

    name: str
    command: list[str]
    log: Path
    grace_s: float
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0
    deaths: int = 0
    start_again_at: float | None = None
    silent_since: float | None = None


@dataclass
class Stack:
    """The running processes. `url` is the webserver's address."""

    house: House
    port: int
    say: Say
    _lifeline: int
    _lock: FileLock
    _members: dict[str, _Member]
    _ending: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Where the operator looks."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pids(self) -> dict[str, int]:
        """The pids of `code-server`, `webserver` and `daemon`, of those that run."""
        found = {}
        for member in self._members.values():
            if member.process is not None and member.process.poll() is None:
                with suppress(psutil.Error, IndexError):
                    found[member.name] = psutil.Process(member.process.pid).children()[0].pid
        return found

    def graphql(
        self, query: str, variables: Mapping[str, object] | None = None, *, timeout_s: float = 60
    ) -> dict[str, Any]:
        """The `data` of an answer.

        Raises:
            GraphQLError: the query is refused.
            httpx.HTTPError: the webserver cannot be reached.
        """
        answer = httpx.post(
            f"{self.url}/graphql",
            json={"query": query, "variables": dict(variables or {})},
            timeout=timeout_s,
            trust_env=False,
        )
        document: dict[str, Any] = answer.json()
        if document.get("errors"):
            raise GraphQLError("; ".join(str(error.get("message")) for error in document["errors"]))
        data: dict[str, Any] = document["data"]
        return data

    def runs_in_flight(self) -> int:
        """How many runs are queued, starting or at work.

        Raises:
            GraphQLError: the query is refused.
            httpx.HTTPError: the webserver cannot be reached.
        """
        return int(self.graphql(_RUNS_IN_FLIGHT)["runsOrError"]["count"])

    def start(self) -> None:
        """Start everything and wait until runs can be launched.

        Raises:
            ServiceError: a process ends, the definitions do not load, or it takes longer than `READY_WITHIN_S`.
        """
        until = time.monotonic() + READY_WITHIN_S
        code_server, webserver, daemon = self._members.values()
        self._launch(code_server)
        # It listens once the definitions are imported; before, the other two would remember that it was not there.
        self._await(until, code_server, lambda: answers(self._code_port))
        self._launch(webserver)
        self._launch(daemon)
        self._await(until, webserver, self._serves)
        self._await(until, daemon, self._healthy)

    def watch(self) -> None:
        """Until the stack ends: start again what dies or hangs, and mend the services under it."""
        mend_at = time.monotonic() + _MEND_EVERY_S
        ask_at = time.monotonic() + ASK_EVERY_S
        complaint = ""
        while not self._ending.wait(_LOOK_S):
            now = time.monotonic()
            for member in self._members.values():
                self._look_after(member, now)
            if now >= ask_at:
                for member in self._members.values():
                    self._ask(member)
                ask_at = time.monotonic() + ASK_EVERY_S
            if now >= mend_at and self.house.services.embedded:
                try:
                    self._mend()
                    complaint = ""
                except (ServiceError, OSError) as problem:
                    if str(problem) != complaint:
                        complaint = str(problem)
                        self.say(complaint)
                mend_at = time.monotonic() + _MEND_EVERY_S

    def end(self) -> None:
        """End the processes in order: nothing new is launched, then nothing is shown, then runs may finish shortly."""
        self._ending.set()
        for name in ("daemon", "webserver", "code-server"):
            _end(self._members[name])

    def _launch(self, member: _Member) -> None:
        output = open_log(member.log)
        try:
            member.process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules, no shell
                [
                    sys.executable, "-I", "-S", tether.__file__, str(self._lifeline), str(member.grace_s),
                    *member.command,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.house.environ(),
                # The lock too: as long as a process of this stack is left, no second daemon can start.
                pass_fds=(self._lifeline, self._lock.fd),
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(output)
        member.started_at = time.monotonic()
        member.start_again_at = None

    def _await(self, until: float, awaited: _Member, condition: Callable[[], bool]) -> None:
        while not condition():
            for member in self._members.values():
                if member.process is not None and (status := member.process.poll()) is not None:
                    raise ServiceError(member.name, f"ended with status {status} while starting", member.log)
            if time.monotonic() > until:
                raise ServiceError(awaited.name, f"is not ready within {READY_WITHIN_S:g} s", awaited.log)
            time.sleep(_LOOK_S)

    def _serves(self) -> bool:
        try:
            return httpx.get(f"{self.url}/server_info", timeout=ANSWER_S, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _healthy(self) -> bool:
        try:
            data = self.graphql(_HEALTH)
        except (httpx.HTTPError, GraphQLError, json.JSONDecodeError):
            return False
        entries = data["workspaceOrError"].get("locationEntries", [])
        for entry in entries:
            location = entry["locationOrLoadError"] or {}
            if location.get("__typename") == "PythonError":
                # Dagster's own words come first, what went wrong in the module last.
                causes = [location, *(link["error"] for link in location["errorChain"])]
                raise ServiceError(
                    "code-server",
                    f"cannot load the definitions: {causes[-1]['message'].strip()}",
                    self._members["code-server"].log,
                )
        statuses = data["instance"]["daemonHealth"]["allDaemonStatuses"]
        return (
            bool(entries)
            and all(entry["loadStatus"] == "LOADED" for entry in entries)
            and all(status["healthy"] for status in statuses if status["required"])
        )

    @property
    def _code_port(self) -> int:
        command = self._members["code-server"].command
        return int(command[command.index("--port") + 1])

    def _ask(self, member: _Member) -> None:
        """End a process that lives and has not answered for so long that it hangs; `_look_after` starts it again."""
        if member.process is None or member.process.poll() is not None or self._answers(member):
            member.silent_since = None
            return
        now = time.monotonic()
        if member.silent_since is None:
            member.silent_since = now
        silent_s = now - member.silent_since
        if silent_s >= HANGS_AFTER_S:
            self.say(f"{member.name} lives and has not answered for {silent_s:.0f} s: ending it (log: {member.log})")
            _end(member)
            member.silent_since = None

    def _answers(self, member: _Member) -> bool:
        if member.name == "code-server":
            return code_server_answers(self._code_port)
        if member.name == "webserver":
            return self._serves()
        try:
            return daemon_beats(self.graphql(HEARTBEATS, timeout_s=ANSWER_S))
        except (httpx.HTTPError, GraphQLError, json.JSONDecodeError):
            return True  # nobody knows: the webserver is away, or the database

    def _look_after(self, member: _Member, now: float) -> None:
        if member.process is None or member.process.poll() is None:
            return
        if member.start_again_at is None:
            member.deaths = 1 if now - member.started_at > _STEADY_S else member.deaths + 1
            pause = min(_LONGEST_PAUSE_S, 2.0 ** (member.deaths - 1))
            member.start_again_at = now + pause
            self.say(
                f"{member.name} ended with status {member.process.returncode};"
                f" starting it again in {pause:g} s (log: {member.log})"
            )
        elif now >= member.start_again_at:
            self._launch(member)

    def _mend(self) -> None:
        fresh = mend(self.house.settings)
        if fresh == self.house.services:
            return
        # A port was taken while its service was down: everybody must learn the new address.
        self.say("an embedded service came back at another address; starting everything again")
        settings, instance_yaml = self.house.settings, self.house.instance_yaml
        variables = {**self.house.variables, **environment(settings, fresh, instance_yaml=instance_yaml)}
        self.house = House(settings, fresh, variables, instance_yaml)
        for member in self._members.values():
            _end(member)


@contextmanager
def stack(
    settings: Settings,
    port: int | None = None,
    *,
    module: str = DEFINITIONS,
    code_server: Sequence[str] = CODE_SERVER,
    instance_yaml: Path | None = None,
    say: Say = lambda _: None,
) -> Iterator[Stack]:
    """Services and Dagster's processes for the length of a block, ready when it begins, gone when it ends.

    Args:
        settings: Which DATA_DIR, and which services are not ours.
        port: The webserver's; None or 0 for 3000 or the next free one.
        module: Whose definitions the code server serves.
        code_server: Another one than ours, such as Dagster's own.
        instance_yaml: Another `dagster.yaml` than the project's.
        say: Told, in one line each, what the operator should know.

    Raises:
        SettingsError: Apprise does not know a channel of `alert_urls`.
        AlreadyUpError: a stack runs on this DATA_DIR.
        PortTakenError: the port is in use.
        ServiceError: something does not come up.
    """
    if settings.alert_urls:
        require_channels(settings.alert_urls)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as held:
        up = held.enter_context(FileLock(settings.data_dir / "up.lock"))
        if not up.try_take():
            raise AlreadyUpError(settings.data_dir, up.path.read_text().strip())
        os.truncate(up.fd, 0)
        processes = held.enter_context(FileLock(settings.data_dir / "processes.lock"))
        if not processes.try_take(_LEFTOVERS_S):
            raise ServiceError("moltpipe", "finds processes of a killed one that do not end", up.path)
        chosen = choose_port(port, held)
        house = held.enter_context(open_house(settings, instance_yaml=instance_yaml))
        if settings.media_url is None:
            links = media_links(open_store(house.services, settings.s3_bucket), media_port(settings.data_dir))
            house.variables["MOLTPIPE_MEDIA_URL"] = held.enter_context(links)
        if settings.ui_url is None:
            house.variables["MOLTPIPE_UI_URL"] = f"http://{LOOPBACK}:{chosen}"
        listen, hold = os.pipe()
        held.callback(os.close, hold)
        held.callback(os.close, listen)
        running = Stack(house, chosen, say, listen, processes, _members(settings, chosen, module, code_server))
        held.callback(running.end)
        running.start()
        os.write(up.fd, running.url.encode())
        watcher = threading.Thread(target=running.watch, name="watch-stack", daemon=True)
        watcher.start()
        held.callback(watcher.join)
        held.callback(running._ending.set)  # noqa: SLF001 - the watcher must be still before the processes are ended
        yield running


def choose_port(port: int | None, held: ExitStack) -> int:
    """A port that is free and that no other stack of this machine is about to listen on.

    The webserver listens seconds after its port was chosen. Two stacks that started together both took 3000,
    and the second one was content when the first one's webserver answered.
    """
    if port:
        if not _reserved(port, held):
            raise PortTakenError(port)
        return port
    tried = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS_TRIED)
    return next((one for one in tried if _reserved(one, held)), None) or free_ports(1)[0]


def _reserved(port: int, held: ExitStack) -> bool:
    if not is_free(port):
        return False
    try:
        lock = held.enter_context(FileLock(Path(tempfile.gettempdir()) / f"moltpipe-port-{port}.lock"))
    except PermissionError:
        return True  # another user's file, perhaps an old one: what listens is all that can be told
    return lock.try_take()


def _members(settings: Settings, port: int, module: str, code_server: Sequence[str]) -> dict[str, _Member]:
    """The three processes, in the order in which they start."""
    data_dir, code_port = settings.data_dir, free_ports(1)[0]
    workspace = data_dir / "dagster" / "workspace.yaml"
    # JSON is YAML.
    server = {"host": LOOPBACK, "port": code_port, "location_name": "moltpipe"}
    workspace.write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
    python = [sys.executable, "-m"]
    lines = ["--log-format", "json"] if settings.log_format == "json" else []
    commands: dict[str, tuple[list[str], float]] = {
        # Not `dagster code-server start`: that is a proxy in front of this very process, which it does not start again.
        # When the process behind it was killed, the proxy lived on, and no sensor, run or check was ever begun again.
        "code-server": (
            [
                *python, *code_server, "--host", LOOPBACK, "--port", str(code_port),
                "--module-name", module, "--location-name", "moltpipe",
                "--use-python-environment-entry-point", "--lazy-load-user-code", *lines,
            ],
            10,
        ),
        "webserver": (
            [
                *python, "dagster_webserver", "--host", LOOPBACK, "--port", str(port),
                "--workspace", str(workspace), *lines,
            ],
            3,
        ),
        "daemon": ([*python, "dagster._daemon", "run", "--workspace", str(workspace), *lines], 10),
    }  # fmt: skip
    return {
        name: _Member(name, command, log_file(data_dir, name), grace_s) for name, (command, grace_s) in commands.items()
    }


def _end(member: _Member) -> None:
    if member.process is None:
        return
    with suppress(ProcessLookupError):
        member.process.terminate()
    try:
        # Its tether waits for the grace, then for five seconds, then kills.
        member.process.wait(member.grace_s + 10)
    except subprocess.TimeoutExpired:
        member.process.kill()
        member.process.wait()
