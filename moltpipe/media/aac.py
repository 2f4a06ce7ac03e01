"""The one AAC encode of a soundtrack.

Here: the encoder, the file that its packets go into, what they decode to, and the length in whole packets. Not here:
what is encoded and how loud it came out (`media.sound`), how the packets come under a picture (`media.stitch`, which
copies them).

An MP4 plays an AAC stream in step only through its edit list, which leaves out the 1024 samples that the encoder needs
to get going, and its length is exact only in whole packets. AAC of every clip joined by copy was 403 ms too long after
a minute, because each clip brought its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import IO

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

from moltpipe.media.attendant import Outlet
from moltpipe.media.errors import MediaError
from moltpipe.media.offload import heed
from moltpipe.media.pcm import SAMPLE_RATE, Block, ahead, as_blocks
from moltpipe.media.runner import deadline_s, piped, run, url

PACKET = 1024
"""Samples in one AAC packet. Decoders put out whole packets."""
BIT_RATE = 192_000
_CODER = ("-aac_coder", "fast", "-aac_tns", "0")
"""FFmpeg's other coder, its default, takes up to four times as long, and at 192 kbit/s it is the worse one: its noise
in speech with music lies 5 to 10 dB higher over most bands. Its temporal noise shaping, on by default, costs up to a
tenth of the time and gains nothing: in speech, rain, music and drums the noise is as strong or half a decibel stronger
with it, in frames of 5 ms and in the worst twentieth of them as well."""
_CONTAINER = {"movflags": "+faststart", "movie_timescale": str(SAMPLE_RATE)}


def whole_packets(seconds: float) -> int:
    """The number of samples, in whole packets, that comes nearest to a length. At least one packet."""
    return max(1, round(seconds * SAMPLE_RATE / PACKET)) * PACKET


def encode(blocks: Generator[Block], target: Path, *, samples: int, hear: Callable[[Block], None]) -> None:
    """Write a stereo stream of so many samples, which are whole packets, as an .m4a.

    `hear` is called, in another thread, with what a player will hear of it, while the encoder works on what follows:
    listening to the finished file took a sixth as long again as all of the sound.

    By the FFmpeg program and not in this process. PyAV's encoder takes as much processor time on the same samples, but
    on a busy machine a mix with it took up to twice as long, probably because it waits for the lock that those
    need who lay and listen (the GIL). The packets come back through a pipe and are put into the file here. The rejected
    alternative, FFmpeg's tee muxer, reads the names of its files by quoting rules of its own.

    Raises:
        MediaError: FFmpeg failed, the stream did, or the file cannot be written.
    """
    reached = 0

    def take(stream: IO[bytes]) -> None:
        nonlocal reached
        with closing(_passing(stream, target)) as passing:
            for block in passing:
                heed()
                hear(block)
                reached += len(block)

    source = ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", "2", "-i", "pipe:0"]
    coder = ["-c:a", "aac", *_CODER, "-b:a", str(BIT_RATE)]
    with Outlet(take) as outlet, closing(ahead(blocks)) as made:
        sent = (block.tobytes() for block in made)
        run(
            [*source, *coder, "-f", "nut", piped(outlet)],
            timeout_s=deadline_s(samples / SAMPLE_RATE),
            stdin=sent,
            outlet=outlet,
        )
    if reached != samples:
        raise MediaError(f"the encoder was given {samples} samples of sound, and {reached} came out of it")


def _passing(stream: IO[bytes], target: Path) -> Generator[Block]:
    """Put the packets of a NUT stream into an .m4a, and give what they decode to from 0 on."""
    with suppress(av.error.FFmpegError), av.open(stream, "r", format="nut") as source:
        yield from as_blocks(_heard(source, target))


def _heard(source: InputContainer, target: Path) -> Generator[av.AudioFrame]:
    sound = source.streams.audio[0]
    try:
        with av.open(url(target), "w", format="mp4", options=_CONTAINER) as file:
            track = file.add_stream_from_template(sound)
            # The first packet, before 0, is what the encoder needs to get going. NUT knows no time before 0.
            for at, packet in zip(count(-PACKET, PACKET), _packets(source, sound), strict=False):
                frames = packet.decode()
                packet.pts = packet.dts = at
                packet.stream = track
                file.mux(packet)
                if at >= 0:
                    yield from frames
    except av.error.FFmpegError as error:
        raise MediaError(f"the soundtrack cannot be written: {error.strerror}") from error


def _packets(source: InputContainer, sound: AudioStream) -> Iterator[av.Packet[AudioStream]]:
    """All packets up to where the stream ends, in order or not: why it does, its encoder says best."""
    with suppress(av.error.FFmpegError):
        for packet in source.demux(sound):
            if packet.size:
                yield packet
