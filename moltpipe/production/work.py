"""Working on one episode: the claim, its heartbeat, and how the work ends.

Here: the frame around every stage. Not here: what a stage does. The incident behind it: in the old
systems a job that was in progress when its process died stayed so for ever, and a stale callback wrote
over the result of a newer run.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from structlog.contextvars import bound_contextvars

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.ledger import jobs
from moltpipe.ledger.database import DatabaseUnavailable
from moltpipe.ledger.jobs import Superseded
from moltpipe.ledger.production import load_production
from moltpipe.ledger.spending import BudgetReached
from moltpipe.media.errors import DeliveryRefused
from moltpipe.production.line import Line
from moltpipe.production.partial import SomeFailed
from moltpipe.production.turnstile import Turnstile
from moltpipe.studio.narration import LengthOutOfBounds
from moltpipe.studio.records import Claim, Production

AFTER_AN_OUTAGE = timedelta(seconds=15)
"""The pause before work that lost its database goes on."""
AFTER_A_PROVIDERS_OUTAGE = timedelta(seconds=60)
"""The same for work whose provider could not be reached, or had no place, for as long as a run waits."""
_LATER = (ErrorClass.RETRY_SAFE, ErrorClass.THROTTLED)

log = logging.getLogger(__name__)


class Postponed(Exception):
    """Nothing failed: the work waits for something outside, and is worth another try at a time that is known."""

    def __init__(self, why: str, until: datetime) -> None:
        super().__init__(why)
        self.until = until


@dataclass(frozen=True)
class Work:
    """One episode in work: the right to write for it, and what the ledger knew when work began."""

    line: Line
    claim: Claim
    production: Production
    ended_by_a_person: Callable[[], bool] = lambda: False
    """Whether somebody ended the run, rather than the process that it is in."""
    turnstiles: defaultdict[str, Turnstile] = field(default_factory=lambda: defaultdict(Turnstile))
    """By account."""

    def reload(self) -> Production:
        """What the ledger knows now."""
        return _load(self.line, self.claim)


@asynccontextmanager
async def work_on(
    line: Line, partition_key: str, *, process_uuid: str, ended_by_a_person: Callable[[], bool] = lambda: False
) -> AsyncIterator[Work]:
    """Claim the episode's production job for this process and keep the lease alive while the body runs.

    A body that ends well completes the job when every wanted variant is published, and else leaves it
    resting, owned by this process, so that the next stage of the same run goes on. A body that raises gives
    the job back with backoff, for good where another attempt would fail in the same way, or, where nothing failed
    but something must be waited for, until then. A body whose job was taken over is cancelled and writes nothing
    more. A body that is cancelled gives the job back: as a failed attempt if a person ended its run, and else as it
    was. Whatever is logged meanwhile carries the run and the episode.

    Raises:
        UnknownEpisode: no episode has this partition key.
        JobHeld: another process is at work on the episode.
        Superseded: another process took the job over while the body ran.
    """
    with bound_contextvars(run_id=process_uuid, episode=partition_key):
        claim = await asyncio.to_thread(_claim, line, partition_key, process_uuid)
        log.info("episode claimed")
        async with _held(line, claim, ended_by_a_person) as work:
            yield work


@asynccontextmanager
async def _held(line: Line, claim: Claim, ended_by_a_person: Callable[[], bool]) -> AsyncIterator[Work]:
    """The claim kept alive while the body runs, and given back as the body ends."""
    body = asyncio.current_task()
    if body is None:
        raise RuntimeError("work_on needs to run in a task")
    heartbeat = asyncio.create_task(_beat(line, claim, body))
    try:
        production = await asyncio.to_thread(_load, line, claim)
        yield Work(line, claim, production, ended_by_a_person)
    except asyncio.CancelledError as cancelled:
        if heartbeat.done() and isinstance(heartbeat.exception(), Superseded):
            log.warning("episode lost to another run")
            raise Superseded(claim.partition_key, claim.process_uuid) from cancelled
        await _end(heartbeat)
        if await asyncio.to_thread(ended_by_a_person):
            # An attempt that failed: given back as it was, the sensor would start the very same work at once.
            await asyncio.to_thread(_fail, line, claim, "a person ended the run")
            log.info("episode given back", extra={"why": "a person ended the run", "failed": True})
        else:
            await asyncio.to_thread(_release, line, claim)
            log.info("episode given back", extra={"why": "the process is ending", "failed": False})
        raise
    except Superseded:
        await _end(heartbeat)
        log.warning("episode lost to another run")
        raise
    except Exception as error:
        await _end(heartbeat)
        until = worth_another_try_at(error)
        if until is None:
            said = f"{type(error).__name__}: {error}"
            await asyncio.to_thread(_fail, line, claim, said, for_good=comes_again(error))
            log.error("episode given back", extra={"why": said, "failed": True, "for_good": comes_again(error)})  # noqa: TRY400 - Dagster prints the traceback
        else:
            await asyncio.to_thread(_postpone, line, claim, until, str(error))
            log.info("episode given back", extra={"why": str(error), "failed": False, "until": until.isoformat()})
        raise
    else:
        await _end(heartbeat)
        done = await asyncio.to_thread(_settle, line, claim)
        log.info("episode completed" if done else "stage done")


def worth_another_try_at(error: BaseException) -> datetime | None:
    """When work that stopped for this reason should go on; None when the reason is a failure."""
    if isinstance(error, Postponed):
        return error.until
    if isinstance(error, BudgetReached):
        return error.until
    if isinstance(error, DatabaseUnavailable):
        return datetime.now(UTC) + AFTER_AN_OUTAGE
    if isinstance(error, EngineError) and error.error_class in _LATER:
        return datetime.now(UTC) + AFTER_A_PROVIDERS_OUTAGE
    if isinstance(error, SomeFailed):
        times = [worth_another_try_at(one.error) for one in error.failed]
        known = [time for time in times if time is not None]
        return min(known) if len(known) == len(times) else None
    return None


def comes_again(error: BaseException) -> bool:
    """Whether the same work would fail in the same way: what goes into it must be changed first."""
    if isinstance(error, SomeFailed):
        return all(comes_again(one.error) for one in error.failed)
    return isinstance(error, DeliveryRefused | LengthOutOfBounds)


def _claim(line: Line, partition_key: str, process_uuid: str) -> Claim:
    with line.database.begin() as db:
        return jobs.claim_job(db, partition_key, process_uuid, line.lease)


def _load(line: Line, claim: Claim) -> Production:
    """In a transaction after the claim's, so that an episode that cannot be read counts as a failed attempt."""
    with line.database.begin() as db:
        return load_production(db, claim.partition_key)


