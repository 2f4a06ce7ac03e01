"""The whole story through hosted engines, killed in the middle: paid once, and no secret left anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from moltpipe.ledger.database import Database
from moltpipe.ledger.production import load_production
from moltpipe.ledger.series import all_episodes
from moltpipe.runtime.fakes import CAST
from moltpipe.runtime.house import open_house
from moltpipe.studio.records import Production
from moltpipe_tests.e2e.studio import CHECKOUT, Studio, a_studio, ending, kill_everything, start, terminate, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PLANTED = "planted-key-of-"
SIGNATURE = "sig="
"""The query of every signed address that the fakes hand out."""


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


def productions(database: Database) -> list[Production]:
    with database.begin() as db:
        return [load_production(db, episode.partition_key) for episode in all_episodes(db)]


def decided_by_a_person(studio: Studio) -> set[str]:
    """Send again what nobody can know of, as an operator would who looked; the engines that it was for."""
    ambiguous = studio.json("status")["calls"]["ambiguous"]
    for call in ambiguous:
        studio.run("repair", "--resubmit", call["id"])
    return {call["engine"] for call in ambiguous}


@pytest.fixture(scope="module")
def studio(providers: Providers, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    place = a_studio(tmp_path_factory.mktemp("a hosted studio"))
    return Studio(place.settings, providers.variables)


def test_a_series_of_hosted_engines_is_killed_goes_on_and_nothing_is_paid_twice(
    providers: Providers, studio: Studio
) -> None:
    demo = studio.start("demo")
    try:
        with studio.open() as (database, _):

            def some_takes() -> bool | None:
                if demo.poll() is not None:
                    raise AssertionError(f"the demo ended early: {demo.communicate()}")
                filmed = sum(len(one.takes) for one in productions(database))
                return True if 5 <= filmed < 40 else None

            until(some_takes, within_s=240, what="the camera has begun and is not done")
            kill_everything(studio)
    finally:
        demo.kill()
        demo.communicate()

    unknown: set[str] = set()
    with studio.up(), studio.open() as (database, _):

        def finished() -> bool | None:
            found = productions(database)
            if all(len(one.variants) == one.episode.variants_wanted for one in found):
                return True
            unknown.update(decided_by_a_person(studio))
            return None

        until(finished, within_s=600, what="the series is finished after the crash")
        assert all(one.score is not None for one in productions(database))

    bills = providers.bills()
    assert {name: bill["twice"] for name, bill in bills.items() if bill["twice"] and name not in unknown} == {}
    assert bills["replicate"]["billed"] == 28 + 28 + 5
    assert bills["elevenlabs"]["billed"] > 5
    assert bills["replicate"]["most_in_flight"] <= 4
    assert studio.json("status")["spend_usd"] > 10

    left_behind = everything_written_by(studio)
    assert len(left_behind) > 100_000
    for secret in (PLANTED, SIGNATURE):
        assert secret not in left_behind, left_behind[left_behind.index(secret) - 300 :][:600]


def test_terminating_a_run_in_the_ui_cancels_what_it_has_at_the_provider(providers: Providers, studio: Studio) -> None:
    """After the story above, on the episode that it made."""
    with studio.up() as running, studio.open() as (database, _):
        second = productions(database)[1]
        providers.fault("replicate", "never_ends", len(second.shots))
        run_id = start(running, "clips", second.episode.partition_key, regenerate=True)

        def states(*wanted: str) -> bool | None:
            with psycopg.connect(studio_database(studio)) as db:
                newest = db.execute(
                    "SELECT state FROM provider_jobs WHERE operation = 'film' AND take_number = 2"
                ).fetchall()
            return True if newest and all(state in wanted for (state,) in newest) else None

        until(lambda: states("claimed", "submitting", "submitted", "running"), within_s=60, what="takes are claimed")
        until(lambda: None if states("claimed") else True, within_s=60, what="the first is at the provider")
        terminate(running, run_id)
        assert ending(running, run_id, "clips") == "CANCELED"
        until(lambda: states("canceled"), within_s=30, what="every call is cancelled")
    with studio.open() as (database, _):
        assert {take.take_number for take in productions(database)[1].takes.values()} == {1}


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
