"""Which camera films a shot.

Here: the choice, from what the script says and what the house is set to. Not here: opening the camera
(`production.line`).
"""

from __future__ import annotations

from moltpipe.studio.records import Shot
from moltpipe.studio.screenplay import ShotKind

NEEDS_A_VOICE = frozenset({"heygen"})
"""Cameras whose people say the line: without one they have nothing to do."""

_OF_KIND = {ShotKind.TALKING_HEAD: "heygen", ShotKind.STOCK: "stock", ShotKind.ANIMATIC: "animatic"}


def camera_for(shot: Shot, *, voiced: bool, camera: str, second_camera: str) -> str:
    """Name of the camera for a shot: its own engine, else its kind's, else the one of the house.

    A shot without a voiceover goes to the second camera where the chosen one needs a voice.
    """
    chosen = shot.engine or (_OF_KIND.get(shot.kind, camera) if shot.kind else camera)
    return second_camera if chosen in NEEDS_A_VOICE and not voiced else chosen
