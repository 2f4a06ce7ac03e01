from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from syrupy.assertion import SnapshotAssertion

from moltpipe.engines.errors import EngineError, ErrorClass, JobOver
from moltpipe.engines.musicgen import Musicgen, composing
from moltpipe.engines.protocols import Composed, Download, ExternalId, Progress, ScoreRequest, Whereabouts
from moltpipe.engines.replicate import Replicate
from moltpipe.settings import MusicgenAccount, ReplicateAccount
from moltpipe_tests.engines.orders import order
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import Fault, serving

KEY = "r8_5ecret"
SCORE = ScoreRequest(prompt="slow strings over rain", seconds=11.2)


@pytest.fixture
def fake() -> Iterator[FakeReplicate]:
    provider = FakeReplicate(latency_s=0.05, key=KEY)
    with serving(provider):
        yield provider


def composer(fake: FakeReplicate, *, timeout_s: float = 5.0, **account: Any) -> Musicgen:  # noqa: ANN401 - fields
    replicate = ReplicateAccount(base_url=f"{fake.base}/v1", api_key=SecretStr(KEY))
    return Musicgen(MusicgenAccount(**account), replicate, timeout_s=timeout_s)


async def ended(engine: Musicgen, job: ExternalId) -> Composed:
    async with asyncio.timeout(10):
        while isinstance(seen := await engine.poll(job), Progress):  # noqa: ASYNC110 - polling is what is tested
            await asyncio.sleep(0.01)
    return seen


async def test_music_is_composed_on_the_camera_s_account_unless_it_has_its_own(fake: FakeReplicate) -> None:
    engine = composer(fake)

    composed = await ended(engine, await engine.submit(SCORE, order()))

    assert isinstance(composed.file, Download)
    async with httpx.AsyncClient() as client:
        fetched = await client.get(composed.file.url, headers=list(composed.file.headers))
    assert fetched.content[:4] == b"RIFF"
    own = Musicgen(
        MusicgenAccount(base_url=fake.base + "/v1", api_key=SecretStr(KEY)),
        ReplicateAccount(base_url="http://127.0.0.1:9", api_key=SecretStr("another")),
    )
    await own.submit(SCORE, order())
    assert fake.billed == 2


def test_composer_and_camera_share_the_limits_of_one_account(fake: FakeReplicate) -> None:
    camera = Replicate(ReplicateAccount(base_url=f"{fake.base}/v1", api_key=SecretStr(KEY)))
    shared, own = composer(fake), composer(fake, api_key=SecretStr("another"))
    assert camera.hosting is not None
    assert shared.hosting is not None
    assert own.hosting is not None

    assert shared.hosting.account == camera.hosting.account
    assert own.hosting.account != camera.hosting.account


async def test_the_request_is_the_one_that_was_reviewed(fake: FakeReplicate, snapshot: SnapshotAssertion) -> None:
    await composer(fake, deadline_s=900).submit(SCORE, order())

    (seen,) = fake.seen
    headers = {name: seen.headers[name] for name in ("authorization", "cancel-after", "content-type")}
    assert {"path": seen.path, "query": seen.query, "headers": headers, "body": seen.json()} == snapshot


@pytest.mark.parametrize(("seconds", "duration"), [(0.2, 1), (8.0, 8), (8.01, 9), (30.0, 30), (95.0, 30)])
def test_music_is_asked_for_in_whole_seconds_up_to_thirty(seconds: float, duration: int) -> None:
    assert composing(ScoreRequest(prompt="rain", seconds=seconds))["duration"] == duration


def test_the_quote_is_for_the_seconds_that_are_asked_for(fake: FakeReplicate) -> None:
    assert composer(fake).quote(SCORE).cost_usd == Decimal("0.06")
    assert composer(fake, price_usd=Decimal("0.01")).quote(SCORE).cost_usd == Decimal("0.12")


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        (Fault.UNAUTHORIZED, ErrorClass.AUTH),
        (Fault.NO_CREDIT, ErrorClass.QUOTA),
        (Fault.INVALID, ErrorClass.INVALID_INPUT),
        (Fault.THROTTLED, ErrorClass.THROTTLED),
        (Fault.ERROR_500, ErrorClass.AMBIGUOUS),
        (Fault.DROP_BEFORE, ErrorClass.AMBIGUOUS),
        (Fault.HANG_BEFORE, ErrorClass.AMBIGUOUS),
    ],
)
async def test_only_what_was_certainly_refused_is_called_refused(
    fake: FakeReplicate, fault: Fault, error_class: ErrorClass
) -> None:
    fake.fault(fault)

    with pytest.raises(EngineError) as caught:
        await composer(fake, timeout_s=0.3).submit(SCORE, order())

    assert caught.value.engine == "musicgen"
    assert caught.value.error_class is error_class


async def test_a_dropped_connection_is_ambiguous_and_the_prediction_is_found(fake: FakeReplicate) -> None:
    engine, wanted = composer(fake), order()
    assert await engine.find(SCORE, wanted) is Whereabouts.NOT_THERE
    fake.fault(Fault.DROP_AFTER)
    with pytest.raises(EngineError) as caught:
        await engine.submit(SCORE, wanted)
    assert caught.value.error_class is ErrorClass.AMBIGUOUS

    found = await engine.find(SCORE, wanted)

    assert not isinstance(found, Whereabouts)
    await ended(engine, found)
    assert fake.billed == 1


async def test_a_piece_that_failed_or_was_cancelled_is_over(fake: FakeReplicate) -> None:
    engine = composer(fake)
    fake.fault(Fault.JOB_FAILS, code="E6716")
    with pytest.raises(JobOver) as never_started:
        await ended(engine, await engine.submit(SCORE, order()))
    fake.fault(Fault.NEVER_ENDS)
    job = await engine.submit(SCORE, order())
    await engine.cancel(job)
    with pytest.raises(JobOver) as cancelled:
        await engine.poll(job)

    assert never_started.value.error_class is ErrorClass.RETRY_SAFE
    assert never_started.value.cost_usd == 0
    assert cancelled.value.error_class is ErrorClass.EXPIRED
