"""Rows beside objects: what is missing, what is unknown, however the pages fall."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.keys import poster_key, take_key, variant_key
from moltpipe.studio.sweeping import (
    AREAS,
    Comparison,
    Expected,
    Listed,
    Stray,
    area_behind,
    compare,
    end_of,
    stem_of,
    stray_keys,
)
from moltpipe_tests.studio.making import NOON

ROW = UUID(int=1)
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=3)
SIZES = st.integers(1, 3)


def row(key: str, size: int | None = 1) -> Expected:
    return Expected(key, "takes", ROW, size)


def listed(key: str, size: int = 1) -> Listed:
    return Listed(key, size, NOON)


def whole(rows: list[Expected], objects: list[Listed]) -> Comparison:
    return compare(rows, objects, more_rows=False, more_objects=False)


def gone(comparison: Comparison) -> list[tuple[str, int | None]]:
    return [(one.expected.key, one.found_bytes) for one in comparison.missing]


def test_a_row_and_its_object_are_no_news() -> None:
    assert whole([row("a")], [listed("a")]) == Comparison(None, [], [])


def test_an_object_that_is_gone_or_of_another_size_is_missing() -> None:
    assert gone(whole([row("a"), row("b", 5)], [listed("b", 4)])) == [("a", None), ("b", 4)]


def test_a_row_that_does_not_keep_the_size_asks_only_that_the_object_is_there() -> None:
    assert whole([row("a", None)], [listed("a", 77)]).missing == []
    assert gone(whole([row("a", None)], [])) == [("a", None)]


def test_an_object_without_a_row_is_unknown() -> None:
    assert whole([], [listed("a")]).unknown == [listed("a")]


def test_behind_the_end_of_the_shorter_page_nothing_is_judged() -> None:
    """The object of row `c` may stand on the next page of the listing."""
    comparison = compare([row("a"), row("c")], [listed("a"), listed("b")], more_rows=False, more_objects=True)
    assert comparison == Comparison("b", [], [listed("b")])
    comparison = compare([row("a"), row("b")], [listed("a"), listed("c")], more_rows=True, more_objects=False)
    assert comparison.up_to == "b"
    assert gone(comparison) == [("b", None)]
    assert comparison.unknown == []


@given(
    rows=st.dictionaries(KEYS, SIZES, max_size=20),
    objects=st.dictionaries(KEYS, SIZES, max_size=20),
    of_rows=st.integers(1, 5),
    of_objects=st.integers(1, 5),
)
def test_however_the_pages_fall_every_key_is_judged_once_and_as_if_there_were_none(
    rows: dict[str, int], objects: dict[str, int], of_rows: int, of_objects: int
) -> None:
    missing: list[tuple[str, int | None]] = []
    unknown: list[str] = []
    after = ""
    while True:
        rows_left = sorted(key for key in rows if key > after)
        objects_left = sorted(key for key in objects if key > after)
        comparison = compare(
            [row(key, rows[key]) for key in rows_left[:of_rows]],
            [listed(key, objects[key]) for key in objects_left[:of_objects]],
            more_rows=len(rows_left) > of_rows,
            more_objects=len(objects_left) > of_objects,
        )
        missing += gone(comparison)
        unknown += [one.key for one in comparison.unknown]
        if comparison.up_to is None:
            break
        assert comparison.up_to > after
        after = comparison.up_to
    assert missing == [(key, objects.get(key)) for key in sorted(rows) if objects.get(key) != rows[key]]
    assert unknown == sorted(objects.keys() - rows.keys())


@given(st.text(st.characters(codec="utf-8"), max_size=5), st.text(st.characters(codec="utf-8"), max_size=5))
def test_texts_compare_like_their_bytes(one: str, other: str) -> None:
    """S3 and the indexes compare bytes, this code compares texts: a merge of two orders would lose keys."""
    assert (one < other) == (one.encode() < other.encode())


@given(st.sampled_from(AREAS), KEYS)
def test_an_area_ends_behind_all_of_its_keys(area: str, rest: str) -> None:
    assert area < area + rest < end_of(area)


def test_a_sweep_goes_from_area_to_area_until_it_is_through() -> None:
    cursor, walked = "", []
    while (behind := area_behind(cursor)) is not None:
        area, after = behind
        assert after == area
        walked.append(area)
        cursor = end_of(area)
    assert walked == list(AREAS) == sorted(AREAS)


def test_a_sweep_that_stopped_in_an_area_goes_on_behind_its_key() -> None:
    assert area_behind("takes/b") == ("takes/", "takes/b")
    assert area_behind("tb") == ("voiceovers/", "voiceovers/")


def test_a_cut_and_what_lies_beside_it_share_a_stem_with_their_successor() -> None:
    episode_id, series_id = uuid4(), uuid4()
    before, after = "a" * 64, "b" * 64
    for suffix in (".mp4", ".srt", ".vtt", ".jpg"):
        stem = stem_of(variant_key(episode_id, 3, before, suffix))
        assert stem == stem_of(variant_key(episode_id, 3, after)) == f"episodes/{episode_id}/variant-3-"
    assert stem_of(variant_key(episode_id, 1, before)) != stem_of(variant_key(episode_id, 3, before))
    assert stem_of(poster_key(series_id, before)) == stem_of(poster_key(series_id, after))


@pytest.mark.parametrize("key", [take_key(ROW, 1, 1, "a" * 64), "episodes/notes.txt", "series/x/poster-1.png"])
def test_what_is_never_superseded_has_no_stem(key: str) -> None:
    assert stem_of(key) is None


def test_a_partition_key_of_nothing_is_a_stray() -> None:
    strays = list(
        stray_keys({"episodes": ["a-e01", "a-e02"], "periods": []}, {"episodes": {"a-e01"}, "periods": set()})
    )
    assert strays == [Stray("episodes", "a-e02", "nothing in the ledger has this key")]


@pytest.mark.parametrize("key", ["", "a,b", "new\nline", "Upper", "x" * 64, "[x]"])
def test_a_partition_key_that_breaks_the_rule_is_named_for_that(key: str) -> None:
    (stray,) = stray_keys({"episodes": [key]}, {"episodes": set()})
    assert "cannot be a key: expected" in stray.what


def test_the_same_key_in_both_definitions_is_two_strays() -> None:
    strays = stray_keys({"episodes": ["a"], "periods": ["a"]}, {"episodes": set(), "periods": set()})
    assert len({stray.subject for stray in strays}) == 2
