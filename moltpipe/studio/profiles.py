"""The house profile: the one picture format that every conformed take of a deployment has.

Here: what a profile is and how its name reads. Not here: encoder flags (`media.reel`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

_NAME = re.compile(r"^(?P<lines>[1-9][0-9]{2,3})p(?P<rate>[1-9][0-9]?)(-(?P<aspect>16x9|9x16|1x1))?$")
_EXPECTED = "expected <lines>p<rate>[-16x9|-9x16|-1x1], such as 360p24, 720p24, 1080p30 or 1080p30-9x16"
MAX_LINES = 2160
MAX_RATE = 60
TICKS = 90_000
"""Ticks per second of a video track. At a rate that does not divide them frames would be of unequal length, and two
clips of unequal number of frames would never be joined by copy."""


class Fit(StrEnum):
    """How a picture of another shape is brought into the frame."""

    PAD = "pad"
    """All of it is seen, between bars."""
    CROP = "crop"
    """The frame is filled, what stands over is cut off on both sides alike."""


@dataclass(frozen=True)
class Profile:
    """Picture format in pixels and whole frames per second, and how pictures are brought to it."""

    name: str
    width: int
    height: int
    rate: int
    fit: Fit = Fit.PAD
    encoder: str = "libx264"
    """FFmpeg's name of the H.264 encoder. Clips of two encoders cannot be joined by copy."""

    def frames(self, seconds: float) -> int:
        """Whole frames that come nearest to `seconds`, at least one."""
        return max(1, round(seconds * self.rate))

    def seconds(self, frames: int) -> float:
        """Exact length of `frames` in seconds."""
        return float(Fraction(frames, self.rate))


def parse_profile(name: str) -> Profile:
    """Read `720p24` as 1280x720 at 24 frames per second, `720p24-9x16` as 720x1280, `720p24-1x1` as 720x720.

    The lines are the picture's shorter side, as the trade counts them; the longer one is rounded to even.

    Raises:
        ValueError: the name is not of the form `<lines>p<rate>[-<aspect>]` or is out of range.
    """
    match = _NAME.match(name)
    if match is None:
        raise ValueError(f"{name!r} is not a profile: {_EXPECTED}")
    lines, rate = int(match["lines"]), int(match["rate"])
    if lines > MAX_LINES or lines % 2 or rate > MAX_RATE:
        raise ValueError(f"{name!r}: expected an even number of lines up to {MAX_LINES} and a rate up to {MAX_RATE}")
    if TICKS % rate:
        raise ValueError(f"{name!r}: expected a rate that divides {TICKS:,}, such as 12, 24, 25, 30, 50 or 60")
    longer = round(lines * 16 / 9 / 2) * 2
    width, height = {"9x16": (lines, longer), "1x1": (lines, lines)}.get(match["aspect"], (longer, lines))
    return Profile(name=name, width=width, height=height, rate=rate)
