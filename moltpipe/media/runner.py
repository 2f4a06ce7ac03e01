"""Running FFmpeg: the one place where the program is found and started.

Here: the process, its deadline, its last words. Not here: what it is told to do; argument lists and graphs stand
in the module that knows why (`media.reel`, `media.conform`, `media.sound`, ...).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import imageio_ffmpeg

from moltpipe.media.errors import MediaError

LAST_WORDS_LINES = 30
"""Lines of stderr that are kept: enough for the error and for the summary that `ebur128` prints at its end."""


@dataclass(frozen=True)
class Finished:
    """A run that ended well."""

    stderr: str
    """The last lines that FFmpeg wrote."""


@cache
def ffmpeg_program() -> str:
    """Absolute path of FFmpeg: the one on PATH, else the one that the imageio-ffmpeg wheel carries.

    Raises:
        MediaError: there is neither.
    """
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise MediaError("no ffmpeg on PATH and none in imageio-ffmpeg: install FFmpeg 6 or later") from error


def url(path: Path) -> str:
    """Name a file so that FFmpeg takes it for a file, whatever it is called: `-y.mp4`, `http:x.mp4`, `a%03d.png`."""
    return f"file:{path.absolute()}"


def run(args: Sequence[str], *, timeout_s: float, stdin: Iterable[bytes] | None = None) -> Finished:
    """Run FFmpeg with `args` (all that follows the program's name) and wait for its end.

    Inputs may only be files and pipes: a playlist that a provider hands over must not make us fetch its entries.
    FFmpeg gets a process group of its own, which is killed when the deadline passes, when `stdin` raises, and when
    this thread is interrupted.

    Raises:
        MediaError: FFmpeg failed or did not end in `timeout_s` seconds; the text carries its last words.
    """
    command = [ffmpeg_program(), "-nostdin", "-hide_banner", "-nostats", "-loglevel", "warning", *_fenced(args)]
    process = subprocess.Popen(  # noqa: S603 -- no shell; paths go through url(), so none is read as an option
        command,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    tail: deque[str] = deque(maxlen=LAST_WORDS_LINES)
    listener = threading.Thread(target=_listen, args=(process.stderr, tail), daemon=True)
    listener.start()
    late = threading.Event()

    def at_deadline() -> None:
        late.set()
        _kill(process)

    deadline = threading.Timer(timeout_s, at_deadline)
    deadline.daemon = True
    deadline.start()
    try:
        if stdin is not None:
            _feed(process.stdin, stdin)
        status = process.wait()
    except BaseException:
        _kill(process)
        process.wait()
        raise
    finally:
        deadline.cancel()
        listener.join()
        _close(process)
    last_words = "\n".join(tail)
    if late.is_set():
        raise MediaError(f"ffmpeg did not end within {timeout_s:.0f} s and was stopped. Its last words:\n{last_words}")
    if status != 0:
        raise MediaError(f"ffmpeg ended with status {status}. Its last words:\n{last_words}")
    return Finished(stderr=last_words)


def _fenced(args: Sequence[str]) -> list[str]:
    """Put the protocol whitelist before every input: as an input option it holds for the next `-i` alone."""
    fenced: list[str] = []
    for arg in args:
        if arg == "-i":
            fenced += ["-protocol_whitelist", "file,pipe"]
        fenced.append(arg)
    return fenced


def _feed(pipe: IO[bytes] | None, chunks: Iterable[bytes]) -> None:
    """Write all chunks; a reader that is gone is no error here, its exit status says why."""
    if pipe is None:
        raise TypeError("the process was started without a pipe")
    with contextlib.suppress(BrokenPipeError):
        for chunk in chunks:
            pipe.write(chunk)
    with contextlib.suppress(BrokenPipeError):
        pipe.close()


def _listen(pipe: IO[bytes] | None, tail: deque[str]) -> None:
    """Keep stderr flowing: a full pipe of 64 KiB stops FFmpeg for good."""
    if pipe is not None:
        tail.extend(line.decode("utf-8", "replace").rstrip() for line in pipe)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The group is the process's own (start_new_session); poll() keeps a recycled id from being hit.
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
