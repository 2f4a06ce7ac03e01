"""The production line: what every stage works with.

Here: the bundle of ledger, store, crew and house profile, and how it is opened from the settings. Not
here: what the stages do with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from moltpipe.engines import registry
from moltpipe.engines.protocols import Camera, Composer, Screenwriter, Voice
from moltpipe.engines.transfer import Limits
from moltpipe.ledger.database import Database
from moltpipe.ledger.spending import NO_CAPS, Caps
from moltpipe.media import encoders
from moltpipe.media.cores import usable_cores
from moltpipe.settings import Settings, SettingsError
from moltpipe.store import Store
from moltpipe.studio.cameras import camera_for
from moltpipe.studio.finish import HOUSE_FINISH, Finish
from moltpipe.studio.profiles import Profile
from moltpipe.studio.records import Shot

if TYPE_CHECKING:
    from moltpipe.production.cuts import Print

SCRATCH_LASTS_S = 2 * 24 * 3600
"""No run lasts so long; files in its scratch space come and go, so the folder's age is that of its last work."""
RESULT_LIMITS = Limits(max_bytes=2 * 1024**3, allow_private=False)


@dataclass(frozen=True)
class Crew:
    """The engines of a deployment, one of each kind; no composer means no music."""

    screenwriter: Screenwriter
    voice: Voice
    camera: Camera
    composer: Composer | None
    second_camera: str = "animatic"
    """Films what the camera cannot."""
    other_camera: Callable[[str], Camera] | None = None
    """Opens a camera by its name: a shot's script may ask for one that is not the house's."""

    def camera_for(self, shot: Shot, *, voiced: bool) -> Camera:
        """The camera that films a shot.

        Raises:
            SettingsError: the shot's script asks for a camera that the settings give no key or address for.
        """
        name = camera_for(shot, voiced=voiced, camera=self.camera.name, second_camera=self.second_camera)
        if name == self.camera.name or self.other_camera is None:
            return self.camera
        return self.other_camera(name)


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
    encoder_threads: int | None = None
    """Threads of each encoder that works at a desk; None leaves them to it."""
    caps: Caps = NO_CAPS
    """What hosted engines may cost."""
    result_limits: Limits = RESULT_LIMITS
    """What is fetched from hosted engines, and from where."""
    webhooks_url: str | None = None
    """Public address of `moltpipe webhooks`; None means that hosted engines are polled and nothing else."""
    finish: Finish = HOUSE_FINISH
    cut_ahead: dict[tuple[int, str], Print] = field(default_factory=dict)
    """Cuts made while others were still being filmed, by variant number and ingredients; they lie in `workdir`."""

    def desk(self) -> asyncio.Semaphore:
        """A fresh gate for work that keeps a core busy. Not kept: a semaphore belongs to one event loop."""
        return asyncio.Semaphore(self.cuts_at_once)


def crew(settings: Settings, workdir: Path) -> Crew:
    """The engines that the settings name; a camera that only a shot asks for is opened when it is needed."""

    @cache
    def other_camera(name: str) -> Camera:
        lacking = settings.lacking(name)
        if lacking is not None:
            raise SettingsError([f"{lacking}, as a shot's script asks for {name}"])
        return registry.camera(settings, workdir, name)

    return Crew(
        screenwriter=registry.screenwriter(settings, workdir),
        voice=registry.voice(settings, workdir),
        camera=registry.camera(settings, workdir, settings.camera),
        composer=registry.composer(settings, workdir),
        second_camera=settings.second_camera,
        other_camera=other_camera,
    )


def finish_of(settings: Settings) -> Finish:
    """The finish of a deployment."""
    return Finish(
        loudness_lufs=settings.loudness_lufs,
        burned_captions=settings.captions == "burned",
        clip_sound=settings.clip_sound != "drop",
        paid_clip_sound=settings.clip_sound == "buy",
        ambience=settings.ambience == "synthetic",
    )


@contextmanager
def open_line(settings: Settings, store: Store) -> Iterator[Line]:
    """Open the line for one process and clear its scratch space afterwards.

    Raises:
        DatabaseUnavailable: at the first use, not here: nothing connects before it must.
    """
    if settings.database_url is None:
        raise ValueError("MOLTPIPE_DATABASE_URL is not set: run through `moltpipe up` or `moltpipe exec -- …`")
    profile = replace(settings.profile, fit=settings.fit)
    profile = replace(profile, encoder=encoders.chosen(settings.encoder, profile))
    size = encoders.desk_size(usable_cores(), at_most=settings.takes_at_once)
    scratch = settings.data_dir / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    _sweep(scratch)
    database = Database(settings.database_url.get_secret_value())
    with tempfile.TemporaryDirectory(dir=scratch, prefix="line-") as folder:
        workdir = Path(folder)
        try:
            yield Line(
                database=database,
                store=store,
                crew=crew(settings, workdir),
                profile=profile,
                media_url=settings.media_url,
                workdir=workdir,
                lease=timedelta(seconds=settings.lease_s),
                heartbeat=timedelta(seconds=settings.heartbeat_s),
                calls_at_once=settings.takes_at_once,
                cuts_at_once=size.at_once,
                encoder_threads=size.threads,
                caps=Caps.of(settings),
                result_limits=Limits(max_bytes=settings.max_result_bytes, allow_private=settings.allow_private_results),
                webhooks_url=settings.webhooks_url,
                finish=finish_of(settings),
            )
        finally:
            database.dispose()


def _sweep(scratch: Path) -> None:
    """Remove what processes that were killed have left, once nobody can be at work in it any more."""
    for folder in scratch.glob("line-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > SCRATCH_LASTS_S:
                shutil.rmtree(folder, ignore_errors=True)
