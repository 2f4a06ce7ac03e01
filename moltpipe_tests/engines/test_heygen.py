from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr
from syrupy.assertion import SnapshotAssertion

from moltpipe.engines.errors import EngineError, ErrorClass, JobOver
from moltpipe.engines.heygen import Heygen, payload
from moltpipe.engines.protocols import (
    Download,
    ExternalId,
    Filmed,
    Order,
    Progress,
    TakeRequest,
    VoiceTrack,
    Whereabouts,
)
from moltpipe.engines.signatures import heygen_key, heygen_notice
from moltpipe.settings import HeygenAccount
from moltpipe_tests.engines.conftest import TakeRequests
from moltpipe_tests.engines.orders import order
from moltpipe_tests.fakes.heygen import SILENT_S, FakeHeygen
from moltpipe_tests.fakes.media import speech, speech_seconds
from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen, serving

KEY = "hg-not-a-real-key"
LINE = "It came back dry."
VOICE = VoiceTrack(key="voiceovers/s1/1-abc.wav", seconds=speech_seconds(LINE))
CALL = UUID("6f1c2a52-0d4b-4a53-9a52-0c6f3f1b7a10")
_SIGNATURE = "0123456789abcdef"
_OF_THE_CLIENT = ("host", "user-agent", "accept", "accept-encoding", "connection", "content-length")


class _Store(Provider):
    """A store that opens an object to whoever has a signed link, and takes webhooks in."""

    prefix = "store"

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Seen] = []

    def handle(self, seen: Seen) -> Answer:
        if seen.method == "POST":
            self.told.append(seen)
            return Answer(200, {})
        if seen.path == f"/{VOICE.key}" and seen.query.get("X-Amz-Signature") == _SIGNATURE:
            return Answer(200, content=speech(LINE, "wav"), headers={"content-type": "audio/wav"})
        if seen.path == "/noise.wav":
            return Answer(200, content=b"no sound at all", headers={"content-type": "audio/wav"})
        return Answer(403, content=b"<Error/>")

    def link(self, key: str) -> str:
        return f"{self.base}/{key}?X-Amz-Signature={_SIGNATURE}"


@pytest.fixture
def store() -> _Store:
    return _Store()


@pytest.fixture
def studio(store: _Store) -> Iterator[FakeHeygen]:
    fake = FakeHeygen(latency_s=0.1)
    with serving(fake, store):
        yield fake


@pytest.fixture
def heygen(studio: FakeHeygen) -> Heygen:
    return _heygen(studio)


@pytest.fixture
def spoken(take: TakeRequests) -> TakeRequest:
    return take(voice=VOICE)


def _heygen(studio: FakeHeygen, path: str = "", **other: Any) -> Heygen:  # noqa: ANN401 - fields of the account
    fields = {"base_url": f"{studio.base}{path}", "api_key": SecretStr(KEY), "avatar_id": "Abigail", **other}
    return Heygen(HeygenAccount(**fields), timeout_s=1.0)


def _order(store: _Store, **other: Any) -> Order:  # noqa: ANN401 - any field of the order
    return order(link=store.link, **other)


async def _over(heygen: Heygen, job: ExternalId) -> Filmed:
    while isinstance(outcome := await heygen.poll(job), Progress):  # noqa: ASYNC110 - looking is what is tested
        await asyncio.sleep(0.02)
    return outcome


async def _refused(heygen: Heygen, request: TakeRequest, mine: Order) -> EngineError:
    with pytest.raises(EngineError) as refusal:
        await heygen.submit(request, mine)
    assert KEY not in str(refusal.value)
    assert _SIGNATURE not in str(refusal.value)
    return refusal.value


async def _ends_badly(heygen: Heygen, request: TakeRequest, mine: Order) -> JobOver:
    job = await heygen.submit(request, mine)
    with pytest.raises(JobOver) as over:
        await _over(heygen, job)
    return over.value


def _as_sent(seen: Seen, store: _Store) -> dict[str, Any]:
    headers = {name: value for name, value in seen.headers.items() if name not in _OF_THE_CLIENT}
    body = {
        name: value.replace(store.base, "http://store") if isinstance(value, str) else value
        for name, value in seen.json().items()
    }
    return {"method": seen.method, "path": seen.path, "query": dict(seen.query), "headers": headers, "body": body}


