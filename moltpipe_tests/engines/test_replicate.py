from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr
from syrupy.assertion import SnapshotAssertion

from moltpipe.engines.errors import EngineError, ErrorClass, JobOver
from moltpipe.engines.predictions import MOST_LOOKS, Predictions, cancel_after, creation, first_url
from moltpipe.engines.protocols import Download, ExternalId, Filmed, Progress, TakeRequest, Whereabouts
from moltpipe.engines.replicate import Replicate, filming
from moltpipe.engines.signatures import replicate_key, replicate_notice
from moltpipe.settings import ReplicateAccount
from moltpipe_tests.engines.conftest import TakeRequests
from moltpipe_tests.engines.orders import order
from moltpipe_tests.fakes.replicate import PLAIN, WEBHOOK_SECRET, FakeReplicate
from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen, serving

KEY = "r8_5ecret"
VEO = "google/veo-3.1-fast"


@pytest.fixture
def fake() -> Iterator[FakeReplicate]:
    provider = FakeReplicate(latency_s=0.05, key=KEY)
    with serving(provider):
        yield provider


def camera(fake: Provider, model: str = VEO, *, timeout_s: float = 5.0, **account: Any) -> Replicate:  # noqa: ANN401 - fields
    settings = {"base_url": f"{fake.base}/v1", "api_key": SecretStr(KEY), "model": model, **account}
    return Replicate(ReplicateAccount(**settings), timeout_s=timeout_s)


async def ended(engine: Replicate, job: ExternalId) -> Filmed:
    async with asyncio.timeout(10):
        while isinstance(seen := await engine.poll(job), Progress):  # noqa: ASYNC110 - polling is what is tested
            await asyncio.sleep(0.01)
    return seen


async def refused(engine: Replicate, request: TakeRequest) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await engine.submit(request, order())
    assert KEY not in str(caught.value)
    return caught.value


async def failed(engine: Replicate, request: TakeRequest) -> JobOver:
    job = await engine.submit(request, order())
    with pytest.raises(JobOver) as caught:
        await ended(engine, job)
    assert "sig=" not in str(caught.value)
    return caught.value


async def test_a_take_is_filmed_and_lies_at_an_address_that_is_no_part_of_any_text(
    fake: FakeReplicate, take: TakeRequests
) -> None:
    engine = camera(fake)

    filmed = await ended(engine, await engine.submit(take(), order()))

    assert isinstance(filmed.file, Download)
    assert "sig=" in filmed.file.url
    assert "sig=" not in f"{filmed!r} {filmed.model_dump_json()}"
    async with httpx.AsyncClient() as client:
        fetched = await client.get(filmed.file.url, headers=list(filmed.file.headers))
    assert fetched.content[4:8] == b"ftyp"
    assert fake.billed == 1


def asked(fake: FakeReplicate) -> dict[str, Any]:
    """The creation as it came in, without what changes with the client and the port."""
    seen = next(one for one in fake.seen if one.method == "POST")
    headers = {name: seen.headers[name] for name in ("authorization", "cancel-after", "content-type")}
    return {"method": seen.method, "path": seen.path, "query": seen.query, "headers": headers, "body": seen.json()}


@pytest.mark.parametrize(
    "model", ["google/veo-3.1-fast", "google/veo-3", "minimax/hailuo-02", "somebody/plain-film", f"some/film:{PLAIN}"]
)
async def test_the_request_is_the_one_that_was_reviewed(
    fake: FakeReplicate, take: TakeRequests, model: str, snapshot: SnapshotAssertion
) -> None:
    wanted = order(call_id=UUID(int=7), webhook_base="http://127.0.0.1:9/")

    await camera(fake, model, deadline_s=900).submit(take(shot=1, variant=2, wanted=4, seconds=5.0), wanted)

    assert asked(fake) == snapshot


async def test_an_address_without_a_path_means_the_usual_one(take: TakeRequests) -> None:
    canned = Canned(201, {"id": "x"})
    canned.prefix = "v1"
    with serving(canned) as address:
        await Replicate(ReplicateAccount(base_url=address, api_key=SecretStr(KEY))).submit(take(), order())

    assert [seen.path for seen in canned.seen] == ["/models/google/veo-3.1-fast/predictions"]


