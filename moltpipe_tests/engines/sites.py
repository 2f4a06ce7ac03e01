"""Web servers that say, byte for byte, what a test wants, and remember what they were asked."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

Saying = bytes | Callable[[socket.socket], None]


@dataclass(frozen=True)
class Asked:
    """A request's target and headers, their names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Site:
    """What is said at each path, in turn; the last saying is repeated."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answered = threading.Semaphore(0)
        """Released after each answer."""
        self.port = 0
        self._sayings: dict[str, deque[Saying]] = defaultdict(deque)

    def says(self, path: str, *sayings: Saying) -> None:
        self._sayings[path] = deque(sayings)

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def next_saying(self, path: str) -> Saying:
        sayings = self._sayings[path]
        return sayings.popleft() if len(sayings) > 1 else sayings[0]

    def converse(self, connection: socket.socket) -> None:
        """One request, one saying, and the line is cut."""
        with connection.makefile("rb") as incoming:
            start = incoming.readline().decode(errors="replace").split(" ")
            if len(start) != 3:
                return
            lines = iter(lambda: incoming.readline().decode().strip(), "")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = incoming.read(int(headers.get("content-length", "0")))
        method, target, _ = start
        self.asked.append(Asked(method, target, headers, body))
        saying = self.next_saying(target.partition("?")[0])
        with suppress(OSError):
            saying(connection) if callable(saying) else connection.sendall(saying)
            connection.shutdown(socket.SHUT_RDWR)
        self.answered.release()


def answer(status: int = 200, body: bytes = b"", length: int | None = None, **headers: str) -> bytes:
    """An answer in full; `length` lies about it, and a header's name has `_` for `-`."""
    given = {"content-type": "video/mp4", "content-length": str(len(body) if length is None else length)}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status} said\r\n{head}\r\n".encode() + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """An answer of unknown length; without the `end` it is cut off."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: video/mp4\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


@contextmanager
def open_site(tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """A site on a free port of 127.0.0.1."""
    site = Site()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if tls is None:
                site.converse(self.request)
                return
            # A client that does not like the certificate hangs up in the middle.
            with suppress(OSError), tls.wrap_socket(self.request, server_side=True) as wrapped:
                site.converse(wrapped)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        site.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
