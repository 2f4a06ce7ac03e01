from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moltpipe.studio.asked import (
    Asked,
    Stretch,
    asked_of,
    asked_of_reading,
    asks_for_stillness,
    beyond,
    lays_a_bed,
    outside,
    transitions,
)
from moltpipe.studio.finish import HOUSE_FINISH, Finish
from moltpipe.studio.narration import Reading, Spoken
from moltpipe.studio.profiles import parse_profile
from moltpipe.studio.records import ClipSound, Episode, Production, Score, Series, Shot, Stored, Take, Voiceover, Word
from moltpipe.studio.screenplay import (
    AudioType,
    ExtendStrategy,
    PosterSpec,
    SeriesBible,
    ShotAudio,
    ShotPrompt,
    Transition,
)
from moltpipe.studio.timing import timeline
from moltpipe_tests.studio.making import shot as a_shot

P = parse_profile("720p24")
STORED = Stored("a/key", "0" * 64, 1)
DRY = replace(HOUSE_FINISH, ambience=False)
"""A house that lays no beds."""


def shot(
    number: int,
    seconds: float = 6,
    *,
    camera: str = "slow_dolly_in",
    motion: str | None = "subtle_motion",
    scene: str = "A kettle on a stove.",
    audio: AudioType = AudioType.AMBIENT,
    strategy: ExtendStrategy = ExtendStrategy.SLOW_2D_PAN,
    transition: Transition = Transition.CUT,
) -> Shot:
    return replace(
        a_shot(number, seconds),
        prompt=ShotPrompt(camera=camera, scene=scene, motion=motion),
        audio=ShotAudio(type=audio),
        strategy=strategy,
        transition=transition,
    )


def take(of: Shot, seconds: float | None = None, *, sound_s: float | None = None) -> Take:
    return Take(
        id=uuid4(),
        shot_id=of.id,
        variant_number=1,
        take_number=1,
        media=STORED,
        duration_seconds=of.duration_seconds if seconds is None else seconds,
        sound=ClipSound(STORED, sound_s) if sound_s is not None else None,
    )


def voice(of: Shot, *words: tuple[float, float], seconds: float = 3.0) -> Voiceover:
    return Voiceover(
        id=uuid4(),
        shot_id=of.id,
        take_number=1,
        media=STORED,
        duration_seconds=seconds,
        words=tuple(Word("word", start, end) for start, end in words),
    )


def asked(
    shots: list[Shot],
    takes: list[Take] | None = None,
    voices: list[Voiceover] | None = None,
    *,
    finish: Finish = HOUSE_FINISH,
    scored: bool = False,
) -> Asked:
    production = replace(
        _production(shots),
        voiceovers={one.shot_id: one for one in voices or ()},
        takes={(one.shot_id, 1): one for one in takes or [take(of) for of in shots]},
        score=Score(uuid4(), uuid4(), 1, STORED, 30.0) if scored else None,
    )
    lengths = {one.shot_id: one.duration_seconds for one in voices or ()}
    return asked_of(production, 1, timeline(shots, lengths, P), finish)


def _production(shots: list[Shot]) -> Production:
    return Production(_series(), Episode(uuid4(), uuid4(), 2, "The second", "the-kettle-e02"), tuple(shots))


def _series() -> Series:
    fields: dict[str, Any] = {"id": uuid4(), "script_id": uuid4(), "script_data": {}, "poster_key": None}
    fields |= dict.fromkeys(("slug", "title", "logline", "genre", "medium", "agent_name"), "a text")
    bible = SeriesBible(global_style_bible="plain", location_anchors=(), character_anchors=(), do_not_change=())
    return Series(**fields, bible=bible, poster_spec=PosterSpec(style="plain", key_visual="A kettle"))


def test_an_ordinary_episode_asks_for_nothing() -> None:
    assert asked([shot(1), shot(2), shot(3, transition=Transition.CROSSFADE)]) == Asked()


def test_a_fade_through_black_may_be_black_around_its_cut() -> None:
    found = asked([shot(1), shot(2, transition=Transition.FADE_THROUGH_BLACK)])
    assert found.black == (Stretch(5.5, 6.5),)
    assert found.frozen == ()