# What goes in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "seconds", "made"),
    [(VEO, 3.0, 4), (VEO, 4.0, 4), (VEO, 4.1, 6), (VEO, 7.0, 8), (VEO, 9.5, 8), ("minimax/hailuo-02", 3.0, 6),
     ("minimax/hailuo-02", 6.5, 10), ("minimax/hailuo-2.3", 12.0, 10)],
)  # fmt: skip
def test_a_take_is_never_shorter_than_wanted_where_the_model_can_make_it(
    take: TakeRequests, model: str, seconds: float, made: int
) -> None:
    assert filming(model, take(seconds=seconds)).given["duration"] == made


@pytest.mark.parametrize(
    ("model", "width", "height", "seconds", "given"),
    [
        (VEO, 426, 240, 4, {"aspect_ratio": "16:9", "resolution": "720p"}),
        (VEO, 1920, 1080, 4, {"aspect_ratio": "16:9", "resolution": "1080p"}),
        (VEO, 1080, 1920, 4, {"aspect_ratio": "9:16", "resolution": "1080p"}),
        (VEO, 720, 720, 4, {"aspect_ratio": "16:9", "resolution": "720p"}),
        ("minimax/hailuo-02", 1280, 720, 4, {"resolution": "768p"}),
        ("minimax/hailuo-02", 1920, 1080, 6, {"resolution": "1080p"}),
        ("minimax/hailuo-02", 1920, 1080, 8, {"resolution": "768p"}),
    ],
)
def test_shape_and_fineness_follow_the_profile(
    take: TakeRequests, model: str, width: int, height: int, seconds: float, given: dict[str, str]
) -> None:
    assert given.items() <= filming(model, take(width=width, height=height, seconds=seconds)).given.items()


def test_a_model_that_nobody_knows_gets_the_prompt_and_nothing_that_it_might_refuse(take: TakeRequests) -> None:
    assert set(filming("somebody/plain-film", take()).given) == {"prompt"}


@pytest.mark.parametrize(
    ("model", "seconds", "cost", "basis"),
    [
        (VEO, 3.0, "0.4", "4 second at $0.10"),
        ("google/veo-3", 7.5, "1.6", "8 second at $0.20"),
        ("minimax/hailuo-02", 5.0, "0.27", "6 second at $0.045"),
    ],
)
def test_the_quote_is_for_the_seconds_that_will_be_made(
    take: TakeRequests, model: str, seconds: float, cost: str, basis: str
) -> None:
    quote = Replicate(ReplicateAccount(model=model)).quote(take(seconds=seconds))

    assert quote.cost_usd == Decimal(cost)
    assert quote.basis.startswith(basis)


def test_a_model_without_a_price_has_none_until_one_is_set(take: TakeRequests) -> None:
    unknown = Replicate(ReplicateAccount(model="somebody/plain-film")).quote(take())
    known = Replicate(ReplicateAccount(model="somebody/plain-film", price_usd=Decimal("0.7"))).quote(take())

    assert unknown.cost_usd is None
    assert "MOLTPIPE_REPLICATE_PRICE_USD per run" in unknown.basis
    assert known.cost_usd == Decimal("0.7")


@pytest.mark.parametrize(("deadline_s", "header"), [(900, "900s"), (0.5, "5s"), (100.2, "101s"), (10**6, "9000s")])
def test_the_deadline_stays_within_what_is_documented(deadline_s: float, header: str) -> None:
    assert cancel_after(deadline_s) == header


def test_without_a_public_address_no_webhook_is_asked_for() -> None:
    assert creation(VEO, {"prompt": "rain"}, order())[1] == {"input": {"prompt": "rain"}}


