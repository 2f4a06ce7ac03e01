"""Runs whose process died, on a real instance and a real ledger."""

import json
from datetime import UTC, datetime, timedelta, tzinfo

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.test_utils import create_run_for_test

from moltpipe.definitions import build_definitions
from moltpipe.defs.dispatch import production_sensor
from moltpipe.defs.reaper import reaper_sensor
from moltpipe.defs.runs import PARTITION_TAG
from moltpipe.ledger.audit import entries
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.jobs import claim_job, heartbeat, load_jobs, rest_job
from moltpipe.ledger.reaping import StillAlive, bury, jobs_of_runs
from moltpipe.ledger.schema import production_jobs, watchers
from moltpipe.ledger.watching import alone
from moltpipe.studio.dispatch import DeadRun
from moltpipe.studio.records import Claim, Episode, Job
from moltpipe_tests.stories import LEASE, a_series

REPOSITORY = build_definitions().get_repository_def()
AGES_AGO = datetime.now(UTC) - timedelta(days=1)
STARTED = dg.DagsterRunStatus.STARTED


def listening_since(since: datetime) -> str:
    return json.dumps({"since": since.isoformat(), "last": datetime.now(UTC).isoformat()})


def tick(instance: dg.DagsterInstance, database: Database, cursor: str | None = None) -> str:
    """One look of a reaper that has been listening since yesterday; returns what it says."""
    context = dg.build_sensor_context(
        instance=instance,
        resources={"ledger": database},
        repository_def=REPOSITORY,
        cursor=listening_since(AGES_AGO) if cursor is None else cursor,
    )
    answer = reaper_sensor(context)
    assert isinstance(answer, dg.SkipReason)
    return answer.skip_message or ""


def a_run(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus = STARTED,
    *,
    silent_for: timedelta = timedelta(),
    job_name: str = "produce_episode",
    partition_key: str | None = None,
    assets: frozenset[dg.AssetKey] | None = None,
) -> dg.DagsterRun:
    """A run whose one event is so old, and behind which no process stands."""
    run: dg.DagsterRun = create_run_for_test(
        instance,
        job_name=job_name,
        status=status,
        tags={PARTITION_TAG: partition_key} if partition_key else None,
        asset_selection=assets,
    )
    at = (datetime.now(UTC) - silent_for).timestamp()
    instance.handle_new_event(
        dg.EventLogEntry(  # type: ignore[no-untyped-call]  # Dagster types its arguments, and not what it returns
            error_info=None, level="info", user_message="something happened", run_id=run.run_id, timestamp=at
        )
    )
    return run


def status_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def claimed_by(database: Database, run: dg.DagsterRun, episode: Episode, *, beat_ago: timedelta) -> Claim:
    with database.begin() as db:
        claim = claim_job(db, episode.partition_key, run.run_id, LEASE)
        db.execute(
            sa.update(production_jobs)
            .where(production_jobs.c.id == claim.job_id)
            .values(heartbeat_at=sa.func.clock_timestamp() - beat_ago)
        )
    return claim


def job_of(database: Database, episode: Episode) -> Job:
    with database.begin() as db:
        return next(job for job in load_jobs(db) if job.partition_key == episode.partition_key)


def test_a_run_whose_heart_stopped_is_ended_and_its_job_given_back_as_an_attempt(
    instance: dg.DagsterInstance, database: Database
) -> None:
    episode = a_series(database)[0]
    run = a_run(instance, partition_key=episode.partition_key)
    claimed_by(database, run, episode, beat_ago=timedelta(minutes=2))
    assert f"ended run {run.run_id}" in tick(instance, database)
    assert status_of(instance, run) is dg.DagsterRunStatus.FAILURE
    job = job_of(database, episode)
    assert (job.process_uuid, job.attempt_count) == (None, 1)
    assert f"run {run.run_id} was lost: its heart has not beaten" in (job.last_error or "")


def test_who_ended_what_and_why_is_in_the_audit(instance: dg.DagsterInstance, database: Database) -> None:
    episode = a_series(database)[0]
    run = a_run(instance, partition_key=episode.partition_key)
    claimed_by(database, run, episode, beat_ago=timedelta(minutes=2))
    tick(instance, database)
    tick(instance, database)
    with database.begin() as db:
        (entry,) = entries(db, 10)
    assert (entry.by, entry.subject) == ("reaper_sensor", run.run_id)
    assert episode.partition_key in entry.what
    assert isinstance(entry.before, list)
    assert isinstance(entry.after, list)
    assert (entry.before[0]["process_uuid"], entry.after[0]["process_uuid"]) == (run.run_id, None)
    assert (entry.before[0]["attempt_count"], entry.after[0]["attempt_count"]) == (0, 1)


def test_a_run_that_works_for_hours_without_a_word_is_left_alone(
    instance: dg.DagsterInstance, database: Database
) -> None:
    episode = a_series(database)[0]
    run = a_run(instance, partition_key=episode.partition_key, silent_for=timedelta(hours=5))
    claimed_by(database, run, episode, beat_ago=timedelta(seconds=5))
    assert tick(instance, database) == "1 runs at work, none of them dead"
    assert status_of(instance, run) is STARTED


