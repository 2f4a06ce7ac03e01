"""`moltpipe demo` as a newcomer starts it: a vote, a series of five episodes, all by engines of this machine.

Here: the command in a folder of its own. What it says of itself is what is told: the whole of it, its start and the
fifteen seconds of the vote included, and the time from the period's end to the first take.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from moltpipe_tests.bench.registry import Measurement, case, finding


@case("demo", "`moltpipe demo`: the whole story with engines of this machine", material=False, on_request=True)
def demo(folder: Path) -> dict[str, float]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MOLTPIPE_", "AWS_"))}
    environ |= {"MOLTPIPE_DATA_DIR": str(folder / "demo")}
    command = [sys.executable, "-m", "moltpipe", "demo", "--json"]
    said = json.loads(subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {
        "elapsed_s": said["elapsed_seconds"],
        "first_take_s": said["closed_to_first_take_seconds"],
        "video_s": sum(
            variant["duration_seconds"]
            for series in said["series"]
            for episode in series["episodes"]
            for variant in episode["variants"]
        ),
    }


@finding("demo", "`moltpipe demo`, from the command to its account", needs=("demo",), unit="s")
def whole_demo(took: Mapping[str, Measurement]) -> float:
    return took["demo"].details["elapsed_s"]


@finding("demo, first take", "from the end of its vote to the first take", needs=("demo",), unit="s")
def first_take(took: Mapping[str, Measurement]) -> float:
    return took["demo"].details["first_take_s"]