@pytest.mark.parametrize(
    ("output", "url"),
    [
        ("https://a.example/1.mp4", "https://a.example/1.mp4"),
        (["https://a.example/1.mp4", "https://a.example/2.mp4"], "https://a.example/1.mp4"),
        ({"thumbnail": "https://a.example/1.jpg", "video": "https://a.example/1.mp4"}, "https://a.example/1.mp4"),
        ({"files": [{"url": "https://a.example/1.mp4"}]}, "https://a.example/1.mp4"),
        ("data:video/mp4;base64,AAAA", "data:video/mp4;base64,AAAA"),
        ("/etc/passwd", None),
        ([], None),
        (None, None),
        (7, None),
    ],
)
def test_an_address_is_found_in_any_form_of_output(output: object, url: str | None) -> None:
    assert first_url(output) == url


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error_class", "billed"),
    [
        (Fault.UNAUTHORIZED, ErrorClass.AUTH, 0),
        (Fault.NO_CREDIT, ErrorClass.QUOTA, 0),
        (Fault.INVALID, ErrorClass.INVALID_INPUT, 0),
        (Fault.ERROR_500, ErrorClass.AMBIGUOUS, 0),
        (Fault.UNAVAILABLE, ErrorClass.AMBIGUOUS, 0),
        (Fault.DROP_BEFORE, ErrorClass.AMBIGUOUS, 0),
        (Fault.DROP_AFTER, ErrorClass.AMBIGUOUS, 1),
        (Fault.ERROR_502, ErrorClass.AMBIGUOUS, 1),
    ],
)
async def test_only_what_was_certainly_refused_is_called_refused(
    fake: FakeReplicate, take: TakeRequests, fault: Fault, error_class: ErrorClass, billed: int
) -> None:
    fake.fault(fault)

    assert (await refused(camera(fake), take())).error_class is error_class
    assert fake.billed == billed


async def test_nobody_there_is_safe_to_try_again(take: TakeRequests) -> None:
    engine = Replicate(ReplicateAccount(base_url="http://127.0.0.1:9", api_key=SecretStr(KEY)))

    assert (await refused(engine, take())).error_class is ErrorClass.RETRY_SAFE


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE, Fault.HANG_AFTER])
async def test_a_request_without_an_answer_is_ambiguous(fake: FakeReplicate, take: TakeRequests, fault: Fault) -> None:
    fake.fault(fault)

    assert (await refused(camera(fake, timeout_s=0.2), take())).error_class is ErrorClass.AMBIGUOUS


@pytest.mark.parametrize(("details", "wait_s"), [({"retry_after": 7}, 7.0), ({}, 1.0)])
async def test_a_throttled_request_says_how_long_to_wait_in_header_or_text(
    fake: FakeReplicate, take: TakeRequests, details: dict[str, Any], wait_s: float
) -> None:
    fake.fault(Fault.THROTTLED, **details)

    error = await refused(camera(fake), take())

    assert error.error_class is ErrorClass.THROTTLED
    assert error.retry_after_s == wait_s


async def test_an_account_with_little_credit_is_told_the_longest_wait(take: TakeRequests) -> None:
    low = (
        "Request was throttled. Your rate limit for creating predictions is reduced to 6 requests per minute with a "
        "burst of 1 requests while you have less than $5.0 in credit. Your rate limit resets in ~30s."
    )
    canned = Canned(429, {"detail": low, "status": 429, "retry_after": 10})
    with serving(canned):
        error = await refused(camera(canned), take())

    assert error.retry_after_s == 30.0


@pytest.mark.parametrize(
    ("status", "document", "error_class"),
    [
        (422, {"detail": "The prompt was flagged as sensitive", "status": 422}, ErrorClass.FILTERED),
        (404, {"detail": "The requested resource could not be found.", "status": 404}, ErrorClass.INVALID_INPUT),
        (403, {"detail": "You do not have permission", "status": 403}, ErrorClass.AUTH),
        (500, {"detail": "Internal server error", "status": 500}, ErrorClass.AMBIGUOUS),
        (201, {"status": "starting"}, ErrorClass.AMBIGUOUS),
        (200, None, ErrorClass.AMBIGUOUS),
    ],
)
async def test_an_answer_to_a_creation_means_what_it_says(
    take: TakeRequests, status: int, document: object, error_class: ErrorClass
) -> None:
    canned = Canned(status, document)
    with serving(canned):
        assert (await refused(camera(canned), take())).error_class is error_class


class Canned(Provider):
    """Answers everything alike."""

    prefix = "canned"

    def __init__(self, status: int, document: object) -> None:
        super().__init__()
        self.answer = Answer(status, document)

    def handle(self, seen: Seen) -> Answer:  # noqa: ARG002 - whatever it is
        return self.answer


