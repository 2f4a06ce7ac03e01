"""One hosted call from its claim to its result, against a provider that fails in every way it can."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import SecretStr

from moltpipe.engines.elevenlabs import Elevenlabs
from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.protocols import Whereabouts
from moltpipe.engines.replicate import Replicate
from moltpipe.engines.transfer import Limits
from moltpipe.engines.veo import Veo
from moltpipe.ledger import accounts, calls, decisions
from moltpipe.ledger.calls import GivenUp
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.inbox import record_event
from moltpipe.ledger.jobs import Superseded, load_jobs
from moltpipe.ledger.slots import EngineSlots
from moltpipe.ledger.spending import BudgetReached, Caps
from moltpipe.production import hosted, ingest
from moltpipe.production.calls import Subject, intent_of
from moltpipe.production.filming import film_shots
from moltpipe.production.hosted import EngineBlocked
from moltpipe.production.line import Line
from moltpipe.production.partial import SomeFailed
from moltpipe.production.voicing import line_request, voice_shots
from moltpipe.production.work import work_on
from moltpipe.runtime.webhooks import receivers, webhooks_app
from moltpipe.runtime.webhooks import serving as serving_webhooks
from moltpipe.settings import ElevenlabsAccount, ReplicateAccount, Settings, VeoAccount
from moltpipe.studio.records import Episode
from moltpipe.studio.screenplay import spoken_line
from moltpipe_tests.fakes.elevenlabs import FakeElevenlabs
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import Answer, Fault, Seen, serving
from moltpipe_tests.fakes.veo import FakeVeo
from moltpipe_tests.production.one_shot_episode import add_shot, one_shot_episode
from moltpipe_tests.stories import a_series

KEY = "r8_planted-key"


@dataclass
class Set:
    """A line whose camera is a hosted one, an episode with one shot, and the provider."""

    line: Line
    episode: Episode
    provider: FakeReplicate | FakeVeo
    url: str

    async def film(self, run_id: str = "", **of_work: Any) -> int:  # noqa: ANN401 - arguments of work_on
        async with work_on(
            self.line, self.episode.partition_key, process_uuid=run_id or str(uuid4()), **of_work
        ) as work:
            return len((await film_shots(work, regenerate=False)).filmed_now)

    async def refusal(self) -> BaseException:
        """The error of the one take."""
        with pytest.raises(SomeFailed) as failed:
            await self.film()
        return failed.value.failed[0].error

    def calls(self) -> list[dict[str, Any]]:
        return self.query("SELECT * FROM provider_jobs ORDER BY claimed_at")

    def query(self, statement: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, row_factory=psycopg.rows.dict_row) as db:
            return db.execute(statement).fetchall()

    def submissions(self) -> int:
        return sum(1 for seen in self.provider.seen if seen.method == "POST" and "cancel" not in seen.path)


@pytest.fixture
def provider() -> Iterator[FakeReplicate]:
    fake = FakeReplicate(latency_s=0)
    with serving(fake):
        yield fake


@pytest.fixture
def on_set(line: Line, provider: FakeReplicate, database_url: str) -> Set:
    account = ReplicateAccount(base_url=f"{provider.base}/v1", api_key=SecretStr(KEY), start_delay_ms=0)
    hosted = replace(line, crew=replace(line.crew, camera=Replicate(account)))
    return Set(hosted, one_shot_episode(line.database, database_url), provider, database_url)


async def test_a_take_is_billed_once_stored_as_it_came_and_written_with_its_cost(on_set: Set) -> None:
    assert await on_set.film() == 1
    assert await on_set.film() == 0
    (call,) = on_set.calls()
    assert call["state"] == "ingested"
    assert call["cost_usd"] > 0
    assert call["reserved_usd"] == 0
    arrived = call["result"]["media"]
    assert on_set.line.store.size(arrived["key"]) == arrived["bytes"]
    assert arrived["key"].startswith(f"arrivals/{call['id']}-")
    assert on_set.provider.billed == 1


@pytest.mark.parametrize(
    "fault",
    [Fault.THROTTLED, Fault.UNAVAILABLE, Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_502, Fault.POLL_FAILS],
)
async def test_what_goes_wrong_once_costs_no_second_job(
    on_set: Set, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = on_set.line.crew.camera
    assert camera.hosting is not None
    monkeypatch.setattr(camera, "hosting", replace(camera.hosting, settles=timedelta(seconds=0.2)))
    on_set.provider.fault(fault, 1, retry_after=0.2)
    assert await on_set.film() == 1
    assert on_set.provider.billed == 1
    assert [call["state"] for call in on_set.calls()] == ["ingested"]


async def test_a_provider_that_asks_to_wait_long_gets_its_wait_and_the_job_is_put_off(on_set: Set) -> None:
    on_set.provider.fault(Fault.THROTTLED, retry_after=900)
    with pytest.raises(SomeFailed) as put_off:
        await on_set.film()
    assert isinstance(put_off.value.failed[0].error, EngineBlocked)
    seen = on_set.submissions()
    await on_set.refusal()
    assert on_set.submissions() == seen, "another run must not send before the time has come"
    with on_set.line.database.begin() as db:
        (job,) = [job for job in load_jobs(db) if job.partition_key == on_set.episode.partition_key]
    assert job.attempt_count == 0
    assert "until" in (job.last_error or "")


async def test_a_job_that_never_started_is_made_anew_as_the_provider_documents(on_set: Set) -> None:
    on_set.provider.fault(Fault.JOB_FAILS, code="E6716")
    assert await on_set.film() == 1
    assert [call["state"] for call in on_set.calls()] == ["failed", "ingested"]
    assert on_set.calls()[0]["cost_usd"] == 0


async def test_what_was_withheld_for_its_content_is_not_sent_again_by_itself(on_set: Set) -> None:
    on_set.provider.fault(Fault.FILTERED)
    first = await on_set.refusal()
    assert isinstance(first, EngineError)
    assert first.error_class is ErrorClass.FILTERED
    sent = on_set.submissions()
    again = await on_set.refusal()
    assert isinstance(again, GivenUp)
    assert on_set.submissions() == sent
    assert "repair --resubmit" in str(again)

    with on_set.line.database.begin() as db:
        decisions.resubmit(db, UUID(str(on_set.calls()[0]["id"])), "a test")
    assert await on_set.film() == 1


@pytest.mark.parametrize(("fault", "error_class"), [(Fault.UNAUTHORIZED, "auth"), (Fault.NO_CREDIT, "quota")])
async def test_a_bad_key_or_an_empty_account_stops_every_process(on_set: Set, fault: Fault, error_class: str) -> None:
    on_set.provider.fault(fault)
    refused = await on_set.refusal()
    assert isinstance(refused, EngineError)
    assert refused.error_class == error_class
    assert isinstance(await on_set.refusal(), EngineBlocked)
    assert on_set.submissions() == 1


@pytest.mark.parametrize("fault", [Fault.TRUNCATED_MEDIA, Fault.EMPTY_MEDIA, Fault.NOT_MEDIA, Fault.EXPIRED_URL])
async def test_a_result_that_cannot_be_used_fails_clearly_keeps_its_id_and_is_not_paid_again(
    on_set: Set, fault: Fault
) -> None:
    quick = Limits(max_bytes=10**9, allow_private=False, attempts=2, stall_s=2, first_pause_s=0.05)
    on_set.line = replace(on_set.line, result_limits=quick)
    on_set.provider.fault(fault, times=50)
    refused = await on_set.refusal()
    assert isinstance(refused, EngineError)
    (call,) = on_set.calls()
    assert call["external_id"]
    assert call["state"] in ("succeeded", "failed")
    assert call["cost_usd"] > 0
    await on_set.refusal()
    assert on_set.provider.billed == 1
    assert not list(on_set.line.workdir.rglob("arrival*"))


async def test_a_result_that_could_not_be_fetched_today_is_fetched_by_the_next_run(on_set: Set) -> None:
    quick = Limits(max_bytes=10**9, allow_private=False, attempts=1, stall_s=2)
    on_set.line = replace(on_set.line, result_limits=quick)
    on_set.provider.fault(Fault.TRUNCATED_MEDIA, times=3)
    await on_set.refusal()
    assert await on_set.film() == 1
    assert on_set.provider.billed == 1


async def test_a_result_larger_than_allowed_is_refused(on_set: Set) -> None:
    on_set.line = replace(on_set.line, result_limits=Limits(max_bytes=1000, allow_private=False))
    refused = await on_set.refusal()
    assert "1000" in str(refused)


async def test_a_status_that_nobody_has_documented_is_waited_out(on_set: Set) -> None:
    on_set.provider.fault(Fault.UNKNOWN_STATUS, looks=1)
    assert await on_set.film() == 1


async def test_a_job_that_never_ends_is_cancelled_at_its_deadline(on_set: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = on_set.line.crew.camera
    assert camera.hosting is not None
    hurried = replace(camera.hosting, deadline=timedelta(seconds=0.5), first_look=timedelta(seconds=0.1))
    monkeypatch.setattr(camera, "hosting", hurried)
    on_set.provider.fault(Fault.NEVER_ENDS)
    refused = await on_set.refusal()
    assert isinstance(refused, EngineError)
    assert refused.error_class is ErrorClass.EXPIRED
    assert any(seen.path.endswith("/cancel") for seen in on_set.provider.seen)


@pytest.mark.parametrize(
    ("caps", "cap"),
    [
        (Caps(run_usd=Decimal("0.01")), "run"),
        (Caps(series_usd=Decimal("0.01")), "series"),
        (Caps(day_usd=Decimal("0.01")), "day"),
    ],
)
async def test_a_cap_refuses_before_anything_is_sent(on_set: Set, caps: Caps, cap: str) -> None:
    on_set.line = replace(on_set.line, caps=caps)
    refused = await on_set.refusal()
    assert isinstance(refused, BudgetReached)
    assert refused.cap == cap
    assert on_set.provider.seen == []


async def _until_at_the_provider(on_set: Set) -> None:
    """Until the row says so, which nobody announces."""
    async with asyncio.timeout(20):
        while not any(call["state"] in ("submitted", "running") for call in on_set.calls()):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("by_a_person", [True, False])
async def test_ending_a_run_cancels_at_the_provider_and_stopping_a_process_does_not(
    on_set: Set, *, by_a_person: bool
) -> None:
    on_set.provider.fault(Fault.NEVER_ENDS)
    filming = asyncio.create_task(on_set.film(ended_by_a_person=lambda: by_a_person))
    await _until_at_the_provider(on_set)
    filming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await filming
    assert any(seen.path.endswith("/cancel") for seen in on_set.provider.seen) is by_a_person
    (call,) = on_set.calls()
    assert (call["state"] == "canceled") is by_a_person


async def test_a_run_that_ends_while_its_request_leaves_still_learns_what_was_accepted(on_set: Set) -> None:
    on_set.provider.fault(Fault.HANG_AFTER)
    filming = asyncio.create_task(on_set.film())
    await asyncio.to_thread(on_set.provider.hanging.acquire)
    filming.cancel()
    await asyncio.sleep(0)
    on_set.provider.release()
    with pytest.raises(asyncio.CancelledError):
        await filming
    (call,) = on_set.calls()
    assert call["external_id"]
    assert await on_set.film() == 1
    assert on_set.provider.billed == 1


async def test_no_key_and_no_signed_address_is_in_any_row_log_or_error(
    on_set: Set, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    on_set.provider.fault(Fault.EXPIRED_URL, times=50)
    refused = await on_set.refusal()
    said = f"{refused!r} {refused} {caplog.text}"
    tables = [row["tablename"] for row in on_set.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    for table in tables:
        said += json.dumps(on_set.query(f"SELECT * FROM {table}"), default=str)  # noqa: S608 - names from the catalogue
    assert len(tables) > 10
    assert KEY not in said
    assert "sig=" not in said


class Slow(FakeReplicate):
    """Accepts its first request only after a while, and answers it when nobody listens any more."""

    def handle(self, seen: Seen) -> Answer:
        if seen.method == "POST" and not self.billed:
            time.sleep(0.5)
            answer = super().handle(seen)
            time.sleep(0.5)
            return answer
        return super().handle(seen)


async def test_a_job_that_was_accepted_late_and_is_listed_later_is_not_paid_again(
    line: Line, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Slow(latency_s=0, listing_lag_s=0.4)
    with serving(provider):
        account = ReplicateAccount(base_url=f"{provider.base}/v1", api_key=SecretStr(KEY), start_delay_ms=0)
        camera = Replicate(account, timeout_s=0.6)
        assert camera.hosting is not None
        monkeypatch.setattr(camera, "hosting", replace(camera.hosting, settles=timedelta(seconds=0.5)))
        on_set = Set(
            replace(line, crew=replace(line.crew, camera=camera)),
            one_shot_episode(line.database, database_url),
            provider,
            database_url,
        )
        assert await on_set.film() == 1
        assert provider.billed == 1


async def test_an_id_is_written_down_before_anything_else_that_postgres_may_refuse(
    on_set: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise DatabaseUnavailable("127.0.0.1", 5432, "gone")

    monkeypatch.setattr(accounts, "note_answered", away)
    assert await on_set.film() == 1
    assert on_set.provider.billed == 1


def held_up(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> tuple[threading.Event, threading.Event]:
    """Let a function do its work and then wait. Gives the moment at which it waits, and what lets it go."""
    waits, go_on = threading.Event(), threading.Event()
    done: Callable[..., object] = getattr(owner, name)

    def slow(*values: object) -> object:
        outcome = done(*values)
        waits.set()
        go_on.wait(20)
        return outcome

    monkeypatch.setattr(owner, name, slow)
    return waits, go_on


@pytest.mark.parametrize(
    ("owner", "step", "state"),
    [
        (calls, "claim_call", "canceled"),
        (calls, "others_of", "canceled"),
        (accounts, "start_call", "canceled"),
        (Database, "take_place", "canceled"),
        (calls, "mark_submitted", "submitted"),
    ],
)
async def test_a_run_that_ends_in_the_middle_of_a_step_leaves_neither_a_doubt_nor_a_lock(
    on_set: Set, monkeypatch: pytest.MonkeyPatch, owner: object, step: str, state: str
) -> None:
    waits, go_on = held_up(monkeypatch, owner, step)
    filming = asyncio.create_task(on_set.film())
    await asyncio.to_thread(waits.wait, 20)
    filming.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await filming
    (call,) = on_set.calls()
    assert call["state"] == state
    assert on_set.submissions() == on_set.provider.billed == (1 if state == "submitted" else 0)
    assert on_set.query("SELECT * FROM pg_locks WHERE locktype = 'advisory'") == []


async def test_a_request_that_is_refused_while_the_run_ends_leaves_no_doubt(
    on_set: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = on_set.provider.refusal
    monkeypatch.setattr(on_set.provider, "refusal", lambda _status, what: refusal(422, what))
    on_set.provider.fault(Fault.HANG_BEFORE)
    filming = asyncio.create_task(on_set.film())
    await asyncio.to_thread(on_set.provider.hanging.acquire)
    filming.cancel()
    await asyncio.sleep(0)
    on_set.provider.release()
    with pytest.raises(asyncio.CancelledError):
        await filming
    (call,) = on_set.calls()
    assert (call["state"], call["error_class"], call["cost_usd"]) == ("failed", "invalid_input", 0)


async def test_a_look_that_fails_after_the_deadline_does_not_throw_a_result_away(on_set: Set) -> None:
    on_set.provider.latency_s = 1.0
    filming = asyncio.create_task(on_set.film())
    await _until_at_the_provider(on_set)
    filming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await filming
    await asyncio.sleep(1.0)
    with psycopg.connect(on_set.url) as db:
        db.execute("UPDATE provider_jobs SET left_at = left_at - interval '1 day'")
    on_set.provider.fault(Fault.POLL_FAILS)
    assert await on_set.film() == 1
    assert on_set.provider.billed == 1


async def test_two_processes_that_wait_for_one_job_do_not_trip_over_each_other(on_set: Set) -> None:
    on_set.provider.latency_s = 1.5
    superseded = asyncio.create_task(on_set.film())
    await _until_at_the_provider(on_set)
    with psycopg.connect(on_set.url) as db:
        db.execute("UPDATE production_jobs SET heartbeat_at = heartbeat_at - interval '1 hour'")
    assert await on_set.film() == 1
    with pytest.raises((Superseded, SomeFailed)):
        await superseded
    assert on_set.provider.billed == 1


async def test_a_job_that_cannot_be_stopped_is_left_to_the_next_run(line: Line, database_url: str) -> None:
    provider = FakeVeo(latency_s=1.0)
    with serving(provider):
        account = VeoAccount(base_url=f"{provider.base}/v1beta", api_key=SecretStr(KEY), start_delay_ms=0)
        on_set = Set(
            replace(line, crew=replace(line.crew, camera=Veo(account))),
            one_shot_episode(line.database, database_url),
            provider,
            database_url,
        )
        filming = asyncio.create_task(on_set.film(ended_by_a_person=lambda: True))
        await _until_at_the_provider(on_set)
        filming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await filming
        assert await on_set.film() == 1
        assert provider.billed == 1


async def test_a_process_that_hangs_at_the_start_of_an_account_is_named_and_not_waited_for_without_end(
    line: Line, provider: FakeReplicate, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "GATE_PATIENCE_S", 0.5)
    account = ReplicateAccount(base_url=f"{provider.base}/v1", api_key=SecretStr(KEY), start_delay_ms=10)
    camera = Replicate(account)
    assert camera.hosting is not None
    on_set = Set(
        replace(line, crew=replace(line.crew, camera=camera)),
        one_shot_episode(line.database, database_url),
        provider,
        database_url,
    )
    stopped = Database(database_url)
    async with EngineSlots(stopped, f"start {camera.hosting.account}", 1):
        refused = await on_set.refusal()
    stopped.dispose()
    assert isinstance(refused, EngineBlocked)
    assert camera.hosting.account in str(refused)
    assert await on_set.film() == 1


def with_one_place(line: Line, provider: FakeReplicate) -> Line:
    account = ReplicateAccount(
        base_url=f"{provider.base}/v1", api_key=SecretStr(KEY), start_delay_ms=0, max_concurrency=1
    )
    return replace(line, crew=replace(line.crew, camera=Replicate(account)))


async def test_a_run_makes_room_where_only_a_run_in_the_queue_can_free_a_place(
    line: Line, provider: FakeReplicate, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And waits where the run that holds the place is at work."""
    monkeypatch.setattr(hosted, "PATIENCE_WITH_THE_DEAD_S", 0.2)
    set_up = with_one_place(line, provider)
    second, third = a_series(line.database)[1:3]
    with psycopg.connect(database_url) as db:
        for episode in (second, third):
            add_shot(db, episode.id, 1)
    killed = Set(set_up, second, provider, database_url)
    waiting = Set(set_up, third, provider, database_url)
    provider.fault(Fault.NEVER_ENDS)

    filming = asyncio.create_task(killed.film("a run that will be killed"))
    while not killed.query("SELECT 1 FROM provider_jobs WHERE state = 'running'"):  # noqa: ASYNC110 - a row has no event
        await asyncio.sleep(0.01)
    patient = asyncio.create_task(waiting.film())
    assert not (await asyncio.wait({patient}, timeout=1.5))[0], "the place is held by a run that is at work"

    filming.cancel()
    await asyncio.gather(filming, return_exceptions=True)
    with pytest.raises(SomeFailed) as put_off:
        await patient
    assert isinstance(put_off.value.failed[0].error, EngineBlocked)
    assert "of runs that are gone" in str(put_off.value)
    with line.database.begin() as db:
        (job,) = [job for job in load_jobs(db) if job.episode_id == third.id]
    assert (job.attempt_count, job.process_uuid) == (0, None)

    for prediction in provider.predictions.values():
        prediction.ends = prediction.created
    assert await killed.film() == 1
    assert await waiting.film() == 1
    assert provider.billed == 2


