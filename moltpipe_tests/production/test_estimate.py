"""The estimate: the requests are production's own, and the sum is theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from moltpipe import samples
from moltpipe.engines.animatic import Animatic
from moltpipe.engines.errors import EngineError
from moltpipe.engines.espeak import Espeak
from moltpipe.engines.outline import Outline
from moltpipe.engines.prices import reckon, summed
from moltpipe.engines.protocols import EpisodeRequest, LineRequest, Quote, TakeRequest
from moltpipe.ledger.database import Database
from moltpipe.production.estimate import Bill, Estimate, caps, crew_without_keys, estimate
from moltpipe.production.filming import take_request
from moltpipe.production.line import Crew, Line
from moltpipe.production.screenwriting import episode_request, write_episode
from moltpipe.production.voicing import line_request
from moltpipe.production.work import work_on
from moltpipe.settings import (
    ElevenlabsAccount,
    HeygenAccount,
    Ltx2Account,
    MusicgenAccount,
    Settings,
    SettingsError,
    VeoAccount,
    variables,
)
from moltpipe.studio.admission import judge
from moltpipe.studio.narration import (
    CLOSING_S,
    CLOSING_SCORED_S,
    MAX_EPISODE_S,
    MIN_EPISODE_S,
    OPENING_S,
    OPENING_SCORED_S,
    AudioPack,
    expected_seconds,
)
from moltpipe.studio.records import Production
from moltpipe.studio.screenplay import PilotScript, spoken_line
from moltpipe_tests.stories import a_filed_pack, a_series

_, DOCUMENT = samples.pilots()[0]


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables():
        monkeypatch.delenv(name, raising=False)


def script_of(document: dict[str, Any]) -> PilotScript:
    admission = judge(document)
    assert isinstance(admission.script, PilotScript), admission.refusals
    return admission.script


def estimated(workdir: Path, document: dict[str, Any] = DOCUMENT, **settings: Any) -> Estimate:  # noqa: ANN401 - any
    chosen = Settings(data_dir=workdir, **settings)
    return estimate(script_of(document), document, crew_without_keys(chosen, workdir), chosen.profile)


def bill(found: Estimate, stage: str, engine: str) -> Bill:
    (one,) = [one for one in found.bills if (one.stage, one.engine) == (stage, engine)]
    return one


def with_shots(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any field of a shot
    document: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    document["shots"] = [{**shot, **changes} for shot in document["shots"]]
    return document


class _Recording:
    """Keeps what an engine was asked to quote."""

    def __init__(self) -> None:
        self.asked: list[BaseModel] = []

    def quote(self, request: BaseModel) -> Quote:
        self.asked.append(request)
        return Quote(Decimal("0.25"), "a quarter")


class _Writer(_Recording, Outline):
    def __init__(self, workdir: Path) -> None:
        _Recording.__init__(self)
        Outline.__init__(self, workdir)


class _Speaker(_Recording, Espeak):
    def __init__(self, workdir: Path) -> None:
        _Recording.__init__(self)
        Espeak.__init__(self, workdir)


class _Filmer(_Recording, Animatic):
    def __init__(self, workdir: Path) -> None:
        _Recording.__init__(self)
        Animatic.__init__(self, workdir)


def sent_for(production: Production, line: Line) -> Iterator[BaseModel]:
    """What production asks of its engines for an episode, once its shots are written."""
    if production.episode.number > 1:
        yield episode_request(production)
    for shot in production.shots:
        spoken = spoken_line(shot.audio)
        if spoken is not None:
            yield line_request(production.series, spoken)
    for variant_number in range(1, production.episode.variants_wanted + 1):
        for shot in production.shots:
            yield take_request(production, shot, variant_number, line.profile)


def comparable(request: BaseModel) -> dict[str, Any]:
    """Without what depends on ids that only a ledger gives, and on what was really spoken."""
    return request.model_dump(mode="json", exclude={"seed", "voice"})


async def test_what_is_quoted_is_what_production_sends(line: Line, database: Database, tmp_path: Path) -> None:
    sent: list[BaseModel] = []
    for episode in a_series(database):
        async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
            written = await write_episode(work, regenerate=False)
            sent += sent_for(written.production, line)
    writer, speaker, filmer = _Writer(tmp_path), _Speaker(tmp_path), _Filmer(tmp_path)
    found = estimate(script_of(DOCUMENT), DOCUMENT, Crew(writer, speaker, filmer, None), line.profile)
    for engine, kind in ((writer, EpisodeRequest), (speaker, LineRequest), (filmer, TakeRequest)):
        expected = [comparable(request) for request in sent if isinstance(request, kind)]
        assert [comparable(request) for request in engine.asked] == expected
    assert len(found.charges) == len(sent)
    assert found.known_usd == Decimal("0.25") * len(sent)


async def test_of_an_audio_series_its_lines_are_quoted_and_nothing_else(
    line: Line, database: Database, tmp_path: Path
) -> None:
    sent: list[BaseModel] = []
    for episode in a_series(database, a_filed_pack(database)):
        async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
            written = await write_episode(work, regenerate=False)
            for shot in written.shots:
                spoken = spoken_line(shot.audio)
                assert spoken is not None
                sent.append(line_request(written.production.series, spoken))
    pack = samples.packs()[0][1]
    admission = judge(pack)
    assert isinstance(admission.script, AudioPack)
    writer, speaker, filmer = _Writer(tmp_path), _Speaker(tmp_path), _Filmer(tmp_path)
    found = estimate(admission.script, pack, Crew(writer, speaker, filmer, None), line.profile)
    assert (writer.asked, filmer.asked) == ([], [])
    assert speaker.asked == sent
    assert found.known_usd == Decimal("0.25") * len(sent)
    assert [one.title for one in found.episodes] == [one.title for one in admission.script.episodes]


def test_the_music_of_an_audio_series_is_as_long_as_the_episode_that_it_opens_and_closes(tmp_path: Path) -> None:
    pack = samples.packs()[0][1]
    admission = judge(pack)
    assert isinstance(admission.script, AudioPack)

    def seconds(**settings: Any) -> list[float]:  # noqa: ANN401 - any setting
        chosen = Settings(data_dir=tmp_path, **settings)
        crew = crew_without_keys(chosen, tmp_path)
        return [one.seconds for one in estimate(admission.script, pack, crew, chosen.profile).episodes]  # type: ignore[arg-type] # asserted above

    more = OPENING_SCORED_S + CLOSING_SCORED_S - OPENING_S - CLOSING_S
    scored = seconds(composer="musicgen", musicgen=MusicgenAccount(price_usd=Decimal("0.01")))
    assert scored == pytest.approx([one + more for one in seconds()])


@pytest.mark.parametrize(("name", "pack"), samples.packs())
def test_an_episode_is_estimated_as_long_as_the_door_expects_of_a_calm_narrator(
    tmp_path: Path, name: str, pack: dict[str, Any]
) -> None:
    admission = judge(pack)
    assert isinstance(admission.script, AudioPack), name
    chosen = Settings(data_dir=tmp_path)
    found = estimate(admission.script, pack, crew_without_keys(chosen, tmp_path), chosen.profile)
    expected = [expected_seconds(episode)[1] for episode in admission.script.episodes]
    assert [one.seconds for one in found.episodes] == pytest.approx(expected, abs=0.1)
    assert all(MIN_EPISODE_S <= one.seconds <= MAX_EPISODE_S for one in found.episodes)


def test_local_engines_make_a_series_for_nothing(tmp_path: Path) -> None:
    found = estimated(tmp_path)
    assert found.known_usd == found.unpriced == 0
    assert [(one.stage, one.engine) for one in found.bills] == [
        ("script", "outline"),
        ("voice", "espeak"),
        ("picture", "animatic"),
    ]
    assert bill(found, "script", "outline").calls == 4
    assert bill(found, "picture", "animatic").bases == ("made on this machine",)


def test_the_whole_is_the_sum_of_its_parts_whichever_way_it_is_cut(tmp_path: Path) -> None:
    found = estimated(
        tmp_path,
        voice="elevenlabs",
        camera="veo",
        composer="musicgen",
        elevenlabs=ElevenlabsAccount(price_usd=Decimal("0.1234567")),
        veo=VeoAccount(price_usd=Decimal("0.4")),
        musicgen=MusicgenAccount(price_usd=Decimal("0.01")),
    )
    assert found.known_usd > 0
    assert found.known_usd == sum(one.known_usd for one in found.bills)
    assert found.known_usd == sum(one.quote.cost_usd or 0 for one in found.charges)
    assert sum(one.calls for one in found.bills) == len(found.charges)


def test_the_pilot_is_filmed_four_times_and_the_others_once(tmp_path: Path) -> None:
    found = estimated(tmp_path)
    pictures = [one.episode_number for one in found.charges if one.stage == "picture"]
    assert pictures.count(1) == 4 * len(DOCUMENT["shots"])
    assert all(6 <= pictures.count(number) <= 12 for number in (2, 3, 4, 5))


def test_no_key_is_needed_and_none_is_used(tmp_path: Path) -> None:
    found = estimated(tmp_path, camera="replicate", voice="elevenlabs", screenwriter="chat", composer="musicgen")
    assert {one.engine for one in found.bills} == {"chat", "elevenlabs", "replicate", "musicgen"}


def test_the_same_script_costs_the_same_twice(tmp_path: Path) -> None:
    veo = VeoAccount(price_usd=Decimal("0.4"))
    assert estimated(tmp_path, camera="veo", veo=veo) == estimated(tmp_path, camera="veo", veo=veo)


def test_a_price_that_nobody_knows_is_counted_and_not_taken_for_nothing(tmp_path: Path) -> None:
    found = estimated(tmp_path, camera="ltx2", ltx2=Ltx2Account(base_url="http://127.0.0.1:9"))
    picture = bill(found, "picture", "ltx2")
    assert picture.unpriced == picture.calls == found.unpriced
    assert "no price is known, set MOLTPIPE_LTX2_PRICE_USD per second" in picture.bases[0]
    assert found.known_usd == 0
    own = Ltx2Account(base_url="http://127.0.0.1:9", price_usd=Decimal("0.02"))
    assert estimated(tmp_path, camera="ltx2", ltx2=own).unpriced == 0


def test_the_shots_that_the_camera_cannot_film_go_to_the_second_one(tmp_path: Path) -> None:
    found = estimated(tmp_path, camera="heygen", heygen=HeygenAccount(price_usd=Decimal("0.1")))
    engines = [one.engine for one in found.charges if one.stage == "picture" and one.episode_number == 1]
    voiced = sum(spoken_line(shot.audio) is not None for shot in script_of(DOCUMENT).shots)
    # Production asks somebody who only talks once for all four variants, and so does the estimate.
    assert engines.count("heygen") == voiced
    assert engines.count("animatic") == 4 * (len(DOCUMENT["shots"]) - voiced)


def test_a_line_that_is_said_twice_is_paid_for_once_as_production_does(tmp_path: Path) -> None:
    chorus = with_shots(audio={"type": "narration", "description": "The tide comes back."})
    pilot = estimated(tmp_path, chorus, voice="elevenlabs").charges
    assert sum(one.stage == "voice" and one.episode_number == 1 for one in pilot) == 1


def test_a_camera_that_only_a_shot_asks_for_is_in_the_estimate(tmp_path: Path) -> None:
    found = estimated(tmp_path, with_shots(engine="stock"))
    assert bill(found, "picture", "stock").calls == 4 * len(DOCUMENT["shots"])
    with pytest.raises(SettingsError, match=r"MOLTPIPE_LTX2_BASE_URL is not set.*as a shot's script asks for ltx2"):
        estimated(tmp_path, with_shots(engine="ltx2"))


def test_an_episode_is_as_long_as_its_lines_let_expect(tmp_path: Path) -> None:
    said = "One word and then another word until nobody in the house remembers how this sentence began. " * 5
    wordy = with_shots(audio={"type": "narration", "description": said})
    as_written = sum(shot["duration_seconds"] for shot in DOCUMENT["shots"])
    assert estimated(tmp_path).episodes[0].seconds == pytest.approx(as_written, abs=3)
    assert estimated(tmp_path, wordy).episodes[0].seconds > 4 * as_written


def test_an_engine_that_cannot_do_a_request_says_so(tmp_path: Path) -> None:
    class Refusing(_Filmer):
        def quote(self, request: BaseModel) -> Quote:
            raise EngineError("veo", "invalid_input", f"nobody films {type(request).__name__}")  # type: ignore[arg-type] # its text is enough

    crew = Crew(Outline(tmp_path), Espeak(tmp_path), Refusing(tmp_path), None)
    with pytest.raises(EngineError, match="nobody films TakeRequest"):
        estimate(script_of(DOCUMENT), DOCUMENT, crew, Settings().profile)


# The caps


def test_the_caps_are_held_against_what_they_cap(tmp_path: Path) -> None:
    found = estimated(tmp_path, camera="veo", veo=VeoAccount(price_usd=Decimal("0.4")))
    pilot = found.episodes[0].known_usd
    assert pilot == max(one.known_usd for one in found.episodes)
    run, series, day = caps(found, run=pilot, series=found.known_usd - Decimal("0.01"), day=None)
    assert (run.name, run.needed_usd, run.fits) == ("budget_run_usd", pilot, True)
    assert (series.name, series.needed_usd, series.fits) == ("budget_series_usd", found.known_usd, False)
    assert (day.name, day.fits) == ("budget_day_usd", True)


def test_nobody_can_say_whether_an_unknown_price_fits(tmp_path: Path) -> None:
    found = estimated(tmp_path, camera="ltx2", ltx2=Ltx2Account(base_url="http://127.0.0.1:9"))
    assert [one.fits for one in caps(found, run=Decimal(1), series=None, day=Decimal(0))] == [None, True, None]


# Many quotes in one line


def test_quantities_at_one_price_are_added_up() -> None:
    def basis(seconds: str, own: str | None = None, model: str = "a/b:12") -> str:
        price = Decimal(own) if own else None
        return reckon("veo", model, Decimal(seconds), "second", own_price_usd=price).basis

    assert summed([basis("6", "0.15"), basis("4.5", "0.15"), basis("6", "0.15")]) == (
        "16.5 second at $0.15 (your own price)",
    )
    assert summed([basis("6", "0.15"), basis("6", "0.4")]) == (
        "6 second at $0.15 (your own price)",
        "6 second at $0.4 (your own price)",
    )
    assert summed([basis("6"), basis("100")]) == (
        "106 second of a/b:12: no price is known, set MOLTPIPE_VEO_PRICE_USD per second",
    )


def test_every_quantity_of_a_reckoning_with_several_is_added_up() -> None:
    told = "in: 0.5 million tokens at $0.15 (2026-05-19); out: 2 million tokens at $0.60 (2026-05-19); about 4 a token"
    assert summed([told, told]) == (
        "in: 1 million tokens at $0.15 (2026-05-19); out: 4 million tokens at $0.60 (2026-05-19); about 4 a token",
    )
    assert summed(["public domain"] * 3 + ["made on this machine"]) == ("public domain", "made on this machine")


def test_a_key_in_the_settings_is_in_no_estimate(tmp_path: Path) -> None:
    found = estimated(tmp_path, camera="veo", veo=VeoAccount(api_key=SecretStr("AIza-5ecret")))
    assert "5ecret" not in repr(found)
