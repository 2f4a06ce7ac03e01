"""The timeline of sound: every cue in its place, to the sample, and what steps back while somebody speaks.

Here: placing, fading, summing and ducking, as a stream. Not here: how loud the sum is made (`media.sound`), when
something is heard (`studio.timing`, `production.soundtracks`).

Cues are opened when their time comes and closed when it is over. The rejected alternative, one filter graph with an
input for every cue and an `amix` over all of them, opens a thousand files for a long episode, decodes them all from
its start, and takes time that grows with the square of their number.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.filter.context import FilterContext

from moltpipe.media.errors import MediaError
from moltpipe.media.music import lengthened
from moltpipe.media.pcm import BLOCK, SAMPLE_RATE, Block, Tape, decoded, filtered, length

EDGE_FADE_S = 0.008
OVERHANG_S = 0.1
"""Speech may run over the end of the soundtrack by so much, which is its engine's trailing silence."""
DUCKING = "threshold=0.03:ratio=8:attack=20:release=400:makeup=1"


class CueKind(StrEnum):
    """What a cue is: voices stand in front, everything else steps back while somebody speaks."""

    VOICE = "voice"
    CLIP = "clip"
    """The sound that a clip came with."""
    AMBIENCE = "ambience"
    MUSIC = "music"


_LEVELS_DB = {CueKind.VOICE: 0.0, CueKind.CLIP: -6.0, CueKind.AMBIENCE: 0.0, CueKind.MUSIC: -12.0}
"""Before levelling. Ambience is made at the level at which it belongs under a voice (`media.ambience`)."""


@dataclass(frozen=True)
class Cue:
    """One sound and when it begins, in seconds from the start of the soundtrack."""

    file: Path
    starts_at_s: float
    kind: CueKind
    seconds: float | None = None
    """Heard for no longer than this; None: to its end."""
    looped: bool = False
    """Its end is that of the soundtrack: it is cut, or begins again with an overlap, and fades out (`media.music`)."""
    fade_in_s: float = EDGE_FADE_S
    fade_out_s: float = EDGE_FADE_S


@dataclass(frozen=True)
class Placed:
    """A cue in whole samples."""

    cue: Cue
    begins: int
    samples: int


def place(cues: Sequence[Cue], seconds: float, samples: int) -> list[Placed]:
    """Turn cues into samples, in the order in which they begin. What is no voice is cut at the soundtrack's end.

    The soundtrack is asked to last `seconds` and lasts `samples`, which may be half a packet less or more: where it is
    less, cues fade out that much earlier, and where it is more, silence follows them.

    Raises:
        MediaError: a cue cannot be read, begins outside the soundtrack or has no length, or a voice would be cut off.
    """
    end = min(samples, round(seconds * SAMPLE_RATE))
    placed: list[Placed] = []
    for cue in cues:
        if not 0 <= cue.starts_at_s < seconds:
            raise MediaError(
                f"{cue.file.name} begins at {cue.starts_at_s:.3f} s, outside a soundtrack of {seconds:.3f} s"
            )
        begins = min(round(cue.starts_at_s * SAMPLE_RATE), end - 1)
        own = length(cue.file)
        if cue.looped:
            own = end - begins
        if cue.seconds is not None:
            if not cue.seconds > 0:
                raise MediaError(f"{cue.file.name} is to be heard for {cue.seconds} s: expected more than none")
            own = min(own, max(1, round(cue.seconds * SAMPLE_RATE)))
        over_s = (begins + own) / SAMPLE_RATE - seconds
        if cue.kind is CueKind.VOICE and over_s > OVERHANG_S:
            raise MediaError(f"the voice {cue.file.name} would be cut off: it ends {over_s:.3f} s after the soundtrack")
        placed.append(Placed(cue, begins, min(own, end - begins)))
    return sorted(placed, key=lambda one: one.begins)


