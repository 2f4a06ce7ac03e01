"""`dagster api grpc` with a faster start for its runs: each begins as a copy of a process that has imported everything.

Here: how a run's process begins. Not here: what serves (`dagster._cli.api`), who starts this (`runtime.stack`, the
image).

Dagster begins each run in a fresh interpreter (multiprocessing's `spawn`, in `dagster._grpc.server`). Of the four
seconds until its first step three are imports, the same ones each time: five episodes that begin at once kept two cores
busy for a quarter of a minute before any provider was asked for anything. With `forkserver`
(https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods; Python's own choice on Linux from
3.14 on, and an option of Dagster's multiprocess executor) one process imports, does nothing else, and is copied. It has
no connection, client or thread of Python's that a copy could get: definitions open nothing when they load.

Forking the code server itself was the alternative: it has threads of gRPC, whose locks a copy would hold for ever.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing import forkserver
from typing import Any

from dagster._cli.api import api_cli
from dagster._grpc import server

from moltpipe.settings import load_settings

PRELOADED = (
    "dagster._grpc.impl",
    "moltpipe.runtime.instance_storage",
    # What is imported where it is used, so that other processes need not have it.
    "anyio._backends._asyncio",
    "boto3",
    "httpcore",
    "pandas",
    "psycopg",
    "psycopg2",
)
"""What a run needs beside the definitions. One that lacks a module here imports it itself, and begins later."""


class CodeServer(server.DagsterApiServer):
    """Dagster's server with another way of starting a process. The attribute is private, and the version pinned."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - whatever Dagster gives its own
        super().__init__(*args, **kwargs)
        self._mp_ctx = multiprocessing.get_context("forkserver")  # type: ignore[assignment] # Dagster writes no type


def main(arguments: Sequence[str]) -> None:
    """Serve as `dagster api grpc ARGUMENTS…` does, until told to end. The definitions are named by `--module-name`.

    On Linux alone: on macOS, Python warns, a copy may crash. And where runs begin elsewhere, nothing is kept ready.
    """
    if sys.platform == "linux" and load_settings(with_keys=False).launcher == "local":
        forkserver.set_forkserver_preload([*PRELOADED, arguments[list(arguments).index("--module-name") + 1]])
        # Now rather than with the first run, for which somebody waits.
        forkserver.ensure_running()
        server.DagsterApiServer = CodeServer  # type: ignore[misc] # where the command looks for it
    api_cli.main(["grpc", *arguments], prog_name="dagster api")


if __name__ == "__main__":
    main(sys.argv[1:])
