from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.samples import packs
from moltpipe.studio.narration import (
    BREATH_S,
    CLOSING_S,
    CLOSING_SCORED_S,
    CUT_BREATH_S,
    MAX_PASSAGE,
    OPENING_S,
    OPENING_SCORED_S,
    PARAGRAPH_S,
    SCENE_S,
    AudioPack,
    bible_of,
    expected_seconds,
    narration_script,
    passages,
    poster_spec_of,
    reading,
)
from moltpipe.studio.records import Shot
from moltpipe.studio.screenplay import NARRATOR, PosterSpec, SeriesBible, spoken_line
from moltpipe.studio.timing import spoken_seconds

GOOD = Path(__file__).parent.parent / "scripts" / "good_pack.json"
TEXTS = st.lists(
    st.sampled_from(["Night", "came", "o'clock", "x" * 700, "Mr. Orlo", "灯台は夜を照らす。", "...", "—", "* * *"])
    | st.sampled_from([". ", "! ", "?\n", ".\n\n", "\n\n", "\r\n", ", ", "; ", ' "So." ', "…\u2029", " " * 40])
    | st.text(max_size=30),
    max_size=60,
).map(" ".join)


def sample() -> AudioPack:
    return AudioPack.model_validate(packs()[0][1])


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOOD.read_text(encoding="utf-8"))
    return found


def shots_of(pack: AudioPack, number: int) -> list[Shot]:
    return [
        Shot(
            id=uuid4(),
            number=place,
            prompt=one.prompt,
            audio=one.audio,
            gen_clip_seconds=one.gen_clip_seconds,
            duration_seconds=one.duration_seconds,
            strategy=one.edit_extend_strategy,
        )
        for place, one in enumerate(narration_script(pack, number).shots, start=1)
    ]


def letters(text: str) -> str:
    return "".join(one for one in text if one.isalnum())


# Passages


@given(narration=TEXTS, recap=st.none() | TEXTS)
def test_nothing_that_can_be_said_is_lost_and_the_order_is_kept(narration: str, recap: str | None) -> None:
    found = passages(narration, recap)
    assert letters("".join(one.text for one in found)) == letters((recap or "") + narration)


@given(narration=TEXTS, recap=st.none() | TEXTS)
def test_every_passage_has_words_and_a_length_that_a_voice_takes(narration: str, recap: str | None) -> None:
    for one in passages(narration, recap):
        assert letters(one.text)
        assert one.text == one.text.strip()
        assert len(one.text) <= MAX_PASSAGE
        assert "\n" not in one.text
        assert one.pause_s in (CUT_BREATH_S, BREATH_S, PARAGRAPH_S, SCENE_S)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_sentences_stay_whole_and_fill_a_passage_as_far_as_they_go(lengths: list[int]) -> None:
    sentences = [("Word" + " word" * length) + "." for length in lengths]
    found = [one.text for one in passages(" ".join(sentences))]
    assert " ".join(found) == " ".join(sentences)
    assert all(text.endswith(".") for text in found)
    for before, after in pairwise(found):
        first = re.match(r"[^.]*\.", after)
        assert first is not None
        assert len(before) + 1 + len(first[0]) > MAX_PASSAGE


def test_a_passage_ends_with_its_paragraph_and_the_recap_with_a_longer_pause() -> None:
    told = passages("It rained. It had rained all night.\n\nThen it stopped.", "Before this it was dry.\n\nVery dry.")
    assert [(one.text, one.pause_s) for one in told] == [
        ("Before this it was dry.", PARAGRAPH_S),
        ("Very dry.", SCENE_S),
        ("It rained. It had rained all night.", PARAGRAPH_S),
        ("Then it stopped.", PARAGRAPH_S),
    ]


def test_a_line_without_words_is_a_pause_and_not_spoken() -> None:
    assert [(one.text, one.pause_s) for one in passages("One.\n\n* * *\n\nTwo.\n—\nThree.")] == [
        ("One.", SCENE_S),
        ("Two.", SCENE_S),
        ("Three.", PARAGRAPH_S),
    ]


def test_lines_that_were_broken_to_fit_a_page_are_one_paragraph() -> None:
    assert [
        one.text for one in passages("The rain went on\nand on, all night,\nand then it stopped.\n“Well,”\nshe said.")
    ] == [
        "The rain went on and on, all night, and then it stopped.",
        "“Well,” she said.",
    ]


@pytest.mark.parametrize(
    "sentence",
    ['"Stop!" she cried, and nobody did, "stop it now!" and so on', "Mr. Orlo met Mrs. Vane and J. K. Moss at St. Ann"],
)
def test_a_stop_within_a_sentence_ends_no_passage(sentence: str) -> None:
    text = f"{'a' * (MAX_PASSAGE - len(sentence) // 2)}. {sentence}."
    assert [one.text for one in passages(text)] == [text.partition(". ")[0] + ".", f"{sentence}."]


