"""What a finished cut looks and sounds like, from the ledger to the last frame, with local engines on real services."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import av
import pytest
import sqlalchemy as sa

from moltpipe.engines.animatic import Animatic
from moltpipe.engines.local import Bench
from moltpipe.engines.protocols import Filmed, TakeRequest
from moltpipe.ledger.production import load_production
from moltpipe.ledger.schema import shots
from moltpipe.media.runner import run, url
from moltpipe.media.sound import measure
from moltpipe.production.cuts import Cutting
from moltpipe.production.cutting import cut_variants, ingredients
from moltpipe.production.filming import film_shots
from moltpipe.production.line import Line
from moltpipe.production.screenwriting import write_episode
from moltpipe.production.voicing import voice_shots
from moltpipe.production.work import work_on
from moltpipe.studio.delivery import RULES
from moltpipe.studio.finish import Finish
from moltpipe.studio.profiles import Fit, parse_profile
from moltpipe.studio.records import Episode, Production
from moltpipe.studio.screenplay import PILOT_VARIANTS
from moltpipe.studio.timing import timeline
from moltpipe_tests.lens_cap import LensCap
from moltpipe_tests.media.material import pictures
from moltpipe_tests.stories import a_series


class SoundCamera(Animatic):
    """The animatic with a microphone: every clip comes with a tone."""

    def make(self, request: TakeRequest, bench: Bench) -> Filmed:
        silent = super().make(request, bench).local
        file = bench.stem.with_suffix(".with-sound.mp4")
        args = ["-i", url(silent), "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100"]
        run([*args, "-c:v", "copy", "-c:a", "aac", "-shortest", url(file)], timeout_s=60)
        silent.unlink()
        return Filmed(file=file)


def known(line: Line, episode: Episode) -> Production:
    with line.database.begin() as db:
        return load_production(db, episode.partition_key)


async def film_it(line: Line, episode: Episode, *, cut_ahead: bool = False) -> None:
    """Take an episode as far as its takes; three short shots are enough to see what a cut is."""
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        await write_episode(work, regenerate=False)
    with line.database.begin() as db:
        of_episode = shots.c.episode_id == episode.id
        db.execute(sa.delete(shots).where(of_episode, shots.c.shot_number > 3))
        db.execute(sa.update(shots).where(of_episode).values(gen_clip_seconds=3, duration_seconds=3))
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        await voice_shots(work, regenerate=False)
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        await film_shots(work, regenerate=False, cut_ahead=cut_ahead)


async def cut(line: Line, episode: Episode) -> Cutting:
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        return await cut_variants(work, regenerate=False)


@pytest.fixture
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder apart from the line's own, to look at what came out."""
    return tmp_path_factory.mktemp("screening-room")


@pytest.fixture
async def filmed(line: Line) -> tuple[Line, Episode]:
    """A later episode whose takes and voices are there, with the sound of its clips."""
    with_sound = replace(line, crew=replace(line.crew, camera=SoundCamera(line.workdir)))
    episode = a_series(line.database)[1]
    await film_it(with_sound, episode)
    return with_sound, episode


async def test_a_cut_is_recorded_with_everything_that_the_gate_found(filmed: tuple[Line, Episode], room: Path) -> None:
    line, episode = filmed
    cutting = await cut(line, episode)

    delivery = known(line, episode).variants[1].delivery
    assert delivery is not None
    assert delivery == cutting.cut_now[0].delivery.as_json()
    assert [one["rule"] for one in delivery["findings"]] == list(RULES)
    assert delivery["passed"] is True
    video = line.store.get(cutting.production.variants[1].video, room / "cut.mp4")
    with av.open(str(video)) as container:
        assert sorted(stream.type for stream in container.streams) == ["audio", "subtitle", "video"]


