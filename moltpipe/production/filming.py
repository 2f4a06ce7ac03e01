"""The picture stage: one take for every shot of every variant, conformed as it arrives."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from moltpipe.engines.protocols import Camera, TakeRequest, VoiceTrack
from moltpipe.ledger import calls as ledger_calls
from moltpipe.ledger.media import record_take
from moltpipe.media.conform import conform, conforms, natural_frames
from moltpipe.media.probe import Probe, probe, verify_decodes
from moltpipe.production.answers import using
from moltpipe.production.calls import Subject, call, spent
from moltpipe.production.partial import all_or_named
from moltpipe.production.voicing import require_shots
from moltpipe.production.work import Work
from moltpipe.studio.cameras import NEEDS_A_VOICE
from moltpipe.studio.keys import take_key
from moltpipe.studio.profiles import Profile
from moltpipe.studio.records import Production, Shot, Take
from moltpipe.studio.timing import clip_seconds, shot_frames
from moltpipe.studio.variants import seed, style_suffix


@dataclass(frozen=True)
class Filming:
    """What the stage did: the episode's takes, and which were shot now."""

    production: Production
    filmed_now: tuple[Take, ...]
    cost_usd: Decimal
    """What this episode's takes have cost so far, of all cameras."""


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
    desk = work.line.desk()
    filmed = await all_or_named(
        "takes",
        [
            (f"shot {shot.number} of variant {variant_number}", _film(work, shot, variant_number, desk))
            for shot, variant_number in todo
        ],
    )
    return Filming(work.reload(), tuple(filmed), await asyncio.to_thread(spent, work, "film"))


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
        voice=VoiceTrack(key=voice.media.key, seconds=voice.duration_seconds) if voice else None,
    )


def request_to(
    camera: Camera, production: Production, shot: Shot, variant_number: int, profile: Profile
) -> TakeRequest:
    """The request for a shot's next take as this camera gets it.

    Nothing that sets variants apart reaches somebody who only talks: the four of a pilot are one request.
    """
    request = take_request(production, shot, variant_number, profile)
    if camera.name not in NEEDS_A_VOICE:
        return request
    return request.model_copy(update={"variant_number": 1, "style_suffix": "", "seed": 0})


def _take_number(production: Production, shot: Shot, variant_number: int) -> int:
    former = production.takes.get((shot.id, variant_number))
    return former.take_number + 1 if former else 1


async def _film(work: Work, shot: Shot, variant_number: int, desk: asyncio.Semaphore) -> Take:
    production = work.production
    take_number = _take_number(production, shot, variant_number)
    camera = work.line.crew.camera_for(shot, voiced=shot.id in production.voiceovers)
    async with contextlib.AsyncExitStack() as busy:
        if camera.hosting is None:
            await busy.enter_async_context(desk)
        request = request_to(camera, production, shot, variant_number, work.line.profile)
        answer = await call(
            work,
            camera,
            "film",
            request,
            subject=Subject(of=shot.id, variant_number=request.variant_number, take_number=take_number),
            shared=camera.name in NEEDS_A_VOICE,
        )
        if camera.hosting is not None:
            await busy.enter_async_context(desk)

        voice = production.voiceovers.get(shot.id)
        longest = shot_frames(shot.duration_seconds, voice.duration_seconds if voice else None, work.line.profile)

        def ingest() -> Take:
            with tempfile.TemporaryDirectory(dir=work.line.workdir) as folder, using(answer) as arrived:
                clip, facts = _conformed(arrived, Path(folder) / "take.mp4", work.line.profile, longest)
                stored = work.line.store.put(
                    clip, lambda sha256: take_key(shot.id, variant_number, take_number, sha256)
                )
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


def _conformed(arrived: Path, target: Path, profile: Profile, longest: int) -> tuple[Path, Probe]:
    """The clip in the house profile at its own length, and what it is. One that conforms already is not touched.

    What runs on after `longest` frames, which is all that the shot can show, is left out: footage that somebody
    shot for another purpose may last an hour.
    """
    # A truncated download would otherwise be padded with its last frame, silently.
    verify_decodes(arrived)
    facts = probe(arrived)
    if conforms(facts, profile):
        return arrived, facts
    conform(arrived, profile, target, frames=min(longest, natural_frames(facts, profile)))
    return target, probe(target)
