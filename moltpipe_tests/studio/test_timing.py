from __future__ import annotations

import math
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.profiles import Profile, parse_profile
from moltpipe.studio.records import Shot
from moltpipe.studio.timing import (
    SPOKEN_WORDS_PER_S,
    VOICE_LEAD_S,
    VOICE_TAIL_S,
    clip_seconds,
    shot_frames,
    spoken_seconds,
    timeline,
)
from moltpipe_tests.studio.making import shot

PROFILES = st.sampled_from([parse_profile(name) for name in ("360p24", "720p25", "1080p30", "1080p60")])
VOICES = st.none() | st.floats(0.01, 60)
SCENES = st.lists(st.tuples(st.floats(3, 15), VOICES), min_size=1, max_size=12)


def laid_out(scenes: list[tuple[float, float | None]]) -> tuple[list[Shot], dict[UUID, float]]:
    shots = [shot(number, duration) for number, (duration, _) in enumerate(scenes, start=1)]
    return shots, {one.id: voice for one, (_, voice) in zip(shots, scenes, strict=True) if voice is not None}


@given(scenes=SCENES, profile=PROFILES)
def test_shots_lie_end_to_end_and_sum_exactly(scenes: list[tuple[float, float | None]], profile: Profile) -> None:
    shots, voices = laid_out(scenes)
    line = timeline(reversed(shots), voices, profile)
    assert [slot.shot_id for slot in line.slots] == [one.id for one in shots]
    assert line.slots[0].start_frame == 0
    for before, after in zip(line.slots, line.slots[1:], strict=False):
        assert after.start_frame == before.end_frame
    assert line.frames == sum(slot.frames for slot in line.slots)
    assert line.seconds * profile.rate == pytest.approx(line.frames, abs=1e-6)


@given(scenes=SCENES, profile=PROFILES)
def test_every_voice_ends_within_its_shot_with_its_tail(
    scenes: list[tuple[float, float | None]], profile: Profile
) -> None:
    shots, voices = laid_out(scenes)
    for slot in timeline(shots, voices, profile).slots:
        starts, ends = slot.start_frame / profile.rate, slot.end_frame / profile.rate
        assert slot.voice_starts_at == pytest.approx(starts + slot.voice_offset)
        assert slot.voice_starts_at >= starts
        if slot.shot_id in voices:
            assert slot.voice_starts_at + voices[slot.shot_id] + VOICE_TAIL_S <= ends + 1e-6


@given(duration=st.floats(3, 15), voice=VOICES, longer=st.floats(0, 10), profile=PROFILES)
def test_a_longer_script_or_voice_never_makes_a_shorter_shot(
    duration: float, voice: float | None, longer: float, profile: Profile
) -> None:
    frames = shot_frames(duration, voice, profile)
    assert frames >= profile.frames(duration)
    assert shot_frames(duration + longer, voice, profile) >= frames
    assert shot_frames(duration, (voice or 0) + longer, profile) >= frames


def test_a_shot_lasts_as_its_script_says_where_the_voice_is_shorter() -> None:
    profile = parse_profile("720p24")
    assert shot_frames(6, 6 - VOICE_LEAD_S - VOICE_TAIL_S, profile) == 144
    assert shot_frames(6, 6 - VOICE_LEAD_S - VOICE_TAIL_S + 0.001, profile) == 145


@given(duration=st.floats(3, 15), gen=st.floats(3, 10), voice=VOICES, profile=PROFILES)
def test_a_clip_is_whole_frames_and_no_longer_than_its_shot(
    duration: float, gen: float, voice: float | None, profile: Profile
) -> None:
    seconds = clip_seconds(shot(1, duration, gen_clip_seconds=gen), voice, profile)
    assert seconds * profile.rate == pytest.approx(round(seconds * profile.rate), abs=1e-6)
    assert seconds <= shot_frames(duration, voice, profile) / profile.rate
    assert seconds <= gen + 0.5 / profile.rate + 1e-9


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_a_length_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="voiceover"):
        shot_frames(6, seconds, parse_profile("720p24"))


def test_an_episode_without_shots_has_no_length() -> None:
    line = timeline([], {}, parse_profile("720p24"))
    assert (line.frames, line.seconds) == (0, 0)


def test_a_line_is_expected_to_last_as_long_as_its_words_take() -> None:
    assert spoken_seconds("Who wrote this, and when - and why?") == pytest.approx(7 / SPOKEN_WORDS_PER_S)
    assert spoken_seconds("") == spoken_seconds("... !") == 0
    assert spoken_seconds("灯台は夜を照らす。") == pytest.approx(4 / SPOKEN_WORDS_PER_S)
    assert spoken_seconds("LOC_1 灯台") == pytest.approx(2 / SPOKEN_WORDS_PER_S)
