"""What the bench says: a table of what each case cost, then the one of everything that has a target, and both as JSON.

Here: the words and the document. Not here: what a finding promises (`moltpipe_tests.bench.registry`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from moltpipe_tests.bench.registry import CASES, FINDINGS, Measurement

BUSY = 0.5
"""Load from which on the table says that somebody else was at work."""


@dataclass(frozen=True)
class Report:
    """One run of the bench."""

    machine: Mapping[str, str | int | float]
    took: Mapping[str, Measurement]
    left_out: Mapping[str, str]
    """Cases that were not run, and why."""

    def findings(self) -> list[dict[str, object]]:
        """All findings whose cases have run, in the order of their first cases."""
        order = {name: place for place, name in enumerate(self.took)}
        return [
            {
                "name": one.name,
                "what": one.what,
                "against": one.against,
                "value": (value := one.figure(self.took)),
                "unit": one.unit,
                "at_least": one.at_least,
                "at_most": one.at_most,
                "met": one.met(value),
            }
            for one in sorted(FINDINGS, key=lambda one: order.get(one.needs[0], 0))
            if all(name in self.took for name in one.needs)
        ]

    def write(self, target: Path) -> None:
        """The document: machine, cases, findings."""
        cases = {
            name: {"what": CASES[name].what, **asdict(took), "cores": took.cores} for name, took in self.took.items()
        }
        document = {
            "machine": dict(self.machine),
            "cases": cases,
            "left_out": dict(self.left_out),
            "findings": self.findings(),
        }
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    def show(self, console: Console, *, markdown: bool) -> None:
        """Print both tables."""
        style = box.MARKDOWN if markdown else box.SIMPLE_HEAD
        machine = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.machine.items())
        console.print(machine, highlight=False)
        if float(self.machine["load_before"]) > BUSY:
            console.print("The machine was busy before the bench began: repeat it when it is calm.", style="yellow")
        console.print()
        console.print(self._cases(style))
        for name, reason in self.left_out.items():
            console.print(f"{name}: {reason}", style="yellow")
        console.print()
        console.print(self._findings(style))

    def _cases(self, style: box.Box) -> Table:
        table = Table(box=style)
        for heading in ("case", "what"):
            table.add_column(heading)
        for heading in ("wall s", "cpu s", "cores", "peak MiB", "best of"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, took in self.took.items():
            busy_s = took.user_s + took.system_s
            figures = (f"{took.wall_s:.2f}", f"{busy_s:.2f}", f"{took.cores:.1f}", f"{took.peak_mib:.0f}")
            table.add_row(name, CASES[name].what, *figures, str(took.repeats))
        return table

    def _findings(self, style: box.Box) -> Table:
        table = Table(box=style)
        table.add_column("finding")
        table.add_column("what")
        table.add_column("figure", justify="right", no_wrap=True)
        table.add_column("against")
        table.add_column("aim", justify="right", no_wrap=True)
        table.add_column("kept")
        for one in self.findings():
            aim = " ".join(
                f"{sign} {one[bound]:g}"
                for sign, bound in (("≥", "at_least"), ("≤", "at_most"))
                if one[bound] is not None
            )
            kept = {True: "yes", False: "NO", None: ""}[one["met"]]  # type: ignore[index]  # bool or None by `Finding.met`
            figure = f"{one['value']:.1f} {one['unit']}"
            table.add_row(str(one["name"]), str(one["what"]), figure, str(one["against"]), aim, kept)
        return table
