"""A batch of mixed clips is conformed: moltpipe against plain FFmpeg commands for the same encodes.

Here: eight clips of four seconds in other sizes, rates, shapes and codecs, all to 720p30. Plain FFmpeg is run in the
two ways that are usual, one command after the other with x264's own threads, and as many commands at a time as there
are cores with one thread each; the better one counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moltpipe.media.conform import Job, conform_all, house_fingerprint
from moltpipe.media.encoders import desk_size
from moltpipe.media.reel import house_encoding
from moltpipe.media.runner import run, url
from moltpipe_tests.bench.material import EPISODE, scene
from moltpipe_tests.bench.registry import Measurement, case, finding, preparation

SECONDS = 4
_X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "16")
_ARRIVALS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("wide.mp4", "1920x1080", "24", (*_X264, "-pix_fmt", "yuv420p")),
    ("pal.mp4", "1280x720", "25", (*_X264, "-pix_fmt", "yuv420p")),
    ("ntsc.avi", "640x480", "30000/1001", ("-c:v", "mpeg4", "-q:v", "3")),
    ("tall.mp4", "720x1280", "30", (*_X264, "-pix_fmt", "yuv420p")),
    ("sixty.mp4", "1280x720", "60", (*_X264, "-pix_fmt", "yuv420p")),
    ("ten-bit.mkv", "1920x1080", "30", (*_X264, "-pix_fmt", "yuv420p10le")),
    ("web.webm", "1280x720", "24", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "4M")),
    ("odd.mkv", "963x541", "24", (*_X264, "-pix_fmt", "yuv444p")),
)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@preparation
def make_arrivals(folder: Path) -> None:
    """The clips as they might come from cameras."""
    for number, (name, size, rate, options) in enumerate(_ARRIVALS):
        picture = ["-f", "lavfi", "-i", scene(number, size, rate), "-t", str(SECONDS)]
        run([*picture, *options, "-y", url(folder / name)], timeout_s=300)


def _frames() -> int:
    return SECONDS * EPISODE.rate


@case("conform", f"moltpipe: {len(_ARRIVALS)} mixed clips of {SECONDS} s to 720p30")
def by_moltpipe(folder: Path) -> dict[str, float]:
    house_fingerprint(EPISODE)
    jobs = [Job(folder / name, folder / "conformed" / f"{name}.mp4", _frames()) for name, *_ in _ARRIVALS]
    conform_all(jobs, EPISODE, desk=desk_size(CORES))
    return {"frames": _frames() * len(jobs)}


@case("conform ffmpeg 1", "the same by plain FFmpeg, one command after the other")
def one_by_one(folder: Path) -> dict[str, float]:
    return _plainly(folder, at_once=1, threads=[])


@case("conform ffmpeg n", "the same by plain FFmpeg, a command on every core")
def side_by_side(folder: Path) -> dict[str, float]:
    return _plainly(folder, at_once=CORES, threads=["-threads:v", "1"])


def _plainly(folder: Path, *, at_once: int, threads: list[str]) -> dict[str, float]:
    room = folder / "plain"
    room.mkdir(exist_ok=True)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(_command(folder, room, threads), [name for name, *_ in _ARRIVALS]))
    return {"frames": _frames() * len(_ARRIVALS)}


def _command(folder: Path, room: Path, threads: list[str]) -> Callable[[str], None]:
    size = f"{EPISODE.width}:{EPISODE.height}"
    graph = ",".join(
        [
            f"scale={size}:force_original_aspect_ratio=decrease:force_divisible_by=2:out_color_matrix=bt709:out_range=tv",
            f"format=yuv420p,pad={size}:(ow-iw)/2:(oh-ih)/2,setsar=1",
            f"fps={EPISODE.rate},tpad=stop=-1:stop_mode=clone",
            "setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709",
        ]
    )

    def encode(name: str) -> None:
        made = ["-frames:v", str(_frames()), *house_encoding(EPISODE), *threads, "-y", url(room / f"{name}.mp4")]
        run(["-i", url(folder / name), "-map", "0:V:0", "-vf", graph, *made], timeout_s=300)

    return encode


@finding("conform cores", "cores busy while conforming a batch", needs=("conform",), unit="cores", at_least=0.9 * CORES)
def cores(took: Mapping[str, Measurement]) -> float:
    return took["conform"].cores


@finding(
    "conform / ffmpeg",
    "conforming a batch",
    against="the faster way of plain FFmpeg",
    needs=("conform", "conform ffmpeg 1", "conform ffmpeg n"),
    at_most=1.1,
)
def against_ffmpeg(took: Mapping[str, Measurement]) -> float:
    return took["conform"].wall_s / min(took["conform ffmpeg 1"].wall_s, took["conform ffmpeg n"].wall_s)