def _fail(line: Line, claim: Claim, error: str, *, for_good: bool = False) -> None:
    with line.database.begin() as db:
        jobs.fail_job(db, claim, error, datetime.now(UTC), for_good=for_good)


def _postpone(line: Line, claim: Claim, until: datetime, why: str) -> None:
    with line.database.begin() as db:
        jobs.postpone_job(db, claim, until, why)


def _release(line: Line, claim: Claim) -> None:
    with line.database.begin() as db:
        jobs.release_job(db, claim)


def _settle(line: Line, claim: Claim) -> bool:
    """Complete the job when every wanted variant is published, else let it rest for the run's next stage.

    Returns:
        Whether it is completed.
    """
    with line.database.begin() as db:
        production = load_production(db, claim.partition_key)
        if len(production.variants) >= production.episode.variants_wanted:
            jobs.complete_job(db, claim)
            return True
        jobs.rest_job(db, claim)
        return False


async def _end(heartbeat: asyncio.Task[None]) -> None:
    """Before the job is given back: a beat that came after would find it gone and cancel a body that succeeded."""
    heartbeat.cancel()
    await asyncio.gather(heartbeat, return_exceptions=True)


async def _beat(line: Line, claim: Claim, body: asyncio.Task[object]) -> None:
    while True:
        await asyncio.sleep(line.heartbeat.total_seconds())
        try:
            mine = await asyncio.to_thread(_heartbeat, line, claim)
        except DatabaseUnavailable:
            # Postgres is away for everybody: the next beat may find it, long before the lease is over.
            continue
        if not mine:
            body.cancel()
            raise Superseded(claim.partition_key, claim.process_uuid)


def _heartbeat(line: Line, claim: Claim) -> bool:
    with line.database.begin() as db:
        return jobs.heartbeat(db, claim)
