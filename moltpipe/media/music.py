"""Music on arrival, and music made as long as its episode.

Here: one WAV of the house from whatever a composer sends, and looping with overlaps. Not here: how loud music is
under speech (`media.sound`), what is composed (`engines`). A composer that makes thirty seconds is asked once: a
loop with an overlap costs nothing, and a continuation is a second paid call.
"""

from __future__ import annotations

import math
from pathlib import Path

import ffmpeg

from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.probe import probe
from moltpipe.media.runner import run, url
from moltpipe.media.sound import SAMPLE_RATE

OVERLAP_S = 2.0
"""One turn of a loop fades into the next over so long."""
FADE_OUT_S = 2.5


def as_wav(source: Path, target: Path) -> float:
    """Write music in any format as a stereo WAV (48 kHz, 16 bit) and tell its length in seconds.

    Raises:
        MediaError: the file holds no sound, or FFmpeg failed.
    """
    sound = ffmpeg.input(url(source)).audio.filter(
        "aformat", sample_rates=SAMPLE_RATE, channel_layouts="stereo", sample_fmts="s16"
    )
    _write(sound, target, timeout_s=120)
    return _seconds(target)


def lengthen(source: Path, seconds: float, target: Path) -> None:
    """Write music of a length: cut, or looped with overlaps, and faded out at its end.

    Raises:
        MediaError: the music is too short to be looped, or FFmpeg failed.
    """
    own = _seconds(source)
    overlap = min(OVERLAP_S, own / 4)
    if own - overlap <= 0:
        raise MediaError(f"{source.name} lasts {own:g} s: expected music")
    turns = max(1, math.ceil((seconds - overlap) / (own - overlap)))
    sound = ffmpeg.input(url(source)).audio
    for _ in range(turns - 1):
        # Equal power on both sides: two unlike waves would dip in the middle of a linear one.
        sound = ffmpeg.filter(
            [sound, ffmpeg.input(url(source)).audio], "acrossfade", d=overlap, curve1="qsin", curve2="qsin"
        )
    fade = min(FADE_OUT_S, seconds / 4)
    sound = sound.filter("atrim", end=seconds).filter("afade", type="out", start_time=seconds - fade, duration=fade)
    _write(sound, target, timeout_s=120 + seconds)


def _write(sound: ffmpeg.nodes.FilterableStream, target: Path, *, timeout_s: float) -> None:
    with landing(target) as half:
        graph = ffmpeg.output(sound, url(half), acodec="pcm_s16le", f="wav", ar=SAMPLE_RATE, ac=2, map_metadata=-1)
        run(graph.get_args(), timeout_s=timeout_s)


def _seconds(file: Path) -> float:
    sound = probe(file).audio
    if sound is None:
        raise MediaError(f"{file.name} holds no sound")
    return sound.duration_seconds
