"""The last stage of an audio series: the passages of an episode in order, music and room tone under them, one MP4.

Here: what is heard when, and the order of work. Not here: when a passage begins (`studio.narration`), the mix, the
file and the gate (`media`), how a cut is published (`production.cuts`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image

from moltpipe.media.ambience import bed
from moltpipe.media.captions import SpokenLine, captions, write_srt, write_vtt
from moltpipe.media.gate import deliver_sound
from moltpipe.media.offload import offload
from moltpipe.media.sound import SAMPLE_RATE, Cue, CueKind, mix
from moltpipe.media.stitch import package
from moltpipe.production.calls import spent
from moltpipe.production.cuts import Cut, Cutting, MissingMedia, Print, publish
from moltpipe.production.line import Line
from moltpipe.production.partial import all_or_named
from moltpipe.production.posters import poster
from moltpipe.production.scoring import score_episode
from moltpipe.production.soundtracks import bed_seed, common_cues
from moltpipe.production.voicing import require_shots
from moltpipe.production.work import Work
from moltpipe.studio.asked import asked_of_reading
from moltpipe.studio.finish import Finish
from moltpipe.studio.narration import MAX_EPISODE_S, MIN_EPISODE_S, LengthOutOfBounds, Reading, reading
from moltpipe.studio.records import Production
from moltpipe.studio.screenplay import ROOM_TONE

THE_CUT = 1
"""Variants differ in their pictures, so a narration has one."""
EDGE_S = 1.0
"""Room tone and music come and go over so long."""


async def cut_narration(work: Work, *, regenerate: bool) -> Cutting:
    """Cut the episode from its current voiceovers unless that cut is published, or cut it again.

    Raises:
        NoShots: the episode has no script yet.
        MissingMedia: a passage has not been spoken; nothing is ever cut with a gap.
        SomeFailed: the cut is too short or too long (`LengthOutOfBounds`), or broke a rule of delivery
            (`DeliveryRefused`); no row was written for it.
    """
    production = work.production
    require_shots(production)
    missing = [
        f"voiceover of passage {shot.number}" for shot in production.shots if shot.id not in production.voiceovers
    ]
    if missing:
        raise MissingMedia(production.episode.partition_key, missing)
    production = replace(production, score=await score_episode(work, regenerate=regenerate))
    made_from = ingredients(production, work.line.finish)
    cuts: list[Cut] = []
    if regenerate or not production.is_published(THE_CUT, made_from):
        cuts = await all_or_named("variants", [(f"variant {THE_CUT}", _cut(work, production, made_from))])
    return Cutting(work.reload(), tuple(cuts), await asyncio.to_thread(spent, work, "compose"))


def ingredients(production: Production, finish: Finish) -> str:
    """Hex sha256 over everything that goes into the cut, in order."""
    passages = [
        [production.voiceovers[shot.id].media.sha256, shot.gen_clip_seconds, shot.duration_seconds]
        for shot in production.shots
    ]
    parts = {
        "passages": passages,
        "music": production.score.media.sha256 if production.score else None,
        "finish": [finish.loudness_lufs, finish.ceiling_dbtp, finish.ambience],
        "cover": production.series.poster_key,
        "title": _title(production),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


async def _cut(work: Work, production: Production, made_from: str) -> Cut:
    voices = {shot_id: one.duration_seconds for shot_id, one in production.voiceovers.items()}
    timing = reading(production.shots, voices, scored=production.score is not None)
    if not MIN_EPISODE_S <= timing.seconds <= MAX_EPISODE_S:
        raise LengthOutOfBounds(production.episode.partition_key, timing.seconds)
    with tempfile.TemporaryDirectory(dir=work.line.workdir) as folder:
        ready = await offload(_printed, work.line, production, timing, made_from, Path(folder))
        return await offload(publish, work, THE_CUT, ready)


def _printed(line: Line, production: Production, timing: Reading, made_from: str, folder: Path) -> Print:
    """Mix, caption and package the episode, and have the gate look at it."""
    soundtrack = mix(
        _cues(line, production, timing, folder),
        seconds=timing.seconds,
        target=folder / "soundtrack.m4a",
        finish=line.finish,
    )
    words = {one.shot_id: production.voiceovers[one.shot_id].words for one in timing.passages}
    shown = captions(
        [SpokenLine(words=words[one.shot_id], starts_at_s=one.starts_at_s) for one in timing.passages],
        end_s=min(timing.seconds, soundtrack.samples / SAMPLE_RATE),
    )
    vtt, srt = folder / "captions.vtt", folder / "captions.srt"
    write_vtt(shown, vtt)
    write_srt(shown, srt)
    cover = _cover(line, production, folder / "cover.jpg")
    episode = folder / "episode.mp4"
    package(soundtrack.file, episode, cover=cover, captions=srt, title=_title(production))
    delivery = deliver_sound(
        episode,
        seconds=timing.seconds,
        loudness_lufs=soundtrack.loudness.aim_lufs,
        asked=asked_of_reading(production, timing, line.finish),
        captions=shown,
        ceiling_dbtp=line.finish.ceiling_dbtp,
    )
    return Print(
        video=episode,
        vtt=vtt,
        srt=srt,
        thumbnail=cover,
        seconds=timing.seconds,
        ingredients=made_from,
        delivery=delivery,
        loudness=soundtrack.loudness,
    )


def _cues(line: Line, production: Production, timing: Reading, folder: Path) -> list[Cue]:
    passages = {one.shot_id: one.starts_at_s for one in timing.passages}
    cues = common_cues(line, production, passages, folder, music_fade_in_s=EDGE_S)
    if line.finish.ambience:
        tone = folder / "room.wav"
        bed(ROOM_TONE, seconds=timing.seconds, seed=bed_seed(production.episode.id), target=tone)
        cues.append(Cue(tone, 0.0, CueKind.AMBIENCE, fade_in_s=EDGE_S, fade_out_s=EDGE_S))
    return cues


def _cover(line: Line, production: Production, target: Path) -> Path:
    """The poster of the series as a JPEG: as it lies in the store, else as it would be drawn."""
    drawn = target.with_suffix(".png")
    if production.series.poster_key is None:
        poster(production.series).save(drawn)
    else:
        line.store.fetch(production.series.poster_key, drawn)
    with Image.open(drawn) as picture:
        picture.convert("RGB").save(target, "JPEG", quality=85, optimize=True)
    return target


def _title(production: Production) -> str:
    return f"{production.series.title}: {production.episode.title}"
