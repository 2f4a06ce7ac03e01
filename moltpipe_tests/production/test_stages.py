"""The four stages of an episode, with local engines on real services."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from moltpipe.engines.animatic import Animatic
from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.protocols import ExternalId, Order, TakeRequest
from moltpipe.ledger import calls
from moltpipe.ledger.jobs import load_jobs
from moltpipe.ledger.production import load_production
from moltpipe.ledger.shots import ShotsInUse
from moltpipe.production.calls import Subject, fingerprint, intent_of
from moltpipe.production.cuts import MissingMedia
from moltpipe.production.cutting import cut_variants
from moltpipe.production.filming import film_shots, take_request
from moltpipe.production.line import Line
from moltpipe.production.partial import SomeFailed
from moltpipe.production.screenwriting import write_episode
from moltpipe.production.voicing import NoShots, voice_shots
from moltpipe.production.work import work_on
from moltpipe.studio.records import Episode, Production
from moltpipe_tests.stories import a_series


def known(line: Line, episode: Episode) -> Production:
    with line.database.begin() as db:
        return load_production(db, episode.partition_key)


def files_in(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


async def write_and_voice(line: Line, episode: Episode) -> None:
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        await write_episode(work, regenerate=False)
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        await voice_shots(work, regenerate=False)


async def film(line: Line, episode: Episode, *, regenerate: bool = False) -> int:
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        return len((await film_shots(work, regenerate=regenerate)).filmed_now)


async def cut(line: Line, episode: Episode, *, regenerate: bool = False) -> int:
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        return len((await cut_variants(work, regenerate=regenerate)).cut_now)


class UnreliableCamera(Animatic):
    """The animatic, except that it fails on the shots that it is told to."""

    def __init__(self, workdir: Path, fails_on: set[int]) -> None:
        super().__init__(workdir)
        self.fails_on = fails_on
        self.asked_for: list[int] = []

    async def submit(self, request: TakeRequest, order: Order) -> ExternalId:
        self.asked_for.append(request.shot_number)
        if request.shot_number in self.fails_on:
            raise EngineError(self.name, ErrorClass.PROVIDER_FAULT, "the lens is cracked")
        return await super().submit(request, order)


async def test_an_episode_is_made_once_and_then_left_alone(line: Line, tmp_path: Path) -> None:
    episode = a_series(line.database)[1]
    await write_and_voice(line, episode)
    shots = len(known(line, episode).shots)
    assert await film(line, episode) == shots
    assert await cut(line, episode) == 1
    made = known(line, episode)
    assert made.variants[1].is_selected

    await write_and_voice(line, episode)
    assert await film(line, episode) == 0
    assert await cut(line, episode) == 0
    assert known(line, episode) == made
    with line.database.begin() as db:
        assert episode.partition_key not in {job.partition_key for job in load_jobs(db)}
    assert files_in(tmp_path) == [], "scratch space is left empty"


async def test_regenerating_makes_a_second_take_and_a_new_cut_and_keeps_the_first(line: Line) -> None:
    episode = a_series(line.database)[1]
    await write_and_voice(line, episode)
    await film(line, episode)
    await cut(line, episode)
    before = known(line, episode)

    assert await film(line, episode, regenerate=True) == len(before.shots)
    after = known(line, episode)
    assert {take.take_number for take in after.takes.values()} == {2}
    assert await cut(line, episode) == 1, "a cut from other takes is stale"
    recut = known(line, episode).variants[1]
    assert recut.video.key != before.variants[1].video.key
    for stored in [before.variants[1].video, *(take.media for take in before.takes.values())]:
        assert line.store.size(stored.key) == stored.bytes


async def test_one_failed_shot_keeps_the_others_and_only_it_is_made_again(line: Line, tmp_path: Path) -> None:
    episode = a_series(line.database)[1]
    await write_and_voice(line, episode)
    camera = UnreliableCamera(tmp_path, fails_on={3})
    broken = replace(line, crew=replace(line.crew, camera=camera))
    with pytest.raises(SomeFailed, match="shot 3 of variant 1: animatic: the lens is cracked"):
        await film(broken, episode)
    shots = known(line, episode).shots
    assert {shot.number for shot in shots if (shot.id, 1) not in known(line, episode).takes} == {3}

    camera.asked_for, camera.fails_on = [], set()
    assert await film(broken, episode) == 1
    assert camera.asked_for == [3]


async def test_what_a_dead_process_left_under_way_is_put_aside(line: Line) -> None:
    episode = a_series(line.database)[1]
    await write_and_voice(line, episode)
    production = known(line, episode)
    shot, camera = production.shots[0], line.crew.camera
    request = take_request(production, shot, 1, line.profile)
    async with work_on(line, episode.partition_key, process_uuid="a-dead-run") as work:
        intent = intent_of(work, camera, "film", request, Subject(of=shot.id, variant_number=1, take_number=1))
    with line.database.begin() as db:
        left = calls.claim_call(db, intent)
        calls.mark_submitting(db, left.id)
        calls.mark_submitted(db, left.id, "nobody-knows")
    await film(line, episode)
    with line.database.begin() as db:
        now = calls.live_call(db, intent.fingerprint)
    assert now is not None
    assert (now.state, now.id != left.id) == (calls.CallState.INGESTED, True)


async def test_every_take_has_its_call_and_every_call_is_ingested(line: Line) -> None:
    episode = a_series(line.database)[1]
    await write_and_voice(line, episode)
    await film(line, episode)
    production = known(line, episode)
    marks: dict[UUID, str] = {
        shot.id: fingerprint(
            line.crew.camera,
            take_request(replace(production, takes={}), shot, 1, line.profile),
            Subject(of=shot.id, variant_number=1, take_number=1),
        )
        for shot in production.shots
    }
    with line.database.begin() as db:
        states = {calls.live_call(db, mark).state for mark in marks.values()}  # type: ignore[union-attr]  # None fails the test as well
    assert states == {calls.CallState.INGESTED}


async def test_nothing_is_cut_with_a_shot_missing(line: Line, tmp_path: Path) -> None:
    episode = a_series(line.database)[1]
    await write_and_voice(line, episode)
    broken = replace(line, crew=replace(line.crew, camera=UnreliableCamera(tmp_path, fails_on={2})))
    with pytest.raises(SomeFailed):
        await film(broken, episode)
    with pytest.raises(MissingMedia) as refused:
        await cut(line, episode)
    assert refused.value.missing == ["take of shot 2, variant 1"]
    assert known(line, episode).variants == {}


async def test_a_stage_before_its_time_says_what_to_do_first(line: Line) -> None:
    episode = a_series(line.database)[1]
    with pytest.raises(NoShots, match="materialize episode_script for it first"):
        await film(line, episode)


async def test_a_script_with_media_is_not_written_over(line: Line) -> None:
    episode = a_series(line.database)[1]
    await write_and_voice(line, episode)
    before = known(line, episode)
    with pytest.raises(ShotsInUse):
        async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
            await write_episode(work, regenerate=True)
    assert known(line, episode) == before


async def test_the_pilot_is_what_was_submitted_and_brings_the_poster(line: Line) -> None:
    pilot = a_series(line.database)[0]
    async with work_on(line, pilot.partition_key, process_uuid="a-run") as work:
        screenplay = await write_episode(work, regenerate=False)
    series = screenplay.production.series
    assert [shot.prompt.scene for shot in screenplay.shots] == [
        shot["prompt"]["scene"] for shot in series.script_data["shots"]
    ]
    assert series.poster_key is not None
    assert line.store.size(series.poster_key)
