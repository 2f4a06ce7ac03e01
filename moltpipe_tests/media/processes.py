"""Looking at child processes that may end at any moment.

Here: what a look at one tells. Not here: starting and ending them (`media.attendant`).

psutil lists a child, and by the time that its name or command line is read it may be a zombie or gone. A look that let
the error through failed a build on a machine with much to do.
"""

from __future__ import annotations

import psutil


def children_called(name: str) -> list[psutil.Process]:
    """The child processes of this one whose name or command line holds `name`.

    One that nobody has buried yet still has its name, without a command line. One that is gone is left out.
    """
    return [child for child in psutil.Process().children() if name in _words(child)]


def _words(process: psutil.Process) -> str:
    """Name and command line of a process, as far as it still has them."""
    words: list[str] = []
    try:
        words.append(process.name())
        words += process.cmdline()
    except psutil.NoSuchProcess:  # a zombie is one of these
        pass
    return " ".join(words)


def has_worked(process: psutil.Process) -> bool:
    """Whether a process has used processor time of its own, and is there still."""
    try:
        return bool(process.cpu_times().user > 0)
    except psutil.NoSuchProcess:
        return False