async def test_a_line_that_was_said_meanwhile_gives_back_the_money_for_its_own_call(
    line: Line, database_url: str, tmp_path: Path
) -> None:
    provider = FakeElevenlabs(latency_s=0)
    with serving(provider):
        account = ElevenlabsAccount(base_url=f"{provider.base}/v1", api_key=SecretStr(KEY), start_delay_ms=0)
        voice = Elevenlabs(account, answers=tmp_path, workdir=tmp_path)
        spoken = replace(line, crew=replace(line.crew, voice=voice))
        episode = one_shot_episode(line.database, database_url)
        async with work_on(spoken, episode.partition_key, process_uuid="first") as work:
            await voice_shots(work, regenerate=False)
        with psycopg.connect(database_url) as db:
            add_shot(db, episode.id, 2)
            db.execute("UPDATE shots SET audio = (SELECT audio FROM shots WHERE shot_number = 1 AND episode_id = %s)"
                       " WHERE shot_number = 2", (episode.id,))  # fmt: skip
        async with work_on(spoken, episode.partition_key, process_uuid="second") as work:
            second = work.production.shots[1]
            text = spoken_line(second.audio)
            assert text is not None
            request = line_request(work.production.series, text)
            with line.database.begin() as ledger:
                calls.claim_call(ledger, intent_of(work, voice, "speak", request, Subject(of=second.id)))
            assert len((await voice_shots(work, regenerate=False)).spoken_now) == 1
        with psycopg.connect(database_url) as db:
            left = db.execute("SELECT state, reserved_usd FROM provider_jobs ORDER BY claimed_at").fetchall()
    assert left == [("ingested", 0), ("canceled", 0)]
    assert provider.billed == 1


