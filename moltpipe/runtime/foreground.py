"""What `moltpipe up` and `moltpipe exec` do at the terminal: wait for an end, pass on signals and statuses.

Here: signals and exit statuses. Not here: what runs (`runtime.stack`), how it is told to the operator (`cli`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

from moltpipe.runtime.house import open_house
from moltpipe.runtime.signals import ENDING, interrupted_once
from moltpipe.runtime.stack import Say, stack
from moltpipe.settings import Settings

_NOT_EXECUTABLE = 126
_NOT_FOUND = 127
_KILLED = 128


def run_up(settings: Settings, port: int | None = None, *, say: Say) -> None:
    """Keep the stack up until SIGINT, SIGTERM or SIGHUP; then end everything, in bounded time.

    Raises:
        AlreadyUpError, PortTakenError, ServiceError: as `runtime.stack.stack`.
    """
    with suppress(KeyboardInterrupt), interrupted_once(), stack(settings, port, say=say) as running:
        say(f"moltpipe is up: {running.url} (Ctrl-C ends it)")
        try:
            while True:
                signal.pause()
        finally:
            say("ending: runs give back what they have in hand; this may take half a minute")


def exec_program(settings: Settings, argv: Sequence[str]) -> int:
    """Run a program (not empty) with the services up and the environment set, and give its exit status.

    127 when there is no such program, 126 when it cannot be executed, 128 and the signal's number when it was killed.
    Where no service is ours to stop, the program takes the place of this process, and nothing is left to pass on: in a
    container for each of Dagster's programs, a parent that only waits would cost eighty megabytes each.
    """
    if settings.database_url is not None and settings.s3_endpoint_url is not None:
        with open_house(settings) as house:
            environ = house.environ()
        # Python ignores it, and a program that takes this process over would go on doing so.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        try:
            os.execvpe(argv[0], list(argv), environ)  # noqa: S606 - running it is the purpose, without a shell
        except OSError as error:
            return _not_started(argv[0], error)
    with interrupted_once(), open_house(settings) as house, _Forwarding() as signals:
        try:
            # In our own process group: what is typed at the terminal reaches it as if it had been started there.
            program = subprocess.Popen(list(argv), env=house.environ())  # noqa: S603 - running it is the purpose
        except OSError as error:
            return _not_started(argv[0], error)
        signals.go_to(program)
        status = program.wait()
    return status if status >= 0 else _KILLED - status


def _not_started(program: str, error: OSError) -> int:
    """Say why, and the status of a shell for it."""
    is_missing = isinstance(error, FileNotFoundError)
    sys.stderr.write(f"moltpipe exec: {program}: {'not found' if is_missing else error.strerror}\n")
    return _NOT_FOUND if is_missing else _NOT_EXECUTABLE


class _Forwarding:
    """Sends on to a program what was sent to us, for the length of a block."""

    def __init__(self) -> None:
        self._program: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []

    def go_to(self, program: subprocess.Popen[bytes]) -> None:
        """From now on to this program, beginning with what came before it was started."""
        self._program = program
        for number in self._early:
            program.send_signal(number)

    def __enter__(self) -> Self:
        # Functions, not SIG_IGN: a program would inherit that one and be deaf to Ctrl-C.
        self._before = {number: signal.signal(number, self._receive) for number in ENDING}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._program is None:
            self._early.append(number)
        elif number != signal.SIGINT or not _typed_at_our_terminal():
            self._program.send_signal(number)


def _typed_at_our_terminal() -> bool:
    """Whether a SIGINT is Ctrl-C, which the terminal has sent to the program as well."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
