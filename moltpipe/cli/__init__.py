"""The `moltpipe` command.

Here: the front door and what every command shares about errors. Exit status 0: done; 1: the work failed;
2: the command was used wrongly; 130: it was interrupted. With `--json`, stdout carries one JSON document and
nothing else.
"""

from __future__ import annotations

import io
import os
import sys

import typer

from moltpipe.cli import (
    adopt,
    alerts,
    demo,
    estimate,
    integrity,
    metrics,
    migrate,
    period,
    prune,
    serve,
    status,
    submit,
    vote,
    webhooks,
    worker,
)
from moltpipe.cli.report import complain
from moltpipe.ledger.database import DatabaseUnavailable
from moltpipe.runtime.background import ServiceError
from moltpipe.runtime.signals import interrupted_once
from moltpipe.runtime.stack import AlreadyUpError, PortTakenError
from moltpipe.settings import SettingsError

_STDOUT = 1
_STDERR = 2

app = typer.Typer(
    name="moltpipe",
    help="Turns a vote into a published limited series.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
serve.register(app)
migrate.register(app)
demo.register(app)
submit.register(app)
estimate.register(app)
vote.register(app)
app.add_typer(period.app, name="period")
status.register(app)
integrity.register(app)
prune.register(app)
adopt.register(app)
alerts.register(app)
webhooks.register(app)
metrics.register(app)
worker.register(app)


def main() -> None:
    """Run the command and turn known failures into one clear line and an exit status.

    SIGTERM and SIGHUP end a command as Ctrl-C does: what it holds is let go of, and services that nobody else
    uses are stopped.
    """
    _open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a title must not fail a command that has done its work.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with interrupted_once():
            app()
    except SettingsError as error:
        complain(str(error))
        sys.exit(2)
    except Exception as error:
        if not _is_known(error):
            raise
        complain(str(error))
        sys.exit(1)


def _is_known(error: Exception) -> bool:
    """Whether the error's own text says all that an operator needs; of any other the traceback is shown."""
    # Alembic takes half a second to import, which `--help` need not pay.
    from moltpipe.ledger.migrate import MigrationRefused  # noqa: PLC0415

    known = (ServiceError, AlreadyUpError, PortTakenError, DatabaseUnavailable, MigrationRefused, OSError)
    return isinstance(error, known)


def _open_standard_streams() -> None:
    """Put the null device where the caller closed stdin, stdout or stderr.

    Otherwise the next file that is opened gets its number: a socket to Postgres would become the output of
    every program that is started.
    """
    opened = os.open(os.devnull, os.O_RDWR)
    while opened <= _STDERR:
        os.set_inheritable(opened, True)
        opened = os.open(os.devnull, os.O_RDWR)
    os.close(opened)
    # Python has none for a descriptor that was closed when it started.
    sys.stdout = sys.stdout or os.fdopen(_STDOUT, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(_STDERR, "w", closefd=False)
