"""The voice `openai` against a small Kokoro-FastAPI and a small OpenAI over HTTP."""

from __future__ import annotations

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
from moltpipe.engines.openai import Openai, captioned_payload, heard, payload, voice_of
from moltpipe.engines.protocols import ExternalId, LineRequest, Order, Recorded, Voice, Whereabouts
from moltpipe.media.probe import probe
from moltpipe.settings import OpenaiAccount
from moltpipe.studio.screenplay import NARRATOR
from moltpipe_tests.engines.orders import order
from moltpipe_tests.fakes.media import speech_seconds
from moltpipe_tests.fakes.openai import VOICES, FakeOpenai, spoken_tokens
from moltpipe_tests.fakes.server import Answer, Fault, Seen, serving

KEY = "key-5ecretoa"
TEXT = "Pay $100, Mara!"
LINE = LineRequest(text=TEXT, speaker=NARRATOR)
MARA = LineRequest(text="Who wrote this?", speaker="CHAR_MARA", voice_style="calm, old, female")

Engines = Callable[..., Openai]


@pytest.fixture
def kokoro() -> Iterator[FakeOpenai]:
    provider = FakeOpenai(latency_s=0)
    with serving(provider):
        yield provider


@pytest.fixture
def openai() -> Iterator[FakeOpenai]:
    provider = FakeOpenai(latency_s=0, captions=False)
    with serving(provider):
        yield provider


@pytest.fixture
def engine(tmp_path: Path) -> Engines:
    """Engines that share one folder for their answers, as those of one machine do."""

    def make(
        at: FakeOpenai,
        *,
        key: str | None = None,
        timeout_s: float = 5,
        **other: Any,  # noqa: ANN401 - of the account
    ) -> Openai:
        own = None if at.captions else KEY
        used = own if key is None else key
        account = OpenaiAccount(base_url=f"{at.base}/v1", api_key=SecretStr(used) if used else None, **other)
        return Openai(account, answers=tmp_path / "answers", workdir=tmp_path / "work", timeout_s=timeout_s)

    return make


async def spoken(voice: Voice, request: LineRequest = LINE, ordered: Order | None = None) -> Recorded:
    result = await voice.poll(await voice.submit(request, ordered or order()))
    assert isinstance(result, Recorded)
    return result


async def failure(voice: Voice, request: LineRequest = LINE, ordered: Order | None = None) -> EngineError:
    with pytest.raises(EngineError) as raised:
        await voice.submit(request, ordered or order())
    assert KEY not in str(raised.value)
    return raised.value


def asked(provider: FakeOpenai) -> list[str]:
    return [f"{seen.method} {seen.path}" for seen in provider.seen]


# A line that goes well ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("captions", [True, False])
async def test_a_line_becomes_a_recording_with_a_time_for_each_word(engine: Engines, *, captions: bool) -> None:
    provider = FakeOpenai(latency_s=0, captions=captions)
    with serving(provider):
        result = await spoken(engine(provider))
    sound = probe(result.local).audio
    assert sound is not None
    assert sound.duration_seconds == pytest.approx(speech_seconds(TEXT), abs=0.1)
    assert [word.text for word in result.words] == ["Pay", "$100,", "Mara!"]
    assert result.words[0].start == 0
    assert 0 < result.words[1].start < result.words[2].start
    assert result.words[-1].end == pytest.approx(speech_seconds(TEXT), abs=0.3)
    assert provider.billed == 1


async def test_kokoro_tells_when_each_word_is_spoken(kokoro: FakeOpenai, engine: Engines) -> None:
    result = await spoken(engine(kokoro))
    share = speech_seconds(TEXT) / len(spoken_tokens(TEXT))
    assert [word.text for word in result.words] == ["Pay", "$100,", "Mara!"]
    # The fake reads `100 dollars , Mara`: of the sum only the number stands in the text.
    assert [word.start for word in result.words] == pytest.approx([0, share, 4 * share], abs=0.002)
    assert [word.end for word in result.words] == pytest.approx([share, 2 * share, 5 * share], abs=0.002)


async def test_null_timestamps_mean_words_spread_over_the_sound(engine: Engines) -> None:
    provider = FakeOpenai(latency_s=0, timestamps=False)
    with serving(provider):
        result = await spoken(engine(provider))
    assert [word.text for word in result.words] == ["Pay", "$100,", "Mara!"]
    assert result.words[-1].end == pytest.approx(speech_seconds(TEXT), abs=0.01)


