"""The chat screenwriter against a small Groq over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from syrupy.assertion import SnapshotAssertion

from moltpipe.engines import brief
from moltpipe.engines.chat import AnswerFormat, Chat, content_text, payload, retry_after_s
from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.protocols import EpisodeRequest, ExternalId, Order, Whereabouts, Written
from moltpipe.engines.wire import Reply
from moltpipe.settings import ChatAccount
from moltpipe.studio.screenplay import EpisodeScript
from moltpipe_tests.engines.conftest import PILOT, episode_request
from moltpipe_tests.engines.orders import order
from moltpipe_tests.fakes.chat import FakeChat
from moltpipe_tests.fakes.server import Answer, Fault, Seen, serving

KEY = "gsk-5ecretchat"
REQUEST = episode_request(PILOT, 3)
ONE_ROUND = Decimal("0.00165")
"""3000 tokens at $0.15 and 2000 at $0.60 a million."""

Engines = Callable[..., Chat]


@pytest.fixture
def groq() -> Iterator[FakeChat]:
    provider = FakeChat(latency_s=0)
    with serving(provider):
        yield provider


@pytest.fixture
def engine(tmp_path: Path) -> Engines:
    """Engines that share one folder for their answers, as those of one machine do."""

    def make(provider: FakeChat, *, timeout_s: float = 5, **other: Any) -> Chat:  # noqa: ANN401 - of the account
        account = ChatAccount(base_url=f"{provider.base}/v1", api_key=SecretStr(KEY), **other)
        return Chat(account, answers=tmp_path / "answers", timeout_s=timeout_s)

    return make


async def written(chat: Chat, ordered: Order | None = None, request: EpisodeRequest = REQUEST) -> Written:
    result = await chat.poll(await chat.submit(request, ordered or order()))
    assert isinstance(result, Written)
    return result


async def failure(chat: Chat, ordered: Order | None = None, request: EpisodeRequest = REQUEST) -> EngineError:
    with pytest.raises(EngineError) as raised:
        await chat.submit(request, ordered or order())
    assert KEY not in str(raised.value)
    return raised.value


def rounds_seen(provider: FakeChat) -> list[int]:
    """Messages of each request: two in a first round, more in a repair."""
    return [len(seen.json()["messages"]) for seen in provider.seen]


class Troubled(FakeChat):
    """Spoils the first draft, and has a fault ready for the first repair."""

    def __init__(self, trouble: Fault, code: str = "unknown_anchor") -> None:
        super().__init__(latency_s=0)
        self.trouble: Fault | None = trouble
        self.fault(Fault.JOB_FAILS, code=code)

    def handle(self, seen: Seen) -> Answer:
        if self.trouble is not None and len(seen.json()["messages"]) > 2:
            self.fault(self.trouble)
            self.trouble = None
        return super().handle(seen)


class Curt(FakeChat):
    """Answers everything with 200 and the same document."""

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__(latency_s=0)
        self.document = document

    def handle(self, seen: Seen) -> Answer:
        super().handle(seen)
        return Answer(200, self.document)


# A call that goes well ------------------------------------------------------------------------------------------------


async def test_an_episode_is_written_that_keeps_the_rules(groq: FakeChat, engine: Engines) -> None:
    result = await written(engine(groq))
    assert EpisodeScript.model_validate(result.script.model_dump()) == result.script
    assert result.script.episode_number == 3
    assert result.billed_usd == ONE_ROUND
    speakers = {shot.audio.dialogue.speaker for shot in result.script.shots if shot.audio.dialogue}
    assert speakers <= {"CHAR_MARA", "CHAR_TOMAS"}
    assert groq.billed == 1


async def test_the_request_is_the_one_that_was_agreed(
    groq: FakeChat, engine: Engines, snapshot: SnapshotAssertion
) -> None:
    await engine(groq).submit(REQUEST, order())
    (seen,) = groq.seen
    volatile = {"host", "content-length", "user-agent", "accept-encoding"}
    headers = {name: value for name, value in seen.headers.items() if name not in volatile}
    assert {"method": seen.method, "path": seen.path, "headers": headers, "body": seen.json()} == snapshot


@pytest.mark.parametrize("form", [AnswerFormat.OBJECT, AnswerFormat.TEXT])
def test_a_server_without_schemas_is_told_the_schema_in_words(form: AnswerFormat) -> None:
    body = payload(REQUEST, "m", form)
    assert '"edit_extend_strategy"' in body["messages"][0]["content"]
    assert body.get("response_format") == ({"type": "json_object"} if form is AnswerFormat.OBJECT else None)


@pytest.mark.parametrize("way", ["fenced", "parts", "object", "no_id"])
async def test_content_is_understood_in_every_form_that_servers_send(groq: FakeChat, engine: Engines, way: str) -> None:
    groq.fault(Fault.JOB_FAILS, code=way)
    assert (await written(engine(groq))).script.shots
    assert groq.billed == 1


@pytest.mark.parametrize(("formats", "asked"), [(("json_object",), 2), ((), 3)])
async def test_a_server_that_refuses_the_format_is_asked_in_a_plainer_one_and_bills_once(
    tmp_path: Path, formats: tuple[str, ...], asked: int
) -> None:
    provider = FakeChat(latency_s=0, formats=formats)
    with serving(provider):
        account = ChatAccount(base_url=f"{provider.base}/v1", api_key=SecretStr(KEY))
        await written(Chat(account, answers=tmp_path))
    assert (len(provider.seen), provider.billed) == (asked, 1)


async def test_the_departure_is_told_once_however_many_requests_leave(engine: Engines) -> None:
    provider = FakeChat(latency_s=0, formats=())
    departures: list[int] = []
    with serving(provider):
        provider.fault(Fault.JOB_FAILS, code="invalid_json")
        await engine(provider).submit(REQUEST, order(departed=lambda: departures.append(len(provider.seen))))
    assert len(departures) == 1
    assert len(provider.seen) == 4


async def test_a_kept_answer_outlives_the_process(groq: FakeChat, engine: Engines) -> None:
    ordered = order()
    job = await engine(groq).submit(REQUEST, ordered)
    another = engine(groq)
    assert await another.find(REQUEST, ordered) == job
    assert await another.find(REQUEST, order()) is Whereabouts.UNKNOWN
    result = await another.poll(job)
    assert isinstance(result, Written)
    assert len(groq.seen) == 1


async def test_a_cancelled_answer_is_forgotten(groq: FakeChat, engine: Engines) -> None:
    chat = engine(groq)
    job = await chat.submit(REQUEST, order())
    await chat.cancel(job)
    with pytest.raises(EngineError) as raised:
        await chat.poll(job)
    assert raised.value.error_class is ErrorClass.EXPIRED


async def test_two_servers_may_number_their_answers_alike(engine: Engines) -> None:
    jobs: list[ExternalId] = []
    for _ in range(2):
        provider = FakeChat(latency_s=0)
        with serving(provider):
            jobs.append(await engine(provider).submit(REQUEST, order()))
    assert jobs[0] != jobs[1]


# The repair -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "complaint"),
    [
        ("invalid_json", "the text must be JSON"),
        ("unknown_anchor", "shots[2].prompt.scene: names LOC_NOWHERE"),
        ("unknown_speaker", "shots[1].audio.dialogue.speaker: must be one of CHAR_MARA"),
        ("too_few_shots", "shots: must be at least 6 shots, there are 5"),
        ("too_long_line", "shots[1].audio.description: cannot be said in 6 seconds"),
        ("json_validate_failed", "the text must be JSON"),
    ],
)
async def test_a_bad_draft_is_sent_back_once_with_its_faults(
    groq: FakeChat, engine: Engines, way: str, complaint: str
) -> None:
    groq.fault(Fault.JOB_FAILS, code=way)
    result = await written(engine(groq))
    assert result.billed_usd == (None if way == "json_validate_failed" else 2 * ONE_ROUND)
    assert rounds_seen(groq) == [2, 4]
    assert complaint in groq.seen[1].json()["messages"][3]["content"]
    assert not groq.billed_twice


async def test_a_draft_that_stays_bad_fails_with_its_faults_and_the_cost_of_both_rounds(
    groq: FakeChat, engine: Engines
) -> None:
    groq.fault(Fault.JOB_FAILS, code="unknown_anchor", times=2)
    ordered = order()
    error = await failure(engine(groq), ordered)
    assert error.error_class is ErrorClass.PROVIDER_FAULT
    assert error.job == f"{ordered.call_id}:chatcmpl-2"
    assert error.cost_usd == 2 * ONE_ROUND
    assert "LOC_NOWHERE" in error.message
    assert len(groq.seen) == 2
    await written(engine(groq))
    assert rounds_seen(groq) == [2, 4, 2], "a new call takes up no draft that was given up"


async def test_a_draft_that_stays_no_json_of_the_schema_names_its_job_although_groq_does_not(
    groq: FakeChat, engine: Engines
) -> None:
    groq.fault(Fault.JOB_FAILS, code="json_validate_failed", times=2)
    ordered = order()
    error = await failure(engine(groq), ordered)
    assert (error.error_class, error.cost_usd) == (ErrorClass.PROVIDER_FAULT, None)
    assert error.job is not None
    assert re.fullmatch(f"{ordered.call_id}:[0-9a-f]+", error.job)


async def test_a_repair_that_is_refused_for_good_names_the_draft_and_its_cost(engine: Engines) -> None:
    provider, ordered = Troubled(Fault.INVALID), order()
    with serving(provider):
        error = await failure(engine(provider), ordered)
    assert error.error_class is ErrorClass.INVALID_INPUT
    assert (error.job, error.cost_usd) == (f"{ordered.call_id}:chatcmpl-1", ONE_ROUND)


@pytest.mark.parametrize("way", ["length", "refusal", "no_choices"])
async def test_a_repair_that_is_cut_off_or_withheld_names_its_own_answer_and_the_cost_of_both_rounds(
    groq: FakeChat, engine: Engines, way: str
) -> None:
    groq.fault(Fault.JOB_FAILS, code="unknown_anchor")
    groq.fault(Fault.JOB_FAILS, code=way)
    ordered = order()
    error = await failure(engine(groq), ordered)
    assert (error.job, error.cost_usd) == (f"{ordered.call_id}:chatcmpl-2", 2 * ONE_ROUND)


@pytest.mark.parametrize(
    "trouble",
    [Fault.THROTTLED, Fault.UNAVAILABLE, Fault.UNAUTHORIZED, Fault.NO_CREDIT, Fault.ERROR_500, Fault.DROP_AFTER],
)
async def test_a_repair_that_may_still_be_had_names_no_job_as_the_draft_is_kept(
    engine: Engines, trouble: Fault
) -> None:
    provider = Troubled(trouble)
    with serving(provider):
        assert (await failure(engine(provider))).job is None
        await written(engine(provider))
    assert rounds_seen(provider) == [2, 4, 4]


@pytest.mark.parametrize("trouble", [Fault.THROTTLED, Fault.UNAVAILABLE])
async def test_a_repair_that_was_not_accepted_is_asked_for_again_without_a_second_first_draft(
    engine: Engines, trouble: Fault
) -> None:
    provider, ordered = Troubled(trouble), order()
    with serving(provider):
        error = await failure(engine(provider), ordered)
        assert error.error_class in (ErrorClass.THROTTLED, ErrorClass.RETRY_SAFE)
        result = await written(engine(provider), ordered)
    assert rounds_seen(provider) == [2, 4, 4]
    assert (provider.billed, result.billed_usd) == (2, 2 * ONE_ROUND)


async def test_a_repair_whose_answer_is_lost_is_ambiguous_and_the_draft_is_no_answer(engine: Engines) -> None:
    provider, ordered = Troubled(Fault.DROP_AFTER), order()
    with serving(provider):
        assert (await failure(engine(provider), ordered)).error_class is ErrorClass.AMBIGUOUS
        assert await engine(provider).find(REQUEST, ordered) is Whereabouts.UNKNOWN
        await written(engine(provider), order())
    assert rounds_seen(provider) == [2, 4, 4], "a person who sends it again pays for the repair alone"


async def test_a_process_that_dies_while_it_waits_for_the_repair_leaves_the_draft(engine: Engines) -> None:
    provider = Troubled(Fault.HANG_AFTER)
    with serving(provider):
        dying = asyncio.create_task(engine(provider, timeout_s=60).submit(REQUEST, order()))
        await asyncio.to_thread(provider.hanging.acquire)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        await written(engine(provider))
    assert rounds_seen(provider) == [2, 4, 4]


async def test_after_a_success_the_same_request_is_written_anew(groq: FakeChat, engine: Engines) -> None:
    groq.fault(Fault.JOB_FAILS, code="too_few_shots")
    await written(engine(groq))
    await written(engine(groq))
    assert rounds_seen(groq) == [2, 4, 2]


# A call that goes badly -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error_class", "billed"),
    [
        (Fault.DROP_BEFORE, ErrorClass.AMBIGUOUS, 0),
        (Fault.DROP_AFTER, ErrorClass.AMBIGUOUS, 1),
        (Fault.ERROR_500, ErrorClass.AMBIGUOUS, 0),
        (Fault.ERROR_502, ErrorClass.AMBIGUOUS, 1),
        (Fault.UNAVAILABLE, ErrorClass.RETRY_SAFE, 0),
        (Fault.UNAUTHORIZED, ErrorClass.AUTH, 0),
        (Fault.NO_CREDIT, ErrorClass.QUOTA, 0),
        (Fault.THROTTLED, ErrorClass.THROTTLED, 0),
        (Fault.INVALID, ErrorClass.INVALID_INPUT, 0),
        (Fault.FILTERED, ErrorClass.FILTERED, 1),
    ],
)
async def test_every_failure_has_its_class(
    groq: FakeChat, engine: Engines, fault: Fault, error_class: ErrorClass, billed: int
) -> None:
    groq.fault(fault)
    error = await failure(engine(groq))
    assert error.error_class is error_class
    assert (error.job is not None) == (fault is Fault.FILTERED), "only a request that was answered has a job"
    assert (groq.billed, len(groq.seen)) == (billed, 1)


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        (Fault.UNAUTHORIZED, ErrorClass.AUTH),
        (Fault.NO_CREDIT, ErrorClass.QUOTA),
        (Fault.FILTERED, ErrorClass.FILTERED),
        (Fault.THROTTLED, ErrorClass.THROTTLED),
    ],
)
async def test_the_words_of_xai_are_understood(engine: Engines, fault: Fault, error_class: ErrorClass) -> None:
    provider = FakeChat(latency_s=0, xai=True)
    with serving(provider):
        provider.fault(fault)
        assert (await failure(engine(provider))).error_class is error_class


@pytest.mark.parametrize(
    ("way", "error_class"),
    [
        ("length", ErrorClass.PROVIDER_FAULT),
        ("refusal", ErrorClass.FILTERED),
        ("no_choices", ErrorClass.PROVIDER_FAULT),
    ],
)
async def test_an_answer_that_is_cut_off_or_withheld_is_not_sent_back_and_names_its_job_and_cost(
    groq: FakeChat, engine: Engines, way: str, error_class: ErrorClass
) -> None:
    groq.fault(Fault.JOB_FAILS, code=way)
    ordered = order()
    error = await failure(engine(groq), ordered)
    assert (error.error_class, len(groq.seen)) == (error_class, 1)
    assert (error.job, error.cost_usd) == (f"{ordered.call_id}:chatcmpl-1", ONE_ROUND)


@pytest.mark.parametrize("document", [{"choices": []}, {"error": {"message": "upstream failed"}}])
async def test_an_answer_with_neither_choices_nor_an_id_is_ambiguous(engine: Engines, document: dict[str, Any]) -> None:
    provider = Curt(document)
    with serving(provider):
        error = await failure(engine(provider))
    assert (error.error_class, error.job) == (ErrorClass.AMBIGUOUS, None)


async def test_a_message_that_is_no_object_is_a_bad_draft(engine: Engines) -> None:
    provider = Curt({"id": "1", "choices": [{"message": "Once upon a time"}]})
    ordered = order()
    with serving(provider):
        error = await failure(engine(provider), ordered)
    assert (error.error_class, error.job) == (ErrorClass.PROVIDER_FAULT, f"{ordered.call_id}:1")


async def test_a_request_without_an_answer_in_time_is_ambiguous(groq: FakeChat, engine: Engines) -> None:
    groq.fault(Fault.HANG_AFTER)
    error = await failure(engine(groq, timeout_s=0.3))
    assert error.error_class is ErrorClass.AMBIGUOUS
    assert groq.billed == 1


async def test_a_server_that_is_not_there_got_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        account = ChatAccount(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}", api_key=SecretStr(KEY))
        assert (await failure(Chat(account, answers=tmp_path))).error_class is ErrorClass.RETRY_SAFE


async def test_the_longest_hint_of_a_throttled_request_is_told(groq: FakeChat, engine: Engines) -> None:
    groq.fault(Fault.THROTTLED)
    assert (await failure(engine(groq))).retry_after_s == pytest.approx(98.016)
    groq.fault(Fault.THROTTLED, retry_after=7)
    assert (await failure(engine(groq))).retry_after_s == 7


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "2"}, "", 2),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m59.56s"}, "", 179.56),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-tokens": "12ms"}, "", 0.012),
        ({}, "Please try again in 9m38.016s. Need more?", 578.016),
        ({}, "Slow down.", None),
    ],
)
def test_hints_are_read_wherever_they_stand(headers: dict[str, str], body: str, seconds: float | None) -> None:
    reply = Reply(429, headers, json.dumps({"error": {"message": body}}).encode())
    assert retry_after_s(reply) == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("number", [1, 6])
async def test_the_pilot_is_nobodys_to_write(groq: FakeChat, engine: Engines, number: int) -> None:
    error = await failure(engine(groq), request=episode_request(PILOT, number))
    assert (error.error_class, groq.seen) == (ErrorClass.INVALID_INPUT, [])


# Money ----------------------------------------------------------------------------------------------------------------


def test_a_quote_is_reckoned_from_the_very_request(tmp_path: Path) -> None:
    chat = Chat(ChatAccount(api_key=SecretStr(KEY)), answers=tmp_path)
    quote = chat.quote(REQUEST)
    assert quote.cost_usd is not None
    assert Decimal("0.0024") < quote.cost_usd < Decimal("0.005")
    longer = REQUEST.model_copy(update={"logline": "A very long logline. " * 2000})
    dearer = chat.quote(longer).cost_usd
    assert dearer is not None
    assert dearer - quote.cost_usd == pytest.approx(Decimal(42_000 / 4 * 0.15 / 10**6), abs=Decimal("0.00001"))


def test_a_model_without_a_price_has_an_unknown_cost_unless_one_is_set(tmp_path: Path) -> None:
    assert Chat(ChatAccount(model="own"), answers=tmp_path).quote(REQUEST).cost_usd is None
    assert Chat(ChatAccount(model="own", price_usd=Decimal(0)), answers=tmp_path).quote(REQUEST).cost_usd == 0


# The brief, and the judgement ----------------------------------------------------------------------------------------


def _draft(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - of a shot
    shot: dict[str, Any] = {
        "prompt": {"camera": "static", "scene": "CHAR_MARA at LOC_LIGHTHOUSE.", "details": "", "motion": "static"},
        "audio": {"type": "narration", "description": "It rains.", "dialogue": None},
        "gen_clip_seconds": 5,
        "duration_seconds": 6,
        "edit_extend_strategy": "hold_last_frame",
    }
    return {"title": "Low water", "shots": [shot | changes] + [shot] * 5}


def _said(kind: str, speaker: str, line: str) -> dict[str, Any]:
    return {"type": kind, "description": "", "dialogue": {"speaker": speaker, "line": line}}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"audio": _said("dialogue", "CHAR_NOBODY", "Hello.")}, "shots[0].audio.dialogue.speaker"),
        ({"audio": _said("dialogue", "the wind", "Hello.")}, "shots[0].audio.dialogue.speaker"),
        ({"audio": _said("ambient", "CHAR_MARA", "Hello.")}, "shots[0].audio.dialogue"),
        ({"audio": _said("dialogue", "CHAR_MARA", "Hello there. " * 20)}, "shots[0].audio.dialogue.line"),
        ({"audio": {"type": "dialogue", "description": "Mara.", "dialogue": None}}, "shots[0].audio.dialogue"),
        ({"audio": {"type": "narration", "description": "", "dialogue": None}}, "shots[0].audio"),
        ({"duration_seconds": 4}, "shots[0].duration_seconds"),
        ({"duration_seconds": "6"}, "shots[0].duration_seconds"),
        ({"gen_clip_seconds": 2}, "shots[0].gen_clip_seconds"),
        ({"edit_extend_strategy": "stretch"}, "shots[0].edit_extend_strategy"),
        ({"transition": "wipe"}, "shots[0].transition"),
        ({"prompt": None}, "shots[0].prompt"),
    ],
)
def test_a_draft_must_keep_the_rules(changes: dict[str, Any], path: str) -> None:
    verdict = brief.judged(REQUEST, json.dumps(_draft(**changes)))
    assert verdict.script is None
    assert [one.partition(": ")[0] for one in verdict.complaints] == [path]


@pytest.mark.parametrize("content", ["", "I cannot.", "[1, 2]", '{"title": "x"}', '{"shots": 3, "title": null}'])
def test_an_answer_that_is_no_episode_gets_complaints(content: str) -> None:
    verdict = brief.judged(REQUEST, content)
    assert verdict.script is None
    assert verdict.complaints


def test_what_nobody_asked_for_is_left_out() -> None:
    invented = {"type": "narration", "description": "It rains.", "dialogue": None, "voice_id": "v_123"}
    verdict = brief.judged(REQUEST, json.dumps(_draft(audio=invented, engine="veo")))
    assert verdict.script is not None
    assert verdict.script.shots[0].audio.voice_id is None
    assert verdict.script.shots[0].engine is None


def test_a_series_without_characters_has_a_narrator() -> None:
    bible = REQUEST.bible.model_copy(update={"character_anchors": ()})
    schema = json.dumps(brief.episode_schema(bible))
    assert '"enum": ["NARRATOR"]' in schema


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_every_episode_is_told_its_place_in_the_arc(number: int) -> None:
    told = brief.messages(episode_request(PILOT, number), with_schema=False)[1]["content"]
    assert f"Write episode {number} of 5." in told
    assert "Mara finds a dry letter in the surf" in told
    assert "Mara has exactly one eye" in told


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        ([{"type": "text", "text": "a"}, "b"], "ab"),
        ({"text": "a"}, "a"),
        ({"json": {"title": "a"}}, '{"title": "a"}'),
        ({"title": "a"}, '{"title": "a"}'),
        (None, ""),
    ],
)
def test_content_becomes_text(content: object, text: str) -> None:
    assert content_text(content) == text
