"""The finish: what a deployment decides about the sound and the captions of everything that it publishes.

Here: the choices, which go into every cut's ingredients. Not here: how they are carried out (`media`), the picture's
format (`studio.profiles`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finish:
    """How a cut is finished."""

    loudness_lufs: float = -14.0
    """Integrated loudness (EBU R 128): -14 for video platforms, -16 for podcasts, -23 for European broadcasters."""
    ceiling_dbtp: float = -1.0
    """Highest true peak."""
    burned_captions: bool = False
    """Whether captions are part of the picture as well. They are a track of the file and lie beside it anyway."""
    clip_sound: bool = True
    """Whether the sound that a clip came with is heard."""
    paid_clip_sound: bool = False
    """Whether cameras that charge for it are asked for sound, in shots where nobody speaks."""
    ambience: bool = True
    """Whether shots get a bed of synthetic ambience where their clip has no sound of its own."""


HOUSE_FINISH = Finish()
"""What is decided where nobody decides otherwise."""