async def test_the_voiceover_is_fetched_by_its_link_and_the_film_lasts_as_long(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest
) -> None:
    job = await heygen.submit(spoken, _order(store))
    assert [seen.path for seen in store.seen] == [f"/{VOICE.key}"]
    film = await _over(heygen, job)
    assert isinstance(film.file, Download)
    assert film.file.headers == ()
    assert "sig=" in film.file.url
    assert film.file.url not in repr(film)
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(film.file.url)).content[4:8] == b"ftyp"
        detail = await client.get(f"{studio.base}/v3/videos/{job}", headers={"x-api-key": KEY})
    assert detail.json()["data"]["duration"] == pytest.approx(VOICE.seconds, abs=0.05)
    assert studio.billed == 1


async def test_the_request_is_exactly_this(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest, snapshot: SnapshotAssertion
) -> None:
    mine = _order(store, call_id=CALL, webhook_base=f"{store.base}/")
    job = await heygen.submit(spoken, mine)
    await heygen.poll(job)
    await heygen.find(spoken, mine)
    ordered, look, listing = studio.seen
    assert _as_sent(ordered, store) == snapshot
    assert (look.method, look.path, look.headers["x-api-key"]) == ("GET", f"/v3/videos/{job}", KEY)
    assert (listing.path, dict(listing.query)) == ("/v3/videos", {"limit": "100", "title": str(CALL)})


@pytest.mark.parametrize(
    ("width", "height", "shape", "resolution"),
    [
        (426, 240, "16:9", "720p"),
        (1280, 720, "16:9", "720p"),
        (1920, 1080, "16:9", "1080p"),
        (720, 1280, "9:16", "720p"),
        (2160, 3840, "9:16", "1080p"),
    ],
)
def test_the_picture_is_of_the_nearest_size(
    take: TakeRequests, width: int, height: int, shape: str, resolution: str
) -> None:
    body = payload(take(width=width, height=height), order(), "Abigail", "http://store/x.wav")
    assert (body["aspect_ratio"], body["resolution"]) == (shape, resolution)
    assert "callback_url" not in body


@pytest.mark.parametrize("path", ["", "/v1", "/v2", "/v3", "/v3/"])
async def test_every_spelling_of_the_address_means_version_three(
    studio: FakeHeygen, store: _Store, spoken: TakeRequest, path: str
) -> None:
    heygen = _heygen(studio, path)
    await heygen.submit(spoken, _order(store))
    assert studio.seen[-1].path == "/v3/videos"
    assert heygen.hosting.account == _heygen(studio).hosting.account


async def test_a_shot_without_a_voiceover_is_refused_before_anything_is_sent(
    studio: FakeHeygen, store: _Store, heygen: Heygen, take: TakeRequests
) -> None:
    silent = take()
    refusal = await _refused(heygen, silent, _order(store))
    assert refusal.error_class is ErrorClass.INVALID_INPUT
    assert "HeyGen's people do not keep silent" in refusal.message
    assert heygen.quote(silent).cost_usd == 0
    assert studio.seen == []


def test_a_quote_is_for_the_seconds_of_the_voiceover(studio: FakeHeygen, heygen: Heygen, take: TakeRequests) -> None:
    request = take(seconds=10, voice=VoiceTrack(key="x.wav", seconds=3))
    assert heygen.quote(request).cost_usd == Decimal("0.2001")
    assert _heygen(studio, price_usd=Decimal("0.05")).quote(request).cost_usd == Decimal("0.15")


def test_another_avatar_is_another_outcome(studio: FakeHeygen) -> None:
    assert _heygen(studio).model != _heygen(studio, avatar_id="Bruno").model


async def test_an_order_that_cannot_link_to_the_store_is_not_sent(
    studio: FakeHeygen, heygen: Heygen, spoken: TakeRequest
) -> None:
    refusal = await _refused(heygen, spoken, order())
    assert refusal.error_class is ErrorClass.RETRY_SAFE
    assert studio.seen == []


