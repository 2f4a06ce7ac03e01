"""Waiting for a place at a provider, as one stage of one episode does it.

Here: that of all its calls one asks at a time. Not here: whether it may leave (`ledger.accounts`), what asking means
(`production.hosted`). A pilot has 28 takes to film: if each of them asked every second, a studio of six runs would
ask Postgres two hundred times a second for the one place that is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

ErrorT = TypeVar("ErrorT", bound=Exception)


@dataclass
class Turnstile:
    """One account's entrance, for the calls of one stage."""

    usual_s: float | None = None
    """How long a job of this stage takes there, as far as one has shown it."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _freed: asyncio.Event = field(default_factory=asyncio.Event)
    _closed_by: Exception | None = None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The place of the call that asks; the others stand behind it in their order.

        Raises:
            Exception: the one that the account was closed by.
        """
        async with self._turn:
            if self._closed_by is not None:
                raise self._closed_by
            yield

    def closed_by(self, error: ErrorT) -> ErrorT:
        """The same error, which from now on is the answer to all calls of the stage: they need not wait as long."""
        self._closed_by = error
        return error

    def note_lasted(self, seconds: float) -> None:
        """A job was seen to be done so long after its submission. Each is seen late, so the shortest tells most."""
        self.usual_s = min(seconds, self.usual_s or seconds)

    def note_freed(self) -> None:
        """A call of this stage no longer needs its place: the next one asks at once."""
        self._freed.set()

    def before_asking(self) -> None:
        """What is freed from here on is news to the call that asks."""
        self._freed.clear()

    async def until_freed(self, within_s: float) -> None:
        """Wait for such news, but not longer: places are freed by other processes as well, and those do not tell."""
        try:
            async with asyncio.timeout(within_s):
                await self._freed.wait()
        except TimeoutError:
            pass
