"""Strips of film in the house encoding: made from drawn frames or a filter graph, and joined by copy.

Here: the encoders' flags and the concat by stream copy, which work only together: clips can be joined without being
encoded again because every one of them went through `house_encoding`. Not here: how a foreign clip is brought to
the profile (`media.conform`), whether a machine has an encoder (`media.encoders`), how a take is lengthened
(`media.extend`), sound (`media.sound`, `media.stitch`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ffmpeg

from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.runner import deadline_s, run, url
from moltpipe.studio.profiles import TICKS, Profile

TIMESCALE = TICKS
"""Ticks per second of every video track: whole for 24, 25 and 30 frames per second, so no frame is ever rounded."""
PRESET = "veryfast"
CRF = 19
HARDWARE_QUALITY = 21
"""Constant quality of the hardware encoders, on the scale of H.264's quantizer. Not compared with x264 by eye: no such
hardware was at hand."""
DRAWING_TIMEOUT_S = 3600
"""Frames come as fast as somebody draws them, so this deadline only ends what hangs."""

CONCAT: dict[str, int] = {"safe": 0, "auto_convert": 0}
"""Options of the concat demuxer. It may read absolute paths. It may not rewrite the stream: its conversion repeats
the parameter sets inside every key frame, which an `avc1` track must not have, and is needed only where they differ.
Beside it stands `-xerror`: without it, a clip that is missing ends the joined film early, with exit status 0."""

_BT709 = {"range": "tv", "color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709"}
"""Tags that `setparams` puts on the frames: FFmpeg 8 and later drops colour that is given to the encoder alone."""
_LEVELS = (
    # level, macroblocks per second, macroblocks per frame: ITU-T H.264 table A-1
    ("3.0", 40_500, 1_620),
    ("3.1", 108_000, 3_600),
    ("4.0", 245_760, 8_192),
    ("4.2", 522_240, 8_704),
    ("5.1", 983_040, 36_864),
    ("5.2", 2_073_600, 36_864),
)


def h264_level(profile: Profile) -> str:
    """The lowest H.264 level, at least 3.0, that can carry the profile (ITU-T H.264, table A-1).

    Raises:
        MediaError: the profile is beyond level 5.2.
    """
    blocks = -(-profile.width // 16) * -(-profile.height // 16)
    for level, per_second, per_frame in _LEVELS:
        if blocks <= per_frame and blocks * profile.rate <= per_second:
            return level
    raise MediaError(f"{profile.name} is beyond H.264 level 5.2")


def house_encoding(profile: Profile, *, threads: int | None = None) -> list[str]:
    """Output options of the house encoding with the profile's encoder, the container's included.

    A group of pictures is closed, lasts two seconds and begins with an IDR picture, whatever the scene does. `threads`
    are those of x264; None leaves them to it.

    Raises:
        MediaError: the profile's encoder is none of the house.
    """
    gop = str(2 * profile.rate)
    return [
        *("-map_metadata", "-1", "-map_chapters", "-1", "-an", "-sn", "-dn"),
        *("-c:v", profile.encoder, *_encoder(profile.encoder).flags(profile)),
        *("-g", gop, "-keyint_min", gop, "-flags", "+cgop"),
        *("-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709", "-color_range", "tv"),
        *(("-threads:v", str(threads)) if threads and profile.encoder == SOFTWARE else ()),
        *container_options(),
        *("-f", "mp4"),
    ]


@dataclass(frozen=True)
class _Encoder:
    """What an encoder is told, beside what all are told."""

    flags: Callable[[Profile], Sequence[str]]
    device: Sequence[str] = ()
    """Options that stand before every input."""
    upload: Sequence[str] = ()
    """Filters that bring the finished picture to where the encoder takes it."""


def _x264(profile: Profile) -> Sequence[str]:
    """As the house has always encoded.

    `stitchable` keeps x264 from fitting its headers to the content: without it two clips of the same flags may differ
    in extradata and cannot be joined by copy.
    """
    return (
        *("-preset", PRESET, "-crf", str(CRF)),
        *("-profile:v", "high", "-level:v", h264_level(profile), "-pix_fmt", "yuv420p"),
        *("-sc_threshold", "0", "-bf", "2", "-x264-params", "stitchable=1"),
    )


def _nvenc(profile: Profile) -> Sequence[str]:
    return (
        *("-preset", "p5", "-tune", "hq", "-rc", "vbr", "-cq", str(HARDWARE_QUALITY), "-b:v", "0"),
        *("-profile:v", "high", "-level:v", h264_level(profile), "-pix_fmt", "yuv420p"),
        *("-bf", "0", "-forced-idr", "1", "-no-scenecut", "1", "-strict_gop", "1", "-a53cc", "0"),
    )


def _qsv(profile: Profile) -> Sequence[str]:
    return (
        *("-preset", "medium", "-global_quality", str(HARDWARE_QUALITY), "-look_ahead", "0"),
        *("-profile:v", "high", "-level:v", h264_level(profile).replace(".", ""), "-pix_fmt", "nv12"),
        *("-bf", "0", "-idr_interval", "0", "-forced_idr", "1", "-adaptive_i", "0", "-adaptive_b", "0", "-a53cc", "0"),
    )


def _vaapi(profile: Profile) -> Sequence[str]:
    return (
        *("-rc_mode", "CQP", "-qp", str(HARDWARE_QUALITY)),
        *("-profile:v", "high", "-level:v", h264_level(profile)),
        *("-bf", "0", "-idr_interval", "0", "-sei", "0"),
    )


def _amf(profile: Profile) -> Sequence[str]:
    quality = str(HARDWARE_QUALITY)
    return (
        *("-usage", "transcoding", "-quality", "quality", "-rc", "cqp", "-qp_i", quality, "-qp_p", quality),
        *("-profile:v", "high", "-level:v", h264_level(profile), "-pix_fmt", "nv12"),
        *("-max_b_frames", "0", "-forced_idr", "1", "-pa_scene_change_detection_enable", "0"),
    )


def _videotoolbox(profile: Profile) -> Sequence[str]:
    return (
        *("-q:v", "65", "-allow_sw", "0", "-realtime", "0", "-a53cc", "0"),
        *("-profile:v", "high", "-level:v", h264_level(profile), "-pix_fmt", "nv12", "-bf", "0"),
    )


SOFTWARE = "libx264"
_ENCODERS: Mapping[str, _Encoder] = {
    SOFTWARE: _Encoder(_x264),
    "h264_nvenc": _Encoder(_nvenc),
    "h264_qsv": _Encoder(_qsv),
    "h264_amf": _Encoder(_amf),
    "h264_vaapi": _Encoder(_vaapi, device=("-vaapi_device", "/dev/dri/renderD128"), upload=("format=nv12", "hwupload")),
    "h264_videotoolbox": _Encoder(_videotoolbox),
}
"""By FFmpeg's name. The hardware ones put no picture out of order (`-bf 0`): how each of them writes the times of
reordered pictures differs, and a piece may be one frame long."""
HARDWARE = tuple(name for name in _ENCODERS if name != SOFTWARE)
"""In the order in which `auto` tries them."""


def _encoder(name: str) -> _Encoder:
    try:
        return _ENCODERS[name]
    except KeyError:
        raise MediaError(f"{name} is none of the house's encoders: expected {', '.join(_ENCODERS)}") from None


def device_options(profile: Profile) -> list[str]:
    """Options before the first input that open what the profile's encoder runs on; none for most.

    Raises:
        MediaError: the profile's encoder is none of the house.
    """
    return list(_encoder(profile.encoder).device)


def container_options() -> list[str]:
    """MP4 options: exact time bases (the movie's own default of 1/1000 s rounds a length of 125/24 s), moov first."""
    return [
        *("-video_track_timescale", str(TIMESCALE), "-movie_timescale", str(TIMESCALE)),
        *("-movflags", "+faststart"),
    ]


def encode_frames(
    frames: Iterable[bytes],
    profile: Profile,
    target: Path,
    *,
    threads: int | None = None,
    timeout_s: float = DRAWING_TIMEOUT_S,
) -> None:
    """Encode raw rgb24 frames of the profile's size, one after the other, to a conformed clip.

    Raises:
        MediaError: no frame came, a frame has the wrong size, or FFmpeg failed or took longer than `timeout_s`.
    """
    size = profile.width * profile.height * 3
    drawn = 0

    def checked() -> Iterator[bytes]:
        nonlocal drawn
        for frame in frames:
            if len(frame) != size:
                raise MediaError(
                    f"frame {drawn} has {len(frame)} bytes, expected {size} "
                    f"(rgb24, {profile.width}x{profile.height} for {profile.name})"
                )
            drawn += 1
            yield frame
        if not drawn:
            raise MediaError(f"no frame to encode for {target.name}")

    source = [
        *device_options(profile),
        *("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{profile.width}x{profile.height}"),
        *("-framerate", str(profile.rate), "-i", "pipe:0"),
    ]
    with landing(target) as part:
        tags = ":".join(f"{name}={value}" for name, value in _BT709.items())
        colour = ["scale=out_color_matrix=bt709:out_range=tv", "format=yuv420p", "setsar=1", f"setparams={tags}"]
        picture = ",".join([*colour, *_encoder(profile.encoder).upload])
        args = [*source, "-vf", picture, *house_encoding(profile, threads=threads), url(part)]
        run(args, timeout_s=timeout_s, stdin=checked())


def encode_graph(
    picture: ffmpeg.nodes.FilterableStream, profile: Profile, target: Path, *, frames: int, threads: int | None = None
) -> None:
    """Encode the first `frames` pictures that come out of a filter graph, which must give at least as many.

    Raises:
        MediaError: FFmpeg failed or did not end in a minute for every second of film.
    """
    with landing(target) as part:
        args = graph_arguments(picture, profile, url(part), frames=frames, threads=threads)
        run(args, timeout_s=deadline_s(profile.seconds(frames)))


def graph_arguments(
    picture: ffmpeg.nodes.FilterableStream, profile: Profile, target: str, *, frames: int, threads: int | None = None
) -> list[str]:
    """FFmpeg's arguments for the first `frames` pictures of a filter graph as house film; `target` as FFmpeg names it.

    Raises:
        MediaError: the profile's encoder is none of the house.
    """
    graph = picture.filter("format", "yuv420p").filter("setsar", "1").filter("setparams", **_BT709)
    for step in _encoder(profile.encoder).upload:
        name, _, value = step.partition("=")
        graph = graph.filter(name, *([value] if value else []))
    # ffmpeg-python has no form for repeated or valueless options: it compiles the graph, we add the encoding.
    compiled = ffmpeg.get_args(graph.output(target, **{"frames:v": frames}))[:-1]
    return [*device_options(profile), *compiled, *house_encoding(profile, threads=threads), target]


def reel_list(clips: Sequence[Path]) -> str:
    """The script of FFmpeg's concat demuxer for these clips.

    Raises:
        MediaError: a path holds a line break, which the script's format cannot express.
    """
    lines = ["ffconcat version 1.0"]
    for clip in clips:
        path = str(clip.absolute())
        if "\n" in path or "\r" in path:
            raise MediaError(f"the path {path!r} holds a line break and cannot be joined")
        lines.append("file '{}'".format(path.replace("'", "'\\''")))
    return "\n".join(lines) + "\n"


def join(clips: Sequence[Path], target: Path) -> None:
    """Join conformed clips of one fingerprint into one silent clip by stream copy. Checks nothing.

    Raises:
        MediaError: FFmpeg failed.
    """
    with tempfile.TemporaryDirectory() as folder, landing(target) as part:
        script = Path(folder) / "reel.txt"
        script.write_text(reel_list(clips), encoding="utf-8")
        options = [item for name, value in CONCAT.items() for item in (f"-{name}", str(value))]
        source = ["-xerror", "-f", "concat", *options, "-i", url(script)]
        run([*source, "-map", "0:v:0", "-c", "copy", *container_options(), "-f", "mp4", url(part)], timeout_s=600)
