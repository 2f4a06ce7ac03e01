"""House film as the stitch and its seams take it up: looked at from its index, copied packet by packet, read as planes.

Here: whether a clip may be joined by copy, where it can be cut, its packets and its pictures. Not here: the thorough
look at a file that somebody else made (`media.probe`), bringing a clip to the profile (`media.conform`).

A full probe of twelve clips of 5 s at 720p30 takes 415 ms, several times as long as copying them: it reads every packet
and decodes pictures on threads that have to be started first. The index of an MP4 tells as much of film that is ours.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from moltpipe.media.conform import house_fingerprint
from moltpipe.media.errors import MediaError
from moltpipe.media.offload import heed
from moltpipe.media.probe import coding_of
from moltpipe.media.reel import TIMESCALE
from moltpipe.media.runner import url
from moltpipe.studio.profiles import Profile

T = TypeVar("T")
Planes = NDArray[np.uint8]
"""One picture in yuv420p as PyAV lays it out: the rows of Y, below them those of U and V; 3/2 of the height."""


@dataclass(frozen=True)
class Footage:
    """A clip of house film. Frames are counted from 0 in the order in which they are shown."""

    clip: Path
    frames: int
    keyframes: tuple[int, ...]
    """Where a group of pictures begins, which is where film can be cut without encoding it: groups are closed."""
    lag: int
    """Frames by which decoding runs ahead of showing."""


def footage(clip: Path, profile: Profile) -> Footage | None:
    """Look at a clip; None where it is not house film of the profile, or no film at all: it cannot be copied then."""
    expected = house_fingerprint(profile)
    try:
        with _unspooled(clip) as container:
            if [stream.type for stream in container.streams] != ["video"]:
                return None
            stream = container.streams.video[0]
            # Copied at once: an entry of the index looks into memory that is gone when the file is closed.
            index = [(one.timestamp, one.is_keyframe, one.is_discard) for one in stream.index_entries]
            counted = stream.frames == len(index) > 0 and stream.start_time == 0
            first = _first_picture(container) if counted else None
            if first is None or first.rotation or coding_of(stream) != expected:
                return None
    except av.error.FFmpegError:
        return None
    lag = -(frame_at(index[0][0], profile) or 0)
    steady = all(frame_at(at, profile) == number - lag for number, (at, _, _) in enumerate(index))
    keyframes = tuple(number for number, (_, key, _) in enumerate(index) if key)
    if not steady or lag < 0 or keyframes[:1] != (0,) or any(hidden for _, _, hidden in index):
        return None
    return Footage(clip=clip, frames=len(index), keyframes=keyframes, lag=lag)


@contextmanager
def _unspooled(clip: Path) -> Iterator[InputContainer]:
    """Open an MP4 without decoding what its index tells: a third of a millisecond in place of four at 720p.

    What reads from it is closed before it (`_closed`). Left to the garbage collector, each of 720 clips kept 0.1 MB.
    """
    hasty = {"skip_frame": "all", "probesize": "32", "analyzeduration": "0", "protocol_whitelist": "file"}
    with av.open(url(clip), "r", format="mp4", options=hasty) as container:
        yield container


def _closed(source: Iterator[T]) -> closing[Generator[T, None, None]]:
    # PyAV calls its generators iterators.
    return closing(cast("Generator[T, None, None]", source))


@contextmanager
def _reading(clip: Path) -> Iterator[InputContainer]:
    try:
        with _unspooled(clip) as container:
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(f"{clip.name} cannot be read as house film: {error.strerror}") from error


def _first_picture(container: InputContainer) -> av.VideoFrame | None:
    stream = container.streams.video[0]
    # One packet needs no second thread, and starting threads takes longer than decoding it.
    stream.codec_context.thread_type = "NONE"
    with _closed(container.demux(stream)) as source:
        first = next(source)
        return next(iter([*stream.decode(first), *stream.decode(None)]), None)


def ticks(frames: int, profile: Profile) -> int:
    """When a frame begins, in ticks of a video track: whole, since the rate of every profile divides 90,000."""
    return frames * (TIMESCALE // profile.rate)


def frame_at(at: int, profile: Profile) -> int | None:
    """Which frame begins at a tick; None where none does."""
    number, over = divmod(at, TIMESCALE // profile.rate)
    return None if over else number


@dataclass(frozen=True)
class Strip:
    """A part of a clip between two places where it can be cut: the frames from `first` up to, not including, `end`."""

    footage: Footage
    first: int
    end: int

    @property
    def frames(self) -> int:
        """Length in frames."""
        return self.end - self.first


def packets(strip: Strip, profile: Profile) -> Iterator[tuple[int, av.Packet[VideoStream]]]:
    """The packets of a strip in decoding order, each with the number of its frame, counted from the strip's start.

    In film of closed groups the packets of a strip are as many as its frames, and lie where its frames lie.

    Raises:
        MediaError: the clip cannot be read, or its packets are not what its index said.
    """
    clip, lag = strip.footage.clip, strip.footage.lag
    seen: set[int] = set()
    with _reading(clip) as container:
        stream = container.streams.video[0]
        if strip.first:
            container.seek(ticks(strip.first - lag, profile), stream=stream)
        with _closed(container.demux(stream)) as source:
            for packet in source:
                if packet.pts is None or packet.dts is None or not packet.size:
                    continue
                number = (frame_at(packet.dts, profile) or 0) + lag
                if number < strip.first:
                    continue
                if number >= strip.end:
                    break
                shown = frame_at(packet.pts, profile)
                if shown is None or not strip.first <= shown < strip.end or shown in seen:
                    raise MediaError(f"{clip.name} shows a frame at {packet.pts / TIMESCALE:.4f} s, where none belongs")
                seen.add(shown)
                yield shown - strip.first, packet
    if len(seen) != strip.frames:
        raise MediaError(f"{clip.name} holds {len(seen)} of the frames {strip.first} to {strip.end - 1}")


def pictures(strip: Strip, profile: Profile) -> Iterator[Planes]:
    """The pictures of a strip, which may begin and end anywhere, as they are shown.

    Raises:
        MediaError: the clip cannot be read, or does not decode to these frames.
    """
    clip = strip.footage.clip
    awaited = strip.first
    with _reading(clip) as container:
        stream = container.streams.video[0]
        # The index is ordered by decoding times.
        container.seek(ticks(strip.first - strip.footage.lag, profile), stream=stream)
        with _closed(container.decode(stream)) as source:
            for frame in source:
                heed()
                number = frame_at(frame.pts or 0, profile)
                if number is not None and number < awaited:
                    continue
                if number != awaited or number >= strip.end:
                    break
                awaited += 1
                yield frame.to_ndarray().astype(np.uint8, copy=False)
    if awaited != strip.end:
        raise MediaError(f"{clip.name} does not decode to the frames {strip.first} to {strip.end - 1}")
