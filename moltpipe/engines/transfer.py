"""Fetching what a hosted engine made, from an address that somebody else wrote.

Here: where a result may be fetched from, how much, how long, and how often it is tried. Not here: when a result is
there (the engine's module), whether it is a film (`production.ingest`).

The address comes from an answer of the provider, or from wherever its redirects lead, so it may name anything: the
metadata service of a cloud, a database beside us, a name that is public when it is checked and private when it is
connected to. So a name is resolved once, every address of it is checked, and the connection goes to the very address
that was checked, while the certificate and the Host header keep the name. A proxy of the environment is not asked for
the same reason: it would resolve the name again.

Fetching costs nothing, so it is tried again by itself. What is `retry_safe` or `throttled` here means that the result
may still be fetched later; the job is never made anew for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Self
from urllib.parse import unquote_to_bytes
from uuid import uuid4

import httpx

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.protocols import Download
from moltpipe.engines.wire import CONNECT_TIMEOUT_S, Reply, is_loopback, open_transport

MOST_REDIRECTS = 5
_BLOCK = 1024 * 1024
_HIGHEST_PRIVILEGED = 1023
_HIGHEST_PORT = 65535
_USUAL_PORTS = {"https": 443, "http": 80}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = 200
_UNAUTHORIZED = 401
_THROTTLED = 429
_SERVER_ERROR = 500
_GONE = frozenset({403, 404, 410})
"""Signed addresses answer 403 once they have expired."""
_LATER = frozenset({408, 425, _THROTTLED})
_PLAIN = frozenset({"", "identity", "aws-chunked"})
"""Encodings that leave the bytes alone. Stores say `aws-chunked` of objects that were uploaded with it."""

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[list[Address]]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may be fetched. Sizes in bytes, times in seconds."""

    max_bytes: int
    allow_private: bool
    """Whether http, private networks and this machine are fine. Link-local addresses never are."""
    attempts: int = 4
    stall_s: float = 30.0
    """How long no byte may come."""
    total_s: float = 1800.0
    """How long all attempts may take together."""
    first_pause_s: float = 1.0
    """The pause after the first attempt that failed; each later one is twice as long."""
    longest_pause_s: float = 30.0
    """The longest of these pauses, whatever the server asks for."""


@dataclass(frozen=True)
class Fetched:
    """A result on this machine's disk."""

    sha256: str
    bytes: int
    content_type: str
    """As the server said it, without parameters, in lower case; `application/octet-stream` where it said nothing."""


async def addresses_of(host: str, port: int) -> list[Address]:
    """All addresses of a name, or of whatever else the system takes for one, such as `0x7f.1`.

    Raises:
        OSError: there are none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(one[4][0])) for one in found))


async def fetch(  # noqa: D417 - the arguments are those of the engine, but for what is said of them
    download: Download,
    target: Path,
    *,
    engine: str,
    base_url: str,
    limits: Limits,
    resolve: Resolve = addresses_of,
) -> Fetched:
    """Stream a result to `target`. On failure nothing is left there, nor beside it.

    Args:
        base_url: The engine's own address. Where that is on this machine, its results may be so too.

    Raises:
        EngineError: `retry_safe` or `throttled` when it may come later, `expired` when it is gone, `invalid_input` when
            it lies where nothing is fetched from, `auth` when its host wants another key, `provider_fault` when it is
            no result.
        OSError: it cannot be written.
    """
    half = target.with_name(f".{target.name}.{uuid4().hex}.part")
    clock = asyncio.timeout(limits.total_s)
    errand = _Errand(download, half, engine, base_url, limits, resolve)
    try:
        async with clock:
            fetched = await errand.run()
        half.replace(target)
    except TimeoutError:
        if not clock.expired():
            raise
        raise errand.error(ErrorClass.RETRY_SAFE, f"was not here within {limits.total_s:g} s") from None
    finally:
        half.unlink(missing_ok=True)
    return fetched


class _Again(Exception):
    """An attempt failed in a way that another one may not."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class _Hop:
    """One request on the way to a result."""

    url: httpx.URL
    headers: tuple[tuple[str, str], ...]

    @property
    def port(self) -> int:
        return self.url.port if self.url.port is not None else _USUAL_PORTS.get(self.url.scheme, 0)

    def towards(self, location: str) -> _Hop:
        """Where a redirect leads. Headers stay behind for good once it leaves the host that they were meant for."""
        there = replace(self, url=self.url.join(location))
        same = (there.url.scheme, there.url.host, there.port) == (self.url.scheme, self.url.host, self.port)
        return there if same else replace(there, headers=())


