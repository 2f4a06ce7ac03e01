"""Running FFmpeg: the one place where the program is found and started.

Here: the program, the fence around its inputs, its heartbeat and how long it may take. Not here: the process itself
(`media.attendant`), and what FFmpeg is told to do; argument lists and graphs stand in the module that knows why
(`media.reel`, `media.conform`, `media.sound`, ...).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imageio_ffmpeg

from moltpipe.media.attendant import Outlet, Watch, attend
from moltpipe.media.errors import MediaError

STALL_S = 120.0
"""How long the output may stand still: longer than the slowest frame, and than moving the index of a film of several
gigabytes to its front, during which FFmpeg reports nothing new."""
START_S = 60.0
"""What any run is given to start, open and close, on a machine that does much else."""
ENCODING = 60.0
COPYING = 2.0
"""Seconds that a second of media may take, for `deadline_s`. A slow machine encodes a second of 1080p in about one
and copies it, or writes sound out as a WAV, in a hundredth: what needs so much more hangs."""
_MICROSECONDS = 1_000_000


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


def piped(outlet: Outlet) -> str:
    """Name an outlet as an output of FFmpeg's."""
    return f"pipe:{outlet.number}"


def deadline_s(media_s: float, *, pace: float = ENCODING) -> float:
    """How long a run over so many seconds of media may take before it counts as hanging.

    Args:
        media_s: length of what is read or written, whichever is longer, in seconds.
        pace: seconds of work for a second of media: `ENCODING` or `COPYING`.
    """
    return START_S + pace * media_s


def run(
    args: Sequence[str],
    *,
    timeout_s: float,
    stdin: Iterable[bytes] | None = None,
    outlet: Outlet | None = None,
    stall_s: float = STALL_S,
    on_progress: Callable[[float], None] | None = None,
) -> Finished:
    """Run FFmpeg with `args` (all that follows the program's name) and wait for its end.

    Inputs may only be files and pipes: a playlist that a provider hands over must not make us fetch its entries.
    FFmpeg gets a process group of its own, which is killed when the deadline passes, when its output stands still,
    when `stdin`, `on_progress` or the reader of `outlet` raises, when this thread is interrupted, and when the work
    that it does is stopped (`media.offload`).

    Args:
        args: options, inputs and outputs; no output may be `pipe:1`, which carries the progress.
        timeout_s: the deadline; `deadline_s` scales it to the work.
        stdin: what FFmpeg reads from `pipe:0`. Closed at the end when it is a generator.
        outlet: one more pipe, which FFmpeg knows as `piped(outlet)`.
        stall_s: for how long neither time, nor frames, nor bytes of the output may grow. The time in which `stdin`
            makes its next piece does not count.
        on_progress: called in another thread, about twice a second, with the seconds of output that are done.

    Raises:
        MediaError: FFmpeg failed, stood still or did not end in time; the text carries its last words.
        Stopped: the work was stopped.
    """
    manner = ["-nostdin", "-hide_banner", "-nostats", "-loglevel", "warning", "-progress", "pipe:1"]
    watch = Watch(timeout_s, stall_s)
    heartbeat = _Heartbeat(watch, on_progress)
    ended = attend(
        [ffmpeg_program(), *manner, *_fenced(args)], watch=watch, on_line=heartbeat.hear, stdin=stdin, outlet=outlet
    )
    if ended.fault is not None:
        raise MediaError(f"ffmpeg {ended.fault} and was stopped. Its last words:\n{ended.last_words}")
    if ended.status != 0:
        raise MediaError(f"ffmpeg ended with status {ended.status}. Its last words:\n{ended.last_words}")
    return Finished(stderr=ended.last_words)


def _fenced(args: Sequence[str]) -> list[str]:
    """Put the protocol whitelist before every input: as an input option it holds for the next `-i` alone."""
    fenced: list[str] = []
    for arg in args:
        if arg == "-i":
            fenced += ["-protocol_whitelist", "file,pipe"]
        fenced.append(arg)
    return fenced


class _Heartbeat:
    """Reads what `-progress` writes: lines of `name=value`, a block of them about twice a second."""

    _SIGNS = frozenset({"frame", "out_time_us", "total_size"})

    def __init__(self, watch: Watch, on_progress: Callable[[float], None] | None) -> None:
        self._watch, self._on_progress = watch, on_progress
        self._seen: dict[str, str] = {}

    def hear(self, line: str) -> None:
        name, _, value = line.partition("=")
        if name not in self._SIGNS or self._seen.get(name) == value:
            return
        self._seen[name] = value
        self._watch.moved()
        if name == "out_time_us" and self._on_progress is not None and value.lstrip("-").isdecimal():
            self._on_progress(max(0.0, int(value) / _MICROSECONDS))
