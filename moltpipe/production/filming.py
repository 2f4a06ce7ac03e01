"""The picture stage: one take for every shot of every variant, conformed as it arrives.

Here: which takes are missing, what a camera is asked for, and what becomes of its answer. Not here: the call
(`production.calls`), conforming (`production.conforming`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from structlog.contextvars import bound_contextvars

from moltpipe.engines.protocols import Camera, Filmed, TakeRequest, VoiceTrack
from moltpipe.ledger import calls as ledger_calls
from moltpipe.ledger.media import record_take
from moltpipe.media.clip_sound import extract
from moltpipe.media.offload import offload
from moltpipe.media.probe import Probe, probe
from moltpipe.production.ahead import cutting_ahead
from moltpipe.production.answers import Answer, using
from moltpipe.production.calls import Subject, call, spent
from moltpipe.production.conforming import conformed
from moltpipe.production.partial import all_or_named
from moltpipe.production.voicing import require_shots
from moltpipe.production.work import Work
from moltpipe.studio.cameras import NEEDS_A_VOICE, asked_for_sound, sound_is_kept
from moltpipe.studio.finish import HOUSE_FINISH, Finish
from moltpipe.studio.keys import take_key, take_sound_key
from moltpipe.studio.profiles import Profile
from moltpipe.studio.records import ClipSound, Production, Shot, Take
from moltpipe.studio.timing import clip_seconds, shot_frames
from moltpipe.studio.variants import seed, style_suffix

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filming:
    """What the stage did: the episode's takes, and which were shot now."""

    production: Production
    filmed_now: tuple[Take, ...]
    cost_usd: Decimal
    """What this episode's takes have cost so far, of all cameras."""


async def film_shots(work: Work, *, regenerate: bool, cut_ahead: bool = False) -> Filming:
    """Film every shot of every wanted variant that has no take yet, or each again as a new take.

    Of a series that is only heard there is nothing to film. With `cut_ahead`, for a run that goes on with cutting,
    variants are cut while others are still being filmed.

    Raises:
        NoShots: the episode has no script yet.
        SomeFailed: some shots failed; the takes that succeeded are recorded.
    """
    production = work.production
    if production.series.medium == "audio":
        return Filming(production, (), Decimal(0))
    require_shots(production)
    wanted = range(1, production.episode.variants_wanted + 1)
    todo = [
        (shot, variant_number)
        for variant_number in wanted
        for shot in production.shots
        if regenerate or (shot.id, variant_number) not in production.takes
    ]
    lacking = Counter(variant_number for _, variant_number in todo)
    drawing, desk = asyncio.Semaphore(work.line.calls_at_once), work.line.desk()
    async with cutting_ahead(work, desk) as ahead:

        def begin(variant_number: int) -> None:
            # The last one to be complete is cut by the next stage, which follows at once.
            if cut_ahead and not lacking[variant_number] and lacking.total():
                ahead.begin(variant_number)

        async def film(shot: Shot, variant_number: int) -> Take:
            take = await _film_shot(work, shot, variant_number, drawing, desk)
            lacking[variant_number] -= 1
            begin(variant_number)
            return take

        for variant_number in wanted:
            begin(variant_number)
        filmed = await all_or_named(
            "takes",
            [(f"shot {shot.number} of variant {number}", film(shot, number)) for shot, number in todo],
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
    camera: Camera,
    production: Production,
    shot: Shot,
    variant_number: int,
    profile: Profile,
    *,
    finish: Finish = HOUSE_FINISH,
) -> TakeRequest:
    """The request for a shot's next take as this camera gets it.

    Nothing that sets variants apart reaches somebody who only talks: the four of a pilot are one request.
    """
    request = take_request(production, shot, variant_number, profile)
    if camera.name in NEEDS_A_VOICE:
        return request.model_copy(update={"variant_number": 1, "style_suffix": "", "seed": 0})
    if asked_for_sound(camera.name, shot.audio, finish):
        return request.model_copy(update={"with_sound": True})
    return request


def _take_number(production: Production, shot: Shot, variant_number: int) -> int:
    return production.next_number(production.takes.get((shot.id, variant_number)), shot.id, variant_number)


async def _film_shot(
    work: Work, shot: Shot, variant_number: int, drawing: asyncio.Semaphore, desk: asyncio.Semaphore
) -> Take:
    with bound_contextvars(shot=shot.number, variant=variant_number):
        take = await _film(work, shot, variant_number, drawing, desk)
        log.info("take in", extra={"take": take.take_number, "seconds": take.duration_seconds, "key": take.media.key})
        return take


async def _film(
    work: Work, shot: Shot, variant_number: int, drawing: asyncio.Semaphore, desk: asyncio.Semaphore
) -> Take:
    line, production = work.line, work.production
    take_number = _take_number(production, shot, variant_number)
    camera = line.crew.camera_for(shot, voiced=shot.id in production.voiceovers)
    request = request_to(camera, production, shot, variant_number, line.profile, finish=line.finish)
    async with drawing if camera.hosting is None else contextlib.nullcontext():
        answer = await call(
            work,
            camera,
            "film",
            request,
            subject=Subject(of=shot.id, variant_number=request.variant_number, take_number=take_number),
            shared=camera.name in NEEDS_A_VOICE,
        )
    with_sound = sound_is_kept(camera.name, shot.audio, line.finish)
    async with desk:
        return await offload(_take_in, work, shot, variant_number, take_number, answer, with_sound=with_sound)


def _take_in(
    work: Work, shot: Shot, variant_number: int, take_number: int, answer: Answer[Filmed], *, with_sound: bool
) -> Take:
    """Conform what arrived, put it and its sound into the store, and record the take."""
    line, voice = work.line, work.production.voiceovers.get(shot.id)
    longest = shot_frames(shot.duration_seconds, voice.duration_seconds if voice else None, line.profile)
    with tempfile.TemporaryDirectory(dir=line.workdir) as name, using(answer) as arrived:
        folder = Path(name)
        # That it decodes to its end was seen when it came from its provider; a camera of this machine is ours.
        found = probe(arrived)
        clip = conformed(line, arrived, found, folder, longest=longest)
        facts = found if clip == arrived else probe(clip)
        stored = line.store.put(clip, lambda sha256: take_key(shot.id, variant_number, take_number, sha256))
        sound = None
        if with_sound and found.audio is not None:
            sound = _sound(work, arrived, facts, folder, (shot.id, variant_number, take_number))
    with line.database.begin() as db:
        take = record_take(
            db,
            work.claim,
            shot.id,
            variant_number,
            stored,
            facts.duration_seconds,
            facts.as_json(),
            provider_job_id=answer.call_id,
            sound=sound,
        )
        ledger_calls.mark_ingested(db, answer.call_id)
        return take


def _sound(work: Work, arrived: Path, facts: Probe, folder: Path, of: tuple[UUID, int, int]) -> ClipSound | None:
    """What is heard with a take, in the store, as long as the take; None where nothing is."""
    heard = folder / "sound.flac"
    seconds = extract(arrived, heard, seconds=facts.duration_seconds)
    if seconds is None:
        return None
    return ClipSound(work.line.store.put(heard, lambda sha256: take_sound_key(*of, sha256)), seconds)
