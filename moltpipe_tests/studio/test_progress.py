from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from moltpipe.studio.progress import progress_of
from moltpipe.studio.records import Episode, Production, Series, Shot, Stored, Take, Variant, Voiceover
from moltpipe.studio.screenplay import AudioType, PosterSpec, SeriesBible, ShotAudio
from moltpipe_tests.studio.making import shot

SPOKEN = ShotAudio(type=AudioType.NARRATION, description="It rains.")


def begun(medium: str) -> Production:
    """A pilot of three shots, in two of which somebody speaks."""
    series = Series(
        id=uuid4(),
        script_id=uuid4(),
        slug="rain",
        title="Rain",
        logline="It rains.",
        genre="drama",
        medium=medium,
        bible=SeriesBible(global_style_bible="Wet.", location_anchors=(), character_anchors=(), do_not_change=()),
        poster_spec=PosterSpec(style="noir", key_visual="Rain"),
        poster_key=None,
        script_data={},
        agent_name="cloud",
    )
    episode = Episode(uuid4(), series.id, 1, "Pilot", "rain-e01", medium)
    return Production(series, episode, (replace(shot(1), audio=SPOKEN), replace(shot(2), audio=SPOKEN), shot(3)))


def voiced(production: Production, lines: int) -> Production:
    spoken = [one for one in production.shots if one.audio is SPOKEN][:lines]
    return replace(production, voiceovers={one.id: _voiceover(one) for one in spoken})


def filmed(production: Production, variants: int) -> Production:
    numbers = range(1, variants + 1)
    return replace(
        production, takes={(one.id, number): _take(one, number) for one in production.shots for number in numbers}
    )


def published(production: Production, variants: int) -> Production:
    return replace(production, variants={number: _variant(number) for number in range(1, variants + 1)})


def told(production: Production) -> tuple[int, int, str]:
    found = progress_of(production)
    assert found is not None
    return found.done, found.total, found.making


def test_nobody_knows_how_much_there_is_to_do_before_the_script_is_there() -> None:
    assert progress_of(replace(begun("video"), shots=())) is None


def test_a_film_is_spoken_then_filmed_then_cut() -> None:
    film = begun("video")
    whole = 1 + 2 + 3 * 4 + 4
    assert told(film) == (1, whole, "lines 0 of 2")
    assert told(voiced(film, 1)) == (2, whole, "lines 1 of 2")
    assert told(filmed(voiced(film, 2), 1)) == (6, whole, "takes 3 of 12")
    assert told(filmed(voiced(film, 2), 4)) == (15, whole, "variants 0 of 4")
    assert told(published(filmed(voiced(film, 2), 4), 4)) == (whole, whole, "published")


def test_a_narration_is_spoken_then_cut_and_nothing_is_filmed() -> None:
    narration = begun("audio")
    assert told(narration) == (1, 4, "lines 0 of 2")
    assert told(voiced(narration, 2)) == (3, 4, "variants 0 of 1")
    assert told(published(voiced(narration, 2), 1)) == (4, 4, "published")


def _stored() -> Stored:
    return Stored(key=f"{uuid4()}.bin", sha256="0" * 64, bytes=1)


def _voiceover(of: Shot) -> Voiceover:
    return Voiceover(uuid4(), of.id, 1, _stored(), 2.0, ())


def _take(of: Shot, number: int) -> Take:
    return Take(uuid4(), of.id, number, 1, _stored(), 5.0)


def _variant(number: int) -> Variant:
    return Variant(uuid4(), number, _stored(), "a.vtt", "a.jpg", 18.0, "", is_selected=number == 1)
