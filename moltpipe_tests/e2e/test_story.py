"""The whole story on real services and real processes, as a user lives through it.

A first series is made by the engines of this machine. A second one goes through hosted engines and is killed in the
middle: it is continued, paid once, and leaves the first one as it was, and no secret anywhere.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from moltpipe.ledger.audience import served
from moltpipe.ledger.database import Database
from moltpipe.ledger.production import load_production
from moltpipe.ledger.series import all_episodes
from moltpipe.media.probe import decode
from moltpipe.media.stills import frame_at
from moltpipe.runtime.fakes import CAST
from moltpipe.runtime.house import open_house
from moltpipe.runtime.stack import Stack
from moltpipe.studio.delivery import Delivery
from moltpipe.studio.records import Production
from moltpipe_tests.e2e.studio import (
    CHECKOUT,
    Studio,
    a_studio,
    ending,
    kill_everything,
    latest_check,
    launch,
    partitions,
    start,
    terminate,
    until,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

Story = dict[str, Any]

STAGES = ("episode_script", "voiceover", "clips", "stitched_episode")
PLANTED = "planted-key-of-"
SIGNATURE = "sig="
"""The query of every signed address that the fakes hand out."""


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


@dataclass(frozen=True)
class Providers:
    """Every fake provider, in a process that outlives the studio's."""

    base: str
    variables: dict[str, str]

    def bills(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.base}/control/bills").json()
        return answer

    def fault(self, provider: str, name: str, times: int) -> None:
        httpx.post(f"{self.base}/control/{provider}/faults", json={"fault": name, "times": times}).raise_for_status()


