"""What it costs to look at a film: the delivery gate and the examination of arrivals, against plain decoding.

Here: one minute of 720p30 with sound. Processor time is compared, not wall time: all of them decode on all cores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from moltpipe.media.captions import captions
from moltpipe.media.examine import examine
from moltpipe.media.gate import deliver
from moltpipe.media.runner import run, url
from moltpipe.studio.asked import Asked, Stretch
from moltpipe_tests.bench.material import short_plan
from moltpipe_tests.bench.registry import Measurement, case, finding, preparation
from moltpipe_tests.bench.stitching import cut


@preparation
def make_episode(folder: Path) -> None:
    """The episode that is looked at, and what its mix should have reached."""
    made = cut(short_plan(folder), folder / "looked-at")
    (folder / "looked-at" / "aim.json").write_text(json.dumps(made.loudness.aim_lufs), encoding="utf-8")


@case("decode", "plain FFmpeg decodes a minute of 720p30 with sound")
def decoded(folder: Path) -> dict[str, float]:
    run(["-i", url(_film(folder)), "-map", "0:v", "-map", "0:a", "-f", "null", "-"], timeout_s=300)
    return {}


@case("gate", "moltpipe: every rule of delivery on the same minute")
def delivered(folder: Path) -> dict[str, float]:
    plan = short_plan(folder)
    anywhere = (Stretch(0.0, plan.seconds),)
    aim: float | None = json.loads((folder / "looked-at" / "aim.json").read_text(encoding="utf-8"))
    deliver(
        _film(folder),
        frames=plan.frames,
        profile=plan.profile,
        loudness_lufs=aim,
        # The clips are test patterns, some of which hardly move. They are looked at all the same.
        asked=Asked(black=anywhere, frozen=anywhere, silent=anywhere),
        captions=captions(plan.lines(), end_s=plan.seconds),
    )
    return {}


@case("examine", "moltpipe: the same minute as if a stranger had sent it, in a fenced process")
def examined(folder: Path) -> dict[str, float]:
    examine(_film(folder))
    return {}


def _film(folder: Path) -> Path:
    return folder / "looked-at" / "episode.mp4"


@finding("gate / decode", "processor time of the gate", against="decoding", needs=("gate", "decode"))
def gate(took: Mapping[str, Measurement]) -> float:
    return _busy_s(took["gate"]) / _busy_s(took["decode"])


@finding("examine / decode", "processor time of an examination", against="decoding", needs=("examine", "decode"))
def examination(took: Mapping[str, Measurement]) -> float:
    return _busy_s(took["examine"]) / _busy_s(took["decode"])


def _busy_s(took: Measurement) -> float:
    return took.user_s + took.system_s