async def test_a_voiceover_that_heygen_cannot_fetch_is_invalid_input(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest
) -> None:
    refusal = await _refused(heygen, spoken, order(link=lambda key: f"{store.base}/{key}?X-Amz-Signature=old"))
    assert refusal.error_class is ErrorClass.INVALID_INPUT
    assert "download_failed" in refusal.message
    assert studio.billed == 0


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        (Fault.UNAUTHORIZED, ErrorClass.AUTH),
        (Fault.NO_CREDIT, ErrorClass.QUOTA),
        (Fault.INVALID, ErrorClass.INVALID_INPUT),
        (Fault.THROTTLED, ErrorClass.THROTTLED),
        (Fault.UNAVAILABLE, ErrorClass.RETRY_SAFE),
        (Fault.ERROR_500, ErrorClass.AMBIGUOUS),
    ],
)
async def test_what_heygen_refuses_is_named_and_not_billed(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest, fault: Fault, error_class: ErrorClass
) -> None:
    studio.fault(fault)
    assert (await _refused(heygen, spoken, _order(store))).error_class is error_class
    assert studio.billed == 0


async def test_a_throttled_order_says_when_it_is_worth_trying_again(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest
) -> None:
    studio.fault(Fault.THROTTLED, retry_after=9)
    assert (await _refused(heygen, spoken, _order(store))).retry_after_s == 9


class _Saying(FakeHeygen):
    """Answers every request in the same way."""

    def __init__(self, status: int, document: object) -> None:
        super().__init__()
        self.answer = Answer(status, document)

    def handle(self, seen: Seen) -> Answer:  # noqa: ARG002 - as said
        return self.answer


@pytest.mark.parametrize(
    ("status", "code", "message", "error_class"),
    [
        (400, "resource_limit_reached", "No more videos on this plan.", ErrorClass.QUOTA),
        (400, "invalid_parameter", "The script was blocked by moderation.", ErrorClass.FILTERED),
        (403, "insufficient_credit", "5 credits, 10 needed.", ErrorClass.QUOTA),
        (403, "forbidden", "Members may not do this.", ErrorClass.AUTH),
        (404, "avatar_not_found", "No avatar Abigail.", ErrorClass.INVALID_INPUT),
        (409, "request_in_progress", "A request with this key is in progress.", ErrorClass.AMBIGUOUS),
        (429, "quota_exceeded", "The monthly quota is used up.", ErrorClass.QUOTA),
        (504, "gateway_timeout", "An external fetch timed out.", ErrorClass.AMBIGUOUS),
    ],
)
async def test_heygen_s_own_words_go_before_the_status(
    spoken: TakeRequest, store: _Store, status: int, code: str, message: str, error_class: ErrorClass
) -> None:
    fake = _Saying(status, {"error": {"code": code, "message": message, "param": None}})
    with serving(fake):
        refusal = await _refused(_heygen(fake), spoken, _order(store))
    assert refusal.error_class is error_class
    assert code in refusal.message
    assert message in refusal.message


@pytest.mark.parametrize(
    "document", [{}, {"data": None, "error": {"message": "x"}}, {"data": {"video_id": "../x"}}, {"data": {}}, []]
)
async def test_an_acceptance_without_an_id_is_ambiguous(spoken: TakeRequest, store: _Store, document: object) -> None:
    fake = _Saying(200, document)
    with serving(fake):
        assert (await _refused(_heygen(fake), spoken, _order(store))).error_class is ErrorClass.AMBIGUOUS


@pytest.mark.parametrize(
    ("fault", "billed"),
    [
        (Fault.DROP_BEFORE, 0),
        (Fault.DROP_AFTER, 1),
        (Fault.ERROR_502, 1),
        (Fault.HANG_BEFORE, 0),
        (Fault.HANG_AFTER, 1),
    ],
)
async def test_an_order_without_an_answer_is_ambiguous_and_then_found_or_known_not_to_be_there(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest, fault: Fault, billed: int
) -> None:
    studio.fault(fault)
    mine = _order(store)
    assert (await _refused(heygen, spoken, mine)).error_class is ErrorClass.AMBIGUOUS
    assert studio.billed == billed
    found = await heygen.find(spoken, mine)
    if billed:
        assert not isinstance(found, Whereabouts)
        assert isinstance(await _over(heygen, found), Filmed)
    else:
        assert found is Whereabouts.NOT_THERE