def test_a_run_that_died_between_two_steps_is_ended(instance: dg.DagsterInstance, database: Database) -> None:
    episode = a_series(database)[0]
    run = a_run(instance, partition_key=episode.partition_key, silent_for=timedelta(minutes=3))
    claim = claimed_by(database, run, episode, beat_ago=timedelta())
    with database.begin() as db:
        rest_job(db, claim)
    tick(instance, database)
    assert status_of(instance, run) is dg.DagsterRunStatus.FAILURE
    assert job_of(database, episode).process_uuid is None


@pytest.mark.parametrize(
    ("job_name", "assets"),
    [
        ("close_voting_period", None),
        ("check_integrity", None),
        # A single asset, materialized by hand or by a backfill.
        ("__ASSET_JOB", frozenset({dg.AssetKey("voiceover")})),
    ],
)
def test_a_run_of_any_job_of_ours_is_ended(
    instance: dg.DagsterInstance, database: Database, job_name: str, assets: frozenset[dg.AssetKey] | None
) -> None:
    fresh = a_run(instance, job_name=job_name, assets=assets)
    silent = a_run(instance, job_name=job_name, assets=assets, silent_for=timedelta(minutes=3))
    tick(instance, database)
    assert status_of(instance, fresh) is STARTED
    assert status_of(instance, silent) is dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize(
    ("job_name", "assets"), [("train_a_model", None), ("__ASSET_JOB", frozenset({dg.AssetKey("sales")}))]
)
def test_a_run_of_another_code_location_is_not_ours_to_judge(
    instance: dg.DagsterInstance, database: Database, job_name: str, assets: frozenset[dg.AssetKey] | None
) -> None:
    run = a_run(instance, job_name=job_name, assets=assets, silent_for=timedelta(days=3))
    tick(instance, database)
    assert status_of(instance, run) is STARTED


