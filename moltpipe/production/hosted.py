"""The walk of one hosted call from its claim to its result in the store.

Here: what is done next for a call in whatever state it was found. Not here: what an engine speaks (`engines`), the
rows and what they allow (`ledger.calls`, `ledger.accounts`), fetching (`production.ingest`).

Each step begins from the row alone. So a process that was killed anywhere is followed by one that goes on from there: a
claim that never left is sent, a job that was accepted is waited for, and one that may have been accepted is looked for
and else left to a person. The incident behind it: a restart that submitted whatever was not finished, and paid twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel
from structlog.contextvars import bound_contextvars

from moltpipe.engines.errors import EngineError, ErrorClass, JobOver
from moltpipe.engines.protocols import (
    Composed,
    Engine,
    ExternalId,
    Filmed,
    Hosting,
    Order,
    Progress,
    Recorded,
    Whereabouts,
    Written,
)
from moltpipe.ledger import accounts, calls, inbox
from moltpipe.ledger.accounts import NotYet, Started, StartLimits
from moltpipe.ledger.calls import OVER, Call, CallExists, CallState, IllegalTransition, Intent, UnknownCall
from moltpipe.ledger.database import DatabaseUnavailable
from moltpipe.ledger.jobs import Superseded, still_mine
from moltpipe.ledger.slots import EngineSlots, to_its_end
from moltpipe.production.answers import Answer, outcome_of, written
from moltpipe.production.ingest import NotMedia, stored_arrival, take_in
from moltpipe.production.ingest import fetch as fetch_result
from moltpipe.production.line import Line
from moltpipe.production.work import Postponed, Work

RequestT = TypeVar("RequestT", bound=BaseModel)
ResultT = TypeVar("ResultT", bound=BaseModel)

_RESULTS: dict[str, type[BaseModel]] = {"write": Written, "speak": Recorded, "film": Filmed, "compose": Composed}

PATIENCE_WHEN_BLOCKED = timedelta(seconds=90)
"""A longer wait for a provider gives the episode's job back until then, so that its run makes room."""
PATIENCE_WITH_THE_DEAD_S = 20.0
"""How long a call waits for places that are all held by calls of runs that are gone. Then its episode's job is given
back, so that its run makes room for theirs. The incident: everything was killed, four runs started and waited for two
places at a provider, and the two runs that would have freed them stood in the queue behind: for an hour."""
REST_FROM_THE_DEAD = timedelta(seconds=30)
"""How long the job is left then."""
SENDINGS = 6
"""How often one call is sent while it certainly was not accepted."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
LONGEST_WAIT_S = 3600.0
"""After this an account is tried again, whatever its provider asked for: some send a date where seconds belong."""
NEW_JOBS = 3
"""How many jobs in a row are made of one request where each ended with "a new one is fine"."""
FETCHINGS = 3
"""How often a result's address is asked for anew when fetching from it failed."""
LAST_LOOKS = 3
"""How many looks in a row may fail once a job's deadline is over, before the next run is left to look."""
STOPPING_S = (0.0, 1.0, 2.0, 4.0)
"""The pauses before the looks that tell whether a job really stops when it is cancelled."""
ROUND_S = 1.0
"""The longest that a waiting call goes without asking whether a webhook came or a place is free."""
GRACE_S = 20.0
"""How long the end of a run waits for the answer to a request that is leaving."""
GATE_PATIENCE_S = 300.0
"""How long a call waits for its turn to ask for a place; a request of another that leaves takes a minute at most."""
LEDGER_PATIENCE_S = 600.0
"""How long an answer is tried to be written down while Postgres is away."""

_SENDING_ROOM = zlib.crc32(b"moltpipe request is leaving") - 2**31

log = logging.getLogger(__name__)


class EngineBlocked(Postponed):
    """The engine takes no requests until some time: its provider asked to wait, or its account needs a person."""

    def __init__(self, engine: str, why: str, until: datetime) -> None:
        super().__init__(f"{engine} takes no requests until {until:%H:%M:%S} UTC: {why}", until)
        self.engine = engine