async def test_the_same_call_sent_twice_is_made_once(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest
) -> None:
    studio.fault(Fault.DROP_AFTER)
    mine = _order(store)
    await _refused(heygen, spoken, mine)
    job = await heygen.submit(spoken, mine)
    assert await heygen.find(spoken, mine) == job
    assert studio.billed == 1


async def test_a_video_of_another_call_is_never_taken_for_the_lost_one(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest
) -> None:
    other = _order(store)
    job = await heygen.submit(spoken, other)
    assert await heygen.find(spoken, _order(store)) is Whereabouts.NOT_THERE
    known = _order(store, call_id=other.call_id, others=frozenset({str(job)}))
    assert await heygen.find(spoken, known) is Whereabouts.NOT_THERE
    assert studio.billed == 1


async def test_a_server_that_lists_nothing_leaves_the_question_open(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest
) -> None:
    studio.lists = False
    assert await heygen.find(spoken, _order(store)) is Whereabouts.UNKNOWN


class _Unfiltered(FakeHeygen):
    """Ignores the title in a listing, as a server in between may."""

    def handle(self, seen: Seen) -> Answer:
        query = {name: value for name, value in seen.query.items() if name != "title"}
        return super().handle(Seen(seen.method, seen.path, query, seen.headers, seen.body, seen.at))


async def test_a_long_listing_is_turned_over_page_by_page(store: _Store, spoken: TakeRequest) -> None:
    fake = _Unfiltered()
    fake.page = 2
    with serving(fake, store):
        heygen, mine = _heygen(fake), _order(store)
        job = await heygen.submit(spoken, mine)
        for _ in range(5):
            await heygen.submit(spoken, _order(store))
        assert await heygen.find(spoken, mine) == job
        assert len([seen for seen in fake.seen if seen.method == "GET"]) == 3
        assert await heygen.find(spoken, _order(store)) is Whereabouts.NOT_THERE
        fake.page = 0
        assert await heygen.find(spoken, mine) is Whereabouts.UNKNOWN


@pytest.mark.parametrize(
    ("code", "message", "error_class"),
    [
        ("rendering_failed", "Avatar rendering timed out", ErrorClass.PROVIDER_FAULT),
        ("content_moderation", "Held back", ErrorClass.FILTERED),
        ("invalid_audio", "The audio cannot be decoded", ErrorClass.INVALID_INPUT),
        ("avatar_not_found", "No such look", ErrorClass.INVALID_INPUT),
        ("insufficient_credit", "The wallet is empty", ErrorClass.QUOTA),
    ],
)
async def test_a_failed_video_costs_nothing_and_says_why(
    studio: FakeHeygen,
    store: _Store,
    heygen: Heygen,
    spoken: TakeRequest,
    code: str,
    message: str,
    error_class: ErrorClass,
) -> None:
    studio.fault(Fault.JOB_FAILS, code=code, message=message)
    over = await _ends_badly(heygen, spoken, _order(store))
    assert (over.error_class, over.cost_usd) == (error_class, Decimal(0))
    assert over.message == f"{code}: {message}"


async def test_a_withheld_video_is_filtered(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest
) -> None:
    studio.fault(Fault.FILTERED)
    assert (await _ends_badly(heygen, spoken, _order(store))).error_class is ErrorClass.FILTERED


@pytest.mark.parametrize(
    ("error", "message", "error_class"),
    [
        (
            {
                "code": 40119,
                "detail": "see https://x.example/a.wav?X-Amz-Signature=0123456789abcdef",
                "message": "No face",
            },
            "40119: No face: see https://x.example/a.wav?***",
            ErrorClass.INVALID_INPUT,
        ),
        ("Rendering broke", "Rendering broke", ErrorClass.PROVIDER_FAULT),
        (None, "HeyGen does not say why", ErrorClass.PROVIDER_FAULT),
    ],
)
async def test_failures_of_the_older_versions_are_understood(
    error: object, message: str, error_class: ErrorClass
) -> None:
    fake = _Saying(200, {"code": 100, "data": {"id": "v1", "status": "failed", "error": error}, "message": "Success"})
    with serving(fake), pytest.raises(JobOver) as over:
        await _heygen(fake).poll(ExternalId("v1"))
    assert (over.value.message, over.value.error_class) == (message, error_class)


