from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.outline import Outline, sentences
from moltpipe.engines.protocols import EpisodeRequest, Progress
from moltpipe.studio.screenplay import (
    CAMERA_TERMS,
    MOTION_TERMS,
    AudioType,
    EpisodeScript,
    ExtendStrategy,
    PilotScript,
    Transition,
    spoken_line,
)
from moltpipe_tests.engines.conftest import PILOT, episode_request
from moltpipe_tests.engines.orders import order

_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="{}"), min_size=1)
_TEXT = _WORDS.map(str.strip).filter(bool)


def _anchors(draw: st.DrawFn, kind: str, most: int) -> list[dict[str, str]]:
    ids = draw(st.lists(st.from_regex(rf"{kind}_[A-Z0-9_]{{1,20}}", fullmatch=True), max_size=most, unique=True))
    if kind == "LOC":
        return [{"id": one, "description": draw(_TEXT)[:300]} for one in ids]
    return [{"id": one, "name": draw(_TEXT)[:100], "appearance": draw(_TEXT)[:300]} for one in ids]


@st.composite
def pilots(draw: st.DrawFn) -> PilotScript:
    """Pilot scripts with any text, none to several anchors, and rules that nobody may change."""
    return PilotScript.model_validate(
        {
            **PILOT.model_dump(),
            "title": draw(_TEXT)[:200],
            "logline": draw(_TEXT)[:480].ljust(10, "."),
            "genre": draw(st.sampled_from(["horror", "comedy", "romance", "crime"])),
            "arc": {beat: draw(_TEXT)[:500] for beat in ("beat_1", "beat_2", "beat_3")},
            "series_bible": {
                "global_style_bible": draw(_TEXT)[:2000],
                "location_anchors": _anchors(draw, "LOC", 4),
                "character_anchors": _anchors(draw, "CHAR", 4),
                "do_not_change": draw(st.lists(_TEXT.map(lambda text: text[:100]), max_size=3)),
            },
        }
    )


def _write(pilot: PilotScript, number: int) -> EpisodeScript:
    async def write() -> EpisodeScript:
        screenwriter = Outline(Path())
        result = await screenwriter.poll(await screenwriter.submit(episode_request(pilot, number), order()))
        assert not isinstance(result, Progress)
        return result.script

    return asyncio.run(write())


def _texts(script: EpisodeScript) -> list[str]:
    lines = [line.text for shot in script.shots if (line := spoken_line(shot.audio)) is not None]
    return [script.title, *lines, *(shot.prompt.scene for shot in script.shots)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pilots())
def test_every_pilot_gets_four_more_episodes_that_keep_the_rules(pilot: PilotScript) -> None:
    speakers = {anchor.id for anchor in pilot.series_bible.character_anchors}
    said: list[str] = []
    for number in (2, 3, 4, 5):
        script = EpisodeScript.model_validate(_write(pilot, number).model_dump())
        assert script.episode_number == number
        assert 6 <= len(script.shots) <= 8
        assert 30 <= sum(shot.duration_seconds for shot in script.shots) <= 60
        assert script.shots[0].transition is Transition.CUT
        assert sum(shot.transition is not Transition.CUT for shot in script.shots) <= 3
        for shot in script.shots:
            assert shot.duration_seconds >= shot.gen_clip_seconds
            assert (shot.edit_extend_strategy is ExtendStrategy.NONE) == (
                shot.duration_seconds == shot.gen_clip_seconds
            )
            assert shot.prompt.camera in CAMERA_TERMS
            assert shot.prompt.motion in MOTION_TERMS
            assert shot.audio.dialogue is None or shot.audio.dialogue.speaker in speakers
        said += _texts(script)
    assert not [text for text in said if "{" in text or "}" in text]
    assert len(said) == len(set(said)), "a title, line or scene comes twice in the series"


def test_no_episode_is_the_pilot_again(pilot: PilotScript) -> None:
    scripts = [_write(pilot, number) for number in (2, 3, 4, 5)]
    of_the_pilot = {shot.prompt.scene for shot in pilot.shots} | {
        line.text for shot in pilot.shots if (line := spoken_line(shot.audio)) is not None
    }
    assert not of_the_pilot & {text for script in scripts for text in _texts(script)}
    assert len({tuple(shot.prompt.camera for shot in script.shots) for script in scripts}) == 4
    assert len({script.title for script in scripts}) == 4


def test_the_same_pilot_gives_the_same_episode_whichever_is_asked_for_first(pilot: PilotScript) -> None:
    assert _write(pilot, 5) == _write(pilot, 5)
    third_first = _write(pilot, 3), _write(pilot, 2)
    assert (_write(pilot, 2), _write(pilot, 3)) == third_first[::-1]


def test_the_story_moves_from_the_first_beat_to_the_last(pilot: PilotScript) -> None:
    told = {number: " ".join(_texts(_write(pilot, number))) for number in (2, 3, 4, 5)}
    assert "a dry letter in the surf" in told[2]
    assert "The archive under the rock wakes up" in told[3]
    assert "gives the archive back" in told[4]
    assert "gives the archive back" in told[5]
    assert "gives the archive back" not in told[2] + told[3]


def test_episodes_speak_move_and_look_in_more_than_one_way(pilot: PilotScript) -> None:
    for number in (2, 3, 4, 5):
        shots = _write(pilot, number).shots
        assert len({shot.prompt.camera for shot in shots}) >= 5
        assert len({shot.audio.type for shot in shots}) == 3
        assert {AudioType.DIALOGUE, AudioType.NARRATION} <= {shot.audio.type for shot in shots}
    everything = [shot for number in (2, 3, 4, 5) for shot in _write(pilot, number).shots]
    assert {line.speaker for shot in everything if (line := spoken_line(shot.audio))} >= {"CHAR_MARA", "CHAR_TOMAS"}
    assert {shot.edit_extend_strategy for shot in everything} >= set(ExtendStrategy) - {ExtendStrategy.NONE}
    assert all(any(place in shot.prompt.scene for shot in everything) for place in ("Lighthouse", "Tide Archive"))


@pytest.mark.parametrize("number", [1, 6, 0])
async def test_the_pilot_and_episodes_beyond_the_fifth_are_refused(
    tmp_path: Path, pilot: PilotScript, number: int
) -> None:
    screenwriter = Outline(tmp_path)
    request: EpisodeRequest = episode_request(pilot, number)
    with pytest.raises(EngineError, match="expected 2 to 5") as refusal:
        await screenwriter.poll(await screenwriter.submit(request, order()))
    assert refusal.value.error_class is ErrorClass.INVALID_INPUT


def test_sentences_are_whole_and_short_enough_to_be_said() -> None:
    assert sentences("the sea rises; nobody looks. Then a light! and") == [
        "The sea rises; nobody looks.",
        "Then a light!",
        "And.",
    ]
    long = sentences("a " + "very " * 40 + "long beat, " + "with a clause " * 10)
    assert all(len(one) <= 151 and one[0].isupper() and one.endswith((".", "…")) for one in long)
