"""How loud a sound is (EBU R 128), and how much gain brings it where it should be.

Here: the meter, and the gain that a limiter leaves something of. Not here: what is aimed at (`studio.finish`), and
when a soundtrack is measured (`media.sound`).
"""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moltpipe.media import meter
from moltpipe.media.offload import heed
from moltpipe.media.pcm import SAMPLE_RATE, Block, ahead, as_frame, decoded

SILENCE_DBFS = -70.0
"""Below is nothing: EBU R 128 leaves blocks under -70 LUFS out of account."""
_COARSE_DBTP = -26.0
"""Below, three decimals of full scale are wrong by more than a tenth of a decibel."""
GATING_STEP = SAMPLE_RATE // 10
"""Samples in the steps of 100 ms in which R 128 looks at a sound."""
CHUNK = SAMPLE_RATE // 100
"""Samples in the steps of 10 ms in which `Meter` remembers how high and how strong a sound is."""
RELEASE_CHUNKS = 4
"""How long, in chunks, the limiter holds a sound down after a peak, near enough: its release is 50 ms."""
GATE_DB = 20.0
"""Chunks so far under the mean have no part in the loudness of the whole, near enough."""


def measure(sound: Path) -> tuple[float | None, float | None]:
    """Integrated loudness in LUFS and true peak in dBTP (EBU R 128); None for what is below -70 or not measurable.

    Raises:
        MediaError: the file cannot be read or holds no sound.
    """
    meter = Meter()
    with closing(ahead(decoded(sound))) as blocks:
        for block in blocks:
            heed()
            meter.add(block)
    return meter.lufs, meter.dbtp


class Meter:
    """Hears a stereo stream block by block and tells its loudness at the end.

    `media.meter` does the measuring. Its true peaks have three decimals of full scale, which is coarse for whispers:
    the highest sample is the lower bound. What it does not know is where a limiter would take hold, so the sound's
    shape is remembered here.
    """

    def __init__(self, *, true_peak: bool = True) -> None:
        """Without `true_peak` the highest sample is all that is known of the peaks, at half the price."""
        self._true_peak = true_peak
        self._meter = meter.Meter(true_peak=true_peak)
        self._level: meter.Level | None = None
        self._fed = 0
        self._peaks: list[npt.NDArray[np.float32]] = []
        self._powers: list[npt.NDArray[np.float32]] = []
        self._rest = np.empty((0, 2), dtype=np.float32)

    def add(self, block: Block) -> None:
        """Hear the next samples."""
        if self._level is not None:
            raise ValueError("this meter has told its figures and hears no more")
        self._meter.hear(as_frame(block, "stereo", self._fed))
        self._fed += len(block)
        self._remember(np.concatenate([self._rest, block]) if len(self._rest) else block)

    @property
    def lufs(self) -> float | None:
        """Integrated loudness, None for silence and for what is too short."""
        return self._finished().lufs

    @property
    def dbfs(self) -> float | None:
        """The highest sample in dB of full scale, None for silence."""
        self._finished()
        highest = max((float(part.max()) for part in self._peaks if len(part)), default=0.0)
        level = 20 * math.log10(highest) if highest > 0 else -math.inf
        return round(level, 2) if level > SILENCE_DBFS else None

    @property
    def dbtp(self) -> float | None:
        """True peak, None for silence.

        Raises:
            ValueError: this meter was told not to look for it.
        """
        if not self._true_peak:
            raise ValueError("this meter does not look for true peaks")
        highest, true_peak_dbtp = self.dbfs, self._finished().dbtp
        if highest is None or true_peak_dbtp is None or true_peak_dbtp <= _COARSE_DBTP:
            return highest
        return max(highest, true_peak_dbtp)

    def limiting_loss_db(self, gain_db: float, limit_db: float) -> float:
        """About how much loudness a limiter would take from this sound after a gain, in dB (0 or more)."""
        self._finished()
        peaks, powers = np.concatenate(self._peaks), np.concatenate(self._powers)
        loud = powers > powers.mean() * 10 ** (-GATE_DB / 10)
        if not loud.any():
            return 0.0
        kept = np.minimum(1, 10 ** ((limit_db - gain_db) / 20) / np.maximum(peaks, np.float32(1e-9)))
        for later in range(1, RELEASE_CHUNKS + 1):
            risen = 1 - (1 - kept[:-later]) * (1 - later / (RELEASE_CHUNKS + 1)) if len(kept) > later else kept[:0]
            kept[later:] = np.minimum(kept[later:], risen)
        left = float((powers * kept**2)[loud].sum() / powers[loud].sum())
        return -10 * math.log10(left)

    def gain_db(self, target_lufs: float, limit_db: float) -> float:
        """The gain that brings this sound to a loudness through a limiter, as far as can be told before.

        Raises:
            ValueError: the sound has no loudness.
        """
        if self.lufs is None:
            raise ValueError("silence has no loudness to be changed")
        wanted = target_lufs - self.lufs
        gain = wanted
        for _ in range(8):
            gain = wanted + self.limiting_loss_db(gain, limit_db)
        return gain

    def _finished(self) -> meter.Level:
        if self._level is None:
            if incomplete := self._fed % GATING_STEP:
                self.add(np.zeros((GATING_STEP - incomplete, 2), dtype=np.float32))
            self._level = self._meter.measured()
        return self._level

    def _remember(self, block: Block) -> None:
        whole = len(block) // CHUNK * CHUNK
        self._rest = block[whole:]
        chunks = block[:whole].reshape(-1, 2 * CHUNK)
        self._peaks.append(np.maximum(chunks.max(axis=1), -chunks.min(axis=1)))
        self._powers.append(np.einsum("ij,ij->i", chunks, chunks))
