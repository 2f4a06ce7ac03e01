"""The voice `elevenlabs` against a small ElevenLabs over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from syrupy.assertion import SnapshotAssertion

from moltpipe.engines.elevenlabs import ACTORS, Elevenlabs, payload, timed_words, voice_of
from moltpipe.engines.errors import EngineError, ErrorClass, JobOver
from moltpipe.engines.protocols import Download, ExternalId, LineRequest, Order, Recorded, Voice, Whereabouts
from moltpipe.engines.voices import Gender
from moltpipe.media.probe import probe
from moltpipe.settings import ElevenlabsAccount
from moltpipe.studio.screenplay import NARRATOR
from moltpipe_tests.engines.orders import order
from moltpipe_tests.fakes.elevenlabs import FakeElevenlabs, alignment
from moltpipe_tests.fakes.media import speech, speech_seconds
from moltpipe_tests.fakes.server import Fault, Seen, serving

KEY = "key-5ecretel"
TEXT = "Some letters are never sent."
LINE = LineRequest(text=TEXT, speaker=NARRATOR)
MARA = LineRequest(text="Who wrote this?", speaker="CHAR_MARA", voice_style="calm, old, female")
GEORGE = "JBFqnCBsd6RMkjVDRZzb"

Engines = Callable[..., Elevenlabs]


@pytest.fixture
def provider() -> Iterator[FakeElevenlabs]:
    one = FakeElevenlabs(latency_s=0)
    with serving(one):
        yield one


@pytest.fixture
def engine(tmp_path: Path) -> Engines:
    """Engines that share one folder for their answers, as those of one machine do."""

    def make(
        at: FakeElevenlabs,
        *,
        key: str = KEY,
        timeout_s: float = 5,
        answers: str = "answers",
        **other: Any,  # noqa: ANN401 - of the account
    ) -> Elevenlabs:
        account = ElevenlabsAccount(base_url=f"{at.base}/v1", api_key=SecretStr(key), **other)
        return Elevenlabs(account, answers=tmp_path / answers, workdir=tmp_path / "work", timeout_s=timeout_s)

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


def paths(provider: FakeElevenlabs, method: str) -> list[str]:
    return [seen.path for seen in provider.seen if seen.method == method]


# A line that goes well ------------------------------------------------------------------------------------------------


async def test_a_line_becomes_a_recording_with_a_time_for_each_word(provider: FakeElevenlabs, engine: Engines) -> None:
    result = await spoken(engine(provider))
    sound = probe(result.local).audio
    assert sound is not None
    assert sound.duration_seconds == pytest.approx(speech_seconds(TEXT), abs=0.1)
    assert [word.text for word in result.words] == TEXT.split()
    assert result.words[0].start == 0
    assert result.words[-1].end == pytest.approx(speech_seconds(TEXT), abs=0.01)
    assert provider.billed == 1


async def test_the_request_is_the_one_that_was_agreed(
    provider: FakeElevenlabs, engine: Engines, snapshot: SnapshotAssertion
) -> None:
    ordered = order(left_at=datetime(2026, 5, 1, 12, tzinfo=UTC))
    voice = engine(provider)
    await voice.submit(LINE, ordered)
    voice.answers.drop(ExternalId(f"history:{provider.items[0]['history_item_id']}"))
    await voice.find(LINE, ordered)
    assert [_shown(seen) for seen in provider.seen] == snapshot


def _shown(seen: Seen) -> dict[str, Any]:
    volatile = {"host", "content-length", "user-agent", "accept-encoding"}
    headers = {name: value for name, value in sorted(seen.headers.items()) if name not in volatile}
    body = json.loads(seen.body) if seen.body else None
    return {"method": seen.method, "path": seen.path, "query": dict(seen.query), "headers": headers, "body": body}


def test_the_payload_holds_the_text_and_the_model_and_no_seed() -> None:
    account = ElevenlabsAccount(model="eleven_v3")
    assert payload(account, MARA) == {"text": "Who wrote this?", "model_id": "eleven_v3"}


async def test_the_departure_is_told_once_the_request_has_left(provider: FakeElevenlabs, engine: Engines) -> None:
    departures: list[int] = []
    await engine(provider).submit(LINE, order(departed=lambda: departures.append(provider.billed)))
    assert len(departures) == 1


async def test_the_answer_outlives_the_process(provider: FakeElevenlabs, engine: Engines) -> None:
    job = await engine(provider).submit(LINE, order())
    seen = len(provider.seen)
    assert isinstance(await engine(provider).poll(job), Recorded)
    assert len(provider.seen) == seen, "nothing was asked again"


async def test_each_look_makes_a_file_of_its_own(provider: FakeElevenlabs, engine: Engines) -> None:
    voice = engine(provider)
    job = await voice.submit(LINE, order())
    first, second = await voice.poll(job), await voice.poll(job)
    assert isinstance(first, Recorded)
    assert isinstance(second, Recorded)
    assert first.local != second.local
    assert first.local.read_bytes() == second.local.read_bytes() == speech(TEXT)


@pytest.mark.parametrize("ids", [True, False])
async def test_two_calls_with_the_same_words_are_two_jobs(engine: Engines, *, ids: bool) -> None:
    provider = FakeElevenlabs(latency_s=0, ids=ids)
    with serving(provider):
        voice = engine(provider)
        jobs = {await voice.submit(LINE, order()) for _ in range(2)}
        assert len(jobs) == 2
        for job in jobs:
            assert isinstance(await voice.poll(job), Recorded)


async def test_a_bare_address_means_the_usual_path(tmp_path: Path) -> None:
    account = ElevenlabsAccount(base_url="http://127.0.0.1:1", api_key=SecretStr(KEY))
    voice = Elevenlabs(account, answers=tmp_path, workdir=tmp_path)
    assert voice.hosting is not None
    assert voice.hosting.base_url == "http://127.0.0.1:1/v1"
    assert voice.hosting.holds_request


# Who speaks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_id", "speaker", "chosen"),
    [
        ("EXAVITQu4vr4xnSDxMaL", "CHAR_MARA", "EXAVITQu4vr4xnSDxMaL"),
        ("EXAVITQu4vr4xnSDxMaL", NARRATOR, "EXAVITQu4vr4xnSDxMaL"),
        ("en-gb+f2", NARRATOR, GEORGE),
        ("af_heart", NARRATOR, GEORGE),
        (None, NARRATOR, GEORGE),
    ],
)
def test_a_voice_of_elevenlabs_goes_first_and_others_say_nothing(
    given_id: str | None, speaker: str, chosen: str
) -> None:
    request = LineRequest(text=TEXT, speaker=speaker, voice_id=given_id)
    assert voice_of(ElevenlabsAccount(), request) == chosen


def test_characters_get_voices_of_their_own_that_fit_them() -> None:
    account = ElevenlabsAccount()
    women = {actor.voice for actor in ACTORS if actor.gender is Gender.FEMALE}
    chosen = [
        voice_of(account, LineRequest(text=TEXT, speaker=f"CHAR_{number}", voice_style="female"))
        for number in range(20)
    ]
    assert set(chosen) <= women
    assert len(set(chosen)) > 2
    others = [voice_of(account, LineRequest(text=TEXT, speaker=f"CHAR_{number}")) for number in range(40)]
    assert GEORGE not in others, "the narrator's voice is the narrator's"


# What it costs --------------------------------------------------------------------------------------------------------


def test_a_quote_counts_the_characters_that_are_sent(provider: FakeElevenlabs, engine: Engines) -> None:
    quote = engine(provider).quote(LINE)
    assert quote.cost_usd == Decimal("0.0028")
    assert quote.basis == "0.028 thousand characters at $0.10 (2026-06-01)"
    assert engine(provider, price_usd=Decimal("0.2")).quote(LINE).cost_usd == Decimal("0.0056")
    assert engine(provider, model="eleven_new").quote(LINE).cost_usd is None


# Refusals and lost answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "meant", "word"),
    [
        (Fault.UNAUTHORIZED, ErrorClass.AUTH, "invalid_api_key"),
        (Fault.NO_CREDIT, ErrorClass.QUOTA, "quota_exceeded"),
        (Fault.INVALID, ErrorClass.INVALID_INPUT, "invalid_parameters"),
        (Fault.FILTERED, ErrorClass.FILTERED, "content_against_policy"),
        (Fault.ERROR_500, ErrorClass.AMBIGUOUS, "internal_error"),
        (Fault.UNAVAILABLE, ErrorClass.RETRY_SAFE, "service_unavailable"),
    ],
)
async def test_each_refusal_means_what_elevenlabs_says(
    provider: FakeElevenlabs, engine: Engines, fault: Fault, meant: ErrorClass, word: str
) -> None:
    provider.fault(fault)
    error = await failure(engine(provider))
    assert error.error_class is meant
    assert word in error.message
    assert provider.billed == 0


async def test_a_missing_key_is_a_matter_of_the_key(provider: FakeElevenlabs, engine: Engines) -> None:
    assert (await failure(engine(provider, key=""))).error_class is ErrorClass.AUTH


async def test_a_voice_that_is_not_there_is_named_with_its_speaker(provider: FakeElevenlabs, engine: Engines) -> None:
    error = await failure(engine(provider, voice_id="nobody"))
    assert error.error_class is ErrorClass.INVALID_INPUT
    assert "voice nobody of NARRATOR" in error.message


async def test_a_line_that_is_too_long_is_wrong_input(provider: FakeElevenlabs, engine: Engines) -> None:
    error = await failure(engine(provider), LineRequest(text="a" * 10_001, speaker=NARRATOR))
    assert error.error_class is ErrorClass.INVALID_INPUT


async def test_nothing_to_say_never_leaves(provider: FakeElevenlabs, engine: Engines) -> None:
    error = await failure(engine(provider), LineRequest(text=" \n", speaker=NARRATOR))
    assert error.error_class is ErrorClass.INVALID_INPUT
    assert not provider.seen


@pytest.mark.parametrize(
    ("word", "hint", "pause"),
    [
        ("too_many_concurrent_requests", None, 1),
        ("concurrent_limit_exceeded", None, 1),
        ("system_busy", None, 15),
        ("rate_limit_exceeded", None, 10),
        ("system_busy", 4, 4),
    ],
)
async def test_one_request_too_many_waits_shortly_and_a_busy_system_longer(
    provider: FakeElevenlabs, engine: Engines, word: str, hint: float | None, pause: float
) -> None:
    provider.throttled_as = word
    provider.fault(Fault.THROTTLED, retry_after=hint)
    error = await failure(engine(provider))
    assert (error.error_class, error.retry_after_s) == (ErrorClass.THROTTLED, pause)


async def test_a_setting_above_what_the_account_allows_is_told(provider: FakeElevenlabs, engine: Engines) -> None:
    provider.fault(Fault.THROTTLED, 2)
    told = await failure(engine(provider, max_concurrency=8))
    assert "the account allows 5 at once: set MOLTPIPE_ELEVENLABS_MAX_CONCURRENCY, now 8, to that" in told.message
    assert "allows" not in (await failure(engine(provider, max_concurrency=5))).message


async def test_more_at_once_than_the_account_allows_are_refused_and_not_billed(engine: Engines) -> None:
    provider = FakeElevenlabs(latency_s=0.3, maximum=1)
    with serving(provider):
        voice = engine(provider)
        results = await asyncio.gather(*(voice.submit(LINE, order()) for _ in range(3)), return_exceptions=True)
    refused = [one for one in results if isinstance(one, EngineError)]
    assert [one.error_class for one in refused] == [ErrorClass.THROTTLED] * 2
    assert provider.billed == 1


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_502])
async def test_a_lost_answer_is_ambiguous(provider: FakeElevenlabs, engine: Engines, fault: Fault) -> None:
    provider.fault(fault)
    assert (await failure(engine(provider))).error_class is ErrorClass.AMBIGUOUS


async def test_an_answer_that_does_not_come_in_time_is_ambiguous(provider: FakeElevenlabs, engine: Engines) -> None:
    provider.fault(Fault.HANG_AFTER)
    assert (await failure(engine(provider, timeout_s=0.3))).error_class is ErrorClass.AMBIGUOUS
    assert provider.billed == 1


async def test_an_answer_without_sound_is_ambiguous(provider: FakeElevenlabs, engine: Engines) -> None:
    provider.fault(Fault.EMPTY_MEDIA)
    assert (await failure(engine(provider))).error_class is ErrorClass.AMBIGUOUS


async def test_sound_that_does_not_play_is_the_providers_fault_and_leaves_no_file(
    provider: FakeElevenlabs, engine: Engines, tmp_path: Path
) -> None:
    provider.fault(Fault.NOT_MEDIA)
    voice = engine(provider)
    job = await voice.submit(LINE, order())
    with pytest.raises(EngineError, match="no sound that plays") as raised:
        await voice.poll(job)
    assert raised.value.error_class is ErrorClass.PROVIDER_FAULT
    assert not list((tmp_path / "work").iterdir())


async def test_a_server_that_is_not_there_may_be_asked_again(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    account = ElevenlabsAccount(base_url=f"http://127.0.0.1:{port}", api_key=SecretStr(KEY))
    error = await failure(Elevenlabs(account, answers=tmp_path, workdir=tmp_path))
    assert error.error_class is ErrorClass.RETRY_SAFE


# Cancelling -----------------------------------------------------------------------------------------------------------


async def test_cancelling_forgets_the_answer_and_is_never_an_error(
    provider: FakeElevenlabs, engine: Engines, tmp_path: Path
) -> None:
    voice = engine(provider)
    job = await voice.submit(LINE, order())
    for _ in range(2):
        await voice.cancel(job)
    await voice.cancel(ExternalId("history:unknown"))
    assert not list((tmp_path / "answers").iterdir())


# Finding what was lost ------------------------------------------------------------------------------------------------


async def test_a_lost_line_is_found_in_the_history_and_paid_for_once(provider: FakeElevenlabs, engine: Engines) -> None:
    provider.fault(Fault.DROP_AFTER)
    voice, ordered = engine(provider), order()
    await failure(voice, MARA, ordered)
    job = await voice.find(MARA, ordered)
    assert not isinstance(job, Whereabouts)
    assert job == f"history:{provider.items[0]['history_item_id']}"
    result = await voice.poll(job)
    assert isinstance(result, Recorded)
    assert isinstance(result.file, Download)
    assert result.file.url == f"{provider.base}/v1/history/{provider.items[0]['history_item_id']}/audio"
    assert result.file.headers == (("xi-api-key", KEY),)
    assert [word.text for word in result.words] == ["Who", "wrote", "this?"]
    assert provider.billed == 1


async def test_a_kept_answer_is_found_without_asking(provider: FakeElevenlabs, engine: Engines) -> None:
    ordered = order()
    job = await engine(provider).submit(LINE, ordered)
    assert await engine(provider).find(LINE, ordered) == job
    assert paths(provider, "GET") == []


async def test_what_was_never_taken_on_is_not_there(provider: FakeElevenlabs, engine: Engines) -> None:
    provider.fault(Fault.DROP_BEFORE)
    voice, ordered = engine(provider), order()
    await failure(voice, LINE, ordered)
    assert await voice.find(LINE, ordered) is Whereabouts.NOT_THERE


async def test_only_the_same_words_in_the_same_voice_by_the_same_model_since_then_are_ours(
    provider: FakeElevenlabs, engine: Engines
) -> None:
    provider.remember(TEXT, GEORGE, ago_s=90)
    provider.remember(TEXT, "EXAVITQu4vr4xnSDxMaL")
    provider.remember(TEXT, GEORGE, model="eleven_v3")
    provider.remember(f"{TEXT} Others are.", GEORGE)
    assert await engine(provider).find(LINE, order()) is Whereabouts.NOT_THERE
    mine = provider.remember(TEXT, GEORGE)
    assert await engine(provider).find(LINE, order()) == f"history:{mine}"


async def test_a_clock_that_is_a_little_off_hides_nothing(provider: FakeElevenlabs, engine: Engines) -> None:
    mine = provider.remember(TEXT, GEORGE, ago_s=40)
    assert await engine(provider).find(LINE, order()) == f"history:{mine}"


async def test_a_line_of_another_call_is_left_to_it(provider: FakeElevenlabs, engine: Engines) -> None:
    first, second, third = (provider.remember(TEXT, GEORGE, ago_s=number) for number in (3, 2, 1))
    taken = frozenset({f"history:{first}", second.replace("Hist", "Requ")})
    assert await engine(provider).find(LINE, order(others=taken)) == f"history:{third}"
    everybody = frozenset({*taken, f"history:{third}"})
    assert await engine(provider).find(LINE, order(others=everybody)) is Whereabouts.NOT_THERE


async def test_of_two_that_could_be_ours_the_earlier_one_is(provider: FakeElevenlabs, engine: Engines) -> None:
    earlier, _ = (provider.remember(TEXT, GEORGE, ago_s=number) for number in (3, 1))
    assert await engine(provider).find(LINE, order()) == f"history:{earlier}"


async def test_a_long_history_is_read_page_by_page(provider: FakeElevenlabs, engine: Engines) -> None:
    provider.page_limit = 3
    mine = provider.remember(TEXT, GEORGE)
    for number in range(10):
        provider.remember(f"Letter {number}", GEORGE)
    assert await engine(provider).find(LINE, order()) == f"history:{mine}"
    assert len(provider.seen) == 4


async def test_a_history_without_end_says_nothing(provider: FakeElevenlabs, engine: Engines) -> None:
    provider.page_limit = 1
    for number in range(60):
        provider.remember(f"Letter {number}", GEORGE)
    assert await engine(provider).find(LINE, order()) is Whereabouts.UNKNOWN


async def test_a_key_that_may_not_read_the_history_leaves_it_unknown(engine: Engines) -> None:
    provider = FakeElevenlabs(latency_s=0, history=False)
    with serving(provider):
        assert await engine(provider).find(LINE, order()) is Whereabouts.UNKNOWN


async def test_a_server_without_a_history_leaves_it_unknown(provider: FakeElevenlabs, tmp_path: Path) -> None:
    account = ElevenlabsAccount(base_url=f"{provider.base}/v2", api_key=SecretStr(KEY))
    voice = Elevenlabs(account, answers=tmp_path, workdir=tmp_path)
    assert await voice.find(LINE, order()) is Whereabouts.UNKNOWN


async def test_a_look_at_the_history_that_failed_is_not_an_empty_history(
    provider: FakeElevenlabs, engine: Engines
) -> None:
    provider.fault(Fault.POLL_FAILS)
    with pytest.raises(EngineError) as raised:
        await engine(provider).find(LINE, order())
    assert raised.value.error_class is ErrorClass.RETRY_SAFE


# Answers of another machine -------------------------------------------------------------------------------------------


async def test_an_answer_kept_elsewhere_comes_from_the_history(provider: FakeElevenlabs, engine: Engines) -> None:
    job = await engine(provider).submit(LINE, order())
    by_request = ExternalId(str(provider.items[0]["request_id"]))
    for known in (job, by_request):
        result = await engine(provider, answers="elsewhere").poll(known)
        assert isinstance(result, Recorded)
        assert isinstance(result.file, Download)
    assert provider.billed == 1


@pytest.mark.parametrize("job", ["history:gone", "request-that-nobody-knows"])
async def test_what_neither_this_machine_nor_the_history_has_is_gone(
    provider: FakeElevenlabs, engine: Engines, job: str
) -> None:
    with pytest.raises(JobOver) as raised:
        await engine(provider).poll(ExternalId(job))
    assert raised.value.error_class is ErrorClass.EXPIRED


async def test_a_look_that_fails_leaves_the_job_where_it_is(provider: FakeElevenlabs, engine: Engines) -> None:
    provider.fault(Fault.POLL_FAILS)
    with pytest.raises(EngineError) as raised:
        await engine(provider).poll(ExternalId("history:some"))
    assert not isinstance(raised.value, JobOver)
    assert raised.value.error_class is ErrorClass.RETRY_SAFE


# Word times -----------------------------------------------------------------------------------------------------------

_CHARACTERS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n\t.,!?—'…")), max_size=80)
_MOMENTS = st.one_of(st.floats(), st.floats(0, 60), st.none(), st.text(max_size=3))


@given(_CHARACTERS)
def test_words_are_those_of_the_text_and_follow_each_other(text: str) -> None:
    words = timed_words(alignment(text))
    assert "".join("".join(word.text for word in words).split()) == "".join(text.split())
    reached = 0.0
    for word in words:
        assert reached <= word.start <= word.end
        reached = word.end


@given(st.lists(st.tuples(st.text(max_size=2), _MOMENTS, _MOMENTS), max_size=20))
def test_times_never_go_backwards_whatever_comes(pieces: list[tuple[str, object, object]]) -> None:
    given_alignment = {
        "characters": [piece for piece, _, _ in pieces],
        "character_start_times_seconds": [start for _, start, _ in pieces],
        "character_end_times_seconds": [end for _, _, end in pieces],
    }
    reached = 0.0
    for word in timed_words(given_alignment):
        assert word.text == word.text.strip()
        assert reached <= word.start <= word.end
        reached = word.end


def test_signs_stay_with_their_word_and_blanks_with_none() -> None:
    words = timed_words(
        {
            "characters": list("No,  I"),
            "character_start_times_seconds": [0.1, 0.2, 0.3, 0.4, 0.5, 0.9],
            "character_end_times_seconds": [0.2, 0.3, 0.4, 0.5, 0.9, 1.0],
        }
    )
    assert [(word.text, word.start, word.end) for word in words] == [("No,", 0.1, 0.4), ("I", 0.9, 1.0)]


@pytest.mark.parametrize("none", [None, [], {}, {"characters": []}, {"characters": "abc"}, alignment("")])
def test_no_alignment_is_no_words(none: object) -> None:
    assert timed_words(none) == ()


def test_an_emoji_in_halves_is_no_alignment() -> None:
    assert timed_words(alignment("hi \ud83d\ude42")) == ()


async def test_without_an_alignment_the_words_are_spread_over_the_sound(
    provider: FakeElevenlabs, engine: Engines
) -> None:
    provider.aligned = False
    result = await spoken(engine(provider))
    assert [word.text for word in result.words] == TEXT.split()
    assert result.words[-1].end == pytest.approx(speech_seconds(TEXT), abs=0.1)


def test_the_deadline_and_the_limits_are_those_of_the_settings(provider: FakeElevenlabs, engine: Engines) -> None:
    hosted = engine(provider, max_concurrency=3, start_delay_ms=50, deadline_s=60).hosting
    assert hosted is not None
    assert (hosted.max_concurrency, hosted.start_delay, hosted.deadline) == (
        3,
        timedelta(milliseconds=50),
        timedelta(seconds=60),
    )
