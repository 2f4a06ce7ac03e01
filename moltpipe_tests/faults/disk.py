"""A small disk of our own that can be full, where this machine lets us have one.

Here: a filesystem in memory, mounted where nobody but this process and its children sees it. Not here: what lies on it
(`faults.world`). It is gone with the last of them, however they end.

Filling it takes no memory and no time: it is made as small as what lies on it, and later as large as before.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_CLONE_NEWNS = 0x20000
_MS_REMOUNT, _MS_REC, _MS_PRIVATE = 0x20, 0x4000, 0x40000
_MNT_DETACH = 0x2
_SIZE = 3 << 30
_PAGE = 4096


class Disk:
    """A folder with a filesystem of its own; `cannot_fill` says why it is a plain folder, where it is one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cannot_fill = _mounted(folder)

    def fill(self) -> None:
        """Leave no free block."""
        room = os.statvfs(self.folder)
        used = (room.f_blocks - room.f_bfree) * room.f_frsize
        _mount(None, self.folder, _MS_REMOUNT, f"size={used + _PAGE}")

    def leave(self) -> None:
        """Take the filesystem away from the folder, with whatever lies on it, once nobody works there any more."""
        if self.cannot_fill is None:
            libc = ctypes.CDLL(None, use_errno=True)
            _done(libc.umount2(os.fsencode(self.folder), _MNT_DETACH), self.folder)

    def clear(self) -> None:
        """Give the free space back."""
        if self.cannot_fill is None:
            _mount(None, self.folder, _MS_REMOUNT, f"size={_SIZE}")


def _mounted(folder: Path) -> str | None:
    """Mount it in a namespace of this process, and say why not where that is refused.

    Called before there is a second thread: a namespace is the thread's own.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        return "only Linux can give a process its own mounts"
    if libc.unshare(_CLONE_NEWNS):
        return f"this user may not have mounts of its own: {os.strerror(ctypes.get_errno())}"
    try:
        _mount(None, Path("/"), _MS_REC | _MS_PRIVATE, "")
        _mount("tmpfs", folder, 0, f"size={_SIZE},mode=0755")
    except OSError as refused:
        return f"this user may not mount a filesystem: {refused.strerror}"
    return None


def _mount(kind: str | None, folder: Path, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    name = kind.encode() if kind else b"none"
    _done(libc.mount(name, os.fsencode(folder), name, ctypes.c_ulong(flags), options.encode()), folder)


def _done(failed: int, folder: Path) -> None:
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))