async def test_results_that_are_looked_at_leave_the_threads_to_the_heartbeat(
    line: Line, provider: FakeReplicate, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(3))
    account = ReplicateAccount(
        base_url=f"{provider.base}/v1", api_key=SecretStr(KEY), start_delay_ms=0, max_concurrency=4
    )
    on_set = Set(
        replace(line, crew=replace(line.crew, camera=Replicate(account))),
        one_shot_episode(line.database, database_url, shots=4),
        provider,
        database_url,
    )
    looked_at, go_on = threading.Semaphore(0), threading.Event()

    def slow(*_: object) -> None:
        looked_at.release()
        go_on.wait(20)

    monkeypatch.setattr(ingest, "check_media", slow)
    filming = asyncio.create_task(on_set.film())
    async with asyncio.timeout(20):
        while [call["state"] for call in on_set.calls()] != ["succeeded"] * 4:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
        await asyncio.to_thread(looked_at.acquire)
        go_on.set()
        assert await filming == 4


async def test_a_wait_that_no_provider_can_mean_does_not_close_an_account_for_ever(on_set: Set) -> None:
    on_set.provider.fault(Fault.THROTTLED, retry_after=999_999)
    refused = await on_set.refusal()
    assert isinstance(refused, EngineBlocked)
    assert refused.until - datetime.now(UTC) <= timedelta(hours=1)


