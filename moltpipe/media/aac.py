"""The one AAC encode of a soundtrack, and what it really sounds like.

Here: encoder, packets, and the decoder that listens to them as they are made. Not here: what is encoded
(`media.sound`), how the packets come under a picture (`media.stitch`, which copies them).

An MP4 plays an AAC stream in step only through its edit list, which leaves out the 1024 samples that the encoder needs
to get going, and its length is exact only in whole packets. AAC of every clip joined by copy was 403 ms too long after
a minute, because each clip brought its own.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.packet import Packet

from moltpipe.media.pcm import SAMPLE_RATE, Block, ahead, as_frame

PACKET = 1024
"""Samples in one AAC packet. Decoders put out whole packets."""
PRIMING = 1024
"""Samples that FFmpeg's encoder puts before the first."""
BIT_RATE = 192_000
_CODER = {"aac_coder": "fast"}
"""FFmpeg's other coder, its default, takes four times as long (2.6 s of processor time for a minute instead of 0.7),
and at 192 kbit/s it is the worse one: its noise in speech with music lies 5 to 8 dB higher over most bands."""
_CONTAINER = {"movflags": "+faststart", "movie_timescale": str(SAMPLE_RATE)}


def whole_packets(seconds: float) -> int:
    """The number of samples, in whole packets, that comes nearest to a length. At least one packet."""
    return max(1, round(seconds * SAMPLE_RATE / PACKET)) * PACKET


def encode(blocks: Generator[Block], target: Path) -> Generator[Block]:
    """Write a stereo stream as an .m4a, filled up to whole packets, and yield what those packets decode to.

    The file is finished once this generator has run to its end.
    """
    with closing(blocks), av.open(str(target), "w", format="mp4", options=_CONTAINER) as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, options=_CODER)
        stream.bit_rate, stream.layout = BIT_RATE, "stereo"
        listener: AudioCodecContext | None = None
        priming = PRIMING
        with closing(ahead(_packets(blocks, stream))) as made:
            for packets in made:
                listener = listener or _listener(stream)
                # Before they are muxed: that takes a packet's bytes away.
                parts = [frame.to_ndarray() for packet in packets for frame in listener.decode(packet)]
                container.mux(packets)
                heard = np.concatenate(parts, axis=1).T
                if len(heard) > priming:
                    yield np.ascontiguousarray(heard[priming:], dtype=np.float32)
                priming = max(0, priming - len(heard))


def _packets(blocks: Generator[Block], stream: AudioStream) -> Generator[list[Packet[AudioStream]]]:
    """Lists of packets, none of them empty."""
    fed = 0
    with closing(blocks):
        for block in blocks:
            if packets := stream.encode(as_frame(block, "stereo", fed)):
                yield packets
            fed += len(block)
        if packets := stream.encode(None):
            yield packets


def _listener(stream: AudioStream) -> AudioCodecContext:
    listener = AudioCodecContext.create("aac", "r")
    listener.extradata = stream.codec_context.extradata
    return listener