async def test_variants_are_cut_while_others_are_being_filmed(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    pilot = a_series(line.database)[0]
    with caplog.at_level(logging.INFO):
        await film_it(line, pilot, cut_ahead=True)
    ahead = {record.__dict__["variant"] for record in caplog.records if record.message == "cut ahead"}
    # Which of them came in last is chance; that one is left to the next stage.
    assert ahead
    assert len(line.cut_ahead) == len(ahead) < PILOT_VARIANTS
    assert known(line, pilot).variants == {}, "published by the next stage alone"
    made = {one.video.stat().st_ino for one in line.cut_ahead.values()}

    cutting = await cut(line, pilot)
    assert len(cutting.cut_now) == PILOT_VARIANTS
    assert {one.delivery.passed for one in cutting.cut_now} == {True}
    assert not line.cut_ahead
    assert made <= {file.stat().st_ino for file in line.workdir.rglob("cut.mp4")}, "cut a second time"
    assert not (await cut(line, pilot)).cut_now


async def test_a_cut_made_ahead_is_not_published_where_something_has_changed_since(line: Line) -> None:
    pilot = a_series(line.database)[0]
    await film_it(line, pilot, cut_ahead=True)
    before = dict(line.cut_ahead)
    louder = replace(line, finish=replace(line.finish, loudness_lufs=-16.0))
    assert len((await cut(louder, pilot)).cut_now) == PILOT_VARIANTS
    assert line.cut_ahead == before


async def test_a_variant_that_the_gate_refuses_ahead_does_not_fail_the_filming(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    pilot = a_series(line.database)[0]
    in_the_dark = replace(line, crew=replace(line.crew, camera=LensCap(line.workdir)))
    with caplog.at_level(logging.INFO):
        await film_it(in_the_dark, pilot, cut_ahead=True)
    refusals = [record.__dict__["why"] for record in caplog.records if record.message == "not cut ahead"]
    assert refusals
    assert all("black" in why for why in refusals)
    assert len(known(line, pilot).takes) == 3 * PILOT_VARIANTS
    assert not in_the_dark.cut_ahead


async def test_the_sound_of_a_clip_is_heard_unless_it_is_to_be_dropped(
    filmed: tuple[Line, Episode], room: Path
) -> None:
    line, episode = filmed
    assert all(take.sound is not None for take in known(line, episode).takes.values())
    dry = replace(line, finish=Finish(clip_sound=False, ambience=False))
    heard: list[float] = []
    for number, house in enumerate((line, dry)):
        cutting = await cut(house, episode)
        assert len(cutting.cut_now) == 1, "another finish makes the cut stale"
        video = line.store.get(cutting.production.variants[1].video, room / f"cut-{number}.mp4")
        tone = room / f"tone-{number}.wav"
        run(["-i", url(video), "-af", "bandpass=frequency=440:width_type=h:width=10", url(tone)], timeout_s=60)
        lufs, _ = measure(tone)
        heard.append(lufs if lufs is not None else -70.0)
    assert heard[0] > heard[1] + 6


async def test_a_shot_fades_through_black_and_the_timeline_stays(filmed: tuple[Line, Episode], room: Path) -> None:
    line, episode = filmed
    with line.database.begin() as db:
        db.execute(
            sa.update(shots)
            .where(shots.c.episode_id == episode.id, shots.c.shot_number == 2)
            .values(transition="fade_through_black")
        )
    cutting = await cut(line, episode)
    production = cutting.production
    voices = {shot_id: one.duration_seconds for shot_id, one in production.voiceovers.items()}
    timing = timeline(production.shots, voices, line.profile)
    frames = pictures(line.store.get(production.variants[1].video, room / "cut.mp4"))
    assert len(frames) == timing.frames
    seam = timing.slots[1].start_frame
    brightness = [sum(frame.convert("L").resize((8, 8)).tobytes()) / 64 for frame in frames]
    assert min(brightness[seam - 1], brightness[seam]) < 20
    assert min(brightness[seam - 12], brightness[seam + 12]) > min(brightness[seam - 1], brightness[seam]) + 10


async def test_captions_are_burned_in_only_where_that_is_set(filmed: tuple[Line, Episode], room: Path) -> None:
    line, episode = filmed
    shown: list[bytes] = []
    for number, burned in enumerate((False, True)):
        cutting = await cut(replace(line, finish=Finish(burned_captions=burned)), episode)
        production = cutting.production
        spoken = next(shot for shot in production.shots if shot.id in production.voiceovers)
        voices = {shot_id: one.duration_seconds for shot_id, one in production.voiceovers.items()}
        slot = next(one for one in timeline(production.shots, voices, line.profile).slots if one.shot_id == spoken.id)
        frame = slot.start_frame + line.profile.frames(1.0)
        picture = pictures(line.store.get(production.variants[1].video, room / f"cut-{number}.mp4"))[frame]
        lower = picture.crop((0, picture.height * 2 // 3, picture.width, picture.height)).convert("L")
        shown.append(lower.tobytes())
        with av.open(url(room / f"cut-{number}.mp4")) as container:
            track_is_on = container.streams.subtitles[0].disposition & av.stream.Disposition.default
        assert bool(track_is_on) is not burned
    changed = sum(abs(one - other) > 60 for one, other in zip(*shown, strict=True))
    assert changed > 100


async def test_a_new_profile_recuts_the_takes_that_are_there(filmed: tuple[Line, Episode], room: Path) -> None:
    line, episode = filmed
    await cut(line, episode)
    takes = known(line, episode).takes
    upright = replace(line, profile=parse_profile("144p12-9x16"))
    cutting = await cut(upright, episode)
    assert known(line, episode).takes == takes
    with av.open(str(line.store.get(cutting.production.variants[1].video, room / "cut.mp4"))) as container:
        picture = container.streams.video[0]
        assert (picture.codec_context.width, picture.codec_context.height) == (144, 256)


async def test_a_cut_is_stale_once_anything_that_is_seen_or_heard_of_it_changes(filmed: tuple[Line, Episode]) -> None:
    line, episode = filmed
    production, house = known(line, episode), line.finish
    first, *rest = production.shots
    refit = replace(line.profile, fit=Fit.CROP)
    changed = [
        ingredients(production, 1, line.profile, house),
        ingredients(production, 1, refit, house),
        ingredients(production, 1, parse_profile("180p24"), house),
        ingredients(production, 1, line.profile, replace(house, loudness_lufs=-16)),
        ingredients(production, 1, line.profile, replace(house, burned_captions=True)),
        ingredients(production, 1, line.profile, replace(house, clip_sound=False)),
        ingredients(production, 1, line.profile, replace(house, ambience=False)),
        ingredients(replace(production, shots=(replace(first, duration_seconds=9.0), *rest)), 1, line.profile, house),
        ingredients(replace(production, voiceovers={}), 1, line.profile, house),
    ]
    assert len(set(changed)) == len(changed)
    assert ingredients(production, 1, line.profile, replace(house, paid_clip_sound=True)) == changed[0]
    assert ingredients(production, 1, replace(line.profile, encoder="h264_nvenc"), house) == changed[0]


async def test_a_cancelled_cut_leaves_nothing_running_and_nothing_recorded(filmed: tuple[Line, Episode]) -> None:
    line, episode = filmed
    task = asyncio.create_task(cut(line, episode))
    while not list(line.workdir.rglob("shot-*.mp4")):  # noqa: ASYNC110 -- what is awaited is a file
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert known(line, episode).variants == {}
    assert [file for file in line.workdir.rglob("*") if file.is_file()] == []
