"""Strips of film in the house encoding: made from drawn frames or a filter graph, and joined by copy.

Here: the encoder's flags and the concat by stream copy, which work only together: clips can be joined without being
encoded again because every one of them went through `house_encoding`. Not here: how a foreign clip is brought to
the profile (`media.conform`), how a take is lengthened (`media.extend`), sound (`media.sound`, `media.stitch`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import ffmpeg

from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.runner import run, url
from moltpipe.studio.profiles import Profile

TIMESCALE = 90_000
"""Ticks per second of every video track: whole for 24, 25 and 30 frames per second, so no frame is ever rounded."""
PRESET = "veryfast"
CRF = 19
DRAWING_TIMEOUT_S = 3600
"""Frames come as fast as somebody draws them, so this deadline only ends what hangs."""
TIMEOUT_S_PER_SECOND = 60
"""A slow machine needs about a second for a second of 1080p; sixty of them mean that something hangs."""

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


def house_encoding(profile: Profile) -> list[str]:
    """Output options of the house encoding, the container's included.

    `stitchable` keeps x264 from fitting its headers to the content: without it two clips of the same flags may
    differ in extradata and cannot be joined by copy.
    """
    gop = str(2 * profile.rate)
    return [
        *("-map_metadata", "-1", "-map_chapters", "-1", "-an", "-sn", "-dn"),
        *("-c:v", "libx264", "-preset", PRESET, "-crf", str(CRF)),
        *("-profile:v", "high", "-level:v", h264_level(profile), "-pix_fmt", "yuv420p"),
        *("-g", gop, "-keyint_min", gop, "-sc_threshold", "0", "-bf", "2", "-flags", "+cgop"),
        *("-x264-params", "stitchable=1"),
        *("-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709", "-color_range", "tv"),
        *container_options(),
        *("-f", "mp4"),
    ]


def container_options() -> list[str]:
    """MP4 options: exact time bases (the movie's own default of 1/1000 s rounds a length of 125/24 s), moov first."""
    return [
        *("-video_track_timescale", str(TIMESCALE), "-movie_timescale", str(TIMESCALE)),
        *("-movflags", "+faststart"),
    ]


def encode_frames(frames: Iterable[bytes], profile: Profile, target: Path) -> None:
    """Encode raw rgb24 frames of the profile's size, one after the other, to a conformed clip.

    Raises:
        MediaError: no frame came, a frame has the wrong size, or FFmpeg failed.
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
        *("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{profile.width}x{profile.height}"),
        *("-framerate", str(profile.rate), "-i", "pipe:0"),
    ]
    with landing(target) as part:
        tags = ":".join(f"{name}={value}" for name, value in _BT709.items())
        colour = f"scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,setsar=1,setparams={tags}"
        args = [*source, "-vf", colour, *house_encoding(profile), url(part)]
        run(args, timeout_s=DRAWING_TIMEOUT_S, stdin=checked())


def encode_graph(picture: ffmpeg.nodes.FilterableStream, profile: Profile, target: Path, *, frames: int) -> None:
    """Encode the first `frames` pictures that come out of a filter graph, which must give at least as many.

    Raises:
        MediaError: FFmpeg failed or did not end in a minute for every second of film.
    """
    with landing(target) as part:
        graph = picture.filter("format", "yuv420p").filter("setsar", "1").filter("setparams", **_BT709)
        # ffmpeg-python has no form for repeated or valueless options: it compiles the graph, we add the encoding.
        compiled = ffmpeg.get_args(graph.output(url(part), **{"frames:v": frames}))[:-1]
        timeout_s = 60 + TIMEOUT_S_PER_SECOND * profile.seconds(frames)
        run([*compiled, *house_encoding(profile), url(part)], timeout_s=timeout_s)


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
