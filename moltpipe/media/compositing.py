"""Putting films together in one frame: a picture in the picture, and another sound under a finished film.

Here: where the inner picture stands, how it is cropped and rounded, and which sound is heard. Not here: joining films
one after the other (`media.stitch`), an episode's own soundtrack (`media.sound`).

Both functions are for a graph of nodes: they read their inputs, write one file that lands whole, and refuse a wrong
value by its name before anything is encoded. The schema of such a node says that a crop is four whole numbers; which
ones are possible is known only here, where the picture is.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import ffmpeg
from PIL import Image, ImageDraw

from moltpipe.media.aac import BIT_RATE, whole_packets
from moltpipe.media.conform import Look, fitted, look_at, natural_frames
from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.probe import AudioProbe, Probe, opened, probe
from moltpipe.media.reel import container_options, encode_graph
from moltpipe.media.runner import deadline_s, run, url
from moltpipe.media.sound import EDGE_FADE_S, SAMPLE_RATE
from moltpipe.studio.profiles import Fit, Profile

LARGEST_VOLUME = 2.0
ROUNDING = 0.125
"""What `rounded=True` means, as a part of the inner picture's shorter side."""
HALF = 0.5
SMALLEST_SIDE = 16
"""Pixels. Less is a mistake and not a picture."""
OVERSAMPLING = 4
"""The corners' mask is drawn so much larger and scaled down: Pillow draws hard edges, which would look like steps."""
MIX_CEILING = 10 ** (-1.2 / 20)
"""Where two sounds added up are held: 0.2 dB under the house's ceiling, since AAC swings a little beyond its input."""
PACKAGED = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4"})
"""Pictures that an MP4 holds without being encoded again, and that players find in it."""


class Position(StrEnum):
    """Where the inner picture stands in the frame."""

    TOP_LEFT = "top_left"
    TOP_RIGHT = "top_right"
    BOTTOM_LEFT = "bottom_left"
    BOTTOM_RIGHT = "bottom_right"
    CENTRE = "centre"


class AfterEnd(StrEnum):
    """What becomes of an inner picture that ends before the background does."""

    VANISH = "vanish"
    """It is gone. A face that freezes while the rest moves on reads as a fault."""
    HOLD = "hold"
    """Its last frame stays: right for a chart or a title that has built itself up."""


class SoundMode(StrEnum):
    """What becomes of the sound that a film has."""

    REPLACE = "replace"
    MIX = "mix"


@dataclass(frozen=True)
class Crop:
    """A part of an upright picture with square pixels, in whole pixels from its top left corner. Odd ones are fine."""

    left: int
    top: int
    width: int
    height: int