@pytest.mark.parametrize(
    ("status", "at_work"),
    [("waiting", False), ("pending", False), ("processing", True), ("daydreaming", True), ("completed", True)],
)
async def test_a_video_without_an_address_is_not_done(status: str, at_work: bool) -> None:  # noqa: FBT001 - the case
    fake = _Saying(200, {"code": 100, "data": {"status": status.title(), "video_url": None}})
    with serving(fake):
        looked = await _heygen(fake).poll(ExternalId("v1"))
    assert looked == Progress(note=status, at_work=at_work)


async def test_a_status_that_nobody_documented_ends_nothing(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest
) -> None:
    studio.fault(Fault.UNKNOWN_STATUS, looks=1)
    job = await heygen.submit(spoken, _order(store))
    assert await heygen.poll(job) == Progress(note="daydreaming")
    assert isinstance(await _over(heygen, job), Filmed)


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        (400, ErrorClass.RETRY_SAFE),
        (401, ErrorClass.AUTH),
        (404, ErrorClass.RETRY_SAFE),
        (429, ErrorClass.THROTTLED),
        (500, ErrorClass.RETRY_SAFE),
    ],
)
async def test_a_look_that_failed_says_nothing_of_the_video(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest, status: int, error_class: ErrorClass
) -> None:
    job = await heygen.submit(spoken, _order(store))
    studio.fault(Fault.POLL_FAILS, status=status)
    with pytest.raises(EngineError) as failed:
        await heygen.poll(job)
    assert not isinstance(failed.value, JobOver)
    assert failed.value.error_class is error_class
    assert isinstance(await _over(heygen, job), Filmed)


async def test_an_answer_without_a_status_is_a_look_that_failed() -> None:
    fake = _Saying(200, {"data": None})
    with serving(fake), pytest.raises(EngineError) as failed:
        await _heygen(fake).poll(ExternalId("v1"))
    assert failed.value.error_class is ErrorClass.RETRY_SAFE


async def test_a_cancelled_video_is_neither_deleted_nor_asked_for(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest
) -> None:
    studio.fault(Fault.NEVER_ENDS)
    job = await heygen.submit(spoken, _order(store))
    asked = len(studio.seen)
    await heygen.cancel(job)
    assert len(studio.seen) == asked
    assert isinstance(await heygen.poll(job), Progress)


@pytest.mark.parametrize("fault", [None, Fault.JOB_FAILS])
async def test_the_webhook_is_signed_and_names_the_call(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest, fault: Fault | None
) -> None:
    if fault is not None:
        studio.fault(fault)
    job = await heygen.submit(spoken, _order(store, call_id=CALL, webhook_base=store.base))
    assert await asyncio.to_thread(studio.delivered.acquire, timeout=10)
    (told,) = store.told
    assert told.path == "/heygen"
    key = heygen_key(studio.webhook_secret)
    assert told.headers["heygen-signature"] == hmac.new(key, told.body, hashlib.sha256).hexdigest()
    notice = heygen_notice(key, told.headers, {}, told.body, datetime.now(UTC))
    assert notice is not None
    assert (notice.external_id, notice.call_id) == (job, CALL)
    assert notice.status == ("avatar_video.success" if fault is None else "avatar_video.fail")


async def test_a_voiceover_that_is_no_sound_gives_a_film_of_the_usual_length(
    studio: FakeHeygen, store: _Store, heygen: Heygen, spoken: TakeRequest
) -> None:
    job = await heygen.submit(spoken, order(link=lambda _: f"{store.base}/noise.wav", call_id=uuid4()))
    await _over(heygen, job)
    async with httpx.AsyncClient(trust_env=False) as client:
        detail = await client.get(f"{studio.base}/v3/videos/{job}", headers={"x-api-key": KEY})
    assert detail.json()["data"]["duration"] == SILENT_S
    assert urlsplit(detail.json()["data"]["video_url"]).path.endswith(".mp4")
