"""Programs that run in the background under a lock: start, join, recover, stop.

Here: what is the same for every embedded service. Not here: how Postgres or S3 is configured and asked
(`runtime.postgres`, `runtime.s3`), who uses them and when they stop (`runtime.services`).

A service inherits its lock and holds it as long as it, or a child of it, lives. So a free lock means
that nothing of it is left, and a pid is only ever used to send a signal, and only after the process under
it was seen to be that very program with that very folder: a stale pid may belong to anybody by now.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import psutil
from pydantic import BaseModel, ConfigDict, PlainSerializer, SecretStr

from moltpipe.runtime.locks import FileLock
from moltpipe.runtime.logs import last_lines, open_log

_POLL_S = 0.05
_DYING_S = 15
_ATTEMPTS = 3
_TAKEN = "address already in use"


class ServiceError(Exception):
    """Something that runs in the background cannot be started or reached. The text names its log and quotes its end."""

    def __init__(self, service: str, problem: str, log: Path, since: int = 0) -> None:
        self.service = service
        self.problem = problem
        self.log = log
        end = last_lines(log, since)
        super().__init__(f"{service} {problem}\nlog: {log}" + (f"\n{end}" if end else ""))


RememberedSecret = Annotated[SecretStr, PlainSerializer(SecretStr.get_secret_value, when_used="json")]
"""Hidden in every message, written out in JSON alone: `services.json`, which only its owner can read."""


class Record(BaseModel):
    """What is remembered of a service in `services.json`, so that others can join it."""

    model_config = ConfigDict(frozen=True)

    pid: int | None = None
    ready: bool = False
    """Whether it has answered since it was last started."""


RecordT = TypeVar("RecordT", bound=Record)


class Service(Protocol[RecordT]):
    """One program that is started in the background."""

    name: str
    log: Path
    lock: Path
    ready_within_s: float
    stop_within_s: float
    stop_signal: signal.Signals

    def prepare(self, record: RecordT | None) -> RecordT:
        """Lay out data and credentials where there are none yet. Nothing of the service runs meanwhile."""

    def at_free_ports(self, record: RecordT, *, all_new: bool) -> RecordT:
        """The same record with other ports for those that are taken, or for all."""

    def command(self, record: RecordT) -> list[str]:
        """The program and its arguments."""

    def environ(self) -> dict[str, str]:
        """Its whole environment."""

    def is_ours(self, command: list[str]) -> bool:
        """Whether a process with this command line is this service on this folder."""

    def accepts(self, record: RecordT) -> bool:
        """Whether it takes connections: cheap, for joining one that has answered before."""

    def answers(self, record: RecordT) -> bool:
        """Whether it answers with our credentials."""


def ensure_running(service: Service[RecordT], record: RecordT | None, save: Callable[[RecordT], None]) -> RecordT:
    """Join the service when it runs, start it when it does not. The caller holds the lock for starting.

    Raises:
        ServiceError: it does not come up, or something that is not ours holds its data.
    """
    with FileLock(service.lock) as lock:
        if not lock.try_take():
            joined = _join(service, record, lock)
            if joined is not None:
                save(joined)
                return joined
        laid_out = service.prepare(record)
        save(laid_out)
        for attempt in range(_ATTEMPTS):
            placed = service.at_free_ports(laid_out, all_new=attempt > 0)
            try:
                return _start(service, placed, lock, save)
            except ServiceError as error:
                if _TAKEN not in str(error).lower() or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")  # pragma: no cover


def stop(service: Service[RecordT], pid: int | None) -> None:
    """End the service in its own way, then by force. Bounded; not running is no error. The caller holds the lock."""
    process = _find(service, pid)
    if process is None:
        return
    for number, seconds in ((service.stop_signal, service.stop_within_s), (signal.SIGKILL, 5)):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if _has_ended(process.pid):
                return
            time.sleep(_POLL_S)


def _join(service: Service[RecordT], record: RecordT | None, lock: FileLock) -> RecordT | None:
    """The running service's record; None when it was about to end, and the lock is ours then."""
    until = time.monotonic() + service.ready_within_s
    while time.monotonic() < until:
        process = _find(service, record.pid if record else None)
        if process is None:
            if lock.try_take(_DYING_S):
                return None
            raise ServiceError(
                service.name,
                f"is held by a process that cannot be seen from here, in another container or machine: {service.lock}",
                service.log,
            )
        if record is None:
            # services.json was lost while it ran: its ports and credentials are unknown, so nobody can use it.
            stop(service, process.pid)
            continue
        if service.accepts(record) if record.ready else service.answers(record):
            return record.model_copy(update={"pid": process.pid, "ready": True})
        time.sleep(_POLL_S)
    raise ServiceError(service.name, f"runs, but does not answer within {service.ready_within_s:g} s", service.log)


def _start(service: Service[RecordT], record: RecordT, lock: FileLock, save: Callable[[RecordT], None]) -> RecordT:
    output = open_log(service.log)
    since = os.fstat(output).st_size
    save(record.model_copy(update={"pid": None, "ready": False}))
    try:
        command = service.command(record)
        os.set_inheritable(lock.fd, True)
        pid = os.posix_spawn(
            command[0],
            command,
            service.environ(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            # A session of its own: Ctrl-C at the terminal is for us, and others may still use the service.
            setsid=True,
        )
    finally:
        os.set_inheritable(lock.fd, False)
        os.close(output)
    started = record.model_copy(update={"pid": pid, "ready": False})
    save(started)
    until = time.monotonic() + service.ready_within_s
    while not service.answers(started):
        if _has_ended(pid):
            raise ServiceError(service.name, "ended while starting", service.log, since)
        if time.monotonic() > until:
            stop(service, pid)
            raise ServiceError(service.name, f"did not answer within {service.ready_within_s:g} s", service.log, since)
        time.sleep(_POLL_S)
    ready = started.model_copy(update={"ready": True})
    save(ready)
    return ready


def _has_ended(pid: int) -> bool:
    """Whether a process is over, also when the one that started it, and that is not us, has not noticed yet."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


def _find(service: Service[RecordT], pid: int | None) -> psutil.Process | None:
    """The service's process, under the pid that was written down or, when that is somebody else, wherever it is."""
    if pid is not None:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if service.is_ours(process.cmdline()):
                return process
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if service.is_ours(process.cmdline()):
                return process
    return None
