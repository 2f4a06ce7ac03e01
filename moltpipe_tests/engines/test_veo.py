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
from moltpipe.engines.protocols import Download, ExternalId, Filmed, Progress, TakeRequest, Whereabouts
from moltpipe.engines.veo import Veo, payload
from moltpipe.settings import VeoAccount
from moltpipe_tests.engines.conftest import TakeRequests
from moltpipe_tests.engines.orders import order
from moltpipe_tests.fakes.server import Answer, Fault, Seen, serving
from moltpipe_tests.fakes.veo import FakeVeo

KEY = "AIza-not-a-real-key"
_OF_THE_CLIENT = ("host", "user-agent", "accept", "accept-encoding", "connection", "content-length")


@pytest.fixture
def google() -> Iterator[FakeVeo]:
    fake = FakeVeo(latency_s=0.05)
    with serving(fake):
        yield fake


@pytest.fixture
def veo(google: FakeVeo) -> Veo:
    return _veo(google)


def _veo(google: FakeVeo, **other: Any) -> Veo:  # noqa: ANN401 - fields of the account
    fields = {"base_url": f"{google.base}/v1beta", "api_key": SecretStr(KEY), **other}
    return Veo(VeoAccount(**fields), timeout_s=0.5)


async def _over(veo: Veo, job: ExternalId) -> Filmed:
    while isinstance(outcome := await veo.poll(job), Progress):  # noqa: ASYNC110 - looking is what is tested
        await asyncio.sleep(0.02)
    return outcome


async def _refused(veo: Veo, request: TakeRequest) -> EngineError:
    with pytest.raises(EngineError) as refusal:
        await veo.submit(request, order())
    assert KEY not in str(refusal.value)
    return refusal.value


async def _ends_badly(veo: Veo, request: TakeRequest) -> JobOver:
    job = await veo.submit(request, order())
    with pytest.raises(JobOver) as over:
        await _over(veo, job)
    assert KEY not in str(over.value)
    return over.value


def _as_sent(seen: Seen) -> dict[str, Any]:
    headers = {name: value for name, value in seen.headers.items() if name not in _OF_THE_CLIENT}
    return {
        "method": seen.method,
        "path": seen.path,
        "query": dict(seen.query),
        "headers": headers,
        "body": seen.json(),
    }


async def test_a_shot_becomes_a_film_behind_the_key(google: FakeVeo, veo: Veo, take: TakeRequests) -> None:
    film = await _over(veo, await veo.submit(take(seconds=3), order()))
    assert isinstance(film.file, Download)
    assert film.file.headers == (("x-goog-api-key", KEY),)
    assert "files" not in repr(film)
    async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as client:
        assert (await client.get(film.file.url)).status_code == 403
        fetched = await client.get(film.file.url, headers=dict(film.file.headers))
    assert fetched.content[4:8] == b"ftyp"
    assert google.billed == 1


async def test_the_request_is_exactly_this(
    google: FakeVeo, veo: Veo, take: TakeRequests, snapshot: SnapshotAssertion
) -> None:
    job = await veo.submit(take(shot=3, seconds=5, variant=2, wanted=4), order())
    await veo.poll(job)
    start, look = google.seen
    assert _as_sent(start) == snapshot
    assert (look.method, look.path, look.headers["x-goog-api-key"]) == ("GET", f"/v1beta/{job}", KEY)


@pytest.mark.parametrize(("seconds", "filmed"), [(3.0, 4), (4.0, 4), (4.1, 6), (6.5, 8), (8.0, 8), (10.0, 8)])
def test_a_film_is_as_long_as_the_shot_or_a_little_longer(take: TakeRequests, seconds: float, filmed: int) -> None:
    assert payload(take(seconds=seconds))["parameters"]["durationSeconds"] == filmed


@pytest.mark.parametrize(
    ("width", "height", "seconds", "shape", "resolution"),
    [
        (1280, 720, 8, "16:9", "720p"),
        (1920, 1080, 8, "16:9", "1080p"),
        (1920, 1080, 4, "16:9", "720p"),
        (1080, 1920, 7, "9:16", "1080p"),
        (360, 640, 4, "9:16", "720p"),
    ],
)
def test_full_hd_is_asked_for_only_at_the_length_that_has_it(
    take: TakeRequests, width: int, height: int, seconds: float, shape: str, resolution: str
) -> None:
    wanted = payload(take(width=width, height=height, seconds=seconds))["parameters"]
    assert (wanted["aspectRatio"], wanted["resolution"]) == (shape, resolution)