# Ends -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "error_class", "cost"),
    [
        ({"code": "E6716"}, ErrorClass.RETRY_SAFE, Decimal(0)),
        ({"code": "E1000"}, ErrorClass.PROVIDER_FAULT, None),
        ({"code": "E1001"}, ErrorClass.INVALID_INPUT, None),
        ({"error": "NSFW content detected. Try a different prompt."}, ErrorClass.FILTERED, None),
        ({"error": "The prompt violates Google's Responsible AI practices"}, ErrorClass.FILTERED, None),
        ({"error": "Input validation error: duration must be one of 4, 6, 8"}, ErrorClass.INVALID_INPUT, None),
        ({"error": "CUDA error: an illegal memory access was encountered"}, ErrorClass.PROVIDER_FAULT, None),
        ({"error": ""}, ErrorClass.PROVIDER_FAULT, None),
    ],
)
async def test_a_failed_prediction_is_classed_by_its_words(
    fake: FakeReplicate, take: TakeRequests, said: dict[str, Any], error_class: ErrorClass, cost: Decimal | None
) -> None:
    fake.fault(Fault.JOB_FAILS, **said)

    over = await failed(camera(fake), take())

    assert (over.error_class, over.cost_usd) == (error_class, cost)


async def test_a_film_that_was_withheld_is_filtered(fake: FakeReplicate, take: TakeRequests) -> None:
    fake.fault(Fault.FILTERED)

    assert (await failed(camera(fake), take())).error_class is ErrorClass.FILTERED


async def test_a_status_that_nobody_has_documented_is_no_end(fake: FakeReplicate, take: TakeRequests) -> None:
    fake.fault(Fault.UNKNOWN_STATUS)
    engine = camera(fake)
    job = await engine.submit(take(), order())

    seen = await engine.poll(job)

    assert isinstance(seen, Progress)
    assert seen.note == "hibernating"
    await ended(engine, job)


async def test_a_prediction_in_the_queue_is_not_at_work(take: TakeRequests) -> None:
    fake = FakeReplicate(latency_s=60)
    with serving(fake):
        engine = camera(fake)
        job = await engine.submit(take(), order())
        assert await engine.poll(job) == Progress(note="starting", at_work=False)


async def test_a_running_prediction_is_at_work(fake: FakeReplicate, take: TakeRequests) -> None:
    fake.fault(Fault.NEVER_ENDS)
    fake.latency_s = 0
    engine = camera(fake)

    assert await engine.poll(await engine.submit(take(), order())) == Progress(note="processing")


@pytest.mark.parametrize(("started", "cost"), [(False, Decimal(0)), (True, None)])
async def test_replicate_gives_up_at_the_deadline_and_what_never_started_is_free(
    take: TakeRequests, *, started: bool, cost: Decimal | None
) -> None:
    fake = FakeReplicate(latency_s=0.05, hurry=50)
    fake.fault(Fault.NEVER_ENDS, started=started)
    with serving(fake):
        over = await failed(camera(fake, deadline_s=5), take())

    assert (over.error_class, over.cost_usd) == (ErrorClass.EXPIRED, cost)


async def test_a_cancelled_prediction_is_over_and_cancelling_again_is_no_error(
    fake: FakeReplicate, take: TakeRequests
) -> None:
    fake.fault(Fault.NEVER_ENDS)
    engine = camera(fake)
    job = await engine.submit(take(), order())

    await engine.cancel(job)
    await engine.cancel(job)
    await engine.cancel(ExternalId("of-nobody"))

    with pytest.raises(JobOver) as caught:
        await engine.poll(job)
    assert caught.value.error_class is ErrorClass.EXPIRED


async def test_a_film_that_replicate_has_deleted_is_expired(fake: FakeReplicate, take: TakeRequests) -> None:
    engine = camera(fake)
    job = await engine.submit(take(), order())
    await ended(engine, job)
    fake.remove_data(job)

    for gone in (job, ExternalId("of-nobody")):
        with pytest.raises(JobOver) as caught:
            await engine.poll(gone)
        assert caught.value.error_class is ErrorClass.EXPIRED


@pytest.mark.parametrize(
    ("status", "document", "error_class"),
    [
        (500, {"detail": "Internal server error"}, ErrorClass.RETRY_SAFE),
        (502, None, ErrorClass.RETRY_SAFE),
        (429, {"detail": "Request was throttled."}, ErrorClass.THROTTLED),
        (401, {"detail": "Unauthenticated"}, ErrorClass.AUTH),
        (400, {"detail": "Bad request"}, ErrorClass.RETRY_SAFE),
        (200, {"status": None}, ErrorClass.RETRY_SAFE),
        (200, None, ErrorClass.RETRY_SAFE),
    ],
)
async def test_a_look_that_failed_says_nothing_of_the_prediction(
    status: int, document: object, error_class: ErrorClass
) -> None:
    canned = Canned(status, document)
    with serving(canned), pytest.raises(EngineError) as caught:
        await camera(canned).poll(ExternalId("x/../y"))

    assert caught.value.error_class is error_class
    assert not isinstance(caught.value, JobOver)
    assert canned.seen[0].path == "/v1/predictions/x%2F..%2Fy"


