"""Conforming: a foreign clip becomes house film, once, when it arrives.

Here: shape, colour, rate and exact length, and the fingerprint that says whether clips may be joined by copy. Not here:
the encoder's flags (`media.reel`), filling a shot that is longer than its take (`media.extend`), keeping what was made
(`production.conforming`).

Sources: ITU-T H.273 (numbers of primaries, transfer and matrix), ITU-R BT.2408 (HDR reference white of 203 cd/m2).
"""

from __future__ import annotations

import contextvars
import hashlib
import itertools
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import ffmpeg

from moltpipe.media.encoders import DeskSize
from moltpipe.media.errors import MediaError
from moltpipe.media.probe import Coding, Probe, opened, picture_of, probe
from moltpipe.media.reel import encode_frames, encode_graph, graph_arguments
from moltpipe.media.runner import url
from moltpipe.studio.profiles import Fit, Profile

REFERENCE_WHITE_NITS = 203
"""What HDR calls white (ITU-R BT.2408); brighter is for lights and reflections, which tone mapping brings back in."""
LARGEST_SD = (1279, 576)
"""A picture without colour tags that is no wider and no higher is read as BT.601, a larger one as BT.709: what players
do, and so what whoever made it has seen."""
FIRST_FRAMES = 3
"""How many frames are looked at to know whether film is interlaced."""
_UNSPECIFIED, _FULL = 2, 2
_PQ, _HLG = 16, 18
_BT2020 = 9
_CONVERTED_BY_SCALE = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
"""Matrices that swscale converts; the others (YCgCo, constant luminance, ICtCp) are zimg's."""
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these drop the alpha channel, which WebM keeps apart from the picture."""


def fingerprint(path: Path) -> Coding:
    """The fingerprint of a file's picture.

    Raises:
        MediaError: the file cannot be read or has no picture.
    """
    video = probe(path).video
    if video is None:
        raise MediaError(f"{path.name} has no picture")
    return video.coding


@lru_cache(maxsize=16)
def house_fingerprint(profile: Profile) -> Coding:
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
        and video.coding == house_fingerprint(profile)
    )


def natural_frames(found: Probe, profile: Profile) -> int:
    """Frames that a clip's picture fills at the profile's rate, whatever its own sound lasts.

    Raises:
        MediaError: there is no picture.
    """
    if found.video is None:
        raise MediaError(f"a file of {found.container} without a picture fills no frame")
    return profile.frames(found.video.duration_seconds)


@dataclass(frozen=True)
class Look:
    """What decides how a picture is brought to the profile. Colours as numbers of ITU-T H.273."""

    width: int = 0
    height: int = 0
    pixel_format: str = "yuv420p"
    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED
    matrix: int = _UNSPECIFIED
    full_range: bool = False
    faster: bool = False
    """Whether more frames come than the profile shows."""
    interlaced: bool = False
    """Whether its first frames are marked as two fields."""
    alpha_decoder: str | None = None
    """The decoder to ask for, where FFmpeg's own would not give the alpha channel."""

    @property
    def is_hdr(self) -> bool:
        """Whether its transfer is that of PQ or HLG."""
        return self.transfer in (_PQ, _HLG)

    @property
    def needs_zimg(self) -> bool:
        """Whether it takes more than another matrix to make its colours those of BT.709."""
        return self.is_hdr or self.primaries == _BT2020 or self.matrix not in _CONVERTED_BY_SCALE

    @property
    def has_alpha(self) -> bool:
        """Whether parts of it can be seen through."""
        return self.alpha_decoder is not None or any(one.is_alpha for one in _format(self).components)


def _format(look: Look) -> av.VideoFormat:
    return av.VideoFormat(look.pixel_format)


