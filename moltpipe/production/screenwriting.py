"""The script stage: five different episodes, and the poster of the series.

The pilot's shots are what the agent submitted; the screenwriter engine writes the other four. The old
system enqueued the pilot's shots five times. Of an audio series the agent submitted all five, as texts to be
read: their passages are shots without pictures, and nobody is asked to write.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from moltpipe.engines.protocols import EpisodeRequest
from moltpipe.ledger import calls as ledger_calls
from moltpipe.ledger.shots import ShotsInUse, write_shots
from moltpipe.production.calls import Subject, call, spent
from moltpipe.production.posters import ensure_poster
from moltpipe.production.work import Work
from moltpipe.studio.narration import AUDIO, AudioPack, narration_script
from moltpipe.studio.records import Production, Shot
from moltpipe.studio.screenplay import EpisodeScript, PilotScript

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Screenplay:
    """What the stage did: the episode's shots, and whether they were written now."""

    production: Production
    shots: tuple[Shot, ...]
    written_now: bool
    engine: str
    cost_usd: Decimal
    """What this episode's scripts have cost so far."""


async def write_episode(work: Work, *, regenerate: bool) -> Screenplay:
    """Give the episode its shots. What is written stays, unless it is to be written again.

    Raises:
        ShotsInUse: the script is to be written again, but media was made from it already.
        EngineError: the screenwriter failed.
    """
    production = work.production
    heard_only = production.series.medium == AUDIO
    if production.episode.number == 1 or heard_only:
        # Every episode of an audio series has the poster as its cover, and none waits for the first one.
        await asyncio.to_thread(ensure_poster, work.line, production.series)
    if production.shots and not regenerate:
        cost = await asyncio.to_thread(spent, work, "write")
        return Screenplay(work.reload(), production.shots, written_now=False, engine="", cost_usd=cost)

    if production.takes or production.voiceovers:
        # Before the screenwriter is asked: a script that cannot be put in its place is not paid for.
        raise ShotsInUse(production.episode.partition_key, len(production.takes), len(production.voiceovers))
    if heard_only or production.episode.number == 1:
        shots = await asyncio.to_thread(_record, work, submitted_script(production), regenerate=regenerate)
        engine_name = "audio pack" if heard_only else "pilot script"
        return Screenplay(work.reload(), shots, written_now=True, engine=engine_name, cost_usd=Decimal(0))

    engine = work.line.crew.screenwriter
    draft = await asyncio.to_thread(_draft_number, work)
    answer = await call(
        work,
        engine,
        "write",
        episode_request(production),
        subject=Subject(of=production.episode.id, take_number=draft),
    )
    shots = await asyncio.to_thread(
        _record, work, answer.result.script, regenerate=regenerate, answer_to=answer.call_id
    )
    return Screenplay(work.reload(), shots, True, engine.name, await asyncio.to_thread(spent, work, "write"))


def submitted_script(production: Production) -> EpisodeScript:
    """The script of an episode that the agent wrote: the pilot, or any episode of an audio series."""
    number, document = production.episode.number, production.series.script_data
    if production.series.medium == AUDIO:
        return narration_script(AudioPack.model_validate(document), number)
    pilot = PilotScript.model_validate(document)
    return EpisodeScript(episode_number=number, title=production.episode.title, shots=pilot.shots)


def episode_request(production: Production) -> EpisodeRequest:
    """The request for the script of a later episode."""
    pilot = PilotScript.model_validate(production.series.script_data)
    return EpisodeRequest(
        title=production.series.title,
        logline=production.series.logline,
        genre=production.series.genre,
        arc=pilot.arc,
        bible=pilot.series_bible,
        pilot_shots=pilot.shots,
        episode_number=production.episode.number,
    )


def _draft_number(work: Work) -> int:
    """The number of the draft to be written: another one where shots lie there, else that of a draft without shots.

    A draft that was paid for before its process was killed has no shots yet, and is not paid for again.
    """
    with work.line.database.begin() as db:
        drafts = ledger_calls.ingested_calls(db, work.claim.episode_id, "write")
    return drafts + 1 if work.production.shots else max(1, drafts)


def _record(work: Work, script: EpisodeScript, *, regenerate: bool, answer_to: UUID | None = None) -> tuple[Shot, ...]:
    with work.line.database.begin() as db:
        shots = write_shots(db, work.claim, script, replace=regenerate)
        if answer_to is not None:
            ledger_calls.mark_ingested(db, answer_to)
    log.info("script in", extra={"shots": len(shots)})
    return shots
