"""Cutting variants of an episode while its others are still being filmed.

Here: when that may begin, and that it never fails the filming. Not here: how a variant is cut, and when it is published
(`production.cutting`). A pilot has four variants, which its providers film one after the other while the cores stand
still; all four were cut when the last take was in, and the whole series waited.

A variant that was cut ahead lies in the run's scratch space until the next stage publishes it, where its ingredients
are still the same. A process that dies loses nothing but the work.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from moltpipe.media.offload import offload
from moltpipe.production.cutting import CuttingRoom, ingredients, printed, put_away, set_up
from moltpipe.production.work import Work
from moltpipe.studio.records import Production

log = logging.getLogger(__name__)


class Ahead:
    """The variants of one episode that are being cut ahead. See `cutting_ahead`."""

    def __init__(self, work: Work, desk: asyncio.Semaphore) -> None:
        self._work, self._desk = work, desk
        self._room: asyncio.Task[CuttingRoom] | None = None
        self._cuts: list[asyncio.Task[None]] = []

    def begin(self, variant_number: int) -> None:
        """Cut a variant all of whose takes are recorded."""
        self._cuts.append(asyncio.create_task(self._cut(variant_number)))

    async def finish(self) -> None:
        """Wait for what was begun."""
        await asyncio.gather(*self._cuts)

    async def put_away(self) -> None:
        """End what is left of it, all of it where the filming failed."""
        for cut in self._cuts:
            cut.cancel()
        await asyncio.gather(*self._cuts, return_exceptions=True)
        if self._room is not None:
            self._room.cancel()
            (room,) = await asyncio.gather(self._room, return_exceptions=True)
            if isinstance(room, CuttingRoom):
                await put_away(room)

    async def _cut(self, variant_number: int) -> None:
        try:
            await self._print(variant_number)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next stage meets it again, and fails with it
            log.info("not cut ahead", extra={"variant": variant_number, "why": str(error)})

    async def _print(self, variant_number: int) -> None:
        line = self._work.line
        production = await asyncio.to_thread(self._work.reload)
        if line.crew.composer is not None and production.score is None:
            # Its music is composed, and paid for, in the next stage.
            return
        made_from = ingredients(production, variant_number, line.profile, line.finish)
        if production.is_published(variant_number, made_from):
            return
        if self._room is None:
            self._room = asyncio.create_task(self._opened(production))
        # What variants share, with the takes that are there now.
        room = replace(await self._room, production=production, ingredients={variant_number: made_from})
        line.cut_ahead[variant_number, made_from] = await printed(line, room, variant_number)
        log.info("cut ahead", extra={"variant": variant_number})

    async def _opened(self, production: Production) -> CuttingRoom:
        line = self._work.line
        folder = Path(tempfile.mkdtemp(dir=line.workdir, prefix="ahead-"))
        return await offload(set_up, line, production, folder, {}, self._desk)


@asynccontextmanager
async def cutting_ahead(work: Work, desk: asyncio.Semaphore) -> AsyncIterator[Ahead]:
    """For the length of a block in which an episode is filmed; what was begun is done at its end, unless it fails."""
    ahead = Ahead(work, desk)
    try:
        yield ahead
        await ahead.finish()
    finally:
        await ahead.put_away()
