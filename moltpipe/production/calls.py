"""Calling an engine: the one way in which a stage reaches one.

Here: what a call is (its fingerprint, its subject), and calls to engines of this machine. Not here: hosted ones
(`production.hosted`), what an engine speaks (`engines`), what becomes of the result (the stages).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel
from structlog.contextvars import bound_contextvars

from moltpipe.engines.errors import EngineError
from moltpipe.engines.protocols import Engine, ExternalId, Order, Progress
from moltpipe.ledger import calls, spending
from moltpipe.ledger.calls import Call, CallState, Intent
from moltpipe.ledger.slots import EngineSlots
from moltpipe.production.answers import Answer, outcome_of, written
from moltpipe.production.hosted import HostedCall, kept_answer
from moltpipe.production.work import Work

log = logging.getLogger(__name__)

RequestT = TypeVar("RequestT", bound=BaseModel)
ResultT = TypeVar("ResultT", bound=BaseModel)


@dataclass(frozen=True)
class Subject:
    """What a call is for: with the request it makes the fingerprint, so a new take is a new call."""

    of: UUID
    """The shot or, for an episode's script and music, the episode."""
    variant_number: int = 0
    take_number: int = 1


def fingerprint(engine: Engine[RequestT, ResultT], request: RequestT, subject: Subject) -> str:
    """Hex sha256 over engine, model, canonical request and subject."""
    canonical = {
        "engine": engine.name,
        "model": engine.model,
        "request": request.model_dump(mode="json"),
        "of": str(subject.of),
        "variant": subject.variant_number,
        "take": subject.take_number,
    }
    return _digest(canonical)


def _digest(canonical: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


async def call(
    work: Work,
    engine: Engine[RequestT, ResultT],
    operation: str,
    request: RequestT,
    *,
    subject: Subject,
    shared: bool = False,
) -> Answer[ResultT]:
    """Have an engine do one request, or go on with the call that an earlier process left behind.

    With `shared`, the result of the very same request in the same series is used again, where its take has the same
    number: a second one would not differ, and would be paid for.

    Raises:
        EngineError: the engine refused or failed, or nobody knows whether it accepted; the row says so.
        EngineBlocked: the engine takes no requests for longer than a run should wait.
        BudgetReached, PriceUnknown: the request would cost more than a cap allows, or nobody knows how much.
        GivenUp: the same request failed for good before, and only a person may send it again.
    """
    intent = intent_of(work, engine, operation, request, subject)
    with bound_contextvars(engine=engine.name, operation=operation):
        if engine.hosting is None:
            return await _call_here(work, engine, request, intent)
        hosted = HostedCall(work, engine, engine.hosting, request, intent)
        return await (_made_once(work, intent, hosted) if shared else hosted.answer())


async def _made_once(work: Work, intent: Intent, hosted: HostedCall[RequestT, ResultT]) -> Answer[ResultT]:
    """What the same engine has made before of the same request is not paid for again, except as a new take."""
    essence = {"engine": intent.engine, "model": intent.model, "request": intent.request, "take": intent.take_number}
    async with EngineSlots(work.line.database, f"once {_digest(essence)}", 1):
        twin = await written(work.line.database, _made_before, intent)
        if twin is None:
            return await hosted.answer()
        log.info("call spared: the same was made before", extra={"call": str(twin.id)})
        return await kept_answer(work.line, twin)


def _made_before(db: Any, intent: Intent) -> Call | None:  # noqa: ANN401 - the ledger's connection, whose type is SQL's
    """The call whose result will do; None where there is none, or where one's own has left already."""
    own = calls.live_call(db, intent.fingerprint)
    if own is not None and own.state is not CallState.CLAIMED:
        return None
    twin = calls.twin_of(db, intent)
    if own is not None and twin is not None:
        calls.mark_canceled(db, own.id)
    return twin


def intent_of(
    work: Work, engine: Engine[RequestT, ResultT], operation: str, request: RequestT, subject: Subject
) -> Intent:
    """The request as the ledger is told of it before it leaves."""
    quote = engine.quote(request)
    return Intent(
        fingerprint=fingerprint(engine, request, subject),
        engine=engine.name,
        model=engine.model,
        operation=operation,
        request=request.model_dump(mode="json"),
        process_uuid=work.claim.process_uuid,
        episode_id=work.claim.episode_id,
        subject_id=subject.of,
        variant_number=subject.variant_number,
        take_number=subject.take_number,
        account=engine.hosting.account if engine.hosting else None,
        quote_usd=quote.cost_usd,
        basis=quote.basis,
    )


def spent(work: Work, operation: str) -> Decimal:
    """What calls of one kind have cost for the episode so far, in US dollars, failed ones included."""
    with work.line.database.begin() as db:
        return spending.spent_on(db, work.claim.episode_id, operation)


async def _call_here(
    work: Work, engine: Engine[RequestT, ResultT], request: RequestT, intent: Intent
) -> Answer[ResultT]:
    """One call to an engine of this machine: what a dead process was doing died with it and cost nothing."""
    database = work.line.database
    async with EngineSlots(database, engine.name, work.line.calls_at_once):
        call_id = (await written(database, _claim_here, intent)).id
        job: ExternalId | None = None
        try:
            await written(database, calls.mark_submitting, call_id)
            job = await engine.submit(request, Order(call_id=call_id, left_at=datetime.now(UTC)))
            await written(database, calls.mark_submitted, call_id, job)
            while isinstance(outcome := await engine.poll(job), Progress):
                pass
            done = await written(database, calls.mark_succeeded, call_id, Decimal(0))
            log.info("call finished", extra=outcome_of(done))
        except EngineError as error:
            failed = await written(database, calls.mark_failed, call_id, error.error_class.value, error.message)
            log.warning("call failed", extra=outcome_of(failed))
            raise
        except asyncio.CancelledError:
            if job is not None:
                await engine.cancel(job)
            await written(database, calls.mark_canceled, call_id)
            raise
        return Answer(call_id, outcome, _local_file(outcome))


def _claim_here(db: Any, intent: Intent) -> Call:  # noqa: ANN401 - the ledger's connection, whose type is SQL's
    left_behind = calls.live_call(db, intent.fingerprint)
    if left_behind is not None:
        calls.expire_call(db, left_behind.id)
    return calls.claim_call(db, intent)


def _local_file(result: object) -> Path | None:
    file = getattr(result, "file", None)
    return file if isinstance(file, Path) else None