@pytest.fixture(scope="module")
def providers() -> Iterator[Providers]:
    with subprocess.Popen(
        [sys.executable, "-m", "moltpipe_tests.fakes"], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as program:
        try:
            assert program.stdout is not None
            ready = json.loads(program.stdout.readline())
            keys = {name: f"{PLANTED}{name.lower()}" for name in ready["environment"] if name.endswith("_API_KEY")}
            yield Providers(ready["base"], CAST | ready["environment"] | keys)
        finally:
            program.terminate()


@pytest.fixture(scope="module")
def hosted(studio: Studio, providers: Providers) -> Studio:
    """The same studio with another crew."""
    return Studio(studio.settings, providers.variables)


@dataclass(frozen=True)
class Crash:
    """What was there when everything was killed."""

    first: dict[str, Production]
    """The series that is finished, by partition key."""
    second: list[Production]
    """The one in the middle of which it happened."""


@pytest.fixture(scope="module")
def crash(studio: Studio, story: Story, hosted: Studio) -> Crash:
    """Every process is killed while the takes of a second series come in."""
    first = productions(studio, story)
    demo = hosted.start("demo")
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
    with studio.open() as (database, _):
        return Crash(first, second_series(database, first))


@pytest.fixture(scope="module")
def running(hosted: Studio, crash: Crash) -> Iterator[Stack]:  # noqa: ARG001 (it comes first)
    """`moltpipe up` on what the crash left; the commands of the tests run beside it."""
    with hosted.up() as up:
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


@pytest.mark.usefixtures("running")
def test_a_second_series_survives_that_everything_is_killed_is_paid_once_and_leaves_the_first_untouched(
    studio: Studio, hosted: Studio, story: Story, providers: Providers, crash: Crash
) -> None:
    unknown: set[str] = set()
    with studio.open() as (database, _):

        def finished() -> bool | None:
            found = second_series(database, crash.first)
            if all(len(one.variants) == one.episode.variants_wanted for one in found):
                return True
            unknown.update(decided_by_a_person(hosted))
            return None

        until(finished, within_s=600, what="the series is finished after the crash")
        after = second_series(database, crash.first)

    assert productions(studio, story) == crash.first
    assert len(after) == 5
    for then, now in zip(crash.second, after, strict=True):
        assert now.shots[: len(then.shots)] == then.shots
        assert all(now.takes[key] == take for key, take in then.takes.items())
        assert all(now.voiceovers[shot_id] == one for shot_id, one in then.voiceovers.items())
        assert {take.take_number for take in now.takes.values()} == {1}
        assert now.score is not None

    bills = providers.bills()
    assert {name: bill["twice"] for name, bill in bills.items() if bill["twice"] and name not in unknown} == {}
    assert bills["replicate"]["billed"] == sum(len(one.takes) for one in after) + 5
    assert bills["elevenlabs"]["billed"] > 5
    assert bills["replicate"]["most_in_flight"] <= 4
    assert hosted.json("status")["spend_usd"] > 10


@pytest.mark.usefixtures("running")
def test_no_secret_is_left_anywhere(studio: Studio) -> None:
    left_behind = everything_written_by(studio)
    assert len(left_behind) > 100_000
    for secret in (PLANTED, SIGNATURE):
        assert secret not in left_behind, left_behind[left_behind.index(secret) - 300 :][:600]


def test_partitions_are_green_and_materializing_again_costs_nothing(
    studio: Studio, crash: Crash, providers: Providers, running: Stack
) -> None:
    """Afterwards `regenerate` makes a second take of everything in that stage, and keeps the first."""

    def second_episode() -> Production:
        with studio.open() as (database, _):
            return second_series(database, crash.first)[1]

    before = second_episode()
    second = before.episode.partition_key
    keys = {*crash.first, *(one.episode.partition_key for one in crash.second)}

    def green() -> bool | None:
        shown = [partitions(running, stage) for stage in STAGES]
        return all(keys <= materialized and not failed & keys for materialized, failed in shown) or None

    assert until(green, within_s=120, what="every partition of both series is green")
    billed = {name: bill["billed"] for name, bill in providers.bills().items()}
    for stage in STAGES:
        assert launch(running, stage, second) == "SUCCESS"
    assert second_episode() == before
    assert {name: bill["billed"] for name, bill in providers.bills().items()} == billed

    assert launch(running, "clips", second, regenerate=True) == "SUCCESS"
    after = second_episode()
    assert {take.take_number for take in after.takes.values()} == {2}
    with studio.open() as (_, store):
        for take in before.takes.values():
            assert store.size(take.media.key) == take.media.bytes

    assert launch(running, "stitched_episode", second) == "SUCCESS"
    recut = second_episode().variants[1]
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


def test_terminating_a_run_in_the_ui_cancels_what_it_has_at_the_provider(
    providers: Providers, studio: Studio, crash: Crash, running: Stack
) -> None:
    """After the story above, on an episode that it made."""
    with studio.open() as (database, _):
        second = second_series(database, crash.first)[1]
        providers.fault("replicate", "never_ends", len(second.shots))
        run_id = start(running, "clips", second.episode.partition_key, regenerate=True)

        def states(*wanted: str) -> bool | None:
            with psycopg.connect(studio_database(studio)) as db:
                newest = db.execute(
                    "SELECT state FROM provider_jobs WHERE operation = 'film' AND take_number = 3"
                ).fetchall()
            return True if newest and all(state in wanted for (state,) in newest) else None

        until(lambda: states("claimed", "submitting", "submitted", "running"), within_s=60, what="takes are claimed")
        until(lambda: None if states("claimed") else True, within_s=60, what="the first is at the provider")
        terminate(running, run_id)
        assert ending(running, run_id, "clips") == "CANCELED"
        until(lambda: states("canceled"), within_s=30, what="every call is cancelled")
        kept = second_series(database, crash.first)[1]
    assert {take.take_number for take in kept.takes.values()} == {2}


def decided_by_a_person(studio: Studio) -> set[str]:
    """Send again what nobody can know of, as an operator would who looked; the engines that it was for."""
    ambiguous = studio.json("status")["calls"]["ambiguous"]
    for call in ambiguous:
        studio.run("repair", "--resubmit", call["id"])
    return {call["engine"] for call in ambiguous}


def studio_database(studio: Studio) -> str:
    with open_house(studio.settings) as house:
        return house.services.database_url.get_secret_value()


def everything_written_by(studio: Studio) -> str:
    """Every row of every table, every log and every object that is text."""
    parts = []
    with open_house(studio.settings) as house, studio.open() as (_, store):
        with psycopg.connect(house.services.database_url.get_secret_value()) as db:
            tables = db.execute(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'dagster')"
            ).fetchall()
            for (table,) in tables:
                with db.cursor().copy(f"COPY {table} TO STDOUT") as rows:
                    parts += [bytes(row).decode(errors="replace") for row in rows]
        logs = [entry.key for entry in store.listing("compute-logs/")]
        for number, key in enumerate(logs):
            file = store.fetch(key, studio.settings.data_dir / f"read-{number}")
            parts.append(file.read_text(errors="replace"))
            file.unlink()
    assert tables
    assert logs
    files = [*(studio.settings.data_dir / "logs").rglob("*"), *(studio.settings.data_dir / "dagster").rglob("*")]
    parts += [file.read_text(errors="replace") for file in files if file.is_file()]
    return "\n".join(parts)
