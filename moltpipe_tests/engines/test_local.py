from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from pydantic import BaseModel

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.local import Bench, LocalEngine
from moltpipe.engines.protocols import ExternalId, Progress
from moltpipe_tests.engines.orders import order


class _Errand(BaseModel):
    word: str


class _Runner(LocalEngine[_Errand, str]):
    """Does as it is told: `wait` works until it is stopped, `fail` breaks, anything else comes back at once."""

    name = "runner"
    model = "runner-1"

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.begun = threading.Event()
        self.left = threading.Event()

    def make(self, request: _Errand, bench: Bench) -> str:
        try:
            self.begun.set()
            while request.word == "wait":
                bench.stop.wait()
                bench.go_on()
            if request.word == "fail":
                raise OSError("no paper left")
            return request.word
        finally:
            self.left.set()


async def test_a_job_can_be_polled_until_it_is_done_and_again_after(tmp_path: Path) -> None:
    runner = _Runner(tmp_path / "not there yet")
    job = await runner.submit(_Errand(word="done"), order())
    assert await runner.poll(job) == "done"
    assert await runner.poll(job) == "done"
    assert runner.quote(_Errand(word="done")).cost_usd == 0


async def test_a_poll_of_unfinished_work_comes_back_with_progress(tmp_path: Path) -> None:
    runner = _Runner(tmp_path)
    job = await runner.submit(_Errand(word="wait"), order())
    assert isinstance(await runner.poll(job), Progress)
    await runner.cancel(job)


async def test_a_cancelled_job_has_left_its_thread_when_cancel_returns(tmp_path: Path) -> None:
    runner = _Runner(tmp_path)
    job = await runner.submit(_Errand(word="wait"), order())
    await asyncio.to_thread(runner.begun.wait)
    await runner.cancel(job)
    assert runner.left.is_set()
    with pytest.raises(EngineError, match="cancelled") as refusal:
        await runner.poll(job)
    assert refusal.value.error_class is ErrorClass.EXPIRED
    await runner.cancel(job)


async def test_what_breaks_in_the_work_is_an_engine_error_with_its_cause(tmp_path: Path) -> None:
    runner = _Runner(tmp_path)
    with pytest.raises(EngineError, match="no paper left") as failure:
        await runner.poll(await runner.submit(_Errand(word="fail"), order()))
    assert failure.value.error_class is ErrorClass.PROVIDER_FAULT
    assert isinstance(failure.value.__cause__, OSError)


async def test_a_job_of_another_process_may_safely_be_submitted_again(tmp_path: Path) -> None:
    runner = _Runner(tmp_path)
    assert runner.hosting is None
    with pytest.raises(EngineError) as lost:
        await runner.poll(ExternalId("of yesterday"))
    assert lost.value.error_class is ErrorClass.RETRY_SAFE
    await runner.cancel(ExternalId("of yesterday"))


def test_work_stops_when_its_event_loop_goes_away(tmp_path: Path) -> None:
    runner = _Runner(tmp_path)

    async def leave() -> None:
        await runner.submit(_Errand(word="wait"), order())
        await asyncio.to_thread(runner.begun.wait)

    asyncio.run(leave())
    assert runner.left.wait(timeout=30)
