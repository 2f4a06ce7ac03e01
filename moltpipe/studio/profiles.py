"""The house profile: the one picture format that every conformed take of a deployment has.

Here: what a profile is and how its name reads. Not here: encoder flags (`media.conform`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_NAME = re.compile(r"^(?P<lines>[1-9][0-9]{2,3})p(?P<rate>[1-9][0-9]?)$")
MAX_LINES = 2160
MAX_RATE = 60


@dataclass(frozen=True)
class Profile:
    """Picture format in pixels and whole frames per second."""

    name: str
    width: int
    height: int
    rate: int

    def frames(self, seconds: float) -> int:
        """Whole frames that come nearest to `seconds`, at least one."""
        return max(1, round(seconds * self.rate))

    def seconds(self, frames: int) -> float:
        """Exact length of `frames` in seconds."""
        return float(Fraction(frames, self.rate))


def parse_profile(name: str) -> Profile:
    """Read `720p24` as 1280x720 at 24 frames per second (16:9, sides rounded to even).

    Raises:
        ValueError: the name is not of the form `<lines>p<rate>` or is out of range.
    """
    match = _NAME.match(name)
    if match is None:
        raise ValueError(f"{name!r} is not a profile: expected <lines>p<rate>, such as 360p24, 720p24 or 1080p30")
    lines, rate = int(match["lines"]), int(match["rate"])
    if lines > MAX_LINES or lines % 2 or rate > MAX_RATE:
        raise ValueError(f"{name!r}: expected an even number of lines up to {MAX_LINES} and a rate up to {MAX_RATE}")
    width = round(lines * 16 / 9 / 2) * 2
    return Profile(name=name, width=width, height=lines, rate=rate)
