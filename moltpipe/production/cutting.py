"""The last stage: one delivered cut per variant, with captions and thumbnail.

Here: which cuts are missing or stale, and the order of work on each. Not here: how a take is extended, a
soundtrack mixed or a cut delivered (`media`), what is heard when (`production.soundtracks`), series that are only
heard (`production.narrating`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from moltpipe.media.burning import burn
from moltpipe.media.captions import Caption, SpokenLine, captions, within, write_srt, write_vtt
from moltpipe.media.extend import extend
from moltpipe.media.gate import deliver
from moltpipe.media.offload import offload
from moltpipe.media.sound import Cue, Soundtrack, mix
from moltpipe.media.stills import thumbnail
from moltpipe.media.stitch import Seam, stitch
from moltpipe.production.calls import spent
from moltpipe.production.conforming import house_film
from moltpipe.production.cuts import Cut, Cutting, MissingMedia, Print, publish
from moltpipe.production.line import Line
from moltpipe.production.narrating import cut_narration
from moltpipe.production.partial import all_or_named, all_or_none
from moltpipe.production.scoring import score_episode
from moltpipe.production.soundtracks import clip_sounds, common_cues, shot_cues
from moltpipe.production.voicing import require_shots
from moltpipe.production.work import Work
from moltpipe.studio.asked import asked_of, transitions
from moltpipe.studio.finish import Finish
from moltpipe.studio.profiles import Profile
from moltpipe.studio.records import Production
from moltpipe.studio.timing import Slot, Timeline, timeline


async def cut_variants(work: Work, *, regenerate: bool) -> Cutting:
    """Stitch every wanted variant that is not published from the current takes and voiceovers, or all again.

    Raises:
        MissingMedia: a take of a wanted variant is missing; nothing is ever cut with a placeholder.
        DeliveryRefused: a cut broke a rule of delivery; no row was written for it.
        SomeFailed: some variants failed; those that succeeded are published.
    """
    if work.production.series.medium == "audio":
        return await cut_narration(work, regenerate=regenerate)
    production = work.production
    require_shots(production)
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
    made_from = {number: ingredients(production, number, work.line.profile, work.line.finish) for number in wanted}
    todo = [number for number in wanted if regenerate or not production.is_published(number, made_from[number])]
    cuts: list[Cut] = []
    if todo:
        with tempfile.TemporaryDirectory(dir=work.line.workdir) as folder:
            room = await offload(set_up, work.line, production, Path(folder), made_from, work.line.desk())
            ahead = {} if regenerate else work.line.cut_ahead
            try:
                cuts = await all_or_named(
                    "variants",
                    [
                        (f"variant {number}", _cut(work, room, number, ahead.pop((number, made_from[number]), None)))
                        for number in todo
                    ],
                )
            finally:
                await put_away(room)
    return Cutting(work.reload(), tuple(cuts), await asyncio.to_thread(spent, work, "compose"))


def ingredients(production: Production, variant_number: int, profile: Profile, finish: Finish) -> str:
    """Hex sha256 over everything that goes into a cut, in order."""
    sounds = clip_sounds(production, variant_number) if finish.clip_sound else {}
    parts = [
        [
            production.takes[shot.id, variant_number].media.sha256,
            sounds[shot.number].media.sha256 if shot.number in sounds else None,
            production.voiceovers[shot.id].media.sha256 if shot.id in production.voiceovers else None,
            shot.strategy.value,
            shot.duration_seconds,
            shot.transition.value,
        ]
        for shot in production.shots
    ]
    finished = [
        finish.loudness_lufs,
        finish.ceiling_dbtp,
        finish.burned_captions,
        finish.clip_sound,
        finish.ambience,
    ]
    music = [production.score.media.sha256] if production.score else []
    return hashlib.sha256(json.dumps([profile.name, profile.fit, finished, parts, *music]).encode()).hexdigest()


@dataclass(frozen=True)
class CuttingRoom:
    """What all variants of an episode share: timing, speech, music and captions."""

    production: Production
    folder: Path
    timing: Timeline
    cues: list[Cue]
    shown: list[Caption]
    vtt: Path
    srt: Path
    ingredients: Mapping[int, str]
    """By variant number."""
    desk: asyncio.Semaphore
    soundtracks: dict[tuple[str, ...], asyncio.Task[Soundtrack]] = field(default_factory=dict)
    """By the sounds of their clips: variants that differ in nothing that is heard share one."""


def set_up(
    line: Line, production: Production, folder: Path, made_from: Mapping[int, str], desk: asyncio.Semaphore
) -> CuttingRoom:
    """What variants share, made in `folder`, which has to last as long as the room. `desk` is where the cores are."""
    voices = {shot_id: one.duration_seconds for shot_id, one in production.voiceovers.items()}
    timing = timeline(production.shots, voices, line.profile)
    spoken = [
        SpokenLine(words=production.voiceovers[slot.shot_id].words, starts_at_s=slot.voice_starts_at)
        for slot in timing.slots
        if slot.shot_id in production.voiceovers
    ]
    shown = captions(spoken, end_s=timing.seconds)
    vtt, srt = folder / "captions.vtt", folder / "captions.srt"
    write_vtt(shown, vtt)
    write_srt(shown, srt)
    cues = common_cues(line, production, {slot.shot_id: slot.voice_starts_at for slot in timing.slots}, folder)
    return CuttingRoom(production, folder, timing, cues, shown, vtt, srt, made_from, desk)


async def _cut(work: Work, room: CuttingRoom, variant_number: int, ahead: Print | None) -> Cut:
    ready = ahead or await printed(work.line, room, variant_number)
    return await offload(publish, work, variant_number, ready)


async def printed(line: Line, room: CuttingRoom, variant_number: int) -> Print:
    """Cut a variant and judge it. Nothing is stored or recorded.

    Raises:
        DeliveryRefused: the cut broke a rule of delivery.
    """
    folder = room.folder / f"variant-{variant_number}"
    folder.mkdir()

    async def fit(slot: Slot) -> Path:
        async with room.desk:
            return await offload(_fitted, line, room, slot, variant_number, folder)

    soundtrack = _soundtrack(line, room, variant_number)
    clips = await all_or_none([fit(slot) for slot in room.timing.slots])
    heard = await soundtrack
    async with room.desk:
        return await offload(_delivered, line, room, variant_number, clips, heard, folder)


def _soundtrack(line: Line, room: CuttingRoom, variant_number: int) -> asyncio.Task[Soundtrack]:
    """The task that mixes what is heard in a variant; the first one to ask starts it."""
    sounds = clip_sounds(room.production, variant_number) if line.finish.clip_sound else {}
    key = tuple(f"{number}:{sound.media.sha256}" for number, sound in sorted(sounds.items()))

    def mixed() -> Soundtrack:
        folder = room.folder / f"sound-{variant_number}"
        folder.mkdir()
        cues = [*room.cues, *shot_cues(line, room.production, room.timing, sounds, folder)]
        return mix(cues, seconds=room.timing.seconds, target=folder / "soundtrack.m4a", finish=line.finish)

    async def at_a_desk() -> Soundtrack:
        async with room.desk:
            return await offload(mixed)

    if key not in room.soundtracks:
        room.soundtracks[key] = asyncio.create_task(at_a_desk())
    return room.soundtracks[key]


async def put_away(room: CuttingRoom) -> None:
    """End what is still being mixed for a variant whose pictures failed: its folder is about to go."""
    begun = list(room.soundtracks.values())
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)


def _fitted(line: Line, room: CuttingRoom, slot: Slot, variant_number: int, folder: Path) -> Path:
    """A shot of a variant as it goes into the reel."""
    take = room.production.takes[slot.shot_id, variant_number]
    shot = next(shot for shot in room.production.shots if shot.id == slot.shot_id)
    source = house_film(line, take, folder)
    fitted = folder / f"shot-{slot.number}.mp4"
    extend(source, shot.strategy, frames=slot.frames, profile=line.profile, target=fitted)
    source.unlink()
    if not line.finish.burned_captions:
        return fitted
    starts_at_s = line.profile.seconds(slot.start_frame)
    shown = within(room.shown, starts_at_s, starts_at_s + line.profile.seconds(slot.frames))
    captioned = folder / f"captioned-{slot.number}.mp4"
    burn(fitted, shown, captioned, profile=line.profile)
    fitted.unlink()
    return captioned


def _delivered(
    line: Line, room: CuttingRoom, variant_number: int, clips: list[Path], heard: Soundtrack, folder: Path
) -> Print:
    profile, timing = line.profile, room.timing
    video, still = folder / "cut.mp4", folder / "thumbnail.jpg"
    seams = [
        Seam(position, slot.transition, slot.seam_frames)
        for position, slot in enumerate(timing.slots)
        if slot.seam_frames
    ]
    burned = line.finish.burned_captions
    stitch(clips, heard.file, video, profile=profile, captions=room.srt, burned=burned, seams=seams)
    for clip in clips:
        clip.unlink()
    delivery = deliver(
        video,
        frames=timing.frames,
        profile=profile,
        loudness_lufs=heard.loudness.aim_lufs,
        asked=asked_of(room.production, variant_number, timing, line.finish),
        captions=room.shown,
        ceiling_dbtp=line.finish.ceiling_dbtp,
    )
    thumbnail(video, still, avoid=transitions(timing))
    return Print(
        video=video,
        vtt=room.vtt,
        srt=room.srt,
        thumbnail=still,
        seconds=timing.seconds,
        ingredients=room.ingredients[variant_number],
        delivery=delivery,
        loudness=heard.loudness,
    )