async def test_the_requests_are_the_ones_that_were_agreed(
    kokoro: FakeOpenai, openai: FakeOpenai, engine: Engines, snapshot: SnapshotAssertion
) -> None:
    await engine(kokoro, voice="af_heart").submit(MARA, order())
    await engine(openai, model="tts-1").submit(LINE, order())
    assert {"kokoro": [_shown(seen) for seen in kokoro.seen], "openai": [_shown(seen) for seen in openai.seen]} == (
        snapshot
    )


def _shown(seen: Seen) -> dict[str, Any]:
    volatile = {"host", "content-length", "user-agent", "accept-encoding"}
    headers = {name: value for name, value in sorted(seen.headers.items()) if name not in volatile}
    body = json.loads(seen.body) if seen.body else None
    return {"method": seen.method, "path": seen.path, "headers": headers, "body": body}


def test_only_models_that_take_instructions_get_the_style() -> None:
    told = payload(OpenaiAccount(model="gpt-4o-mini-tts"), MARA, "nova")
    assert told["instructions"] == "Speak as this character: calm, old, female."
    assert "instructions" not in payload(OpenaiAccount(model="tts-1"), MARA, "nova")
    assert "instructions" not in payload(OpenaiAccount(model="gpt-4o-mini-tts"), LINE, "nova")


def test_kokoro_is_told_not_to_stream_and_openai_is_told_nothing_that_it_does_not_know() -> None:
    account = OpenaiAccount()
    assert captioned_payload(account, LINE, "af_sky")["stream"] is False
    assert set(payload(account, LINE, "alloy")) == {"model", "input", "voice", "response_format"}
    assert payload(OpenaiAccount(base_url="http://speech.example:8880/v1"), LINE, "alloy")["stream"] is False


async def test_captions_are_tried_once_and_the_line_is_billed_once(openai: FakeOpenai, engine: Engines) -> None:
    voice = engine(openai)
    await spoken(voice)
    await spoken(voice, LineRequest(text="Another one.", speaker=NARRATOR))
    assert asked(openai) == ["POST /dev/captioned_speech", "POST /v1/audio/speech", "POST /v1/audio/speech"]
    assert openai.billed == 2


async def test_the_departure_is_told_once_however_many_requests_leave(openai: FakeOpenai, engine: Engines) -> None:
    departures: list[int] = []
    await engine(openai).submit(LINE, order(departed=lambda: departures.append(1)))
    assert departures == [1]


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_to_hear_of_streams_is_asked_without_and_never_told_again(
    engine: Engines, status: int
) -> None:
    provider, departures = FakeOpenai(latency_s=0, captions=False, strict=status), []
    with serving(provider):
        voice = engine(provider)
        await spoken(voice, LINE, order(departed=lambda: departures.append(1)))
        await spoken(voice, LineRequest(text="Another one.", speaker=NARRATOR))
    sent = [seen.json() for seen in provider.seen if seen.path == "/v1/audio/speech"]
    assert ["stream" in body for body in sent] == [True, False, False]
    assert sent[1] == {name: value for name, value in sent[0].items() if name != "stream"}
    assert departures == [1]
    assert provider.billed == 2


@pytest.mark.parametrize("fault", [Fault.DROP_AFTER, Fault.ERROR_502])
async def test_an_answer_lost_after_the_field_was_refused_is_ambiguous(engine: Engines, fault: Fault) -> None:
    provider = FakeOpenai(latency_s=0, captions=False, strict=400)
    provider.fault(fault)
    with serving(provider):
        assert (await failure(engine(provider))).error_class is ErrorClass.AMBIGUOUS
    assert provider.billed == 1


async def test_a_refusal_for_another_reason_is_sent_once(openai: FakeOpenai, engine: Engines) -> None:
    openai.fault(Fault.INVALID)
    assert (await failure(engine(openai))).error_class is ErrorClass.INVALID_INPUT
    assert asked(openai) == ["POST /dev/captioned_speech", "POST /v1/audio/speech"]


