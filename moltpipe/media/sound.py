"""The sound department: lines made uniform on arrival, and one soundtrack for an episode.

Here: the order of work and the levelling. Not here: where a cue lies and what ducks (`media.sound_timeline`), how
loudness is measured (`media.loudness`), the encoder (`media.aac`), when a line is spoken (`studio.timing`).

A soundtrack is made in two passes over its cues, each in bounded memory: the first measures the mix, the second makes
it again, levels it and encodes it, and what the encoder puts out is listened to while it works. Nothing lies on the
disk between the two: laying and ducking a minute costs a fifth of a second of processor time, less than encoding it,
which goes on beside.

The level is one linear gain and a limiter, never `loudnorm`, which may turn dynamic by itself and undo the ducking.
What counts is the decoded AAC: an encoder overshoots the limiter by half a decibel in music, and takes one and a half
from rain, whose upper end it leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ffmpeg
from av.filter import Graph
from av.filter.context import FilterContext

from moltpipe.media.aac import encode, whole_packets
from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.loudness import Meter, measure
from moltpipe.media.offload import heed
from moltpipe.media.pcm import SAMPLE_RATE, Block, ahead, filtered
from moltpipe.media.probe import AudioProbe, probe
from moltpipe.media.runner import deadline_s, run, url
from moltpipe.media.sound_timeline import EDGE_FADE_S, Cue, CueKind, Placed, place, soundtrack
from moltpipe.studio.finish import HOUSE_FINISH, Finish

__all__ = [
    "EDGE_FADE_S",
    "SAMPLE_RATE",
    "Cue",
    "CueKind",
    "Loudness",
    "Soundtrack",
    "measure",
    "mix",
    "normalise_line",
]

LARGEST_GAIN_DB = 30.0
"""A whisper is raised, the noise of an empty room is not made into a storm."""
NEAR_LU = 0.35
"""A soundtrack so near to its aim is not encoded again. Delivery asks for 0.5 LU, measured by another meter."""
OVERSHOOT_DB = 0.7
"""What the limiter keeps below the ceiling for what it does not see: the curve between the samples, and the encoder."""
LEAST_CORRECTION_DB = 0.15
_LEAST_YIELD = 0.5
ROUNDS = 5
"""So many times a soundtrack is encoded at most until loudness and peak are right. Nearly always once."""
_LIMITER = "attack=5:release=50:level=0:latency=1"
"""`latency` takes the limiter's own delay back out, `level` keeps it from gaining."""
_LOWEST_LIMIT_DB = -20.0
_LINE_LIMIT_DB = -1.2
_OVERSAMPLED = 4 * SAMPLE_RATE
"""The limiter sees samples, not the curve between them: for a single line they are made four times as dense."""


@dataclass(frozen=True)
class Loudness:
    """How loud a soundtrack was mixed, and is as AAC (EBU R 128). None: too quiet or short to be measured."""

    before_lufs: float | None
    before_dbfs: float | None
    """The highest sample of the mix, which is what a limiter goes by. The peak that counts is that of the AAC."""
    after_lufs: float | None
    after_dbtp: float | None
    gain_db: float
    aim_lufs: float | None
    """What it should have reached: the finish's loudness, or what the largest gain and the limiter make of it, where
    that is less. None: silence."""

    @property
    def silent(self) -> bool:
        """Whether there is nothing to hear at all."""
        return self.after_dbtp is None


@dataclass(frozen=True)
class Soundtrack:
    """A soundtrack as AAC. `samples` at 48 kHz, whole packets, which is what it decodes to, from 0."""

    file: Path
    samples: int
    loudness: Loudness


def mix(cues: Sequence[Cue], *, seconds: float, target: Path, finish: Finish = HOUSE_FINISH) -> Soundtrack:
    """Write one stereo AAC soundtrack (.m4a, 48 kHz) with every cue in its place and at the finish's loudness.

    It lasts the whole AAC packets that come nearest to `seconds`, so it differs by at most 11 ms from them, and plays
    from 0 in step to the sample. Cues are faded at their edges; what is no voice is cut at the end. No cue, or nothing
    but silence, gives silence.

    Raises:
        MediaError: a cue cannot be read or begins outside the soundtrack, or a voice would be cut off.
    """
    if not (math.isfinite(seconds) and round(seconds * SAMPLE_RATE) >= 1):
        raise MediaError(f"a soundtrack of {seconds} s: expected a length")
    samples = whole_packets(seconds)
    placed = place(cues, seconds, samples)
    mixed = _heard(soundtrack(placed, samples))
    loudness = _levelled(placed, samples, mixed, target, finish)
    return Soundtrack(file=target, samples=samples, loudness=loudness)


