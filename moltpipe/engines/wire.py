"""HTTP to a hosted engine: one request, one answer or one `EngineError`.

Here: what every provider has in common on the wire: which failure means that a request cannot have been
accepted, which means that it may have been, what a status says, how long a provider asks to wait, and that no
key and no signed address gets into a message. Not here: what a provider speaks (its module), fetching results
(`engines.transfer`), trying again (the layer that calls).

The incident behind it: generic retries around a paid POST, which billed one click four times. Only what surely
never left is called `retry_safe` here; a request that was sent and not answered is `ambiguous`.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import logging
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

import httpx

from moltpipe.engines.errors import EngineError, ErrorClass

REQUEST_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 192 * 1024 * 1024
"""Base64 media comes inside an answer: 128 MiB of it."""
_QUOTED = 300
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
_MALFORMED = (httpx.LocalProtocolError, httpx.InvalidURL, UnicodeError)
"""Raised of what is to be sent; and of where an answer redirects to, which may be as malformed."""


class Wire:
    """Requests to one provider account. Holds no connection between requests: engines outlive event loops."""

    def __init__(
        self,
        engine: str,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        secrets: Iterable[str] = (),
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        """`headers` and `params` go with every request; `secrets` are blotted out of every message."""
        self.engine = engine
        self.base_url = base_url.rstrip("/")
        self._headers = dict(headers or {})
        self._params = dict(params or {})
        spellings = {spelling for one in secrets if one for spelling in (one, quote(one, safe=""), quote_plus(one))}
        self._secrets = tuple(sorted(spellings, key=len, reverse=True))
        self._timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers that go with every request, for a result that must be fetched with them."""
        return tuple(self._headers.items())

    async def post(
        self,
        path: str,
        body: object,
        *,
        headers: Mapping[str, str] | None = None,
        departed: Callable[[], None] | None = None,
    ) -> Reply:
        """Send a JSON body. Redirects are not followed: what they mean is the provider's.

        Raises:
            EngineError: `retry_safe` when the request surely never left, `ambiguous` when it may have arrived.
        """
        return await self._send("POST", path, ErrorClass.AMBIGUOUS, body=body, headers=headers, departed=departed)

    async def get(self, path: str, *, params: Mapping[str, Any] | None = None) -> Reply:
        """Ask for something; asking again costs nothing.

        Raises:
            EngineError: `retry_safe`, whatever happened on the way.
        """
        return await self._send("GET", path, ErrorClass.RETRY_SAFE, params=params)

    def scrub(self, text: str) -> str:
        """A text without keys and without the query of any address, on one line and short enough for a message."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = re.sub(r"(https?://[^\s\"'<>?]+)\?[^\s\"'<>]*", r"\1?***", text)
        text = " ".join(text.split())
        return text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…"

    def error(
        self,
        error_class: ErrorClass,
        message: str,
        *,
        retry_after_s: float | None = None,
        **other: Any,  # noqa: ANN401
    ) -> EngineError:
        """An error of this engine, its message scrubbed."""
        return EngineError(self.engine, error_class, self.scrub(message), retry_after_s=retry_after_s, **other)

    def refusal(self, reply: Reply, *, accepting: bool = False) -> EngineError:
        """What a status other than success means where the provider documents nothing else.

        `accepting` says that the request was one that costs money when it is accepted. A server that failed may have
        accepted it, unless it says that it is not available.
        """
        detail = reply.detail()
        message = f"HTTP {reply.status}" + (f": {detail}" if detail else "")
        return self.error(_class_of(reply, accepting=accepting), message, retry_after_s=reply.retry_after_s())

    async def _send(
        self,
        method: str,
        path: str,
        lost: ErrorClass,
        *,
        body: object = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        departed: Callable[[], None] | None = None,
    ) -> Reply:
        url = path if path.startswith(("http://", "https://")) else f"{self.base_url}{path}"
        content = None if body is None else self._encoded(body)
        sent_headers = {**self._headers, **({"content-type": "application/json"} if body is not None else {})}
        sent_headers.update(headers or {})
        told = _Departure(departed)
        try:
            async with (
                open_client(url, self._timeout) as client,
                client.stream(
                    method,
                    url,
                    params={**self._params, **(params or {})} or None,
                    headers=sent_headers,
                    content=content,
                    extensions={"trace": told.trace},
                ) as response,
            ):
                answer = await _whole(response)
                return Reply(response.status_code, {k.lower(): v for k, v in response.headers.items()}, answer)
        except _TooLong as too_long:
            raise self.error(lost, str(too_long)) from None
        except _NEVER_LEFT as failure:
            raise self.error(ErrorClass.RETRY_SAFE, f"cannot be reached: {_named(failure)}") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ssl.SSLError, OSError) as failure:
            if isinstance(failure, _MALFORMED):
                # No text: it quotes what is malformed, such as a key with a line break in it.
                raise (self._unanswered(lost, method, url) if told.left else self._unsendable()) from None
            raise self._unanswered(lost, method, url, f": {_named(failure)}") from None

    def _encoded(self, body: object) -> bytes:
        try:
            return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:
            raise self.error(
                ErrorClass.INVALID_INPUT, "cannot be sent: a text holds half of a character (a lone surrogate)"
            ) from None

    def _unanswered(self, lost: ErrorClass, method: str, url: str, why: str = "") -> EngineError:
        return self.error(lost, f"no answer to {method} {urlsplit(url).path}{why}")

    def _unsendable(self) -> EngineError:
        return self.error(
            ErrorClass.INVALID_INPUT,
            "cannot be sent: the address or a header holds characters that none may hold; is the key right?",
        )


@dataclass(frozen=True)
class Reply:
    """An answer: status, headers in lower case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is one of success (2xx)."""
        return 200 <= self.status < 300  # noqa: PLR2004 (HTTP)

    def json(self) -> Any:  # noqa: ANN401 - whatever the provider sent
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def document(self) -> dict[str, Any]:
        """The body as a JSON object; empty where it is none."""
        body = self.json()
        return body if isinstance(body, dict) else {}

    def detail(self) -> str:
        """What the provider says is wrong, wherever it says it; empty where it says nothing readable."""
        body = self.json()
        if isinstance(body, dict):
            for key in ("detail", "error", "message", "title", "errors"):
                said = body.get(key)
                if isinstance(said, dict):
                    said = said.get("message") or said.get("detail") or said.get("status") or json.dumps(said)
                if said:
                    return said if isinstance(said, str) else json.dumps(said)
        return "" if b"<" in self.body[:200] else self.body[:_QUOTED].decode(errors="replace")

    def retry_after_s(self) -> float | None:
        """The provider's hint in seconds: the header as seconds or date, else "resets in ~30s" in the text."""
        header = self.headers.get("retry-after", "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", header):
            return float(header)
        if header:
            moment = _http_date(header)
            if moment is not None:
                return max(0.0, (moment - datetime.now(UTC)).total_seconds())
        return _wait_in(self.detail()) if self.status == _THROTTLED else None