async def kept_answer(line: Line, call: Call, file: Path | None = None) -> Answer[Any]:
    """The answer of an ingested call, from its row and, where no file is at hand, from the store."""
    kept = dict(call.result or {})
    arrival = kept.pop("media", None)
    if arrival is not None and file is None:
        file = await asyncio.to_thread(stored_arrival, line, arrival)
    result = _RESULTS[call.operation].model_validate(kept if file is None else {**kept, "file": file})
    return Answer(call.id, result, file, hosted=True)


class HostedCall(Generic[RequestT, ResultT]):
    """The walk of one hosted call through its states."""

    def __init__(
        self, work: Work, engine: Engine[RequestT, ResultT], hosting: Hosting, request: RequestT, intent: Intent
    ) -> None:
        self.work = work
        self.line = work.line
        self.engine = engine
        self.hosting = hosting
        self.request = request
        self.intent = intent
        self.file: Path | None = None
        self._turnstile = work.turnstiles[hosting.account]
        self._call: Call | None = None
        self._sendings = 0
        self._jobs = 0
        self._abandoned_since: float | None = None

    async def answer(self) -> Answer[ResultT]:
        """Walk to the end, and read the result from the row.

        Raises:
            EngineError, EngineBlocked, BudgetReached, PriceUnknown, GivenUp: see `production.calls.call`.
        """
        try:
            self._call = await self._claim()
            if self._call.state is not CallState.CLAIMED:
                log.info("call taken up", extra={"call": str(self._call.id), "state": self._call.state.value})
            while self._call.state is not CallState.INGESTED:
                with bound_contextvars(call=str(self._call.id)):
                    self._call = await self._next(self._call)
        except asyncio.CancelledError:
            await self._leave()
            raise
        return await kept_answer(self.line, self._call, self.file)

    async def _next(self, call: Call) -> Call:
        try:
            return await self._step(call)
        except IllegalTransition as moved:
            return await self._moved_on(call, moved)

    async def _step(self, call: Call) -> Call:
        match call.state:
            case CallState.CLAIMED:
                return await self._send(call)
            case CallState.SUBMITTING | CallState.AMBIGUOUS:
                return await self._look_for(call)
            case CallState.SUBMITTED | CallState.RUNNING | CallState.SUCCEEDED:
                return await self._await_result(call)
            case _:
                raise RuntimeError(f"call {call.id} is {call.state}, which nobody goes on from")

    async def _claim(self) -> Call:
        """A new row, or the live one that an earlier process left behind."""

        def claim(db: Any) -> Call:  # noqa: ANN401 - the ledger's connection, whose type is SQL's
            # Who has lost the episode must not spend on it, in other words perhaps than the one who has it now.
            still_mine(db, self.work.claim)
            try:
                # Kept here as well: who is cancelled before the answer still has to take the claim back.
                self._call = calls.claim_call(db, self.intent, self.line.caps)
            except CallExists as exists:
                self._call = calls.adopt_call(db, exists.call.id, self.intent.process_uuid)
            return self._call

        return await written(self.line.database, claim)

    async def _moved_on(self, known: Call, moved: IllegalTransition) -> Call:
        """The row as another process, or a person, has left it: nothing failed, and the walk goes on from there."""
        call = await written(self.line.database, calls.call_by_id, known.id)
        if call.state in OVER:
            raise self._later(f"call {call.id} is {call.state}, by another run or a person")
        if call.state is known.state:
            raise moved
        return call

    # Sending -----------------------------------------------------------------------------------------------------

    async def _send(self, call: Call) -> Call:
        """Wait for a place, let the request leave, and write down the id that comes back."""
        async with contextlib.AsyncExitStack() as turn:
            await turn.enter_async_context(self._turnstile.turn())
            return await self._send_in_turn(call, turn)

    async def _send_in_turn(self, call: Call, turn: contextlib.AsyncExitStack) -> Call:
        """Ask until there is a place, then let the next call ask while this one's request leaves."""
        while True:
            self._turnstile.before_asking()
            async with contextlib.AsyncExitStack() as gate:
                if self.hosting.start_delay:
                    # Held until the provider has answered: a busy machine does not keep a moment that is only reckoned.
                    await self._enter(gate)
                async with self._sending(call.id):
                    started = await self._start(call)
                    if not isinstance(started, NotYet):
                        await turn.aclose()
                        self._sendings += 1
                        try:
                            return await self._submit(started, gate)
                        except EngineError as error:
                            return await self._refused(started, error)
            await self._wait_for_place(started)

    async def _enter(self, gate: contextlib.AsyncExitStack) -> None:
        """Into the one place from which the account's requests leave, unless a process hangs there."""
        account = self.hosting.account
        try:
            async with asyncio.timeout(GATE_PATIENCE_S):
                await gate.enter_async_context(EngineSlots(self.line.database, f"start {account}", 1))
        except TimeoutError:
            why = (
                f"for {GATE_PATIENCE_S:g} s other runs have been at the start of account {account}: end one that hangs"
            )
            raise self._turnstile.closed_by(self._later(why)) from None

    async def _start(self, call: Call) -> Call | NotYet:
        limits = StartLimits(self.hosting.max_concurrency, self.hosting.start_delay, self.hosting.deadline)

        def start(db: Any) -> Started | NotYet:  # noqa: ANN401 - as above
            still_mine(db, self.work.claim)
            return accounts.start_call(db, call.id, limits)

        while True:
            starting = asyncio.ensure_future(written(self.line.database, start))
            try:
                outcome = await asyncio.shield(starting)
            except asyncio.CancelledError:
                (started,) = await asyncio.gather(starting, return_exceptions=True)
                if isinstance(started, Started):
                    await self._never_left(call.id)
                raise
            except IllegalTransition:
                raise self._elsewhere(call.id) from None
            if not isinstance(outcome, NotYet):
                return outcome.call
            if outcome.blocked or outcome.wait is None or outcome.wait > self.hosting.start_delay:
                return outcome
            await asyncio.sleep(outcome.wait.total_seconds())

    async def _wait_for_place(self, not_yet: NotYet) -> None:
        wait = not_yet.wait or timedelta(seconds=ROUND_S)
        if not_yet.blocked and wait > PATIENCE_WHEN_BLOCKED:
            raise self._turnstile.closed_by(EngineBlocked(self.engine.name, not_yet.why, datetime.now(UTC) + wait))
        self._abandoned_since = (self._abandoned_since or time.monotonic()) if not_yet.abandoned else None
        if self._abandoned_since and time.monotonic() - self._abandoned_since > PATIENCE_WITH_THE_DEAD_S:
            rested = datetime.now(UTC) + REST_FROM_THE_DEAD
            raise self._turnstile.closed_by(EngineBlocked(self.engine.name, not_yet.why, rested))
        await self._turnstile.until_freed(min(wait.total_seconds(), ROUND_S))

    async def _never_left(self, call_id: UUID) -> None:
        """Without this word, a person would have to say what became of a request that nobody sent."""
        await written(self.line.database, calls.mark_unsent, call_id)

    async def _submit(self, call: Call, gate: contextlib.AsyncExitStack) -> Call:
        """Hand the request over and write down the id, before anything else that could go wrong.

        A run that ends meanwhile waits a moment for the answer, which names what was paid.
        """
        try:
            order = await self._order(call)
        except asyncio.CancelledError:
            await self._never_left(call.id)
            raise
        sent = asyncio.Event()
        if self.hosting.holds_request:
            order = replace(order, departed=sent.set)
        submission = asyncio.ensure_future(self.engine.submit(self.request, order))
        opener = asyncio.ensure_future(self._open_gate(sent, gate)) if self.hosting.holds_request else None
        try:
            try:
                job = await asyncio.shield(submission)
            except asyncio.CancelledError:
                with contextlib.suppress(IllegalTransition, DatabaseUnavailable):
                    await self._last_word(call, submission)
                raise
            return await self._submitted(call.id, job)
        finally:
            if opener is not None:
                opener.cancel()
                await asyncio.gather(opener, return_exceptions=True)
            with contextlib.suppress(DatabaseUnavailable):
                # The start itself keeps the distance as well: this must not hide what the provider said.
                await written(
                    self.line.database, accounts.note_answered, self.hosting.account, self.hosting.start_delay
                )

    async def _last_word(self, call: Call, submission: asyncio.Future[ExternalId]) -> None:
        """Write down what came of a request whose run has ended, as far as the provider says it within the grace."""
        await asyncio.wait({submission}, timeout=GRACE_S)
        submission.cancel()
        (outcome,) = await asyncio.gather(submission, return_exceptions=True)
        if isinstance(outcome, str):
            await self._submitted(call.id, outcome)
        elif isinstance(outcome, EngineError):
            await self._noted(call, outcome)
        else:
            why = "the run ended while the request was leaving"
            await written(self.line.database, calls.mark_ambiguous, call.id, why)

    async def _open_gate(self, sent: asyncio.Event, gate: contextlib.AsyncExitStack) -> None:
        """Let the next request of the account start once this one has left: its answer may take minutes."""
        await sent.wait()
        await written(self.line.database, accounts.note_answered, self.hosting.account, self.hosting.start_delay)
        await gate.aclose()

    async def _submitted(self, call_id: UUID, job: ExternalId) -> Call:
        """Write the id down, however long Postgres is away: without it the job is paid for and lost."""
        try:
            call = await written(self.line.database, calls.mark_submitted, call_id, job, patience_s=LEDGER_PATIENCE_S)
        except DatabaseUnavailable:
            log.error("%s accepted call %s as %s, and Postgres could not be told", self.engine.name, call_id, job)  # noqa: TRY400 - the id is the message
            raise
        except IllegalTransition as moved:
            log.error("%s accepted call %s as %s, which is %s meanwhile", self.engine.name, call_id, job, moved.state)  # noqa: TRY400 - as above
            raise
        log.info("call submitted", extra={"external_id": job})
        return call

    async def _refused(self, call: Call, error: EngineError) -> Call:
        """What a request that got no id means: to be sent again, to be looked for, or failed."""
        noted = await self._noted(call, error)
        if noted.state is CallState.FAILED:
            raise error
        pause_s = self._pause_s(error)
        if noted.state is CallState.CLAIMED and pause_s <= PATIENCE_WHEN_BLOCKED.total_seconds():
            await asyncio.sleep(pause_s)
        return noted

    async def _noted(self, call: Call, error: EngineError) -> Call:
        """Write down what a refusal means for the call and for its account."""
        database, account = self.line.database, self.hosting.account
        match error.error_class:
            case ErrorClass.AMBIGUOUS:
                # Five in a row stop the account for a while: each of them may need a person.
                await written(database, accounts.note_fault, account, error.message)
                log.warning("call may have been accepted", extra={"why": error.message})
                return await written(database, calls.mark_ambiguous, call.id, error.message)
            case ErrorClass.RETRY_SAFE | ErrorClass.THROTTLED if self._sendings < SENDINGS:
                if error.error_class is ErrorClass.THROTTLED or error.retry_after_s is not None:
                    pause = timedelta(seconds=self._pause_s(error))
                    await written(database, accounts.block_account, account, pause, error.message)
                log.info("call refused for now", extra={"why": error.message, "error_class": error.error_class.value})
                unsent = await written(database, calls.mark_unsent, call.id)
                self._turnstile.note_freed()
                return unsent
            case ErrorClass.AUTH | ErrorClass.QUOTA:
                await written(database, accounts.open_circuit, account, error.message)
            case ErrorClass.PROVIDER_FAULT:
                await written(database, accounts.note_fault, account, error.message)
            case _:
                pass
        if error.job is not None:
            # Accepted, answered, and of no use: with the id on its row the request is not made again by itself.
            await self._submitted(call.id, ExternalId(error.job))
        return await self._failed(call, error)

    def _pause_s(self, error: EngineError) -> float:
        if error.retry_after_s is not None:
            return min(error.retry_after_s, LONGEST_WAIT_S)
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self._sendings - 1))

    # Looking for what may have been accepted --------------------------------------------------------------------

    async def _look_for(self, call: Call) -> Call:
        """Find the job of a request that may have arrived, or make sure that it did not, or leave it to a person."""
        async with self._sending(call.id):
            job = await written(self.line.database, inbox.external_id_of, call.id)
            found = ExternalId(job) if job else await self._found(call)
            if found is Whereabouts.NOT_THERE and self._sendings < SENDINGS:
                return await written(self.line.database, calls.mark_unsent, call.id)
            if not isinstance(found, Whereabouts):
                return await self._submitted(call.id, found)
            if self.intent.quote_usd == 0 and self._sendings < SENDINGS:
                # What costs nothing may be made twice: a server of one's own needs no person for each of its faults.
                return await written(self.line.database, calls.mark_unsent, call.id)
            if call.state is CallState.SUBMITTING:
                why = call.error or "the process ended while the request was leaving"
                await written(self.line.database, calls.mark_ambiguous, call.id, why)
        why = call.error or "the process ended while the request was leaving"
        raise EngineError(
            self.engine.name,
            ErrorClass.AMBIGUOUS,
            f"call {call.id} may have been accepted ({why}) and cannot be looked up: see what {self.engine.name} made, "
            f"then `moltpipe repair --resubmit {call.id}` or `moltpipe repair --give-up {call.id}`",
        )

    async def _found(self, call: Call) -> ExternalId | Whereabouts:
        """Ask the provider, and a second time before it is believed that a job is not there.

        The time between is counted from the first look. From the request's start was the alternative: one that
        timed out has started long ago, may have been accepted a moment ago, and is not listed yet.
        """
        order = await self._order(call)
        found = await self._find(order)
        if found is Whereabouts.NOT_THERE and self.hosting.settles:
            await asyncio.sleep(self.hosting.settles.total_seconds())
            found = await self._find(order)
        return found

    async def _find(self, order: Order) -> ExternalId | Whereabouts:
        try:
            return await self.engine.find(self.request, order)
        except EngineError:
            return Whereabouts.UNKNOWN

    # Waiting and fetching ---------------------------------------------------------------------------------------

    async def _await_result(self, call: Call) -> Call:
        """Look at the job until it is over, then bring its result home."""
        job = ExternalId(call.external_id or "")
        age = await written(self.line.database, calls.time_since_left, call.id)
        submitted_s = time.monotonic() - age.total_seconds()
        for _ in range(FETCHINGS):
            call, outcome = await self._end_of(call, job, submitted_s)
            if outcome is None:
                return await self._claim()
            if call.state is not CallState.SUCCEEDED:
                call = await self._succeeded(call, outcome)
            try:
                return await self._ingest(call, outcome)
            except EngineError as error:
                # Some addresses are signed for minutes: a fresh look may give a new one, and costs nothing.
                failure = error
        if failure.error_class in (ErrorClass.RETRY_SAFE, ErrorClass.THROTTLED):
            # The job stays where it is: the next run fetches its result, and nobody pays again.
            raise failure
        await self._failed(call, failure)
        raise failure

    async def _end_of(self, call: Call, job: ExternalId, submitted_s: float) -> tuple[Call, ResultT | None]:
        """Look until there is a result, or None where a new job is fine. `submitted_s` is a monotonic moment.

        Only an answer makes a job late: a look that failed says nothing of it, and it may have been done for hours.
        """
        deadline_s = submitted_s + self.hosting.deadline.total_seconds()
        pauses_s = self.hosting.pauses_s(self._turnstile.usual_s, time.monotonic() - submitted_s)
        failed_looks = 0
        while isinstance(outcome := await self._look(call, job), Progress | EngineError):
            late = time.monotonic() >= deadline_s
            if isinstance(outcome, EngineError):
                failed_looks += 1
                if late and failed_looks >= LAST_LOOKS:
                    raise outcome
            else:
                failed_looks = 0
                if outcome.at_work and call.state is CallState.SUBMITTED:
                    call = await written(self.line.database, calls.mark_running, call.id)
                if late:
                    await self._too_late(call, job)
            await self._pause(call, job, next(pauses_s))
        if outcome is not None:
            self._turnstile.note_lasted(time.monotonic() - submitted_s)
        return call, outcome

    async def _look(self, call: Call, job: ExternalId) -> Progress | ResultT | EngineError | None:
        """One look, or what kept it from being one. None: the job is over without a result, and a new one is fine."""
        try:
            return await self.engine.poll(job)
        except JobOver as over:
            self._jobs += 1
            await self._failed(call, over)
            if over.error_class is not ErrorClass.RETRY_SAFE or self._jobs >= NEW_JOBS:
                raise
            await asyncio.sleep(min(LONGEST_PAUSE_S, self._pause_s(over)))
            return None
        except EngineError as error:
            match error.error_class:
                case ErrorClass.RETRY_SAFE | ErrorClass.THROTTLED | ErrorClass.AMBIGUOUS:
                    if error.retry_after_s:
                        await asyncio.sleep(min(error.retry_after_s, LONGEST_PAUSE_S))
                    return error
                case ErrorClass.AUTH | ErrorClass.QUOTA:
                    # The job goes on over there: with a key that works, the next run fetches what was paid for.
                    await written(self.line.database, accounts.open_circuit, self.hosting.account, error.message)
                    raise
                case ErrorClass.PROVIDER_FAULT:
                    await written(self.line.database, accounts.note_fault, self.hosting.account, error.message)
                case _:
                    pass
            await self._failed(call, error)
            raise

    async def _succeeded(self, call: Call, result: BaseModel) -> Call:
        billed = getattr(result, "billed_usd", None)
        cost = self.intent.quote_usd if billed is None else billed
        done = await written(self.line.database, calls.mark_succeeded, call.id, cost or Decimal(0))
        self._turnstile.note_freed()
        log.info("call finished", extra=outcome_of(done))
        await written(self.line.database, accounts.note_success, self.hosting.account, call.left_at)
        return done

    async def _ingest(self, call: Call, result: ResultT) -> Call:
        """Bring the result into the store, look at it, and write it on the row: the provider may forget it now."""
        kept = result.model_dump(mode="json")
        source = getattr(result, "file", None)
        if source is not None:
            limits = self.line.result_limits
            if isinstance(source, Path):
                file = source
            else:
                # A name of this attempt's own: one that is late must not take the file from under one that is at work.
                target = self.line.workdir / f"arrival-{call.id}-{uuid4().hex[:8]}"
                file = await fetch_result(source, target, self.engine.name, self.hosting.base_url, limits)
            try:
                kept["media"] = await take_in(self.line, call.id, call.operation, file)
                ingested = await written(self.line.database, calls.mark_ingested, call.id, kept)
            except NotMedia as error:
                file.unlink(missing_ok=True)
                raise EngineError(self.engine.name, ErrorClass.PROVIDER_FAULT, str(error)) from error
            except BaseException:
                file.unlink(missing_ok=True)
                raise
            self.file = file
            return ingested
        return await written(self.line.database, calls.mark_ingested, call.id, kept)

    async def _too_late(self, call: Call, job: ExternalId) -> None:
        with contextlib.suppress(EngineError):
            await self.engine.cancel(job)
        late = EngineError(
            self.engine.name,
            ErrorClass.EXPIRED,
            f"job {job} was not done within {self.hosting.deadline.total_seconds():g} s of its start",
        )
        await self._failed(call, late)
        raise late

    async def _pause(self, call: Call, job: ExternalId, pause_s: float) -> None:
        """Wait for the next look, or for a webhook that says there is something to see."""
        if self.line.webhooks_url is None:
            await asyncio.sleep(pause_s)
            return
        since = datetime.now(UTC)
        rest = pause_s
        while rest > 0:
            await asyncio.sleep(min(ROUND_S, rest))
            rest -= ROUND_S
            if await written(self.line.database, inbox.has_news, [(call.id, str(job))], since):
                return

    # Ending ------------------------------------------------------------------------------------------------------

    async def _failed(self, call: Call, error: EngineError) -> Call:
        failed = await written(
            self.line.database, calls.mark_failed, call.id, error.error_class.value, error.message, error.cost_usd
        )
        self._turnstile.note_freed()
        log.warning("call failed", extra=outcome_of(failed))
        return failed

    async def _leave(self) -> None:
        """A run that ends takes back what never left. What is at the provider is cancelled when a person ended the run.

        A process that merely stops leaves it: the next one goes on waiting for the same job. So does one that
        lost the episode to another process, which waits for that job already. And a job that does not stop when it is
        cancelled, as at Veo and HeyGen, is paid for and left to the next run, which would pay for another one.
        """
        call = self._call
        if call is None:
            return
        state = await written(self.line.database, self._take_back, call.id)
        if state in (CallState.SUBMITTED, CallState.RUNNING) and self.work.ended_by_a_person():
            current = await written(self.line.database, calls.call_by_id, call.id)
            if await self._is_stopped(ExternalId(current.external_id or "")):
                await written(self.line.database, calls.mark_canceled, call.id)

    async def _is_stopped(self, job: ExternalId) -> bool:
        """Cancel a job, and look whether that ended it."""
        if self.hosting.holds_request:
            # Its answer is here: to cancel would be to throw it away.
            return False
        with contextlib.suppress(EngineError):
            await self.engine.cancel(job)
            for pause_s in STOPPING_S:
                await asyncio.sleep(pause_s)
                try:
                    if not isinstance(await self.engine.poll(job), Progress):
                        return False
                except JobOver:
                    return True
        return False

    def _take_back(self, db: Any, call_id: UUID) -> CallState | None:  # noqa: ANN401 - as above
        """The state of the call, canceled if it had only been claimed; None when the episode is another process's."""
        try:
            still_mine(db, self.work.claim)
            call = calls.lock_call(db, call_id)
        except (Superseded, UnknownCall):
            return None
        return calls.mark_canceled(db, call_id).state if call.state is CallState.CLAIMED else call.state

    # Shared ------------------------------------------------------------------------------------------------------

    async def _order(self, call: Call) -> Order:
        return Order(
            call_id=call.id,
            left_at=call.left_at or datetime.now(UTC),
            webhook_base=self.line.webhooks_url,
            link=lambda key: self.line.store.presign(key, expires_s=6 * 3600),
            others=await written(self.line.database, calls.others_of, call),
        )

    def _elsewhere(self, call_id: UUID) -> EngineBlocked:
        return self._later(f"another process is sending call {call_id}")

    def _later(self, why: str) -> EngineBlocked:
        return EngineBlocked(self.engine.name, why, datetime.now(UTC) + timedelta(seconds=GRACE_S))

    @contextlib.asynccontextmanager
    async def _sending(self, call_id: UUID) -> AsyncIterator[None]:
        """Hold the call while its request leaves or is looked for.

        A process that is only slow must not be taken for a dead one while it may still send.
        """
        place = call_id.int % 2**31
        database = self.line.database
        taking = asyncio.ensure_future(asyncio.to_thread(database.take_place, _SENDING_ROOM, [place]))
        try:
            if await asyncio.shield(taking) is None:
                raise self._elsewhere(call_id)
            yield
        finally:
            # A task that was cancelled while its thread took the place has it all the same.
            if await taking is not None:
                await to_its_end(asyncio.to_thread(database.locks.give_back, _SENDING_ROOM, place))