def conform(source: Path, profile: Profile, target: Path, *, frames: int, threads: int | None = None) -> None:
    """Transcode any clip to silent house film of exactly `frames` frames.

    The picture is turned upright, freed of interlacing, laid over black where it can be seen through, brought to
    BT.709 in limited range, fitted into the profile with bars or cropped to it, and repeated or thinned out to the
    constant rate. HDR is tone-mapped. What is longer is cut; what is shorter holds its last frame, which also gives
    back the frame that a rate conversion loses (29.97 to 30 in 5 s came out as 149).

    `threads` are those of x264; None leaves them to it.

    Raises:
        MediaError: the source has no picture or cannot be read, FFmpeg failed, or it cannot convert these colours.
    """
    if frames < 1:
        raise MediaError(f"a take has at least one frame, not {frames}")
    look = look_at(source, profile)
    try:
        encode_graph(fitted(url(source), look, profile), profile, target, frames=frames, threads=threads)
    except MediaError as error:
        if look.needs_zimg and "zscale" in str(error):
            raise MediaError(
                f"{source.name} is in colours that this FFmpeg cannot convert (primaries {look.primaries}, transfer "
                f"{look.transfer}, matrix {look.matrix} of ITU-T H.273): install one with libzimg (the filter zscale)"
            ) from error
        raise


@dataclass(frozen=True)
class Job:
    """One clip to conform."""

    source: Path
    target: Path
    frames: int


def conform_all(jobs: Sequence[Job], profile: Profile, *, desk: DeskSize) -> None:
    """Conform a batch, several clips at a time.

    Raises:
        MediaError: one could not be conformed; those that have not begun then are left out, nothing half-written stays.
    """
    with ThreadPoolExecutor(desk.at_once, thread_name_prefix="conform") as threads:
        # A thread of a pool knows nothing of the stop that this one may be asked for, unless it is handed on.
        begun = [
            threads.submit(
                contextvars.copy_context().run,
                lambda job: conform(job.source, profile, job.target, frames=job.frames, threads=desk.threads),
                job,
            )
            for job in jobs
        ]
        try:
            for one in begun:
                one.result()
        except BaseException:
            threads.shutdown(wait=True, cancel_futures=True)
            raise


def recipe(profile: Profile, *, frames: int | None = None) -> str:
    """Hex sha256 of all that decides what a source becomes: every graph, the encoder's flags, and its headers.

    `frames` is the length where one was asked for. The number of threads is not part of it: the clip is another to the
    bit, and the same to the eye and to the stitch. Neither is FFmpeg's version, except that a version whose headers
    differ gives another recipe, since its clips could not be joined with the older ones.
    """
    looks = (
        Look(),
        Look(width=1920, height=1080, faster=True),
        Look(interlaced=True),
        Look(pixel_format="yuva420p"),
        Look(primaries=_BT2020, transfer=_PQ, matrix=_BT2020),
        Look(primaries=_BT2020, transfer=1, matrix=_BT2020),
    )
    graphs = [graph_arguments(fitted("source", look, profile), profile, "target", frames=1) for look in looks]
    essence = [graphs, house_fingerprint(profile).extradata_sha256, frames]
    return hashlib.sha256(json.dumps(essence).encode()).hexdigest()


def look_at(source: Path, profile: Profile) -> Look:
    """Read off the headers and the first frames.

    Reading all of a clip, as `probe` does, takes a tenth of the time that conforming takes.

    Raises:
        MediaError: the source cannot be read or has no picture that moves.
    """
    with opened(source) as container:
        picture = picture_of(container)
        if picture is None:
            raise MediaError(f"{source.name} has no picture that moves")
        context = picture.codec_context
        name = context.codec.canonical_name
        return Look(
            width=context.width,
            height=context.height,
            pixel_format=context.pix_fmt or "yuv420p",
            primaries=context.color_primaries,
            transfer=context.color_trc,
            matrix=context.colorspace,
            full_range=context.color_range == _FULL,
            faster=(picture.average_rate or 0) > profile.rate,
            interlaced=any(
                frame.interlaced_frame for frame in itertools.islice(container.decode(picture), FIRST_FRAMES)
            ),
            alpha_decoder=_ALPHA_DECODERS.get(name) if picture.metadata.get("alpha_mode") == "1" else None,
        )


