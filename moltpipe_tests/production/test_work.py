"""The frame around every stage: who may write, and how work ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.engine import Connection

from moltpipe.ledger import jobs
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.jobs import JobHeld, Superseded, claim_job, heartbeat, load_jobs
from moltpipe.ledger.shots import write_shots
from moltpipe.production.line import Line
from moltpipe.production.partial import Failed, SomeFailed
from moltpipe.production.work import Work, work_on
from moltpipe.studio.records import Claim, Job
from moltpipe.studio.screenplay import EpisodeScript, PilotScript
from moltpipe_tests.stories import a_series

NOW = timedelta(0)
"""A lease that has always run out."""


def the_job(database: Database, partition_key: str) -> Job:
    with database.begin() as db:
        return next(job for job in load_jobs(db) if job.partition_key == partition_key)


def taken_over(work: Work) -> None:
    with work.line.database.begin() as db:
        claim_job(db, work.claim.partition_key, "another-run", NOW)


async def test_work_that_ends_well_leaves_the_job_resting_with_its_run(line: Line) -> None:
    key = a_series(line.database)[0].partition_key
    async with work_on(line, key, process_uuid="a-run"):
        assert the_job(line.database, key).heartbeat_at is not None
    job = the_job(line.database, key)
    assert (job.process_uuid, job.heartbeat_at, job.attempt_count) == ("a-run", None, 0)


async def test_work_that_fails_comes_back_after_a_rest(line: Line) -> None:
    key = a_series(line.database)[0].partition_key
    with pytest.raises(ZeroDivisionError):
        async with work_on(line, key, process_uuid="a-run"):
            _ = 1 / 0
    job = the_job(line.database, key)
    assert (job.process_uuid, job.attempt_count) == (None, 1)
    assert "ZeroDivisionError" in (job.last_error or "")


async def test_a_second_process_is_refused_while_the_first_one_works(line: Line) -> None:
    key = a_series(line.database)[0].partition_key
    async with work_on(line, key, process_uuid="a-run"):
        with pytest.raises(JobHeld) as refused:
            async with work_on(line, key, process_uuid="another-run"):
                pass
    assert refused.value.by == "a-run"


async def test_a_superseded_process_writes_nothing(line: Line) -> None:
    key = a_series(line.database)[0].partition_key

    async def late() -> None:
        async with work_on(line, key, process_uuid="a-run") as work:
            taken_over(work)
            pilot = PilotScript.model_validate(work.production.series.script_data)
            script = EpisodeScript(episode_number=1, title="late", shots=pilot.shots)
            with line.database.begin() as db:
                write_shots(db, work.claim, script)

    with pytest.raises(Superseded):
        await late()
    async with work_on(line, key, process_uuid="another-run") as work:
        assert work.production.shots == ()


async def test_a_superseded_process_is_stopped_by_its_heartbeat(line: Line) -> None:
    key = a_series(line.database)[0].partition_key
    quick = replace(line, heartbeat=timedelta(milliseconds=20))

    async def endless() -> None:
        async with work_on(quick, key, process_uuid="a-run") as work:
            taken_over(work)
            await asyncio.wait_for(asyncio.Event().wait(), timeout=30)

    with pytest.raises(Superseded):
        await endless()
    assert the_job(line.database, key).process_uuid == "another-run"


async def test_cancelled_work_gives_the_job_back_without_an_attempt(line: Line) -> None:
    key = a_series(line.database)[0].partition_key
    at_work = asyncio.Event()

    async def body() -> None:
        async with work_on(line, key, process_uuid="a-run"):
            at_work.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await at_work.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    job = the_job(line.database, key)
    assert (job.process_uuid, job.attempt_count) == (None, 0)


async def test_a_heartbeat_goes_on_after_an_outage_of_postgres(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    key = a_series(line.database)[0].partition_key
    beats: list[str] = []
    again = asyncio.Event()
    loop = asyncio.get_running_loop()

    def away_once(db: Connection, claim: Claim) -> bool:
        beats.append(claim.process_uuid)
        if len(beats) == 1:
            raise DatabaseUnavailable("127.0.0.1", 5432, "restarting")
        loop.call_soon_threadsafe(again.set)
        return heartbeat(db, claim)

    monkeypatch.setattr(jobs, "heartbeat", away_once)
    async with work_on(replace(line, heartbeat=timedelta(seconds=0.02)), key, process_uuid="a-run"):
        await asyncio.wait_for(again.wait(), 10)
    assert the_job(line.database, key).process_uuid == "a-run"


async def test_an_outage_of_postgres_is_no_attempt(line: Line) -> None:
    key = a_series(line.database)[0].partition_key
    with pytest.raises(SomeFailed):
        async with work_on(line, key, process_uuid="a-run"):
            raise SomeFailed("takes", [Failed("shot 1", DatabaseUnavailable("127.0.0.1", 5432, "gone"))], 1)
    job = the_job(line.database, key)
    assert (job.process_uuid, job.attempt_count) == (None, 0)
    assert job.available_at > datetime.now(UTC)
    assert "gone" in (job.last_error or "")


async def test_a_run_that_a_person_ended_counts_as_an_attempt_and_does_not_start_again_at_once(line: Line) -> None:
    key = a_series(line.database)[0].partition_key
    with pytest.raises(asyncio.CancelledError):
        async with work_on(line, key, process_uuid="a-run", ended_by_a_person=lambda: True):
            raise asyncio.CancelledError
    job = the_job(line.database, key)
    assert (job.process_uuid, job.attempt_count, job.last_error) == (None, 1, "a person ended the run")
    assert job.available_at > datetime.now(UTC)