@pytest.mark.parametrize("scene", ["Black screen. A hum.", "Cut to black.", "The frame goes black", "Total darkness."])
def test_a_shot_that_is_meant_to_be_dark_may_be_black_and_still(scene: str) -> None:
    found = asked([shot(1), shot(2, scene=scene)])
    assert found.black == found.frozen == (Stretch(6, 12),)


@pytest.mark.parametrize("scene", ["A black cat crosses the road.", "She wears black.", "The black lighthouse at dusk"])
def test_black_things_are_no_darkness(scene: str) -> None:
    assert asked([shot(1, scene=scene)]).black == ()


@pytest.mark.parametrize(
    ("strategy", "frozen"),
    [
        (ExtendStrategy.NONE, (Stretch(4, 10),)),
        (ExtendStrategy.HOLD_LAST_FRAME, (Stretch(4, 10),)),
        (ExtendStrategy.LOOP_SUBTLE_MOTION, (Stretch(4, 10),)),
        (ExtendStrategy.SLOW_2D_PAN, (Stretch(4, 10),)),
    ],
)
def test_a_held_take_may_stand_still_beyond_its_own_length(
    strategy: ExtendStrategy, frozen: tuple[Stretch, ...]
) -> None:
    of = shot(1, 10, strategy=strategy)
    assert asked([of], [take(of, 4)]).frozen == frozen


@pytest.mark.parametrize("strategy", list(ExtendStrategy))
def test_a_take_as_long_as_its_shot_may_not_stand_still(strategy: ExtendStrategy) -> None:
    of = shot(1, 10, strategy=strategy)
    assert asked([of], [take(of, 10)]).frozen == ()


@pytest.mark.parametrize("strategy", list(ExtendStrategy))
def test_a_take_of_two_frames_is_a_still_whatever_the_strategy(strategy: ExtendStrategy) -> None:
    of = shot(1, 10, strategy=strategy)
    (still,) = asked([of], [take(of, 2 / 24)]).frozen
    assert still.end_s == 10
    assert still.start_s <= 2 / 24


@given(st.integers(3, 240), st.integers(4, 360))
@example(17, 25)
def test_a_speed_ramp_may_seem_still_only_where_it_is_slower_than_half(take_frames: int, frames: int) -> None:
    of = shot(1, frames / 24, strategy=ExtendStrategy.SPEED_RAMP)
    found = asked([of], [take(of, take_frames / 24)]).frozen
    if take_frames >= frames:
        assert found == ()
        return
    mean = Fraction(take_frames - 1, frames - 1)
    first = min(Fraction(1), Fraction(3, 2) * mean)
    speeds = [first - (first - (2 * mean - first)) * Fraction(n, frames - 1) for n in range(frames)]
    allowed = [n for n in range(frames) if any(one.start_s <= (n + 0.5) / 24 < one.end_s for one in found)]
    slow = [n for n, speed in enumerate(speeds) if speed < Fraction(1, 2)]
    assert set(slow) <= set(allowed)
    assert len(allowed) <= len(slow) + 1


@pytest.mark.parametrize(
    ("camera", "motion", "still"),
    [
        ("static", "walking", True),
        ("slow_pan_left", "static", True),
        ("locked-off tripod", None, True),
        ("medium_shot", "no motion", True),
        ("slow_dolly_in", "subtle_motion", False),
        ("handheld", "breathing", False),
        ("installation view", "distillation", False),
    ],
)
def test_a_shot_asks_for_stillness_by_its_terms(camera: str, motion: str | None, *, still: bool) -> None:
    assert asks_for_stillness(shot(1, camera=camera, motion=motion)) is still
    assert bool(asked([shot(1, camera=camera, motion=motion)]).frozen) is still


def test_a_silent_shot_may_be_silent_even_under_music() -> None:
    assert asked([shot(1), shot(2, audio=AudioType.SILENT)], scored=True).silent == (Stretch(6, 12),)


def test_under_beds_nothing_else_may_be_silent() -> None:
    of = shot(1, audio=AudioType.NARRATION)
    assert asked([of], voices=[voice(of, (0.1, 0.6))]).silent == ()


def test_without_beds_everything_but_speech_may_be_silent() -> None:
    of = shot(1, audio=AudioType.NARRATION)
    found = asked([of, shot(2)], voices=[voice(of, (0.25, 0.75), (1.25, 2.25))], finish=DRY)
    assert found.silent == (Stretch(0, 0.5), Stretch(1.0, 1.5), Stretch(2.5, 6), Stretch(6, 12))