def _levelled(placed: Sequence[Placed], samples: int, before: Meter, target: Path, finish: Finish) -> Loudness:
    """Encode the soundtrack, again where what is heard of it misses the finish, and tell how loud it was and is."""
    limit_db = finish.ceiling_dbtp - OVERSHOOT_DB
    correction_db = 0.0
    yielded: list[tuple[float, float]] = []
    with landing(target) as part:
        for number in range(1, ROUNDS + 1):
            gain_db, limited = _gain(before, finish, limit_db, correction_db)
            level = partial(_level, gain_db=gain_db, limit_db=limit_db if limited else None)
            after = Meter()
            encode(filtered(soundtrack(placed, samples), 2, level), part, samples=samples, hear=after.add)
            excess_db = -math.inf if after.dbtp is None else after.dbtp - finish.ceiling_dbtp
            exhausted = gain_db >= LARGEST_GAIN_DB or (limited and number == ROUNDS)
            aim_lufs = _aim(before, after, finish, exhausted=exhausted)
            lacking_lu = 0.0 if aim_lufs is None or after.lufs is None else aim_lufs - after.lufs
            if number == ROUNDS or (excess_db <= 0 and abs(lacking_lu) <= NEAR_LU):
                break
            if excess_db > 0:
                limit_db = max(_LOWEST_LIMIT_DB, limit_db - excess_db - LEAST_CORRECTION_DB)
            if after.lufs is not None:
                yielded.append((gain_db, after.lufs))
            correction_db += lacking_lu / _yield(yielded)
    return Loudness(
        before_lufs=before.lufs,
        before_dbfs=before.dbfs,
        after_lufs=after.lufs,
        after_dbtp=after.dbtp,
        gain_db=round(gain_db, 2),
        aim_lufs=aim_lufs,
    )


def _gain(before: Meter, finish: Finish, limit_db: float, correction_db: float) -> tuple[float, bool]:
    """The gain in dB, and whether a limiter must keep the peaks down after it."""
    if before.dbfs is None:
        return 0.0, False
    if before.lufs is None:
        # Too short or too rare to have a loudness: it is only kept under the ceiling.
        return min(0.0, limit_db - before.dbfs), False
    gain_db = min(LARGEST_GAIN_DB, before.gain_db(finish.loudness_lufs, limit_db) + correction_db)
    return gain_db, before.dbfs + gain_db > limit_db


def _aim(before: Meter, after: Meter, finish: Finish, *, exhausted: bool) -> float | None:
    if before.lufs is None or after.lufs is None:
        return None
    if exhausted:
        return min(finish.loudness_lufs, after.lufs)
    return finish.loudness_lufs


def _yield(rounds: Sequence[tuple[float, float]]) -> float:
    """How much loudness a decibel of gain last gave: one where nothing is limited, and the less, the more is."""
    if len(rounds) < 2:  # noqa: PLR2004 -- a slope has two ends
        return 1.0
    (gain_before, lufs_before), (gain, lufs) = rounds[-2:]
    if abs(gain - gain_before) < LEAST_CORRECTION_DB:
        return 1.0
    return min(1.0, max(_LEAST_YIELD, (lufs - lufs_before) / (gain - gain_before)))


def _heard(blocks: Generator[Block]) -> Meter:
    meter = Meter(true_peak=False)
    with closing(ahead(blocks)) as made:
        for block in made:
            heed()
            meter.add(block)
    return meter


def _level(graph: Graph, source: FilterContext, *, gain_db: float, limit_db: float | None) -> FilterContext:
    last = graph.add("volume", f"{gain_db}dB")
    source.link_to(last)
    if limit_db is not None:
        limiter = graph.add("alimiter", f"limit={10 ** (limit_db / 20)}:{_LIMITER}")
        last.link_to(limiter)
        last = limiter
    interleaved = graph.add("aformat", "sample_fmts=flt")
    last.link_to(interleaved)
    return interleaved


def normalise_line(source: Path, target_wav: Path) -> float:
    """Bring a spoken line in any format to a mono WAV (48 kHz, 16 bit) and tell its length in seconds.

    Silence before and after the words stays, since word times count from the file's start. The level stays as well
    (`mix` levels the whole), except that peaks which would clip are limited to -1 dB.

    Raises:
        MediaError: the source holds no sound, cannot be read, or FFmpeg failed.
    """
    sound = _sound_of(source)
    line = ffmpeg.input(url(source)).audio.filter("aresample", _OVERSAMPLED).filter("aformat", channel_layouts="mono")
    line = line.filter("alimiter", limit=10 ** (_LINE_LIMIT_DB / 20), attack=5, release=50, level=0, latency=1)
    line = line.filter("aresample", SAMPLE_RATE)
    with landing(target_wav) as part:
        written = line.output(url(part), acodec="pcm_s16le", ar=SAMPLE_RATE, ac=1, format="wav", map_metadata=-1)
        run(ffmpeg.get_args(written, overwrite_output=True), timeout_s=deadline_s(sound.duration_seconds))
        return _sound_of(part).duration_seconds


def _sound_of(file: Path) -> AudioProbe:
    sound = probe(file).audio
    if sound is None or not sound.samples:
        raise MediaError(f"{file.name} holds no sound")
    return sound