def overlay(
    background: Path,
    inner: Path,
    target: Path,
    *,
    profile: Profile,
    crop: Crop | None = None,
    rounded: bool | float = False,
    position: Position = Position.BOTTOM_RIGHT,
    width: float = 0.3,
    margin: float = 0.04,
    after_end: AfterEnd = AfterEnd.VANISH,
) -> None:
    """Lay one film into a corner or the middle of another; write an MP4 in the house encoding.

    The result has the background's length and its sound: AAC is copied packet by packet, any other sound is encoded
    to AAC once. The inner film is not heard (`replace_sound` can add it) and is cut where the background ends. Both
    are brought to the profile as `conform` would, except that an inner film which can be seen through stays so.

    Args:
        background: the film that fills the frame.
        inner: the film that is laid into it.
        target: the file to write.
        profile: the frame, its rate and its encoder.
        crop: the part of the inner picture that is shown, upright as a player shows it; None: all of it.
        rounded: True rounds the corners by an eighth of the shorter side of what is shown, a number by that part of
            it: 0.5 makes a square a disc.
        position: a corner, or the centre.
        width: of what is shown, as a part of the frame's width. Less is taken where the height would not fit between
            the margins, as with a film from a telephone in a wide frame.
        margin: between what is shown and the frame's edges, as a part of the frame's shorter side.
        after_end: what becomes of an inner picture that ends first.

    Raises:
        MediaError: a value is out of its range, a film cannot be read or has no picture, or FFmpeg failed.
    """
    _require("width", width, 0 < width <= 1, "a part of the frame's width, above 0 and at most 1")
    _require("margin", margin, 0 <= margin < HALF, "a part of the frame's shorter side, from 0 to below 0.5")
    radius = ROUNDING if rounded is True else float(rounded)
    _require("rounded", rounded, 0 <= radius <= HALF, "true, false or a part of the shorter side, from 0 to 0.5")
    behind = probe(background)
    if behind.video is None:
        raise MediaError(f"background: {background.name} has no picture")
    shown = probe(inner)
    if shown.video is None:
        raise MediaError(f"overlay: {inner.name} has no picture")
    window = _window(shown, crop, inner)
    size = _size(window, profile, width, margin)
    frames = natural_frames(behind, profile)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Under a name of its own: ffmpeg-python takes equal inputs for one, and a film may be laid over itself.
        alias = folder / f"inner{inner.suffix}"
        alias.symlink_to(inner.absolute())
        picture = _inner(alias, window, shown, size, profile)
        if radius:
            mask = folder / "mask.png"
            _draw_mask(size, round(radius * min(size)), mask)
            picture = _rounded(picture, mask)
        left, top = _place(size, profile, position, margin)
        composed = ffmpeg.overlay(
            fitted(url(background), look_at(background, profile), profile),
            picture,
            eof_action="repeat" if after_end is AfterEnd.HOLD else "pass",
            x=left,
            y=top,
            format="yuv420",
        )
        if behind.audio is None:
            encode_graph(composed, profile, target, frames=frames)
            return
        silent = folder / "silent.mp4"
        encode_graph(composed, profile, silent, frames=frames)
        _lay_under(silent, background, behind, target)


def replace_sound(
    video: Path, sound: Path, target: Path, *, mode: SoundMode = SoundMode.REPLACE, volume: float = 1.0
) -> None:
    """Give a film another sound, or a second one beside its own; write an MP4. The picture is copied, never encoded.

    The new sound begins with the film. Where it is longer it is cut at the picture's end, faded over 8 ms; where it
    is shorter, silence follows (`replace`) or the film's own sound alone (`mix`). Both are summed as they are, so
    nobody sinks, and held under -1 dB; a film without sound is mixed with silence. Loudness is not levelled: a graph
    that wants that does it in a node of its own. Soft captions stay.

    Args:
        video: the film whose picture is kept.
        target: the file to write.
        mode: whether the film's own sound is still heard.
        sound: any file with sound; of a film, its sound is taken.
        volume: of the new sound: 0 is silence, 1 as it is, 2 twice the amplitude (6 dB more).

    Raises:
        MediaError: a value is out of its range, a file cannot be read, lacks what is wanted of it, or FFmpeg failed.
    """
    _require("volume", volume, 0 <= volume <= LARGEST_VOLUME, f"a factor from 0 to {LARGEST_VOLUME:g}")
    film = probe(video)
    if film.video is None:
        raise MediaError(f"video: {video.name} has no picture")
    if film.video.codec not in PACKAGED:
        raise MediaError(
            f"video: the picture of {video.name} is {film.video.codec}: expected one of {', '.join(sorted(PACKAGED))}, "
            "which an MP4 can hold as they are; conform it first"
        )
    other = probe(sound).audio
    if other is None:
        raise MediaError(f"sound: {sound.name} holds no sound")
    seconds = film.video.starts_at_s + film.video.duration_seconds
    source = ffmpeg.input(url(video))
    # `vn` also tells the two inputs apart where they are one file: ffmpeg-python takes equal ones for the same.
    heard = _stereo(ffmpeg.input(url(sound), vn=None).audio, other).filter("volume", volume)
    if mode is SoundMode.MIX and film.audio is not None:
        both = ffmpeg.filter([_stereo(source.audio, film.audio), heard], "amix", inputs=2, normalize=0)
        heard = both.filter("alimiter", limit=MIX_CEILING, attack=5, release=50, level=0, latency=1)
    streams = [source["V:0"], _cut_to(heard, seconds), *(source[f"s:{number}"] for number in _captions(video))]
    with landing(target) as part:
        encoded = {"c:v": "copy", "c:s": "copy", "c:a": "aac", "b:a": BIT_RATE, "map_metadata": -1}
        compiled = ffmpeg.get_args(ffmpeg.output(*streams, url(part), **encoded))[:-1]
        run([*compiled, *container_options(), "-f", "mp4", url(part)], timeout_s=deadline_s(seconds))


