"""The voice stage: one voiceover for every shot in which somebody speaks."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from structlog.contextvars import bound_contextvars

from moltpipe.engines.protocols import LineRequest
from moltpipe.ledger import calls as ledger_calls
from moltpipe.ledger.media import record_voiceover
from moltpipe.media.offload import offload
from moltpipe.media.sound import normalise_line
from moltpipe.production.answers import using
from moltpipe.production.calls import Subject, call, spent
from moltpipe.production.partial import all_or_named
from moltpipe.production.work import Work
from moltpipe.studio.keys import voiceover_key
from moltpipe.studio.records import Production, Series, Shot, Voiceover
from moltpipe.studio.screenplay import Line as SpokenText
from moltpipe.studio.screenplay import spoken_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Voicing:
    """What the stage did: the episode's voiceovers, and which were spoken now."""

    production: Production
    spoken_now: tuple[Voiceover, ...]
    engine: str
    cost_usd: Decimal
    """What this episode's voiceovers have cost so far."""


async def voice_shots(work: Work, *, regenerate: bool) -> Voicing:
    """Voice every line that has no voiceover yet, or every line again.

    Raises:
        NoShots: the episode has no script yet.
        SomeFailed: some lines failed; those that succeeded are recorded.
    """
    production = work.production
    require_shots(production)
    todo = [
        (shot, line)
        for shot in production.shots
        if (line := spoken_line(shot.audio)) is not None and (regenerate or shot.id not in production.voiceovers)
    ]
    requests = [(shot, line_request(production.series, line)) for shot, line in todo]
    desk = work.line.desk()
    spoken = await all_or_named(
        "lines", [(f"shot {shot.number}", _voice_shot(work, shot, request, desk)) for shot, request in requests]
    )
    cost = await asyncio.to_thread(spent, work, "speak")
    return Voicing(work.reload(), tuple(spoken), work.line.crew.voice.name, cost)


class NoShots(Exception):
    """A stage was asked to work on an episode that has no script yet."""

    def __init__(self, partition_key: str) -> None:
        super().__init__(f"{partition_key} has no shots yet: materialize episode_script for it first")
        self.partition_key = partition_key


def require_shots(production: Production) -> None:
    """Refuse an episode without a script.

    Raises:
        NoShots: there are no shots.
    """
    if not production.shots:
        raise NoShots(production.episode.partition_key)


def line_request(series: Series, line: SpokenText) -> LineRequest:
    """The request for a line, with the voice that the series bible gives its speaker."""
    style = next(
        (one.voice_style for one in series.bible.character_anchors if line.speaker in (one.id, one.name)), None
    )
    return LineRequest(text=line.text, speaker=line.speaker, voice_style=style, voice_id=line.voice_id)


async def _voice_shot(work: Work, shot: Shot, request: LineRequest, desk: asyncio.Semaphore) -> Voiceover:
    with bound_contextvars(shot=shot.number):
        spoken = await _voice(work, shot, request, desk)
        log.info("voiceover in", extra={"seconds": spoken.duration_seconds, "key": spoken.media.key})
        return spoken


async def _voice(work: Work, shot: Shot, request: LineRequest, desk: asyncio.Semaphore) -> Voiceover:
    take_number = work.production.next_number(work.production.voiceovers.get(shot.id), shot.id)
    answer = await call(
        work,
        work.line.crew.voice,
        "speak",
        request,
        subject=Subject(of=shot.id, take_number=take_number),
        shared=True,
    )

    def ingest() -> Voiceover:
        with tempfile.TemporaryDirectory(dir=work.line.workdir) as folder:
            wav = Path(folder) / "line.wav"
            with using(answer) as arrived:
                seconds = normalise_line(arrived, wav)
            stored = work.line.store.put(wav, lambda sha256: voiceover_key(shot.id, take_number, sha256))
        with work.line.database.begin() as db:
            voiceover = record_voiceover(
                db, work.claim, shot.id, stored, seconds, answer.result.words, provider_job_id=answer.call_id
            )
            ledger_calls.mark_ingested(db, answer.call_id)
            return voiceover

    async with desk:
        return await offload(ingest)
