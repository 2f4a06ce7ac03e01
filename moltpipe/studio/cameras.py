"""Which camera films a shot, and whether its sound is wanted.

Here: the choice, from what the script says and what the house is set to. Not here: opening the camera
(`production.line`), how an engine is asked for sound (`engines`).
"""

from __future__ import annotations

from moltpipe.studio.finish import Finish
from moltpipe.studio.records import Shot
from moltpipe.studio.screenplay import AudioType, ShotAudio, ShotKind, spoken_line

NEEDS_A_VOICE = frozenset({"heygen"})
"""Cameras whose people say the line: without one they have nothing to do."""

_SOUND_INCLUDED = frozenset({"veo"})
"""Cameras that make sound with every clip, at the same price: what it shall be is told to them."""
_SOUND_CHARGED = frozenset({"replicate"})
"""Cameras that make sound when asked, and charge up to twice the price for it."""

_OF_KIND = {ShotKind.TALKING_HEAD: "heygen", ShotKind.STOCK: "stock", ShotKind.ANIMATIC: "animatic"}


def camera_for(shot: Shot, *, voiced: bool, camera: str, second_camera: str) -> str:
    """Name of the camera for a shot: its own engine, else its kind's, else the one of the house.

    A shot without a voiceover goes to the second camera where the chosen one needs a voice.
    """
    chosen = shot.engine or (_OF_KIND.get(shot.kind, camera) if shot.kind else camera)
    return second_camera if chosen in NEEDS_A_VOICE and not voiced else chosen


def sound_is_kept(camera: str, audio: ShotAudio, finish: Finish) -> bool:
    """Whether the sound that a clip comes with is heard in the cut.

    The sound of somebody who talks is the voiceover, which is on the timeline already.
    """
    return finish.clip_sound and camera not in NEEDS_A_VOICE and audio.type is not AudioType.SILENT


def asked_for_sound(camera: str, audio: ShotAudio, finish: Finish) -> bool:
    """Whether a camera is asked to make sound with its picture."""
    if not sound_is_kept(camera, audio, finish):
        return False
    worth_its_price = finish.paid_clip_sound and spoken_line(audio) is None
    return camera in _SOUND_INCLUDED or (camera in _SOUND_CHARGED and worth_its_price)
