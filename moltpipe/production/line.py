"""The production line: what every stage works with.

Here: the bundle of ledger, store, crew and house profile, and how it is opened from the settings. Not
here: what the stages do with it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from moltpipe.engines import registry
from moltpipe.engines.protocols import Camera, Composer, Screenwriter, Voice
from moltpipe.ledger.database import Database
from moltpipe.settings import Settings
from moltpipe.store import Store
from moltpipe.studio.profiles import Profile


@dataclass(frozen=True)
class Crew:
    """The engines of a deployment, one of each kind; no composer means no music."""

    screenwriter: Screenwriter
    voice: Voice
    camera: Camera
    composer: Composer | None


@dataclass(frozen=True)
class Line:
    """Everything a stage needs, opened once per process."""

    database: Database
    store: Store
    crew: Crew
    profile: Profile
    media_url: str | None
    """Address under which a browser finds the objects of the bucket, for links; None when there is none."""
    workdir: Path
    """Scratch space of this process; what lies here may be lost at any time."""
    lease: timedelta
    heartbeat: timedelta
    calls_at_once: int
    """Calls in flight per engine, over all processes."""
    cuts_at_once: int
    """FFmpeg programs that one stage of this process runs side by side."""

    def desk(self) -> asyncio.Semaphore:
        """A fresh gate for work that keeps a core busy. Not kept: a semaphore belongs to one event loop."""
        return asyncio.Semaphore(self.cuts_at_once)


@contextmanager
def open_line(settings: Settings, store: Store) -> Iterator[Line]:
    """Open the line for one process and clear its scratch space afterwards.

    Raises:
        DatabaseUnavailable: at the first use, not here: nothing connects before it must.
    """
    if settings.database_url is None:
        raise ValueError("MOLTPIPE_DATABASE_URL is not set: run through `moltpipe up` or `moltpipe exec -- …`")
    scratch = settings.data_dir / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url.get_secret_value())
    with tempfile.TemporaryDirectory(dir=scratch, prefix="line-") as folder:
        workdir = Path(folder)
        try:
            yield Line(
                database=database,
                store=store,
                crew=Crew(
                    screenwriter=registry.screenwriter(settings, workdir),
                    voice=registry.voice(settings, workdir),
                    camera=registry.camera(settings, workdir),
                    composer=registry.composer(settings, workdir),
                ),
                profile=settings.profile,
                media_url=settings.media_url,
                workdir=workdir,
                lease=timedelta(seconds=settings.lease_s),
                heartbeat=timedelta(seconds=settings.heartbeat_s),
                calls_at_once=settings.takes_at_once,
                cuts_at_once=settings.takes_at_once,
            )
        finally:
            database.dispose()
