"""Seams: how one clip gives way to the next where the script asks for more than a cut.

Here: which parts of the clips are encoded again for their transitions, and the pictures of those. Not here: how long a
transition lasts (`studio.timing`), joining the parts (`media.stitch`).

A transition moves nothing on the timeline: it lies half before the cut and half after, and every frame of both clips
stays where it is. What a crossfade needs beyond the cut, each clip gives out of itself, played backwards, so that
motion goes on while it blends: a frame that stands still for half a second looks like a fault, and footage beyond the
cut there is none, since a shot is paid for by the second.

Only the groups of pictures that a seam touches are encoded again: all else is copied, and an episode costs what its
seams cost. The pictures are blended here and not by FFmpeg's `xfade`, which needs streams that overlap: cut to a
group's length, its weight would jump where one of the two ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import ffmpeg
import numpy as np

from moltpipe.media.errors import MediaError
from moltpipe.media.footage import Footage, Planes, Strip, footage, pictures
from moltpipe.media.landing import landing
from moltpipe.media.reel import graph_arguments
from moltpipe.media.runner import deadline_s, run, url
from moltpipe.studio.profiles import Profile
from moltpipe.studio.screenplay import Transition

_BLACK_Y, _BLACK_UV = 16, 128
"""Black in yuv420p of limited range (ITU-R BT.709)."""


@dataclass(frozen=True)
class Seam:
    """A transition into a clip."""

    clip: int
    """Position from 0 of the clip that begins with it."""
    transition: Transition
    frames: int
    """Its length on either side of the cut."""


def sewn(clips: Sequence[Footage], seams: Sequence[Seam], folder: Path, *, profile: Profile) -> list[Strip]:
    """The strips that make the reel with its seams: parts of the clips, and pieces that are encoded into `folder`.

    Raises:
        MediaError: a seam stands before no clip or between no two, two stand at one cut, or a clip is too short for
            its seams; or FFmpeg failed.
    """
    at = _by_cut(clips, seams)
    reel: list[Strip] = []
    for position, clip in enumerate(clips):
        head, tail = at.get(position), at.get(position + 1)
        into, out_of = head.frames if head else 0, tail.frames if tail else 0
        if into + out_of >= clip.frames:
            raise MediaError(
                f"clip {position} has {clip.frames} frames, too few for transitions of {into} and {out_of}"
            )
        begins = next((key for key in clip.keyframes if key >= into), clip.frames)
        ends = max(key for key in (*clip.keyframes, clip.frames) if key <= clip.frames - out_of)
        bounds = [0, begins, ends, clip.frames] if begins <= ends else [0, clip.frames]
        for first, end in pairwise(bounds):
            if first == end:
                continue
            strip = Strip(clip, first, end)
            edges = [
                _Edge(clips[position - 1], clip, head, before=False) if head and first == 0 else None,
                _Edge(clip, clips[position + 1], tail, before=True) if tail and end == clip.frames else None,
            ]
            touched = [edge for edge in edges if edge is not None]
            reel.append(
                _encoded(strip, touched, folder / f"seam-{position}-{first}.mp4", profile) if touched else strip
            )
    return reel


def _by_cut(clips: Sequence[Footage], seams: Sequence[Seam]) -> dict[int, Seam]:
    at: dict[int, Seam] = {}
    for seam in seams:
        if not 0 < seam.clip < len(clips):
            raise MediaError(f"a transition into clip {seam.clip} stands between no two of {len(clips)} clips")
        if seam.clip in at:
            raise MediaError(f"clip {seam.clip} has two transitions")
        if seam.frames < 0:
            raise MediaError(f"the transition into clip {seam.clip} lasts {seam.frames} frames")
        if seam.frames and seam.transition is not Transition.CUT:
            at[seam.clip] = seam
    return at


@dataclass(frozen=True)
class _Edge:
    """One side of a seam: the end of the clip before it, or the beginning of the clip after."""

    earlier: Footage
    later: Footage
    seam: Seam
    before: bool
    """Whether this is the side before the cut."""

    @property
    def own(self) -> Footage:
        return self.earlier if self.before else self.later

    def covers(self, number: int) -> int | None:
        """Which frame of this side a frame of its clip is, from 0; None outside."""
        at = number - (self.own.frames - self.seam.frames) if self.before else number
        return at if 0 <= at < self.seam.frames else None

    def mixed(self, at: int, shown: Planes, mirrored: Sequence[Planes]) -> Planes:
        """A frame of this side as it comes out."""
        length = self.seam.frames
        if self.seam.transition is Transition.CROSSFADE:
            # Over both sides the weight of the later clip grows in even steps, half of one away from 0 and from 1.
            later = ((0 if self.before else length) + at + 0.5) / (2 * length)
            own = 1 - later if self.before else later
            return _blended(shown, mirrored[at], own)
        # The last frame before the cut and the first one after it are black.
        return _blended(shown, _black(shown), (length - 1 - at if self.before else at) / length)

    def mirrored(self, profile: Profile) -> list[Planes]:
        """What the other clip gives beyond the cut: itself, backwards from the frame next to the one at the cut."""
        if self.seam.transition is not Transition.CROSSFADE:
            return []
        other, length = self.later if self.before else self.earlier, self.seam.frames
        first = 1 if self.before else other.frames - 1 - length
        return list(pictures(Strip(other, first, first + length), profile))[::-1]


def _encoded(strip: Strip, edges: Sequence[_Edge], target: Path, profile: Profile) -> Strip:
    """Encode a strip with what its seams make of it."""
    drawn = ffmpeg.input(
        "pipe:0",
        format="rawvideo",
        pixel_format="yuv420p",
        video_size=(profile.width, profile.height),
        framerate=profile.rate,
    )
    with landing(target) as part:
        args = graph_arguments(drawn.video, profile, url(part), frames=strip.frames)
        run(args, timeout_s=deadline_s(profile.seconds(strip.frames)), stdin=_drawn(strip, edges, profile))
    piece = footage(target, profile)
    if piece is None or piece.frames != strip.frames:
        found = "other film" if piece is None else f"{piece.frames} frames"
        raise MediaError(f"a seam of {strip.footage.clip.name} came out as {found}, not as {strip.frames} of the house")
    return Strip(piece, 0, piece.frames)


def _drawn(strip: Strip, edges: Sequence[_Edge], profile: Profile) -> Iterator[bytes]:
    sides = [(edge, edge.mirrored(profile)) for edge in edges]
    for number, shown in enumerate(pictures(strip, profile), strip.first):
        drawn = shown
        for edge, mirrored in sides:
            at = edge.covers(number)
            if at is not None:
                drawn = edge.mixed(at, drawn, mirrored)
        yield drawn.tobytes()


def _blended(one: Planes, other: Planes, weight: float) -> Planes:
    """The mean of two pictures in which the first counts for `weight`, to the nearest of 256 steps."""
    steps = round(256 * weight)
    mixed = one.astype(np.uint16) * np.uint16(steps) + other.astype(np.uint16) * np.uint16(256 - steps)
    return ((mixed + np.uint16(128)) >> np.uint16(8)).astype(np.uint8)


def _black(like: Planes) -> Planes:
    black = np.full_like(like, _BLACK_UV)
    black[: like.shape[0] * 2 // 3] = _BLACK_Y
    return black
