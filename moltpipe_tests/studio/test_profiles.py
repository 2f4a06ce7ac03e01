from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.profiles import MAX_LINES, MAX_RATE, TICKS, Fit, parse_profile

ASPECTS = {"": 16 / 9, "-16x9": 16 / 9, "-9x16": 9 / 16, "-1x1": 1.0}


@pytest.mark.parametrize(
    ("name", "width", "height", "rate"),
    [
        ("360p24", 640, 360, 24),
        ("480p25", 854, 480, 25),
        ("720p24-16x9", 1280, 720, 24),
        ("1080p30-9x16", 1080, 1920, 30),
        ("720p24-1x1", 720, 720, 24),
        ("2160p60", 3840, 2160, 60),
    ],
)
def test_a_name_says_size_shape_and_rate(name: str, width: int, height: int, rate: int) -> None:
    profile = parse_profile(name)
    assert (profile.name, profile.width, profile.height, profile.rate) == (name, width, height, rate)
    assert (profile.fit, profile.encoder) == (Fit.PAD, "libx264")


@given(
    lines=st.integers(50, MAX_LINES // 2).map(lambda half: 2 * half),
    rate=st.sampled_from([rate for rate in range(1, MAX_RATE + 1) if TICKS % rate == 0]),
    aspect=st.sampled_from(list(ASPECTS)),
)
def test_every_profile_has_even_sides_and_nearly_its_shape(lines: int, rate: int, aspect: str) -> None:
    profile = parse_profile(f"{lines}p{rate}{aspect}")
    assert min(profile.width, profile.height) == lines
    assert profile.width % 2 == profile.height % 2 == 0
    assert profile.width / profile.height == pytest.approx(ASPECTS[aspect], rel=0.02)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "720",
        "720p",
        "p24",
        "0720p24",
        "721p24",
        "2162p24",
        "720p61",
        "720p0",
        "720p29",
        "720p24-4x3",
        "720P24",
        "720p24 ",
        "99p24",
    ],
)
def test_what_is_no_profile_is_refused_with_what_was_expected(name: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_profile(name)


@given(frames=st.integers(1, 1_000_000), rate=st.sampled_from([12, 24, 25, 30, 60]))
def test_frames_and_seconds_agree(frames: int, rate: int) -> None:
    profile = parse_profile(f"360p{rate}")
    assert profile.frames(profile.seconds(frames)) == frames


def test_no_length_has_no_frame() -> None:
    assert parse_profile("360p24").frames(0.0) == 1
