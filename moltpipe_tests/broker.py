"""A Redis of the test's own, as a broker for Celery: on a free port, with nothing on disk, gone with the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from moltpipe.runtime.ports import LOOPBACK, free_ports

_WITHIN_S = 20.0


@contextmanager
def a_broker(folder: Path) -> Iterator[str]:
    """Its address. Skips the test where an unprivileged user has no redis-server; root is expected to have it."""
    program = shutil.which("redis-server")
    if program is None:
        said = "redis-server is missing: install the Debian package redis-server (as root, `make test` does)"
        if os.geteuid() == 0:
            pytest.fail(said)
        pytest.skip(said)
    port = free_ports(1)[0]
    command = [
        program,
        "--port",
        str(port),
        "--bind",
        LOOPBACK,
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(folder),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            _await(server, port)
            yield f"redis://{LOOPBACK}:{port}/0"
        finally:
            server.terminate()


def _await(server: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + _WITHIN_S
    with redis.Redis(host=LOOPBACK, port=port) as client:
        while server.poll() is None and time.monotonic() < until:
            with suppress(redis.ConnectionError):
                client.ping()
                return
            time.sleep(0.02)
    raise AssertionError(f"redis-server does not answer (status {server.poll()})")
