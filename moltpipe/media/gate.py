"""The delivery gate: what must hold before a cut may have a row in the ledger.

Here: the rules, and the figures that they were checked against. Not here: mending (`media.stitch` conforms a clip
again) and publishing. Everything is read off the finished file, decoded to its end; nothing is taken from what the
stitch believes that it wrote. The incident behind it: episodes of thirty black seconds were reported as done.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from moltpipe.media.errors import DeliveryRefused, MediaError
from moltpipe.media.probe import Decoded, Probe, decode, opened, probe
from moltpipe.studio.profiles import Profile

BLACK = 24
"""Brightest value (0 to 255) up to which a frame counts as black."""
BT709 = 1


@dataclass(frozen=True)
class Delivery:
    """The figures of a cut that passed."""

    frames: int
    seconds: float
    samples: int
    audio_minus_video_s: float
    width: int
    height: int
    bytes: int


def deliver(path: Path, *, frames: int, profile: Profile) -> Delivery:
    """Check a finished cut against every rule of delivery.

    Raises:
        DeliveryRefused: at least one rule is broken; the error names them all.
    """
    try:
        found = probe(path)
        failures = [*_streams(path, found, profile), *_order(path)]
    except MediaError as error:
        raise DeliveryRefused(path, (str(error),)) from error
    try:
        decoded = decode(path, strict=True)
    except MediaError as error:
        raise DeliveryRefused(path, (*failures, str(error))) from error
    failures += _lengths(decoded, frames, profile)
    if failures or found.video is None:
        raise DeliveryRefused(path, tuple(failures))
    seconds = profile.seconds(decoded.frames)
    return Delivery(
        frames=decoded.frames,
        seconds=seconds,
        samples=decoded.samples,
        audio_minus_video_s=_sound_s(decoded) - seconds,
        width=found.video.width,
        height=found.video.height,
        bytes=path.stat().st_size,
    )


def _sound_s(decoded: Decoded) -> float:
    return decoded.samples / decoded.sample_rate if decoded.sample_rate else 0.0


def _streams(path: Path, found: Probe, profile: Profile) -> Iterator[str]:
    """One H.264 picture in the profile, one AAC sound, nothing else."""
    with opened(path) as container:
        kinds = sorted(stream.type for stream in container.streams)
    if kinds != ["audio", "video"]:
        yield f"one video and one audio stream are expected, found {', '.join(kinds) or 'none'}"
    if found.audio is not None and found.audio.codec != "aac":
        yield f"the sound is {found.audio.codec}, not aac"
    video = found.video
    if video is None:
        return
    if (video.codec, video.pixel_format) != ("h264", "yuv420p"):
        yield f"the picture is {video.codec} {video.pixel_format}, not h264 yuv420p"
    if (video.width, video.height) != (profile.width, profile.height):
        yield f"the picture is {video.width}x{video.height}, not {profile.width}x{profile.height}"
    if video.sample_aspect_ratio != 1:
        yield f"pixels are {video.sample_aspect_ratio} as wide as high, not square"
    if video.rotation:
        yield f"the picture is turned by {video.rotation} degrees"
    if video.rate != Fraction(profile.rate):
        yield f"the rate is {video.rate}, not {profile.rate} frames per second"
    colour = (video.colour_range, video.colour_primaries, video.colour_transfer, video.colour_matrix)
    if colour != (BT709,) * 4:
        yield f"range, primaries, transfer and matrix are {colour}, not BT.709 limited (1, 1, 1, 1)"


def _lengths(decoded: Decoded, frames: int, profile: Profile) -> Iterator[str]:
    """The right number of frames, a sound as long as the picture, both from 0, and something to see."""
    if decoded.frames != frames:
        yield f"{decoded.frames} frames decode, not {frames}"
    apart_s = _sound_s(decoded) - profile.seconds(decoded.frames) if decoded.samples and decoded.frames else 0.0
    if abs(apart_s) >= 1 / profile.rate:
        yield f"sound less picture is {apart_s:+.3f} s, a frame or more"
    for what, starts_at_s in (("picture", decoded.picture_starts_at_s), ("sound", decoded.sound_starts_at_s)):
        if starts_at_s:
            yield f"the {what} starts at {starts_at_s:.3f} s, not at 0"
    if decoded.frames and decoded.brightest <= BLACK:
        yield "the picture is black from beginning to end"


def _order(path: Path) -> Iterator[str]:
    """Decoding times that grow, and the index before the media, so that playing can begin while loading."""
    last: dict[int, int] = {}
    stumbles = 0
    with opened(path) as container:
        for packet in container.demux():
            if packet.dts is None:
                continue
            if packet.dts <= last.get(packet.stream_index, packet.dts - 1):
                stumbles += 1
            last[packet.stream_index] = packet.dts
    if stumbles:
        yield f"decoding times do not grow at {stumbles} places"
    boxes = list(_boxes(path))
    if "moov" not in boxes or "mdat" not in boxes or boxes.index("moov") > boxes.index("mdat"):
        yield f"the index (moov) does not stand before the media (mdat): {', '.join(boxes)}"


def _boxes(path: Path) -> Iterator[str]:
    """Names of the top-level boxes of an MP4 (ISO/IEC 14496-12, section 4.2), in the order of the file."""
    size_left = path.stat().st_size
    with path.open("rb") as file:
        while size_left >= 8:  # noqa: PLR2004 -- size and name, four bytes each
            size, name = struct.unpack(">I4s", file.read(8))
            header = 8
            if size == 1:  # a 64-bit size follows
                (size,) = struct.unpack(">Q", file.read(8))
                header = 16
            size = size or size_left  # 0: to the end of the file
            yield name.decode("latin-1")
            if size < header:
                return
            file.seek(size - header, 1)
            size_left -= size