@pytest.mark.parametrize(
    ("word", "meant", "streams"),
    [
        ("stream quoted with the rest", ErrorClass.INVALID_INPUT, [True, False, True]),
        ("content_policy_violation", ErrorClass.FILTERED, [True, True]),
    ],
)
async def test_a_refusal_that_only_quotes_the_field_changes_nothing_for_the_next_line(
    engine: Engines, word: str, meant: ErrorClass, streams: list[bool]
) -> None:
    class Quoting(FakeOpenai):
        """Quotes the line that it refuses."""

        refuses = True

        def handle(self, seen: Seen) -> Answer:
            if self.refuses and seen.path == "/v1/audio/speech":
                error = {"message": f"refused: {seen.json()['input']}", "type": "invalid_request_error", "code": word}
                return Answer(400, {"error": error})
            return super().handle(seen)

    provider = Quoting(latency_s=0, captions=False)
    with serving(provider):
        voice = engine(provider)
        error = await failure(voice, LineRequest(text="The stream is dry.", speaker=NARRATOR))
        provider.refuses = False
        await voice.submit(LINE, order())
    assert error.error_class is meant
    assert ["stream" in seen.json() for seen in provider.seen if seen.path == "/v1/audio/speech"] == streams
    assert provider.billed == 1


async def test_a_server_of_ones_own_is_sent_no_authorization(kokoro: FakeOpenai, engine: Engines) -> None:
    await engine(kokoro).submit(MARA, order())
    assert not any("authorization" in seen.headers for seen in kokoro.seen)


async def test_the_answer_outlives_the_process(kokoro: FakeOpenai, engine: Engines) -> None:
    job = await engine(kokoro).submit(LINE, order())
    before = len(kokoro.seen)
    assert isinstance(await engine(kokoro).poll(job), Recorded)
    assert len(kokoro.seen) == before


@pytest.mark.parametrize("captions", [True, False])
async def test_two_calls_with_the_same_words_are_two_jobs(engine: Engines, *, captions: bool) -> None:
    provider = FakeOpenai(latency_s=0, captions=captions)
    with serving(provider):
        voice = engine(provider)
        assert len({await voice.submit(LINE, order()) for _ in range(2)}) == 2


async def test_a_bare_address_means_the_usual_path(tmp_path: Path) -> None:
    voice = Openai(OpenaiAccount(base_url="http://127.0.0.1:1"), answers=tmp_path, workdir=tmp_path)
    assert voice.hosting is not None
    assert voice.hosting.base_url == "http://127.0.0.1:1/v1"
    assert voice.hosting.holds_request


# Who speaks -----------------------------------------------------------------------------------------------------------


def _voice(listed: tuple[str, ...] = (), *, narrator: str = "alloy", **request: Any) -> str:  # noqa: ANN401 - its own
    return voice_of(
        OpenaiAccount(voice=narrator), LineRequest(**{"text": TEXT, "speaker": NARRATOR, **request}), listed
    )


@pytest.mark.parametrize(
    ("voice_id", "listed", "chosen"),
    [
        ("bf_emma", VOICES, "bf_emma"),
        ("af_bella(2)+af_sky(1)", VOICES, "af_bella(2)+af_sky(1)"),
        ("nova", VOICES, "nova"),
        ("EXAVITQu4vr4xnSDxMaL", VOICES, "alloy"),
        ("not-there", VOICES, "alloy"),
        ("voice_1234", (), "voice_1234"),
        ("EXAVITQu4vr4xnSDxMaL", (), "alloy"),
        ("en-gb+f2", (), "alloy"),
    ],
)
def test_a_voice_that_the_server_can_have_goes_first(voice_id: str, listed: tuple[str, ...], chosen: str) -> None:
    assert _voice(listed, voice_id=voice_id) == chosen


def test_the_narrator_has_the_voice_of_the_settings() -> None:
    assert _voice(VOICES, narrator="bm_george") == "bm_george"


def test_characters_are_cast_among_the_servers_voices_of_the_narrators_language() -> None:
    cast = {_voice(VOICES, narrator="af_heart", speaker=f"CHAR_{number}") for number in range(60)}
    assert cast == set(VOICES) - {"af_heart", "jf_alpha", "am_v0adam"}
    women = {_voice(VOICES, speaker=f"CHAR_{number}", voice_style="female") for number in range(30)}
    assert women == {"af_bella", "af_heart", "af_sky", "bf_emma"}
    assert _voice(("jf_alpha", "jm_kumo", "af_sky"), narrator="jf_alpha", speaker="CHAR_MARA") == "jm_kumo"


def test_names_that_tell_nothing_are_all_cast() -> None:
    assert {_voice(("Anna", "Ben"), narrator="Anna", speaker=f"CHAR_{number}") for number in range(9)} == {"Ben"}


