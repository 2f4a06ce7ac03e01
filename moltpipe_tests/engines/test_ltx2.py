"""The LTX-2 camera against a small Modal web function over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from syrupy.assertion import SnapshotAssertion

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.ltx2 import Ltx2, class_of_words, frame_count, key_headers, payload, picture_size
from moltpipe.engines.prompting import film_prompt
from moltpipe.engines.protocols import ExternalId, Filmed, Order, Progress, TakeRequest, Whereabouts
from moltpipe.media.probe import probe
from moltpipe.settings import Ltx2Account
from moltpipe_tests.engines.conftest import TakeRequests
from moltpipe_tests.engines.orders import order
from moltpipe_tests.fakes.ltx2 import FakeLtx2
from moltpipe_tests.fakes.server import Fault, serving

Engines = Callable[..., Ltx2]
MODAL_KEY = "wk-5ecret:ws-5ecreter"


@pytest.fixture
def modal() -> Iterator[FakeLtx2]:
    provider = FakeLtx2(latency_s=0)
    with serving(provider):
        yield provider


@pytest.fixture
def slow_modal() -> Iterator[FakeLtx2]:
    """Holds a request for a moment only; its films are done when the test says so."""
    provider = FakeLtx2(latency_s=60, holds_s=0.02)
    with serving(provider):
        yield provider


@pytest.fixture
def engine(tmp_path: Path) -> Engines:
    """Engines that share their folders, as those of one machine do."""

    def make(provider: FakeLtx2, *, key: str = "", timeout_s: float = 5, **other: Any) -> Ltx2:  # noqa: ANN401 - of the account
        account = Ltx2Account(base_url=provider.base, api_key=SecretStr(key) if key else None, **other)
        return Ltx2(account, answers=tmp_path / "answers", workdir=tmp_path / "work", timeout_s=timeout_s)

    return make


@pytest.fixture
def request_(take: TakeRequests) -> TakeRequest:
    return take(shot=3, seconds=2.0, width=426, height=240)


async def failure(camera: Ltx2, request: TakeRequest, ordered: Order | None = None) -> EngineError:
    """What a request ends with, at its start or at the first look."""
    with pytest.raises(EngineError) as raised:
        await end(camera, await camera.submit(request, ordered or order()))
    return raised.value


async def end(camera: Ltx2, job: ExternalId) -> Filmed:
    while isinstance(outcome := await camera.poll(job), Progress):
        assert outcome.at_work
    return outcome


# A call that goes well ------------------------------------------------------------------------------------------------


async def test_a_shot_is_filmed(modal: FakeLtx2, engine: Engines, request_: TakeRequest) -> None:
    camera = engine(modal)
    job = await camera.submit(request_, order())
    first, second = await end(camera, job), await end(camera, job)
    assert first.local != second.local, "each look gives a file that its caller may remove"
    found = probe(first.local)
    assert found.video is not None
    assert (found.video.width, found.video.height) == (416, 224)
    assert found.duration_seconds == pytest.approx(49 / 24, abs=0.05)
    assert modal.billed == 1


async def test_the_request_is_the_one_that_was_agreed(
    modal: FakeLtx2, engine: Engines, request_: TakeRequest, snapshot: SnapshotAssertion
) -> None:
    await engine(modal, key=MODAL_KEY).submit(request_, order())
    (seen,) = modal.seen
    volatile = {"host", "content-length", "user-agent", "accept-encoding"}
    headers = {name: value for name, value in seen.headers.items() if name not in volatile}
    body = seen.json()
    assert body.pop("prompt") == film_prompt(request_)
    assert {"method": seen.method, "path": seen.path, "headers": headers, "body": body} == snapshot


async def test_a_kept_answer_outlives_the_process(modal: FakeLtx2, engine: Engines, request_: TakeRequest) -> None:
    ordered = order()
    job = await engine(modal).submit(request_, ordered)
    another = engine(modal)
    assert await another.find(request_, ordered) == job
    assert await another.find(request_, order()) is Whereabouts.UNKNOWN
    await end(another, job)
    assert len(modal.seen) == 1


async def test_a_cancelled_answer_is_forgotten(modal: FakeLtx2, engine: Engines, request_: TakeRequest) -> None:
    camera = engine(modal)
    job = await camera.submit(request_, order())
    await camera.cancel(job)
    with pytest.raises(EngineError) as raised:
        await camera.poll(job)
    assert raised.value.error_class is ErrorClass.EXPIRED


async def test_the_departure_is_told_while_the_answer_is_awaited(
    modal: FakeLtx2, engine: Engines, request_: TakeRequest
) -> None:
    modal.fault(Fault.HANG_AFTER)
    departed = asyncio.Event()
    sending = asyncio.create_task(engine(modal).submit(request_, order(departed=departed.set)))
    await departed.wait()
    assert not sending.done()
    modal.release()
    await sending


# A call that lasts longer than Modal holds a request ------------------------------------------------------------------


async def test_a_long_call_is_gone_back_to_and_paid_once(
    slow_modal: FakeLtx2, engine: Engines, request_: TakeRequest
) -> None:
    camera, ordered = engine(slow_modal), order()
    job = await camera.submit(request_, ordered)
    assert job == "modal:fc-000001"
    assert isinstance(await camera.poll(job), Progress)
    assert await engine(slow_modal).find(request_, ordered) == job
    await camera.cancel(job)
    slow_modal.finish()
    await end(engine(slow_modal), job)
    assert [seen.method for seen in slow_modal.seen] == ["POST", *["GET"] * (len(slow_modal.seen) - 1)]
    assert slow_modal.billed == 1


async def test_a_result_from_modal_is_kept_before_anything_else(
    slow_modal: FakeLtx2, engine: Engines, request_: TakeRequest
) -> None:
    camera = engine(slow_modal)
    job = await camera.submit(request_, order())
    slow_modal.finish()
    await end(camera, job)
    asked = len(slow_modal.seen)
    slow_modal.fault(Fault.EXPIRED_URL)
    await end(engine(slow_modal), job)
    assert len(slow_modal.seen) == asked, "Modal may hand a result out only once"


@pytest.mark.parametrize(
    ("fault", "details", "error_class"),
    [
        (Fault.EXPIRED_URL, {}, ErrorClass.EXPIRED),
        (Fault.JOB_FAILS, {"code": "expired"}, ErrorClass.EXPIRED),
        (Fault.JOB_FAILS, {"code": "timeout"}, ErrorClass.PROVIDER_FAULT),
        (Fault.JOB_FAILS, {"code": "memory"}, ErrorClass.PROVIDER_FAULT),
        (Fault.JOB_FAILS, {"code": "ok"}, ErrorClass.PROVIDER_FAULT),
        (Fault.EMPTY_MEDIA, {}, ErrorClass.PROVIDER_FAULT),
    ],
)
async def test_the_end_of_a_long_call_has_its_class(
    slow_modal: FakeLtx2,
    engine: Engines,
    request_: TakeRequest,
    fault: Fault,
    details: dict[str, Any],
    error_class: ErrorClass,
) -> None:
    camera = engine(slow_modal)
    slow_modal.fault(fault, **details)
    job = await camera.submit(request_, order())
    slow_modal.finish()
    with pytest.raises(EngineError) as raised:
        await camera.poll(job)
    assert raised.value.error_class is error_class
    assert slow_modal.billed == 1


async def test_a_look_that_fails_leaves_the_call_where_it_is(
    slow_modal: FakeLtx2, engine: Engines, request_: TakeRequest
) -> None:
    camera = engine(slow_modal)
    job = await camera.submit(request_, order())
    slow_modal.fault(Fault.POLL_FAILS)
    with pytest.raises(EngineError) as raised:
        await camera.poll(job)
    assert raised.value.error_class is ErrorClass.RETRY_SAFE
    slow_modal.finish()
    await end(camera, job)


async def test_a_look_without_an_answer_in_time_leaves_the_call_where_it_is(
    slow_modal: FakeLtx2, engine: Engines, request_: TakeRequest
) -> None:
    job = await engine(slow_modal).submit(request_, order())
    slow_modal.holds_s = 30
    with pytest.raises(EngineError) as raised:
        await engine(slow_modal, timeout_s=0.1).poll(job)
    assert raised.value.error_class is ErrorClass.RETRY_SAFE
    slow_modal.finish()
    await end(engine(slow_modal), job)


async def test_a_redirect_to_another_host_is_not_followed(
    slow_modal: FakeLtx2, engine: Engines, request_: TakeRequest
) -> None:
    slow_modal.redirect_to = "http://elsewhere.example/ltx2"
    error = await failure(engine(slow_modal), request_)
    assert error.error_class is ErrorClass.AMBIGUOUS
    assert "another host" in error.message
    assert "fc-" not in error.message


# A call that goes badly -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error_class", "billed"),
    [
        (Fault.DROP_BEFORE, ErrorClass.AMBIGUOUS, 0),
        (Fault.DROP_AFTER, ErrorClass.AMBIGUOUS, 1),
        (Fault.ERROR_500, ErrorClass.PROVIDER_FAULT, 0),
        (Fault.ERROR_502, ErrorClass.AMBIGUOUS, 1),
        (Fault.UNAVAILABLE, ErrorClass.RETRY_SAFE, 0),
        (Fault.UNAUTHORIZED, ErrorClass.AUTH, 0),
        (Fault.NO_CREDIT, ErrorClass.QUOTA, 0),
        (Fault.THROTTLED, ErrorClass.THROTTLED, 0),
        (Fault.INVALID, ErrorClass.INVALID_INPUT, 0),
        (Fault.FILTERED, ErrorClass.FILTERED, 0),
        (Fault.JOB_FAILS, ErrorClass.PROVIDER_FAULT, 1),
        (Fault.EMPTY_MEDIA, ErrorClass.PROVIDER_FAULT, 1),
    ],
)
async def test_every_failure_has_its_class(
    modal: FakeLtx2,
    engine: Engines,
    request_: TakeRequest,
    fault: Fault,
    error_class: ErrorClass,
    billed: int,
) -> None:
    modal.fault(fault)
    assert (await failure(engine(modal), request_)).error_class is error_class
    assert (modal.billed, len(modal.seen)) == (billed, 1)


@pytest.mark.parametrize(("code", "words"), [("ok", "the decoder failed"), ("timeout", "function execution timed out")])
async def test_a_film_that_failed_says_why(
    modal: FakeLtx2, engine: Engines, request_: TakeRequest, code: str, words: str
) -> None:
    modal.fault(Fault.JOB_FAILS, code=code)
    error = await failure(engine(modal), request_)
    assert error.error_class is ErrorClass.PROVIDER_FAULT
    assert words in error.message


async def test_a_throttled_request_says_for_how_long(modal: FakeLtx2, engine: Engines, request_: TakeRequest) -> None:
    modal.fault(Fault.THROTTLED, retry_after=9)
    assert (await failure(engine(modal), request_)).retry_after_s == 9


async def test_a_timeout_on_the_way_does_not_say_that_nobody_films(
    modal: FakeLtx2, engine: Engines, request_: TakeRequest
) -> None:
    modal.fault(Fault.JOB_FAILS, code="expired")
    assert (await failure(engine(modal), request_)).error_class is ErrorClass.AMBIGUOUS


async def test_a_request_without_an_answer_in_time_is_ambiguous(
    modal: FakeLtx2, engine: Engines, request_: TakeRequest
) -> None:
    modal.fault(Fault.HANG_AFTER)
    assert (await failure(engine(modal, timeout_s=0.3), request_)).error_class is ErrorClass.AMBIGUOUS
    assert modal.billed == 1


async def test_a_server_that_is_not_there_got_nothing(tmp_path: Path, request_: TakeRequest) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        account = Ltx2Account(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        camera = Ltx2(account, answers=tmp_path, workdir=tmp_path)
        assert (await failure(camera, request_)).error_class is ErrorClass.RETRY_SAFE


@pytest.mark.parametrize("key", [MODAL_KEY, "plain-5ecret"])
async def test_a_key_opens_the_door_and_no_message_holds_it(tmp_path: Path, request_: TakeRequest, key: str) -> None:
    provider = FakeLtx2(latency_s=0, key=key)
    with serving(provider):
        for tried in (key, f"{key}-wrong", ""):
            account = Ltx2Account(base_url=provider.base, api_key=SecretStr(tried) if tried else None)
            camera = Ltx2(account, answers=tmp_path / "answers", workdir=tmp_path)
            if tried == key:
                await end(camera, await camera.submit(request_, order()))
            else:
                error = await failure(camera, request_)
                assert error.error_class is ErrorClass.AUTH
                assert "5ecret" not in str(error)


def test_without_an_address_there_is_no_camera(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MOLTPIPE_LTX2_BASE_URL"):
        Ltx2(Ltx2Account(), answers=tmp_path, workdir=tmp_path)


# What is in a request, and in an answer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"),
    [(5, 24, 121), (5.04, 24, 121), (2, 24, 49), (0.1, 24, 9), (10, 24, 241), (10, 30, 257), (3 + 1e-9, 24, 73)],
)
def test_frames_are_eight_times_something_and_one_and_cover_the_seconds(seconds: float, fps: int, frames: int) -> None:
    assert frame_count(seconds, fps) == frames


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ((1920, 1080), (1280, 704)),
        ((1280, 720), (1280, 704)),
        ((1080, 1920), (704, 1280)),
        ((640, 360), (640, 352)),
        ((854, 480), (864, 480)),
        ((426, 240), (416, 224)),
        ((1080, 1080), (704, 704)),
        ((10, 10), (32, 32)),
    ],
)
def test_sides_are_multiples_of_32_near_to_what_was_asked(asked: tuple[int, int], made: tuple[int, int]) -> None:
    assert picture_size(*asked) == made


@pytest.mark.parametrize(("rate", "fps"), [(24, 24), (25, 25), (30, 30), (12, 24), (60, 24)])
def test_the_rate_is_one_that_the_weights_know(take: TakeRequests, rate: int, fps: int) -> None:
    assert payload(take(rate=rate), 50)["fps"] == fps


def test_only_what_is_spoken_is_sent_as_speech(take: TakeRequests) -> None:
    assert payload(take(shot=3), 50)["audio_text"] == "Who wrote this?"
    assert payload(take(shot=1), 50)["audio_text"] is None


def test_the_seed_fits_its_column(take: TakeRequests) -> None:
    assert payload(take(seed=2**31 - 1), 50)["seed"] == 2**31 - 1
    assert payload(take(seed=1770000000000), 50)["seed"] < 2**31


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        ("", {}),
        ("abc", {"authorization": "Bearer abc"}),
        ("a:b", {"authorization": "Bearer a:b"}),
        ("wk-1:ws-2", {"modal-key": "wk-1", "modal-secret": "ws-2"}),
    ],
)
def test_a_key_goes_in_the_headers_that_it_is_for(key: str, headers: dict[str, str]) -> None:
    assert key_headers(key) == headers


@pytest.mark.parametrize("encoded", [b"data:video/mp4;base64,", b""])
def test_base64_is_taken_bare_or_as_an_address(tmp_path: Path, encoded: bytes) -> None:
    camera = Ltx2(Ltx2Account(base_url="http://localhost:1"), answers=tmp_path, workdir=tmp_path)
    text = (encoded + base64.encodebytes(b"a film")).decode()
    assert camera.read(json.dumps({"video_base64": text}).encode()).local.read_bytes() == b"a film"


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"video_base64": 3}', b'{"video_base64": "data:;base64,"}'])
def test_an_answer_without_a_film_is_a_fault_of_the_provider(tmp_path: Path, answer: bytes) -> None:
    camera = Ltx2(Ltx2Account(base_url="http://localhost:1"), answers=tmp_path, workdir=tmp_path)
    with pytest.raises(EngineError) as raised:
        camera.read(answer)
    assert raised.value.error_class is ErrorClass.PROVIDER_FAULT


@pytest.mark.parametrize(
    ("said", "error_class"),
    [
        ("NSFW content detected", ErrorClass.FILTERED),
        ("CUDA error: invalid argument", ErrorClass.PROVIDER_FAULT),
        ("num_frames must be 8k+1", ErrorClass.INVALID_INPUT),
        ("boom", ErrorClass.AMBIGUOUS),
    ],
)
def test_words_stand_in_for_codes(said: str, error_class: ErrorClass) -> None:
    assert class_of_words(said, ErrorClass.AMBIGUOUS) is error_class


def test_a_second_of_film_costs_what_the_operator_says(tmp_path: Path, take: TakeRequests) -> None:
    address = "http://localhost:1"
    priced = Ltx2(Ltx2Account(base_url=address, price_usd=Decimal("0.02")), answers=tmp_path, workdir=tmp_path)
    assert priced.quote(take(seconds=5)).cost_usd == Decimal("0.100840")
    unpriced = Ltx2(Ltx2Account(base_url=address), answers=tmp_path, workdir=tmp_path)
    assert unpriced.quote(take(seconds=5)).cost_usd is None
    assert "MOLTPIPE_LTX2_PRICE_USD" in unpriced.quote(take(seconds=5)).basis


def test_other_steps_are_another_model(tmp_path: Path) -> None:
    models = {
        Ltx2(Ltx2Account(base_url="http://localhost:1", steps=steps), answers=tmp_path, workdir=tmp_path).model
        for steps in (30, 50)
    }
    assert models == {"LTX-2:30-steps", "LTX-2:50-steps"}
