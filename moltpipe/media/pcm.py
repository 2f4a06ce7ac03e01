"""Sound as a stream of sample blocks: decoding, filtering, and doing both on more than one core.

Here: what every part of the sound department is made of. Not here: what is heard when (`media.sound_timeline`), how
loud (`media.loudness`), who decides it (`media.sound`).

A stream holds a second of sound at a time, so an episode of two hours takes no more memory than a trailer. The filters
are libavfilter's, called in this process: a program of its own would take the same samples through a pipe, start two
times per soundtrack, and could not be asked what it had measured before its end. PyAV lets go of the interpreter's
lock while a filter or codec works, so `ahead` really keeps a second core busy.
"""

from __future__ import annotations

import wave
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import numpy.typing as npt
from av.audio.resampler import AudioResampler
from av.filter.context import FilterContext

from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.offload import heed
from moltpipe.media.probe import opened, probe

SAMPLE_RATE = 48_000
BLOCK = SAMPLE_RATE
"""Samples in a block: a second is few calls and little memory."""
AHEAD = 2
"""Blocks that are made while an earlier one is still being used."""
ROUNDING = SAMPLE_RATE // 100
"""Samples that a resampler may give less than the lengths before and after say."""
_SIXTEEN_BITS = 2
_FULL_SCALE = 32_768.0
_CENTRE = 0.5**0.5
"""What is in the middle comes out of both sides at half its power each, as FFmpeg's resampler has it too."""
_LAYOUTS = {2: "stereo", 4: "quad"}

Block = npt.NDArray[np.float32]
"""Samples by channels, full scale is 1."""
T = TypeVar("T")


def decoded(file: Path) -> Generator[Block]:
    """The sound of a file as stereo at 48 kHz.

    Raises:
        MediaError: the file cannot be read or holds no sound.
    """
    house = _house_wav(file)
    if house is not None:
        with house:
            level = _CENTRE if house.getnchannels() == 1 else 1.0
            while frames := house.readframes(BLOCK):
                mono_or_stereo = np.frombuffer(frames, dtype="<i2").reshape(-1, house.getnchannels())
                block = np.empty((len(mono_or_stereo), 2), dtype=np.float32)
                np.multiply(mono_or_stereo, np.float32(level / _FULL_SCALE), out=block)
                yield block
        return
    with opened(file) as container:
        sound = next(iter(container.streams.audio), None)
        if sound is None:
            raise MediaError(f"{file.name} holds no sound")
        yield from as_blocks(container.decode(sound))


def as_blocks(frames: Iterable[av.AudioFrame]) -> Generator[Block]:
    """Decoded frames of any form as stereo at 48 kHz.

    In blocks of a second: a packet of AAC holds 21 ms, and whatever is done with a block has its price.
    """
    resampler = AudioResampler(format="flt", layout="stereo", rate=SAMPLE_RATE)
    waiting: list[Block] = []
    for frame in chain.from_iterable(map(resampler.resample, chain(frames, (None,)))):
        waiting.append(_samples(frame))
        if sum(map(len, waiting)) >= BLOCK:
            yield np.concatenate(waiting)
            waiting.clear()
    if waiting:
        yield np.concatenate(waiting)


def length(file: Path) -> int:
    """Samples that `decoded` gives, at 48 kHz. Only formats whose header can be wrong are decoded for it.

    Raises:
        MediaError: the file cannot be read or holds no sound.
    """
    house = _house_wav(file)
    if house is not None:
        with house:
            samples = house.getnframes()
    else:
        sound = probe(file).audio
        samples = round(sound.samples * SAMPLE_RATE / sound.rate) if sound is not None else 0
    if not samples:
        raise MediaError(f"{file.name} holds no sound")
    return samples


def _house_wav(file: Path) -> wave.Wave_read | None:
    """The reader of a WAV in the format that everything of ours has, None for any other file.

    Four times as fast as a demuxer that hands out packets of 4 KiB, and that is most of what laying a timeline costs.
    """
    try:
        opened_file = wave.open(str(file), "rb")  # noqa: SIM115 -- the caller closes it
    except (OSError, EOFError, wave.Error):
        return None  # `opened` says what is wrong with it
    parameters = opened_file.getparams()
    house = (parameters.framerate, parameters.sampwidth) == (SAMPLE_RATE, _SIXTEEN_BITS) and parameters.nchannels in (
        1,
        2,
    )
    if house:
        return opened_file
    opened_file.close()
    return None


