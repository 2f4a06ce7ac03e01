"""File locks between processes: who may start and stop services, who uses them, who lives.

Here: `flock` with words. Not here: what the locks protect (`runtime.services`, `runtime.stack`).

`flock` and not a pid file: the kernel lets go of it when its holder dies, however it dies, and a lock
that a child inherits says for sure that the child lives, also across containers that share a folder and
see each other's pids as free.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

_POLL_S = 0.05


class FileLock:
    """One open lock file. Two of the same path exclude each other, also within one process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def take(self) -> None:
        """Wait for it, alone."""
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def share(self) -> None:
        """Wait for it, together with others that share it."""
        fcntl.flock(self.fd, fcntl.LOCK_SH)

    def try_take(self, within_s: float = 0) -> bool:
        """Whether it could be taken, alone, within a time in seconds."""
        until = time.monotonic() + within_s
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    return False
                time.sleep(_POLL_S)
            else:
                return True

    def release(self) -> None:
        """Give it back, but keep the file open."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file. A child that inherited the descriptor keeps the lock."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold the lock of `path` alone for a block."""
    with FileLock(path) as lock:
        lock.take()
        yield
