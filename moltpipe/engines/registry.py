"""Engines by the names that the settings know them by.

Here: one line per engine. Not here: what an engine needs to start (its module), which one is chosen
(`settings`). A new engine is a module and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from moltpipe.engines import silence
from moltpipe.engines.animatic import Animatic
from moltpipe.engines.chat import Chat
from moltpipe.engines.elevenlabs import Elevenlabs
from moltpipe.engines.espeak import Espeak
from moltpipe.engines.heygen import Heygen
from moltpipe.engines.ltx2 import Ltx2
from moltpipe.engines.musicgen import Musicgen
from moltpipe.engines.openai import Openai
from moltpipe.engines.outline import Outline
from moltpipe.engines.protocols import Camera, Composer, Screenwriter, Voice
from moltpipe.engines.replicate import Replicate
from moltpipe.engines.stock import Stock
from moltpipe.engines.veo import Veo
from moltpipe.settings import Settings, variable

EngineT = TypeVar("EngineT")
Maker = Callable[[Settings, Path], EngineT]


def _answers(settings: Settings) -> Path:
    """Where answers that were paid for are kept until they are recorded: not in the scratch space."""
    return settings.data_dir / "answers"


SCREENWRITERS: Mapping[str, Maker[Screenwriter]] = {
    "outline": lambda _, workdir: Outline(workdir),
    "chat": lambda settings, _: Chat(settings.chat, answers=_answers(settings)),
}
VOICES: Mapping[str, Maker[Voice]] = {
    "espeak": lambda _, workdir: Espeak(workdir),
    "elevenlabs": lambda settings, workdir: Elevenlabs(
        settings.elevenlabs, answers=_answers(settings), workdir=workdir
    ),
    "openai": lambda settings, workdir: Openai(settings.openai, answers=_answers(settings), workdir=workdir),
}
CAMERAS: Mapping[str, Maker[Camera]] = {
    "animatic": lambda _, workdir: Animatic(workdir),
    "ltx2": lambda settings, workdir: Ltx2(settings.ltx2, answers=_answers(settings), workdir=workdir),
    "replicate": lambda settings, _: Replicate(settings.replicate),
    "veo": lambda settings, _: Veo(settings.veo),
    "heygen": lambda settings, _: Heygen(settings.heygen),
    "stock": lambda settings, _: Stock(settings.stock),
}
COMPOSERS: Mapping[str, Maker[Composer | None]] = {
    "none": lambda _, workdir: silence.no_composer(workdir),
    "musicgen": lambda settings, _: Musicgen(settings.musicgen, settings.replicate),
}


class UnknownEngine(ValueError):
    """A setting names an engine that there is not. The text lists those that there are."""

    def __init__(self, setting: str, name: str, there_are: tuple[str, ...]) -> None:
        super().__init__(f"{variable(setting)}={name!r} is not an engine: expected one of {', '.join(there_are)}")
        self.setting = setting
        self.name = name
        self.there_are = there_are


def screenwriter(settings: Settings, workdir: Path) -> Screenwriter:
    """The screenwriter of the settings, with `workdir` for its files.

    Raises:
        UnknownEngine: there is none of that name.
    """
    return _named("screenwriter", settings.screenwriter, SCREENWRITERS)(settings, workdir)


def voice(settings: Settings, workdir: Path) -> Voice:
    """The voice of the settings.

    Raises:
        UnknownEngine: there is none of that name.
    """
    return _named("voice", settings.voice, VOICES)(settings, workdir)


def camera(settings: Settings, workdir: Path, name: str | None = None) -> Camera:
    """The camera of the settings, or the one of this name.

    Raises:
        UnknownEngine: there is none of that name.
    """
    return _named("camera", name or settings.camera, CAMERAS)(settings, workdir)


def composer(settings: Settings, workdir: Path) -> Composer | None:
    """The composer of the settings; None means that there is no music.

    Raises:
        UnknownEngine: there is none of that name.
    """
    return _named("composer", settings.composer, COMPOSERS)(settings, workdir)


def _named(setting: str, name: str, makers: Mapping[str, Maker[EngineT]]) -> Maker[EngineT]:
    if name not in makers:
        raise UnknownEngine(setting, name, tuple(makers))
    return makers[name]