def account_of(base_url: str, key: str) -> str:
    """The name under which limits are kept: the host, and a digest that changes with the address or the key."""
    digest = hashlib.sha256(f"{base_url.rstrip('/')}|{key}".encode()).hexdigest()[:12]
    return f"{urlsplit(base_url).hostname or 'unknown'}-{digest}"


def base_url(given: str, usual_path: str) -> str:
    """An address with the API's usual path where it was given without any: `http://host:1` means `http://host:1/v1`."""
    given = given.rstrip("/")
    return given if urlsplit(given).path else given + usual_path


def is_loopback(url: str) -> bool:
    """Whether an address names this machine."""
    return (urlsplit(url).hostname or "") in _LOOPBACK


def open_client(url: str, timeout: httpx.Timeout) -> httpx.AsyncClient:
    """A client for one exchange. A proxy of the environment is not asked for this machine's own servers."""
    _hush()
    return httpx.AsyncClient(timeout=timeout, follow_redirects=False, verify=_trusted(), trust_env=not is_loopback(url))


def open_transport() -> httpx.AsyncHTTPTransport:
    """For one exchange with the very address in its URL: no proxy is asked, and nothing is added or understood."""
    _hush()
    return httpx.AsyncHTTPTransport(verify=_trusted(), trust_env=False)


