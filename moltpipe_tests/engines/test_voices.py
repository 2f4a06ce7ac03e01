"""Who gets which voice at a hosted engine."""

from __future__ import annotations

import pytest

from moltpipe.engines.protocols import LineRequest
from moltpipe.engines.voices import Actor, Gender, cast, gender

COMPANY = (
    *(Actor(f"woman {number}", Gender.FEMALE) for number in range(5)),
    *(Actor(f"man {number}", Gender.MALE) for number in range(5)),
    Actor("neither"),
)
SPEAKERS = [f"CHAR_{number}" for number in range(40)]


def _line(speaker: str, style: str | None = None) -> LineRequest:
    return LineRequest(text="Who wrote this?", speaker=speaker, voice_style=style)


@pytest.mark.parametrize(
    ("style", "heard"),
    [
        ("calm, old, female", Gender.FEMALE),
        ("deep male", Gender.MALE),
        ("a woman of few words", Gender.FEMALE),
        ("humane", None),
        ("male or female", None),
        (None, None),
    ],
)
def test_a_style_says_how_a_voice_is_heard(style: str | None, heard: Gender | None) -> None:
    assert gender(style) is heard


def test_a_speaker_keeps_one_voice_whatever_the_order_of_the_list() -> None:
    for speaker in SPEAKERS:
        assert cast(_line(speaker), COMPANY) == cast(_line(speaker.lower()), reversed(COMPANY))


def test_a_cast_does_not_sound_all_alike() -> None:
    assert len({cast(_line(speaker), COMPANY) for speaker in SPEAKERS}) > 8


def test_a_voice_fits_what_the_style_asks_for() -> None:
    assert all((cast(_line(speaker, "old female"), COMPANY) or "").startswith("woman") for speaker in SPEAKERS)
    assert all(cast(_line(speaker, "male"), [Actor("neither")]) == "neither" for speaker in SPEAKERS)


def test_a_voice_more_in_the_list_recasts_few() -> None:
    more = (*COMPANY, Actor("new", Gender.MALE))
    recast = [speaker for speaker in SPEAKERS if cast(_line(speaker), COMPANY) != cast(_line(speaker), more)]
    assert all(cast(_line(speaker), more) == "new" for speaker in recast)
    assert len(recast) < len(SPEAKERS) / 4


def test_nobody_to_cast_is_none() -> None:
    assert cast(_line("CHAR_MARA"), ()) is None
