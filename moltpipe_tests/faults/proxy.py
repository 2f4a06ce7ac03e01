"""A door between moltpipe and a service: connections are refused, dropped, kept without an answer, cut in a commit.

Here: the relay, and as much of PostgreSQL's protocol as it takes to see a COMMIT go by. Not here: when which of it is
done (`faults.damages`).

Nothing else can lose the answer to a COMMIT at will: a server that is stopped has mostly answered, or never heard.
"""

from __future__ import annotations

import asyncio
import re
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")

_CHUNK = 1 << 16
_LENGTH = struct.Struct("!i")
_PROTOCOL_3 = 196608
_WRITES = re.compile(rb"\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+\"?(\w+)", re.IGNORECASE)
_WATCH = frozenset({"watchers", "sweeps", "observations", "incidents", "alerts"})
"""Tables of the watch, written all the time: a commit that wrote nothing else is not worth a cut."""


class Cut(StrEnum):
    """Where a connection is cut that commits."""

    BEFORE = "before the server had it"
    AFTER = "after the server had it"


@dataclass
class Frontend:
    """What a client of PostgreSQL has said: enough to know that it commits, and what it wrote before."""

    started: bool = False
    wrote: set[str] = field(default_factory=set)
    _unread: bytes = b""
    _prepared: dict[bytes, str] = field(default_factory=dict)

    def messages(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Whole messages as they came, each with whether it commits."""
        self._unread += data
        while (size := self._next_size()) is not None:
            message, self._unread = self._unread[:size], self._unread[size:]
            yield message, self._commits(message)

    def _next_size(self) -> int | None:
        head = 1 if self.started else 0
        if len(self._unread) < head + 4:
            return None
        size = head + int(_LENGTH.unpack_from(self._unread, head)[0])
        return size if len(self._unread) >= size else None

    def _commits(self, message: bytes) -> bool:
        if not self.started:
            # A request for encryption comes first, has no type either, and is refused by the embedded server.
            self.started = _LENGTH.unpack_from(message, 4)[0] == _PROTOCOL_3
            return False
        kind, body = message[:1], message[5:]
        if kind == b"Q":
            if body.upper().startswith(b"COMMIT"):
                return True
            if body.upper().startswith((b"BEGIN", b"ROLLBACK\0")):
                self.wrote.clear()
            self._note(body)
        elif kind == b"P":
            name, _, statement = body.partition(b"\0")
            self._prepared.pop(name, None)
            table = self._note(statement)
            if table is not None:
                self._prepared[name] = table
        elif kind == b"B":
            name = body.split(b"\0", 2)[1]
            if name in self._prepared:
                self.wrote.add(self._prepared[name])
        return False

    def _note(self, statement: bytes) -> str | None:
        found = _WRITES.match(statement)
        if found is None:
            return None
        self.wrote.add(found[1].decode())
        return found[1].decode()


@dataclass
class _Commits:
    """Cuts that are still to be made."""

    left: int = 0
    where: Cut = Cut.BEFORE
    made: list[str] = field(default_factory=list)
    """What each of them met: the tables that the transaction wrote."""

    def takes(self, wrote: set[str]) -> bool:
        if not self.left or not wrote - _WATCH:
            return False
        self.left -= 1
        self.made.append("+".join(sorted(wrote - _WATCH)))
        return True


class Door:
    """One port of loopback that leads to a service. `leads_to` is asked for each connection: a service may move."""

    def __init__(self, leads_to: Callable[[], int], *, speaks_postgres: bool = False) -> None:
        self.port = 0
        self._leads_to = leads_to
        self._speaks_postgres = speaks_postgres
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="door", daemon=True)
        self._open = True
        self._flowing = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._commits = _Commits()
        self._server: asyncio.Server | None = None

    def build(self) -> None:
        """Listen."""
        self._thread.start()
        self._in_loop(self._listen())

    def tear_down(self) -> None:
        """Hang up on everybody, for good."""
        self._in_loop(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def refuse(self) -> None:
        """Hang up on everybody, and on whoever comes until `let_pass`."""

        async def now() -> None:
            self._open = False
            self._hang_up()

        self._in_loop(now())

    def fall_silent(self) -> None:
        """Keep every connection, and carry nothing in either direction until `let_pass`."""

        async def now() -> None:
            self._flowing.clear()

        self._in_loop(now())

    def drop(self) -> None:
        """Hang up on everybody who is connected."""

        async def now() -> None:
            self._hang_up()

        self._in_loop(now())

    def let_pass(self) -> None:
        """Carry on as if nothing had been."""

        async def now() -> None:
            self._open = True
            self._commits.left = 0
            self._flowing.set()

        self._in_loop(now())

    def cut_commits(self, count: int, where: Cut) -> None:
        """Cut the connections of the next transactions that have written and commit."""

        async def now() -> None:
            self._commits = _Commits(count, where)

        self._in_loop(now())

    @property
    def cuts(self) -> list[str]:
        """What the cuts that were made since `cut_commits` met."""
        return list(self._commits.made)

    def _in_loop(self, doing: Awaitable[T]) -> T:
        async def done() -> T:
            return await doing

        waiting: Future[T] = asyncio.run_coroutine_threadsafe(done(), self._loop)
        return waiting.result(30)

    def _hang_up(self) -> None:
        for connection in self._connections:
            connection.cancel()

    async def _listen(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._open = False
        self._hang_up()
        await asyncio.gather(*self._connections)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if not self._open or task is None:
            writer.transport.abort()
            return
        self._connections.add(task)
        theirs: asyncio.StreamWriter | None = None
        try:
            answers, theirs = await asyncio.open_connection("127.0.0.1", self._leads_to())
            await self._relay(reader, writer, answers, theirs)
        except (OSError, asyncio.CancelledError):
            # Hung up on from one side or by us: both ends learn it below.
            pass
        finally:
            self._connections.discard(task)
            for end in (writer, theirs):
                if end is not None:
                    end.transport.abort()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        theirs: asyncio.StreamWriter,
    ) -> None:
        """Carry both ways until one of them ends."""
        kept_back = asyncio.Event()
        ways = [
            asyncio.create_task(self._carry_forth(reader, theirs, kept_back)),
            asyncio.create_task(self._carry_back(answers, writer, kept_back)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry_forth(
        self, reader: asyncio.StreamReader, theirs: asyncio.StreamWriter, kept_back: asyncio.Event
    ) -> None:
        frontend = Frontend()
        while data := await reader.read(_CHUNK):
            await self._flowing.wait()
            for message, commits in frontend.messages(data) if self._speaks_postgres else [(data, False)]:
                if commits and self._commits.takes(frontend.wrote):
                    if self._commits.where is Cut.BEFORE:
                        return
                    kept_back.set()
                theirs.write(message)
                if commits:
                    frontend.wrote.clear()
            await theirs.drain()

    async def _carry_back(
        self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, kept_back: asyncio.Event
    ) -> None:
        while data := await answers.read(_CHUNK):
            await self._flowing.wait()
            if kept_back.is_set():
                return
            writer.write(data)
            await writer.drain()


@contextmanager
def door(leads_to: Callable[[], int], *, speaks_postgres: bool = False) -> Iterator[Door]:
    """A door for the length of a block."""
    made = Door(leads_to, speaks_postgres=speaks_postgres)
    made.build()
    try:
        yield made
    finally:
        made.tear_down()
