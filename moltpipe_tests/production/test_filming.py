"""What becomes of a clip when it arrives: house film made once, and its sound beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from moltpipe.engines.animatic import Animatic
from moltpipe.engines.local import Bench
from moltpipe.engines.protocols import Filmed, TakeRequest
from moltpipe.ledger.database import Database
from moltpipe.ledger.media import arrival_of_take
from moltpipe.ledger.production import load_production
from moltpipe.media.conform import conform, conforms, recipe
from moltpipe.media.probe import probe
from moltpipe.media.runner import run, url
from moltpipe.production import conforming
from moltpipe.production.conforming import house_film
from moltpipe.production.filming import film_shots
from moltpipe.production.line import Line, open_line
from moltpipe.production.voicing import voice_shots
from moltpipe.production.work import work_on
from moltpipe.settings import load_settings
from moltpipe.store import Store
from moltpipe.studio.finish import Finish
from moltpipe.studio.keys import conformed_key
from moltpipe.studio.profiles import Fit, Profile, parse_profile
from moltpipe.studio.records import Episode, Production
from moltpipe_tests.fakes.heygen import FakeHeygen
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import Provider, serving
from moltpipe_tests.fakes.veo import FakeVeo
from moltpipe_tests.production.hosted_settings import of_engine
from moltpipe_tests.production.one_shot_episode import add_shot, one_shot_episode
from moltpipe_tests.stories import a_filed_pack, a_series


class SoundCamera(Animatic):
    """The animatic with a microphone: every clip comes with a tone, or with a track in which nothing is heard."""

    def __init__(self, workdir: Path, sound: str = "sine=frequency=440:sample_rate=44100") -> None:
        super().__init__(workdir)
        self._sound = sound

    def make(self, request: TakeRequest, bench: Bench) -> Filmed:
        silent = super().make(request, bench).local
        file = bench.stem.with_suffix(".with-sound.mp4")
        heard = ["-f", "lavfi", "-i", self._sound, "-c:v", "copy", "-c:a", "aac", "-shortest"]
        run(["-i", url(silent), *heard, url(file)], timeout_s=60)
        silent.unlink()
        return Filmed(file=file)


@pytest.fixture
def films_made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The sources that were really conformed, one entry for each time."""
    made: list[Path] = []

    def counted(source: Path, profile: Profile, target: Path, *, frames: int, threads: int | None = None) -> None:
        made.append(source)
        conform(source, profile, target, frames=frames, threads=threads)

    monkeypatch.setattr(conforming, "conform", counted)
    return made