async def test_a_success_without_a_file_is_the_provider_s_fault() -> None:
    canned = Canned(200, {"status": "succeeded", "output": {"note": "none"}})
    with serving(canned), pytest.raises(JobOver) as caught:
        await camera(canned).poll(ExternalId("x"))

    assert caught.value.error_class is ErrorClass.PROVIDER_FAULT


@pytest.mark.parametrize(
    ("url", "with_key"),
    [
        ("https://replicate.delivery/x/1.mp4", True),
        ("https://tjzk.replicate.delivery/x/1.mp4", True),
        ("https://evil.example/1.mp4", False),
        ("http://replicate.delivery/x/1.mp4", False),
        ("https://replicate.delivery.evil.example/1.mp4", False),
        ("https://evilreplicate.delivery/1.mp4", False),
    ],
)
async def test_the_key_goes_along_to_replicate_s_own_hosts_alone(url: str, *, with_key: bool) -> None:
    canned = Canned(200, {"status": "succeeded", "output": url})
    with serving(canned):
        found = await Predictions("replicate", canned.base, KEY, deadline_s=60).look(ExternalId("x"))

    assert isinstance(found, Download)
    assert bool(found.headers) is with_key


# Finding --------------------------------------------------------------------------------------------------------------


async def test_a_dropped_connection_is_ambiguous_and_the_prediction_is_found(
    fake: FakeReplicate, take: TakeRequests
) -> None:
    engine, wanted = camera(fake), order()
    fake.fault(Fault.DROP_AFTER)
    with pytest.raises(EngineError):
        await engine.submit(take(), wanted)
    for seed in range(3):
        await engine.submit(take(seed=100 + seed), order())

    found = await engine.find(take(), wanted)

    assert not isinstance(found, Whereabouts)
    await ended(engine, found)
    assert fake.billed_twice == []


async def test_a_request_that_never_arrived_is_not_there(fake: FakeReplicate, take: TakeRequests) -> None:
    engine, wanted = camera(fake), order()
    fake.fault(Fault.DROP_BEFORE)
    with pytest.raises(EngineError):
        await engine.submit(take(), wanted)
    await engine.submit(take(seed=100), order())

    assert await engine.find(take(), wanted) is Whereabouts.NOT_THERE


async def test_what_is_somebody_else_s_is_not_taken(fake: FakeReplicate, take: TakeRequests) -> None:
    engine = camera(fake)
    given = filming(VEO, take()).given
    of_another_call = fake.made_elsewhere(given, VEO)
    fake.made_elsewhere(given, VEO, source="web")
    fake.made_elsewhere(given, "google/veo-3.1")
    fake.made_elsewhere(given, VEO, age=timedelta(minutes=5))

    assert await engine.find(take(), order(others=frozenset({of_another_call}))) is Whereabouts.NOT_THERE


async def test_a_clock_that_is_a_little_behind_hides_nothing(fake: FakeReplicate, take: TakeRequests) -> None:
    made = fake.made_elsewhere(filming(VEO, take()).given, VEO, age=timedelta(seconds=30))

    assert await camera(fake).find(take(), order()) == made


async def test_of_two_that_are_alike_the_one_made_when_the_order_left_is_ours(
    fake: FakeReplicate, take: TakeRequests
) -> None:
    given = filming(VEO, take()).given
    ours = fake.made_elsewhere(given, VEO, age=timedelta(seconds=20))
    fake.made_elsewhere(given, VEO)

    assert await camera(fake).find(take(), order(left_at=datetime.now(UTC) - timedelta(seconds=21))) == ours


async def test_a_version_is_found_by_its_version(fake: FakeReplicate, take: TakeRequests) -> None:
    engine = camera(fake, f"somebody/plain-film:{PLAIN}")
    fake.made_elsewhere(filming(engine.model, take()).given, f"somebody/plain-film:{'0' * 64}")

    assert await engine.find(take(), order()) is Whereabouts.NOT_THERE
    job = await engine.submit(take(), order())
    assert await engine.find(take(), order()) == job