def _require(field: str, value: float, holds: bool, rule: str) -> None:  # noqa: FBT001 -- the rule's own outcome
    if not holds:
        raise MediaError(f"{field}={value}: expected {rule}")


def _upright(found: Probe) -> tuple[int, int]:
    """Width and height as a player shows them: pixels made square, turned upright."""
    video = found.video
    if video is None:
        raise MediaError(f"a file of {found.container} without a picture has no size")
    width = round(video.width * video.sample_aspect_ratio)
    return (video.height, width) if video.rotation % 180 else (width, video.height)


def _window(shown: Probe, crop: Crop | None, inner: Path) -> Crop:
    """What is shown of the inner picture."""
    width, height = _upright(shown)
    if crop is None:
        return Crop(0, 0, width, height)
    for field, value, least in (
        ("crop.left", crop.left, 0),
        ("crop.top", crop.top, 0),
        ("crop.width", crop.width, SMALLEST_SIDE),
        ("crop.height", crop.height, SMALLEST_SIDE),
    ):
        _require(field, value, value >= least, f"whole pixels, at least {least}")
    for side, begins, length, whole in (
        ("width", crop.left, crop.width, width),
        ("height", crop.top, crop.height, height),
    ):
        if begins + length > whole:
            raise MediaError(
                f"crop.{side}={length} from {begins}: reaches {begins + length}, expected at most {whole}, the {side} "
                f"of {inner.name}"
            )
    return crop


def _size(window: Crop, profile: Profile, width: float, margin: float) -> tuple[int, int]:
    """Width and height in the frame, both even, in the window's proportions."""
    edge = 2 * margin * min(profile.width, profile.height)
    scale = min(width * profile.width, profile.width - edge) / window.width
    scale = min(scale, (profile.height - edge) / window.height)
    size = (2 * round(window.width * scale / 2), 2 * round(window.height * scale / 2))
    if min(size) < SMALLEST_SIDE:
        raise MediaError(
            f"width={width}: {window.width}x{window.height} would be shown as {size[0]}x{size[1]} in {profile.name}, "
            f"expected at least {SMALLEST_SIDE} pixels on each side"
        )
    return size


def _place(size: tuple[int, int], profile: Profile, position: Position, margin: float) -> tuple[int, int]:
    """Left and top of what is shown, both even: an odd place would shift its colour against its light."""
    right, bottom = profile.width - size[0], profile.height - size[1]
    if position is Position.CENTRE:
        return right // 4 * 2, bottom // 4 * 2
    edge = 2 * round(margin * min(profile.width, profile.height) / 2)
    left = min(edge, right) if position in {Position.TOP_LEFT, Position.BOTTOM_LEFT} else max(0, right - edge)
    top = min(edge, bottom) if position in {Position.TOP_LEFT, Position.TOP_RIGHT} else max(0, bottom - edge)
    return left, top


def _inner(
    inner: Path, window: Crop, shown: Probe, size: tuple[int, int], profile: Profile
) -> ffmpeg.nodes.FilterableStream:
    """The inner picture with an alpha channel, cropped and scaled, and no longer than it lasts.

    It is cropped in full colour: with half of it, a crop would be moved to an even pixel.
    """
    look = look_at(inner, profile)
    upright = _upright(shown)
    # What can be seen through stays so: `fitted` would lay it over black.
    whole = _as_it_is(inner, look, upright, profile) if look.has_alpha else _upright_film(inner, look, upright, profile)
    return (
        whole.filter("trim", end_frame=natural_frames(shown, profile))
        .filter("format", "yuva444p")
        .filter("scale", *upright)
        .filter("crop", window.width, window.height, window.left, window.top)
        .filter("scale", *size, flags="area" if size[0] < window.width else "bicubic")
        .filter("setsar", "1")
        .filter("format", "yuva420p")
    )


def _upright_film(inner: Path, look: Look, size: tuple[int, int], profile: Profile) -> ffmpeg.nodes.FilterableStream:
    """As it would be conformed, but in its own size, whose sides are made even on the way."""
    width, height = (2 * round(side / 2) for side in size)
    return fitted(url(inner), look, replace(profile, width=width, height=height, fit=Fit.CROP))


