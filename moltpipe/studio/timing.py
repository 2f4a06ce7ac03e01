"""How long shots last once they are voiced, and where each lies in its episode.

Here: the arithmetic of an episode's time, in whole frames of the house profile. Not here: how a take is
made to last that long (`media.extend`), where a sample goes (`media.sound`).

A shot lasts as long as the longer of its script duration and its voice. The old system cut both to the
shorter one, and narrations of half a minute ended after five seconds.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from uuid import UUID

from moltpipe.studio.profiles import Profile
from moltpipe.studio.records import Shot
from moltpipe.studio.screenplay import Transition

VOICE_LEAD_S = 0.25
"""A line starts this long after the cut, so that it belongs to the picture it is heard with."""
VOICE_TAIL_S = 0.35
"""A shot stays this long after its line."""
SPOKEN_WORDS_PER_S = 2.5
"""A calm narrator of 150 words a minute: what is assumed of a voice should not fall short of it. The estimate and the
door both take it from here; when the estimate had 2.3 of its own, it gave our sample pack episodes longer than the
longest that the door allows."""
QUICK_WORDS_PER_S = 3.1
"""A quick one: eSpeak NG, measured with plain prose."""
_MICROSECONDS = 1_000_000
SEAM_S = {Transition.CUT: 0.0, Transition.CROSSFADE: 0.5, Transition.FADE_THROUGH_BLACK: 1.0}
"""How long a transition lasts: half of it before the cut, half after. Nothing on the timeline moves for it."""


@dataclass(frozen=True)
class Slot:
    """One shot's place in its episode, in whole frames; seconds where sound is placed."""

    shot_id: UUID
    number: int
    start_frame: int
    frames: int
    voice_offset: float
    """Seconds from the start of the shot to its line, whether or not it has one."""
    voice_starts_at: float
    """The same, in seconds from the start of the episode."""
    transition: Transition = Transition.CUT
    """How the shot begins."""
    seam_frames: int = 0
    """Frames of that transition on either side of the cut."""

    @property
    def end_frame(self) -> int:
        """First frame after the shot."""
        return self.start_frame + self.frames


@dataclass(frozen=True)
class Timeline:
    """An episode's shots in order, without a gap."""

    profile: Profile
    slots: tuple[Slot, ...]

    @property
    def frames(self) -> int:
        """Frames of the whole episode."""
        return self.slots[-1].end_frame if self.slots else 0

    @property
    def seconds(self) -> float:
        """Exact length of those frames."""
        return self.profile.seconds(self.frames)


def shot_frames(duration_seconds: float, voice_seconds: float | None, profile: Profile) -> int:
    """Frames of a shot: what its script asks for, or more where its voice needs more.

    The script's length goes to the nearest frame, the voice's to the next one up, so no voice is cut.

    Raises:
        ValueError: a length is negative or not a finite number.
    """
    wanted = profile.frames(_length(duration_seconds, "a shot's duration"))
    if voice_seconds is None:
        return wanted
    # In whole microseconds: a float a hair above a frame's edge must not cost a frame.
    heard_us = round((VOICE_LEAD_S + _length(voice_seconds, "a voiceover") + VOICE_TAIL_S) * _MICROSECONDS)
    return max(wanted, math.ceil(Fraction(heard_us * profile.rate, _MICROSECONDS)))


def timeline(shots: Iterable[Shot], voices: Mapping[UUID, float], profile: Profile) -> Timeline:
    """Lay an episode's shots end to end, by shot number. `voices`: length in seconds by shot id.

    Raises:
        ValueError: a length is negative or not a finite number.
    """
    slots: list[Slot] = []
    start = 0
    for shot in sorted(shots, key=lambda one: one.number):
        frames = shot_frames(shot.duration_seconds, voices.get(shot.id), profile)
        slots.append(
            Slot(
                shot_id=shot.id,
                number=shot.number,
                start_frame=start,
                frames=frames,
                voice_offset=VOICE_LEAD_S,
                voice_starts_at=float(Fraction(start, profile.rate) + Fraction(VOICE_LEAD_S)),
                transition=shot.transition if slots else Transition.CUT,
                seam_frames=_seam_frames(shot.transition, slots[-1].frames, frames, profile) if slots else 0,
            )
        )
        start += frames
    return Timeline(profile=profile, slots=tuple(slots))


def _seam_frames(transition: Transition, before: int, after: int, profile: Profile) -> int:
    """Half a transition in frames: at most a third of either shot, so that a shot's two seams never meet."""
    return min(round(SEAM_S[transition] * profile.rate / 2), before // 3, after // 3)


def clip_seconds(shot: Shot, voice_seconds: float | None, profile: Profile) -> float:
    """Length of the clip to ask a camera for, in seconds that are whole frames.

    What the script asks for, but no more than the shot lasts: what is cut off is paid for as well.

    Raises:
        ValueError: a length is negative or not a finite number.
    """
    asked = profile.frames(_length(shot.gen_clip_seconds, "a clip"))
    return profile.seconds(min(asked, shot_frames(shot.duration_seconds, voice_seconds, profile)))


def spoken_seconds(text: str) -> float:
    """How long a line will last, as far as its text tells: for an estimate, before anybody has spoken it.

    Scripts that put no blank between words are counted by the character, two to a word.
    """
    unspaced = sum(unicodedata.east_asian_width(one) == "W" and one.isalnum() for one in text)
    words = sum(any(one.isalnum() for one in word) for word in spaced(text).split())
    return (words + unspaced / 2) / SPOKEN_WORDS_PER_S


def spaced(text: str) -> str:
    """A text with a blank for every wide character: what is left are words that stand between blanks."""
    return "".join(" " if unicodedata.east_asian_width(one) == "W" else one for one in text)


def _length(seconds: float, what: str) -> float:
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{what} of {seconds} seconds: expected a length of zero or more")
    return seconds
