"""Every hosted engine, opened from the settings as a run opens it, makes the media of one shot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from moltpipe.engines.errors import EngineError
from moltpipe.engines.protocols import Download
from moltpipe.ledger.calls import GivenUp
from moltpipe.ledger.database import Database
from moltpipe.ledger.production import load_production
from moltpipe.ledger.shots import ShotsInUse
from moltpipe.media.sound import measure
from moltpipe.production.cutting import cut_variants
from moltpipe.production.filming import film_shots
from moltpipe.production.line import open_line
from moltpipe.production.screenwriting import write_episode
from moltpipe.production.voicing import voice_shots
from moltpipe.production.work import work_on
from moltpipe.settings import load_settings
from moltpipe.store import Store
from moltpipe_tests.fakes.__main__ import API_PATHS
from moltpipe_tests.fakes.chat import FakeChat
from moltpipe_tests.fakes.elevenlabs import FakeElevenlabs
from moltpipe_tests.fakes.heygen import FakeHeygen
from moltpipe_tests.fakes.ltx2 import FakeLtx2
from moltpipe_tests.fakes.openai import FakeOpenai
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import Fault, Provider, serving
from moltpipe_tests.fakes.stock import FakeStock
from moltpipe_tests.fakes.veo import FakeVeo
from moltpipe_tests.production.hosted_settings import of_engine
from moltpipe_tests.production.one_shot_episode import add_shot, one_shot_episode
from moltpipe_tests.stories import a_series


@pytest.mark.parametrize(
    ("voice", "camera", "make"),
    [
        ("openai", "ltx2", (FakeOpenai, FakeLtx2)),
        ("elevenlabs", "veo", (FakeElevenlabs, FakeVeo)),
        ("espeak", "heygen", (FakeHeygen,)),
        ("espeak", "stock", (FakeStock,)),
        ("espeak", "replicate", (FakeReplicate,)),
    ],
)
async def test_an_episode_is_voiced_filmed_and_cut_by_the_engines_of_the_settings(
    database: Database,
    database_url: str,
    environment: dict[str, str],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    voice: str,
    camera: str,
    make: tuple[Callable[[], Provider], ...],
) -> None:
    episode = one_shot_episode(database, database_url)
    fakes = [one() for one in make]
    with serving(*fakes):
        variables = environment
        for fake in fakes:
            role = "VOICE" if fake.prefix == voice else "CAMERA"
            variables |= of_engine(role, fake.prefix, fake.base + API_PATHS.get(fake.prefix, ""))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with open_line(load_settings(), store) as line:
            assert (line.crew.voice.name, line.crew.camera.name) == (voice, camera)
            for stage in (voice_shots, film_shots, cut_variants):
                async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
                    await stage(work, regenerate=False)
    with database.begin() as db:
        made = load_production(db, episode.partition_key)
    (take,) = made.takes.values()
    assert take.engine == camera
    assert made.variants[1].duration_seconds > 2
    assert (take.credit is not None) is (camera == "stock")
    for fake in fakes:
        assert fake.billed_twice == []
        assert fake.seen


async def test_a_later_episode_is_written_scored_and_cut_by_hosted_engines(
    database: Database,
    environment: dict[str, str],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    episode = a_series(database)[3]
    chat, replicate = FakeChat(), FakeReplicate()
    with serving(chat, replicate):
        variables = (
            environment | of_engine("SCREENWRITER", "chat", f"{chat.base}/v1") | {"MOLTPIPE_COMPOSER": "musicgen"}
        )
        variables |= of_engine("UNUSED", "replicate", f"{replicate.base}/v1")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with open_line(load_settings(), store) as line:
            for stage in (write_episode, voice_shots, film_shots, cut_variants):
                async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
                    await stage(work, regenerate=False)
            async with work_on(line, episode.partition_key, process_uuid="another-run") as work:
                assert (await cut_variants(work, regenerate=False)).cut_now == ()
    with database.begin() as db:
        made = load_production(db, episode.partition_key)
    assert made.score is not None
    assert (chat.billed, replicate.billed) == (1, 1)


async def test_the_music_is_heard_where_nobody_speaks(
    database: Database,
    database_url: str,
    environment: dict[str, str],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    episode = one_shot_episode(database, database_url)
    replicate = FakeReplicate()
    with serving(replicate):
        music = {"MOLTPIPE_COMPOSER": "musicgen", "MOLTPIPE_AMBIENCE": "none"} | of_engine(
            "UNUSED", "replicate", f"{replicate.base}/v1"
        )
        for name, value in (environment | music).items():
            monkeypatch.setenv(name, value)
        with open_line(load_settings(), store) as line:
            for stage in (film_shots, cut_variants):
                async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
                    await stage(work, regenerate=False)
    with database.begin() as db:
        made = load_production(db, episode.partition_key)
    assert made.voiceovers == {}
    loudness, _ = measure(store.get(made.variants[1].video, tmp_path / "cut.mp4"))
    assert loudness == pytest.approx(line.finish.loudness_lufs, abs=0.5)


async def test_a_line_that_was_said_before_is_not_paid_for_again_except_as_a_new_take(
    database: Database, database_url: str, environment: dict[str, str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = one_shot_episode(database, database_url, shots=3)
    with psycopg.connect(database_url) as db:
        db.execute("UPDATE shots SET audio = (SELECT audio FROM shots WHERE shot_number = 1 LIMIT 1)")
    fake = FakeElevenlabs()
    with serving(fake):
        for name, value in (environment | of_engine("VOICE", "elevenlabs", f"{fake.base}/v1")).items():
            monkeypatch.setenv(name, value)
        with open_line(load_settings(), store) as line:
            async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
                assert len((await voice_shots(work, regenerate=False)).spoken_now) == 3
            assert fake.billed == 1
            async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
                assert len((await voice_shots(work, regenerate=True)).spoken_now) == 3
            assert fake.billed == 2
    with database.begin() as ledger:
        made = load_production(ledger, episode.partition_key)
    assert [one.take_number for one in made.voiceovers.values()] == [2, 2, 2]
    assert len({one.media.key for one in made.voiceovers.values()}) == 3


async def test_a_script_that_cannot_be_put_in_its_place_is_not_paid_for(
    database: Database, database_url: str, environment: dict[str, str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = one_shot_episode(database, database_url)
    chat = FakeChat()
    with serving(chat):
        for name, value in (environment | of_engine("SCREENWRITER", "chat", f"{chat.base}/v1")).items():
            monkeypatch.setenv(name, value)
        with open_line(load_settings(), store) as line:
            async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
                await voice_shots(work, regenerate=False)
            with pytest.raises(ShotsInUse):
                async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
                    await write_episode(work, regenerate=True)
    assert chat.seen == []


def test_an_address_of_a_result_is_not_shown_by_its_repr() -> None:
    assert "secret" not in repr(Download("https://host.example/file?sig=secret"))


async def test_the_variants_of_somebody_who_only_talks_are_one_clip_and_paid_for_once(
    database: Database, database_url: str, environment: dict[str, str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = a_series(database)[0]
    with psycopg.connect(database_url) as db:
        add_shot(db, episode.id, 1)
    fake = FakeHeygen()
    with serving(fake):
        for name, value in (environment | of_engine("CAMERA", "heygen", fake.base)).items():
            monkeypatch.setenv(name, value)
        with open_line(load_settings(), store) as line:
            async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
                await voice_shots(work, regenerate=False)
            async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
                assert len((await film_shots(work, regenerate=False)).filmed_now) == 4
    assert fake.billed == 1


async def test_a_draft_that_was_paid_for_and_is_of_no_use_is_not_bought_again_by_itself(
    database: Database, environment: dict[str, str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = a_series(database)[2]
    chat = FakeChat()
    chat.fault(Fault.JOB_FAILS, 2, code="too_few_shots")
    with serving(chat):
        for name, value in (environment | of_engine("SCREENWRITER", "chat", f"{chat.base}/v1")).items():
            monkeypatch.setenv(name, value)
        with open_line(load_settings(), store) as line:
            with pytest.raises(EngineError):
                async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
                    await write_episode(work, regenerate=False)
            billed = chat.billed
            assert billed == 2
            with pytest.raises(GivenUp, match="--resubmit"):
                async with work_on(line, episode.partition_key, process_uuid="another-run") as work:
                    await write_episode(work, regenerate=False)
            assert chat.billed == billed