@pytest.fixture
def hosted_line(
    environment: dict[str, str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AbstractContextManager[Line]]:
    """A line opened from the settings with a fake provider as its camera."""

    @contextmanager
    def opened(fake: Provider, address: str, **settings: str) -> Iterator[Line]:
        camera = of_engine("CAMERA", fake.prefix, fake.base + address)
        for name, value in (environment | camera | {f"MOLTPIPE_{key}": one for key, one in settings.items()}).items():
            monkeypatch.setenv(name, value)
        with open_line(load_settings(), store) as line:
            yield line

    return opened


def known(database: Database, episode: Episode) -> Production:
    with database.begin() as db:
        return load_production(db, episode.partition_key)


async def film(line: Line, episode: Episode) -> Decimal:
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        return (await film_shots(work, regenerate=False)).cost_usd


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def kept_films(store: Store) -> set[str]:
    return {one.key for one in store.listing("conformed/")}


def sounding(database_url: str, audio: str) -> None:
    """Give every shot this sound."""
    with psycopg.connect(database_url) as db:
        db.execute("UPDATE shots SET audio = %s::jsonb", (audio,))


# Conformed once -------------------------------------------------------------------------------------------------------


async def test_a_film_that_four_variants_share_is_conformed_once(
    database: Database,
    database_url: str,
    store: Store,
    hosted_line: Callable[..., AbstractContextManager[Line]],
    films_made: list[Path],
) -> None:
    episode = a_series(database)[0]
    with psycopg.connect(database_url) as db:
        add_shot(db, episode.id, 1)
    fake = FakeHeygen()
    with serving(fake), hosted_line(fake, "", PROFILE="150p12") as line:
        async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
            await voice_shots(work, regenerate=False)
        before = kept_films(store)
        await film(line, episode)
    takes = known(database, episode).takes.values()
    assert (len(takes), len({take.media.key for take in takes}), len({take.media.sha256 for take in takes})) == (
        4,
        4,
        1,
    )
    assert len(films_made) == 1
    assert len(kept_films(store) - before) == 1
    assert {take.sound for take in takes} == {None}, "what somebody says who talks is the voiceover already"


async def test_a_take_is_brought_to_a_new_profile_once_from_what_the_camera_delivered(
    database: Database,
    database_url: str,
    store: Store,
    tmp_path: Path,
    hosted_line: Callable[..., AbstractContextManager[Line]],
    films_made: list[Path],
) -> None:
    episode = one_shot_episode(database, database_url)
    fake = FakeVeo()
    with serving(fake), hosted_line(fake, "/v1beta", PROFILE="152p12") as line:
        await film(line, episode)
        (take,) = known(database, episode).takes.values()
        with database.begin() as db:
            arrival = arrival_of_take(db, take.id)
        assert arrival is not None
        assert len(films_made) == 1

        wider = replace(line, profile=replace(parse_profile("152p25-1x1"), fit=Fit.CROP))
        folders = [tmp_path / str(number) for number in range(4)]
        for folder in folders:
            folder.mkdir()
        films = await asyncio.gather(*(asyncio.to_thread(house_film, wider, take, folder) for folder in folders))
        assert len(films_made) == 2, "one made it, the others waited"
        assert {conforms(probe(one), wider.profile) for one in films} == {True}
        assert [probe(one).duration_seconds for one in films] == [pytest.approx(take.duration_seconds, abs=0.04)] * 4
        frames = wider.profile.frames(take.duration_seconds)
        assert conformed_key(arrival.sha256, recipe(wider.profile, frames=frames)) in kept_films(store)
        assert [[path.name for path in files_in(folder)] for folder in folders] == [[films[0].name]] * 4


async def test_a_take_whose_delivery_was_not_kept_is_made_from_itself(
    line: Line, database_url: str, tmp_path: Path, films_made: list[Path]
) -> None:
    episode = one_shot_episode(line.database, database_url)
    await film(line, episode)
    (take,) = known(line.database, episode).takes.values()
    folder = tmp_path / "here"
    folder.mkdir()

    own = house_film(line, take, folder)
    assert own.read_bytes() == line.store.get(take.media, tmp_path / "take.mp4").read_bytes()
    assert films_made == [], "film of the house is not touched"

    smaller = replace(line, profile=parse_profile("126p24"))
    assert conforms(probe(house_film(smaller, take, folder)), smaller.profile)
    assert len(films_made) == 1
    key = conformed_key(
        take.media.sha256, recipe(smaller.profile, frames=smaller.profile.frames(take.duration_seconds))
    )
    assert key in kept_films(line.store)


async def test_a_camera_of_this_machine_makes_film_that_is_not_made_again(
    line: Line, database_url: str, films_made: list[Path]
) -> None:
    episode = one_shot_episode(line.database, database_url, shots=2)
    before = kept_films(line.store)
    await film(line, episode)
    assert len(known(line.database, episode).takes) == 2
    assert (films_made, kept_films(line.store)) == ([], before)


# Sound ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audio", "finish", "camera", "kept"),
    [
        ('{"type": "ambient", "description": "Gulls."}', Finish(), "sine=frequency=440", True),
        ('{"type": "narration", "description": "Once."}', Finish(), "sine=frequency=440", True),
        ('{"type": "silent"}', Finish(), "sine=frequency=440", False),
        ('{"type": "ambient"}', Finish(clip_sound=False), "sine=frequency=440", False),
        ('{"type": "ambient"}', Finish(), "anullsrc=r=44100", False),
    ],
)
async def test_what_a_clip_sounds_like_is_kept_with_its_take_where_it_will_be_heard(
    line: Line,
    database_url: str,
    tmp_path: Path,
    audio: str,
    finish: Finish,
    camera: str,
    kept: bool,  # noqa: FBT001 - a column of the table above
) -> None:
    episode = one_shot_episode(line.database, database_url)
    sounding(database_url, audio)
    line = replace(line, crew=replace(line.crew, camera=SoundCamera(tmp_path, camera)), finish=finish)
    await film(line, episode)
    (take,) = known(line.database, episode).takes.values()
    assert (take.sound is not None) is kept
    if take.sound is not None:
        assert take.sound.duration_seconds == take.duration_seconds
        assert take.sound.media.key.startswith(f"takes/{take.shot_id}/1-1-")
        found = probe(line.store.get(take.sound.media, tmp_path / "sound.flac")).audio
        assert found is not None
        assert (found.codec, found.rate, found.channels) == ("flac", 48_000, 2)
        assert found.samples == round(take.duration_seconds * 48_000)
    assert {path.suffix for path in files_in(tmp_path)} <= {".flac"}, "scratch space is left empty"


@pytest.mark.parametrize(
    ("audio", "clip_sound", "asked", "cost_usd"),
    [
        ('{"type": "ambient", "description": "Gulls over a harbour."}', "buy", True, "0.60"),
        ('{"type": "ambient", "description": "Gulls over a harbour."}', "keep", False, "0.40"),
        ('{"type": "narration", "description": "Once."}', "buy", False, "0.40"),
        ('{"type": "ambient", "description": "Gulls over a harbour."}', "drop", False, "0.40"),
    ],
)
async def test_a_camera_that_charges_for_sound_makes_it_where_nobody_speaks(
    database: Database,
    database_url: str,
    hosted_line: Callable[..., AbstractContextManager[Line]],
    audio: str,
    clip_sound: str,
    asked: bool,  # noqa: FBT001 - a column of the table above
    cost_usd: str,
) -> None:
    episode = one_shot_episode(database, database_url)
    sounding(database_url, audio)
    fake = FakeReplicate()
    with serving(fake), hosted_line(fake, "/v1", CLIP_SOUND=clip_sound) as line:
        cost = await film(line, episode)
    (given,) = [seen.json()["input"] for seen in fake.seen if seen.method == "POST"]
    assert given["generate_audio"] is asked
    assert ("Sound: Gulls over a harbour. Nobody speaks and there is no music." in given["prompt"]) is asked
    (take,) = known(database, episode).takes.values()
    assert (take.sound is not None) is asked
    assert cost == Decimal(cost_usd)


# Series that are only heard -------------------------------------------------------------------------------------------


async def test_nothing_is_filmed_of_a_series_that_is_only_heard(line: Line) -> None:
    episode = a_series(line.database, a_filed_pack(line.database))[0]
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        filming = await film_shots(work, regenerate=True)
    assert (filming.filmed_now, filming.cost_usd) == ((), Decimal(0))
    assert filming.production.takes == {}
