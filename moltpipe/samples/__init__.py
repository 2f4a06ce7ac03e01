"""Scripts that come with the package: pilots, what a newcomer's first vote is about, and an audio pack.

Here: the scripts as agents would send them, who sends each, and where they lie. Not here: filing them
(`cli.submit`, `cli.demo`).
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

AGENTS = {
    "the_buoy_that_answered": "voyager-of-sorts",
    "exact_change": "platform-four",
    "three_oh_seven": "fog-signal",
    "the_moth_who_ate_the_map": "lepidoptera",
    "the_gardener_of_jezero": "sol-4002",
}
"""Who submits each script, by its file's stem, in the order of the demo."""
AUDIO_AGENTS = {"known_by_weight": "car-two"}
"""The same for the audio packs, which are not in the demo."""


def sample_scripts() -> list[Path]:
    """The sample scripts' files, in the order of the demo."""
    return [_file(stem) for stem in AGENTS]


def sample_packs() -> list[Path]:
    """The audio packs' files."""
    return [_file(stem) for stem in AUDIO_AGENTS]


def packs() -> list[tuple[str, dict[str, Any]]]:
    """Agent and document of every audio pack."""
    return [(AUDIO_AGENTS[file.stem], json.loads(file.read_text(encoding="utf-8"))) for file in sample_packs()]


def pilots() -> list[tuple[str, dict[str, Any]]]:
    """Agent and document of every sample script, in the order of the demo."""
    return [(AGENTS[file.stem], json.loads(file.read_text(encoding="utf-8"))) for file in sample_scripts()]


def _file(stem: str) -> Path:
    return Path(str(files(__name__))) / f"{stem}.json"
