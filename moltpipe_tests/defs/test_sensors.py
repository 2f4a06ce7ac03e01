"""Sensors and schedules on a real instance and a real ledger."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.storage.tags import RUN_KEY_TAG
from dagster._core.test_utils import create_run_for_test

from moltpipe.defs.dispatch import production_sensor
from moltpipe.defs.partitions import EPISODES_NAME, PERIODS_NAME
from moltpipe.defs.runs import CLAIMED_TAG, PARTITION_TAG
from moltpipe.defs.voting import next_period_schedule, period_sensor, voting_outcome
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.jobs import claim_job, heartbeat, load_jobs, release_job
from moltpipe.ledger.periods import create_period, list_periods, open_due_periods
from moltpipe.ledger.schema import production_jobs, watchers
from moltpipe.ledger.watching import SILENCE
from moltpipe.studio.jobs import REST_AFTER_A_LOSS, backoff
from moltpipe.studio.keys import period_key
from moltpipe.studio.records import Episode, Job
from moltpipe_tests.stories import LEASE, a_series, closed_vote

AGO = datetime.now(UTC) - timedelta(seconds=20)


def tick_periods(instance: dg.DagsterInstance, database: Database) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(instance=instance, resources={"ledger": database})
    answer = period_sensor(context)
    assert isinstance(answer, dg.SensorResult | dg.SkipReason)
    return answer


def tick_production(instance: dg.DagsterInstance, database: Database) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(instance=instance, resources={"ledger": database})
    answer = production_sensor(context)
    assert isinstance(answer, dg.SensorResult | dg.SkipReason)
    return answer


def requested(answer: dg.SensorResult | dg.SkipReason) -> list[tuple[str | None, str | None]]:
    assert isinstance(answer, dg.SensorResult), answer
    return [(request.partition_key, request.run_key) for request in answer.run_requests or []]


def requested_keys(answer: dg.SensorResult | dg.SkipReason) -> list[str | None]:
    return [key for key, _ in requested(answer)]


def job_of(database: Database, episode: Episode) -> Job:
    with database.begin() as db:
        return next(job for job in load_jobs(db) if job.partition_key == episode.partition_key)


def test_a_period_that_is_over_is_closed_in_the_tick_and_told_of_once(
    instance: dg.DagsterInstance, database: Database
) -> None:
    """A run for it would take longer to start than everything that is to happen before the first engine is called."""
    period = closed_vote(database)
    answers = [tick_periods(instance, database) for _ in range(2)]
    assert [isinstance(answer, dg.SkipReason) for answer in answers] == [True, True]
    with database.begin() as db:
        assert [one.is_processed for one in list_periods(db)] == [True]
    (told,) = instance.fetch_materializations(dg.AssetKey("voting_outcome"), limit=10).records
    assert told.partition_key == period_key(period)
    assert told.asset_materialization is not None
    assert told.asset_materialization.metadata["winners"].value == 1
    assert instance.get_dynamic_partitions(PERIODS_NAME) == [period_key(period)]
    assert instance.get_runs_count() == 0


def test_a_series_is_asked_for_in_the_tick_that_finds_its_vote_over(
    instance: dg.DagsterInstance, database: Database
) -> None:
    """Were its jobs seen in the next round only, every series would wait five seconds for nothing."""
    closed_vote(database)
    asked = requested(tick_production(instance, database))
    assert len(asked) == 5
    assert requested(tick_production(instance, database)) == asked
    with database.begin() as db:
        assert {job.partition_key for job in load_jobs(db)} == {key for key, _ in asked}


@pytest.mark.parametrize("deleted", [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2]])
def test_the_next_run_is_asked_for_under_a_new_key_whichever_runs_were_deleted(
    instance: dg.DagsterInstance, database: Database, deleted: list[int]
) -> None:
    """Dagster drops a request whose key a run has, without a word: the episode would wait for ever."""
    episode = a_series(database)[0]
    runs = []
    for _ in range(3):
        (key,) = (key for name, key in requested(tick_production(instance, database)) if name == episode.partition_key)
        assert key not in _keys_of_runs(instance)
        runs.append(_ended_run(instance, episode.partition_key, key or ""))
    for number in deleted:
        instance.delete_run(runs[number])
    asked = [
        key
        for _ in range(2)
        for name, key in requested(tick_production(instance, database))
        if name == episode.partition_key
    ]
    assert len(set(asked)) == 1
    assert asked[0] not in _keys_of_runs(instance)


def _ended_run(instance: dg.DagsterInstance, partition_key: str, key: str) -> str:
    """A run as the sensor's daemon makes it, that claimed its episode, failed and gave it back."""
    tags = {PARTITION_TAG: partition_key, RUN_KEY_TAG: key, CLAIMED_TAG: "yes"}
    run_id: str = create_run_for_test(instance, status=dg.DagsterRunStatus.FAILURE, tags=tags).run_id
    return run_id


