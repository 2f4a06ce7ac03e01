"""One hosted call from its claim to its result, against a provider that fails in every way it can."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import SecretStr

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.replicate import Replicate
from moltpipe.engines.transfer import Limits
from moltpipe.ledger import repairs
from moltpipe.ledger.calls import GivenUp
from moltpipe.ledger.jobs import load_jobs
from moltpipe.ledger.spending import BudgetReached, Caps
from moltpipe.production.filming import film_shots
from moltpipe.production.hosted import EngineBlocked
from moltpipe.production.line import Line
from moltpipe.production.partial import SomeFailed
from moltpipe.production.work import work_on
from moltpipe.settings import ReplicateAccount
from moltpipe.studio.records import Episode
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import Fault, serving
from moltpipe_tests.production.one_shot_episode import one_shot_episode

KEY = "r8_planted-key"


@dataclass
class Set:
    """A line whose camera is a hosted one, an episode with one shot, and the provider."""

    line: Line
    episode: Episode
    provider: FakeReplicate
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
        repairs.resubmit(db, UUID(str(on_set.calls()[0]["id"])), "a test")
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
