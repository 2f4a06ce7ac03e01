"""The last stage: one delivered cut per variant, with captions and thumbnail.

Here: which cuts are missing or stale, and the order of work on each. Not here: how a take is extended, a
soundtrack mixed or a cut delivered (`media`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from moltpipe.ledger.media import publish_variant
from moltpipe.media.captions import SpokenLine, captions, write_srt, write_vtt
from moltpipe.media.extend import extend
from moltpipe.media.gate import Delivery, deliver
from moltpipe.media.music import lengthen
from moltpipe.media.sound import Cue, CueKind, Loudness, mix
from moltpipe.media.stills import thumbnail
from moltpipe.media.stitch import stitch
from moltpipe.production.calls import spent
from moltpipe.production.line import Line
from moltpipe.production.partial import all_or_named
from moltpipe.production.scoring import score_episode
from moltpipe.production.voicing import require_shots
from moltpipe.production.work import Work
from moltpipe.studio.keys import variant_key
from moltpipe.studio.profiles import Profile
from moltpipe.studio.records import Production, Take, Variant
from moltpipe.studio.timing import Timeline, timeline


@dataclass(frozen=True)
class Cut:
    """A variant published now, with the figures of its delivery."""

    variant: Variant
    delivery: Delivery
    loudness: Loudness


@dataclass(frozen=True)
class Cutting:
    """What the stage did: the episode's variants, and which were cut now."""

    production: Production
    cut_now: tuple[Cut, ...]
    cost_usd: Decimal
    """What this episode's music has cost so far."""


class MissingMedia(Exception):
    """An episode is to be stitched, but takes or voiceovers are missing."""

    def __init__(self, partition_key: str, missing: list[str]) -> None:
        super().__init__(f"{partition_key} cannot be stitched, these are missing: {', '.join(missing)}")
        self.partition_key = partition_key
        self.missing = missing


async def cut_variants(work: Work, *, regenerate: bool) -> Cutting:
    """Stitch every wanted variant that is not published from the current takes and voiceovers, or all again.

    Raises:
        MissingMedia: a take of a wanted variant is missing; nothing is ever cut with a placeholder.
        DeliveryRefused: a cut broke a rule of delivery; no row was written for it.
        SomeFailed: some variants failed; those that succeeded are published.
    """
    production = work.production
    require_shots(production)
    profile = work.line.profile
    wanted = range(1, production.episode.variants_wanted + 1)
    missing = [
        f"take of shot {shot.number}, variant {number}"
        for number in wanted
        for shot in production.shots
        if (shot.id, number) not in production.takes
    ]
    if missing:
        raise MissingMedia(production.episode.partition_key, missing)
    score = await score_episode(work, regenerate=regenerate)
    production = replace(production, score=score)
    todo = [
        number
        for number in wanted
        if regenerate
        or number not in production.variants
        or production.variants[number].ingredients != ingredients(production, number, profile)
    ]
    cuts: list[Cut] = []
    if todo:
        with tempfile.TemporaryDirectory(dir=work.line.workdir) as folder:
            room = await asyncio.to_thread(_set_up, work.line, production, Path(folder))
            desk = work.line.desk()
            cuts = await all_or_named(
                "variants", [(f"variant {number}", _cut(work, room, number, desk)) for number in todo]
            )
    return Cutting(work.reload(), tuple(cuts), await asyncio.to_thread(spent, work, "compose"))


def ingredients(production: Production, variant_number: int, profile: Profile) -> str:
    """Hex sha256 over everything that goes into a cut, in order."""
    parts = [
        [
            production.takes[shot.id, variant_number].media.sha256,
            production.voiceovers[shot.id].media.sha256 if shot.id in production.voiceovers else None,
            shot.strategy.value,
            shot.duration_seconds,
        ]
        for shot in production.shots
    ]
    music = [production.score.media.sha256] if production.score else []
    return hashlib.sha256(json.dumps([profile.name, parts, *music]).encode()).hexdigest()


@dataclass(frozen=True)
class _CuttingRoom:
    """What all variants of an episode share: timing, soundtrack and captions."""

    folder: Path
    timing: Timeline
    soundtrack: Path
    loudness: Loudness
    vtt: Path
    srt: Path
    ingredients: Mapping[int, str]
    """By variant number."""


