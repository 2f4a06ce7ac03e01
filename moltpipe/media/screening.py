"""The screening: a finished film seen and heard once, from its first frame to its last.

Here: what is in it, and where it is black, stands still or is silent. Not here: what of that is a fault
(`media.gate`), what a script asks for (`studio.asked`).

Everything is found in the one decode that the gate needs anyway. FFmpeg's `blackdetect`, `freezedetect` and
`silencedetect` would decode the film a second time: 4.6 s of processor time for a minute of 720p24, where the first
decode takes 3.5 s and looking at the frames on the way 0.4 s. `freezedetect` also weighs the mean over the whole
picture, in which lips that move in a wide shot vanish, and a held frame starts anew at every key frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from moltpipe.media.errors import MediaError
from moltpipe.media.offload import heed
from moltpipe.media.probe import opened, picture_of
from moltpipe.studio.asked import Stretch
from moltpipe.studio.finish import HOUSE_FINISH

LOOKS_PER_S = 8
"""Frames a second that are looked at; all are decoded."""
GRID = (64, 36)
"""Fields of the picture of which the mean is taken: small enough for lips in a wide shot, and over the noise that an
encoder adds to a standing picture."""
BLACK = 24
"""Mean brightness (luma, 16 is black and 235 white) up to which a field counts as black."""
STILL = 3
"""Largest change of a field's mean, of 219 steps, with which a picture still stands. Measured: pictures that were held
change by up to 2 from key frame to key frame, and by 3 to 5 when they are nothing but noise at 180p, which may show one
such stretch as two; within two seconds of the animatic's slowest camera some field changes by 22 or more, with a still
camera and a figure that breathes by 7."""
SILENT_UNDER_AIM_DB = 46.0
"""How far under the loudness of the whole, in dB of full scale, the largest sample of an AAC packet lies in silence:
-60 dBFS at the house's -14 LUFS. A mix is brought to its loudness as one, and its softest bed with it: of room tone
at -50 LUFS the packets peak at -46 to -40 dBFS, so 14 dB and more above that. Against a limit that stood still they
lay at -63 dBFS in a mix that was brought to -31 LUFS, and a quiet film might be refused as a silent one."""
SHORTEST_S = 0.5
"""Shorter stretches are not worth keeping: a film of two hours would fill memory with its pauses."""
_TITLE_HEADER = 2
"""Bytes in which a `mov_text` sample says how long its text is (3GPP TS 26.245, section 5.17)."""


@dataclass(frozen=True)
class Title:
    """A soft caption as it lies in the file, in milliseconds."""

    start_ms: int
    end_ms: int
    text: str


@dataclass(frozen=True)
class Screening:
    """What was seen and heard. Times in seconds from the start of the film."""

    frames: int
    samples: int
    sample_rate: int | None
    picture_starts_at_s: float | None
    sound_starts_at_s: float | None
    rotation: int
    """Degrees counterclockwise by which a player turns the picture."""
    stumbles: int
    """Places at which decoding times do not grow."""
    black: tuple[Stretch, ...]
    frozen: tuple[Stretch, ...]
    """Standing still and not black."""
    silent: tuple[Stretch, ...]
    titles: tuple[Title, ...]

    @property
    def sound_s(self) -> float:
        """Length of the sound."""
        return self.samples / self.sample_rate if self.sample_rate else 0.0


def screen(path: Path, *, loudness_lufs: float | None = None) -> Screening:
    """Decode a film strictly, from its beginning to its end, and look and listen on the way.

    What it needs of memory does not grow with the film's length. `loudness_lufs` is the loudness that the film should
    have, which decides how soft silence is; without one it is the house's.

    Raises:
        MediaError: something in it does not decode.
        Stopped: the caller's task was cancelled.
    """
    aim_lufs = HOUSE_FINISH.loudness_lufs if loudness_lufs is None else loudness_lufs
    eyes, ears, order = _Eyes(), _Ears(10 ** ((aim_lufs - SILENT_UNDER_AIM_DB) / 20)), _Order()
    titles: list[Title] = []
    with opened(path, strict=True) as container:
        picture, sound = picture_of(container), next(iter(container.streams.audio), None)
        if picture is None and sound is None:
            raise MediaError(f"{path.name} holds neither picture nor sound")
        every = _every(picture)
        for packet in container.demux():
            heed()
            order.take(packet)
            if packet.stream is picture:
                for frame in packet.decode():
                    if isinstance(frame, av.VideoFrame):
                        eyes.take(frame, look=eyes.frames % every == 0)
            elif packet.stream is sound:
                for heard in packet.decode():
                    if isinstance(heard, av.AudioFrame):
                        ears.take(heard)
            elif packet.stream.type == "subtitle":
                titles += _titles(packet)
    return Screening(
        frames=eyes.frames,
        samples=ears.samples,
        sample_rate=ears.rate,
        picture_starts_at_s=eyes.starts_at_s,
        sound_starts_at_s=ears.starts_at_s,
        rotation=eyes.rotation,
        stumbles=order.stumbles,
        black=tuple(eyes.black.ended()),
        frozen=tuple(eyes.frozen.ended()),
        silent=tuple(ears.silent.ended()),
        titles=tuple(titles),
    )


def _every(picture: VideoStream | None) -> int:
    rate = picture.average_rate if picture is not None else None
    return max(1, int((rate or Fraction(0)) / LOOKS_PER_S))


@dataclass
class _Span:
    """Stretches of one kind, put together from moments at which it holds or does not."""

    found: list[Stretch] = field(default_factory=list)
    _since_s: float | None = None
    _until_s: float = 0.0

    def holds(self, from_s: float, until_s: float) -> None:
        if self._since_s is None:
            self._since_s = from_s
        self._until_s = until_s

    def ends(self) -> None:
        if self._since_s is not None and self._until_s - self._since_s >= SHORTEST_S:
            self.found.append(Stretch(self._since_s, self._until_s))
        self._since_s = None

    def ended(self) -> list[Stretch]:
        self.ends()
        return self.found


class _Eyes:
    """Compares every look with the picture at which the last change was seen, so that a slow drift adds up."""

    def __init__(self) -> None:
        self.frames = 0
        self.starts_at_s: float | None = None
        self.rotation = 0
        self.black = _Span()
        self.frozen = _Span()
        self._last: tuple[float, NDArray[np.int16]] | None = None

    def take(self, frame: av.VideoFrame, *, look: bool) -> None:
        self.frames += 1
        at_s = frame.time or 0.0
        if self.starts_at_s is None:
            self.starts_at_s, self.rotation = at_s, frame.rotation
        if look:
            self._look(at_s, _fields(frame))

    def _look(self, at_s: float, seen: NDArray[np.int16]) -> None:
        if int(seen.max()) <= BLACK:
            self.black.holds(at_s, at_s)
            self.frozen.ends()
            self._last = None
            return
        self.black.ends()
        if self._last is not None and int(np.abs(seen - self._last[1]).max()) <= STILL:
            self.frozen.holds(self._last[0], at_s)
        else:
            self.frozen.ends()
            self._last = (at_s, seen)


def _fields(frame: av.VideoFrame) -> NDArray[np.int16]:
    """Mean brightness of every field of the grid, as luma."""
    columns, rows = GRID
    small = frame.reformat(width=columns, height=rows, format="yuv420p", interpolation="AREA").planes[0]
    seen = np.frombuffer(bytes(small), np.uint8).reshape(rows, small.line_size)[:, :columns]
    return seen.astype(np.int16)


class _Ears:
    def __init__(self, silence: float) -> None:
        """Samples smaller than `silence` are not heard; full scale is 1."""
        self._silence = silence
        self.samples = 0
        self.rate: int | None = None
        self.starts_at_s: float | None = None
        self.silent = _Span()

    def take(self, frame: av.AudioFrame) -> None:
        at_s = frame.time or 0.0
        if self.starts_at_s is None:
            self.starts_at_s, self.rate = at_s, frame.sample_rate
        self.samples += frame.samples
        if float(np.abs(frame.to_ndarray()).max(initial=0.0)) < self._silence:
            self.silent.holds(at_s, at_s + frame.samples / frame.sample_rate)
        else:
            self.silent.ends()


@dataclass
class _Order:
    stumbles: int = 0
    _last: dict[int, int] = field(default_factory=dict)

    def take(self, packet: Packet[Any]) -> None:
        if packet.dts is None:
            return
        if packet.dts <= self._last.get(packet.stream_index, packet.dts - 1):
            self.stumbles += 1
        self._last[packet.stream_index] = packet.dts


def _titles(packet: Packet[Any]) -> Iterator[Title]:
    """The caption in a `mov_text` sample; the empty samples between captions are none."""
    content = bytes(packet)
    text = content[_TITLE_HEADER : _TITLE_HEADER + int.from_bytes(content[:_TITLE_HEADER], "big")]
    if not text or packet.pts is None or packet.time_base is None:
        return
    start_ms, lasts_ms = (round(ticks * packet.time_base * 1000) for ticks in (packet.pts, packet.duration or 0))
    yield Title(start_ms, start_ms + lasts_ms, text.decode("utf-8", "replace"))
