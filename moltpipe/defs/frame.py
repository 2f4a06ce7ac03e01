"""The frame around every stage's body: its episode, claimed in the name of its run, and the way in which a run ends.

Here: what Dagster knows that the line must be told, and Dagster's interrupt as the cancellation that asyncio knows. Not
here: claims and heartbeats (`production.work`), what becomes of a paid job (`production.hosted`).

The incident behind it: Dagster raises its interrupt wherever the event loop happens to be, in the middle of some
coroutine or of none. The body was never told, so what a terminated run had at its providers went on there and was paid.
"""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import dagster as dg

from moltpipe.defs.runs import CLAIMED_TAG, HELD_TAG
from moltpipe.ledger.jobs import JobHeld
from moltpipe.production.line import Line
from moltpipe.production.work import Work, work_on

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_ENDED = frozenset({dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED})


@asynccontextmanager
async def work_in(context: dg.AssetExecutionContext, line: Line) -> AsyncIterator[Work]:
    """Work on the partition's episode for as long as the body runs.

    A run that somebody terminates cancels its jobs at the providers; one whose process is merely stopped leaves
    them, for the next run to go on with.

    Raises:
        DagsterExecutionInterruptedError: the run was interrupted, after the body has put everything in order.
    """

    def ended_by_a_person() -> bool:
        run = context.instance.get_run_by_id(context.run.run_id)
        return run is not None and run.status in _ENDED

    with _cancelled_by_interrupts() as interrupt:
        try:
            async with work_on(
                line, context.partition_key, process_uuid=context.run.run_id, ended_by_a_person=ended_by_a_person
            ) as work:
                context.instance.add_run_tags(context.run.run_id, {CLAIMED_TAG: "yes"})
                yield work
        except JobHeld as held:
            # Two daemons, or a person beside one: this run failed at nothing, and the other one works.
            context.instance.add_run_tags(context.run.run_id, {HELD_TAG: held.by})
            raise
        except asyncio.CancelledError:
            if interrupt.came:
                raise dg.DagsterExecutionInterruptedError from None
            raise


@dataclass
class _Interrupt:
    came: bool = False


@contextmanager
def _cancelled_by_interrupts() -> Iterator[_Interrupt]:
    """Cancel the running task at the first interrupt, instead of raising anywhere; later ones are ignored."""
    interrupt = _Interrupt()
    body = asyncio.current_task()
    if body is None or threading.current_thread() is not threading.main_thread():
        # Signals reach the main thread alone: in a test, Dagster's own way has to do.
        yield interrupt
        return
    loop = asyncio.get_running_loop()
    dagsters = {number: signal.getsignal(number) for number in _INTERRUPTS}

    def cancel() -> None:
        if not interrupt.came:
            interrupt.came = True
            body.cancel()

    for number in _INTERRUPTS:
        loop.add_signal_handler(number, cancel)
    try:
        yield interrupt
    finally:
        # One that comes between the two handlers waits until Dagster's stands again.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
        for number, handler in dagsters.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