def test_a_heart_is_heard_by_the_clock_of_the_ledger(
    instance: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the daemon's machine is two minutes ahead of that of Postgres: nobody is dead for that."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Ahead":
            return super().now(tz) + timedelta(minutes=2)

    episode = a_series(database)[0]
    run = a_run(instance, partition_key=episode.partition_key, silent_for=timedelta(hours=5))
    claimed_by(database, run, episode, beat_ago=timedelta(seconds=5))
    monkeypatch.setattr("moltpipe.defs.reaper.datetime", Ahead)
    since, last = AGES_AGO.isoformat(), Ahead.now(UTC).isoformat()
    tick(instance, database, cursor=json.dumps({"since": since, "last": last}))
    assert status_of(instance, run) is STARTED


def test_a_backfill_run_whose_job_is_long_completed_is_ended_and_the_job_stays_completed(
    instance: dg.DagsterInstance, database: Database
) -> None:
    episode = a_series(database)[0]
    assets = frozenset({dg.AssetKey("clips")})
    run = a_run(instance, job_name="__ASSET_JOB", assets=assets, partition_key=episode.partition_key)
    claim = claimed_by(database, run, episode, beat_ago=timedelta(minutes=2))
    with database.begin() as db:
        db.execute(
            sa.update(production_jobs)
            .where(production_jobs.c.id == claim.job_id)
            .values(completed_at=sa.func.clock_timestamp())
        )
    tick(instance, database)
    assert status_of(instance, run) is dg.DagsterRunStatus.FAILURE
    with database.begin() as db:
        row = db.execute(sa.select(production_jobs).where(production_jobs.c.id == claim.job_id)).one()
    assert (row.process_uuid, row.attempt_count) == (None, 0)
    assert row.completed_at is not None


def test_a_run_that_nobody_has_launched_yet_is_never_dead(instance: dg.DagsterInstance, database: Database) -> None:
    """As one in the queue, which takes a code server to make."""
    run = a_run(instance, dg.DagsterRunStatus.NOT_STARTED, silent_for=timedelta(days=3))
    tick(instance, database)
    assert status_of(instance, run) is dg.DagsterRunStatus.NOT_STARTED


def test_a_run_whose_process_never_came_up_is_ended(instance: dg.DagsterInstance, database: Database) -> None:
    slow = a_run(instance, dg.DagsterRunStatus.STARTING, silent_for=timedelta(seconds=70))
    never = a_run(instance, dg.DagsterRunStatus.STARTING, silent_for=timedelta(minutes=2))
    tick(instance, database)
    assert status_of(instance, slow) is dg.DagsterRunStatus.STARTING
    assert status_of(instance, never) is dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize(("launcher", "patience"), [("celery", timedelta(minutes=3)), ("k8s", timedelta(minutes=10))])
def test_a_run_on_another_machine_gets_more_time_to_come_up(
    database: Database, launcher: str, patience: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody asks the launcher: this process may lack what it takes to build it."""
    monkeypatch.setenv("MOLTPIPE_LAUNCHER", launcher)
    with dg.instance_for_test(overrides={"run_monitoring": {"enabled": True, "start_timeout_seconds": 600}}) as ours:
        slow = a_run(ours, dg.DagsterRunStatus.STARTING, silent_for=patience - timedelta(seconds=20))
        never = a_run(ours, dg.DagsterRunStatus.STARTING, silent_for=patience + timedelta(seconds=20))
        tick(ours, database)
        assert status_of(ours, slow) is dg.DagsterRunStatus.STARTING
        assert status_of(ours, never) is dg.DagsterRunStatus.FAILURE


def test_a_run_that_a_person_ended_and_that_never_came_to_its_end_is_canceled(
    instance: dg.DagsterInstance, database: Database
) -> None:
    run = a_run(instance, dg.DagsterRunStatus.CANCELING, silent_for=timedelta(minutes=2))
    tick(instance, database)
    assert status_of(instance, run) is dg.DagsterRunStatus.CANCELED


def test_a_reaper_that_has_just_begun_to_listen_ends_nobody(instance: dg.DagsterInstance, database: Database) -> None:
    """The database or the daemon was away: nobody's heart could beat, and most of those runs live."""
    episode = a_series(database)[0]
    run = a_run(instance, partition_key=episode.partition_key, silent_for=timedelta(minutes=10))
    claimed_by(database, run, episode, beat_ago=timedelta(minutes=10))
    for unknown in ("", "nonsense", '{"since": 3}', "[]", listening_since(datetime.now(UTC))):
        tick(instance, database, cursor=unknown)
    assert status_of(instance, run) is STARTED
    tick(instance, database, cursor=listening_since(datetime.now(UTC) - timedelta(seconds=30)))
    assert status_of(instance, run) is dg.DagsterRunStatus.FAILURE


def test_a_job_whose_run_gave_a_sign_of_life_meanwhile_is_not_taken_from_it(database: Database) -> None:
    episode = a_series(database)[0]
    with database.begin() as db:
        claim = claim_job(db, episode.partition_key, "run-1", LEASE)
        seen = jobs_of_runs(db, ["run-1"])
    with database.begin() as db:
        assert heartbeat(db, claim)
    with pytest.raises(StillAlive), database.begin() as db:
        bury(db, DeadRun("run-1", tuple(seen), "silence"), datetime.now(UTC), "reaper_sensor")
    assert job_of(database, episode).process_uuid == "run-1"
    with database.begin() as db:
        assert entries(db, 10) == []


def test_a_job_that_went_to_another_run_meanwhile_is_not_taken_from_that(database: Database) -> None:
    episode = a_series(database)[0]
    with database.begin() as db:
        claim = claim_job(db, episode.partition_key, "run-1", LEASE)
        rest_job(db, claim)
        seen = jobs_of_runs(db, ["run-1"])
        claim_job(db, episode.partition_key, "run-2", LEASE)
    with pytest.raises(StillAlive), database.begin() as db:
        bury(db, DeadRun("run-1", tuple(seen), "silence"), datetime.now(UTC), "reaper_sensor")
    assert job_of(database, episode).process_uuid == "run-2"


def test_a_dead_run_gives_its_place_to_the_next(instance: dg.DagsterInstance, database: Database) -> None:
    """The queue behind it goes on, and its own episode follows after a rest."""
    episodes = a_series(database)
    run = a_run(instance, partition_key=episodes[0].partition_key)
    claimed_by(database, run, episodes[0], beat_ago=timedelta(minutes=2))
    tick(instance, database)
    with database.begin() as db:
        db.execute(sa.update(production_jobs).values(available_at=sa.func.clock_timestamp() + timedelta(seconds=-1)))
        # As after the rest: the end of the run lies before it, so the one attempt is not counted twice.
        db.execute(sa.update(production_jobs).values(available_at=sa.func.clock_timestamp()))
    context = dg.build_sensor_context(instance=instance, resources={"ledger": database})
    answer = production_sensor(context)
    assert isinstance(answer, dg.SensorResult)
    requested = {request.partition_key for request in answer.run_requests or []}
    assert requested == {episode.partition_key for episode in episodes}
    assert job_of(database, episodes[0]).attempt_count == 1


def test_of_two_reapers_at_once_one_looks(instance: dg.DagsterInstance, database: Database, database_url: str) -> None:
    another = Database(database_url)
    with alone(another, "reaper_sensor"):
        assert tick(instance, database) == "another daemon is at it"
    another.dispose()


def test_a_reaper_that_cannot_read_the_ledger_fails_its_tick(instance: dg.DagsterInstance) -> None:
    a_run(instance, silent_for=timedelta(days=1))
    with pytest.raises(DatabaseUnavailable):
        tick(instance, Database("postgresql://nobody@127.0.0.1:1/nothing"))


def test_a_tick_is_noted(instance: dg.DagsterInstance, database: Database) -> None:
    tick(instance, database)
    with database.begin() as db:
        assert "reaper_sensor" in set(db.execute(sa.select(watchers.c.name)).scalars())