async def test_a_superseded_process_spends_nothing(on_set: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, go_on = held_up(monkeypatch, calls, "claim_call")
    on_set.provider.latency_s = 1.0
    superseded = asyncio.create_task(on_set.film())
    await asyncio.to_thread(waits.wait, 20)
    go_on.set()
    with psycopg.connect(on_set.url) as db:
        # Waits for the claim, and is there before the request leaves, as that looks for its owner again.
        db.execute("UPDATE production_jobs SET process_uuid = 'another-run' WHERE process_uuid IS NOT NULL")
    with pytest.raises(Superseded):
        await superseded
    assert on_set.submissions() == 0


async def test_a_webhook_wakes_the_run_that_waits_long_before_its_next_look(
    line: Line, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = FakeReplicate(latency_s=0.5)
    secret = ReplicateAccount(webhook_secret=SecretStr(provider.webhook_secret))
    inbox = webhooks_app(receivers(Settings(replicate=secret)), line.database, lambda _: None)
    with serving(provider), serving_webhooks(inbox, "127.0.0.1", 0) as address:
        account = ReplicateAccount(base_url=f"{provider.base}/v1", api_key=SecretStr(KEY), start_delay_ms=0)
        camera = Replicate(account)
        assert camera.hosting is not None
        patient = replace(camera.hosting, first_look=timedelta(minutes=10), longest_pause=timedelta(minutes=10))
        monkeypatch.setattr(camera, "hosting", patient)
        woken = replace(line, crew=replace(line.crew, camera=camera), webhooks_url=address)
        on_set = Set(woken, one_shot_episode(line.database, database_url), provider, database_url)
        assert await asyncio.wait_for(on_set.film(), 60) == 1


async def test_a_lost_id_is_found_in_the_inbox_where_the_provider_cannot_be_asked(
    on_set: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cannot_say(*_: object) -> Whereabouts:
        return Whereabouts.UNKNOWN

    monkeypatch.setattr(on_set.line.crew.camera, "find", cannot_say)
    on_set.provider.fault(Fault.DROP_AFTER)
    doubt = await on_set.refusal()
    assert isinstance(doubt, EngineError)
    assert doubt.error_class is ErrorClass.AMBIGUOUS
    (call,) = on_set.calls()
    assert isinstance(on_set.provider, FakeReplicate)
    (job,) = on_set.provider.predictions
    with on_set.line.database.begin() as db:
        record_event(db, "replicate", "msg_1", job, call["id"], "succeeded")
    assert await on_set.film() == 1
    assert on_set.provider.billed == 1


async def test_a_call_that_ends_wakes_the_one_that_waits_for_its_place(
    line: Line, provider: FakeReplicate, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "ROUND_S", 600.0)
    episode = one_shot_episode(line.database, database_url)
    with psycopg.connect(database_url) as db:
        for number in (2, 3):
            add_shot(db, episode.id, number)
    on_set = Set(with_one_place(line, provider), episode, provider, database_url)
    async with asyncio.timeout(60):
        assert await on_set.film() == 3
    assert provider.most_in_flight == 1


async def test_an_episode_that_came_first_gets_all_its_takes_first(
    line: Line, provider: FakeReplicate, database_url: str
) -> None:
    """The incident: five episodes shared the voices evenly, so all had theirs at the end, and no camera worked until
    then."""
    set_up = with_one_place(line, provider)
    first, second = a_series(line.database)[1:3]
    with psycopg.connect(database_url) as db:
        for episode in (first, second):
            for number in (1, 2, 3):
                add_shot(db, episode.id, number)
    early, late = (Set(set_up, episode, provider, database_url) for episode in (first, second))
    provider.latency_s = 0.5
    filming = asyncio.create_task(early.film())
    while len(early.query("SELECT 1 FROM provider_jobs WHERE episode_id IS NOT NULL")) < 3:  # noqa: ASYNC110 - a row has no event
        await asyncio.sleep(0.01)
    assert await late.film() == 3
    assert await filming == 3
    order = [call["episode_id"] for call in early.query("SELECT episode_id FROM provider_jobs ORDER BY left_at")]
    assert order == [first.id] * 3 + [second.id] * 3
