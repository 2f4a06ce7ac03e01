"""A webhook of the tests' own, to which Apprise's `json://` posts alerts.

Here: taking messages, and every way in which a receiver can fail. Each path is a channel of its own.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE_S = 30.0


class Manner(StrEnum):
    """How a channel answers."""

    TAKES = "takes"
    LATE = "late"
    """The message is taken, and answered when the test lets go."""
    REFUSES = "refuses"
    """500, and the message is not taken."""
    HANGS = "hangs"
    """Nothing is answered until the test lets go, and the message is not taken."""
    DRIPS = "drips"
    """A byte of its answer now and then, until the test lets go."""


@dataclass(frozen=True)
class Received:
    """One message that was taken."""

    title: str
    body: str
    tone: str


class Webhook:
    """A running receiver. Safe to ask from any thread."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.manners: dict[str, Manner] = defaultdict(lambda: Manner.TAKES)
        self.let_go = threading.Event()
        self._news = threading.Condition()
        self._taken: dict[str, list[Received]] = defaultdict(list)
        self._asked: dict[str, int] = defaultdict(int)

    def url(self, name: str) -> str:
        """The Apprise address of a channel."""
        return f"json://127.0.0.1:{self.port}/{name}"

    def taken(self, name: str) -> list[Received]:
        """What a channel has taken, in order."""
        with self._news:
            return list(self._taken[name])

    def asked(self, name: str) -> int:
        """How often a channel was written to, whatever it answered."""
        with self._news:
            return self._asked[name]

    def await_asked(self, name: str, times: int = 1) -> None:
        """Until a channel was written to so often."""
        with self._news:
            assert self._news.wait_for(lambda: self._asked[name] >= times, PATIENCE_S)

    def answer(self, name: str, received: Received) -> Manner:
        """Take note of a message, and say how to answer it."""
        with self._news:
            manner = self.manners[name]
            self._asked[name] += 1
            if manner in (Manner.TAKES, Manner.LATE):
                self._taken[name].append(received)
            self._news.notify_all()
        return manner


@contextmanager
def webhook() -> Iterator[Webhook]:
    """A receiver on a port of its own, for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            document = json.loads(self.rfile.read(length))
            received = Received(document["title"], document["message"], document["type"])
            match hook.answer(self.path.strip("/"), received):
                case Manner.TAKES:
                    self._say(200)
                case Manner.LATE:
                    hook.let_go.wait(PATIENCE_S)
                    self._say(200)
                case Manner.REFUSES:
                    self._say(500)
                case Manner.HANGS:
                    hook.let_go.wait(PATIENCE_S)
                case Manner.DRIPS:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
                    while not hook.let_go.wait(0.2):
                        self.wfile.write(b"x")
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _say(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hook = Webhook(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hook
    finally:
        hook.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()
