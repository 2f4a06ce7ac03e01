"""Dagster's catalog follows the ledger, whoever wrote there and whoever died before he could tell."""

import dagster as dg
import pytest
import sqlalchemy as sa

from moltpipe.defs import catalog
from moltpipe.defs.catalog import complete_catalog
from moltpipe.defs.partitions import EPISODES, EPISODES_NAME
from moltpipe.defs.voting import period_sensor
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import complete_job
from moltpipe.ledger.series import all_episodes
from moltpipe.studio.keys import period_key
from moltpipe.studio.records import Episode
from moltpipe_tests.stories import a_claim, a_pilot_that_is_out, a_series, closed_vote

STAGES = ("episode_script", "voiceover", "clips", "stitched_episode")


def tick(instance: dg.DagsterInstance, database: Database) -> str:
    answer = period_sensor(dg.build_sensor_context(instance=instance, resources={"ledger": database}))
    assert isinstance(answer, dg.SkipReason)
    return answer.skip_message or ""


def finished(database: Database, episode: Episode, ago: str) -> None:
    with database.begin() as db:
        complete_job(db, a_claim(database, episode))
    shift(database, "production_jobs", "completed_at", ago)


def shift(database: Database, table: str, column: str, ago: str) -> None:
    with database.begin() as db:
        db.execute(sa.text(f"UPDATE {table} SET {column} = {column} - CAST(:ago AS interval)"), {"ago": ago})  # noqa: S608 (constants)


def let_the_look_come_again(database: Database) -> None:
    with database.begin() as db:
        db.execute(sa.text("DELETE FROM sweeps"))


def status(instance: dg.DagsterInstance, asset: str, partition_key: str) -> str | None:
    """What the UI shows of a partition."""
    found = (instance.get_status_by_partition(dg.AssetKey(asset), [partition_key], EPISODES) or {})[partition_key]
    return None if found is None else found.value


@dg.asset(name="stitched_episode", partitions_def=EPISODES)
def dies() -> None:
    """In place of a run that is killed when it has published, and before it can report."""
    raise ProcessLookupError


def test_a_published_episode_whose_run_died_before_it_could_report_is_materialized(
    instance: dg.DagsterInstance, database: Database
) -> None:
    pilot, _ = a_pilot_that_is_out(database)
    finished(database, pilot, "2 minutes")
    instance.add_dynamic_partitions(EPISODES_NAME, [pilot.partition_key])
    dg.materialize([dies], partition_key=pilot.partition_key, instance=instance, raise_on_error=False)
    assert status(instance, "stitched_episode", pilot.partition_key) == "FAILED"

    assert complete_catalog(instance, database) == len(STAGES)
    for stage in STAGES:
        assert status(instance, stage, pilot.partition_key) == "MATERIALIZED"
    let_the_look_come_again(database)
    assert complete_catalog(instance, database) == 0


def test_what_its_own_run_is_about_to_report_is_left_to_it(instance: dg.DagsterInstance, database: Database) -> None:
    again, _ = a_pilot_that_is_out(database)
    finished(database, again, "2 minutes")
    a_claim(database, again)
    made, _ = a_pilot_that_is_out(database, 1)
    with database.begin() as db:
        complete_job(db, a_claim(database, made))
    assert complete_catalog(instance, database) == 0


def test_an_episode_that_is_not_finished_is_none_of_it(instance: dg.DagsterInstance, database: Database) -> None:
    a_series(database)
    assert complete_catalog(instance, database) == 0


def test_a_catalog_that_was_lost_is_written_again_part_by_part(
    instance: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "EVENTS_PER_TICK", 8)
    period = closed_vote(database)
    tick(instance, database)
    shift(database, "voting_periods", "told_at", "2 minutes")
    with database.begin() as db:
        episodes = all_episodes(db)
    for episode in episodes:
        finished(database, episode, "2 minutes")

    with dg.instance_for_test() as fresh:
        assert [complete_catalog(fresh, database) for _ in range(4)] == [8, 8, 5, 0]
        assert fresh.get_materialized_partitions(dg.AssetKey("voting_outcome")) == {period_key(period)}
        for stage in STAGES:
            made = fresh.get_materialized_partitions(dg.AssetKey(stage))
            assert made == {one.partition_key for one in episodes}
        assert set(fresh.get_dynamic_partitions(EPISODES_NAME)) == {one.partition_key for one in episodes}
