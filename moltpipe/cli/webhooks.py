"""`moltpipe webhooks`: the server that providers tell when a job is done."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Annotated

import typer

from moltpipe.cli.report import telling
from moltpipe.cli.session import session
from moltpipe.runtime.ports import LOOPBACK
from moltpipe.runtime.signals import interrupted_once


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="webhooks")(webhooks)


def webhooks(
    host: Annotated[str, typer.Option(help="Address to listen on, for a proxy or tunnel in front.")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any.", min=0, max=65535)] = 3080,
) -> None:
    """Take webhooks of providers until Ctrl-C, so that results come sooner. Polling goes on without it."""
    # uvicorn and Starlette take a tenth of a second to import, which `--help` need not pay.
    from moltpipe.runtime.webhooks import introduction, receivers, serving, webhooks_app  # noqa: PLC0415

    with (
        suppress(KeyboardInterrupt),
        interrupted_once(),
        session(with_keys=False) as opened,
        telling(opened.settings.log_format) as tell,
    ):
        providers = receivers(opened.settings)
        with serving(webhooks_app(providers, opened.database, tell), host, port) as address:
            for line in introduction(opened.settings, providers, address):
                tell(line)
            while True:
                signal.pause()
