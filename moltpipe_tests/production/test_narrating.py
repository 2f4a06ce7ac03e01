"""A series that is only heard, from its audio pack to what is published, with local engines on real services."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import numpy as np
import numpy.typing as npt
import pysubs2
import pytest
import sqlalchemy as sa
from PIL import Image

from moltpipe import samples
from moltpipe.engines.local import Bench, LocalEngine
from moltpipe.engines.protocols import Composed, ScoreRequest
from moltpipe.ledger.jobs import load_jobs
from moltpipe.ledger.schema import shots, voiceovers
from moltpipe.ledger.scripts import FiledScript, file_script
from moltpipe.ledger.series import all_episodes
from moltpipe.media.sound import measure
from moltpipe.production.cuts import Cutting, MissingMedia
from moltpipe.production.cutting import cut_variants
from moltpipe.production.filming import film_shots
from moltpipe.production.line import Line
from moltpipe.production.narrating import ingredients
from moltpipe.production.partial import SomeFailed
from moltpipe.production.screenwriting import write_episode
from moltpipe.production.voicing import voice_shots
from moltpipe.production.work import work_on
from moltpipe.studio.admission import judge
from moltpipe.studio.finish import Finish
from moltpipe.studio.narration import (
    CLOSING_S,
    CLOSING_SCORED_S,
    OPENING_S,
    OPENING_SCORED_S,
    LengthOutOfBounds,
    reading,
)
from moltpipe.studio.progress import progress_of
from moltpipe.studio.records import Episode, Production, Score
from moltpipe_tests.production.test_stages import files_in, known
from moltpipe_tests.stories import a_filed_pack, a_series

SENTENCE = "The kettle waits for somebody to come home, and nobody comes. "
"""Eleven words, which eSpeak NG speaks in about four seconds."""
RATE = 48_000
PACK = samples.packs()[0][1]


def a_pack(database: Any, *, sentences: int) -> FiledScript:  # noqa: ANN401 - the fixture's database
    """A pack whose episodes repeat one sentence."""
    document: dict[str, Any] = json.loads((Path(__file__).parents[1] / "scripts" / "good_pack.json").read_text())
    for one in document["episodes"]:
        one["narration_text"] = SENTENCE * sentences
    admission = judge(document)
    assert admission.script is not None
    with database.begin() as db:
        return file_script(
            db,
            admission.script,
            admission.document,
            agent_name="kettle",
            studio_slug=None,
            now=datetime.now(UTC) - timedelta(hours=2),
        )


async def four_stages(line: Line, episode: Episode) -> Cutting:
    """The four stages of an episode, each in a claim of its own as its asset has it."""

    async def stage(do: Any, **options: bool) -> Any:  # noqa: ANN401 - any stage, and what it returns
        async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
            return await do(work, **options)

    await stage(write_episode, regenerate=False)
    await stage(voice_shots, regenerate=False)
    filming = await stage(film_shots, regenerate=False)
    assert filming.filmed_now == ()
    cutting: Cutting = await stage(cut_variants, regenerate=False)
    return cutting


async def cut(line: Line, episode: Episode, *, regenerate: bool = False) -> Cutting:
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        return await cut_variants(work, regenerate=regenerate)


def heard(file: Path) -> npt.NDArray[np.float32]:
    """The samples of the first sound in a file, all channels summed to one."""
    with av.open(str(file)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    joined: npt.NDArray[np.float32] = np.concatenate(frames, axis=1).mean(axis=0)
    return joined


def level_db(samples: npt.NDArray[np.float32], start_s: float, end_s: float) -> float:
    part = samples[round(start_s * RATE) : round(end_s * RATE)].astype(np.float64)
    return float(10 * np.log10(np.mean(part**2) + 1e-12))


class Organ(LocalEngine[ScoreRequest, Composed]):
    """Composes ten seconds of two notes, whatever it is asked for."""

    name, model = "organ", "organ-1"

    def make(self, request: ScoreRequest, bench: Bench) -> Composed:  # noqa: ARG002 - it knows one piece
        at = np.arange(10 * RATE) / RATE
        wave = 0.2 * (np.sin(2 * np.pi * 220 * at) + np.sin(2 * np.pi * 330 * at))
        file = bench.stem.with_suffix(".wav")
        with av.open(str(file), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None, :], format="s16", layout="mono")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return Composed(file=file)


async def test_an_audio_series_goes_from_its_vote_to_five_published_episodes(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five episodes of the length that they must have are half an hour of sound, which takes minutes to mix.
    monkeypatch.setattr("moltpipe.production.narrating.MIN_EPISODE_S", 5.0)
    episodes = a_series(line.database, a_pack(line.database, sentences=3))
    for cutting in await asyncio.gather(*(four_stages(line, episode) for episode in episodes)):
        assert len(cutting.cut_now) == 1
        assert cutting.cost_usd == 0
    with line.database.begin() as db:
        states = db.execute(sa.text("SELECT status, variants_done FROM episode_progress")).all()
        assert [tuple(state) for state in states] == [("completed", 1)] * 5
        assert load_jobs(db) == []
        assert [one.title for one in all_episodes(db)] == [f"Night {number}" for number in range(1, 6)]
    before = [known(line, episode) for episode in episodes]
    for production in before:
        assert production.takes == {}
        assert production.variants[1].is_selected
        assert production.variants[1].delivery is not None
        assert (progress := progress_of(production)) is not None
        assert (progress.done, progress.making) == (progress.total, "published")
    assert files_in(tmp_path) == [], "scratch space is left empty"

    again = await asyncio.gather(*(four_stages(line, episode) for episode in episodes))
    assert [cutting.cut_now for cutting in again] == [()] * 5
    assert [known(line, episode) for episode in episodes] == before
    assert len((await cut(line, episodes[0], regenerate=True)).cut_now) == 1


async def test_what_is_published_of_the_sample_pack_sounds_and_reads_as_it_was_written(
    line: Line, tmp_path: Path
) -> None:
    episode = a_series(line.database, a_filed_pack(line.database))[0]
    await four_stages(line, episode)
    production = known(line, episode)
    variant = production.variants[1]
    assert 180 <= variant.duration_seconds <= 360
    file = line.store.get(variant.video, tmp_path / "episode.mp4")
    sound = heard(file)
    assert sound.size / RATE == pytest.approx(variant.duration_seconds, abs=0.012)
    lufs, dbtp = measure(file)
    assert lufs == pytest.approx(-14, abs=0.5)
    assert dbtp is not None
    assert dbtp <= -0.5

    timing = reading(production.shots, _voices(production), scored=False)
    assert timing.seconds == variant.duration_seconds
    for before, one in pairwise(timing.passages):
        words = production.voiceovers[one.shot_id].words
        spoken = level_db(sound, one.starts_at_s + words[0].start, one.starts_at_s + words[-1].end)
        pause = level_db(sound, before.ends_at_s + 0.02, one.starts_at_s - 0.02)
        assert spoken > -35
        assert -75 < pause < spoken - 15, "a breath, in a room that is never quite silent"

    written = PACK["episodes"][0]["narration_text"].split()
    for suffix in (".vtt", ".srt"):
        sidecar = line.store.fetch(variant.captions_key.removesuffix(".vtt") + suffix, tmp_path / f"captions{suffix}")
        shown = pysubs2.load(str(sidecar))
        assert " ".join(event.plaintext for event in shown).split() == written
    first = timing.passages[0]
    first_word_s = first.starts_at_s + production.voiceovers[first.shot_id].words[0].start
    assert shown[0].start / 1000 == pytest.approx(first_word_s, abs=0.05)
    with av.open(str(file)) as container:
        assert sorted(stream.type for stream in container.streams) == ["audio", "subtitle", "video"]
        assert container.metadata["title"] == "Known by Weight: Monday: Load"
    with Image.open(line.store.fetch(variant.thumbnail_key, tmp_path / "cover.jpg")) as cover:
        assert cover.size == (600, 900)


async def test_music_opens_and_closes_an_episode_and_steps_back_behind_the_voice(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moltpipe.production.narrating.MIN_EPISODE_S", 5.0)
    episode = a_series(line.database, a_pack(line.database, sentences=20))[0]
    scored = replace(line, finish=Finish(ambience=False), crew=replace(line.crew, composer=Organ(tmp_path)))
    assert len((await four_stages(scored, episode)).cut_now) == 1
    production = known(line, episode)
    variant = production.variants[1]
    sound = heard(line.store.get(variant.video, tmp_path / "episode.mp4"))
    timing = reading(production.shots, _voices(production), scored=True)
    longer = OPENING_SCORED_S + CLOSING_SCORED_S - OPENING_S - CLOSING_S
    without_s = reading(production.shots, _voices(production), scored=False).seconds
    assert variant.duration_seconds == timing.seconds == pytest.approx(without_s + longer)
    opening = level_db(sound, 1.5, OPENING_SCORED_S - 0.2)
    assert opening > -45
    assert level_db(sound, timing.seconds - 4.0, timing.seconds - 3.0) == pytest.approx(opening, abs=3)
    assert level_db(sound, timing.seconds - 0.1, timing.seconds) < opening - 15
    under_the_voice = _tone_db(sound, timing.passages[2].starts_at_s + 2.0)
    assert under_the_voice < _tone_db(sound, 2.0) - 4


async def test_the_last_caption_ends_with_the_sound_that_whole_packets_make(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moltpipe.production.narrating.MIN_EPISODE_S", 5.0)
    episode = a_series(line.database, a_pack(line.database, sentences=12))[0]
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        await write_episode(work, regenerate=False)
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        await voice_shots(work, regenerate=False)
    production = known(line, episode)
    over = round(reading(production.shots, _voices(production), scored=False).seconds * RATE) % 1024
    first, last = production.shots[0], production.voiceovers[production.shots[-1].id]
    # The last words have no time of their own, and the episode ends a third of a packet after the last whole one.
    late = [{"text": word.text, "start": last.duration_seconds, "end": last.duration_seconds} for word in last.words]
    with line.database.begin() as db:
        longer = first.duration_seconds + (340 - over) % 1024 / RATE
        db.execute(sa.update(shots).where(shots.c.id == first.id).values(duration_seconds=longer))
        db.execute(sa.update(voiceovers).where(voiceovers.c.id == last.id).values(words=late))
    cutting = await cut(line, episode)
    variant = cutting.production.variants[1]
    ends_s = cutting.cut_now[0].delivery.figures["last_caption_ends_s"]
    assert isinstance(ends_s, float)
    assert variant.duration_seconds - 0.0107 < ends_s < variant.duration_seconds


async def test_an_episode_of_the_wrong_length_is_not_published_and_the_figure_is_named(line: Line) -> None:
    episode = a_series(line.database, a_pack(line.database, sentences=12))[0]
    with pytest.raises(SomeFailed, match=r"would last \d+\.\d s: .* 180 to 360 s.*slower voice") as failed:
        await four_stages(line, episode)
    refused = failed.value.failed[0].error
    assert isinstance(refused, LengthOutOfBounds)
    assert refused.seconds < 180
    production = known(line, episode)
    assert production.variants == {}
    assert len(production.voiceovers) == len(production.shots)
    assert files_in(line.workdir) == []
    with line.database.begin() as db:
        job = next(job for job in load_jobs(db) if job.partition_key == episode.partition_key)
    assert job.attempt_count == job.max_attempts, "the same text would be as short again: no other attempt is made"


async def test_an_episode_is_not_cut_with_a_passage_missing(line: Line) -> None:
    episode = a_series(line.database, a_pack(line.database, sentences=12))[2]
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        await write_episode(work, regenerate=False)
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        await voice_shots(work, regenerate=False)
    silenced = known(line, episode).shots[1]
    with line.database.begin() as db:
        db.execute(sa.text("DELETE FROM voiceovers WHERE shot_id = :id"), {"id": silenced.id})
    with pytest.raises(MissingMedia) as refused:
        await cut(line, episode)
    assert refused.value.missing == ["voiceover of passage 2"]


async def test_a_cut_is_stale_once_anything_that_is_heard_or_shown_of_it_changes(line: Line) -> None:
    episode = a_series(line.database, a_pack(line.database, sentences=12))[0]
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        await write_episode(work, regenerate=False)
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        await voice_shots(work, regenerate=False)
    production = known(line, episode)
    first, second, *rest = production.shots
    spoken = production.voiceovers[first.id]
    score = Score(uuid4(), episode.id, 1, replace(spoken.media, sha256="1" * 64), 10.0)
    respoken = replace(spoken, media=replace(spoken.media, sha256="2" * 64))
    changed = [
        ingredients(production, Finish()),
        ingredients(production, Finish(loudness_lufs=-16)),
        ingredients(production, Finish(ambience=False)),
        ingredients(replace(production, score=score), Finish()),
        ingredients(replace(production, voiceovers=production.voiceovers | {first.id: respoken}), Finish()),
        ingredients(replace(production, shots=(first, replace(second, duration_seconds=40.0), *rest)), Finish()),
        ingredients(replace(production, series=replace(production.series, poster_key="another.png")), Finish()),
        ingredients(replace(production, episode=replace(episode, title="Another Title")), Finish()),
    ]
    assert len(set(changed)) == len(changed)
    assert ingredients(production, Finish(burned_captions=True, clip_sound=False)) == changed[0]


async def test_every_episode_finds_the_poster_whichever_is_made_first(line: Line) -> None:
    episode = a_series(line.database, a_filed_pack(line.database))[4]
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        screenplay = await write_episode(work, regenerate=False)
    assert screenplay.engine == "audio pack"
    assert screenplay.production.episode.title == "Friday: Down"
    assert screenplay.production.series.poster_key is not None
    assert line.store.size(screenplay.production.series.poster_key)


def _voices(production: Production) -> dict[Any, float]:
    return {shot_id: one.duration_seconds for shot_id, one in production.voiceovers.items()}


def _tone_db(sound: npt.NDArray[np.float32], at_s: float) -> float:
    """How loud 220 Hz is for a second from `at_s`."""
    part = sound[round(at_s * RATE) : round((at_s + 1) * RATE)].astype(np.float64)
    turn = np.exp(-2j * np.pi * 220 * np.arange(part.size) / RATE)
    return float(20 * np.log10(abs(np.mean(part * turn)) + 1e-12))