class _Errand:
    """The fetching of one result."""

    def __init__(
        self, download: Download, half: Path, engine: str, base_url: str, limits: Limits, resolve: Resolve
    ) -> None:
        self._download = download
        self._half = half
        self._engine = engine
        self._limits = limits
        self._resolve = resolve
        self._at_home = is_loopback(base_url)
        self._base_port = _Hop(httpx.URL(base_url), ()).port
        self._host = ""
        self._pause_s = limits.first_pause_s

    def error(self, error_class: ErrorClass, problem: str, *, retry_after_s: float | None = None) -> EngineError:
        """What is wrong with the result. Names the host and no more of the address."""
        where = f"the result at {self._host[:100]}" if self._host else "the result"
        return EngineError(self._engine, error_class, f"{where} {problem}", retry_after_s=retry_after_s)

    async def run(self) -> Fetched:
        """Try until it is here, or until trying makes no sense."""
        if self._download.url[:5].lower() == "data:":
            content_type, content = await asyncio.to_thread(self._decoded)
            with _Sink(self._half) as sink:
                await asyncio.to_thread(sink.write, content)
            return self._fetched(sink, content_type)
        for attempt in range(1, self._limits.attempts + 1):
            try:
                return await self._attempt()
            except _Again as again:
                if attempt == self._limits.attempts:
                    raise again.error from None
                await self._pause(again.error.retry_after_s)
        raise AssertionError("unreachable: the last attempt returns or raises")  # pragma: no cover

    async def _pause(self, asked_s: float | None) -> None:
        await asyncio.sleep(min(self._limits.longest_pause_s, max(self._pause_s, asked_s or 0.0)))
        self._pause_s *= 2

    async def _attempt(self) -> Fetched:
        hop = _Hop(self._parsed(self._download.url), self._download.headers)
        for _ in range(MOST_REDIRECTS + 1):
            addresses = await self._checked(hop)
            try:
                async with self._opened(hop, addresses) as response:
                    if response.status_code not in _REDIRECTS:
                        return await self._received(response)
                    location = response.headers.get("location", "")
            except (httpx.TransportError, ssl.SSLError) as failure:
                raise self._broken(failure) from None
            try:
                hop = hop.towards(location)
            except httpx.InvalidURL:
                raise self.error(ErrorClass.PROVIDER_FAULT, "redirects to something that is no address") from None
        raise self.error(ErrorClass.PROVIDER_FAULT, f"redirects more than {MOST_REDIRECTS} times")

    # Where from ---------------------------------------------------------------------------------------------------

    def _parsed(self, url: str) -> httpx.URL:
        try:
            return httpx.URL(url)
        except httpx.InvalidURL:
            raise self.error(ErrorClass.PROVIDER_FAULT, "has an address that is none") from None

    async def _checked(self, hop: _Hop) -> list[Address]:
        """The addresses of the next hop, every one of which may be connected to."""
        self._host = hop.url.host
        if hop.url.scheme not in _USUAL_PORTS or not hop.url.host:
            raise self._forbidden("is not at an https address")
        if hop.url.userinfo:
            raise self._forbidden("has a user name in its address")
        if not self._port_is_fine(hop):
            raise self._forbidden(f"is at port {hop.port}, which is for something else")
        try:
            addresses = await self._resolve(hop.url.raw_host.decode("ascii"), hop.port)
        except (OSError, ValueError) as failure:
            problem = f"cannot be reached: the name is not known ({type(failure).__name__})"
            raise _Again(self.error(ErrorClass.RETRY_SAFE, problem)) from None
        for address in addresses:
            self._check(address, hop.url.scheme)
        return addresses

    def _port_is_fine(self, hop: _Hop) -> bool:
        if not 0 < hop.port <= _HIGHEST_PORT:
            return False
        usual = (_USUAL_PORTS[hop.url.scheme], self._base_port)
        return hop.port in usual or hop.port > _HIGHEST_PRIVILEGED or self._limits.allow_private

    def _check(self, address: Address, scheme: str) -> None:
        reach = reach_of(address)
        if reach is Reach.NOWHERE:
            raise self._forbidden(f"is at {address}, which is no host's own address")
        if self._limits.allow_private:
            return
        if reach is Reach.PRIVATE or (reach is Reach.LOOPBACK and not self._at_home):
            raise self._forbidden(f"is at {address}, which is not public; MOLTPIPE_ALLOW_PRIVATE_RESULTS allows it")
        if scheme == "http" and reach is not Reach.LOOPBACK:
            raise self._forbidden("is at an http address, expected https; MOLTPIPE_ALLOW_PRIVATE_RESULTS allows it")

    def _forbidden(self, why: str) -> EngineError:
        return self.error(ErrorClass.INVALID_INPUT, why)

    # The exchange -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _opened(self, hop: _Hop, addresses: list[Address]) -> AsyncIterator[httpx.Response]:
        """The answer of the first of the addresses that takes the connection."""
        headers = httpx.Headers(hop.headers)
        headers["host"] = hop.url.netloc.decode("ascii")
        headers["accept-encoding"] = "identity"
        headers.setdefault("user-agent", "moltpipe")
        timeout = httpx.Timeout(self._limits.stall_s, connect=min(self._limits.stall_s, CONNECT_TIMEOUT_S))
        # Source: https://www.python-httpx.org/advanced/extensions/ ; the certificate is checked against `sni_hostname`.
        extensions = {"sni_hostname": hop.url.raw_host.decode("ascii"), "timeout": timeout.as_dict()}
        async with open_transport() as transport:
            for number, address in enumerate(addresses, start=1):
                there = hop.url.copy_with(host=str(address))
                request = httpx.Request("GET", there, headers=headers, extensions=extensions)
                try:
                    response = await transport.handle_async_request(request)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if number == len(addresses):
                        raise
                    continue
                try:
                    yield response
                finally:
                    await response.aclose()
                return

    def _broken(self, failure: Exception) -> _Again:
        match failure:
            case httpx.ConnectError() | httpx.ConnectTimeout():
                problem = f"cannot be reached: {str(failure) or type(failure).__name__}"
            case httpx.ReadTimeout():
                problem = f"stalled: no byte came for {self._limits.stall_s:g} s"
            case _:
                problem = f"was cut off on the way ({type(failure).__name__})"
        return _Again(self.error(ErrorClass.RETRY_SAFE, problem))

    async def _received(self, response: httpx.Response) -> Fetched:
        self._check_status(response)
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in _PLAIN:
            raise self.error(ErrorClass.PROVIDER_FAULT, f"came encoded as {encoding[:20]}, which nobody asked for")
        content_type = self._media_type(response.headers.get("content-type", ""))
        self._check_size(int(response.headers.get("content-length") or 0))
        waiting = bytearray()
        with _Sink(self._half) as sink:
            async for part in response.aiter_raw():
                waiting += part
                self._check_size(sink.bytes + len(waiting))
                if len(waiting) >= _BLOCK:
                    await asyncio.to_thread(sink.write, bytes(waiting))
                    waiting.clear()
            await asyncio.to_thread(sink.write, bytes(waiting))
        return self._fetched(sink, content_type)

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == _OK:
            return
        answered = f"answered HTTP {status}"
        if status in _LATER or status >= _SERVER_ERROR:
            hint = Reply(status, {k.lower(): v for k, v in response.headers.items()}, b"").retry_after_s()
            later = ErrorClass.THROTTLED if status == _THROTTLED else ErrorClass.RETRY_SAFE
            raise _Again(self.error(later, answered, retry_after_s=hint))
        if status in _GONE:
            raise self.error(ErrorClass.EXPIRED, f"is gone: it {answered}")
        raise self.error(ErrorClass.AUTH if status == _UNAUTHORIZED else ErrorClass.PROVIDER_FAULT, answered)

    # What comes ---------------------------------------------------------------------------------------------------

    def _media_type(self, given: str) -> str:
        kind = given.partition(";")[0].strip().lower()
        if "html" in kind or "json" in kind:
            raise self.error(ErrorClass.PROVIDER_FAULT, f"is {kind[:40]} and not media")
        return kind or "application/octet-stream"

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise self.error(
                ErrorClass.PROVIDER_FAULT, f"is larger than {self._limits.max_bytes} bytes (MOLTPIPE_MAX_RESULT_BYTES)"
            )

    def _fetched(self, sink: _Sink, content_type: str) -> Fetched:
        if sink.bytes == 0:
            raise self.error(ErrorClass.PROVIDER_FAULT, "is empty")
        return Fetched(sink.sha256, sink.bytes, content_type)

    def _decoded(self) -> tuple[str, bytes]:
        """Type and content of a result that lies in its address. Source: RFC 2397; Replicate gives small files so."""
        head, comma, encoded = self._download.url[5:].partition(",")
        kind, *parameters = head.split(";")
        content_type = self._media_type(kind)
        try:
            content = unquote_to_bytes(encoded)
            if parameters and parameters[-1].strip().lower() == "base64":
                self._check_size(len(content) * 3 // 4 - 2)
                content = base64.b64decode(b"".join(content.split()), validate=True)
        except binascii.Error:
            comma = ""
        if not comma:
            raise self.error(ErrorClass.PROVIDER_FAULT, "lies in its address, and cannot be decoded")
        self._check_size(len(content))
        return content_type, content


class _Sink:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        # Buffered on purpose: closing one waits for a write that a cancelled task has left in its thread.
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """The digest of what was written, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, block: bytes) -> None:
        """Append a block."""
        self._digest.update(block)
        self._file.write(block)
        self.bytes += len(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Reach(Enum):
    """From where an address can be reached."""

    PUBLIC = "public"
    PRIVATE = "private"
    """Somebody's own network, or an address that is set aside for documents and tests."""
    LOOPBACK = "loopback"
    NOWHERE = "nowhere"
    """Link-local, where clouds keep their secrets; multicast, broadcast, reserved or unspecified."""


_TRANSLATED = ip_network("64:ff9b::/96")
"""IPv4 as an IPv6-only network's resolver gives it (RFC 6052)."""
_UNICAST = ip_network("2000::/3")
_UNIQUE_LOCAL = ip_network("fc00::/7")
_NOT_PUBLIC = tuple(
    ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "2001:db8::/32", "3fff::/20")
)
"""Set aside, or tunnels that carry an IPv4 address unseen; the tables of older Pythons lack some of them."""
_THIS_NETWORK = ip_network("0.0.0.0/8")


def reach_of(address: Address) -> Reach:
    """From where an address can be reached, seen through the IPv6 spellings of an IPv4 address.

    Source: the IANA special-purpose address registries.
    """
    address = _seen_through(address)
    if address.is_loopback:
        return Reach.LOOPBACK
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return Reach.NOWHERE
    if isinstance(address, IPv4Address):
        nowhere, public = address.is_reserved or address in _THIS_NETWORK, address.is_global
    else:
        nowhere, public = address not in _UNICAST and address not in _UNIQUE_LOCAL, address in _UNICAST
    if nowhere:
        return Reach.NOWHERE
    return Reach.PUBLIC if public and not any(address in network for network in _NOT_PUBLIC) else Reach.PRIVATE


def _seen_through(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address