def test_where_nothing_is_listed_openais_own_are_cast_and_else_nobody() -> None:
    cast = {_voice(speaker=f"CHAR_{number}") for number in range(40)}
    assert cast == {"echo", "fable", "nova", "onyx", "shimmer"}
    assert _voice(narrator="my-own-voice", speaker="CHAR_MARA") == "my-own-voice"


async def test_the_voices_are_asked_for_once_and_only_for_characters(kokoro: FakeOpenai, engine: Engines) -> None:
    voice = engine(kokoro)
    await voice.submit(LINE, order())
    assert "GET /v1/audio/voices" not in asked(kokoro)
    for _ in range(2):
        await voice.submit(MARA, order())
    assert asked(kokoro).count("GET /v1/audio/voices") == 1
    assert kokoro.seen[-1].json()["voice"] in {"af_bella", "af_heart", "af_sky", "bf_emma"}


async def test_a_look_at_the_voices_that_failed_gives_nobody_another_voice(kokoro: FakeOpenai, engine: Engines) -> None:
    kokoro.fault(Fault.POLL_FAILS)
    voice = engine(kokoro)
    assert (await failure(voice, MARA)).error_class is ErrorClass.RETRY_SAFE
    assert kokoro.billed == 0
    await voice.submit(MARA, order())
    assert kokoro.billed == 1


# What it costs --------------------------------------------------------------------------------------------------------


def test_a_quote_counts_the_characters_that_are_sent(openai: FakeOpenai, engine: Engines) -> None:
    quote = engine(openai).quote(LINE)
    assert quote.cost_usd == Decimal("0.000225")
    assert quote.basis.startswith("0.015 thousand characters at $0.015")
    assert engine(openai, model="kokoro").quote(LINE).cost_usd == 0
    assert engine(openai, model="gpt-4o-mini-tts").quote(LINE).cost_usd is None
    assert engine(openai, model="mine", price_usd=Decimal("0.1")).quote(LINE).cost_usd == Decimal("0.0015")


# Refusals and lost answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "meant"),
    [
        (Fault.UNAUTHORIZED, ErrorClass.AUTH),
        (Fault.NO_CREDIT, ErrorClass.QUOTA),
        (Fault.INVALID, ErrorClass.INVALID_INPUT),
        (Fault.FILTERED, ErrorClass.FILTERED),
        (Fault.ERROR_500, ErrorClass.AMBIGUOUS),
        (Fault.UNAVAILABLE, ErrorClass.RETRY_SAFE),
        (Fault.THROTTLED, ErrorClass.THROTTLED),
    ],
)
async def test_each_refusal_means_what_openai_says(
    openai: FakeOpenai, engine: Engines, fault: Fault, meant: ErrorClass
) -> None:
    openai.fault(fault)
    assert (await failure(engine(openai))).error_class is meant
    assert openai.billed == 0


@pytest.mark.parametrize(
    ("fault", "meant"),
    [
        (Fault.INVALID, ErrorClass.INVALID_INPUT),
        (Fault.ERROR_500, ErrorClass.AMBIGUOUS),
        (Fault.THROTTLED, ErrorClass.THROTTLED),
    ],
)
async def test_each_refusal_means_what_kokoro_says(
    kokoro: FakeOpenai, engine: Engines, fault: Fault, meant: ErrorClass
) -> None:
    kokoro.fault(fault)
    assert (await failure(engine(kokoro))).error_class is meant
    assert asked(kokoro) == ["POST /dev/captioned_speech"], "nothing was tried a second time"


async def test_a_missing_key_is_a_matter_of_the_key(openai: FakeOpenai, engine: Engines) -> None:
    assert (await failure(engine(openai, key=""))).error_class is ErrorClass.AUTH


async def test_a_voice_that_openai_does_not_have_is_wrong_input(openai: FakeOpenai, engine: Engines) -> None:
    assert (await failure(engine(openai, voice="nobody"))).error_class is ErrorClass.INVALID_INPUT


async def test_nothing_to_say_never_leaves(kokoro: FakeOpenai, engine: Engines) -> None:
    error = await failure(engine(kokoro), LineRequest(text=" ", speaker=NARRATOR))
    assert error.error_class is ErrorClass.INVALID_INPUT
    assert not kokoro.seen