def soundtrack(placed: Sequence[Placed], samples: int) -> Generator[Block]:
    """The whole soundtrack as stereo, unlevelled, exactly `samples` long: beds ducked under voices, all summed.

    Full scale is no limit here. Raises `MediaError` when a cue holds less than its file announced.
    """
    kinds = {one.cue.kind is CueKind.VOICE for one in placed}
    if len(kinds) == 1:
        return _laid(placed, samples, buses=1)
    return filtered(_laid(placed, samples, buses=2), 4, _ducked)


def _laid(placed: Sequence[Placed], samples: int, *, buses: int) -> Generator[Block]:
    """Every bus is a stereo pair; of two the first is what speaks."""
    waiting = list(reversed(placed))
    playing: list[_Player] = []
    try:
        for start in range(0, samples, BLOCK):
            block = np.zeros((min(BLOCK, samples - start), 2 * buses), dtype=np.float32)
            while waiting and waiting[-1].begins < start + len(block):
                playing.append(_Player(waiting.pop()))
            for player in playing:
                bus = 2 if buses > 1 and not player.speaks else 0
                player.add_to(block[:, bus : bus + 2], start)
            for player in [one for one in playing if one.over]:
                player.close()
                playing.remove(player)
            yield block
    finally:
        for player in playing:
            player.close()


class _Player:
    """A cue while it is heard."""

    def __init__(self, placed: Placed) -> None:
        self._placed = placed
        file = placed.cue.file
        self._tape = Tape(file.name, lengthened(file, placed.samples) if placed.cue.looped else decoded(file))
        self._played = 0
        self._gain = np.float32(10 ** (_LEVELS_DB[placed.cue.kind] / 20))
        half = placed.samples // 2
        self._fade_in = min(round(placed.cue.fade_in_s * SAMPLE_RATE), half)
        self._fade_out = min(round(placed.cue.fade_out_s * SAMPLE_RATE), half)

    @property
    def speaks(self) -> bool:
        return self._placed.cue.kind is CueKind.VOICE

    @property
    def over(self) -> bool:
        return self._played == self._placed.samples

    def add_to(self, bus: Block, start: int) -> None:
        """Add what is heard in a block that begins at sample `start`."""
        begins = max(0, self._placed.begins - start)
        wanted = min(len(bus) - begins, self._placed.samples - self._played)
        heard = self._tape.take(wanted)
        bus[begins : begins + wanted] += heard * (self._gain * self._envelope(wanted))
        self._played += wanted

    def _envelope(self, count: int) -> npt.NDArray[np.float32] | np.float32:
        """Fades over the next samples: quarters of a sine, so that one sound that goes and one that comes add up."""
        first, last = self._played, self._played + count
        if first >= self._fade_in and last <= self._placed.samples - self._fade_out:
            return np.float32(1)
        numbers = np.arange(first, last, dtype=np.float32) + 0.5
        coming = numbers / max(self._fade_in, 1)
        going = (self._placed.samples - numbers) / max(self._fade_out, 1)
        level = np.minimum(np.minimum(coming, going), 1)
        return np.sin(level * np.float32(np.pi / 2), dtype=np.float32)[:, np.newaxis]

    def close(self) -> None:
        self._tape.close()


def _ducked(graph: Graph, source: FilterContext) -> FilterContext:
    """Beds compressed by what the voices do, under the voices. Not `amix`'s average: it lets voices sink."""
    both = graph.add("asplit")
    voices, beds = graph.add("pan", "stereo|c0=c0|c1=c1"), graph.add("pan", "stereo|c0=c2|c1=c3")
    spoken = graph.add("asplit")
    ducking = graph.add("sidechaincompress", DUCKING)
    total = graph.add("amix", "inputs=2:normalize=0")
    interleaved = graph.add("aformat", "sample_fmts=flt")
    source.link_to(both)
    both.link_to(voices, 0, 0)
    both.link_to(beds, 1, 0)
    voices.link_to(spoken)
    beds.link_to(ducking, 0, 0)
    spoken.link_to(ducking, 0, 1)
    spoken.link_to(total, 1, 0)
    ducking.link_to(total, 0, 1)
    total.link_to(interleaved)
    return interleaved
