"""Run a program that ends when we do: `tether.py LIFELINE_FD GRACE_S PROGRAM ARG...`.

Run by its path with the standard library alone, as the leader of a session. The program runs under it in a
process group of its own. It is ended, with all that it started, when it is told to end (SIGTERM), when the
lifeline closes (a pipe whose other end only the supervisor holds: the kernel closes it, however that one
dies), and what it leaves behind is ended when it exits by itself.

The rejected alternative is PR_SET_PDEATHSIG alone: it reaches the program and not the code server's run
workers, it is bound to the thread that forked, and it is only on Linux.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_AFTER_TERM_S = 5
_POLL_S = 0.05


def _die_with_parent() -> None:
    """Against the death of this very process, which nobody could forward any more."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _signal_group(group: int, number: signal.Signals) -> bool:
    """Whether anybody was left to signal."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def _clear_group(group: int) -> None:
    """End whatever is left of the group: asked first, then by force."""
    until = time.monotonic() + _AFTER_TERM_S
    left = _signal_group(group, signal.SIGTERM)
    while left and time.monotonic() < until:
        time.sleep(_POLL_S)
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
    _signal_group(group, signal.SIGKILL)


def keep(lifeline: int, grace_s: float, command: list[str]) -> int:
    """Run the command to its end and give its exit status, 128 and the signal's number when it was killed."""
    ending = threading.Event()
    # Before the start: a signal in between must not leave the program without us.
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    # A function, not SIG_IGN, which the program would inherit: Dagster makes its SIGTERM do what SIGINT does, and a
    # shell without job control starts us with SIGINT ignored, so a code server would be deaf to both.
    signal.signal(signal.SIGINT, lambda *_: None)
    program = subprocess.Popen(  # noqa: S603 - the supervisor's own command, no shell
        command,
        process_group=0,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - there is no second thread yet
    )

    def end_when_told() -> None:
        ending.wait()
        # First the program alone: a code server lets its run workers finish when it is asked to end.
        program.terminate()
        with suppress(subprocess.TimeoutExpired):
            program.wait(grace_s)
        _clear_group(program.pid)

    def watch_lifeline() -> None:
        os.read(lifeline, 1)
        ending.set()

    threading.Thread(target=end_when_told, daemon=True).start()
    threading.Thread(target=watch_lifeline, daemon=True).start()
    status = program.wait()
    _clear_group(program.pid)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
