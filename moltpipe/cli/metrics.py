"""`moltpipe metrics`: the figures of the studio for Prometheus."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Annotated

import typer

from moltpipe.cli.report import telling
from moltpipe.runtime.ports import LOOPBACK
from moltpipe.runtime.signals import interrupted_once
from moltpipe.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="metrics")(metrics)


def metrics(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any.", min=0, max=65535)] = 9464,
) -> None:
    """Serve figures to Prometheus until Ctrl-C. Reads only: a role that may not write is enough."""
    # Dagster and its neighbours take a second to import, which `--help` need not pay.
    from moltpipe.runtime.metrics import collector, metrics_app  # noqa: PLC0415
    from moltpipe.runtime.services import services  # noqa: PLC0415
    from moltpipe.runtime.webhooks import serving  # noqa: PLC0415

    settings = load_settings(with_keys=False)
    # Not `session()`, which migrates.
    with (
        suppress(KeyboardInterrupt),
        interrupted_once(),
        services(settings) as held,
        telling(settings.log_format) as tell,
        collector(settings, held, tell) as figures,
        serving(metrics_app(figures), host, port) as address,
    ):
        tell(f"figures are served at {address}/metrics (Ctrl-C ends it)")
        while True:
            signal.pause()
