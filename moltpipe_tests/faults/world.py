"""The world around a studio, all of it ours to break: disk, Postgres, S3, the ways to them, providers, stack.

Here: starting it all, stopping and killing each part, and making it whole again. Not here: which part is broken when
(`faults.damages`), what the studio is given to do (`faults.rounds`).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic
from urllib.parse import urlsplit

import httpx
import psutil

from moltpipe.ledger.database import Database
from moltpipe.ledger.migrate import migrate
from moltpipe.runtime.background import RecordT, Service, ensure_running, stop
from moltpipe.runtime.locks import FileLock
from moltpipe.runtime.logs import open_log
from moltpipe.runtime.ports import LOOPBACK, free_ports
from moltpipe.runtime.postgres import EmbeddedPostgres, PostgresRecord
from moltpipe.runtime.s3 import REGION, EmbeddedS3, S3Record, with_bucket
from moltpipe.store import Store, connect
from moltpipe_tests.fakes.__main__ import environment
from moltpipe_tests.fakes.elevenlabs import FakeElevenlabs
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import serving
from moltpipe_tests.faults.disk import Disk
from moltpipe_tests.faults.proxy import Door, door

LEASE_S = 6.0
HEARTBEAT_S = 1.5
BUCKET = "moltpipe"
CHECKOUT = Path(__file__).parents[2]
_DYING_S = 30.0
_READY_S = 120.0
_POLL_S = 0.1
_FORK_SERVER = "multiprocessing.forkserver"


class WorldBroken(Exception):
    """The harness itself cannot go on: something of the world does not come up. Says nothing about moltpipe."""


class Server(Generic[RecordT]):
    """An embedded service that the harness runs itself, under one address through every death."""

    def __init__(self, service: Service[RecordT]) -> None:
        self.service = service
        self.record: RecordT | None = None

    def start(self) -> None:
        """Run, and answer. Not an error when it does already."""
        if self._lives():
            return
        # Its children die a little after it, and hold its lock until then.
        with FileLock(self.service.lock) as lock:
            if not lock.try_take(_DYING_S):
                raise WorldBroken(f"{self.service.name} does not die")
        self.record = ensure_running(self.service, self.record, self._save)

    def stop(self) -> None:
        """End it the way an operator does."""
        if self.record is not None:
            stop(self.service, self.record.pid)

    def kill(self) -> None:
        """SIGKILL, without a word."""
        pid = self._pid()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def _save(self, record: RecordT) -> None:
        self.record = record

    def _lives(self) -> bool:
        if self.record is None or self.record.pid is None:
            return False
        with suppress(ChildProcessError):
            if os.waitpid(self.record.pid, os.WNOHANG)[0]:
                return False
        return psutil.pid_exists(self.record.pid)

    def _pid(self) -> int:
        if self.record is None or self.record.pid is None:
            raise WorldBroken(f"{self.service.name} was never started")
        return self.record.pid


class Up:
    """`moltpipe up` under a supervisor, who starts it again when it ends."""

    def __init__(self, variables: Mapping[str, str], log: Path) -> None:
        self.port = free_ports(1)[0]
        self.starts = 0
        self._variables = variables
        self._log = log
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start it, and wait until its webserver answers."""
        self._supervisor.start()
        until = time.monotonic() + _READY_S
        while not self._serves():
            if time.monotonic() > until:
                raise WorldBroken(f"`moltpipe up` is not ready within {_READY_S:g} s: {self._log}")
            time.sleep(_POLL_S)

    def end(self) -> None:
        """End it as Ctrl-C does."""
        self._ending.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill_everything()
        self._supervisor.join()

    def left_behind(self) -> list[str]:
        """Command lines of what still works in the studio after the end of the stack, given time to notice it."""
        until = time.monotonic() + _DYING_S
        while (found := self._of_the_studio()) and time.monotonic() < until:
            time.sleep(_POLL_S)
        return found

    def _of_the_studio(self) -> list[str]:
        ours = self._variables["MOLTPIPE_DATA_DIR"]
        found = []
        for one in psutil.process_iter():
            with suppress(psutil.Error):
                if one.environ().get("MOLTPIPE_DATA_DIR") == ours and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(one.cmdline()))
        return found

    def kill_everything(self) -> int:
        """SIGKILL to the command and all that it started, at once; how many that were."""
        process = self._process
        if process is None:
            return 0
        with suppress(psutil.NoSuchProcess):
            everybody = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for one in everybody:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            return len(everybody)
        return 0

    def members(self, *words: str) -> list[psutil.Process]:
        """Processes of the stack whose command line has all of these words in it; no tether."""
        process = self._process
        found = []
        with suppress(psutil.NoSuchProcess):
            for one in psutil.Process(process.pid).children(recursive=True) if process else ():
                with suppress(psutil.Error):
                    line = one.cmdline()
                    if not any(word.endswith("tether.py") for word in line) and all(
                        any(word in part for part in line) for word in words
                    ):
                        found.append(one)
        return found

    def workers(self) -> list[psutil.Process]:
        """Processes in which a run is at work."""
        copies = {one.pid: one for one in self.members(_FORK_SERVER)}
        return [copies[one.pid] for server in self.fork_servers() for one in server.children() if one.pid in copies]

    def fork_servers(self) -> list[psutil.Process]:
        """The process that runs are copied from; its copies have the same command line, and another parent."""
        copies = self.members(_FORK_SERVER)
        pids = {one.pid for one in copies}
        return [one for one in copies if one.ppid() not in pids]

    def _supervise(self) -> None:
        while not self._ending.is_set():
            self.starts += 1
            output = open_log(self._log)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "moltpipe", "up", "--port", str(self.port)],
                    cwd=CHECKOUT,
                    env=self._environ(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            finally:
                os.close(output)
            self._process.wait()
            self._ending.wait(1)

    def _environ(self) -> dict[str, str]:
        ours = ("MOLTPIPE_", "AWS_", "DAGSTER_", "PG")
        return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | dict(self._variables)

    def _serves(self) -> bool:
        try:
            return httpx.get(f"http://{LOOPBACK}:{self.port}/server_info", timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False


@dataclass
class World:
    """All of it. `database` and `store` are the harness's own ways, past the doors that are broken."""

    folder: Path
    disk: Disk
    postgres: Server[PostgresRecord]
    s3: Server[S3Record]
    database_door: Door
    s3_door: Door
    camera: FakeReplicate
    voice: FakeElevenlabs
    up: Up
    database: Database
    store: Store
    variables: Mapping[str, str]

    def heal(self) -> None:
        """Everything is there again: space, ways, services. The stack sees to itself."""
        self.disk.clear()
        self.database_door.let_pass()
        self.s3_door.let_pass()
        self.postgres.start()
        self.s3.start()


@contextmanager
def a_world(folder: Path) -> Iterator[World]:
    """A studio at work in a world of its own, under a folder of the caller's.

    The disk comes before everything else: it needs a process without threads.
    """
    place = folder / "disk"
    place.mkdir()
    disk = Disk(place)
    data, scratch, logs = place / "studio", place / "tmp", folder / "logs"
    for made in (data / "logs", scratch, logs):
        made.mkdir(parents=True)
    scratch.chmod(0o1777)
    postgres: Server[PostgresRecord] = Server(EmbeddedPostgres(place / "services"))
    s3: Server[S3Record] = Server(EmbeddedS3(place / "services"))
    with ExitStack() as held:
        # A folder under which something is mounted cannot be removed.
        held.callback(disk.leave)
        # The disk is gone with its last process, and what somebody wants to read after a bad end with it.
        held.callback(shutil.copytree, data / "logs", logs / "studio")
        for server in (postgres, s3):
            held.callback(server.stop)
            server.start()
        database_door, private = (
            held.enter_context(door(lambda: _record(postgres).port, speaks_postgres=True)) for _ in range(2)
        )
        s3_door, private_s3 = (held.enter_context(door(lambda: _record(s3).ports["s3"])) for _ in range(2))
        s3.record = with_bucket(_record(s3), BUCKET)
        access, secret = _record(s3).access_key, _record(s3).secret_key.get_secret_value()
        database = Database(_through(private, _record(postgres).url()))
        held.callback(database.dispose)
        migrate(_through(private, _record(postgres).url()))
        store = connect(
            BUCKET, f"http://{LOOPBACK}:{private_s3.port}", access_key=access, secret_key=secret, region=REGION
        )
        # More room than the machine's cores would give: what is slow here is the machine and not the provider.
        camera, voice = FakeReplicate(latency_s=0.5), FakeElevenlabs(latency_s=0.3)
        held.enter_context(serving(camera, voice))
        variables = {
            **environment([camera, voice]),
            "MOLTPIPE_CAMERA": "replicate",
            "MOLTPIPE_VOICE": "elevenlabs",
            "MOLTPIPE_REPLICATE_START_DELAY_MS": "0",
            "MOLTPIPE_ELEVENLABS_START_DELAY_MS": "0",
            "MOLTPIPE_PROFILE": "144p12",
            "MOLTPIPE_LEASE_S": f"{LEASE_S:g}",
            "MOLTPIPE_HEARTBEAT_S": f"{HEARTBEAT_S:g}",
            "MOLTPIPE_DATA_DIR": str(data),
            "MOLTPIPE_S3_BUCKET": BUCKET,
            "MOLTPIPE_S3_ENDPOINT_URL": f"http://{LOOPBACK}:{s3_door.port}",
            "MOLTPIPE_DATABASE_URL": _through(database_door, _record(postgres).url()),
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": REGION,
            "TMPDIR": str(scratch),
        }
        up = Up(variables, logs / "up.log")
        held.callback(up.end)
        world = World(folder, disk, postgres, s3, database_door, s3_door, camera, voice, up, database, store, variables)
        # The last word is a whole world: a stack ends badly in a broken one.
        held.callback(world.heal)
        up.start()
        yield world


def await_one(look: Callable[[], list[psutil.Process]], within_s: float) -> list[psutil.Process]:
    """Processes that a look finds, as soon as it finds one; none when the time is over."""
    until = time.monotonic() + within_s
    while not (found := look()) and time.monotonic() < until:
        time.sleep(_POLL_S)
    return found


def _record(server: Server[RecordT]) -> RecordT:
    if server.record is None:
        raise WorldBroken(f"{server.service.name} was never started")
    return server.record


def _through(way: Door, url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{way.port}").geturl()
