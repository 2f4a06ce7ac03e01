"""What the engines of this machine share: jobs that run in a thread of this process and cost nothing.

Here: the four verbs for such jobs. Not here: what is made (`outline`, `espeak`, `animatic`), how many jobs run at
once (the caller's gate).
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.protocols import ExternalId, Hosting, Order, Progress, Quote, Whereabouts
from moltpipe.media.offload import current_stop, offload

RequestT = TypeVar("RequestT", bound=BaseModel)
ResultT = TypeVar("ResultT")

POLL_WAIT_S = 1.0


class Stopped(Exception):
    """The job was cancelled while it was being done. Never leaves an engine."""


@dataclass(frozen=True)
class Bench:
    """Where one job is done: the stem for its files, and whether it shall stop."""

    stem: Path
    stop: threading.Event

    def go_on(self) -> None:
        """Called between two steps of a job.

        Raises:
            Stopped: the job was cancelled.
        """
        if self.stop.is_set():
            raise Stopped


class LocalEngine(ABC, Generic[RequestT, ResultT]):
    """An engine whose jobs end with the process.

    Files are made in `workdir`, named after the job, and belong to the caller once a result is out.
    """

    name: str
    model: str
    hosting: Hosting | None = None

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._jobs: dict[ExternalId, tuple[asyncio.Task[ResultT], threading.Event]] = {}

    @abstractmethod
    def make(self, request: RequestT, bench: Bench) -> ResultT:
        """Do the work, blocking, and ask `bench.go_on()` between its steps.

        Raises:
            EngineError: the request cannot be done.
            Stopped: the job was cancelled.
        """

    def quote(self, request: RequestT) -> Quote:  # noqa: ARG002 - the protocol's; every request costs the same here
        """Nothing: the machine is there already."""
        return Quote(cost_usd=Decimal(0), basis="made on this machine")

    async def submit(self, request: RequestT, order: Order) -> ExternalId:  # noqa: ARG002 - only hosted ones need it
        """Start the job in a thread."""
        job = ExternalId(uuid.uuid4().hex)
        bench = Bench(stem=self._workdir / f"{self.name}-{job}", stop=threading.Event())
        self._jobs[job] = (asyncio.create_task(self._do(request, bench), name=f"{self.name} {job}"), bench.stop)
        return job

    async def poll(self, job: ExternalId) -> Progress | ResultT:
        """Wait up to a second for the job.

        Raises:
            EngineError: the job failed, was cancelled, or was another process's.
        """
        if job not in self._jobs:
            raise EngineError(
                self.name, ErrorClass.RETRY_SAFE, f"job {job} ended with the process that did it: submit it again"
            )
        task, _ = self._jobs[job]
        await asyncio.wait({task}, timeout=POLL_WAIT_S)
        if not task.done():
            return Progress()
        try:
            return task.result()
        except (Stopped, asyncio.CancelledError):
            raise EngineError(self.name, ErrorClass.EXPIRED, f"job {job} was cancelled") from None

    async def cancel(self, job: ExternalId) -> None:
        """Stop the job and come back when its thread has left it."""
        if job not in self._jobs:
            return
        task, stop = self._jobs[job]
        stop.set()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at, or the event loop complains of an error that nobody saw

    async def find(self, request: RequestT, order: Order) -> ExternalId | Whereabouts:  # noqa: ARG002 - as above
        """A job that this process does not know has ended with its own."""
        return Whereabouts.NOT_THERE

    async def _do(self, request: RequestT, bench: Bench) -> ResultT:
        try:
            return await offload(self._make, request, bench)
        finally:
            bench.stop.set()

    def _make(self, request: RequestT, bench: Bench) -> ResultT:
        bench.go_on()
        self._workdir.mkdir(parents=True, exist_ok=True)
        try:
            # The event loop may go away before this thread is done: then nobody wants the result any more.
            with current_stop().ending(bench.stop.set):
                return self.make(request, bench)
        except (EngineError, Stopped):
            raise
        except Exception as failure:
            raise EngineError(self.name, ErrorClass.PROVIDER_FAULT, f"{type(failure).__name__}: {failure}") from failure
