"""The gate's findings as asset checks: results out of the record, and out of a run that the gate made fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest

from moltpipe.defs.delivery import DELIVERY_CHECKS, Judged, measured, published, refused, results
from moltpipe.media.errors import DeliveryRefused, MediaError
from moltpipe.production.partial import Failed, SomeFailed
from moltpipe.studio.delivery import PICTURE_RULES, RULES, Delivery, Finding
from moltpipe.studio.records import Stored, Variant

GOOD = Delivery(tuple(Finding(rule, (), {"of_s": 1.5}) for rule in RULES), 12.0, 1000)
BLACK = Delivery(
    tuple(
        Finding(rule, ("black from 0:01.00 to 0:03.00",) if rule == "nothing_black" else (), {"of_s": 2.0})
        for rule in RULES
    ),
    12.0,
    1000,
)
UNREADABLE = Delivery((Finding("playable_from_the_start", ("cut.mp4 is cut off",)),), 0.0, 10)
HEARD = Delivery(tuple(Finding(rule) for rule in RULES if rule not in PICTURE_RULES), 200.0, 10, medium="audio")


def variant(number: int, delivery: dict[str, Any] | None) -> Variant:
    return Variant(
        id=uuid4(),
        variant_number=number,
        video=Stored("a/key.mp4", "0" * 64, 1),
        captions_key="a/key.vtt",
        thumbnail_key="a/key.jpg",
        duration_seconds=12.0,
        ingredients="x",
        is_selected=False,
        delivery=delivery,
    )


def by_rule(cuts: list[Judged]) -> dict[str, dg.AssetCheckResult]:
    return {str(one.check_name): one for one in results("the-kettle-e01", cuts)}


def rows(result: dg.AssetCheckResult) -> list[dict[str, Any]]:
    figures = result.metadata["figures"]
    assert isinstance(figures, dg.TableMetadataValue)
    return [dict(record.data) for record in figures.records]


def test_there_is_one_check_for_every_rule_of_delivery() -> None:
    assert [spec.name for spec in DELIVERY_CHECKS] == list(RULES)
    assert list(by_rule(published({1: variant(1, GOOD.as_json())}))) == list(RULES)


def test_all_published_variants_are_reported_with_their_figures() -> None:
    found = by_rule(published({number: variant(number, GOOD.as_json()) for number in (2, 1)}))
    assert all(result.passed for result in found.values())
    assert [(row["cut"], row["outcome"], row["of_s"]) for row in rows(found["nothing_black"])] == [
        ("variant 1", "passed", 1.5),
        ("variant 2", "passed", 1.5),
    ]
    assert found["nothing_black"].metadata["partition"].value == "the-kettle-e01"


def test_what_was_measured_is_a_row_for_each_figure_and_a_column_for_each_variant() -> None:
    cuts = published({1: variant(1, GOOD.as_json()), 2: variant(2, BLACK.as_json()), 3: variant(3, None)})
    assert measured(cuts, {"variant 2": -21.5}) == [
        {"figure": "of_s", "variant 1": 1.5, "variant 2": 2.0, "variant 3": None},
        {"figure": "lufs_before", "variant 1": None, "variant 2": -21.5, "variant 3": None},
    ]


def test_the_worst_variant_comes_first_and_decides() -> None:
    found = by_rule(published({1: variant(1, GOOD.as_json()), 2: variant(2, None), 3: variant(3, BLACK.as_json())}))
    black = found["nothing_black"]
    assert (black.passed, black.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert black.description == "variant 3: black from 0:01.00 to 0:03.00"
    assert [row["outcome"] for row in rows(black)] == ["failed", "not checked", "passed"]


@pytest.mark.parametrize(("record", "said"), [(None, "recorded by another tool"), ({"lufs": -14}, "not a record of")])
def test_what_was_not_checked_is_told_apart_from_what_failed(record: dict[str, Any] | None, said: str) -> None:
    found = by_rule(published({1: variant(1, record)}))
    for result in found.values():
        assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert (result.description or "").startswith("variant 1: not checked: ")
        assert said in (result.description or "")


def test_a_file_that_nobody_could_decode_failed_one_rule_and_was_not_checked_for_the_others() -> None:
    found = by_rule(refused(DeliveryRefused(Path("cut.mp4"), UNREADABLE)))
    assert found["playable_from_the_start"].severity is dg.AssetCheckSeverity.ERROR
    assert found["nothing_black"].severity is dg.AssetCheckSeverity.WARN
    assert found["nothing_black"].description == "the cut: not checked: the file could not be decoded"


def test_an_audio_series_has_nothing_to_see() -> None:
    found = by_rule(published({1: variant(1, HEARD.as_json())}))
    assert all(result.passed for result in found.values())
    assert found["nothing_frozen"].description == "nothing to see in an audio series"


def test_refused_cuts_are_found_in_whatever_a_stage_raises() -> None:
    no_disk = Failed("variant 1", MediaError("the disk is full"))
    black = Failed("variant 2", DeliveryRefused(Path("cut.mp4"), BLACK))
    assert [cut.name for cut in refused(SomeFailed("variants", [no_disk, black], 4))] == ["variant 2"]
    assert refused(MediaError("the disk is full")) == []
