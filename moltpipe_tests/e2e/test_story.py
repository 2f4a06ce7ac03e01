"""The whole story on real services and real processes, as a user lives through it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from moltpipe.ledger.audience import served
from moltpipe.ledger.database import Database
from moltpipe.ledger.production import load_production
from moltpipe.ledger.series import all_episodes
from moltpipe.media.probe import decode
from moltpipe.media.stills import frame_at
from moltpipe.runtime.stack import Stack
from moltpipe.studio.delivery import Delivery
from moltpipe.studio.records import Production
from moltpipe_tests.e2e.studio import Studio, a_studio, kill_everything, latest_check, launch, partitions, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

Story = dict[str, Any]

STAGES = ("episode_script", "voiceover", "clips", "stitched_episode")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return a_studio(tmp_path_factory.mktemp("a studio"))


@pytest.fixture(scope="module")
def story(studio: Studio) -> Story:
    """What `moltpipe demo --json` printed."""
    return studio.json("demo")


@pytest.fixture(scope="module")
def media(studio: Studio, story: Story, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every object that the story names, by key."""
    folder = tmp_path_factory.mktemp("media")
    files = {}
    with studio.open() as (_, store):
        for variant in variants(story):
            for key in (variant["video_key"], variant["captions_key"], variant["thumbnail_key"]):
                files[key] = store.fetch(key, folder / key.replace("/", "_"))
    return files


@pytest.fixture(scope="module")
def running(studio: Studio, story: Story) -> Iterator[Stack]:  # noqa: ARG001 (the demo comes first, and alone)
    """`moltpipe up` on what the demo left; the commands of the tests run beside it."""
    with studio.up() as up:
        yield up


def episodes(story: Story) -> list[Any]:
    (series,) = story["series"]
    found: list[Any] = series["episodes"]
    return found


def variants(story: Story) -> list[Any]:
    return [variant for episode in episodes(story) for variant in episode["variants"]]


def productions(studio: Studio, story: Story) -> dict[str, Production]:
    with studio.open() as (database, _), database.begin() as db:
        return {one["partition_key"]: load_production(db, one["partition_key"]) for one in episodes(story)}


def second_series(database: Database, first: dict[str, Production]) -> list[Production]:
    with database.begin() as db:
        keys = [episode.partition_key for episode in all_episodes(db)]
        return [load_production(db, key) for key in keys if key not in first]


def test_a_closed_vote_becomes_five_episodes_and_eight_variants(story: Story) -> None:
    assert [one["episode_number"] for one in episodes(story)] == [1, 2, 3, 4, 5]
    assert [len(one["variants"]) for one in episodes(story)] == [4, 1, 1, 1, 1]
    assert story["closed_to_first_take_seconds"] > 0


def test_the_audience_chooses_the_variant_that_the_series_serves(studio: Studio, story: Story) -> None:
    pilot, *others = episodes(story)
    vote = pilot["clip_vote"]
    assert (vote["partition_key"], vote["votes"]) == (pilot["partition_key"], 3)
    assert vote["selected"]["variant_number"] == pilot["selected_variant"] == 2
    assert vote["closed_early_reason"]
    assert {(one["selected_variant"], one["clip_vote"]) for one in others} == {(1, None)}
    (series,) = story["series"]
    with studio.open() as (database, _), database.begin() as db:
        shown = [one.video_key for one in served(db, UUID(series["id"]))]
    assert shown == [one["variants"][one["selected_variant"] - 1]["video_key"] for one in episodes(story)]


def test_the_account_is_written_beside_the_data(studio: Studio, story: Story) -> None:
    assert json.loads((studio.settings.data_dir / "demo.json").read_text()) == story


def test_every_object_is_what_its_row_says(media: dict[str, Path], story: Story) -> None:
    for variant in variants(story):
        content = media[variant["video_key"]].read_bytes()
        assert hashlib.sha256(content).hexdigest() == variant["sha256"]
        assert len(content) == variant["bytes"]
        assert variant["sha256"][:12] in variant["video_key"]


def test_every_cut_passed_the_delivery_gate_and_plays_as_recorded(
    studio: Studio, media: dict[str, Path], story: Story
) -> None:
    profile = studio.settings.profile
    for production in productions(studio, story).values():
        for variant in production.variants.values():
            assert variant.delivery is not None
            assert Delivery.from_json(variant.delivery).passed
            played = decode(media[variant.video.key], strict=True)
            assert played.frames == profile.frames(variant.duration_seconds)
            assert abs(played.samples / (played.sample_rate or 1) - variant.duration_seconds) < 1 / profile.rate


