"""A process that makes the media of one shot and can be killed at any step of it.

Here: counting the moments between two durable writes, and SIGKILL at the chosen one. Not here: what must be true
afterwards (`test_kills`).

A moment is: after a transaction that wrote was committed, before and after every HTTP exchange, before and after an
object is put into the store. Between two of them nothing lasting happens, so killing at each of them is killing
everywhere.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import httpx
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.database import Database
from moltpipe.production.filming import film_shots
from moltpipe.production.line import open_line
from moltpipe.production.voicing import voice_shots
from moltpipe.production.work import work_on
from moltpipe.settings import load_settings
from moltpipe.store import Store, connect
from moltpipe.studio.records import Stored


@dataclass(frozen=True)
class Errand:
    """What the process does, and the moment at which it is killed; None lets it live."""

    environment: Mapping[str, str]
    stage: str
    """`film` or `speak`."""
    partition_key: str
    run_id: str
    kill_at: int | None


class _Moments:
    """Counts, and kills this very process at the chosen count: nothing is flushed, closed or caught."""

    def __init__(self, kill_at: int | None) -> None:
        self.passed = 0
        self._kill_at = kill_at

    def one(self) -> None:
        self.passed += 1
        if self.passed == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def run(errand: Errand, pipe: Pipe) -> None:
    """Do the errand and send how many moments it had, or the text of its error."""
    os.environ.update(errand.environment)
    moments = _Moments(errand.kill_at)
    _watch(moments)
    try:
        asyncio.run(_make(errand))
    except Exception as error:  # noqa: BLE001 - the test decides which it expects
        pipe.send(f"{type(error).__name__}: {error}")
    else:
        pipe.send(moments.passed)


async def _make(errand: Errand) -> None:
    settings = load_settings()
    with open_line(settings, connect(settings.s3_bucket, settings.s3_endpoint_url)) as line:
        for engine in (line.crew.camera, line.crew.voice):
            if engine.hosting is not None:
                # A lost request is looked for again once a listing has settled: soon, for one on this machine.
                settled = replace(engine.hosting, settles=timedelta(seconds=0.2))
                engine.hosting = settled  # type: ignore[misc] # read-only by its protocol alone
        async with work_on(line, errand.partition_key, process_uuid=errand.run_id) as work:
            if errand.stage == "film":
                await film_shots(work, regenerate=False)
            else:
                await voice_shots(work, regenerate=False)


def _watch(moments: _Moments) -> None:
    begin, send, put = Database.begin, httpx.AsyncHTTPTransport.handle_async_request, Store.put

    @contextmanager
    def watched_begin(self: Database) -> Iterator[Connection]:
        with begin(self) as db:
            yield db
            wrote = db.execute(sa.text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")).scalar_one()
        if wrote:
            moments.one()

    async def watched_send(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        moments.one()
        response = await send(self, request)
        moments.one()
        return response

    def watched_put(self: Store, file: Path, key_for: object) -> Stored:
        moments.one()
        stored = put(self, file, key_for)  # type: ignore[arg-type] # handed on as it came
        moments.one()
        return stored

    Database.begin = watched_begin  # type: ignore[method-assign]
    httpx.AsyncHTTPTransport.handle_async_request = watched_send  # type: ignore[method-assign]
    Store.put = watched_put  # type: ignore[method-assign]
