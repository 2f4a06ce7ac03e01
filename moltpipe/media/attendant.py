"""One child process, from its start to its end: drained, watched, killed with its whole group when it must end.

Here: pipes, deadline, standstill, stop. Not here: which program it is and what it says (`media.runner` starts FFmpeg,
`media.examine` starts Python).

A process that is killed with SIGKILL cannot take its children along. Measured: FFmpeg encodes on to its end although
both of its pipes are broken, beside the retry that does the same work. It writes into a temp file that nobody
renames, so nothing comes out wrong, only slow. Where `setpriv` (util-linux) can have the kernel kill the child with
the thread that waits for it, it does, for 4 ms; elsewhere the orphan ends with its work.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import IO, Self

from moltpipe.media.offload import carried, current_stop, heed

LAST_WORDS_LINES = 30
"""Lines of stderr that are kept, each once: enough for the error and for what a filter prints at its end."""
PIECE_BYTES = 65_536
LINE_BYTES = 1_048_576
"""The longest line that is put together; more without a line break is thrown away."""
GRACE_S = 2.0
"""How long a child's own children may hold its pipes open after its end, before they are killed as well."""


@dataclass(frozen=True)
class Ended:
    """How a child process ended."""

    status: int
    """Exit status; negative: the signal that ended it."""
    last_words: str
    """The last lines of its stderr; of lines that are the same, the last one."""
    fault: str | None
    """Why we ended it, such as `did not end within 30 s`; None when it ended by itself."""


class Watch:
    """How long a process may go on. Who listens to it tells that it moves, and may give it another deadline."""

    def __init__(self, timeout_s: float, stall_s: float) -> None:
        self._timeout_s, self._stall_s = timeout_s, stall_s
        self._began = self._moved = time.monotonic()
        self._waits_for_us = False

    def moved(self) -> None:
        """The process got on with its work."""
        self._moved = time.monotonic()

    def allow(self, timeout_s: float) -> None:
        """Set the deadline anew, in seconds from the start."""
        self._timeout_s = timeout_s

    @contextlib.contextmanager
    def pausing(self) -> Generator[None]:
        """While the block runs the process waits for us and may stand still; the deadline holds."""
        self._waits_for_us = True
        try:
            yield
        finally:
            self.moved()
            self._waits_for_us = False

    def left_s(self) -> float:
        """Seconds until the process must be ended, unless it moves."""
        now = time.monotonic()
        late_s = self._began + self._timeout_s - now
        return late_s if self._waits_for_us else min(late_s, self._moved + self._stall_s - now)

    def fault(self) -> str | None:
        """What a process is ended for; None while its time is not up."""
        if self.left_s() > 0:
            return None
        if time.monotonic() - self._began >= self._timeout_s:
            return f"did not end within {self._timeout_s:.0f} s"
        return f"did not get on for {self._stall_s:.0f} s"


