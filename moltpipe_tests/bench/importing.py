"""How long the definitions take to import, which every run and every code server has to wait for.

Here: a fresh interpreter each time, with compiled files at hand. Not here: what makes it slow (`-X importtime` says).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from moltpipe_tests.bench.registry import Measurement, case, finding


@case("import", "a fresh Python imports moltpipe.definitions", material=False)
def definitions(_: Path) -> dict[str, float]:
    return _imported("moltpipe.definitions")


@case("import dagster", "a fresh Python imports dagster alone", material=False)
def dagster(_: Path) -> dict[str, float]:
    return _imported("dagster")


def _imported(module: str) -> dict[str, float]:
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return {}


@finding("import", "importing the definitions in a fresh Python", needs=("import",), unit="s", at_most=2.5)
def seconds(took: Mapping[str, Measurement]) -> float:
    return took["import"].wall_s


@finding("import / dagster", "the same", against="importing dagster alone", needs=("import", "import dagster"))
def against_dagster(took: Mapping[str, Measurement]) -> float:
    return took["import"].wall_s / took["import dagster"].wall_s
