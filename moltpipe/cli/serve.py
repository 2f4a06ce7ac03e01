"""`moltpipe up` and `moltpipe exec`: the processes, and any program beside them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from moltpipe.cli.report import telling
from moltpipe.cli.session import tell_of_new_studio
from moltpipe.runtime.foreground import exec_program, run_up
from moltpipe.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="up")(up)
    app.command(
        name="exec",
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )(exec_)


def up(
    port: Annotated[
        int | None, typer.Option(help="Port of the UI on loopback; 3000 or the next free one.", min=1, max=65535)
    ] = None,
) -> None:
    """Start embedded services where no URL is set, migrate, and run webserver and daemon until Ctrl-C."""
    settings = load_settings()
    with telling(settings.log_format) as say:
        run_up(settings, port, say=say)


def exec_(
    program: Annotated[
        list[str], typer.Argument(metavar="CMD", help="The program and its arguments, best after a `--`.")
    ],
) -> None:
    """Run a program with the services up and the environment set, and pass on its exit status."""
    # Not asked for the keys of engines: in a deployment webserver and daemon run through it, and are not given any.
    settings = load_settings(with_keys=False)
    tell_of_new_studio(settings)
    sys.exit(exec_program(settings, program))