def test_a_quote_is_for_the_seconds_that_are_filmed(veo: Veo, google: FakeVeo, take: TakeRequests) -> None:
    assert veo.quote(take(seconds=5)).cost_usd == Decimal("0.60")
    assert veo.quote(take(seconds=8, width=1920, height=1080)).cost_usd == Decimal("0.96")
    assert _veo(google, price_usd=Decimal("0.07")).quote(take(seconds=5)).cost_usd == Decimal("0.42")
    unknown = _veo(google, model="veo-9-generate").quote(take())
    assert unknown.cost_usd is None
    assert "MOLTPIPE_VEO_PRICE_USD" in unknown.basis


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
async def test_what_google_refuses_is_named_and_not_billed(
    google: FakeVeo, veo: Veo, take: TakeRequests, fault: Fault, error_class: ErrorClass
) -> None:
    google.fault(fault)
    assert (await _refused(veo, take())).error_class is error_class
    assert google.billed == 0


async def test_a_throttled_start_says_when_it_is_worth_trying_again(
    google: FakeVeo, veo: Veo, take: TakeRequests
) -> None:
    google.fault(Fault.THROTTLED, retry_after=17.5)
    assert (await _refused(veo, take())).retry_after_s == 17.5


async def test_a_model_that_there_is_not_is_invalid_input(google: FakeVeo, take: TakeRequests) -> None:
    refusal = await _refused(_veo(google, model="sora-1"), take())
    assert refusal.error_class is ErrorClass.INVALID_INPUT
    assert "models/sora-1 is not found" in refusal.message


class _Saying(FakeVeo):
    """Answers every request in the same way."""

    def __init__(self, status: int, document: object) -> None:
        super().__init__()
        self.answer = Answer(status, document)

    def handle(self, seen: Seen) -> Answer:  # noqa: ARG002 - as said
        return self.answer


