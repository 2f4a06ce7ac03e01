"""Bringing a hosted engine's result home: fetched, looked at, and laid into the store as it came.

Here: what happens between "done" at the provider and `ingested` on the row. Not here: the fetching itself
(`engines.transfer`), conforming (the stages). Providers delete results, one of them after an hour, so this is part
of the call and not a later step.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from moltpipe.engines import transfer
from moltpipe.engines.protocols import Download
from moltpipe.engines.transfer import Limits
from moltpipe.media.errors import MediaError
from moltpipe.media.examine import examine
from moltpipe.media.offload import offload_to
from moltpipe.production.line import Line
from moltpipe.studio.keys import arrival_key
from moltpipe.studio.records import Stored

_DESKS = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="arrivals")
"""Threads of its own: forty results that are looked at in everybody's would keep the heartbeat out of them."""


class NotMedia(Exception):
    """A result is not what the request was for."""


async def fetch(download: Download, target: Path, engine: str, base_url: str, limits: Limits) -> Path:
    """Stream a result to a local file, whatever its size.

    Raises:
        EngineError: it cannot or must not be fetched; nothing is left at the target.
    """
    await transfer.fetch(download, target, engine=engine, base_url=base_url, limits=limits)
    return target


async def take_in(line: Line, call_id: UUID, operation: str, file: Path) -> dict[str, Any]:
    """Look at a result and put it into the store.

    Returns:
        Where it lies, for the call's row.

    Raises:
        NotMedia: it is not what was asked for.
    """

    def take() -> dict[str, Any]:
        check_media(file, operation)
        return store_arrival(line, call_id, file)

    return await offload_to(_DESKS, take)


def check_media(file: Path, operation: str) -> None:
    """Make sure that a result decodes from its first byte to its last and holds what was asked for.

    A provider's result is a stranger's file: it is read by a process of its own, under limits.

    Raises:
        NotMedia: it is empty, broken, cut off, or has no picture or sound.
    """
    try:
        found = examine(file).decoded
    except MediaError as error:
        raise NotMedia(f"the result cannot be used: {error}") from error
    if operation == "film" and not found.frames:
        raise NotMedia("the result has no picture")
    if operation != "film" and not found.samples:
        raise NotMedia("the result has no sound")


def store_arrival(line: Line, call_id: UUID, file: Path) -> dict[str, Any]:
    """Put a result into the store under its call.

    Returns:
        Where it lies, for the call's row.
    """
    stored = line.store.put(file, lambda sha256: arrival_key(call_id, sha256))
    return {"key": stored.key, "sha256": stored.sha256, "bytes": stored.bytes}


def stored_arrival(line: Line, arrival: dict[str, Any]) -> Path:
    """Fetch a result that an earlier process laid into the store; the caller removes it."""
    stored = Stored(key=arrival["key"], sha256=arrival["sha256"], bytes=arrival["bytes"])
    # A name of its own: several who need the same result remove it when they are done.
    return line.store.get(stored, line.workdir / f"{uuid4().hex}-{Path(stored.key).name}")
