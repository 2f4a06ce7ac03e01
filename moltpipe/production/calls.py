"""Calling an engine: claim, submit, wait, and hand over the result.

Here: the one way in which a stage reaches an engine, so that every call has its row in `provider_jobs`
before it leaves. Not here: what an engine speaks (`engines`), what becomes of the result (the stages).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.protocols import Engine, ExternalId, Progress
from moltpipe.ledger import calls
from moltpipe.ledger.slots import EngineSlots
from moltpipe.production.line import Line

RequestT = TypeVar("RequestT", bound=BaseModel)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Subject:
    """What a call is for: with the request it makes the fingerprint, so a new take is a new call."""

    of: UUID
    """The shot or, for an episode's script, the episode."""
    variant_number: int = 0
    take_number: int = 1


@dataclass(frozen=True)
class Answer(Generic[ResultT]):
    """A finished call: its row in the ledger, and what the engine made."""

    call_id: UUID
    result: ResultT


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
    return hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


async def call(
    line: Line,
    engine: Engine[RequestT, ResultT],
    operation: str,
    request: RequestT,
    *,
    subject: Subject,
    process_uuid: str,
) -> Answer[ResultT]:
    """Have an engine do one request, waiting for a free place at it first.

    The row is committed before the request leaves and carries the engine's id right after the answer. The
    caller records the result and marks the call ingested in one transaction.

    Raises:
        EngineError: the engine refused or failed; the row says so.
    """
    async with EngineSlots(line.database, engine.name, line.calls_at_once):
        call_id = await asyncio.to_thread(_claim, line, engine, operation, request, subject, process_uuid)
        external_id: ExternalId | None = None
        try:
            await _note(line, calls.mark_submitting, call_id)
            external_id = await engine.submit(request)
            await _note(line, calls.mark_submitted, call_id, external_id)
            while isinstance(outcome := await engine.poll(external_id), Progress):
                pass
            await _note(line, calls.mark_succeeded, call_id, engine.quote(request).cost_usd)
        except EngineError as error:
            await _note(line, calls.mark_failed, call_id, error.error_class.value, error.message)
            raise
        except asyncio.CancelledError:
            if external_id is not None:
                await engine.cancel(external_id)
            await _note(line, calls.mark_canceled, call_id)
            raise
        return Answer(call_id=call_id, result=outcome)


def _claim(
    line: Line,
    engine: Engine[RequestT, ResultT],
    operation: str,
    request: RequestT,
    subject: Subject,
    process_uuid: str,
) -> UUID:
    """Write the row of a new call, putting aside one that a dead process left behind.

    The caller holds the episode's job, so a live row with this fingerprint belongs to a process that lost it.
    What a local engine was doing died with that process and cost nothing; what a hosted one does goes on.
    """
    mark = fingerprint(engine, request, subject)
    with line.database.begin() as db:
        left_behind = calls.live_call(db, mark)
        if left_behind is not None:
            if engine.resumable:
                raise EngineError(
                    engine.name,
                    ErrorClass.AMBIGUOUS,
                    f"call {left_behind.id} ({left_behind.state}) of an earlier run may still be under way",
                )
            calls.expire_call(db, left_behind.id)
        return calls.claim_call(
            db, mark, engine.name, operation, request.model_dump(mode="json"), process_uuid=process_uuid
        ).id


async def _note(line: Line, transition: Callable[..., object], *values: object) -> None:
    """Write one transition of a call in a transaction of its own."""

    def write() -> None:
        with line.database.begin() as db:
            transition(db, *values)

    await asyncio.to_thread(write)
