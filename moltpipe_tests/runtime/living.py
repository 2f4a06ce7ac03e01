"""Whether a process lives. One that is over but whose parent has not looked yet still has its pid."""

from __future__ import annotations

import psutil


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
