from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.keys import (
    BadKeyError,
    content_type,
    episode_key,
    partition_key,
    period_key,
    poster_key,
    slug,
    take_key,
    variant_key,
    voiceover_key,
)
from moltpipe_tests.studio.making import NOON, period

CONTRACT = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}\Z")
SERIES = UUID("0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f9")
SHA256 = "ab" * 32


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("The Buoy That Answered", "the-buoy-that-answered"),
        ("  Don't -- look!  ", "dont-look"),
        ("Crème Brûlée & Straße", "creme-brulee-and-strasse"),
        ("Ærø, Łódź, İstanbul", "aero-lodz-istanbul"),
        ("\uff13:\uff10\uff17", "3-07"),
    ],
)
def test_a_title_becomes_plain_ascii(title: str, expected: str) -> None:
    assert slug(title) == expected


def test_a_long_title_is_cut_without_a_loose_end() -> None:
    key = episode_key(slug("a" * 49 + " b"), SERIES, 1)
    assert key == "a" * 49 + "-0f1e2d3c-e01"


def test_titles_without_a_letter_to_keep_stay_apart() -> None:
    assert slug("東京") != slug("大阪")
    assert slug("東京").startswith("untitled-")


@given(title=st.text(st.characters(), max_size=300), series_id=st.uuids(), number=st.integers(1, 99))
def test_every_episode_of_every_title_has_a_partition_key(title: str, series_id: UUID, number: int) -> None:
    key = episode_key(slug(title), series_id, number)
    assert CONTRACT.match(key)
    assert key.endswith(f"-{series_id.hex[:8]}-e{number:02d}")
    assert slug(slug(title)) == slug(title)


@given(starts_at=st.datetimes(timezones=st.timezones()))
def test_every_period_has_a_partition_key(starts_at: datetime) -> None:
    try:
        one = period(starts_at, starts_at + timedelta(minutes=1))
        key = period_key(one)
    except OverflowError:  # the first and last day of the calendar have no UTC
        return
    assert CONTRACT.match(key)


def test_a_periods_key_shows_its_start_in_utc() -> None:
    starts_at = datetime(2026, 2, 9, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    one = period(starts_at, starts_at + timedelta(days=1))
    assert period_key(one) == f"20260208-2330z-{one.id.hex[:8]}"


def test_a_period_without_a_time_zone_has_no_key() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        period_key(period(NOON.replace(tzinfo=None), NOON))


@pytest.mark.parametrize("text", ["", "-a", "A", "a b", "a\n", "ä", "a" * 64, "a.b", "a/b"])
def test_what_is_no_partition_key_is_refused(text: str) -> None:
    with pytest.raises(BadKeyError) as refused:
        partition_key(text)
    assert refused.value.text == text


def test_an_episode_number_out_of_range_is_refused() -> None:
    for number in (0, 100):
        with pytest.raises(BadKeyError, match="1 to 99"):
            episode_key("a", SERIES, number)


def test_keys_in_the_store_are_those_of_the_contract() -> None:
    assert variant_key(SERIES, 2, SHA256) == f"episodes/{SERIES}/variant-2-abababababab.mp4"
    assert variant_key(SERIES, 2, SHA256, ".vtt") == f"episodes/{SERIES}/variant-2-abababababab.vtt"
    assert take_key(SERIES, 1, 3, SHA256) == f"takes/{SERIES}/1-3-abababababab.mp4"
    assert voiceover_key(SERIES, 3, SHA256) == f"voiceovers/{SERIES}/3-abababababab.wav"
    assert poster_key(SERIES, SHA256) == f"series/{SERIES}/poster-abababababab.png"


def test_a_key_without_a_whole_hash_is_refused() -> None:
    for digest in ("", "abc", SHA256.upper(), SHA256 + "\n"):
        with pytest.raises(BadKeyError, match="sha256"):
            take_key(SERIES, 1, 1, digest)


def test_every_stored_kind_has_a_content_type_and_no_other() -> None:
    suffixes = (".mp4", ".vtt", ".srt", ".jpg")
    kinds = [content_type(variant_key(SERIES, 1, SHA256, suffix)) for suffix in suffixes]
    kinds += [content_type(voiceover_key(SERIES, 1, SHA256)), content_type(poster_key(SERIES, SHA256))]
    assert [kind.split(";")[0] for kind in kinds] == [
        "video/mp4",
        "text/vtt",
        "application/x-subrip",
        "image/jpeg",
        "audio/wav",
        "image/png",
    ]
    with pytest.raises(BadKeyError):
        content_type("episodes/x/variant-1.exe")
    with pytest.raises(BadKeyError):
        variant_key(SERIES, 1, SHA256, ".wav")