def _hush() -> None:
    """At INFO, httpx logs each address with its query, where one provider wants its key; httpcore logs headers."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


@cache
def _trusted() -> ssl.SSLContext:
    """Made once: reading the certificates takes longer than a request."""
    return httpx.create_ssl_context()


class _TooLong(Exception):
    pass


class _Departure:
    """How far a request has got; tells the caller, once, that it has been sent whole."""

    def __init__(self, departed: Callable[[], None] | None) -> None:
        self._departed = departed
        self._tunnels = False
        self.left = False
        """Whether its head has been sent."""

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpcore at every step. Source: https://www.encode.io/httpcore/extensions/#trace ."""
        if event.endswith("send_request_headers.started"):
            # A proxy is first asked for a tunnel, with these same events.
            self._tunnels = info["request"].method == b"CONNECT"
        if self._tunnels:
            return
        if event.endswith("send_request_headers.complete"):
            self.left = True
        if self._departed is not None and event.endswith("send_request_body.complete"):
            departed, self._departed = self._departed, None
            departed()


async def _whole(response: httpx.Response) -> bytes:
    parts = bytearray()
    async for part in response.aiter_bytes():
        parts += part
        if len(parts) > MAX_ANSWER_BYTES:
            raise _TooLong(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(parts)


_THROTTLED = 429
_BY_STATUS = {
    401: ErrorClass.AUTH,
    402: ErrorClass.QUOTA,
    403: ErrorClass.AUTH,
    408: ErrorClass.RETRY_SAFE,
    425: ErrorClass.RETRY_SAFE,
    _THROTTLED: ErrorClass.THROTTLED,
    503: ErrorClass.RETRY_SAFE,
}
_SERVER_ERROR, _UNAVAILABLE = 500, 503


def _class_of(reply: Reply, *, accepting: bool) -> ErrorClass:
    if accepting and reply.status >= _SERVER_ERROR and not _is_refused(reply):
        return ErrorClass.AMBIGUOUS
    if reply.status in _BY_STATUS:
        return _BY_STATUS[reply.status]
    return ErrorClass.INVALID_INPUT if reply.status < _SERVER_ERROR else ErrorClass.RETRY_SAFE


def _is_refused(reply: Reply) -> bool:
    """Whether a server that failed says that it has not taken the request on: a 503 in the API's own words.

    A 500 says that something went wrong, and not when; a gateway's page, not even by whom.
    """
    return reply.status == _UNAVAILABLE and (bool(reply.document()) or reply.retry_after_s() is not None)


def _http_date(text: str) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_WAIT = re.compile(r"\b(?:in|after)\s*~?\s*(?=\d)")
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?)(?![a-z])")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _wait_in(text: str) -> float | None:
    """Seconds out of "resets in ~30s" (Replicate) or "try again in 7m12.5s" (OpenAI, Groq)."""
    text = text.lower()
    for start in _WAIT.finditer(text):
        seconds, at = 0.0, start.end()
        while part := _DURATION.match(text, at):
            unit = part[2]
            seconds += float(part[1]) * (0.001 if unit.startswith(("ms", "mil")) else _UNIT_S[unit[0]])
            at = part.end()
        if at > start.end():
            return seconds
    return None


def _named(failure: BaseException) -> str:
    return f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