async def test_a_lost_prediction_is_found_on_a_later_page(fake: FakeReplicate, take: TakeRequests) -> None:
    fake.page_size = 2
    engine, wanted = camera(fake), order()
    job = await engine.submit(take(), wanted)
    for seed in range(5):
        fake.made_elsewhere({"prompt": "rain", "seed": seed}, VEO)

    assert await engine.find(take(), wanted) == job
    assert await engine.find(take(seed=9), wanted) is Whereabouts.NOT_THERE


async def test_a_list_that_is_too_long_to_read_says_nothing(fake: FakeReplicate, take: TakeRequests) -> None:
    fake.page_size = 1
    for seed in range(12):
        fake.made_elsewhere({"prompt": "rain", "seed": seed}, VEO)

    assert await camera(fake).find(take(), order()) is Whereabouts.UNKNOWN


async def test_among_forgotten_inputs_nobody_can_tell(fake: FakeReplicate, take: TakeRequests) -> None:
    fake.remove_data(fake.made_elsewhere({"prompt": "rain"}, VEO))

    assert await camera(fake).find(take(), order()) is Whereabouts.UNKNOWN


def looked_at(fake: FakeReplicate) -> list[str]:
    """The predictions that were looked at by themselves, in order."""
    paths = [seen.path for seen in fake.seen if seen.method == "GET"]
    return [path.rpartition("/")[2] for path in paths if path.startswith("/v1/predictions/")]


async def test_a_list_without_inputs_is_read_prediction_by_prediction(fake: FakeReplicate, take: TakeRequests) -> None:
    fake.lists_inputs = False
    engine, wanted = camera(fake), order()
    fake.fault(Fault.DROP_AFTER)
    with pytest.raises(EngineError):
        await engine.submit(take(), wanted)
    for seed in range(3):
        await engine.submit(take(seed=100 + seed), order())

    found = await engine.find(take(), wanted)

    assert looked_at(fake)[-1:] == [found]
    assert await engine.find(take(seed=9), wanted) is Whereabouts.NOT_THERE
    assert fake.billed_twice == []


async def test_only_what_may_be_ours_is_looked_at_and_the_nearest_first(
    fake: FakeReplicate, take: TakeRequests
) -> None:
    fake.lists_inputs = False
    given = filming(VEO, take()).given
    of_another_call = fake.made_elsewhere(given, VEO)
    fake.made_elsewhere(given, VEO, source="web")
    fake.made_elsewhere(given, "google/veo-3.1")
    later = fake.made_elsewhere({"prompt": "rain"}, VEO)
    ours = fake.made_elsewhere(given, VEO, age=timedelta(seconds=20))
    earlier = fake.made_elsewhere(given, VEO, age=timedelta(seconds=40))
    nearest = fake.made_elsewhere({"prompt": "fog"}, VEO, age=timedelta(seconds=22))
    wanted = order(left_at=datetime.now(UTC) - timedelta(seconds=22), others=frozenset({of_another_call}))

    assert await camera(fake).find(take(), wanted) == ours
    assert looked_at(fake) == [nearest, ours]

    assert await camera(fake).find(take(seed=9), wanted) is Whereabouts.NOT_THERE
    assert looked_at(fake)[2:] == [nearest, ours, earlier, later]


async def test_an_input_that_a_look_does_not_tell_either_leaves_it_unknown(
    fake: FakeReplicate, take: TakeRequests
) -> None:
    fake.lists_inputs = False
    fake.remove_data(fake.made_elsewhere({"prompt": "rain"}, VEO))

    assert await camera(fake).find(take(), order()) is Whereabouts.UNKNOWN

    job = await camera(fake).submit(take(), order())
    assert await camera(fake).find(take(), order()) == job


async def test_more_predictions_without_inputs_than_are_looked_at_say_nothing(
    fake: FakeReplicate, take: TakeRequests
) -> None:
    fake.lists_inputs = False
    for seed in range(MOST_LOOKS + 1):
        fake.made_elsewhere({"prompt": "rain", "seed": seed}, VEO)

    assert await camera(fake).find(take(), order()) is Whereabouts.UNKNOWN
    assert len(looked_at(fake)) == MOST_LOOKS


async def test_a_prediction_that_cannot_be_looked_at_is_an_error_and_not_another_s(
    fake: FakeReplicate, take: TakeRequests
) -> None:
    fake.lists_inputs = False
    job = await camera(fake).submit(take(), order())
    fake.fault(Fault.POLL_FAILS)

    with pytest.raises(EngineError) as caught:
        await camera(fake).find(take(), order())

    assert caught.value.error_class is ErrorClass.RETRY_SAFE
    assert await camera(fake).find(take(), order()) == job


