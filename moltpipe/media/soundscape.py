"""What ambience is made of: washes of shaped noise, tones, clicks and chirps, as endless streams.

Here: the synthesis. Not here: which scene has which of them (`media.ambience`).

Noise is shaped in the frequency domain, half a second at a time: every piece has a spectrum of its own chance, and
neighbours overlap under the halves of a sine, whose squares add up to one, so the sum of two unlike noises is as loud
as either. All chance comes from one seed, so the same bed can be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moltpipe.media.pcm import SAMPLE_RATE, Block

HOP = SAMPLE_RATE // 2
"""Samples in one piece of a soundscape."""
SIDE = 0.35
"""How much of one side of the noise is heard on the other: none is two rooms, all of it is one loudspeaker."""
_FLOOR_HZ = 18.0
_EDGE_DB = 60.0
"""How far a spectrum falls within two octaves beyond its first and last point."""
_SWAYS = 3
_REACH = 4
"""Pieces over which a sound that begins in one of them may go on."""

Curve = tuple[tuple[float, float], ...]
"""Points (Hz, dB) of a spectrum, joined by straight lines over the logarithm of the frequency; beyond them it falls."""
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Wash:
    """Noise of a spectrum, whose level sways by up to `swing_db` either way with periods in a range of seconds."""

    curve: Curve
    level_db: float = 0.0
    swing_db: float = 0.0
    periods_s: tuple[float, float] = (2.0, 8.0)


@dataclass(frozen=True)
class Tones:
    """Steady tones, as (Hz, dB), that sway together; `pulse_hz` chops them, as crickets do."""

    partials: Curve
    level_db: float = 0.0
    swing_db: float = 0.0
    periods_s: tuple[float, float] = (2.0, 8.0)
    pulse_hz: float | None = None


@dataclass(frozen=True)
class Clicks:
    """Short strokes of a pitch out of a range, at random or every so many seconds."""

    hertz: tuple[float, float]
    decay_s: float
    level_db: float = 0.0
    spread_db: float = 6.0
    per_second: float = 0.0
    every_s: float | None = None


@dataclass(frozen=True)
class Chirps:
    """Whistled glides by a factor `glide`, up or down, each or in songs of a few."""

    per_second: float
    hertz: tuple[float, float]
    glide: float
    lasts_s: tuple[float, float]
    level_db: float = 0.0
    song: int = 1


Layer = Wash | Tones | Clicks | Chirps


def layered(layers: Sequence[tuple[Layer, float]], *, samples: int, seed: int) -> Generator[Block]:
    """The sum of layers, each with a gain in dB of its own, as stereo blocks of half a second, `samples` in all."""
    sources = [_source(layer, (seed, number)) for number, (layer, _) in enumerate(layers)]
    gains = [np.float32(10 ** ((gain_db + layer.level_db) / 20)) for layer, gain_db in layers]
    for start in range(0, samples, HOP):
        block = np.zeros((HOP, 2), dtype=np.float32)
        for source, gain in zip(sources, gains, strict=True):
            block += next(source) * gain
        yield block[: samples - start]


def _source(layer: Layer, chance: tuple[int, int]) -> Generator[Block]:
    """The layer from its beginning, without an end. Washes and tones have a root mean square of 1, strokes a peak."""
    match layer:
        case Wash():
            return _washing(layer, chance)
        case Tones():
            return _sounding(layer, chance)
        case Clicks():
            return _strewn(chance, lambda at, dice: _click(layer, at, dice), layer.per_second, layer.every_s)
        case Chirps():
            return _strewn(chance, lambda at, dice: _song(layer, at, dice), layer.per_second, None)


def _washing(wash: Wash, chance: tuple[int, int]) -> Generator[Block]:
    dice = np.random.default_rng(chance)
    sway = _Sway(wash.swing_db, wash.periods_s, dice)
    hertz = np.fft.rfftfreq(2 * HOP, 1 / SAMPLE_RATE)
    (lowest, below), (highest, above) = wash.curve[0], wash.curve[-1]
    curve = ((lowest / 4, below - _EDGE_DB), *wash.curve, (highest * 4, above - _EDGE_DB))
    points, heights = np.log([point for point, _ in curve]), [height for _, height in curve]
    shape = 10 ** (np.interp(np.log(np.maximum(hertz, 1.0)), points, heights) / 20) * (hertz >= _FLOOR_HZ)
    shape = (shape * (HOP / np.sqrt((shape**2).sum()))).astype(np.float32)[:, np.newaxis]
    rising = np.sin(np.linspace(0, np.pi / 2, HOP, dtype=np.float32))[:, np.newaxis]
    across = np.array([[np.sqrt(1 - SIDE**2), SIDE], [SIDE, np.sqrt(1 - SIDE**2)]], dtype=np.float32)

    def piece() -> Block:
        chances = dice.standard_normal((HOP + 1, 4), dtype=np.float32)
        spectrum = (chances[:, :2] + 1j * chances[:, 2:]) * shape
        return np.asarray(np.fft.irfft(spectrum, axis=0), dtype=np.float32) @ across

    before = piece()
    number = 0
    while True:
        after = piece()
        yield (before[HOP:] * rising[::-1] + after[:HOP] * rising) * sway.over(number)
        before = after
        number += 1


def _sounding(tones: Tones, chance: tuple[int, int]) -> Generator[Block]:
    dice = np.random.default_rng(chance)
    sway = _Sway(tones.swing_db, tones.periods_s, dice)
    levels = np.array([10 ** (level / 20) for _, level in tones.partials])
    levels *= np.sqrt(2 / (levels**2).sum())
    # Phases differ a little between the sides, so that a hum fills the room and does not sit in the middle of the head.
    phases = dice.uniform(0, 2 * np.pi, (len(levels), 1)) + np.array([[0.0, 0.6]])
    number = 0
    while True:
        at_s = (np.arange(HOP) + number * HOP) / SAMPLE_RATE
        block = np.zeros((HOP, 2))
        for (hertz, _), level, phase in zip(tones.partials, levels, phases, strict=True):
            block += level * np.sin((2 * np.pi * hertz * at_s)[:, np.newaxis] + phase)
        if tones.pulse_hz is not None:
            block *= (np.maximum(0, np.sin(2 * np.pi * tones.pulse_hz * at_s)) ** 2)[:, np.newaxis]
        yield block.astype(np.float32) * sway.over(number)
        number += 1


class _Sway:
    """A level that wanders: a few slow waves whose periods have nothing in common."""

    def __init__(self, swing_db: float, periods_s: tuple[float, float], dice: np.random.Generator) -> None:
        self._swing_db = swing_db
        shortest, longest = periods_s
        self._periods_s = shortest * (longest / shortest) ** dice.uniform(0, 1, (_SWAYS, 1))
        self._phases = dice.uniform(0, 2 * np.pi, (_SWAYS, 1))

    def over(self, number: int) -> Samples:
        """Factors for all samples of a piece."""
        # A point every millisecond, joined by lines, is smooth enough and forty-eight times less to compute.
        at = np.arange(0, HOP + 1, SAMPLE_RATE // 1000)
        waves = np.sin(2 * np.pi * (at + number * HOP) / SAMPLE_RATE / self._periods_s + self._phases)
        factors = 10 ** (self._swing_db * waves.mean(axis=0) * np.sqrt(2) / 20)
        over = np.interp(np.arange(HOP), at, factors)
        return np.asarray(over, dtype=np.float32)[:, np.newaxis]


def _strewn(
    chance: tuple[int, int],
    sound: Callable[[int, np.random.Generator], list[tuple[int, Block]]],
    per_second: float,
    every_s: float | None,
) -> Generator[Block]:
    """Sounds that begin at random or in step. `sound` gives what is heard from one beginning, with its places."""
    dice = np.random.default_rng(chance)
    coming = np.zeros((_REACH * HOP, 2), dtype=np.float32)
    number = 0
    while True:
        if every_s is None:
            begins = dice.integers(0, HOP, dice.poisson(per_second * HOP / SAMPLE_RATE)).tolist()
        else:
            step = round(every_s * SAMPLE_RATE)
            begins = list(range(-number * HOP % step, HOP, step))
        for begin in begins:
            for at, heard in sound(begin, dice):
                coming[at : at + len(heard)] += heard
        yield coming[:HOP].copy()
        coming = np.concatenate([coming[HOP:], np.zeros((HOP, 2), dtype=np.float32)])
        number += 1


def _click(clicks: Clicks, at: int, dice: np.random.Generator) -> list[tuple[int, Block]]:
    count = min(HOP, round(6 * clicks.decay_s * SAMPLE_RATE))
    at_s = np.arange(count) / SAMPLE_RATE
    hertz = np.exp(dice.uniform(*np.log(clicks.hertz)))
    level = 10 ** (clicks.spread_db * dice.uniform(-1, 0) / 20)
    # Noise on the tone, and a thousandth of a second to begin: a stroke, neither a beep nor a digital fault.
    rough = 1 + 0.7 * dice.standard_normal(count)
    wave = np.sin(2 * np.pi * hertz * at_s + dice.uniform(0, 6)) * rough
    wave *= np.exp(-at_s / clicks.decay_s) * np.minimum(1, at_s / 0.001) * level
    return [(at, _panned(wave, dice))]


def _song(chirps: Chirps, at: int, dice: np.random.Generator) -> list[tuple[int, Block]]:
    base = np.exp(dice.uniform(*np.log(chirps.hertz)))
    side = dice.uniform(0.15, 0.85)
    level = 10 ** (dice.uniform(-14, 0) / 20)
    heard: list[tuple[int, Block]] = []
    for _ in range(int(dice.integers(1, chirps.song + 1))):
        count = round(dice.uniform(*chirps.lasts_s) * SAMPLE_RATE)
        bend = chirps.glide ** dice.uniform(-1, 1)
        hertz = base * dice.uniform(0.93, 1.07) * np.linspace(1, bend, count)
        wave = np.sin(2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE) * np.hanning(count) * level
        heard.append((at, _panned(wave, dice, side)))
        at += count + round(dice.uniform(0.02, 0.09) * SAMPLE_RATE)
    return heard


def _panned(wave: npt.NDArray[np.float64], dice: np.random.Generator, side: float | None = None) -> Block:
    angle = (dice.uniform(0.2, 0.8) if side is None else side) * np.pi / 2
    return np.asarray(wave[:, np.newaxis] * [np.cos(angle), np.sin(angle)], dtype=np.float32)