class Outlet:
    """A pipe that a child writes to besides its stdout, and the thread in which somebody reads it meanwhile.

    For one child, which gets to know the pipe by its `number`. Use it in a `with` block around `attend`.
    """

    def __init__(self, read: Callable[[IO[bytes]], None]) -> None:
        """`read` gets the stream. What it leaves unread breaks the pipe, and what it raises ends the child."""
        source, self.number = os.pipe()
        self.error: BaseException | None = None
        self._source = os.fdopen(source, "rb", buffering=0)
        self._read = carried(read)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._thread is None:
            os.close(self.number)
            self._source.close()

    def open(self, end: Callable[[], None]) -> None:
        """Begin to read, now that the child has its end. `end` is called when that fails."""
        os.close(self.number)
        self._thread = threading.Thread(target=self._hear, args=(end,), name="outlet", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until what an ended child wrote is read."""
        if self._thread is not None:
            self._thread.join()

    def _hear(self, end: Callable[[], None]) -> None:
        try:
            with self._source:
                self._read(self._source)
        except BaseException as error:  # noqa: BLE001 -- raised again in the thread that waits for the process
            self.error = error
            end()


class _Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = b""

    def add(self, piece: bytes) -> None:
        *whole, rest = (self._rest + piece).split(b"\n")
        self._rest = rest[:LINE_BYTES]
        for line in whole:
            self._take(line.decode("utf-8", "replace").rstrip())

    def end(self) -> None:
        if self._rest:
            self._take(self._rest.decode("utf-8", "replace").rstrip())
            self._rest = b""


@cache
def bound_to_us() -> tuple[str, ...]:
    """What stands before a command so that the kernel kills the child when the thread that started it is gone.

    Empty where there is no `setpriv`, or one that cannot (BusyBox has such a one).
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    bound = (setpriv, "--pdeathsig", "KILL", "--")
    trial = subprocess.run((*bound, "true"), stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603 -- constant arguments to a program of the system
    return bound if trial.returncode == 0 else ()


def attend(
    command: Sequence[str],
    *,
    watch: Watch,
    on_line: Callable[[str], None],
    stdin: Iterable[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
    outlet: Outlet | None = None,
) -> Ended:
    """Start a program and stay with it to its end.

    It gets a process group of its own, which is killed when `watch` says so, when `on_line`, `stdin` or the reader of
    `outlet` raises, when this thread is interrupted, and when the work that it does is stopped (`media.offload`).

    Args:
        command: program and arguments; no shell.
        watch: how long it may take.
        on_line: called in another thread with every line of its stdout.
        stdin: what it reads; nothing when None. Closed at the end when it is a generator.
        environment: its environment; ours when None.
        outlet: one more pipe that it writes to.

    Raises:
        Stopped: the work was stopped.
    """
    heed()
    process = subprocess.Popen(  # noqa: S603 -- no shell; callers pass constant programs and paths that are no options
        [*bound_to_us(), *command],
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment,
        pass_fds=() if outlet is None else (outlet.number,),
    )
    attendant = _Attendant(process, watch, on_line)
    try:
        with current_stop().ending(attendant.kill):
            attendant.start()
            if outlet is not None:
                outlet.open(attendant.kill)
            if stdin is not None:
                _feed(process.stdin, stdin, watch)
            status = process.wait()
    except BaseException:
        attendant.kill()
        process.wait()
        raise
    finally:
        attendant.finish()
        if outlet is not None:
            outlet.finish()
    heed()
    for error in (attendant.error, outlet.error if outlet is not None else None):
        if error is not None:
            raise error
    return Ended(status, "\n".join(attendant.tail), attendant.fault)


class _Attendant(threading.Thread):
    """Keeps both outputs flowing (a full pipe of 64 KiB stops a program for good) and ends what overstays."""

    def __init__(self, process: subprocess.Popen[bytes], watch: Watch, on_line: Callable[[str], None]) -> None:
        super().__init__(name=f"attendant of {process.pid}", daemon=True)
        self.tail: deque[str] = deque(maxlen=LAST_WORDS_LINES)
        self.fault: str | None = None
        self.error: BaseException | None = None
        self._process, self._watch, self._on_line = process, watch, on_line
        self._over = threading.Event()

    def run(self) -> None:
        outputs = [(self._process.stdout, _Lines(self._hear)), (self._process.stderr, _Lines(self._remember))]
        with selectors.DefaultSelector() as ready:
            for pipe, lines in outputs:
                if pipe is not None:
                    ready.register(pipe, selectors.EVENT_READ, lines)
            while ready.get_map():
                for key, _ in ready.select(self._patience_s()):
                    piece = os.read(key.fd, PIECE_BYTES)
                    key.data.add(piece)
                    if not piece:
                        ready.unregister(key.fileobj)
                self._judge()
        for _, lines in outputs:
            lines.end()
        while not self._over.wait(self._patience_s()):
            self._judge()

    def _remember(self, line: str) -> None:
        # libass says of every frame which letters it lacks: what was said first would be pushed out by what came last.
        if line in self.tail:
            self.tail.remove(line)
        self.tail.append(line)

    def _hear(self, line: str) -> None:
        if self.error is not None:
            return
        try:
            self._on_line(line)
        except BaseException as error:  # noqa: BLE001 -- raised again in the thread that waits for the process
            self.error = error
            self.kill()

    def _patience_s(self) -> float | None:
        return None if self.fault is not None or self._over.is_set() else max(0.0, self._watch.left_s())

    def _judge(self) -> None:
        if self.fault is None and not self._over.is_set():
            self.fault = self._watch.fault()
            if self.fault is not None:
                self.kill()

    def kill(self) -> None:
        """End the process and its children. poll() keeps a recycled id from being hit."""
        if self._process.poll() is None:
            self._kill_group()

    def _kill_group(self) -> None:
        # The group is the process's own (start_new_session).
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def finish(self) -> None:
        """Hear the rest of what an ended process wrote, and close its pipes."""
        self._over.set()
        if self.ident is not None:
            self.join(GRACE_S)
            if self.is_alive():
                # Somebody of the group lives and holds the pipes, so the group's id cannot be anybody else's.
                self._kill_group()
                self.join(GRACE_S)
        if self.is_alive():
            return  # a child that left the group keeps the pipes; they are closed with it
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _feed(pipe: IO[bytes] | None, chunks: Iterable[bytes], watch: Watch) -> None:
    """Write all chunks; a reader that is gone is no error here, its exit status says why."""
    if pipe is None:
        raise TypeError("the process was started without a pipe")
    source = iter(chunks)
    try:
        with contextlib.suppress(BrokenPipeError):
            while True:
                with watch.pausing():
                    chunk = next(source, None)
                if chunk is None:
                    break
                pipe.write(chunk)
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
    finally:
        if isinstance(source, Generator):
            source.close()