def test_a_sentence_too_long_for_a_breath_is_cut_at_a_clause_then_at_a_word() -> None:
    clauses = passages(", ".join(["the rain came down on the roofs"] * 20) + ".")
    assert all(one.text.endswith(("roofs,", "roofs.")) for one in clauses)
    assert [one.pause_s for one in clauses] == [CUT_BREATH_S] * (len(clauses) - 1) + [PARAGRAPH_S]
    words = passages("rain " * 200)
    assert all(set(one.text.split()) == {"rain"} for one in words)
    unspaced = passages("夜" * 1200)
    assert [len(one.text) for one in unspaced] == [500, 500, 200]


# The script of an episode


def test_every_episode_of_a_pack_becomes_a_script_that_speaks_its_text() -> None:
    pack = sample()
    for episode in pack.episodes:
        script = narration_script(pack, episode.episode_number)
        lines = [spoken_line(shot.audio) for shot in script.shots]
        assert (script.episode_number, script.title) == (episode.episode_number, episode.title)
        assert letters("".join(line.text for line in lines if line)) == letters(
            (episode.recap or "") + episode.narration_text
        )
        assert {line.speaker for line in lines if line} == {NARRATOR}
        assert {shot.prompt.scene for shot in script.shots} == {pack.poster_spec.key_visual if pack.poster_spec else ""}
        for shot in script.shots:
            line = spoken_line(shot.audio)
            assert line is not None
            assert shot.gen_clip_seconds == pytest.approx(spoken_seconds(line.text), abs=1e-3)
            assert shot.duration_seconds > shot.gen_clip_seconds


def test_the_voice_that_a_pack_names_is_asked_for_in_every_passage() -> None:
    pack = AudioPack.model_validate(document() | {"narration_voice_id": "v-7"})
    assert {shot.audio.voice_id for shot in narration_script(pack, 2).shots} == {"v-7"}


def test_an_episode_that_a_pack_does_not_have_is_named() -> None:
    pack = sample().model_copy(update={"episodes": sample().episodes[:2]})
    with pytest.raises(ValueError, match=r"no episode 3: there are 1, 2"):
        narration_script(pack, 3)


def test_what_a_pack_leaves_out_of_its_bible_and_poster_is_filled_in() -> None:
    bible = SeriesBible.model_validate(bible_of(document()))
    assert bible.global_style_bible == document()["logline"]
    assert (bible.location_anchors, bible.character_anchors, bible.do_not_change) == ((), (), ())
    assert bible.model_extra == {"mood": "patient"}
    assert PosterSpec.model_validate(poster_spec_of(document())).key_visual == document()["logline"]
    long = document() | {"logline": "A kettle waits. " * 30}
    assert len(PosterSpec.model_validate(poster_spec_of(long)).key_visual) <= 300


def test_what_a_pack_has_is_kept() -> None:
    full = packs()[0][1]
    assert bible_of(full)["global_style_bible"] == full["series_bible"]["global_style_bible"]
    assert poster_spec_of(full) == full["poster_spec"]
    legacy = document() | {"Scripter_spec": {"style": "noir", "key_visual": "A kettle"}}
    assert poster_spec_of(legacy) == legacy["Scripter_spec"]


# Time


@given(lengths=st.lists(st.floats(0.1, 60), min_size=1, max_size=30), scored=st.booleans())
def test_passages_lie_in_order_with_their_pauses_and_nobody_is_talked_over(
    lengths: list[float], *, scored: bool
) -> None:
    shots = shots_of(sample(), 2)[: len(lengths)]
    voices: dict[UUID, float] = {shot.id: seconds for shot, seconds in zip(shots, lengths, strict=False)}
    found = reading(reversed(shots), voices, scored=scored)
    assert [one.shot_id for one in found.passages] == [shot.id for shot in shots]
    assert found.passages[0].starts_at_s == (OPENING_SCORED_S if scored else OPENING_S)
    for (before, after), shot in zip(pairwise(found.passages), shots, strict=False):
        pause_s = shot.duration_seconds - shot.gen_clip_seconds
        assert after.starts_at_s - before.ends_at_s == pytest.approx(pause_s, abs=1e-5)
    rest = found.seconds - found.passages[-1].ends_at_s
    assert rest == pytest.approx(CLOSING_SCORED_S if scored else CLOSING_S, abs=1e-5)


def test_a_passage_that_nobody_has_spoken_yet_counts_as_long_as_it_is_expected_to_be() -> None:
    shots = shots_of(sample(), 1)
    expected = math.fsum(shot.duration_seconds for shot in shots[:-1]) + shots[-1].gen_clip_seconds
    assert reading(shots, {}, scored=False).seconds == pytest.approx(expected + OPENING_S + CLOSING_S, abs=1e-4)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_a_length_that_is_none_is_refused(seconds: float) -> None:
    shots = shots_of(sample(), 1)
    with pytest.raises(ValueError, match="passage 2"):
        reading(shots, {shots[1].id: seconds}, scored=False)


def test_a_quick_narrator_needs_less_time_than_a_slow_one_and_both_the_same_pauses() -> None:
    for episode in sample().episodes:
        quick, slow = expected_seconds(episode)
        assert 180 <= quick < slow <= 360