def _keys_of_runs(instance: dg.DagsterInstance) -> set[str]:
    return {run.tags[RUN_KEY_TAG] for run in instance.get_runs()}


def test_a_period_of_next_week_is_left_alone(instance: dg.DagsterInstance, database: Database) -> None:
    now = datetime.now(UTC)
    with database.begin() as db:
        create_period(db, "agent_voting", now + timedelta(days=7), now + timedelta(days=14))
    assert isinstance(tick_periods(instance, database), dg.SkipReason)
    with database.begin() as db:
        assert [(p.is_active, p.is_processed) for p in list_periods(db)] == [(False, False)]


def test_a_sensor_that_cannot_read_the_ledger_fails_its_tick(instance: dg.DagsterInstance) -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(DatabaseUnavailable):
        tick_periods(instance, nowhere)
    with pytest.raises(DatabaseUnavailable):
        tick_production(instance, nowhere)


def test_closing_makes_five_jobs_that_become_five_runs(instance: dg.DagsterInstance, database: Database) -> None:
    period = closed_vote(database)
    instance.add_dynamic_partitions(PERIODS_NAME, [period_key(period)])
    result = dg.materialize(
        [voting_outcome], partition_key=period_key(period), instance=instance, resources={"ledger": database}
    )
    assert result.success
    keys = {key for key, _ in requested(tick_production(instance, database))}
    assert len(keys) == 5
    assert set(instance.get_dynamic_partitions(EPISODES_NAME)) == keys


def test_materializing_a_period_before_its_end_is_refused(instance: dg.DagsterInstance, database: Database) -> None:
    now = datetime.now(UTC)
    with database.begin() as db:
        period = create_period(db, "agent_voting", now - timedelta(minutes=1), now + timedelta(days=1))
        open_due_periods(db, now)
    instance.add_dynamic_partitions(PERIODS_NAME, [period_key(period)])
    result = dg.materialize(
        [voting_outcome],
        partition_key=period_key(period),
        instance=instance,
        resources={"ledger": database},
        raise_on_error=False,
    )
    assert not result.success
    with database.begin() as db:
        assert not list_periods(db)[0].is_processed


def test_a_job_with_a_live_run_is_not_started_twice(instance: dg.DagsterInstance, database: Database) -> None:
    episodes = a_series(database)
    create_run_for_test(instance, status=dg.DagsterRunStatus.STARTING, tags={PARTITION_TAG: episodes[0].partition_key})
    keys = [key for key, _ in requested(tick_production(instance, database))]
    assert keys == [episode.partition_key for episode in episodes[1:]]


