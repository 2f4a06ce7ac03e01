from __future__ import annotations

import numpy as np
import pytest

from moltpipe.media.loudness import Meter
from moltpipe.media.pcm import SAMPLE_RATE, Block


def between_the_samples() -> Block:
    """Two seconds of a tone whose crests lie halfway between its samples, which see 3 dB less of it."""
    number = np.arange(2 * SAMPLE_RATE)
    tone = 0.5 * np.sin(np.pi / 2 * number + np.pi / 4) * np.sin(np.pi * number / len(number))
    return np.repeat(tone[:, np.newaxis], 2, axis=1).astype(np.float32)


def test_the_highest_sample_is_told_apart_from_the_true_peak() -> None:
    meter = Meter()
    meter.add(between_the_samples())
    assert meter.dbtp == pytest.approx(-6.02, abs=0.1)
    assert meter.dbfs == pytest.approx(-9.03, abs=0.1)


def test_without_true_peaks_everything_else_is_the_same_and_no_peak_is_made_up() -> None:
    with_peaks, without = Meter(), Meter(true_peak=False)
    for meter in (with_peaks, without):
        meter.add(between_the_samples())
    assert without.lufs == with_peaks.lufs is not None
    assert without.dbfs == with_peaks.dbfs
    assert without.gain_db(-14, -1.7) == with_peaks.gain_db(-14, -1.7)
    with pytest.raises(ValueError, match="does not look for true peaks"):
        _ = without.dbtp


def test_silence_has_neither_loudness_nor_peak() -> None:
    meter = Meter()
    meter.add(np.zeros((SAMPLE_RATE, 2), dtype=np.float32))
    assert (meter.lufs, meter.dbfs, meter.dbtp) == (None, None, None)
