"""Half an hour and two hours against two minutes: memory that stays and time that grows with the length.

Here: 180 and 720 clips of ten seconds with their own sound, 252 and 1,008 voice lines, music and captions, at a small
profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moltpipe_tests.bench.material import long_plan
from moltpipe_tests.bench.registry import Measurement, case, finding
from moltpipe_tests.bench.stitching import cut

SHORT_MIN = 2
LONG_MIN = {"half an hour": 30, "2 hours": 120}


@case("2 minutes", "moltpipe: 12 clips of 10 s at 180p24 with sound, 16 lines, music, captions")
def two_minutes(folder: Path) -> dict[str, float]:
    return cut(long_plan(folder, SHORT_MIN), folder / "two-minutes").details()


@case("half an hour", "moltpipe: 180 such clips, 252 lines")
def half_an_hour(folder: Path) -> dict[str, float]:
    return cut(long_plan(folder, LONG_MIN["half an hour"]), folder / "half-an-hour").details()


@case("2 hours", "moltpipe: 720 such clips, 1,008 lines", on_request=True)
def two_hours(folder: Path) -> dict[str, float]:
    return cut(long_plan(folder, LONG_MIN["2 hours"]), folder / "two-hours").details()


def _grows(long: str) -> None:
    """Both findings of one length."""
    needs = ("2 minutes", long)

    @finding(
        f"memory, {long}",
        f"peak memory of {long}",
        against="less that of two minutes",
        needs=needs,
        unit="MiB",
        at_most=150,
    )
    def memory(took: Mapping[str, Measurement]) -> float:
        return took[long].peak_mib - took["2 minutes"].peak_mib

    @finding(f"linear, {long}", f"a minute of {long}", against="a minute of two minutes", needs=needs, at_most=1.5)
    def linear(took: Mapping[str, Measurement]) -> float:
        return (took[long].wall_s / LONG_MIN[long]) / (took["2 minutes"].wall_s / SHORT_MIN)


for _long in LONG_MIN:
    _grows(_long)