class Tape:
    """A stream of blocks that is read in pieces of any length. `name` is what an error calls it."""

    def __init__(self, name: str, blocks: Generator[Block]) -> None:
        self._name = name
        self._blocks = blocks
        self._rest: Block | None = None

    def take(self, samples: int) -> Block:
        """The next samples, exactly so many, at least one.

        Raises:
            MediaError: the stream ends before, so its file holds less than it announces.
        """
        parts: list[Block] = []
        lacking = samples
        while lacking > 0:
            block = self._rest if self._rest is not None else next(self._blocks, None)
            if block is None and lacking > ROUNDING:
                raise MediaError(f"{self._name} ends {lacking / SAMPLE_RATE:.3f} s before what it announces")
            if block is None:
                block = np.zeros((lacking, 2), dtype=np.float32)
            self._rest = block[lacking:] if len(block) > lacking else None
            parts.append(block[:lacking])
            lacking -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Close what the stream reads from."""
        self._blocks.close()


def write_wav(blocks: Iterable[Block], target: Path) -> int:
    """Write stereo blocks as a WAV (48 kHz, 16 bit) and tell its samples. What is over full scale is clipped."""
    written = 0
    with landing(target) as part, wave.open(str(part), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(_SIXTEEN_BITS)
        file.setframerate(SAMPLE_RATE)
        for block in blocks:
            heed()
            whole = np.clip(np.rint(block * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1)
            file.writeframes(whole.astype("<i2").tobytes())
            written += len(block)
    return written


class Filtering:
    """A graph of audio filters with one input and one output: blocks go in, blocks come out, not always as many."""

    def __init__(self, channels: int, build: Callable[[av.filter.Graph, FilterContext], FilterContext]) -> None:
        """`build` links its filters to the given source and returns the last of them."""
        self._graph = av.filter.Graph()
        self._layout = _LAYOUTS[channels]
        self._fed = 0
        source = self._graph.add_abuffer(
            format="flt", sample_rate=SAMPLE_RATE, layout=self._layout, time_base=Fraction(1, SAMPLE_RATE)
        )
        build(self._graph, source).link_to(self._graph.add("abuffersink"))
        self._graph.configure()

    def feed(self, block: Block) -> list[av.AudioFrame]:
        """Put samples in and get the frames that are ready."""
        self._graph.push(as_frame(block, self._layout, self._fed))
        self._fed += len(block)
        return self._ready()

    def finish(self) -> list[av.AudioFrame]:
        """Say that nothing follows, and get what is left."""
        self._graph.push(None)
        return self._ready()

    def _ready(self) -> list[av.AudioFrame]:
        frames: list[av.AudioFrame] = []
        while True:
            try:
                frame = self._graph.pull()
            except (BlockingIOError, EOFError):
                return frames
            if isinstance(frame, av.AudioFrame):
                frames.append(frame)


def filtered(
    blocks: Generator[Block], channels: int, build: Callable[[av.filter.Graph, FilterContext], FilterContext]
) -> Generator[Block]:
    """The stream after a graph of filters whose output is stereo and interleaved."""
    with closing(blocks):
        filtering = Filtering(channels, build)
        for block in blocks:
            for frame in filtering.feed(block):
                yield _samples(frame)
        for frame in filtering.finish():
            yield _samples(frame)


def ahead(items: Generator[T]) -> Generator[T]:
    """The same items, made in another thread while this one works on those before them."""
    end = object()
    with closing(items), ThreadPoolExecutor(1, thread_name_prefix="sound") as thread:
        pending = deque(thread.submit(next, items, end) for _ in range(AHEAD))
        while (item := pending.popleft().result()) is not end:
            pending.append(thread.submit(next, items, end))
            yield item  # type: ignore[misc]  # `end` is the only other thing that next() gives


def as_frame(block: Block, layout: str, at: int) -> av.AudioFrame:
    """A block as libav's frame; `at` is its first sample's number in the stream."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block).reshape(1, -1), format="flt", layout=layout)
    frame.sample_rate = SAMPLE_RATE
    frame.time_base = Fraction(1, SAMPLE_RATE)
    frame.pts = at
    return frame


def _samples(frame: av.AudioFrame) -> Block:
    return np.asarray(frame.to_ndarray(), dtype=np.float32).reshape(-1, 2)