def test_a_line_without_word_times_is_spoken_all_along() -> None:
    of = shot(1, audio=AudioType.NARRATION)
    assert asked([of], voices=[voice(of, seconds=3.0)], finish=DRY).silent == (Stretch(0, 0.25), Stretch(3.25, 6))


def test_a_clips_own_sound_may_pause_and_a_bed_fills_what_it_leaves_open() -> None:
    of = shot(1)
    assert asked([of], [take(of, sound_s=5.8)]).silent == (Stretch(0, 6),)
    assert asked([of], [take(of, sound_s=4.0)]).silent == ()
    assert asked([of], [take(of, sound_s=5.8)], finish=replace(HOUSE_FINISH, clip_sound=False)).silent == ()


@pytest.mark.parametrize("frames_before", range(1, 240, 7))
def test_a_clip_whose_sound_just_covers_its_shot_may_pause_wherever_the_shot_lies(frames_before: int) -> None:
    first, of = shot(1, frames_before / 24, audio=AudioType.SILENT), shot(2, 5.5)
    found = asked([first, of], [take(first), take(of, 5, sound_s=5.0)])
    assert lays_a_bed(of, ClipSound(STORED, 5.0), 5.5, HOUSE_FINISH) is False
    assert found.silent[-1].end_s == pytest.approx(frames_before / 24 + 5.5)


def test_a_reading_may_be_silent_only_where_nobody_speaks_and_no_room_is_heard() -> None:
    of, other = shot(1, audio=AudioType.NARRATION), shot(2, audio=AudioType.NARRATION)
    spoken = {of.id: voice(of, (0.25, 2.0), seconds=2.0), other.id: voice(other, seconds=3.0)}
    production = replace(_production([of, other]), voiceovers=spoken)
    timing = Reading((Spoken(of.id, 1, 1.0, 2.0), Spoken(other.id, 2, 5.0, 3.0)), 10.0)
    assert asked_of_reading(production, timing, HOUSE_FINISH) == Asked()
    assert asked_of_reading(production, timing, DRY).silent == (Stretch(0, 1.25), Stretch(3, 5), Stretch(8, 10))


def test_transitions_lie_on_both_sides_of_their_cuts() -> None:
    shots = [shot(1), shot(2, transition=Transition.CROSSFADE), shot(3)]
    assert transitions(timeline(shots, {}, P)) == [Stretch(5.75, 6.25)]


SECONDS = st.integers(0, 40).map(lambda quarters: quarters / 4)
STRETCHES = st.lists(st.tuples(SECONDS, SECONDS).map(lambda pair: Stretch(min(pair), max(pair))), max_size=6)
MOMENTS = [(eighth + 0.5) / 8 for eighth in range(80)]


def _within(moment: float, stretches: list[Stretch]) -> bool:
    return any(one.start_s <= moment < one.end_s for one in stretches)


@given(STRETCHES, st.tuples(SECONDS, SECONDS))
def test_what_is_outside_is_in_the_whole_and_in_none_of_the_stretches(
    stretches: list[Stretch], ends: tuple[float, float]
) -> None:
    whole = Stretch(min(ends), max(ends))
    left = outside(stretches, whole)
    assert all(one.seconds > 0 for one in left)
    for moment in MOMENTS:
        assert _within(moment, left) is (_within(moment, [whole]) and not _within(moment, stretches))


@given(STRETCHES, STRETCHES)
def test_asking_for_more_never_makes_a_fault(found: list[Stretch], wanted: list[Stretch]) -> None:
    strict = beyond(found, [], shortest_s=1.0, tolerance_s=0.25)
    lenient = beyond(found, wanted, shortest_s=1.0, tolerance_s=0.25)
    assert all(any(one.start_s <= part.start_s and part.end_s <= one.end_s for one in strict) for part in lenient)
    assert beyond(found, found, shortest_s=0.01, tolerance_s=0.25) == []
    assert all(part.seconds >= 1.0 for part in lenient)


@given(STRETCHES, STRETCHES)
def test_no_fault_reaches_into_what_was_asked_for(found: list[Stretch], wanted: list[Stretch]) -> None:
    faults = beyond(found, wanted, shortest_s=0.5, tolerance_s=0.0)
    assert not any(_within(moment, faults) and _within(moment, wanted) for moment in MOMENTS)
