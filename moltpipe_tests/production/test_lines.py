"""What a collector gets to see of an episode that is made with a hosted camera."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pydantic import SecretStr

from moltpipe.engines.replicate import Replicate
from moltpipe.production.filming import film_shots
from moltpipe.production.line import Line
from moltpipe.production.partial import SomeFailed
from moltpipe.production.work import work_on
from moltpipe.runtime.log_lines import log_lines
from moltpipe.settings import ReplicateAccount
from moltpipe.studio.records import Episode
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import Fault, serving
from moltpipe_tests.production.one_shot_episode import one_shot_episode

KEY = "r8_planted-key"


@pytest.fixture
def provider() -> Iterator[FakeReplicate]:
    fake = FakeReplicate(latency_s=0)
    with serving(fake):
        yield fake


@dataclass
class Filming:
    """An episode with one shot, and what was printed while it was filmed."""

    line: Line
    episode: Episode
    printed: io.StringIO

    async def film(self, run_id: str) -> None:
        async with work_on(self.line, self.episode.partition_key, process_uuid=run_id) as work:
            await film_shots(work, regenerate=False)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.printed.getvalue().splitlines()]

    def line_of(self, event: str) -> dict[str, Any]:
        (line,) = [one for one in self.lines() if one["event"] == event]
        return line


@pytest.fixture
def filming(line: Line, provider: FakeReplicate, database_url: str) -> Iterator[Filming]:
    account = ReplicateAccount(base_url=f"{provider.base}/v1", api_key=SecretStr(KEY), start_delay_ms=0)
    on_set = replace(line, crew=replace(line.crew, camera=Replicate(account)))
    printed = io.StringIO()
    with log_lines("json", printed):
        yield Filming(on_set, one_shot_episode(line.database, database_url), printed)


async def test_a_paid_call_is_followed_from_its_departure_to_its_take_by_its_ids(filming: Filming) -> None:
    await filming.film("run-1")
    told = filming.lines()
    assert [line["event"] for line in told] == [
        "episode claimed", "call submitted", "call finished", "take in", "stage done",
    ]  # fmt: skip
    assert {(line["run_id"], line["episode"]) for line in told} == {("run-1", filming.episode.partition_key)}
    sent, done, take = told[1:4]
    assert sent["call"] == done["call"]
    assert sent["external_id"]
    assert (done["engine"], done["operation"], done["shot"], done["variant"]) == ("replicate", "film", 1, 1)
    assert done["cost_usd"] > 0
    assert done["seconds"] >= 0
    assert (take["shot"], take["variant"], take["take"]) == (1, 1, 1)
    assert take["key"].startswith("takes/")


async def test_a_call_that_an_earlier_run_left_is_taken_up_under_its_old_id(
    filming: Filming, provider: FakeReplicate
) -> None:
    provider.latency_s = 3600
    first = asyncio.create_task(filming.film("run-1"))
    while not any(line["event"] == "call submitted" for line in filming.lines()):  # noqa: ASYNC110 - it is a line, and no event, that is waited for
        await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    (job,) = provider.predictions.values()
    job.ends = job.created
    await filming.film("run-2")
    given_back, taken_up = filming.line_of("episode given back"), filming.line_of("call taken up")
    assert (given_back["run_id"], given_back["failed"], given_back["why"]) == ("run-1", False, "the process is ending")
    assert (taken_up["run_id"], taken_up["call"]) == ("run-2", filming.line_of("call submitted")["call"])
    assert filming.line_of("call finished")["run_id"] == "run-2"


async def test_why_an_episode_is_given_back_is_said_without_the_key_or_a_signature(
    filming: Filming, provider: FakeReplicate
) -> None:
    provider.fault(Fault.EXPIRED_URL, times=50)
    with pytest.raises(SomeFailed):
        await filming.film("run-1")
    failed, given_back = filming.line_of("call failed"), filming.line_of("episode given back")
    assert failed["why"]
    assert failed["error_class"]
    assert given_back["failed"] is True
    assert given_back["level"] == "error"
    assert "shot 1 of variant 1" in given_back["why"]
    assert KEY not in filming.printed.getvalue()
    assert "sig=" not in filming.printed.getvalue()