async def test_a_listed_prediction_that_is_gone_leaves_it_unknown(take: TakeRequests) -> None:
    class Forgetful(FakeReplicate):
        """Lists a prediction that it does not know any more."""

        def handle(self, seen: Seen) -> Answer:
            gone = seen.path.startswith("/v1/predictions/")
            return self.refusal(404, "") if gone else super().handle(seen)

    fake = Forgetful(lists_inputs=False)
    with serving(fake):
        fake.made_elsewhere({"prompt": "rain"}, VEO)
        assert await camera(fake).find(take(), order()) is Whereabouts.UNKNOWN


async def test_without_a_list_nobody_can_tell(fake: FakeReplicate, take: TakeRequests) -> None:
    fake.lists = False

    assert await camera(fake).find(take(), order()) is Whereabouts.UNKNOWN


@pytest.mark.parametrize("document", [{}, None, {"results": None}, {"results": [], "next": "https://x.example/all"}])
async def test_a_list_that_is_none_is_not_an_empty_one(take: TakeRequests, document: object) -> None:
    canned = Canned(200, document)
    with serving(canned):
        assert await camera(canned).find(take(), order()) is Whereabouts.UNKNOWN


async def test_a_list_that_cannot_be_read_is_an_error(take: TakeRequests) -> None:
    canned = Canned(500, {"detail": "Internal server error"})
    with serving(canned), pytest.raises(EngineError) as caught:
        await camera(canned).find(take(), order())

    assert caught.value.error_class is ErrorClass.RETRY_SAFE


async def test_the_next_page_is_asked_for_at_our_own_address_whatever_the_list_says(take: TakeRequests) -> None:
    elsewhere = FakeReplicate()
    canned = Canned(200, {"results": [], "next": ""})
    with serving(canned, elsewhere):
        canned.answer = Answer(200, {"results": [], "next": f"{elsewhere.base}/v1/predictions?cursor=2"})
        assert await camera(canned).find(take(), order()) is Whereabouts.UNKNOWN

    assert elsewhere.seen == []
    assert [seen.query.get("cursor") for seen in canned.seen] == [None] + ["2"] * 9


# Webhooks -------------------------------------------------------------------------------------------------------------


class Inbox(Provider):
    """Takes webhooks as `moltpipe webhooks` does."""

    prefix = "inbox"

    def __init__(self) -> None:
        super().__init__()
        self.came = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def handle(self, seen: Seen) -> Answer:  # noqa: ARG002 - it is kept by the server
        self._loop.call_soon_threadsafe(self.came.set)
        return Answer(document={})


@pytest.fixture
async def inbox(fake: FakeReplicate) -> AsyncIterator[Inbox]:  # noqa: ARG001 - ends before the one who sends
    provider = Inbox()
    with serving(provider):
        yield provider


async def test_a_webhook_names_the_call_and_the_prediction_and_is_signed(
    fake: FakeReplicate, inbox: Inbox, take: TakeRequests
) -> None:
    wanted = order(webhook_base=inbox.base)
    job = await camera(fake).submit(take(), wanted)
    async with asyncio.timeout(10):
        await inbox.came.wait()
    (event,) = inbox.seen

    notice = replicate_notice(replicate_key(WEBHOOK_SECRET), event.headers, event.query, event.body, datetime.now(UTC))

    assert event.path == "/replicate"
    assert (notice.external_id, notice.call_id, notice.status) == (job, wanted.call_id, "succeeded")


async def test_an_early_webhook_comes_before_the_answer_and_may_come_twice(
    fake: FakeReplicate, inbox: Inbox, take: TakeRequests
) -> None:
    fake.webhook_early, fake.webhook_times = True, 2
    fake.fault(Fault.DROP_AFTER)

    assert (await refused_with(camera(fake), take(), inbox.base)) is ErrorClass.AMBIGUOUS

    assert len(inbox.seen) == 2
    assert len({seen.headers["webhook-id"] for seen in inbox.seen}) == 1


async def refused_with(engine: Replicate, request: TakeRequest, webhook_base: str) -> ErrorClass:
    with pytest.raises(EngineError) as caught:
        await engine.submit(request, order(webhook_base=webhook_base))
    return caught.value.error_class
