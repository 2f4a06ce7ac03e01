"""Who speaks with which voice, where neither the script nor the settings name one.

Here: the choice among the voices that a hosted engine offers, made the same way in every process. Not here: which
voices there are (the engine's module), how eSpeak NG bends its own (`engines.espeak`).

An engine sees one line at a time and knows no cast, so two speakers may meet in one voice; they never change it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from moltpipe.engines.protocols import LineRequest

_FEMALE_WORDS = frozenset(
    {"female", "woman", "girl", "she", "her", "mother", "grandmother", "queen", "lady", "feminine"}
)
_MALE_WORDS = frozenset({"male", "man", "boy", "he", "his", "father", "grandfather", "king", "masculine", "baritone"})


class Gender(Enum):
    """How a voice is heard."""

    FEMALE = "female"
    MALE = "male"


@dataclass(frozen=True)
class Actor:
    """A voice that can be cast. `gender` is None where nobody says, or where it is heard as neither."""

    voice: str
    gender: Gender | None = None


def gender(voice_style: str | None) -> Gender | None:
    """What a voice style such as `calm, old, female` asks for; None where it asks for neither or for both."""
    words = set(re.findall(r"[a-z]+", (voice_style or "").casefold()))
    female, male = bool(words & _FEMALE_WORDS), bool(words & _MALE_WORDS)
    if female == male:
        return None
    return Gender.FEMALE if female else Gender.MALE


def cast(request: LineRequest, actors: Iterable[Actor]) -> str | None:
    """The voice of a speaker, always the same one; None where there is nobody to cast.

    Each voice draws a number with each speaker, and the highest gets the part. The rejected alternative, a place in
    the list by the speaker's digest, recasts everybody when the provider adds one voice.
    """
    company = list(actors)
    asked = gender(request.voice_style)
    fitting = [actor for actor in company if actor.gender is asked] if asked else company
    drawn = [(_number(request.speaker, actor.voice), actor.voice) for actor in fitting or company]
    return max(drawn)[1] if drawn else None


def _number(speaker: str, voice: str) -> bytes:
    return hashlib.sha256(f"{speaker.casefold()}|{voice}".encode("utf-8", "replace")).digest()