def _set_up(line: Line, production: Production, folder: Path) -> _CuttingRoom:
    timing = timeline(
        production.shots,
        {shot_id: one.duration_seconds for shot_id, one in production.voiceovers.items()},
        line.profile,
    )
    voices = {
        shot_id: line.store.get(one.media, folder / f"voice-{shot_id}.wav")
        for shot_id, one in production.voiceovers.items()
    }
    cues = [
        Cue(file=voices[slot.shot_id], starts_at_s=slot.voice_starts_at, kind=CueKind.VOICE)
        for slot in timing.slots
        if slot.shot_id in voices
    ]
    if production.score is not None:
        composed = line.store.get(production.score.media, folder / "score.wav")
        music = folder / "music.wav"
        lengthen(composed, timing.seconds, music)
        cues.append(Cue(file=music, starts_at_s=0.0, kind=CueKind.MUSIC))
    soundtrack = folder / "soundtrack.wav"
    loudness = mix(cues, seconds=timing.seconds, target=soundtrack)
    spoken = [
        SpokenLine(words=production.voiceovers[slot.shot_id].words, starts_at_s=slot.voice_starts_at)
        for slot in timing.slots
        if slot.shot_id in production.voiceovers
    ]
    cues_shown = captions(spoken, end_s=timing.seconds)
    vtt, srt = folder / "captions.vtt", folder / "captions.srt"
    write_vtt(cues_shown, vtt)
    write_srt(cues_shown, srt)
    numbers = range(1, production.episode.variants_wanted + 1)
    return _CuttingRoom(
        folder,
        timing,
        soundtrack,
        loudness,
        vtt,
        srt,
        ingredients={number: ingredients(production, number, line.profile) for number in numbers},
    )


async def _cut(work: Work, room: _CuttingRoom, variant_number: int, desk: asyncio.Semaphore) -> Cut:
    folder = room.folder / f"variant-{variant_number}"
    folder.mkdir()

    async def fit(shot_id: UUID, frames: int) -> Path:
        take = work.production.takes[shot_id, variant_number]
        async with desk:
            return await asyncio.to_thread(_fitted, work, take, frames, folder)

    clips = await asyncio.gather(*(fit(slot.shot_id, slot.frames) for slot in room.timing.slots))
    async with desk:
        return await asyncio.to_thread(_deliver, work, room, variant_number, clips, folder)


def _fitted(work: Work, take: Take, frames: int, folder: Path) -> Path:
    shot = next(shot for shot in work.production.shots if shot.id == take.shot_id)
    source = work.line.store.get(take.media, folder / f"take-{shot.number}.mp4")
    fitted = folder / f"shot-{shot.number}.mp4"
    extend(source, shot.strategy, frames=frames, profile=work.line.profile, target=fitted)
    source.unlink()
    return fitted


def _deliver(work: Work, room: _CuttingRoom, variant_number: int, clips: list[Path], folder: Path) -> Cut:
    line, episode = work.line, work.production.episode
    video, still = folder / "cut.mp4", folder / "thumbnail.jpg"
    stitch(clips, room.soundtrack, video, profile=line.profile)
    delivery = deliver(video, frames=room.timing.frames, profile=line.profile)
    thumbnail(video, still)

    stored = line.store.put(video, lambda sha256: variant_key(episode.id, variant_number, sha256, ".mp4"))

    def put_beside(file: Path, suffix: str) -> str:
        return line.store.put(file, lambda _: variant_key(episode.id, variant_number, stored.sha256, suffix)).key

    captions_key = put_beside(room.vtt, ".vtt")
    put_beside(room.srt, ".srt")
    thumbnail_key = put_beside(still, ".jpg")
    with line.database.begin() as db:
        variant = publish_variant(
            db,
            work.claim,
            variant_number,
            stored,
            captions_key=captions_key,
            thumbnail_key=thumbnail_key,
            duration_seconds=room.timing.seconds,
            ingredients=room.ingredients[variant_number],
        )
    return Cut(variant=variant, delivery=delivery, loudness=room.loudness)
