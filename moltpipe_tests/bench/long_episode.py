"""Two hours against two minutes: memory that stays and time that grows with the length.

Here: 720 clips of ten seconds with their own sound, 1,008 voice lines, music and captions, at a small profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moltpipe_tests.bench.material import long_plan
from moltpipe_tests.bench.registry import Measurement, case, finding
from moltpipe_tests.bench.stitching import cut

SHORT_MIN, LONG_MIN = 2, 120


@case("2 minutes", "moltpipe: 12 clips of 10 s at 180p24 with sound, 16 lines, music, captions")
def two_minutes(folder: Path) -> dict[str, float]:
    return cut(long_plan(folder, SHORT_MIN), folder / "two-minutes").details()


@case("2 hours", "moltpipe: 720 such clips, 1,008 lines")
def two_hours(folder: Path) -> dict[str, float]:
    return cut(long_plan(folder, LONG_MIN), folder / "two-hours").details()


@finding(
    "memory",
    "peak memory of two hours",
    against="less that of two minutes",
    needs=("2 minutes", "2 hours"),
    unit="MiB",
    at_most=150,
)
def memory(took: Mapping[str, Measurement]) -> float:
    return took["2 hours"].peak_mib - took["2 minutes"].peak_mib


@finding(
    "linear", "a minute of two hours", against="a minute of two minutes", needs=("2 minutes", "2 hours"), at_most=1.5
)
def linear(took: Mapping[str, Measurement]) -> float:
    return (took["2 hours"].wall_s / LONG_MIN) / (took["2 minutes"].wall_s / SHORT_MIN)
