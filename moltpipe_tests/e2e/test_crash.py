"""Everything is killed in the middle of the work, and comes back."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from moltpipe.ledger.database import Database
from moltpipe.ledger.production import load_production
from moltpipe.ledger.series import all_episodes
from moltpipe.runtime.house import open_house
from moltpipe.studio.records import Production
from moltpipe_tests.e2e.studio import Studio, a_studio, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def productions(database: Database) -> list[Production]:
    with database.begin() as db:
        return [load_production(db, episode.partition_key) for episode in all_episodes(db)]


def everything_of(studio: Studio) -> list[psutil.Process]:
    """Every process that works in this studio: the command, its stack, runs, Postgres and S3."""
    mark = str(studio.settings.data_dir)
    ours = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.environ().get("MOLTPIPE_DATA_DIR", "")]
        except psutil.Error:
            continue
        if any(mark in word for word in words) and process.pid != psutil.Process().pid:
            ours.append(process)
    return ours


def test_a_series_survives_that_everything_is_killed(tmp_path: Path) -> None:
    studio = a_studio(tmp_path)
    demo = studio.start("demo")
    try:
        with open_house(studio.settings) as house:
            database = Database(house.services.database_url.get_secret_value())

            def some_takes() -> list[Production] | None:
                if demo.poll() is not None:
                    raise AssertionError(f"the demo ended early: {demo.communicate()}")
                found = productions(database)
                filmed = sum(len(one.takes) for one in found)
                return found if 5 <= filmed < 40 else None

            until(some_takes, within_s=240, what="the camera has begun and is not done")
            for process in everything_of(studio):
                process.kill()
            database.dispose()
    finally:
        demo.kill()
        demo.communicate()

    with studio.up(), studio.open() as (database, _):
        before = productions(database)

        def finished() -> bool | None:
            found = productions(database)
            return True if all(len(one.variants) == one.episode.variants_wanted for one in found) else None

        until(finished, within_s=600, what="the series is finished after the crash")
        after = productions(database)

    assert len(after) == 5
    for then, now in zip(before, after, strict=True):
        assert now.shots[: len(then.shots)] == then.shots
        assert all(now.takes[key] == take for key, take in then.takes.items())
        assert then.voiceovers.keys() <= now.voiceovers.keys()
        assert all(now.voiceovers[shot_id] == one for shot_id, one in then.voiceovers.items())
        assert {take.take_number for take in now.takes.values()} == {1}