@pytest.mark.parametrize(
    ("limits", "hint", "pause"),
    [
        ({}, 7, 7),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "20ms"}, None, 360),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1.5s",
                "x-ratelimit-remaining-tokens": "100",
                "x-ratelimit-reset-tokens": "1h2m",
            },
            None,
            1.5,
        ),
        ({"x-ratelimit-reset-requests": "1s"}, 3, 3),
        ({}, None, None),
    ],
)
async def test_throttling_waits_as_long_as_the_headers_say(
    openai: FakeOpenai, engine: Engines, limits: dict[str, str], hint: float | None, pause: float | None
) -> None:
    openai.limits = limits
    openai.fault(Fault.THROTTLED, retry_after=hint)
    assert (await failure(engine(openai))).retry_after_s == pause


@pytest.mark.parametrize("captions", [True, False])
@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_502])
async def test_a_lost_answer_is_ambiguous_and_nothing_is_sent_again(
    engine: Engines, fault: Fault, *, captions: bool
) -> None:
    provider = FakeOpenai(latency_s=0, captions=captions)
    provider.fault(fault)
    with serving(provider):
        assert (await failure(engine(provider))).error_class is ErrorClass.AMBIGUOUS
    assert provider.billed == (0 if fault is Fault.DROP_BEFORE else 1)


async def test_an_answer_that_does_not_come_in_time_is_ambiguous(kokoro: FakeOpenai, engine: Engines) -> None:
    kokoro.fault(Fault.HANG_AFTER)
    assert (await failure(engine(kokoro, timeout_s=0.3))).error_class is ErrorClass.AMBIGUOUS
    assert kokoro.billed == 1


@pytest.mark.parametrize("captions", [True, False])
async def test_an_answer_without_sound_is_ambiguous(engine: Engines, *, captions: bool) -> None:
    provider = FakeOpenai(latency_s=0, captions=captions)
    provider.fault(Fault.EMPTY_MEDIA)
    with serving(provider):
        assert (await failure(engine(provider))).error_class is ErrorClass.AMBIGUOUS


async def test_a_page_instead_of_sound_is_ambiguous(openai: FakeOpenai, engine: Engines) -> None:
    openai.fault(Fault.NOT_MEDIA)
    assert (await failure(engine(openai))).error_class is ErrorClass.AMBIGUOUS


async def test_sound_that_does_not_play_is_the_providers_fault(kokoro: FakeOpenai, engine: Engines) -> None:
    kokoro.fault(Fault.NOT_MEDIA)
    voice = engine(kokoro)
    job = await voice.submit(LINE, order())
    with pytest.raises(EngineError, match="no sound that plays") as raised:
        await voice.poll(job)
    assert raised.value.error_class is ErrorClass.PROVIDER_FAULT


async def test_a_server_that_is_not_there_may_be_asked_again(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    voice = Openai(OpenaiAccount(base_url=f"http://127.0.0.1:{port}"), answers=tmp_path, workdir=tmp_path)
    assert (await failure(voice)).error_class is ErrorClass.RETRY_SAFE


# Finding and cancelling -----------------------------------------------------------------------------------------------


async def test_a_kept_answer_is_found_and_a_lost_one_is_unknown(kokoro: FakeOpenai, engine: Engines) -> None:
    ordered = order()
    job = await engine(kokoro).submit(LINE, ordered)
    assert await engine(kokoro).find(LINE, ordered) == job
    assert await engine(kokoro).find(LINE, order()) is Whereabouts.UNKNOWN


async def test_an_answer_that_is_not_here_is_gone(kokoro: FakeOpenai, engine: Engines) -> None:
    with pytest.raises(EngineError) as raised:
        await engine(kokoro).poll(ExternalId("answer:elsewhere"))
    assert raised.value.error_class is ErrorClass.EXPIRED


async def test_cancelling_forgets_the_answer_and_is_never_an_error(
    kokoro: FakeOpenai, engine: Engines, tmp_path: Path
) -> None:
    voice = engine(kokoro)
    job = await voice.submit(LINE, order())
    for _ in range(2):
        await voice.cancel(job)
    assert not list((tmp_path / "answers").iterdir())


# What Kokoro heard ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("none", [None, {}, [], [None], [{"word": "a", "start_time": None, "end_time": 1}]])
def test_timestamps_that_say_nothing_are_no_words(none: object) -> None:
    assert heard(none) == ()
