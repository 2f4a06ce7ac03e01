"""A picture of a sound: its waveform, for whoever looks at a cut without listening to it.

Here: the drawing. Not here: where it is shown (`defs.reports`).
"""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from moltpipe.media.landing import landing
from moltpipe.media.offload import heed
from moltpipe.media.pcm import Block, ahead, decoded

LINE = (74, 124, 176)
BODY = (128, 170, 210)
"""Blues of middle lightness on a transparent ground: seen on a white page and on a black one."""
BIN = 480
"""Samples of which the highest and the mean are kept, 10 ms: as fine as anybody can see, and little for two hours."""
OVERSAMPLED = 4
"""Drawn so many times as high and scaled down, so that the edge is smooth."""


def waveform(sound_or_video: Path, target_png: Path, *, size: tuple[int, int] = (640, 120)) -> None:
    """Draw the sound of a file as a PNG of `size` pixels: peaks in a dark tone, the mean within them in a light one.

    Time runs over the whole width, full scale over the whole height. Silence is a thin line.

    Raises:
        MediaError: the file cannot be read or holds no sound.
    """
    peaks, means = _bins(sound_or_video)
    width, height = size
    edges = np.linspace(0, len(peaks), width + 1).astype(int).tolist()
    columns = [slice(first, max(first + 1, last)) for first, last in pairwise(edges)]
    middle = height * OVERSAMPLED // 2
    high = np.array([peaks[column].max() for column in columns]) * middle
    full = np.array([np.sqrt((means[column] ** 2).mean()) for column in columns]) * middle
    away = np.abs(np.arange(2 * middle) + 0.5 - middle)[:, np.newaxis]
    picture = np.zeros((2 * middle, width, 4), dtype=np.uint8)
    picture[..., :3] = LINE
    picture[away <= np.maximum(high, OVERSAMPLED / 2), 3] = 255
    picture[away <= full, :3] = BODY
    drawn = Image.fromarray(picture).resize(size, Image.Resampling.BOX)
    with landing(target_png) as part:
        drawn.save(part, format="PNG", optimize=True)


def _bins(file: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Highest and root mean square values of every `BIN` samples."""
    peaks: list[npt.NDArray[np.float32]] = []
    means: list[npt.NDArray[np.float32]] = []
    with closing(ahead(decoded(file))) as blocks:
        rest = np.empty((0, 2), dtype=np.float32)
        for block in blocks:
            heed()
            joined = np.concatenate([rest, block]) if len(rest) else block
            whole = len(joined) // BIN * BIN
            _keep(joined[:whole], peaks, means)
            rest = joined[whole:]
        padded = np.zeros((BIN, 2), dtype=np.float32)
        padded[: len(rest)] = rest
        _keep(padded, peaks, means)
    return np.minimum(np.concatenate(peaks), 1), np.minimum(np.concatenate(means), 1)


def _keep(block: Block, peaks: list[npt.NDArray[np.float32]], means: list[npt.NDArray[np.float32]]) -> None:
    bins = np.abs(block).reshape(-1, 2 * BIN)
    peaks.append(bins.max(axis=1))
    means.append(np.sqrt((bins**2).mean(axis=1)))
