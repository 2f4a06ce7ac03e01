"""Music on arrival, and music for as long as its episode lasts.

Here: one WAV of the house from whatever a composer sends, and looping with overlaps. Not here: how loud music is
under speech (`media.sound_timeline`), what is composed (`engines`). A composer that makes thirty seconds is asked
once: a loop with an overlap costs nothing, and a continuation is a second paid call.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import ffmpeg
import numpy as np

from moltpipe.media.landing import landing
from moltpipe.media.pcm import BLOCK, SAMPLE_RATE, Block, Tape, decoded, length
from moltpipe.media.runner import COPYING, deadline_s, run, url

OVERLAP_S = 2.0
"""One turn of a loop fades into the next over so long."""
FADE_OUT_S = 2.5


def as_wav(source: Path, target: Path) -> float:
    """Write music in any format as a stereo WAV (48 kHz, 16 bit) and tell its length in seconds.

    Raises:
        MediaError: the file holds no sound, or FFmpeg failed.
    """
    sent_s = length(source) / SAMPLE_RATE
    sound = ffmpeg.input(url(source)).audio.filter(
        "aformat", sample_rates=SAMPLE_RATE, channel_layouts="stereo", sample_fmts="s16"
    )
    with landing(target) as part:
        graph = ffmpeg.output(sound, url(part), acodec="pcm_s16le", f="wav", ar=SAMPLE_RATE, ac=2, map_metadata=-1)
        run(graph.get_args(), timeout_s=deadline_s(sent_s, pace=COPYING))
        return length(part) / SAMPLE_RATE


def lengthened(source: Path, samples: int) -> Generator[Block]:
    """Music of a length: cut, or looped with overlaps, and faded out at its end.

    A stream, of which one turn after the other is read: written out, the music of two hours would be 1.4 GB.

    Raises:
        MediaError: the source cannot be read or holds no sound.
    """
    fade = min(round(FADE_OUT_S * SAMPLE_RATE), samples // 4)
    with closing(_turning(source)) as music:
        tape = Tape(source.name, music)
        for start in range(0, samples, BLOCK):
            block = tape.take(min(BLOCK, samples - start))
            left = samples - start - np.arange(len(block), dtype=np.float32)
            yield block * np.clip(left / max(fade, 1), 0, 1, dtype=np.float32)[:, np.newaxis]


def _turning(source: Path) -> Generator[Block]:
    """The music again and again without an end."""
    own = length(source)
    overlap = min(round(OVERLAP_S * SAMPLE_RATE), own // 4)
    # Equal power on both sides: two unlike waves would dip in the middle of a linear fade.
    coming = np.sin(np.linspace(0, np.pi / 2, overlap, dtype=np.float32))[:, np.newaxis]
    going = coming[::-1]
    tail = np.zeros((0, 2), dtype=np.float32)
    while True:
        with closing(decoded(source)) as turn:
            tape = Tape(source.name, turn)
            if len(tail):
                yield tape.take(overlap) * coming + tail * going
            left = own - overlap - len(tail)
            while left > 0:
                yield (block := tape.take(min(BLOCK, left)))
                left -= len(block)
            tail = tape.take(overlap) if overlap else tail
