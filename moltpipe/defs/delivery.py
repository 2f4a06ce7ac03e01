"""What the delivery gate found, as asset checks of `stitched_episode`: one for each rule.

Here: the findings that lie with the published variants, or that a refused cut carries, turned into results with their
figures. Not here: the rules (`studio.delivery`), looking into a file (`media.gate`).

The results are read from the record and not measured again, so a run that cuts nothing still tells how each variant
stands. They belong to the run of the asset and name its partition in their metadata; checks that are partitioned
themselves are a preview of Dagster's, so the latest result that the asset shows is that of the episode made last.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from moltpipe.defs.reports import Cell, Metadata, table
from moltpipe.media.errors import DeliveryRefused
from moltpipe.production.partial import SomeFailed
from moltpipe.studio.delivery import PICTURE_RULES, RULES, Delivery, Finding
from moltpipe.studio.records import Variant

_ASSET = "stitched_episode"

NO_CUT = "the run ended before the gate, and its error says why"
"""Said by every check of such a run. Left to itself, Dagster calls all of them failed to execute."""
DELIVERY_CHECKS = [dg.AssetCheckSpec(name=rule, asset=_ASSET, description=demand) for rule, demand in RULES.items()]


@dataclass(frozen=True)
class Judged:
    """A cut by the name that the operator knows it by, and what the gate found in it, or why that is not known."""

    name: str
    delivery: Delivery | None
    unknown: str = ""


def published(variants: Mapping[int, Variant]) -> list[Judged]:
    """What is on record for the published variants of an episode, by variant number."""
    return [_on_record(f"variant {number}", variant.delivery) for number, variant in sorted(variants.items())]


def _on_record(name: str, record: dict[str, Any] | None) -> Judged:
    if record is None:
        return Judged(name, None, "recorded by another tool")
    try:
        return Judged(name, Delivery.from_json(record))
    except ValueError as error:
        return Judged(name, None, str(error))


def refused(error: BaseException, name: str = "the cut") -> list[Judged]:
    """The cuts that the gate refused, out of what a stage raised; none where it failed for another reason."""
    if isinstance(error, DeliveryRefused):
        return [Judged(name, error.delivery)]
    if isinstance(error, SomeFailed):
        return [judged for one in error.failed for judged in refused(one.error, one.what)]
    return []


def results(partition_key: str, cuts: Sequence[Judged]) -> Iterator[dg.AssetCheckResult]:
    """One result for each rule, the worst cut first.

    A rule that could not be looked into is a warning of its own and no failure: nobody knows that it is broken.
    """
    for rule in RULES:
        ordered = sorted(cuts, key=lambda cut: _badness(cut, rule))
        worst = ordered[0] if ordered else Judged("no variant", None, "there is none")
        yield dg.AssetCheckResult(
            asset_key=_ASSET,
            check_name=rule,
            passed=_badness(worst, rule) == _GOOD,
            severity=dg.AssetCheckSeverity.ERROR if _badness(worst, rule) == _BROKEN else dg.AssetCheckSeverity.WARN,
            description=_said(worst, rule),
            metadata=_report(partition_key, ordered, rule),
        )


_BROKEN, _UNKNOWN, _GOOD = range(3)


def _badness(cut: Judged, rule: str) -> int:
    finding = _finding(cut, rule)
    if finding is not None:
        return _GOOD if finding.passed else _BROKEN
    return _GOOD if _nothing_to_see(cut, rule) else _UNKNOWN


def _finding(cut: Judged, rule: str) -> Finding | None:
    return cut.delivery.finding(rule) if cut.delivery is not None else None


def _nothing_to_see(cut: Judged, rule: str) -> bool:
    return cut.delivery is not None and cut.delivery.medium == "audio" and rule in PICTURE_RULES


def _said(cut: Judged, rule: str) -> str:
    finding = _finding(cut, rule)
    if finding is not None:
        return finding.sentence if finding.passed else f"{cut.name}: {finding.sentence}"
    if _nothing_to_see(cut, rule):
        return "nothing to see in an audio series"
    return f"{cut.name}: not checked: {cut.unknown or 'the file could not be decoded'}"


def measured(cuts: Sequence[Judged], before: Mapping[str, float | None]) -> list[dict[str, Cell]]:
    """All that the gate measured, a row for each figure and a column for each cut: no screen is twenty columns wide.

    `before` has the loudness in LUFS of a cut that was made now before it was levelled, by its name: no record has it.
    """
    figures: dict[str, dict[str, Cell]] = {
        cut.name: dict(cut.delivery.figures) if cut.delivery is not None else {} for cut in cuts
    }
    for name, lufs in before.items():
        figures[name]["lufs_before"] = lufs
    rows = dict.fromkeys(figure for found in figures.values() for figure in found)
    return [{"figure": row, **{name: found.get(row) for name, found in figures.items()}} for row in rows]


def _report(partition_key: str, cuts: Sequence[Judged], rule: str) -> Metadata:
    return {"figures": table([_row(cut, rule) for cut in cuts]), "partition": dg.MetadataValue.text(partition_key)}


def _row(cut: Judged, rule: str) -> dict[str, Cell]:
    finding = _finding(cut, rule)
    outcome = {_GOOD: "passed", _BROKEN: "failed", _UNKNOWN: "not checked"}[_badness(cut, rule)]
    figures = finding.figures if finding is not None else {}
    return {"cut": cut.name, "outcome": outcome, **figures, "said": _said(cut, rule)}
