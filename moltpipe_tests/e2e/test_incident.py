"""The incident that the project began with, from the old database to the last episode, as an operator lives through it.

A script was marked as selected and its period as processed, a week too early, no series was ever made, every cron job
reported success, and nobody was told.
"""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path

import pytest

from moltpipe.ledger.database import Database
from moltpipe.ledger.production import load_production
from moltpipe.ledger.series import all_episodes
from moltpipe.runtime.stack import Stack
from moltpipe.studio.records import Production
from moltpipe_tests.e2e.studio import Studio, a_studio, until
from moltpipe_tests.ledger.molt_database import incident, molt_database
from moltpipe_tests.webhook import Received, Webhook, webhook

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CHANNEL = "the-operator"
CHECK = "selected_scripts_have_series"
BROKEN = "a selected script has no series"
OVER = f"over after [^\n]*: {BROKEN}"
FOUND_WITHIN_S = 60
"""From the moment at which `moltpipe up` says that it is up. How long it takes to say so is the machine's affair."""

_EVALUATION = """query($key: AssetKeyInput!, $name: String!) {
  assetCheckExecutions(assetKey: $key, checkName: $name, limit: 1) { evaluation { success } }
}"""


def test_the_incident_is_found_told_mended_and_produced(tmp_path: Path, empty_database_url: str) -> None:
    with molt_database(empty_database_url) as old:
        told = incident(old)
    with webhook() as hook:
        studio = dataclasses.replace(a_studio(tmp_path), variables={"MOLTPIPE_ALERT_URLS": hook.url(CHANNEL)})
        with studio.open() as (database, store):
            assert studio.json("adopt", "--from", empty_database_url)["adopted"]["scripts"] == 1
            assert CHECK in failed_checks(studio, status=1)

            clock = Clock()
            with studio.up() as running:
                clock.note("moltpipe is up")
                alert = until(lambda: message(hook, BROKEN), within_s=FOUND_WITHIN_S, what="the alert arrives")
                clock.note("the alert is there")
                assert clock.passed["the alert is there"] - clock.passed["moltpipe is up"] < FOUND_WITHIN_S
                assert alert.tone == "failure"
                assert f"{running.url}/assets/scripts" in alert.body
                until(
                    lambda: failed_in_dagster(running) or None, within_s=20, what="Dagster shows that the check failed"
                )

                mended = studio.json("repair")["repairs"]
                clock.note("the repair is done")
                assert str(told.script) in {one["subject"] for one in mended if one["check"] == CHECK}
                assert [one for one in mended if one["failed"]] == []

                made = until(lambda: produced(database), within_s=600, what="five episodes are produced")
                clock.note("five episodes are produced")
                assert {one.series.script_id for one in made} == {told.script}
                assert [len(one.variants) for one in made] == [4, 1, 1, 1, 1]
                for variant in (variant for one in made for variant in one.variants.values()):
                    assert store.size(variant.video.key) == variant.video.bytes

                over = until(lambda: message(hook, OVER), within_s=60, what="the all-clear arrives")
                clock.note("the all-clear is there")
                assert BROKEN in over.title + over.body
                until(
                    lambda: failed_in_dagster(running) is False or None,
                    within_s=20,
                    what="Dagster shows that it passed",
                )
                assert failed_checks(studio, status=0) == set()
                clock.note("`moltpipe check` passes")
            assert studio.json("adopt", "--from", empty_database_url)["unchanged"]


class Clock:
    """How long after `moltpipe up` was called something came to pass."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.passed: dict[str, float] = {}

    def note(self, what: str) -> None:
        self.passed[what] = time.monotonic() - self._began
        print(f"{self.passed[what]:6.1f} s  {what}")  # noqa: T201 - measured times are for whoever reads the test's output


def message(hook: Webhook, pattern: str) -> Received | None:
    """The first message that the channel took with these words in its title or body."""
    taken = hook.taken(CHANNEL)
    return next((one for one in taken if re.search(pattern, f"{one.title}\n{one.body}")), None)


def produced(database: Database) -> list[Production] | None:
    """All episodes, once each has its variants."""
    with database.begin() as db:
        found = [load_production(db, one.partition_key) for one in all_episodes(db)]
    return found if all(len(one.variants) == one.episode.variants_wanted for one in found) else None


def failed_checks(studio: Studio, *, status: int) -> set[str]:
    """What `moltpipe check` finds, which ends with this status."""
    return {one["name"] for one in studio.json("check", status=status)["checks"] if not one["passed"]}


def failed_in_dagster(running: Stack) -> bool | None:
    """Whether the check's newest result is that it failed; None while there is none."""
    asked = {"key": {"path": ["scripts"]}, "name": CHECK}
    executions = running.graphql(_EVALUATION, asked)["assetCheckExecutions"]
    evaluation = executions[0]["evaluation"] if executions else None
    return None if evaluation is None else not evaluation["success"]