@pytest.mark.parametrize(
    ("status", "word", "message", "error_class"),
    [
        (400, "FAILED_PRECONDITION", "Please enable billing on your project.", ErrorClass.QUOTA),
        (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", ErrorClass.AUTH),
        (400, "INVALID_ARGUMENT", "The prompt contains words that violate our usage guidelines.", ErrorClass.FILTERED),
        (403, "PERMISSION_DENIED", "Your API key was reported as leaked.", ErrorClass.AUTH),
        (429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted.", ErrorClass.QUOTA),
        (429, "RESOURCE_EXHAUSTED", "Quota exceeded for metric: predict, limit: 0, model: veo", ErrorClass.QUOTA),
        (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete.", ErrorClass.AMBIGUOUS),
    ],
)
async def test_google_s_own_words_go_before_the_status(
    take: TakeRequests, status: int, word: str, message: str, error_class: ErrorClass
) -> None:
    fake = _Saying(status, [{"error": {"code": status, "message": message, "status": word}}])
    with serving(fake):
        refusal = await _refused(_veo(fake), take())
    assert refusal.error_class is error_class
    assert message in refusal.message


@pytest.mark.parametrize("document", [{}, {"name": None}, {"name": "../../other"}, {"done": True}, ["x"]])
async def test_an_acceptance_without_a_name_is_ambiguous(take: TakeRequests, document: object) -> None:
    fake = _Saying(200, document)
    with serving(fake):
        assert (await _refused(_veo(fake), take())).error_class is ErrorClass.AMBIGUOUS


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
async def test_a_start_without_an_answer_is_ambiguous(
    google: FakeVeo, veo: Veo, take: TakeRequests, fault: Fault, billed: int
) -> None:
    google.fault(fault)
    assert (await _refused(veo, take())).error_class is ErrorClass.AMBIGUOUS
    assert google.billed == billed


async def test_a_start_that_never_left_may_be_sent_again(take: TakeRequests) -> None:
    fake = FakeVeo()
    with serving(fake):
        veo = _veo(fake)
    assert (await _refused(veo, take())).error_class is ErrorClass.RETRY_SAFE


async def test_a_withheld_film_costs_nothing_and_says_why(google: FakeVeo, veo: Veo, take: TakeRequests) -> None:
    google.fault(Fault.FILTERED)
    over = await _ends_badly(veo, take())
    assert (over.error_class, over.cost_usd) == (ErrorClass.FILTERED, Decimal(0))
    assert "could not generate the video" in over.message


@pytest.mark.parametrize(
    ("code", "message", "error_class"),
    [
        (1, "Cancelled.", ErrorClass.EXPIRED),
        (3, "Invalid aspect ratio.", ErrorClass.INVALID_INPUT),
        (3, "This prompt contains sensitive words.", ErrorClass.FILTERED),
        (7, "Permission denied.", ErrorClass.AUTH),
        (8, "The service is currently experiencing high load.", ErrorClass.RETRY_SAFE),
        (8, "Quota exceeded: requests per day.", ErrorClass.QUOTA),
        (13, "Internal error.", ErrorClass.PROVIDER_FAULT),
        (14, "Unavailable.", ErrorClass.RETRY_SAFE),
        (99, "Nobody knows.", ErrorClass.PROVIDER_FAULT),
    ],
)
async def test_an_operation_that_failed_is_over(
    google: FakeVeo, veo: Veo, take: TakeRequests, code: int, message: str, error_class: ErrorClass
) -> None:
    google.fault(Fault.JOB_FAILS, code=code, message=message)
    over = await _ends_badly(veo, take())
    assert (over.error_class, over.cost_usd) == (error_class, None)
    assert message in over.message


async def test_a_done_operation_without_a_film_is_the_provider_s_fault() -> None:
    fake = _Saying(200, {"name": "operations/x", "done": True, "response": {}})
    with serving(fake), pytest.raises(JobOver, match="holds no film") as over:
        await _veo(fake).poll(ExternalId("operations/x"))
    assert over.value.error_class is ErrorClass.PROVIDER_FAULT


async def test_a_status_that_nobody_documented_ends_nothing(google: FakeVeo, veo: Veo, take: TakeRequests) -> None:
    google.fault(Fault.UNKNOWN_STATUS, looks=2)
    job = await veo.submit(take(), order())
    assert isinstance(await veo.poll(job), Progress)
    assert isinstance(await veo.poll(job), Progress)
    assert isinstance(await _over(veo, job), Filmed)


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        (401, ErrorClass.AUTH),
        (403, ErrorClass.RETRY_SAFE),
        (404, ErrorClass.RETRY_SAFE),
        (429, ErrorClass.THROTTLED),
        (500, ErrorClass.RETRY_SAFE),
        (503, ErrorClass.RETRY_SAFE),
    ],
)
async def test_a_look_that_failed_says_nothing_of_the_operation(
    google: FakeVeo, veo: Veo, take: TakeRequests, status: int, error_class: ErrorClass
) -> None:
    job = await veo.submit(take(), order())
    google.fault(Fault.POLL_FAILS, status=status)
    with pytest.raises(EngineError) as failed:
        await veo.poll(job)
    assert not isinstance(failed.value, JobOver)
    assert failed.value.error_class is error_class
    assert isinstance(await _over(veo, job), Filmed)
    assert google.billed == 1


async def test_a_wrong_key_is_told_from_a_look_that_failed() -> None:
    wrong = {"code": 400, "message": "API key not valid.", "details": [{"reason": "API_KEY_INVALID"}]}
    fake = _Saying(400, {"error": wrong})
    with serving(fake), pytest.raises(EngineError) as failed:
        await _veo(fake).poll(ExternalId("operations/x"))
    assert failed.value.error_class is ErrorClass.AUTH


async def test_the_key_goes_to_no_other_host() -> None:
    samples = [{"video": {"uri": "https://elsewhere.example/film.mp4"}}]
    fake = _Saying(200, {"done": True, "response": {"generateVideoResponse": {"generatedSamples": samples}}})
    with serving(fake):
        film = await _veo(fake).poll(ExternalId("operations/x"))
    assert isinstance(film, Filmed)
    assert isinstance(film.file, Download)
    assert film.file.headers == ()


async def test_a_cancelled_operation_goes_on_without_a_word(google: FakeVeo, veo: Veo, take: TakeRequests) -> None:
    google.fault(Fault.NEVER_ENDS)
    job = await veo.submit(take(), order())
    asked = len(google.seen)
    await veo.cancel(job)
    assert len(google.seen) == asked
    assert isinstance(await veo.poll(job), Progress)


async def test_nobody_can_say_where_a_lost_operation_is(google: FakeVeo, veo: Veo, take: TakeRequests) -> None:
    google.fault(Fault.DROP_AFTER)
    request, mine = take(), order()
    with pytest.raises(EngineError):
        await veo.submit(request, mine)
    assert await veo.find(request, mine) is Whereabouts.UNKNOWN


def test_the_usual_path_is_meant_by_a_bare_host() -> None:
    bare = Veo(VeoAccount(base_url="http://127.0.0.1:9", api_key=SecretStr(KEY)))
    whole = Veo(VeoAccount(base_url="http://127.0.0.1:9/v1beta", api_key=SecretStr(KEY)))
    assert bare.hosting.account == whole.hosting.account
    assert bare.hosting.max_concurrency == 4
    assert bare.hosting.start_delay.total_seconds() == 1.2
