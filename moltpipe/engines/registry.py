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
from moltpipe.engines.espeak import Espeak
from moltpipe.engines.outline import Outline
from moltpipe.engines.protocols import Camera, Composer, Screenwriter, Voice
from moltpipe.settings import Settings, variable

EngineT = TypeVar("EngineT")

SCREENWRITERS: Mapping[str, Callable[[Path], Screenwriter]] = {Outline.name: Outline}
VOICES: Mapping[str, Callable[[Path], Voice]] = {Espeak.name: Espeak}
CAMERAS: Mapping[str, Callable[[Path], Camera]] = {Animatic.name: Animatic}
COMPOSERS: Mapping[str, Callable[[Path], Composer | None]] = {silence.NAME: silence.no_composer}


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
    return _named("screenwriter", settings.screenwriter, SCREENWRITERS)(workdir)


def voice(settings: Settings, workdir: Path) -> Voice:
    """The voice of the settings.

    Raises:
        UnknownEngine: there is none of that name.
    """
    return _named("voice", settings.voice, VOICES)(workdir)


def camera(settings: Settings, workdir: Path) -> Camera:
    """The camera of the settings.

    Raises:
        UnknownEngine: there is none of that name.
    """
    return _named("camera", settings.camera, CAMERAS)(workdir)


def composer(settings: Settings, workdir: Path) -> Composer | None:
    """The composer of the settings; None means that there is no music.

    Raises:
        UnknownEngine: there is none of that name.
    """
    return _named("composer", settings.composer, COMPOSERS)(workdir)


def _named(setting: str, name: str, makers: Mapping[str, Callable[[Path], EngineT]]) -> Callable[[Path], EngineT]:
    if name not in makers:
        raise UnknownEngine(setting, name, tuple(makers))
    return makers[name]
