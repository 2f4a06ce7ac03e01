"""How loud a sound is, measured while it passes through a decoder.

Here: FFmpeg's `ebur128` as a graph of one filter. Not here: making a sound as loud as it should be (`media.sound`).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import av
import av.filter

_QUIETEST_LUFS = -70.0
"""The absolute gate of EBU R 128: below it nothing has a loudness."""


@dataclass(frozen=True)
class Level:
    """How loud a sound is (EBU R 128). None: below -70 LUFS, too short to have a loudness, or without any sample."""

    lufs: float | None
    """Integrated loudness."""
    dbtp: float | None
    """True peak, to a thousandth of full scale. None as well where it was not asked for."""


class Meter:
    """Measures one sound, frame by frame. What changes its form on the way is measured up to there."""

    def __init__(self, *, true_peak: bool = True) -> None:
        """Looking for the true peak, four times oversampled, costs as much again as the loudness."""
        self._peak = "true" if true_peak else "none"
        self._graph: av.filter.Graph | None = None
        self._form: tuple[int, str, str] | None = None
        self._figures: dict[str, str] = {}

    def hear(self, frame: av.AudioFrame) -> None:
        """Take in the next frame."""
        form = (frame.sample_rate, frame.format.name, frame.layout.name)
        if self._graph is None:
            self._form, self._graph = form, _graph_for(frame, self._peak)
        if form == self._form:
            self._graph.push(frame)
            self._read(self._graph)

    def measured(self) -> Level:
        """What was heard up to here; ends the measuring."""
        if self._graph is not None:
            self._graph.push(None)
            self._read(self._graph)
        lufs = float(self._figures.get("lavfi.r128.I", "-inf"))
        peak = float(self._figures.get("lavfi.r128.true_peak", "0"))
        return Level(
            lufs=lufs if lufs > _QUIETEST_LUFS else None,
            dbtp=round(20 * math.log10(peak), 2) if peak > 0 else None,
        )

    def _read(self, graph: av.filter.Graph) -> None:
        with suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                self._figures = graph.pull().metadata or self._figures


def _graph_for(frame: av.AudioFrame, peak: str) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=frame.sample_rate, format=frame.format, layout=frame.layout, time_base=frame.time_base
    )
    meter = graph.add("ebur128", f"metadata=1:peak={peak}:framelog=quiet")
    sink = graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    return graph