def fitted(source: str, look: Look, profile: Profile) -> ffmpeg.nodes.FilterableStream:
    """The graph that turns a source, as FFmpeg names it, into endless pictures of the profile."""
    given: dict[str, str | int] = {"c:v": look.alpha_decoder} if look.alpha_decoder else {}
    if _may_change_size(look, profile):
        given["reinit_filter"] = 0
    # `V` is a picture that moves: `v` would take the cover image of a file that carries one first.
    picture = ffmpeg.input(source, **given)["V:0"].filter("setpts", "PTS-STARTPTS")
    if look.interlaced:
        picture = picture.filter("bwdif", mode="send_frame", deint="interlaced")
    if look.faster:
        picture = picture.filter("fps", fps=profile.rate, start_time=0)
    if look.has_alpha:
        picture = (
            picture.filter("scale", **_read_as(look))
            .filter("format", "gbrap")
            .filter("premultiply", inplace=1)
            .filter("format", "gbrp")
        )
    picture = _sized(picture, look, profile)
    if profile.fit is Fit.CROP:
        picture = picture.filter("crop", profile.width, profile.height)
    else:
        anew = {"eval": "frame"} if _may_change_size(look, profile) else {}
        picture = picture.filter("pad", profile.width, profile.height, "(ow-iw)/2", "(oh-ih)/2", **anew)
    if not look.faster:
        picture = picture.filter("fps", fps=profile.rate, start_time=0)
    return picture.filter("tpad", stop=-1, stop_mode="clone")


def _may_change_size(look: Look, profile: Profile) -> bool:
    """Whether the graph can go on when the pictures change their size, as in streams that were cut together.

    FFmpeg would set up another one from the beginning, whose clock begins at nought as well: what follows is lost, and
    the last frame stands for it. The filters of other graphs cannot take a picture of another size.
    """
    return profile.fit is Fit.PAD and not (look.needs_zimg or look.has_alpha or look.interlaced)


def _sized(picture: ffmpeg.nodes.FilterableStream, look: Look, profile: Profile) -> ffmpeg.nodes.FilterableStream:
    """Scale by the display aspect ratio, so that anamorphic pictures come out right, in BT.709 and limited range.

    Even sides, for 4:2:0. A crop needs at least the frame: half a pixel that is rounded away would leave a line open.
    """
    width, height = profile.width, profile.height
    within, least = ("max", (width, height)) if profile.fit is Fit.CROP else ("min", (2, 2))
    size = {
        "w": f"max({least[0]},2*round({within}({width},{height}*dar)/2))",
        "h": f"max({least[1]},2*round({within}({height},{width}/dar)/2))",
    }
    if look.needs_zimg:
        picture = _by_zimg(picture, look, size)
    else:
        how = {} if look.has_alpha else _read_as(look)
        if _may_change_size(look, profile):
            how |= {"eval": "frame"}
        picture = picture.filter("scale", **size, flags="bicubic", **how, out_color_matrix="bt709", out_range="tv")
    return picture.filter("format", "yuv420p")


def _read_as(look: Look) -> dict[str, str]:
    """The matrix of a picture that does not tell it, where it is not what swscale would take anyway."""
    is_larger = look.width > LARGEST_SD[0] or look.height > LARGEST_SD[1]
    return {"in_color_matrix": "bt709"} if look.matrix == _UNSPECIFIED and is_larger else {}


def _by_zimg(picture: ffmpeg.nodes.FilterableStream, look: Look, size: dict[str, str]) -> ffmpeg.nodes.FilterableStream:
    """The same where primaries or transfer must be converted too: swscale does neither, nor does it know all matrices.

    zimg converts nothing of which it is not told everything: what a source leaves out is taken for BT.2020's.
    """
    told = {
        "primariesin": look.primaries if look.primaries != _UNSPECIFIED else "2020",
        "transferin": look.transfer if look.transfer != _UNSPECIFIED else "2020_10",
        "matrixin": "gbr" if look.has_alpha else (look.matrix if look.matrix != _UNSPECIFIED else "2020_ncl"),
        "rangein": "pc" if look.full_range or look.has_alpha else "tv",
    }
    bt709 = {"primaries": "709", "transfer": "709", "matrix": "709", "range": "tv"}
    if not look.is_hdr:
        return picture.filter("zscale", **size, filter="bicubic", **told, **bt709)
    light = {"primaries": "709", "transfer": "linear", "matrix": "gbr", "range": "pc"}
    return (
        picture.filter("zscale", **size, filter="bicubic", **told, **light, npl=REFERENCE_WHITE_NITS)
        .filter("format", "gbrpf32le")
        .filter("tonemap", "mobius", desat=0)
        .filter("zscale", primariesin="709", transferin="linear", matrixin="gbr", rangein="pc", **bt709)
    )
