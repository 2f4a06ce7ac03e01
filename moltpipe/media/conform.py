"""Conforming: a foreign clip becomes house film, once, when it arrives.

Here: scaling, rate and exact length, and the fingerprint that says whether clips may be joined by copy. Not here:
the encoder's flags (`media.reel`), filling a shot that is longer than its take (`media.extend`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import ffmpeg

from moltpipe.media.errors import MediaError
from moltpipe.media.probe import Probe, VideoProbe, probe
from moltpipe.media.reel import encode_frames, encode_graph
from moltpipe.media.runner import url
from moltpipe.studio.profiles import Profile


@dataclass(frozen=True)
class Fingerprint:
    """All that must be equal for clips to be joined by stream copy."""

    codec: str
    profile: str | None
    level: int | None
    extradata_sha256: str
    width: int
    height: int
    sample_aspect_ratio: Fraction
    pixel_format: str | None
    colour: tuple[int, int, int, int]
    """Range, primaries, transfer, matrix (ITU-T H.273)."""
    rate: Fraction
    time_base: Fraction


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of a file's picture.

    Raises:
        MediaError: the file cannot be read or has no picture.
    """
    video = probe(path).video
    if video is None:
        raise MediaError(f"{path.name} has no picture")
    return _fingerprint(video)


def _fingerprint(video: VideoProbe) -> Fingerprint:
    return Fingerprint(
        codec=video.codec,
        profile=video.profile,
        level=video.level,
        extradata_sha256=video.extradata_sha256,
        width=video.width,
        height=video.height,
        sample_aspect_ratio=video.sample_aspect_ratio,
        pixel_format=video.pixel_format,
        colour=(video.colour_range, video.colour_primaries, video.colour_transfer, video.colour_matrix),
        rate=video.rate,
        time_base=video.time_base,
    )


@lru_cache(maxsize=16)
def house_fingerprint(profile: Profile) -> Fingerprint:
    """The fingerprint of house film on this machine, read off three frames that are encoded to find out.

    Written down as constants it would be wrong after the next x264: extradata holds what the encoder chose.
    """
    black = bytes(profile.width * profile.height * 3)
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.mp4"
        encode_frames([black] * 3, profile, sample)
        return fingerprint(sample)


def conforms(found: Probe, profile: Profile) -> bool:
    """Whether a file is house film already and may be joined as it is: right picture from 0, and no sound."""
    video = found.video
    return (
        video is not None
        and found.audio is None
        and video.begins_with_keyframe
        and not video.rotation
        and video.starts_at_s == 0
        and _fingerprint(video) == house_fingerprint(profile)
    )


def natural_frames(found: Probe, profile: Profile) -> int:
    """Frames that a clip's picture fills at the profile's rate, whatever its own sound lasts.

    Raises:
        MediaError: there is no picture.
    """
    if found.video is None:
        raise MediaError(f"a file of {found.container} without a picture fills no frame")
    return profile.frames(found.video.duration_seconds)


def conform(source: Path, profile: Profile, target: Path, *, frames: int) -> None:
    """Transcode any clip to silent house film of exactly `frames` frames.

    The picture is fitted into the profile with bars, turned upright, and repeated or thinned out to the constant
    rate. What is longer is cut; what is shorter holds its last frame, which also gives back the frame that a rate
    conversion loses (29.97 to 30 in 5 s came out as 149).

    Raises:
        MediaError: the source has no picture or cannot be read, or FFmpeg failed.
    """
    if frames < 1:
        raise MediaError(f"a take has at least one frame, not {frames}")
    found = probe(source)
    if found.video is None:
        raise MediaError(f"{source.name} has sound but no picture")
    # `V` is a picture that moves: `v` would take the cover image of a file that carries one first.
    picture = ffmpeg.input(url(source))["V:0"]
    picture = _fitted(picture.filter("setpts", "PTS-STARTPTS"), profile)
    picture = picture.filter("fps", fps=profile.rate, start_time=0).filter("tpad", stop=-1, stop_mode="clone")
    encode_graph(picture, profile, target, frames=frames)


def _fitted(picture: ffmpeg.nodes.FilterableStream, profile: Profile) -> ffmpeg.nodes.FilterableStream:
    """Scale by the display aspect ratio (so anamorphic pictures come out right), pad to the profile."""
    width, height = profile.width, profile.height
    return (
        picture.filter(
            "scale",
            w=f"max(2,2*round(min({width},{height}*dar)/2))",
            h=f"max(2,2*round(min({height},{width}/dar)/2))",
            flags="bicubic",
            out_color_matrix="bt709",
            out_range="tv",
        )
        .filter("format", "yuv420p")
        .filter("pad", width, height, "(ow-iw)/2", "(oh-ih)/2")
    )
