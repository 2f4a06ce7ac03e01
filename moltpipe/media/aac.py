"""The one AAC encode of a soundtrack.

Here: the encoder and the length in whole packets. Not here: what is encoded and how loud it came out (`media.sound`),
how the packets come under a picture (`media.stitch`, which copies them).

An MP4 plays an AAC stream in step only through its edit list, which leaves out the 1024 samples that the encoder needs
to get going, and its length is exact only in whole packets. AAC of every clip joined by copy was 403 ms too long after
a minute, because each clip brought its own.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from moltpipe.media.pcm import SAMPLE_RATE, Block, ahead
from moltpipe.media.runner import deadline_s, run, url

PACKET = 1024
"""Samples in one AAC packet. Decoders put out whole packets."""
BIT_RATE = 192_000
_CODER = "fast"
"""FFmpeg's other coder, its default, takes up to four times as long, and at 192 kbit/s it is the worse one: its noise
in speech with music lies 5 to 10 dB higher over most bands."""


def whole_packets(seconds: float) -> int:
    """The number of samples, in whole packets, that comes nearest to a length. At least one packet."""
    return max(1, round(seconds * SAMPLE_RATE / PACKET)) * PACKET


def encode(blocks: Generator[Block], target: Path, *, samples: int) -> None:
    """Write a stereo stream of so many samples, which are whole packets, as an .m4a.

    By the FFmpeg program and not in this process: the libavcodec that PyAV brings needs 2.3 s of processor time for a
    minute of speech and music, that of the program 1.3 s.

    Raises:
        MediaError: FFmpeg failed, or the stream did.
    """
    source = ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", "2", "-i", "pipe:0"]
    coder = ["-c:a", "aac", "-aac_coder", _CODER, "-b:a", str(BIT_RATE)]
    container = ["-movflags", "+faststart", "-movie_timescale", str(SAMPLE_RATE), "-f", "mp4", "-y", url(target)]
    with closing(ahead(blocks)) as made:
        sent = (block.tobytes() for block in made)
        run([*source, *coder, *container], timeout_s=deadline_s(samples / SAMPLE_RATE), stdin=sent)
