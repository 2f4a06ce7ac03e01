"""Two daemons by mistake: what each of them begins, on one instance and one ledger."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.test_utils import create_run_for_test

from moltpipe.defs.dispatch import production_sensor
from moltpipe.defs.partitions import EPISODES_NAME
from moltpipe.defs.runs import CLAIMED_TAG, HELD_TAG, PARTITION_TAG
from moltpipe.defs.scripts import episode_script
from moltpipe.defs.voting import period_sensor
from moltpipe.engines.animatic import Animatic
from moltpipe.engines.espeak import Espeak
from moltpipe.engines.outline import Outline
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import claim_job, load_jobs, release_job
from moltpipe.ledger.schema import production_jobs
from moltpipe.production.line import Crew, Line
from moltpipe.store import Store
from moltpipe.studio.profiles import parse_profile
from moltpipe.studio.records import Episode, Job
from moltpipe_tests.stories import LEASE, a_series, closed_vote

T = TypeVar("T")


@pytest.fixture
def line(database: Database, store: Store, tmp_path: Path) -> Line:
    return Line(
        database=database,
        store=store,
        crew=Crew(Outline(tmp_path), Espeak(tmp_path), Animatic(tmp_path), None),
        profile=parse_profile("144p12"),
        media_url=None,
        workdir=tmp_path,
        lease=LEASE,
        heartbeat=timedelta(seconds=5),
        calls_at_once=2,
        cuts_at_once=2,
    )


def at_once(what: Callable[[], T]) -> tuple[T, T]:
    """What two threads get that begin in the same moment."""
    both = threading.Barrier(2)

    def begin(_: int) -> T:
        both.wait()
        return what()

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(begin, range(2))
    return one, other


def requested(answer: object) -> list[tuple[str | None, str | None]]:
    assert isinstance(answer, dg.SensorResult), answer
    return [(request.partition_key, request.run_key) for request in answer.run_requests or []]


def job_of(database: Database, episode: Episode) -> Job:
    with database.begin() as db:
        return next(job for job in load_jobs(db) if job.partition_key == episode.partition_key)


def production_tick(instance: dg.DagsterInstance, database: Database) -> object:
    return production_sensor(dg.build_sensor_context(instance=instance, resources={"ledger": database}))


def test_both_ask_for_the_same_runs_so_dagster_launches_each_once(
    instance: dg.DagsterInstance, database: Database
) -> None:
    """Dagster launches no second run under a run key that it has launched."""
    a_series(database)
    one, other = at_once(lambda: requested(production_tick(instance, database)))
    assert one == other
    assert len({run_key for _, run_key in one}) == 5


def test_both_find_a_vote_over_and_close_it_once(instance: dg.DagsterInstance, database: Database) -> None:
    closed_vote(database)

    def tick() -> object:
        return period_sensor(dg.build_sensor_context(instance=instance, resources={"ledger": database}))

    at_once(tick)
    assert len(instance.fetch_materializations(dg.AssetKey("voting_outcome"), limit=10).records) == 1
    with database.begin() as db:
        assert len(load_jobs(db)) == 5


def test_both_find_a_vote_over_and_ask_for_the_same_runs(instance: dg.DagsterInstance, database: Database) -> None:
    closed_vote(database)
    one, other = at_once(lambda: requested(production_tick(instance, database)))
    assert one == other
    assert len({run_key for _, run_key in one}) == 5


def test_both_see_a_run_at_the_door_fail_and_count_it_once(instance: dg.DagsterInstance, database: Database) -> None:
    episode = a_series(database)[0]
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags={PARTITION_TAG: episode.partition_key})
    instance.report_run_failed(run)
    at_once(lambda: production_tick(instance, database))
    assert job_of(database, episode).attempt_count == 1


def test_both_see_an_owner_ended_and_count_it_once(
    instance: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLTPIPE_HEARTBEAT_S", "0.000001")
    episode = a_series(database)[0]
    run = create_run_for_test(
        instance, status=dg.DagsterRunStatus.CANCELED, tags={PARTITION_TAG: episode.partition_key}
    )
    with database.begin() as db:
        claim_job(db, episode.partition_key, run.run_id, LEASE)
        mine = production_jobs.c.process_uuid == run.run_id
        long_ago = sa.func.clock_timestamp() - timedelta(seconds=20)
        db.execute(sa.update(production_jobs).where(mine).values(heartbeat_at=long_ago))
    at_once(lambda: production_tick(instance, database))
    assert job_of(database, episode).attempt_count == 1


def test_a_second_run_of_an_episode_at_work_is_refused_and_harms_nothing(
    instance: dg.DagsterInstance, line: Line
) -> None:
    """Both daemons launched in the same moment. The second run fails at its claim, which is no attempt of the job.

    Nor is it one later, when the first run gives the job back unfinished because its process was stopped.
    """
    database = line.database
    episode = a_series(database)[0]
    instance.add_dynamic_partitions(EPISODES_NAME, [episode.partition_key])
    with database.begin() as db:
        claim = claim_job(db, episode.partition_key, "the-first-run", LEASE)
    second = dg.materialize(
        [episode_script],
        instance=instance,
        partition_key=episode.partition_key,
        resources={"line": line},
        raise_on_error=False,
    )
    assert not second.success
    assert "is in the hands of run the-first-run" in str(second.events_for_node("episode_script"))
    run = instance.get_run_by_id(second.run_id)
    assert run is not None
    assert run.tags[HELD_TAG] == "the-first-run"

    assert episode.partition_key not in [key for key, _ in requested(production_tick(instance, database))]
    assert job_of(database, episode).process_uuid == "the-first-run"
    with database.begin() as db:
        release_job(db, claim)
    asked = [key for key, _ in requested(production_tick(instance, database))]
    assert episode.partition_key in asked
    assert job_of(database, episode).attempt_count == 0


def test_a_second_run_takes_over_what_rests_and_the_first_leaves_without_writing(
    instance: dg.DagsterInstance, line: Line
) -> None:
    """Between two steps the first run holds nothing; whoever comes then goes on with the episode."""
    database = line.database
    episode = a_series(database)[0]
    with database.begin() as db:
        claim_job(db, episode.partition_key, "the-first-run", LEASE)
        db.execute(
            sa.update(production_jobs)
            .where(production_jobs.c.process_uuid == "the-first-run")
            .values(heartbeat_at=None)
        )
    instance.add_dynamic_partitions(EPISODES_NAME, [episode.partition_key])
    second = dg.materialize(
        [episode_script], instance=instance, partition_key=episode.partition_key, resources={"line": line}
    )
    assert second.success
    job = job_of(database, episode)
    assert (job.process_uuid, job.attempt_count) == (second.run_id, 0)
    run = instance.get_run_by_id(second.run_id)
    assert run is not None
    assert CLAIMED_TAG in run.tags