def test_the_five_episodes_tell_five_stories(media: dict[str, Path], story: Story) -> None:
    captions = [media[one["variants"][0]["captions_key"]].read_text() for one in episodes(story)]
    assert len(set(captions)) == 5
    assert all(text.startswith("WEBVTT") for text in captions)


def test_the_variants_of_the_pilot_look_different(media: dict[str, Path], story: Story) -> None:
    frames = [frame_at(media[variant["video_key"]], 1.0).convert("L") for variant in episodes(story)[0]["variants"]]
    for number, one in enumerate(frames):
        for other in frames[number + 1 :]:
            pairs = zip(one.tobytes(), other.tobytes(), strict=True)
            assert sum(abs(a - b) for a, b in pairs) / len(one.tobytes()) > 2


def test_a_second_series_survives_that_everything_is_killed_and_leaves_the_first_untouched(
    studio: Studio, story: Story
) -> None:
    first = productions(studio, story)
    demo = studio.start("demo")
    try:
        with studio.open() as (database, _):

            def some_takes() -> bool | None:
                if demo.poll() is not None:
                    raise AssertionError(f"the demo ended early: {demo.communicate()}")
                filmed = sum(len(one.takes) for one in second_series(database, first))
                return True if 5 <= filmed < 40 else None

            until(some_takes, within_s=240, what="the camera has begun and is not done")
            kill_everything(studio)
    finally:
        demo.kill()
        demo.communicate()

    with studio.up(), studio.open() as (database, _):
        before = second_series(database, first)

        def finished() -> bool | None:
            found = second_series(database, first)
            return True if all(len(one.variants) == one.episode.variants_wanted for one in found) else None

        until(finished, within_s=600, what="the series is finished after the crash")
        after = second_series(database, first)

    assert productions(studio, story) == first
    assert len(after) == 5
    for then, now in zip(before, after, strict=True):
        assert now.shots[: len(then.shots)] == then.shots
        assert all(now.takes[key] == take for key, take in then.takes.items())
        assert all(now.voiceovers[shot_id] == one for shot_id, one in then.voiceovers.items())
        assert {take.take_number for take in now.takes.values()} == {1}


def test_partitions_are_green_and_materializing_again_costs_nothing(
    studio: Studio, story: Story, running: Stack
) -> None:
    """Afterwards `regenerate` makes a second take of everything in that stage, and keeps the first."""
    keys = {one["partition_key"] for one in episodes(story)}
    second = episodes(story)[1]["partition_key"]
    before = productions(studio, story)[second]
    for stage in STAGES:
        materialized, failed = partitions(running, stage)
        assert keys <= materialized
        assert not failed & keys
    for stage in STAGES:
        assert launch(running, stage, second) == "SUCCESS"
    assert productions(studio, story)[second] == before

    assert launch(running, "clips", second, regenerate=True) == "SUCCESS"
    after = productions(studio, story)[second]
    assert {take.take_number for take in after.takes.values()} == {2}
    with studio.open() as (_, store):
        for take in before.takes.values():
            assert store.size(take.media.key) == take.media.bytes

    assert launch(running, "stitched_episode", second) == "SUCCESS"
    recut = productions(studio, story)[second].variants[1]
    assert recut.ingredients != before.variants[1].ingredients

    key = "selected_scripts_have_series"
    assert until(lambda: latest_check(running, "scripts", key), within_s=90, what="the check is recorded")


@pytest.mark.usefixtures("running")
def test_status_and_check_agree_that_all_is_well(studio: Studio) -> None:
    status = studio.json("status")
    assert {series["status"] for series in status["series"]} == {"completed"}
    assert {one["waiting_for"] for series in status["series"] for one in series["episodes"]} == {None}
    assert status["jobs"] == {"pending": 0, "running": 0, "failed": 0}
    assert all(check["passed"] for check in studio.json("check")["checks"])


@pytest.mark.usefixtures("running")
def test_the_tools_of_dagster_work_in_the_checkout(studio: Studio) -> None:
    listed = json.loads(studio.run("exec", "--", "dg", "list", "defs", "--json"))
    assert set(STAGES) <= {asset["asset_key"] for asset in listed["assets"]}
    studio.run("exec", "--", "dg", "check", "defs")
    studio.run("exec", "--", "dagster", "job", "list", "-w", "workspace.yaml")
