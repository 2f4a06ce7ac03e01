"""How many cores a process may keep busy.

Here: the count alone, for those who must not load FFmpeg for it, as Dagster's daemon. Not here: what is made of it
(`media.encoders`, `runtime.launchers`).
"""

from __future__ import annotations

import os
from pathlib import Path

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of a container's own control group (version 2): microseconds of CPU, or `max`, in how many microseconds."""


def usable_cores(quota: Path = _CPU_QUOTA) -> int:
    """Cores that this process may use: what it was bound to and, in a container, what its limit leaves of that.

    Only the first would count the 64 cores of a node for a pod that is limited to two: 32 threads for each take, which
    stand still most of the time and hold the memory of 32.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        used, _, within = quota.read_text().partition(" ")
        return max(1, min(bound, round(int(used) / int(within))))
    except (OSError, ValueError):
        return bound
