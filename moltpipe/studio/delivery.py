"""What the delivery gate finds: one finding for each rule of delivery, with the figures behind it.

Here: the rules by name and the shape of a finding, which travels from the gate into the ledger and on to the operator's
checks. Not here: how a rule is looked into (`media.gate`), what a script may ask for (`studio.asked`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

Figure = str | int | float | bool | None

RULES: Mapping[str, str] = MappingProxyType(
    {
        "picture_is_exact": "The picture has the house profile and exactly the frames of the timeline.",
        "sound_fits_picture": "Picture and sound start at zero, and are less than a frame apart at the end.",
        "playable_from_the_start": (
            "Everything decodes without an error in growing order, and the index stands before the media."
        ),
        "nothing_black": "No black stretch of a second or more that the script does not ask for.",
        "nothing_frozen": "No stretch of two seconds or more stands still where the script does not ask for it.",
        "nothing_silent": "No stretch of two seconds or more is silent where the script does not ask for it.",
        "loudness_on_target": "The loudness is within 0.5 LU of what was aimed at, the true peak under its ceiling.",
        "captions_inside": "Captions are in order, do not overlap, end in time, and are the same inside the file.",
    }
)
"""Every rule by its name, in the order in which an operator reads them."""
PICTURE_RULES = frozenset({"picture_is_exact", "nothing_black", "nothing_frozen"})
"""Rules that have nothing to look at in an audio series."""


@dataclass(frozen=True)
class Finding:
    """What was found for one rule."""

    rule: str
    faults: tuple[str, ...] = ()
    """How the rule is broken, one sentence each; none where it holds."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """What was measured, each with its unit in its name."""

    @property
    def passed(self) -> bool:
        """Whether the rule holds."""
        return not self.faults

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        return "; ".join(self.faults) if self.faults else RULES[self.rule]


@dataclass(frozen=True)
class Delivery:
    """All that the gate found in one cut. A rule without a finding could not be looked into."""

    findings: tuple[Finding, ...]
    seconds: float
    """Exact length as decoded."""
    bytes: int
    medium: str = "video"

    @property
    def passed(self) -> bool:
        """Whether every rule was looked into and holds."""
        found = {finding.rule for finding in self.findings}
        expected = set(RULES) - (PICTURE_RULES if self.medium == "audio" else set())
        return expected <= found and all(finding.passed for finding in self.findings)

    @property
    def faults(self) -> tuple[str, ...]:
        """Every broken rule, one sentence for each way in which it is broken."""
        return tuple(fault for finding in self.findings for fault in finding.faults)

    @property
    def figures(self) -> dict[str, Figure]:
        """All figures of all rules."""
        return {name: value for finding in self.findings for name, value in finding.figures.items()}

    def finding(self, rule: str) -> Finding | None:
        """What was found for a rule; None where it was not looked into."""
        return next((finding for finding in self.findings if finding.rule == rule), None)

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "medium": self.medium,
            "seconds": self.seconds,
            "bytes": self.bytes,
            "passed": self.passed,
            "findings": [
                {
                    "rule": finding.rule,
                    "passed": finding.passed,
                    "faults": list(finding.faults),
                    "figures": dict(finding.figures),
                }
                for finding in self.findings
            ],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Delivery:
        """Read what `as_json` wrote. Rules that this version does not know are left out.

        Raises:
            ValueError: the record is not of that shape.
        """
        try:
            return cls(
                findings=tuple(
                    Finding(one["rule"], tuple(map(str, one["faults"])), dict(one["figures"]))
                    for one in record["findings"]
                    if one["rule"] in RULES
                ),
                seconds=float(record["seconds"]),
                bytes=int(record["bytes"]),
                medium=str(record["medium"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a record of a delivery ({type(error).__name__}: {error})") from error
