"""The cases of the bench and what their figures are held against.

Here: what a case and a finding are, and the decorators that list them. Not here: what the cases do (one module per
subject, named in `moltpipe_tests.bench.cases`), how they are measured (`moltpipe_tests.bench.child`).

A new case is a function with `@case(...)`; a new comparison a function with `@finding(...)`; a new subject a module
with them and its place in `cases.py`. This module is read by a second Python without moltpipe, so it imports nothing
of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


@dataclass(frozen=True)
class Measurement:
    """What one case cost: the best of its repeats in wall time, in a process of its own."""

    wall_s: float
    user_s: float
    """Of the process and all programs that it waited for; `system_s` as well."""
    system_s: float
    peak_mib: float
    """Highest resident memory of the process and its programs together, over all repeats, looked at every 50 ms."""
    repeats: int
    details: dict[str, float]
    """What the case itself counted: frames, bytes, seconds of film."""

    @property
    def cores(self) -> float:
        """Cores that were busy on average."""
        return (self.user_s + self.system_s) / self.wall_s


class Python(StrEnum):
    """Which interpreter runs a case."""

    OURS = "ours"
    RIVALS = "rivals"
    """`.venv-bench`: MoviePy wants an older Pillow than moltpipe."""


Run = Callable[[Path], dict[str, float]]
"""A case's work, in the folder with the material; what comes back are its own counts."""


@dataclass(frozen=True)
class Case:
    """One thing that is measured."""

    name: str
    what: str
    run: Run
    python: Python = Python.OURS
    material: bool = True
    """Whether it works on the clips, voices and music that are made beforehand."""
    on_request: bool = False
    """Whether it runs by its name or with `--all` only: it takes minutes, and has no aim or that of a shorter case."""

    @property
    def reference(self) -> str:
        """Where the function is, for the process that runs it."""
        return f"{self.run.__module__}:{self.run.__qualname__}"


Figure = Callable[[Mapping[str, Measurement]], float]


@dataclass(frozen=True)
class Finding:
    """A comparison between cases, and what it should come to where the project has promised something."""

    name: str
    what: str
    against: str
    """The peer or the floor; empty where the figure stands for itself."""
    needs: tuple[str, ...]
    figure: Figure
    unit: str = "x"
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool | None:
        """Whether the promise is kept; None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


CASES: dict[str, Case] = {}
FINDINGS: list[Finding] = []
PREPARATIONS: list[Callable[[Path], None]] = []


def case(
    name: str, what: str, *, python: Python = Python.OURS, material: bool = True, on_request: bool = False
) -> Callable[[Run], Run]:
    """List a function as a case."""

    def listed(run: Run) -> Run:
        CASES[name] = Case(name, what, run, python, material, on_request)
        return run

    return listed


def finding(
    name: str,
    what: str,
    *,
    against: str = "",
    needs: tuple[str, ...],
    unit: str = "x",
    at_least: float | None = None,
    at_most: float | None = None,
) -> Callable[[Figure], Figure]:
    """List a function of the measurements as a finding. It is computed when all cases that it needs have run."""

    def listed(figure: Figure) -> Figure:
        FINDINGS.append(Finding(name, what, against, needs, figure, unit, at_least, at_most))
        return figure

    return listed


def preparation(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """List a function that makes material in the folder before anything is measured."""
    PREPARATIONS.append(make)
    return make
