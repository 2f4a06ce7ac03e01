"""The server that all fake providers share: plain sockets, so that a connection can be dropped at any moment.

Here: routing by prefix, faults that are queued and taken, and the account of what was asked, accepted and billed.
Not here: what a provider speaks (a module each), the media they hand out (`fakes.media`).
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class Fault(StrEnum):
    """What a fake can be told to do wrong. Each is taken once per queued time."""

    DELAY = "delay"
    """Answer `seconds` late, after accepting."""
    THROTTLED = "throttled"
    """429 before accepting; with `retry_after` (seconds) as a header, else with the provider's own words or none."""
    ERROR_500 = "error_500"
    """500 in the provider's own words, before accepting."""
    ERROR_502 = "error_502"
    """A gateway's page instead of an answer, after accepting."""
    UNAVAILABLE = "unavailable"
    """503 before accepting."""
    DROP_BEFORE = "drop_before"
    """The connection is cut before the request is accepted."""
    DROP_AFTER = "drop_after"
    """The request is accepted and billed; the connection is cut instead of the answer."""
    HANG_BEFORE = "hang_before"
    """Nothing happens until the test lets go (`release`), then the request is refused with 503."""
    HANG_AFTER = "hang_after"
    """The request is accepted and billed; the answer waits until the test lets go."""
    UNAUTHORIZED = "unauthorized"
    NO_CREDIT = "no_credit"
    INVALID = "invalid"
    FILTERED = "filtered"
    """Refused or withheld for its content, the way this provider does it."""
    JOB_FAILS = "job_fails"
    """The accepted job ends in failure; `code` where the provider has codes."""
    UNKNOWN_STATUS = "unknown_status"
    """`looks` looks at the job get a status that nobody has documented."""
    NEVER_ENDS = "never_ends"
    POLL_FAILS = "poll_fails"
    """A look at a job is answered with 500."""
    TRUNCATED_MEDIA = "truncated_media"
    EMPTY_MEDIA = "empty_media"
    NOT_MEDIA = "not_media"
    EXPIRED_URL = "expired_url"
    """The result's address answers 404 or 403."""


@dataclass(frozen=True)
class Seen:
    """One request as it came in."""

    method: str
    path: str
    """Below the provider's prefix."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    at: float
    """Monotonic seconds."""

    def json(self) -> Any:  # noqa: ANN401 - whatever was sent
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What goes back: JSON, or bytes with their type. `cut` sends only so many bytes of them, then hangs up."""

    status: int = 200
    document: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None


class Drop(Exception):
    """Cut the connection without an answer."""


