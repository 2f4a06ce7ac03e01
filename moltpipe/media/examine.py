"""The look at a file that somebody else made: read from its first byte to its last by a process that may die of it.

Here: the child process, the limits under which it reads, and what each way to die means. Not here: the reading
(`media.probe`), and what is refused before anything is decoded (`media.fence`).

Decoders are large programs in C, and a result comes from whoever the provider is. In a process of its own a crash, an
endless loop or a picture that fills the memory costs one result and not the run that waits for thirty others. The
child has none of our environment's secrets, may write no file and start with no input; it is not a jail against code
that is run by a decoder, for which the container is there.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import av.logging
from av.container import InputContainer

from moltpipe.media.attendant import Ended, Watch, attend
from moltpipe.media.errors import MediaError
from moltpipe.media.fence import LONGEST_S, check_file, decodable
from moltpipe.media.probe import Decoded, Probe, decode, opened, probe

START_S = 4.0
"""Processor time that any file is given. A small file that needs more is a bomb: Python and libav start in 0.2."""
SECONDS_PER_SECOND = 30.0
"""Processor time that a second of media may take. Measured in HEVC of 10 bits at 24 frames per second: 1.6 for 4K, 7.4
for 8K."""
SECONDS_PER_MEGABYTE = 20.0
"""Processor time that a megabyte may take, whatever length it claims: three kilobytes that claim a year are no year's
work. An hour of a quiet 4K picture is 70 MB and decodes in less than a third of what this gives it."""
PIXELS_PER_SECOND = 1e10
"""Several times what a decoder is taken to put out in a second of processor time, by the figures above. What would not
be ready in time even so is refused before it is decoded."""
MEGABYTES_PER_SECOND = 20.0
"""How fast a file is read at least."""
WAITS = 8.0
"""How much longer than its processor time the child may take by the clock. The budget is processor time because a
machine with too much to do would else refuse good results, which were paid for: at a load of 20 on two cores a look of
0.3 s took 4.9."""
MEMORY_BYTES = 2 * 1024**3
"""Address space of the child. Measured with four threads: 4K takes less than 768 MiB in H.264, HEVC, AV1, VP9 and
ProRes, 8K in H.264 1 GiB, in HEVC of 10 bits 1.5 GiB."""
THREADS = 4
"""Threads of a decoder. Each holds pictures of its own, so this bounds the memory as well."""
_OPEN_FILES = 32
_HEARTBEAT_S = 0.25
_HINT_LENGTH = 160
_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ", "LANG")
"""What the child needs of our environment; keys and passwords are not among it."""
_BEGIN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from moltpipe.media.examine import main; main()"
"""The child finds what we find without running the start-up code of everything that is installed (`-I -S`)."""
_NO_ROOM = "get_buffer() failed"
"""What libav complains of first where there is no memory for a picture. Its decoder leaves the picture out and goes on,
so that a good file looked cut off."""
_ORIGIN = re.compile(r"\[[^\]]* @ 0x[0-9a-f]+\]\s*")
_DEATHS = {
    signal.SIGKILL: "was killed while it was read, as happens when the machine runs out of memory",
    signal.SIGXCPU: "takes too long to read for its size: its processor time is spent",
}


@dataclass(frozen=True)
class Examined:
    """A file that plays from its beginning to its end."""

    probe: Probe
    """What it holds, the loudness of its sound included."""
    decoded: Decoded
    """What came out of it."""


def processor_s(size_bytes: int, claims_s: float | None) -> float:
    """How much processor time the look at a file may take, in seconds.

    Args:
        size_bytes: how large it is.
        claims_s: how long it lasts by its header; None while that is not read, 0 where it does not tell.
    """
    megabytes = size_bytes / 1_000_000
    reading_s = START_S + megabytes / MEGABYTES_PER_SECOND
    if claims_s is None:
        return reading_s
    return reading_s + min(SECONDS_PER_SECOND * (claims_s or LONGEST_S), SECONDS_PER_MEGABYTE * megabytes)


def check_work(container: InputContainer, name: str, size_bytes: int) -> None:
    """Make sure that the pictures which an opened file counts in its index can be decoded in the time that it is given.

    Raises:
        MediaError: they cannot, by far.
    """
    allowed_s = processor_s(size_bytes, (container.duration or 0) / av.time_base)
    for picture in filter(decodable, container.streams.video):
        width, height = picture.codec_context.width, picture.codec_context.height
        # More pictures than bytes are none at all, which the decoder finds out in no time.
        counted = picture.frames if picture.frames <= size_bytes else 0
        if counted * width * height > PIXELS_PER_SECOND * allowed_s:
            raise MediaError(
                f"{name} takes too long to read for its size: {picture.frames} pictures of {width}x{height} pixels in "
                f"{size_bytes} bytes"
            )


def examine(path: Path, *, timeout_s: float | None = None, memory_bytes: int = MEMORY_BYTES) -> Examined:
    """Prove that a file from somebody else plays to its end, and read what it holds.

    Args:
        path: the file. A symbolic link is refused: what it names may be another file by the time that it is used.
        timeout_s: how long it may take by the clock; None scales that, as the processor time is always scaled, to its
            size and to the length that it claims.
        memory_bytes: address space that reading it may take.

    Raises:
        MediaError: it is no media, damaged, cut off, absurd in what it claims, or too much for the limits.
        Stopped: the work was stopped.
    """
    if path.is_symlink():
        raise MediaError(f"{path.name} is a symbolic link, not a file of its own")
    check_file(path)
    before = path.stat()
    reading_s = WAITS * processor_s(before.st_size, None) if timeout_s is None else timeout_s
    watch = Watch(reading_s, reading_s)
    hearing = _Hearing(watch, before.st_size if timeout_s is None else None)
    ended = attend(_command(path, memory_bytes), watch=watch, on_line=hearing.hear, environment=_environment())
    if hearing.refusal is not None:
        hint = _hint(ended.last_words)
        if _NO_ROOM in hint:
            raise MediaError(_too_large(path, memory_bytes) + hint)
        raise MediaError(hearing.refusal + hint)
    if hearing.examined is None:
        raise _death(path, ended, memory_bytes)
    after = path.stat()
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns):
        raise MediaError(f"{path.name} changed while it was read: {before.st_size} bytes became {after.st_size}")
    return hearing.examined


def _command(path: Path, memory_bytes: int) -> list[str]:
    # Ours comes last: it is there already, unless it was installed by a hook instead of a path.
    found = [*filter(None, sys.path), str(Path(__file__).parents[2])]
    return [sys.executable, "-I", "-S", "-B", "-c", _BEGIN, json.dumps(found), str(path.absolute()), str(memory_bytes)]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # Every arena of the allocator takes 64 MiB of address space, and there are eight to a core.
    return {**kept, "MALLOC_ARENA_MAX": "2"}


class _Hearing:
    """What the child says: one JSON object a line."""

    def __init__(self, watch: Watch, size_bytes: int | None) -> None:
        self.examined: Examined | None = None
        self.refusal: str | None = None
        self._watch, self._size_bytes = watch, size_bytes

    def hear(self, line: str) -> None:
        self._watch.moved()
        said: dict[str, Any] = json.loads(line)
        if "claims_s" in said and self._size_bytes is not None:
            self._watch.allow(WAITS * processor_s(self._size_bytes, said["claims_s"]))
        if "refused" in said:
            self.refusal = said["refused"]
        if "probe" in said:
            self.examined = Examined(Probe.from_json(said["probe"]), Decoded(**said["decoded"]))


def _hint(last_words: str) -> str:
    """What libav complained about, in brackets: the first thing, since the others mostly follow from it."""
    for line in last_words.splitlines():
        words = "".join(filter(str.isprintable, _ORIGIN.sub("", line))).strip()
        if words:
            return f" (libav: {words[:_HINT_LENGTH]})"
    return ""


def _too_large(path: Path, memory_bytes: int) -> str:
    return f"{path.name} needs more than {memory_bytes >> 20} MiB to be read"


def _death(path: Path, ended: Ended, memory_bytes: int) -> Exception:
    """The error for a child that said nothing."""
    if ended.fault is not None:
        return MediaError(f"{path.name} cannot be read in time: the look at it {ended.fault}")
    if ended.status >= 0:
        return RuntimeError(f"the look at {path.name} ended with status {ended.status}:\n{ended.last_words}")
    ended_by = signal.Signals(-ended.status)
    how = _DEATHS.get(ended_by, f"crashed the decoder ({ended_by.name}) within {memory_bytes >> 20} MiB")
    return MediaError(f"{path.name} {how}")


def main() -> None:
    """The child: read a file under limits and say what is in it."""
    path, memory_bytes = Path(sys.argv[2]), int(sys.argv[3])
    size_bytes = path.stat().st_size
    _limit(memory_bytes)
    _spend(processor_s(size_bytes, None))
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.ERROR)
    try:
        with opened(path) as container:
            claims_s = (container.duration or 0) / av.time_base
            check_work(container, path.name, size_bytes)
        _spend(processor_s(size_bytes, claims_s))
        _say(claims_s=claims_s)
        facts = probe(path, loudness=True)
        decoded = decode(path, strict=False, threads=THREADS, on_progress=_heartbeat())
    except MediaError as error:
        _say(refused=str(error))
    except MemoryError:
        _say(refused=_too_large(path, memory_bytes))
    else:
        _say(probe=facts.as_json(), decoded=asdict(decoded))


def _limit(memory_bytes: int) -> None:
    _lower(resource.RLIMIT_AS, memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)


def _lower(limit: int, value: int) -> None:
    """Set a limit for good, not above one that is there already."""
    _, hard = resource.getrlimit(limit)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (allowed, allowed))


def _spend(seconds: float) -> None:
    """Have the kernel end this process once it has used so much processor time; more may be given later."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = math.ceil(seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _heartbeat() -> Callable[[float], None]:
    last = time.monotonic()

    def beat(reached_s: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _HEARTBEAT_S:
            last = time.monotonic()
            _say(reached_s=reached_s)

    return beat


def _say(**said: object) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
