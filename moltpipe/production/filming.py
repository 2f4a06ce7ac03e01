"""The picture stage: one take for every shot of every variant, conformed as it arrives."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from moltpipe.engines.protocols import TakeRequest
from moltpipe.ledger import calls as ledger_calls
from moltpipe.ledger.media import record_take
from moltpipe.media.conform import conform, conforms, natural_frames
from moltpipe.media.probe import Probe, probe, verify_decodes
from moltpipe.production.calls import Subject, call
from moltpipe.production.partial import all_or_named
from moltpipe.production.voicing import require_shots
from moltpipe.production.work import Work
from moltpipe.studio.keys import take_key
from moltpipe.studio.profiles import Profile
from moltpipe.studio.records import Production, Shot, Take
from moltpipe.studio.timing import clip_seconds
from moltpipe.studio.variants import seed, style_suffix


@dataclass(frozen=True)
class Filming:
    """What the stage did: the episode's takes, and which were shot now."""

    production: Production
    filmed_now: tuple[Take, ...]
    engine: str
    cost_usd: Decimal


async def film_shots(work: Work, *, regenerate: bool) -> Filming:
    """Film every shot of every wanted variant that has no take yet, or each again as a new take.

    Raises:
        NoShots: the episode has no script yet.
        SomeFailed: some shots failed; the takes that succeeded are recorded.
    """
    production = work.production
    require_shots(production)
    todo = [
        (shot, variant_number)
        for variant_number in range(1, production.episode.variants_wanted + 1)
        for shot in production.shots
        if regenerate or (shot.id, variant_number) not in production.takes
    ]
    engine = work.line.crew.camera
    desk = work.line.desk()
    requests = [
        (shot, variant_number, take_request(production, shot, variant_number, work.line.profile))
        for shot, variant_number in todo
    ]
    filmed = await all_or_named(
        "takes",
        [
            (f"shot {shot.number} of variant {variant_number}", _film(work, shot, variant_number, request, desk))
            for shot, variant_number, request in requests
        ],
    )
    cost = sum((engine.quote(request).cost_usd for _, _, request in requests), Decimal(0))
    return Filming(work.reload(), tuple(filmed), engine.name, cost)


def take_request(production: Production, shot: Shot, variant_number: int, profile: Profile) -> TakeRequest:
    """The request for a shot's next take in one variant."""
    voice = production.voiceovers.get(shot.id)
    return TakeRequest(
        series_title=production.series.title,
        episode_number=production.episode.number,
        shot_number=shot.number,
        shot_count=len(production.shots),
        prompt=shot.prompt,
        audio=shot.audio,
        bible=production.series.bible,
        poster=production.series.poster_spec,
        variant_number=variant_number,
        style_suffix=style_suffix(variant_number, production.episode.variants_wanted),
        seconds=clip_seconds(shot, voice.duration_seconds if voice else None, profile),
        width=profile.width,
        height=profile.height,
        rate=profile.rate,
        seed=seed(shot.id, variant_number, _take_number(production, shot, variant_number)),
    )


def _take_number(production: Production, shot: Shot, variant_number: int) -> int:
    former = production.takes.get((shot.id, variant_number))
    return former.take_number + 1 if former else 1


async def _film(work: Work, shot: Shot, variant_number: int, request: TakeRequest, desk: asyncio.Semaphore) -> Take:
    take_number = _take_number(work.production, shot, variant_number)
    async with desk:
        answer = await call(
            work.line,
            work.line.crew.camera,
            "film",
            request,
            subject=Subject(of=shot.id, variant_number=variant_number, take_number=take_number),
            process_uuid=work.claim.process_uuid,
        )

        def ingest() -> Take:
            with tempfile.TemporaryDirectory(dir=work.line.workdir) as folder:
                try:
                    clip, facts = _conformed(answer.result.file, Path(folder) / "take.mp4", work.line.profile)
                    stored = work.line.store.put(
                        clip, lambda sha256: take_key(shot.id, variant_number, take_number, sha256)
                    )
                finally:
                    answer.result.file.unlink(missing_ok=True)
            with work.line.database.begin() as db:
                take = record_take(
                    db,
                    work.claim,
                    shot.id,
                    variant_number,
                    stored,
                    facts.duration_seconds,
                    facts.as_json(),
                    provider_job_id=answer.call_id,
                )
                ledger_calls.mark_ingested(db, answer.call_id)
                return take

        return await asyncio.to_thread(ingest)


def _conformed(arrived: Path, target: Path, profile: Profile) -> tuple[Path, Probe]:
    """The clip in the house profile at its own length, and what it is. One that conforms already is not touched."""
    # A truncated download would otherwise be padded with its last frame, silently.
    verify_decodes(arrived)
    facts = probe(arrived)
    if conforms(facts, profile):
        return arrived, facts
    conform(arrived, profile, target, frames=natural_frames(facts, profile))
    return target, probe(target)
