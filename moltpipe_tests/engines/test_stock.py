"""The stock camera against a small DVIDS over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from syrupy.assertion import SnapshotAssertion

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.protocols import Download, ExternalId, Filmed, TakeRequest, Whereabouts
from moltpipe.engines.stock import (
    ENDORSEMENT_NOTICE,
    Search,
    Stock,
    arranged,
    credit_of,
    parameters,
    rendition,
    search_words,
    searches,
)
from moltpipe.media.probe import probe
from moltpipe.settings import StockAccount
from moltpipe_tests.engines.conftest import TakeRequests
from moltpipe_tests.engines.orders import order
from moltpipe_tests.fakes.server import Fault, serving
from moltpipe_tests.fakes.stock import KEY, FakeStock, Footage

LIGHTHOUSE = "A lighthouse on black rock at night, its beam in rain"


def engine(provider: FakeStock, *, key: str = KEY, start_delay_ms: int = 0, timeout_s: float = 5) -> Stock:
    account = StockAccount(base_url=provider.base, api_key=SecretStr(key), start_delay_ms=start_delay_ms)
    return Stock(account, timeout_s=timeout_s)


@pytest.fixture
def dvids() -> Iterator[FakeStock]:
    provider = FakeStock(key=KEY)
    with serving(provider):
        yield provider


@pytest.fixture
def stock(dvids: FakeStock) -> Stock:
    return engine(dvids)


@contextmanager
def serving_only(*footage: Footage) -> Iterator[FakeStock]:
    provider = FakeStock(footage, key=KEY)
    with serving(provider):
        yield provider


async def refused(stock: Stock, request: TakeRequest, **other: Any) -> EngineError:  # noqa: ANN401 - of the order
    with pytest.raises(EngineError) as refusal:
        await stock.submit(request, order(**other))
    return refusal.value


def asked(provider: FakeStock) -> list[str]:
    return [seen.query["q"] for seen in provider.seen if seen.path == "/search"]


async def film(stock: Stock, request: TakeRequest, **other: Any) -> tuple[ExternalId, Filmed]:  # noqa: ANN401 - as above
    job = await stock.submit(request, order(**other))
    result = await stock.poll(job)
    assert isinstance(result, Filmed)
    return job, result


# What is asked for


def test_the_words_are_what_footage_is_filed_under(take: TakeRequests) -> None:
    request = take(prompt={"scene": LIGHTHOUSE, "details": "LOC_LIGHTHOUSE in a storm"})
    assert search_words(request) == ("lighthouse", "black", "rock", "night", "beam")
    assert search_words(take(prompt={"scene": "CHAR_MARA and Tomas stand in LOC_TIDE_ARCHIVE"})) == (
        "stand",
        "tide",
        "archive",
    )


def test_names_are_searched_for_only_when_there_is_nothing_else(take: TakeRequests) -> None:
    assert search_words(take(prompt={"scene": "Mara is with Tomas", "details": None})) == ("mara", "tomas")


def test_letters_of_any_language_make_words(take: TakeRequests) -> None:
    assert search_words(take(prompt={"scene": "Ein Leuchtturm über Klippen", "details": "маяк 2027"})) == (
        "ein",
        "leuchtturm",
        "über",
        "klippen",
        "маяк",
    )


def test_a_search_is_relaxed_word_by_word_and_then_in_length_and_shape() -> None:
    words = ("lighthouse", "black", "rock", "night", "beam")
    assert [(len(one.words), one.is_exact) for one in searches(words)] == [
        *((5, True), (3, True), (2, True), (1, True)),
        *((5, False), (3, False), (2, False)),
        *[(1, False)] * 5,
    ]
    assert [one.words for one in searches(words)][-5:] == [(word,) for word in words]
    assert list(searches(())) == []


def test_only_a_large_picture_asks_for_high_definition(take: TakeRequests) -> None:
    exact = Search(("sea",), is_exact=True)
    assert "hd" not in parameters(exact, take(width=640, height=360))
    assert parameters(exact, take(width=1280, height=720))["hd"] == 1
    assert parameters(exact, take(seconds=4.2))["from_duration"] == 5
    assert "from_duration" not in parameters(Search(("sea",), is_exact=False), take())


async def test_the_requests_are_the_ones_that_were_reviewed(
    dvids: FakeStock, stock: Stock, take: TakeRequests, snapshot: SnapshotAssertion
) -> None:
    await film(stock, take(prompt={"scene": "A lighthouse under a crimson kite"}, width=1280, height=720))
    volatile = {"host", "user-agent", "accept-encoding"}
    assert [
        {
            "method": seen.method,
            "path": seen.path,
            "query": dict(sorted(seen.query.items())),
            "headers": {name: value for name, value in sorted(seen.headers.items()) if name not in volatile},
            "body": seen.body.decode(),
        }
        for seen in dvids.seen
    ] == snapshot


# What is found


async def test_a_shot_gets_the_rendition_that_covers_its_picture_and_names_its_maker(
    dvids: FakeStock, stock: Stock, take: TakeRequests
) -> None:
    job, result = await film(stock, take(prompt={"scene": LIGHTHOUSE}, width=640, height=360))
    video = job.partition("@")[0]
    assert job == f"{video}@640x360"
    assert dvids.library[video].keywords.startswith("lighthouse black rock")
    assert isinstance(result.file, Download)
    assert result.file.url == f"{dvids.base}/media/{dvids.library[video].number}/640x360.mp4"
    assert result.file.headers == ()
    assert result.credit == f"SSgt Ada Reyes, 48th Fighter Wing (DVIDS {video})"
    assert result.billed_usd == 0


async def test_the_address_leads_to_a_clip_of_that_size(stock: Stock, take: TakeRequests, tmp_path: Path) -> None:
    _, result = await film(stock, take(prompt={"scene": LIGHTHOUSE}, width=320, height=180))
    assert isinstance(result.file, Download)
    clip = tmp_path / "clip.mp4"
    async with httpx.AsyncClient() as client:
        clip.write_bytes((await client.get(result.file.url)).content)
    picture = probe(clip).video
    assert picture is not None
    assert (picture.width, picture.height) == (320, 180)


async def test_a_restarted_process_finds_the_same_rendition(dvids: FakeStock, stock: Stock, take: TakeRequests) -> None:
    job, first = await film(stock, take(prompt={"scene": LIGHTHOUSE}, width=640, height=360))
    assert await engine(dvids).poll(job) == first


async def test_words_are_dropped_until_something_is_found(dvids: FakeStock, stock: Stock, take: TakeRequests) -> None:
    await film(stock, take(prompt={"scene": "A lighthouse, a zeppelin, a violin, a xylophone and an oboe"}))
    assert asked(dvids) == [
        "lighthouse zeppelin violin xylophone oboe",
        "lighthouse zeppelin violin",
        "lighthouse zeppelin",
        "lighthouse",
    ]


async def test_a_place_is_searched_for_by_what_the_bible_says_of_it(take: TakeRequests) -> None:
    with serving_only(Footage(1, "hall shelves")) as provider:
        job = await engine(provider).submit(take(prompt={"scene": "Nobody saw LOC_TIDE_ARCHIVE"}), order())
        assert job.startswith("video:1@")
        assert asked(provider)[0] == "tide archive"
        assert asked(provider)[-1] == "hall"


async def test_length_and_shape_are_given_up_last(take: TakeRequests) -> None:
    with serving_only(Footage(1, "sea dusk", seconds=4, aspect_ratio="4:3")) as provider:
        job, _ = await film(engine(provider), take(prompt={"scene": "The sea at dusk"}, seconds=6.0))
        assert job.startswith("video:1@")
        assert asked(provider) == ["sea dusk", "sea", "sea dusk"]


async def test_what_is_found_nowhere_is_refused_with_the_words_that_were_tried(
    stock: Stock, take: TakeRequests
) -> None:
    refusal = await refused(stock, take(prompt={"scene": "A zeppelin over violins"}))
    assert refusal.error_class is ErrorClass.INVALID_INPUT
    assert "'zeppelin violins', 'zeppelin', 'violins'" in refusal.message
    assert "shot 1 of episode 1" in refusal.message


async def test_a_scene_without_words_is_refused_before_anything_is_asked(
    dvids: FakeStock, stock: Stock, take: TakeRequests
) -> None:
    refusal = await refused(stock, take(prompt={"scene": "1 & 2", "details": None}))
    assert refusal.error_class is ErrorClass.INVALID_INPUT
    assert "no words" in refusal.message
    assert dvids.seen == []


# Which one is taken


async def test_the_same_request_finds_the_same_video_again(stock: Stock, take: TakeRequests) -> None:
    request = take(prompt={"scene": LIGHTHOUSE})
    assert await stock.submit(request, order()) == await stock.submit(request, order())


async def test_variants_made_side_by_side_differ(stock: Stock, take: TakeRequests) -> None:
    jobs = {
        await stock.submit(take(prompt={"scene": LIGHTHOUSE}, variant=variant, wanted=4, seed=variant * 7919), order())
        for variant in (1, 2, 3, 4)
    }
    assert len(jobs) == 4


async def test_a_video_of_another_call_is_not_taken_while_another_fits(stock: Stock, take: TakeRequests) -> None:
    request = take(prompt={"scene": "The lighthouse"})
    jobs: list[ExternalId] = []
    for _ in range(8):
        jobs.append(await stock.submit(request, order(others=frozenset(jobs))))
    assert len(set(jobs)) == 8
    assert await stock.submit(request, order(others=frozenset(jobs))) in jobs


async def test_the_search_is_widened_before_a_video_is_used_twice(take: TakeRequests) -> None:
    with serving_only(Footage(1, "lighthouse night"), Footage(2, "lighthouse day")) as provider:
        request = take(prompt={"scene": "A lighthouse at night"})
        job = await engine(provider).submit(request, order(others=frozenset({"video:1@640x360"})))
        assert job.startswith("video:2@")


async def test_a_full_page_of_used_videos_is_turned(take: TakeRequests) -> None:
    library = tuple(Footage(number, "lighthouse") for number in range(1, 62))
    with serving_only(*library) as provider:
        used = frozenset(one.id for one in library[:50])
        job = await engine(provider).submit(take(prompt={"scene": "The lighthouse"}), order(others=used))
        assert job.partition("@")[0] not in used
        assert [seen.query["page"] for seen in provider.seen if seen.path == "/search"] == ["1", "2"]


async def test_what_cannot_be_used_is_passed_over(take: TakeRequests) -> None:
    unusable = (
        Footage(1, "lighthouse", sizes=()),
        Footage(2, "lighthouse", credit=[{"rank": "", "name": "Courtesy"}]),
        Footage(3, "lighthouse", unit_name="Natochannel"),
        Footage(4, "lighthouse", seconds=3600),
    )
    with serving_only(*unusable, Footage(5, "lighthouse"), Footage(6, "lighthouse")) as provider:
        provider.taken_down.add("video:6")
        stock = engine(provider)
        for seed in range(4):
            job = await stock.submit(take(prompt={"scene": "The lighthouse"}, seed=seed), order())
            assert job.startswith("video:5@")
    with serving_only(*unusable) as provider:
        refusal = await refused(engine(provider), take(prompt={"scene": "The lighthouse"}))
        assert refusal.error_class is ErrorClass.INVALID_INPUT


def test_results_without_a_known_length_are_left_out(take: TakeRequests) -> None:
    unknown: list[dict[str, Any]] = [{"id": "video:1"}, {"id": "video:2", "duration": 0}]
    found = [*unknown, {"id": "image:3", "duration": 5}, {"duration": 5}]
    assert arranged(found, take(), frozenset()) == ([], [])


def test_the_smallest_rendition_that_covers_the_picture_is_taken_else_the_largest() -> None:
    def file(width: object, height: object, name: str, size: int = 1, kind: str = "video/mp4") -> dict[str, object]:
        return {"src": f"https://media/{name}", "type": kind, "width": width, "height": height, "size": size}

    files = [
        file(1920, 1080, "large.mp4"),
        file(1280, 720, "thin.mp4", 100),
        file("1280", "720", "middle.mp4", 900),
        file(640, 360, "small.mp4"),
        file(None, None, "unknown.mp4"),
        file(1280, 720, "list.m3u8", kind="application/x-mpegURL"),
    ]
    assert rendition(files, 854, 480) == "https://media/middle.mp4"
    assert rendition(files, 640, 360) == "https://media/small.mp4"
    assert rendition(files, 3840, 2160) == "https://media/large.mp4"
    assert rendition(files[-1:], 640, 360) is None
    assert rendition([{"src": "ftp://media/a.mp4", "type": "video/mp4"}], 640, 360) is None


@pytest.mark.parametrize(
    ("asset", "named"),
    [
        ({"id": "video:7", "credit": "SrA Bo Lind"}, "SrA Bo Lind (DVIDS video:7)"),
        (
            {
                "id": "video:7",
                "credit": [{"rank": "SSgt", "name": "Ada Reyes"}, {"rank": None, "name": "Bo Lind"}],
                "unit_name": "1st Combat  Camera\nSquadron",
            },
            "SSgt Ada Reyes, Bo Lind, 1st Combat Camera Squadron (DVIDS video:7)",
        ),
        ({"id": "video:7", "credit": None}, "DVIDS video:7"),
    ],
)
def test_a_credit_is_read_as_text_and_as_a_list(asset: dict[str, Any], named: str) -> None:
    assert credit_of(asset) == named


def test_the_notice_says_that_nobody_endorses() -> None:
    assert "does not imply or constitute DoD endorsement" in ENDORSEMENT_NOTICE


# What goes wrong


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        (Fault.DROP_BEFORE, ErrorClass.RETRY_SAFE),
        (Fault.DROP_AFTER, ErrorClass.RETRY_SAFE),
        (Fault.ERROR_500, ErrorClass.RETRY_SAFE),
        (Fault.ERROR_502, ErrorClass.RETRY_SAFE),
        (Fault.UNAVAILABLE, ErrorClass.RETRY_SAFE),
        (Fault.THROTTLED, ErrorClass.THROTTLED),
        (Fault.UNAUTHORIZED, ErrorClass.AUTH),
        (Fault.INVALID, ErrorClass.INVALID_INPUT),
    ],
)
async def test_a_search_that_failed_accepted_nothing(
    dvids: FakeStock, stock: Stock, take: TakeRequests, fault: Fault, error_class: ErrorClass
) -> None:
    dvids.fault(fault)
    refusal = await refused(stock, take(prompt={"scene": LIGHTHOUSE}))
    assert refusal.error_class is error_class
    assert dvids.billed == 0


async def test_how_long_to_wait_is_handed_on(dvids: FakeStock, stock: Stock, take: TakeRequests) -> None:
    dvids.fault(Fault.THROTTLED, retry_after=7)
    assert (await refused(stock, take())).retry_after_s == 7


async def test_a_search_without_an_answer_may_be_sent_again(dvids: FakeStock, take: TakeRequests) -> None:
    dvids.fault(Fault.HANG_BEFORE)
    refusal = await refused(engine(dvids, timeout_s=0.2), take(prompt={"scene": LIGHTHOUSE}))
    assert refusal.error_class is ErrorClass.RETRY_SAFE
    dvids.release()


async def test_nobody_at_the_address_is_safe_to_retry(take: TakeRequests) -> None:
    stock = Stock(StockAccount(base_url="http://127.0.0.1:9", api_key=SecretStr(KEY)))
    assert (await refused(stock, take(prompt={"scene": LIGHTHOUSE}))).error_class is ErrorClass.RETRY_SAFE


async def test_a_failed_look_is_looked_again(dvids: FakeStock, stock: Stock, take: TakeRequests) -> None:
    job = await stock.submit(take(prompt={"scene": LIGHTHOUSE}), order())
    dvids.fault(Fault.POLL_FAILS)
    with pytest.raises(EngineError) as failed:
        await stock.poll(job)
    assert failed.value.error_class is ErrorClass.RETRY_SAFE
    assert isinstance(await stock.poll(job), Filmed)


async def test_a_wrong_key_at_a_look_is_said(dvids: FakeStock, stock: Stock, take: TakeRequests) -> None:
    job = await stock.submit(take(prompt={"scene": LIGHTHOUSE}), order())
    with pytest.raises(EngineError) as refusal:
        await engine(dvids, key="key-0ther").poll(job)
    assert refusal.value.error_class is ErrorClass.AUTH


async def test_a_video_that_was_taken_down_is_expired_and_cost_nothing(
    dvids: FakeStock, stock: Stock, take: TakeRequests
) -> None:
    job = await stock.submit(take(prompt={"scene": LIGHTHOUSE}), order())
    dvids.taken_down.add(job.partition("@")[0])
    with pytest.raises(EngineError) as gone:
        await stock.poll(job)
    assert (gone.value.error_class, gone.value.cost_usd) == (ErrorClass.EXPIRED, Decimal(0))


async def test_a_video_whose_files_are_gone_is_expired() -> None:
    with serving_only(Footage(1, "lighthouse", sizes=())) as provider:
        with pytest.raises(EngineError, match="no MP4") as gone:
            await engine(provider).poll(ExternalId("video:1@640x360"))
        assert gone.value.error_class is ErrorClass.EXPIRED


async def test_the_key_is_in_no_error_no_log_and_no_result(
    dvids: FakeStock, take: TakeRequests, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    # DVIDS repeats a key that it does not know.
    for key in ("key-wr0ng", "key/with spaces&signs"):
        refusal = await refused(engine(dvids, key=key), take(prompt={"scene": LIGHTHOUSE}))
        assert refusal.error_class is ErrorClass.AUTH
        said += [str(refusal), repr(refusal), repr(refusal.__cause__), repr(refusal.__context__)]
    dvids.fault(Fault.DROP_BEFORE)
    refusal = await refused(engine(dvids), take(prompt={"scene": LIGHTHOUSE}))
    said += [str(refusal), repr(refusal.__context__)]
    job, result = await film(engine(dvids), take(prompt={"scene": LIGHTHOUSE}))
    assert isinstance(result.file, Download)
    said += [job, repr(result), result.model_dump_json(), result.file.url, repr(engine(dvids).hosting)]
    told = "\n".join([*said, caplog.text])
    for secret in (KEY, "key-wr0ng", "key/with", "key%2Fwith"):
        assert secret not in told


# The other verbs


async def test_it_costs_nothing_and_says_why(stock: Stock, take: TakeRequests) -> None:
    quote = stock.quote(take())
    assert (quote.cost_usd, quote.basis) == (Decimal(0), "public domain")


async def test_nothing_is_lost_and_nothing_runs(dvids: FakeStock, stock: Stock, take: TakeRequests) -> None:
    assert await stock.find(take(), order()) is Whereabouts.NOT_THERE
    await stock.cancel(ExternalId("video:1000@640x360"))
    assert dvids.seen == []


async def test_searches_of_one_start_keep_their_distance(dvids: FakeStock, take: TakeRequests) -> None:
    await engine(dvids, start_delay_ms=60).submit(take(prompt={"scene": "A lighthouse and a zeppelin"}), order())
    first, second = (seen.at for seen in dvids.seen if seen.path == "/search")
    assert second - first >= 0.06


def test_limits_come_from_the_account(dvids: FakeStock) -> None:
    account = StockAccount(base_url=dvids.base, api_key=SecretStr(KEY), max_concurrency=3, start_delay_ms=250)
    hosting = Stock(account).hosting
    assert (hosting.max_concurrency, hosting.start_delay) == (3, timedelta(milliseconds=250))
    assert KEY not in hosting.account
