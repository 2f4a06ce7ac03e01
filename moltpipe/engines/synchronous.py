"""Engines whose answer is the result: there is no job to come back to.

Here: keeping an answer on disk the moment it is read, so that a process that dies between the answer and its
record loses nothing that was paid for. Not here: what is in an answer (the engine's module).

An answer that never arrived cannot be asked for again: such a call is ambiguous, and a person decides, unless
the provider keeps a history.
"""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.protocols import ExternalId, Order, Progress, Whereabouts

RequestT = TypeVar("RequestT", bound=BaseModel)
ResultT = TypeVar("ResultT")

KEPT_S = 2 * 24 * 3600
"""How long an answer stays: a call that nobody took up for so long is a person's to decide."""


class Answers:
    """Answers on disk, each under its call and its external id. Safe to share between processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, order: Order, job: ExternalId, answer: bytes) -> None:
        """Write an answer so that it survives the process and the machine's restart."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        target = self._folder / f"{order.call_id}.{_digest(job)}"
        half = target.with_name(f".{target.name}.{os.getpid()}")
        name = _encoded(job)
        with half.open("wb") as file:
            file.write(len(name).to_bytes(4, "big") + name + answer)
            file.flush()
            os.fsync(file.fileno())
        half.replace(target)
        _sync(self._folder)

    def keep_aside(self, job: ExternalId, answer: bytes) -> None:
        """The same for what is no call's answer, so that `of_call` never finds it: a draft, a later look's result."""
        self.keep(Order(call_id=UUID(_digest(job)), left_at=datetime.now(UTC)), job, answer)

    def of_job(self, job: ExternalId) -> bytes | None:
        """The answer with this external id; None when this machine has none."""
        return next((answer for _, answer in self._found(f"*.{_digest(job)}")), None)

    def of_call(self, order: Order) -> ExternalId | None:
        """The external id of the answer to this call; None when this machine has none."""
        return next((job for job, _ in self._found(f"{order.call_id}.*")), None)

    def drop(self, job: ExternalId) -> None:
        """Forget an answer."""
        for file in self._folder.glob(f"*.{_digest(job)}"):
            file.unlink(missing_ok=True)

    def _found(self, pattern: str) -> Iterator[tuple[ExternalId, bytes]]:
        for file in self._folder.glob(pattern):
            try:
                content = file.read_bytes()
            except FileNotFoundError:
                continue  # dropped or swept by another process since it was listed
            length = int.from_bytes(content[:4], "big")
            yield ExternalId(content[4 : 4 + length].decode(errors="surrogatepass")), content[4 + length :]

    def _sweep(self) -> None:
        for file in self._folder.iterdir():
            try:
                if time.time() - file.stat().st_mtime > KEPT_S:
                    file.unlink(missing_ok=True)
            except FileNotFoundError:
                continue


def _digest(job: ExternalId) -> str:
    return hashlib.sha256(_encoded(job)).hexdigest()[:32]


def _encoded(job: ExternalId) -> bytes:
    """JSON can hold half of a character, and an answer that is paid for is kept whatever its id looks like."""
    return job.encode(errors="surrogatepass")


def _sync(folder: Path) -> None:
    """Make sure that a file's new name survives a loss of power, as its content does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SynchronousEngine(ABC, Generic[RequestT, ResultT]):
    """The verbs for an engine that answers with the result."""

    name: str

    def __init__(self, answers: Path) -> None:
        """`answers` is a folder that outlives the process."""
        self.answers = Answers(answers)

    @abstractmethod
    async def ask(self, request: RequestT, order: Order) -> tuple[ExternalId, bytes]:
        """Make the request and read the whole answer: the provider's id of it, and what `read` understands.

        Raises:
            EngineError: there is no answer that could be a result.
        """

    @abstractmethod
    def read(self, answer: bytes) -> ResultT:
        """The result in an answer; its media goes into a file.

        Raises:
            EngineError: the answer holds no result.
        """

    async def submit(self, request: RequestT, order: Order) -> ExternalId:
        """Ask, and keep the answer before anything else is done."""
        job, answer = await self.ask(request, order)
        self.answers.keep(order, job, answer)
        return job

    async def poll(self, job: ExternalId) -> Progress | ResultT:
        """The result of a kept answer.

        Raises:
            EngineError: `expired` when the answer is not on this machine.
        """
        answer = self.answers.of_job(job)
        if answer is None:
            raise EngineError(self.name, ErrorClass.EXPIRED, f"the answer {job} is not on this machine")
        return self.read(answer)

    async def cancel(self, job: ExternalId) -> None:
        """Nothing can be stopped: the answer is there."""
        self.answers.drop(job)

    async def find(self, request: RequestT, order: Order) -> ExternalId | Whereabouts:  # noqa: ARG002 - see the docstring
        """An answer that this machine kept; whether the provider made one that never arrived, nobody can say."""
        return self.answers.of_call(order) or Whereabouts.UNKNOWN
