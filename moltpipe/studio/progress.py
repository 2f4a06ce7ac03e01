"""How far an episode is, counted from its rows: what is not in the ledger is not done."""

from __future__ import annotations

from dataclasses import dataclass

from moltpipe.studio.narration import AUDIO
from moltpipe.studio.records import Production
from moltpipe.studio.screenplay import spoken_line


@dataclass(frozen=True)
class Progress:
    """Steps done of all steps, and what is being made, in words."""

    done: int
    total: int
    making: str


def progress_of(production: Production) -> Progress | None:
    """None while the episode has no script, because nobody knows yet how much there is to do."""
    if not production.shots:
        return None
    wanted = production.episode.variants_wanted
    lines = sum(spoken_line(shot.audio) is not None for shot in production.shots)
    takes = 0 if production.episode.medium == AUDIO else len(production.shots) * wanted
    spoken, filmed, cut = len(production.voiceovers), len(production.takes), len(production.variants)
    if cut >= wanted:
        making = "published"
    elif spoken < lines:
        making = f"lines {spoken} of {lines}"
    elif filmed < takes:
        making = f"takes {filmed} of {takes}"
    else:
        making = f"variants {cut} of {wanted}"
    return Progress(done=1 + spoken + filmed + cut, total=1 + lines + takes + wanted, making=making)
