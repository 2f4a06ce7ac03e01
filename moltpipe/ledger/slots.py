"""How many calls an engine gets at once, over every process on every machine.

Here: waiting for a free place. Not here: rates and prices. The incident behind it: per-process limits
multiply by the number of processes, and a provider that allows three at once got twelve.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

from moltpipe.ledger.database import Database

T = TypeVar("T")

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5


class EngineSlots:
    """An asynchronous context in which this task has one of an engine's places.

    A process that dies gives its places back by dying. Processes with different limits share the lower
    places, so the highest limit holds.

    Raises:
        ValueError: `at_once` is less than one.
        DatabaseUnavailable: on entering, when Postgres cannot be reached.
    """

    def __init__(self, database: Database, engine: str, at_once: int) -> None:
        if at_once < 1:
            raise ValueError(f"{engine}: expected at least 1 call at once, got {at_once}")
        self._database = database
        self._room = zlib.crc32(f"moltpipe engine {engine}".encode()) - 2**31
        self._places = range(1, at_once + 1)
        self._place: int | None = None

    async def __aenter__(self) -> Self:
        pause_s = _FIRST_PAUSE_S
        while (place := await self._try()) is None:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 (jitter, not a secret)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 1.5)
        self._place = place
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._place is not None:
            place, self._place = self._place, None
            await to_its_end(asyncio.to_thread(self._database.locks.give_back, self._room, place))

    async def _try(self) -> int | None:
        """Look once. A task that is cancelled meanwhile gives back what its thread got."""
        attempt = asyncio.ensure_future(asyncio.to_thread(self._database.take_place, self._room, self._places))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            place = await attempt
            if place is not None:
                await asyncio.to_thread(self._database.locks.give_back, self._room, place)
            raise


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
