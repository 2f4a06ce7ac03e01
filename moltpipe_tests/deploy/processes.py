"""Programs that a test starts and ends: a store, a proxy, a webserver."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from moltpipe.runtime.ports import free_ports

__all__ = ["Answers", "free_ports", "running"]

_READY_WITHIN_S = 120.0
_LOOK_S = 0.05


@dataclass(frozen=True)
class Answers:
    """Something speaks HTTP at an address, whatever it says."""

    url: str
    status: int | None = None
    """The status that it must say, or any."""
    says: str = ""
    """What must stand in the answer."""

    def __call__(self) -> bool:
        try:
            # Over TLS the test's own certificate, which nobody has signed.
            said = httpx.get(self.url, timeout=5, trust_env=False, verify=False)  # noqa: S501
        except httpx.HTTPError:
            return False
        return self.status in (None, said.status_code) and self.says in said.text


@contextmanager
def running(command: Sequence[str], environ: Mapping[str, str], log: Path, *, until: Answers) -> Iterator[int]:
    """A program for the length of a block, ready when it begins; gives its pid."""
    with log.open("wb") as output:
        program = subprocess.Popen(
            list(command), env=dict(environ), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            deadline = time.monotonic() + _READY_WITHIN_S
            while not until():
                assert program.poll() is None, log.read_text(errors="replace")[-2000:]
                assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
                time.sleep(_LOOK_S)
            yield program.pid
        finally:
            program.terminate()
            try:
                program.wait(30)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
