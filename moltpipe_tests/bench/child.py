"""The process in which one case runs: `python -m moltpipe_tests.bench.child MODULE:FUNCTION FOLDER`.

Here: repeating and timing. Not here: memory, which the parent reads (`moltpipe_tests.bench.measuring`). Only the
standard library is imported, because the rivals' Python has nothing of ours. What is measured does not include the
start of the interpreter or imports: a worker of the pipeline has both behind it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from moltpipe_tests.bench.registry import Run

REPEATS = 3
LONG_S = 5.0
"""What takes so long the first time is not run again: its start does not weigh."""
ENOUGH_S = 10.0
"""No further repeat is begun after so much time."""
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class _Turn:
    wall_s: float
    user_s: float
    system_s: float
    details: dict[str, float]


def main() -> None:
    """Run one case and print its best turn as JSON."""
    # Ignored where the bench itself is in a shell's background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        # Orphans become ours: the process that runs are copied from outlives its parent by a moment, and all the
        # processor time of the runs would be gone with it.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    reference, folder = sys.argv[1], Path(sys.argv[2])
    module, _, name = reference.partition(":")
    run: Run = getattr(importlib.import_module(module), name)
    warm_up = _turn(run, folder)
    turns: list[_Turn] = []
    spent_s = warm_up.wall_s
    while warm_up.wall_s < LONG_S and len(turns) < REPEATS and (not turns or spent_s < ENOUGH_S):
        turns.append(_turn(run, folder))
        spent_s += turns[-1].wall_s
    best = min(turns or [warm_up], key=lambda turn: turn.wall_s)
    sys.stdout.write(json.dumps({**vars(best), "repeats": max(1, len(turns))}) + "\n")


def _turn(run: Run, folder: Path) -> _Turn:
    before, began = _spent(), time.perf_counter()
    details = run(folder)
    wall_s, after = time.perf_counter() - began, _spent()
    return _Turn(wall_s=wall_s, user_s=after[0] - before[0], system_s=after[1] - before[1], details=details)


def _spent() -> tuple[float, float]:
    """User and system seconds of this process and of the programs that have ended under it."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    own, programs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + programs.ru_utime, own.ru_stime + programs.ru_stime


if __name__ == "__main__":
    main()
