"""Media whose object is gone, made anew by the next run after a person said so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest

from moltpipe.ledger.checks.finding import Conditions
from moltpipe.ledger.checks.media import MEDIA_OBJECTS_ARE_THERE
from moltpipe.ledger.decisions import decide
from moltpipe.ledger.jobs import load_jobs
from moltpipe.ledger.production import load_production
from moltpipe.production.cutting import cut_variants
from moltpipe.production.filming import film_shots
from moltpipe.production.line import Line
from moltpipe.production.sweeping import sweep_objects
from moltpipe.production.voicing import voice_shots
from moltpipe.production.work import work_on
from moltpipe.runtime.services import S3Access
from moltpipe.studio.records import Episode, Production
from moltpipe_tests.conftest import BUCKET
from moltpipe_tests.production.one_shot_episode import one_shot_episode


@dataclass(frozen=True)
class Made:
    """What a run made: how many voiceovers, takes and cuts."""

    spoken: int
    filmed: int
    cut: int


async def produce(line: Line, episode: Episode) -> Made:
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        spoken = await voice_shots(work, regenerate=False)
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        filmed = await film_shots(work, regenerate=False)
    async with work_on(line, episode.partition_key, process_uuid="a-run") as work:
        cutting = await cut_variants(work, regenerate=False)
    return Made(len(spoken.spoken_now), len(filmed.filmed_now), len(cutting.cut_now))


def known(line: Line, episode: Episode) -> Production:
    with line.database.begin() as db:
        return load_production(db, episode.partition_key)


def missing(line: Line) -> list[str]:
    """The keys that the check names after a sweep over the store."""
    sweep_objects(line.database, line.store, 60)
    with line.database.begin() as db:
        return [str(row["key"]) for row in MEDIA_OBJECTS_ARE_THERE.look(db, Conditions(datetime.now(UTC))).rows]


def keys(production: Production) -> dict[str, str]:
    (shot,) = production.shots
    return {
        "voiceover": production.voiceovers[shot.id].media.key,
        "take": production.takes[shot.id, 1].media.key,
        "cut": production.variants[1].video.key,
        "captions": production.variants[1].captions_key,
    }


def hashes(production: Production) -> tuple[str, str]:
    """Of the voiceover and the take."""
    (shot,) = production.shots
    return production.voiceovers[shot.id].media.sha256, production.takes[shot.id, 1].media.sha256


@pytest.mark.parametrize(
    ("medium", "spoken", "filmed"), [("voiceover", 1, 0), ("take", 0, 1), ("cut", 0, 0), ("captions", 0, 0)]
)
async def test_what_is_gone_is_made_anew_and_all_else_is_kept(
    line: Line, database_url: str, object_storage: S3Access, tmp_path: Path, medium: str, spoken: int, filmed: int
) -> None:
    episode = one_shot_episode(line.database, database_url)
    assert await produce(line, episode) == Made(1, 1, 1)
    before = known(line, episode)
    assert missing(line) == []
    lost = keys(before)[medium]
    assert object_storage.secret_key is not None
    boto3.client(
        "s3",
        endpoint_url=object_storage.endpoint_url,
        aws_access_key_id=object_storage.access_key,
        aws_secret_access_key=object_storage.secret_key.get_secret_value(),
        region_name=object_storage.region,
    ).delete_object(Bucket=BUCKET, Key=lost)
    assert missing(line) == [lost]
    with line.database.begin() as db:
        decide(db, "remake", [lost], "a test", dry_run=False)
        assert [job.attempt_count for job in load_jobs(db) if job.partition_key == episode.partition_key] == [0]
    made = await produce(line, episode)
    after = known(line, episode)
    # An engine may make the very same again, and a cut of what has not changed stays as it is.
    is_stale = medium not in ("voiceover", "take") or hashes(after) != hashes(before)
    assert made == Made(spoken, filmed, int(is_stale))
    assert missing(line) == []
    assert after.variants[1].is_selected
    assert keys(after).keys() == keys(before).keys()
    assert line.store.get(after.variants[1].video, tmp_path / "served.mp4").stat().st_size > 0
    with line.database.begin() as db:
        assert episode.partition_key not in {job.partition_key for job in load_jobs(db)}