@pytest.fixture
def _beating_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two beats are over before the next tick: a run gets them before its job is taken from it."""
    monkeypatch.setenv("MOLTPIPE_HEARTBEAT_S", "0.000001")


@pytest.mark.usefixtures("_beating_fast")
def test_a_process_that_outlives_its_run_keeps_its_job(instance: dg.DagsterInstance, database: Database) -> None:
    episode = a_series(database)[0]
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags={PARTITION_TAG: episode.partition_key})
    with database.begin() as db:
        claim = claim_job(db, episode.partition_key, run.run_id, LEASE)
    instance.report_run_failed(run)
    with database.begin() as db:
        assert heartbeat(db, claim)
    assert episode.partition_key not in requested_keys(tick_production(instance, database))
    assert job_of(database, episode).process_uuid == run.run_id


@pytest.mark.parametrize(
    ("status", "rest"),
    [
        pytest.param(dg.DagsterRunStatus.CANCELED, backoff(1), id="terminated"),
        pytest.param(dg.DagsterRunStatus.FAILURE, REST_AFTER_A_LOSS, id="its process died"),
    ],
)
@pytest.mark.usefixtures("_beating_fast")
def test_a_run_that_has_ended_gives_its_job_back(
    instance: dg.DagsterInstance, database: Database, status: dg.DagsterRunStatus, rest: timedelta
) -> None:
    episode = a_series(database)[0]
    run = create_run_for_test(instance, status=status, tags={PARTITION_TAG: episode.partition_key})
    with database.begin() as db:
        claim_job(db, episode.partition_key, run.run_id, LEASE)
        mine = production_jobs.c.process_uuid == run.run_id
        db.execute(sa.update(production_jobs).where(mine).values(heartbeat_at=AGO))
    began = datetime.now(UTC)
    tick_production(instance, database)
    job = job_of(database, episode)
    assert job.process_uuid is None
    assert job.attempt_count == 1
    assert status.value in (job.last_error or "")
    assert began + rest <= job.available_at <= datetime.now(UTC) + rest


@pytest.mark.usefixtures("_beating_fast")
def test_a_run_that_is_dead_stands_in_the_way_until_the_reaper_has_ended_it(
    instance: dg.DagsterInstance, database: Database
) -> None:
    """Whether it is dead is decided in one place, and the sensor that starts runs is another."""
    episode = a_series(database)[0]
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags={PARTITION_TAG: episode.partition_key})
    with database.begin() as db:
        claim_job(db, episode.partition_key, run.run_id, LEASE)
        mine = production_jobs.c.process_uuid == run.run_id
        long_ago = sa.func.clock_timestamp() - timedelta(hours=1)
        db.execute(sa.update(production_jobs).where(mine).values(heartbeat_at=long_ago))
    assert episode.partition_key not in requested_keys(tick_production(instance, database))
    instance.report_run_failed(run)
    assert episode.partition_key not in requested_keys(tick_production(instance, database))
    job = job_of(database, episode)
    assert (job.process_uuid, job.attempt_count) == (None, 1)


def test_a_run_that_fails_at_the_door_counts_as_an_attempt(instance: dg.DagsterInstance, database: Database) -> None:
    """Its resources did not open, so it never claimed the job: without the count it would be started for ever."""
    episode = a_series(database)[0]
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags={PARTITION_TAG: episode.partition_key})
    instance.report_run_failed(run)
    for _ in range(2):
        assert episode.partition_key not in requested_keys(tick_production(instance, database))
    job = job_of(database, episode)
    assert job.attempt_count == 1
    assert job.available_at > datetime.now(UTC)


def test_a_run_that_succeeded_without_finishing_the_episode_is_no_failure_at_the_door(
    instance: dg.DagsterInstance, database: Database
) -> None:
    episode = a_series(database)[0]
    create_run_for_test(instance, status=dg.DagsterRunStatus.SUCCESS, tags={PARTITION_TAG: episode.partition_key})
    assert episode.partition_key in requested_keys(tick_production(instance, database))
    assert job_of(database, episode).attempt_count == 0


def test_a_run_that_was_stopped_at_its_work_is_no_failure_at_the_door(
    instance: dg.DagsterInstance, database: Database
) -> None:
    """`moltpipe up` was ended: the process gave the job back as it was, and Dagster calls its run failed."""
    episode = a_series(database)[0]
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags={PARTITION_TAG: episode.partition_key})
    with database.begin() as db:
        release_job(db, claim_job(db, episode.partition_key, run.run_id, LEASE))
    instance.add_run_tags(run.run_id, {CLAIMED_TAG: "yes"})
    instance.report_run_failed(run)
    assert episode.partition_key in requested_keys(tick_production(instance, database))
    job = job_of(database, episode)
    assert (job.attempt_count, job.last_error) == (0, None)


@pytest.mark.usefixtures("_beating_fast")
def test_a_run_that_died_at_making_something_anew_gives_its_completed_job_back(
    instance: dg.DagsterInstance, database: Database
) -> None:
    """Dagster saw the process die, so no run is at work for the reaper to end."""
    episode = a_series(database)[0]
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags={PARTITION_TAG: episode.partition_key})
    with database.begin() as db:
        claim = claim_job(db, episode.partition_key, run.run_id, LEASE)
        mine = production_jobs.c.id == claim.job_id
        db.execute(sa.update(production_jobs).where(mine).values(completed_at=AGO, heartbeat_at=AGO))
    instance.report_run_failed(run)
    tick_production(instance, database)
    with database.begin() as db:
        row = db.execute(sa.select(production_jobs).where(mine)).one()
    assert (row.process_uuid, row.attempt_count, row.completed_at) == (None, 0, AGO)


def test_the_schedule_keeps_one_period_ahead(instance: dg.DagsterInstance, database: Database) -> None:
    for _ in range(2):
        with dg.build_schedule_context(instance=instance, resources={"ledger": database}) as context:
            next_period_schedule(context)
    with database.begin() as db:
        periods = list_periods(db)
    assert len(periods) == 1
    assert periods[0].starts_at > datetime.now(UTC)
    assert instance.get_dynamic_partitions(PERIODS_NAME) == [period_key(periods[0])]


def test_a_tick_of_each_sensor_and_schedule_is_noted(instance: dg.DagsterInstance, database: Database) -> None:
    tick_periods(instance, database)
    with database.begin() as db:
        db.execute(sa.update(watchers).values(ticked_at=sa.func.now() - timedelta(seconds=30)))
    tick_production(instance, database)
    with dg.build_schedule_context(instance=instance, resources={"ledger": database}) as context:
        next_period_schedule(context)
    with database.begin() as db:
        fresh = watchers.c.ticked_at > sa.func.now() - timedelta(seconds=20)
        assert set(db.execute(sa.select(watchers.c.name).where(fresh)).scalars()) == {
            "production_sensor",
            "next_period_schedule",
        }
        assert set(db.execute(sa.select(watchers.c.name)).scalars()) == set(SILENCE)
