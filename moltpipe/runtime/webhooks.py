"""The server behind `moltpipe webhooks`: verify, write one row into the inbox, answer.

Here: the HTTP that providers see, and the server's life. Not here: what makes an event genuine
(`engines.signatures`), the row (`ledger.inbox`), acting on it (`production.calls` looks into the inbox).

Nothing depends on it: without it jobs are polled, and what it misses is found by the next look. So it refuses whatever
is doubtful, and a provider that has no secret here cannot write at all: the old system took any POST for the truth.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moltpipe.engines.signatures import (
    Forged,
    Notice,
    Unreadable,
    heygen_key,
    heygen_notice,
    replicate_key,
    replicate_notice,
)
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.inbox import record_event
from moltpipe.runtime.stack import PortTakenError, Say
from moltpipe.settings import Settings, SettingsError, variable

MAX_BODY_BYTES = 2 * 1024 * 1024
"""A prediction comes with its input and its logs. What is longer is not read: the job is polled instead."""
BODY_WITHIN_S = 8.0
"""HeyGen gives up after ten seconds."""
_CONNECTIONS = 100
_ENDING_S = 5

_Read = Callable[[bytes, Mapping[str, str], Mapping[str, str], bytes, datetime], Notice | None]


@dataclass(frozen=True)
class Receiver:
    """Where one provider's webhooks come in."""

    provider: str
    key: bytes | None
    """None where no secret is set."""
    read: _Read

    @property
    def secret_variable(self) -> str:
        """The environment variable of its secret."""
        return variable(f"{self.provider}_webhook_secret")


def receivers(settings: Settings) -> tuple[Receiver, ...]:
    """Every provider that can tell us of its jobs.

    Raises:
        SettingsError: a secret cannot be one of its provider.
    """
    replicate, heygen = settings.replicate.webhook_secret, settings.heygen.webhook_secret
    return (
        Receiver("replicate", _key("replicate", replicate, replicate_key), replicate_notice),
        Receiver("heygen", _key("heygen", heygen, heygen_key), heygen_notice),
    )


def webhooks_app(
    providers: tuple[Receiver, ...], database: Database, say: Say, *, body_within_s: float = BODY_WITHIN_S
) -> Starlette:
    """The application: `POST /<provider>` for each, `OPTIONS /heygen`, `GET /healthz`.

    2xx means that the event is in the inbox, or need not be; 401 that it is not genuine; 5xx that the provider should
    send it again.
    """
    desk = _Desk(database, say, body_within_s)
    routes = [
        Route(f"/{one.provider}", partial(desk.receive, one), methods=["POST"], name=one.provider) for one in providers
    ]
    return Starlette(
        routes=[
            *routes,
            # HeyGen asks so before it takes an address, and waits a second, before there is a secret.
            Route("/heygen", _options, methods=["OPTIONS"]),
            Route("/healthz", _healthy, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _refused},
    )


@contextmanager
def serving(app: Starlette, host: str, port: int) -> Iterator[str]:
    """Serve for the length of a block; gives the address. Port 0 takes any.

    Raises:
        PortTakenError: somebody else listens there.
        OSError: the host is none of this machine.
    """
    listener = _listen(host, port)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listener.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_ENDING_S,
        )
    )
    # In a thread of its own uvicorn leaves signals alone, so that this command ends as every other one does.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="webhooks", daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def introduction(settings: Settings, providers: tuple[Receiver, ...], address: str) -> list[str]:
    """What the operator has to know: where it listens, and what to tell which provider."""
    public = settings.webhooks_url
    lines = [f"webhooks are taken at {address} (Ctrl-C ends it)"]
    if public is None:
        lines.append(f"{variable('webhooks_url')} is not set: no provider is told where to send them")
    for one in providers:
        path = f"{public or address}/{one.provider}"
        if one.key is None:
            lines.append(f"{path} refuses everything: {one.secret_variable} is not set")
        elif one.provider == "replicate":
            lines.append(f"{path}?call=… goes along with every prediction: nothing to register")
        else:
            lines.append(f"{path} is the address to register at HeyGen")
    return lines


class _Desk:
    """Takes webhooks in."""

    def __init__(self, database: Database, say: Say, body_within_s: float) -> None:
        self._database = database
        self._say = say
        self._body_within_s = body_within_s
        self._said = ""

    async def receive(self, provider: Receiver, request: Request) -> Response:
        if provider.key is None:
            raise self._refusal(503, provider, f"{provider.secret_variable} is not set")
        body = await _whole(request, self._body_within_s)
        try:
            notice = provider.read(provider.key, request.headers, request.query_params, body, datetime.now(UTC))
        except Forged as forged:
            raise self._refusal(401, provider, str(forged)) from None
        except Unreadable as unreadable:
            raise self._refusal(400, provider, str(unreadable)) from None
        if notice is None:
            return JSONResponse({"recorded": False})
        try:
            recorded = await asyncio.to_thread(self._record, notice)
        except DatabaseUnavailable as unavailable:
            self._tell(f"{provider.provider}: {unavailable}")
            raise HTTPException(503, "the inbox is not available: send it again") from None
        self._said = ""
        return JSONResponse({"recorded": recorded})

    def _record(self, notice: Notice) -> bool:
        with self._database.begin() as db:
            return record_event(db, notice.provider, notice.event_id, notice.external_id, notice.call_id, notice.status)

    def _refusal(self, status: int, provider: Receiver, why: str) -> HTTPException:
        self._tell(f"{provider.provider}: a webhook was refused ({status}): {why}")
        return HTTPException(status, why)

    def _tell(self, line: str) -> None:
        """Once, and not for every request: anybody can send some."""
        if line != self._said:
            self._said = line
            self._say(line)


async def _whole(request: Request, within_s: float) -> bytes:
    """The body, unless it is too long or too slow."""
    too_long = HTTPException(413, f"expected at most {MAX_BODY_BYTES} bytes", {"connection": "close"})
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise too_long
    except TimeoutError:
        raise HTTPException(408, f"expected the whole body within {within_s:g} s", {"connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body broke off") from None
    return bytes(body)


async def _options(_request: Request) -> Response:
    return Response(headers={"allow": "POST, OPTIONS"})


async def _healthy(_request: Request) -> Response:
    return JSONResponse({"ok": True})


async def _refused(_request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, HTTPException)  # noqa: S101 - Starlette calls it for nothing else
    return JSONResponse({"error": refusal.detail}, refusal.status_code, refusal.headers)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(port) from None
        raise


def _key(provider: str, secret: SecretStr | None, key_of: Callable[[str], bytes]) -> bytes | None:
    if secret is None:
        return None
    try:
        return key_of(secret.get_secret_value())
    except ValueError as error:
        raise SettingsError([f"{variable(f'{provider}_webhook_secret')}=(hidden): {error}"]) from None
