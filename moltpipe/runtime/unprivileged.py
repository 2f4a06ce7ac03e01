"""Run a program as another user, when we are root and it refuses to be: `unprivileged.py UID GID PROGRAM ARG...`.

Run by its path with the standard library alone, and it becomes the program, so the pid stays.

The program keeps one capability of root where the kernel grants it: to pass through folders that are
closed to its user. The rejected alternative is what the wheel's own starter does: open every folder above
the data to everybody, and a home of mode 0700 is one of 0755 for ever after.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1


def become(uid: int, gid: int) -> None:
    """Change to the user for good, keeping the right to pass through closed folders where that can be had."""
    keep = sys.platform == "linux"
    libc = ctypes.CDLL(None)
    if keep:
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if keep:
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        kept = 1 << _CAP_DAC_OVERRIDE
        effective_permitted_inheritable = (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)
        # Refused in a container that was started without the capability; then the folders must be open anyway.
        if libc.capset(header, effective_permitted_inheritable) == 0:
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


if __name__ == "__main__":
    become(int(sys.argv[1]), int(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606 - becoming the program without a shell is the purpose
