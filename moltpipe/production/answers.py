"""What a call to an engine gives back, and how its steps are written down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID

import stamina

from moltpipe.ledger.database import Database, DatabaseUnavailable

ResultT = TypeVar("ResultT")
T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[ResultT]):
    """A finished call: its row in the ledger, what the engine made, and the file where it made one."""

    call_id: UUID
    result: ResultT
    arrived: Path | None

    @property
    def file(self) -> Path:
        """The media, on this machine; the caller removes it.

        Raises:
            ValueError: this kind of result has none.
        """
        if self.arrived is None:
            raise ValueError(f"call {self.call_id} made no file")
        return self.arrived


async def written(database: Database, transaction: Callable[..., T], *values: Any, patience_s: float = 0.0) -> T:  # noqa: ANN401 - the transaction's own
    """Run one transaction of the ledger in a thread; again for as long as `patience_s` while Postgres is away.

    Who is cancelled meanwhile waits for its end, so that the row stands still when the next step looks at it.
    """

    def write() -> T:
        with database.begin() as db:
            return transaction(db, *values)

    if not patience_s:
        return await to_its_end(asyncio.to_thread(write))
    patient = stamina.retry(on=DatabaseUnavailable, attempts=None, timeout=patience_s, wait_max=10.0)(write)
    return await to_its_end(asyncio.to_thread(patient))


async def to_its_end(step: Awaitable[T]) -> T:
    """Await what must not be cut off; a cancellation is raised after it.

    Without this, work that still waits for a thread when its task is cancelled is never done: the id of a job that
    was paid for stayed unwritten.
    """
    running = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(asyncio.shield(running), return_exceptions=True)
        raise