def _as_it_is(inner: Path, look: Look, size: tuple[int, int], profile: Profile) -> ffmpeg.nodes.FilterableStream:
    given = {"c:v": look.alpha_decoder} if look.alpha_decoder else {}
    picture = ffmpeg.input(url(inner), **given)["V:0"].filter("setpts", "PTS-STARTPTS")
    picture = picture.filter("fps", fps=profile.rate, start_time=0)
    return picture.filter("scale", *size, out_color_matrix="bt709", out_range="tv")


def _rounded(picture: ffmpeg.nodes.FilterableStream, mask: Path) -> ffmpeg.nodes.FilterableStream:
    """Take the corners off, also of what can be seen through. The mask is one frame, which the filters repeat."""
    copies = picture.filter_multi_output("split")
    drawn = ffmpeg.input(url(mask)).video.filter("format", "gray")
    alpha = ffmpeg.filter([copies[1].filter("alphaextract"), drawn], "blend", all_mode="multiply")
    return ffmpeg.filter([copies[0], alpha], "alphamerge")


def _draw_mask(size: tuple[int, int], radius: int, target: Path) -> None:
    large = (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING)
    mask = Image.new("L", large, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, large[0] - 1, large[1] - 1), radius * OVERSAMPLING, fill=255)
    mask.resize(size, Image.Resampling.BOX).save(target)


def _lay_under(silent: Path, background: Path, behind: Probe, target: Path) -> None:
    """Put the background's sound under its new picture, as it is where an MP4 can hold it."""
    if behind.video is None or behind.audio is None:
        raise MediaError(f"{background.name} has no picture or no sound")
    source, seconds = ffmpeg.input(url(background)), behind.video.duration_seconds
    late_s = behind.video.starts_at_s
    if behind.audio.codec == "aac" and not late_s:
        sound, options = source.audio, {"c:a": "copy"}
    else:
        # The picture was moved to 0: its sound has to move with it.
        moved = _stereo(source.audio, behind.audio).filter("atrim", start=late_s).filter("asetpts", "PTS-STARTPTS")
        sound, options = _cut_to(moved, seconds), {"c:a": "aac", "b:a": str(BIT_RATE)}
    with landing(target) as part:
        picture = ffmpeg.input(url(silent)).video
        written = ffmpeg.output(picture, sound, url(part), **options, **{"c:v": "copy", "map_metadata": -1})
        compiled = ffmpeg.get_args(written)
        run([*compiled[:-1], *container_options(), "-f", "mp4", url(part)], timeout_s=deadline_s(seconds))


def _stereo(sound: ffmpeg.nodes.FilterableStream, found: AudioProbe) -> ffmpeg.nodes.FilterableStream:
    """48 kHz stereo; what begins late gets silence before it, and one channel goes to both sides as it is.

    FFmpeg's own conversion takes 3 dB off a single channel, as a desk does that pans it. Its `channelmap` gives both
    sides the same memory, so that every filter behind it works twice.
    """
    placed = sound.filter("aresample", SAMPLE_RATE, **{"async": 1, "first_pts": 0})
    placed = placed.filter("aformat", sample_fmts="fltp", channel_layouts="stereo")
    return placed.filter("volume", math.sqrt(2)) if found.channels == 1 else placed


def _cut_to(sound: ffmpeg.nodes.FilterableStream, seconds: float) -> ffmpeg.nodes.FilterableStream:
    """As long as the picture, in whole AAC packets: at most half a packet (11 ms) more or less."""
    samples = whole_packets(seconds)
    return (
        sound.filter("apad", whole_len=samples)
        .filter("atrim", end_sample=samples)
        .filter("afade", type="out", start_time=samples / SAMPLE_RATE - EDGE_FADE_S, duration=EDGE_FADE_S)
    )


def _captions(video: Path) -> list[int]:
    """Positions, among a file's subtitles, of those that an MP4 holds as they are."""
    with opened(video) as container:
        return [
            number
            for number, stream in enumerate(container.streams.subtitles)
            if stream.codec_context.name == "mov_text"
        ]
