"""The `moltpipe` command.

Here: the front door and what every command shares about errors. Exit status 0: done; 1: the work failed;
2: the command was used wrongly. With `--json`, stdout carries one JSON document and nothing else.
"""

from __future__ import annotations

import sys

import typer

from moltpipe.cli import demo, integrity, period, serve, status, submit, vote
from moltpipe.cli.report import complain
from moltpipe.ledger.database import DatabaseUnavailable
from moltpipe.runtime.background import ServiceError
from moltpipe.runtime.stack import AlreadyUpError, PortTakenError
from moltpipe.settings import SettingsError
from moltpipe.store import StoreError

app = typer.Typer(
    name="moltpipe",
    help="Turns a vote into a published limited series.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
serve.register(app)
demo.register(app)
submit.register(app)
vote.register(app)
app.add_typer(period.app, name="period")
status.register(app)
integrity.register(app)


def main() -> None:
    """Run the command and turn known failures into one clear line and an exit status."""
    try:
        app()
    except SettingsError as error:
        complain(str(error))
        sys.exit(2)
    except (ServiceError, AlreadyUpError, PortTakenError, DatabaseUnavailable, StoreError) as error:
        complain(str(error))
        sys.exit(1)
