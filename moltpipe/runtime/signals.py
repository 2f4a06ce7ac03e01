"""What the signals that end a program do to us, and when they have to wait.

Here: SIGINT, SIGTERM and SIGHUP of this process. Not here: passing them on to a program (`runtime.foreground`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Turn the first ending signal into KeyboardInterrupt and ignore the others, so that cleaning up is not cut off.

    A SIGHUP that is ignored already stays so: under `nohup` the end of a login must not end us.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    before = {n: signal.signal(n, interrupt) for n in ENDING if not (kept and n == signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let an ending signal wait until the block is over. Only for blocks whose length is bounded.

    The incident: Ctrl-C just as a command had done its work left Postgres and S3 running, with nobody to stop them.
    """
    if threading.current_thread() is not threading.main_thread():
        # Signals go to the main thread, and only there can they be made to wait.
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            os.kill(os.getpid(), came[0])
