"""`moltpipe worker`: takes runs from Celery's broker, on this machine or on any other."""

from __future__ import annotations

import os
import socket
import sys
from typing import Annotated

import typer

from moltpipe.cli.report import telling
from moltpipe.runtime.foreground import exec_program
from moltpipe.settings import Settings, SettingsError, load_settings, variable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="worker")(worker)


def worker(
    at_once: Annotated[int | None, typer.Option(help="Runs at once; as many as this machine has cores.", min=1)] = None,
    name: Annotated[
        str | None, typer.Option(help="Its name before the @ and the host's: two on one host need two.")
    ] = None,
) -> None:
    """Carry out runs that Celery hands out, until SIGTERM or Ctrl-C (runs that are at work go on elsewhere)."""
    settings = load_settings()
    if settings.launcher != "celery":
        raise SettingsError([f"{variable('launcher')}={settings.launcher!r}: expected 'celery', for a worker"])
    places = at_once or os.cpu_count() or 1
    with telling(settings.log_format) as say:
        say(_introduction(settings, places))
    sys.exit(exec_program(settings, _celery(places, name)))


def _introduction(settings: Settings, places: int) -> str:
    addresses = {"Postgres": settings.database_url, "S3": settings.s3_endpoint_url}
    ours = [service for service, address in addresses.items() if address is None]
    if ours:
        return (
            f"a worker for {places} runs at once, on the embedded {' and '.join(ours)} of {settings.data_dir}:"
            " workers of other machines cannot share that"
        )
    return f"a worker for {places} runs at once"


def _celery(places: int, name: str | None) -> list[str]:
    """Celery's own program. Its workers need not know each other; a worker's pool is processes, for each run one."""
    return [
        sys.executable, "-m", "celery", "--quiet", "--app", "moltpipe.runtime.celery_worker", "worker",
        "--pool", "prefork", "--concurrency", str(places), "--hostname", f"{name or 'moltpipe'}@{socket.gethostname()}",
        "--without-gossip", "--without-mingle", "--loglevel", "INFO",
    ]  # fmt: skip
