"""A process that makes many hosted calls at once, for tests of what holds over several such processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe

from moltpipe.engines.errors import EngineError
from moltpipe.ledger.spending import BudgetReached
from moltpipe.production.calls import Subject, call
from moltpipe.production.filming import take_request
from moltpipe.production.line import open_line
from moltpipe.production.work import work_on
from moltpipe.settings import load_settings
from moltpipe.store import connect


@dataclass(frozen=True)
class Crowd:
    """Claimants of one process: each wants the first shot of the episode in a take of its own."""

    environment: Mapping[str, str]
    partition_key: str
    claimants: int


def run(crowd: Crowd, pipe: Pipe) -> None:
    """Let them all call at once, and send how many got their take, were refused by a cap, or failed otherwise."""
    os.environ.update(crowd.environment)
    pipe.send(asyncio.run(_all(crowd)))


async def _all(crowd: Crowd) -> tuple[int, int, list[str]]:
    settings = load_settings()
    with open_line(settings, connect(settings.s3_bucket, settings.s3_endpoint_url)) as line:
        async with work_on(line, crowd.partition_key, process_uuid=crowd.partition_key) as work:
            (shot,) = work.production.shots
            request = take_request(work.production, shot, 1, line.profile)
            outcomes = await asyncio.gather(
                *(
                    call(
                        work,
                        line.crew.camera,
                        "film",
                        request.model_copy(update={"seed": 1000 * work.production.episode.number + number}),
                        subject=Subject(of=shot.id, variant_number=1, take_number=number),
                    )
                    for number in range(1, crowd.claimants + 1)
                ),
                return_exceptions=True,
            )
    refused = sum(isinstance(one, BudgetReached) for one in outcomes)
    failed = [f"{one!r}" for one in outcomes if isinstance(one, BaseException) and not isinstance(one, BudgetReached)]
    assert all(not isinstance(one, EngineError) for one in outcomes), failed
    return len(outcomes) - refused - len(failed), refused, failed
