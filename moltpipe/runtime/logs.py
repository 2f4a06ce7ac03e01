"""The log files of what runs in the background, and their last lines for a message.

Here: where such a file lies, how it is opened, how its end is quoted. Not here: what is written into it.
"""

from __future__ import annotations

import os
from pathlib import Path

MAX_BYTES = 20 * 1024 * 1024
QUOTED_LINES = 15
_QUOTED_BYTES = 16 * 1024


def log_file(data_dir: Path, name: str) -> Path:
    """Where the log of `name` lies."""
    return data_dir / "logs" / f"{name}.log"


def open_log(path: Path) -> int:
    """A file descriptor that appends to the log; a log of over `MAX_BYTES` is put aside first, one generation back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def last_lines(path: Path, since: int = 0) -> str:
    """The end of a log, at most `QUOTED_LINES` lines, from what was written after byte `since`."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(since, size - _QUOTED_BYTES))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-QUOTED_LINES:])
