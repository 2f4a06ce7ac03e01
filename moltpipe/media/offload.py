"""Work of the cutting room in a thread, for callers on an event loop: cancelling the task ends the work.

Here: the thread and the request to stop, which travels in a context variable. Not here: what is stopped; `media.runner`
kills its process on a stop, `media.probe` leaves its loops. The incident behind it: `asyncio.to_thread` forgets its
thread on cancellation, so FFmpeg encoded on for a run that was over, into a folder that was being removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Stopped(BaseException):
    """The task that waits for this work was cancelled.

    Not an `Exception`, as `asyncio.CancelledError` is none: a stop must not be taken for a fault of the media, which
    would be written down against the provider that delivered it.
    """


class Stop:
    """A request to end a piece of work, which whoever is doing the work looks at or is called by."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._enders: set[Callable[[], None]] = set()

    @property
    def asked(self) -> bool:
        """Whether the work is to end."""
        return self._asked

    def ask(self) -> None:
        """End the work: everything that is registered is called now, everything later on registering."""
        with self._lock:
            self._asked = True
            enders = tuple(self._enders)
        for end in enders:
            end()

    @contextlib.contextmanager
    def ending(self, end: Callable[[], None]) -> Iterator[None]:
        """Have `end` called, from another thread, if a stop is asked for while the block runs."""
        with self._lock:
            self._enders.add(end)
            late = self._asked
        try:
            if late:
                end()
            yield
        finally:
            with self._lock:
                self._enders.discard(end)


_STOP: contextvars.ContextVar[Stop | None] = contextvars.ContextVar("stop", default=None)


def current_stop() -> Stop:
    """The stop of the work that this thread does; outside `offload` one that nobody asks for."""
    return _STOP.get() or Stop()


def heed() -> None:
    """Leave a long loop when its work is to end.

    Raises:
        Stopped: a stop was asked for.
    """
    stop = _STOP.get()
    if stop is not None and stop.asked:
        raise Stopped


def carried(function: Callable[P, R]) -> Callable[P, R]:
    """The function for use in a thread that the offloaded work starts by itself, where it heeds the same stop.

    A thread begins with an empty context: without this, work that is shared among a pool would not be stopped.
    """
    context = contextvars.copy_context()

    def in_context(*args: P.args, **kwargs: P.kwargs) -> R:
        # A context can be entered once at a time, and several threads may run the function.
        return context.copy().run(function, *args, **kwargs)

    return in_context


async def offload(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run blocking media work in a thread of its own and await it, like `asyncio.to_thread`.

    When the awaiting task is cancelled, every FFmpeg program that the function runs is killed and every loop that
    heeds the stop is left; the thread is awaited, so its temp files are gone; then the cancellation goes on.

    A thread of its own, and none out of the event loop's pool: that one serves the heartbeat of the claim, which a
    few long encodes would keep waiting. How many run at a time is for the caller to limit.
    """
    desk = ThreadPoolExecutor(1, thread_name_prefix="cutting-room")
    try:
        return await offload_to(desk, function, *args, **kwargs)
    finally:
        desk.shutdown(wait=False)


async def offload_to(executor: Executor, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """The same in a thread of an executor that the caller keeps. Work that has not begun is never begun on a stop."""
    stop = Stop()
    context = contextvars.copy_context()
    context.run(_STOP.set, stop)
    begun = executor.submit(context.run, partial(function, *args, **kwargs))
    working = asyncio.wrap_future(begun)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        begun.cancel()
        stop.ask()
        while not working.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # looked at, or the event loop complains of an error that nobody saw
        raise
