from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.engines.prompting import film_prompt
from moltpipe.engines.protocols import TakeRequest
from moltpipe.studio.screenplay import LocationAnchor, SeriesBible
from moltpipe_tests.engines.conftest import PILOT, TakeRequests


def shown(take: TakeRequests, **prompt: Any) -> str:  # noqa: ANN401 - any field of the shot's prompt
    return film_prompt(take(prompt=prompt))


def with_bible(request: TakeRequest, **changed: Any) -> TakeRequest:  # noqa: ANN401 - any field of the bible
    return request.model_copy(update={"bible": request.bible.model_copy(update=changed)})


def test_the_shot_comes_first_and_the_style_of_the_series_last(take: TakeRequests) -> None:
    said = film_prompt(take(shot=1, variant=2, wanted=4))

    assert said == (
        "Slow dolly in. Mara looks at the sea at dusk. Movement: breathing. Mara: a tall brass robot. "
        "Keep unchanged: Mara has exactly one eye; The sea is never calm. "
        "Look: slow dolly move, shallow depth of field, background out of focus. "
        "Style: Painterly wide frames, teal nights and amber lamps."
    )


@pytest.mark.parametrize(
    ("camera", "motion", "words"),
    [
        ("wide_establishing", "particle_drift", "Wide establishing shot. ! Movement: particle drift."),
        ("extreme_close_up", "static", "Extreme close-up. ! Movement: static."),
        ("low_angle", None, "Low angle shot. !"),
        ("A crane rises", "the rain gets heavier", "A crane rises. ! Movement: the rain gets heavier."),
    ],
)
def test_terms_of_the_vocabulary_become_plain_words(
    take: TakeRequests, camera: str, motion: str | None, words: str
) -> None:
    assert shown(take, camera=camera, scene="!", motion=motion).startswith(words)


def test_everybody_and_every_place_that_the_shot_names_is_explained(take: TakeRequests) -> None:
    said = shown(take, scene="CHAR_TOMAS waits.", details="The tide archive behind him.")

    assert "Tomas waits. The tide archive behind him." in said
    assert "Tomas: an old engineer." in said
    assert "The tide archive: a flooded hall of shelves under the rock." in said
    assert "brass robot" not in said
    assert "white lighthouse" not in said


def test_ids_become_names_also_in_the_bible_s_own_words(take: TakeRequests) -> None:
    request = with_bible(
        take(shot=2), do_not_change=("the lamp of LOC_LIGHTHOUSE",), global_style_bible="CHAR_MARA is always small."
    )

    said = film_prompt(request)

    assert "Keep unchanged: the lamp of the lighthouse." in said
    assert said.endswith("Style: Mara is always small.")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Rain on LOC_LIGHTHOUSE.", "Rain on the lighthouse."),
        ("Rain on the LOC_LIGHTHOUSE.", "Rain on the lighthouse."),
        ("LOC_LIGHTHOUSE, seen by CHAR_MARA", "The lighthouse, seen by Mara."),
        ("Rain on LOC_OLD_PIER", "Rain on the old pier."),
        ("char_mara's hand", "Mara's hand."),
    ],
)
def test_no_id_reaches_a_model(take: TakeRequests, written: str, said: str) -> None:
    assert f" {said} " in shown(take, scene=written)


def test_a_place_without_a_name_is_its_description(take: TakeRequests) -> None:
    hall = LocationAnchor(id="LOC_1", description="A hall of ice.", visual_rules="Blue light only.")

    said = film_prompt(with_bible(take(prompt={"scene": "Mara in LOC_1, alone"}), location_anchors=(hall,)))

    assert "Mara in A hall of ice, alone." in said
    assert "Blue light only." in said


def test_a_name_counts_only_as_whole_words(take: TakeRequests) -> None:
    assert "brass robot" not in shown(take, scene="A maraca on the lighthouses' wall")
    assert "brass robot" in shown(take, scene="MARA, at last")


def test_line_breaks_of_an_agent_do_not_reach_the_prompt(take: TakeRequests) -> None:
    said = shown(take, scene="A dry letter\n\n lies\ton wet sand", details="  ")

    assert "A dry letter lies on wet sand." in said
    assert "\n" not in said


def test_a_variant_s_style_survives_a_long_style_of_the_series(take: TakeRequests) -> None:
    long = "amber lamps and teal nights " * 70
    one, two = (
        film_prompt(with_bible(take(variant=number, wanted=4), global_style_bible=long), limit=600) for number in (1, 2)
    )

    assert one != two
    assert "atmospheric fog" in one
    assert len(one) <= 600
    assert one.endswith(("amber", "lamps", "and", "teal", "nights"))


def test_what_is_cut_off_is_never_the_shot(take: TakeRequests) -> None:
    whole = film_prompt(take(shot=1))

    assert film_prompt(take(shot=1), limit=60) == "Slow dolly in. Mara looks at the sea at dusk. Movement:"[:60].rstrip(
        ":"
    )
    assert whole.startswith(film_prompt(take(shot=1), limit=100))


@given(limit=st.integers(20, 2500), scene=st.text(min_size=1, max_size=500).filter(lambda text: bool(text.strip())))
def test_a_prompt_is_one_line_within_its_limit_and_the_same_each_time(limit: int, scene: str) -> None:
    request = _plain(scene, PILOT.series_bible)

    said = film_prompt(request, limit=limit)

    assert 0 < len(said) <= limit
    assert said == film_prompt(request, limit=limit) == " ".join(said.split())


def _plain(scene: str, bible: SeriesBible) -> TakeRequest:
    written = PILOT.shots[0]
    return TakeRequest(
        series_title=PILOT.title,
        episode_number=1,
        shot_number=1,
        shot_count=6,
        prompt=written.prompt.model_copy(update={"scene": scene}),
        audio=written.audio,
        bible=bible,
        poster=PILOT.poster_spec,
        variant_number=1,
        style_suffix="",
        seconds=5,
        width=426,
        height=240,
        rate=12,
        seed=7,
    )


@pytest.mark.parametrize(
    ("audio", "said"),
    [
        (
            {"type": "ambient", "description": "Rain on glass, far thunder."},
            "Sound: Rain on glass, far thunder. Nobody",
        ),
        ({"type": "ambient"}, "Sound: room tone. Nobody"),
        ({"type": "narration", "description": "Once upon a time."}, "Sound: room tone. Nobody"),
    ],
)
def test_an_engine_that_makes_sound_is_told_what_is_heard_and_that_the_rest_is_not(
    take: TakeRequests, audio: dict[str, str], said: str
) -> None:
    request = take(audio=audio)
    assert "Sound:" not in film_prompt(request)
    with_sound = film_prompt(request.model_copy(update={"with_sound": True}))
    assert f"{said} speaks and there is no music." in with_sound
    assert "Once upon" not in with_sound


def test_a_request_without_sound_is_the_request_that_it_was_before_there_was_a_choice(take: TakeRequests) -> None:
    assert "with_sound" not in take().model_dump(mode="json")
    assert take().model_copy(update={"with_sound": True}).model_dump(mode="json")["with_sound"] is True