class Provider(ABC):
    """One fake provider. Handlers run in threads: what they share is guarded by `lock`."""

    prefix: str
    """First part of the path under which the provider lives, such as `replicate`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.seen: list[Seen] = []
        self.bills: Counter[str] = Counter()
        """How often each input was accepted and billed, by its canonical JSON."""
        self.starts: list[float] = []
        """Monotonic seconds of every acceptance."""
        self.most_in_flight = 0
        self._in_flight: set[str] = set()
        self._faults: dict[Fault, deque[dict[str, Any]]] = defaultdict(deque)
        self._release = threading.Event()
        self.hanging = threading.Semaphore(0)
        """Released once for every request that hangs: a test acquires it to know that one does."""
        self.base = ""
        """Address of the provider, set by the server."""

    @abstractmethod
    def handle(self, seen: Seen) -> Answer:
        """Answer one request."""

    def fault(self, fault: Fault, times: int = 1, **details: Any) -> None:  # noqa: ANN401 - the fault's own
        """Queue a fault."""
        with self.lock:
            self._faults[fault].extend([details] * times)

    def taken(self, fault: Fault) -> dict[str, Any] | None:
        """The details of a queued fault, which is used up by this; None when none is queued."""
        with self.lock:
            return self._faults[fault].popleft() if self._faults[fault] else None

    def release(self) -> None:
        """Let go of every request that hangs."""
        self._release.set()

    def accept(self, given: object, job: str, *, done: bool = False) -> None:
        """Put an accepted input on the bill; `done` for one that is over with its answer."""
        with self.lock:
            self.bills[canonical(given)] += 1
            self.starts.append(time.monotonic())
            if not done:
                self._in_flight.add(job)
            self.most_in_flight = max(self.most_in_flight, len(self._in_flight))

    def over(self, job: str) -> None:
        """A job has ended."""
        with self.lock:
            self._in_flight.discard(job)

    @property
    def billed(self) -> int:
        """All that was accepted."""
        with self.lock:
            return sum(self.bills.values())

    @property
    def billed_twice(self) -> list[str]:
        """Inputs that were accepted more than once: the worst fault in this field."""
        with self.lock:
            return [given for given, times in self.bills.items() if times > 1]

    def at_the_door(self, accept: Callable[[], Answer]) -> Answer:
        """Run `accept`, which takes a request on and answers, with the faults that happen around acceptance."""
        if self.taken(Fault.DROP_BEFORE) is not None:
            raise Drop
        if self.taken(Fault.HANG_BEFORE) is not None:
            self._hang()
            return self.refusal(503, "unavailable")
        for fault, status in _REFUSALS.items():
            details = self.taken(fault)
            if details is not None:
                return self.refusal(status, fault.value, details.get("retry_after"))
        answer = accept()
        if self.taken(Fault.DROP_AFTER) is not None:
            raise Drop
        if self.taken(Fault.ERROR_502) is not None:
            return Answer(502, content=b"<html>bad gateway</html>", headers={"content-type": "text/html"})
        if self.taken(Fault.HANG_AFTER) is not None:
            self._hang()
        delay = self.taken(Fault.DELAY)
        if delay is not None:
            time.sleep(delay.get("seconds", 1.0))
        return answer

    def refusal(self, status: int, what: str, retry_after: float | None = None) -> Answer:
        """A refusal in this provider's words."""
        headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
        return Answer(status, {"error": {"message": what}}, headers=headers)

    def media(self, content: bytes, kind: str) -> Answer:
        """Bytes of a result, with the faults that happen to results."""
        if self.taken(Fault.EXPIRED_URL) is not None:
            return Answer(404, {"detail": "gone"})
        if self.taken(Fault.EMPTY_MEDIA) is not None:
            return Answer(200, content=b"", headers={"content-type": kind})
        if self.taken(Fault.NOT_MEDIA) is not None:
            return Answer(200, content=b"<html>not a film</html>" * 100, headers={"content-type": "text/html"})
        cut = len(content) // 2 if self.taken(Fault.TRUNCATED_MEDIA) is not None else None
        return Answer(200, content=content, headers={"content-type": kind}, cut=cut)

    def _hang(self) -> None:
        self.hanging.release()
        self._release.wait(120)


_REFUSALS = {
    Fault.THROTTLED: 429,
    Fault.ERROR_500: 500,
    Fault.UNAVAILABLE: 503,
    Fault.UNAUTHORIZED: 401,
    Fault.NO_CREDIT: 402,
    Fault.INVALID: 422,
}


def canonical(given: object) -> str:
    """JSON in one spelling."""
    return json.dumps(given, sort_keys=True, separators=(",", ":"))


@contextmanager
def serving(*providers: Provider, port: int = 0) -> Iterator[str]:
    """Serve providers on one port of loopback; gives the address, under which each lies at its prefix."""
    server = _Server(port, {one.prefix: one for one in providers})
    address = f"http://127.0.0.1:{server.server_address[1]}"
    for one in providers:
        one.base = f"{address}/{one.prefix}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        for one in providers:
            one.release()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def answer(self) -> None:
        parts = urlsplit(self.path)
        prefix, _, rest = parts.path.lstrip("/").partition("/")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        provider = self.server.providers.get(prefix)
        if provider is None:
            self.reply(Answer(404, {"detail": "no such provider"}))
            return
        seen = Seen(
            method=self.command,
            path=f"/{rest}",
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            at=time.monotonic(),
        )
        with provider.lock:
            provider.seen.append(seen)
        try:
            self.reply(provider.handle(seen))
        except Drop:
            self.hang_up()

    do_GET = do_POST = do_DELETE = do_OPTIONS = answer  # noqa: N815 - the base class's names

    def reply(self, answer: Answer) -> None:
        content = answer.content if answer.content is not None else json.dumps(answer.document).encode()
        headers = {"content-type": "application/json", **answer.headers, "content-length": str(len(content))}
        try:
            self.send_response(answer.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content if answer.cut is None else content[: answer.cut])
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # the caller was killed meanwhile, which is what the test is about
        if answer.cut is not None:
            self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Nothing: a test that fails shows what was seen."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, providers: Mapping[str, Provider]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.providers = providers

    def handle_error(self, request: object, client_address: object) -> None:
        """Quiet about callers who hung up or were killed, which is what the tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type] # handed on as it came
