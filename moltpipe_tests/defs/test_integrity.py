"""The sensor that looks all the time, on a real instance, a real ledger and a real S3."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa

from moltpipe.definitions import build_definitions
from moltpipe.defs.integrity import REPORT_EVERY, check_integrity, integrity_sensor
from moltpipe.defs.partitions import EPISODES_NAME, PERIODS_NAME
from moltpipe.ledger.checks import CHECKS
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.jobs import complete_job
from moltpipe.ledger.schema import incidents, limited_series, scripts, sweeps, watchers
from moltpipe.store import A_LOOK, Store, connect
from moltpipe_tests.stories import a_claim, a_series

ORPHANS = "selected_scripts_have_series"
OBJECTS = "media_objects_are_there"
KEYS = "partition_keys_follow_the_rule"


@pytest.fixture
def nowhere() -> Store:
    return connect(
        "bucket",
        "http://127.0.0.1:9",
        access_key="a",
        secret_key="b",  # noqa: S106 (nobody's)
        region="us-east-1",
        patience=A_LOOK,
    )


def tick(instance: dg.DagsterInstance, database: Database, store: Store, cursor: str | None = None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, resources={"ledger": database, "store": store}, cursor=cursor)
    answer = integrity_sensor(context)
    assert isinstance(answer, dg.SensorResult)
    return answer


def said(answer: dg.SensorResult) -> str:
    assert answer.skip_reason is not None
    return answer.skip_reason.skip_message or ""


def reported(answer: dg.SensorResult) -> dict[str, dg.AssetCheckEvaluation]:
    found = [event for event in answer.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    assert len(found) == len(answer.asset_events)
    return {one.check_name: one for one in found}


def an_orphan(database: Database) -> None:
    """The incident: a script is selected without a series. The schema refuses that, so its rule goes first."""
    a_series(database)
    with database.begin() as db:
        db.execute(sa.text("ALTER TABLE scripts DROP CONSTRAINT ck_scripts_selected_has_series"))
        db.execute(sa.update(scripts).values(series_id=None))
        db.execute(sa.text("DELETE FROM production_jobs"))
        db.execute(sa.text("DELETE FROM episodes"))
        db.execute(sa.delete(limited_series))


def test_every_check_is_reported_in_the_first_tick(
    instance: dg.DagsterInstance, database: Database, store: Store
) -> None:
    answer = tick(instance, database, store)
    evaluations = reported(answer)
    assert set(evaluations) == {check.name for check in CHECKS}
    assert all(one.passed for one in evaluations.values()), said(answer)
    assert said(answer) == f"{len(CHECKS)} checks; all passed"


def test_partitions_that_dagster_does_not_know_of_are_reported_to_it(
    instance: dg.DagsterInstance, database: Database, store: Store
) -> None:
    episode = a_series(database)[1]
    with database.begin() as db:
        complete_job(db, a_claim(database, episode))
        db.execute(sa.text("UPDATE production_jobs SET completed_at = completed_at - interval '2 minutes'"))
    assert said(tick(instance, database, store)).endswith(
        "Dagster was told of 4 partitions that were made without its knowledge"
    )
    assert instance.get_materialized_partitions(dg.AssetKey("stitched_episode")) == {episode.partition_key}


def test_what_does_not_change_is_not_reported_again_until_ten_minutes_are_over(
    instance: dg.DagsterInstance, database: Database, store: Store
) -> None:
    first = tick(instance, database, store)
    assert reported(tick(instance, database, store, first.cursor)) == {}
    assert first.cursor is not None
    old = {
        name: [state, count, at - REPORT_EVERY.total_seconds()]
        for name, (state, count, at) in json.loads(first.cursor).items()
    }
    assert set(reported(tick(instance, database, store, json.dumps(old)))) == {check.name for check in CHECKS}


def test_what_changes_is_reported_at_once(instance: dg.DagsterInstance, database: Database, store: Store) -> None:
    first = tick(instance, database, store)
    an_orphan(database)
    answer = tick(instance, database, store, first.cursor)
    evaluation = reported(answer)[ORPHANS]
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.ERROR
    assert "moltpipe repair" in (evaluation.description or "")
    assert evaluation.metadata["count"].value == 1
    assert ORPHANS in said(answer)
    assert ORPHANS not in reported(tick(instance, database, store, answer.cursor))


@pytest.mark.parametrize("cursor", ["", "nonsense", "[]", '{"a": 3}', '{"selected_scripts_have_series": ["x"]}'])
def test_a_cursor_that_is_lost_only_repeats_the_reports(
    instance: dg.DagsterInstance, database: Database, store: Store, cursor: str
) -> None:
    assert set(reported(tick(instance, database, store, cursor))) == {check.name for check in CHECKS}


def test_a_check_that_is_gone_leaves_the_cursor(instance: dg.DagsterInstance, database: Database, store: Store) -> None:
    answer = tick(instance, database, store, json.dumps({"a_check_of_yesterday": ["passed", 0, 0]}))
    assert "a_check_of_yesterday" not in json.loads(answer.cursor or "")


def test_what_is_found_becomes_an_incident_and_is_over_when_it_is_gone(
    instance: dg.DagsterInstance, database: Database, store: Store
) -> None:
    an_orphan(database)
    for _ in range(2):
        tick(instance, database, store)
    with database.begin() as db:
        opened = list(db.execute(sa.select(incidents).where(incidents.c.subject == f"check:{ORPHANS}")))
        assert [one.closed_at for one in opened] == [None]
        db.execute(sa.update(scripts).values(pilot_status="rejected"))
    tick(instance, database, store)
    with database.begin() as db:
        (over,) = db.execute(sa.select(incidents).where(incidents.c.subject == f"check:{ORPHANS}"))
    assert over.closed_at is not None


def test_an_s3_that_is_away_leaves_only_its_own_checks_without_an_answer(
    instance: dg.DagsterInstance, database: Database, nowhere: Store
) -> None:
    an_orphan(database)
    answer = tick(instance, database, nowhere)
    evaluations = reported(answer)
    assert not evaluations[ORPHANS].passed
    unknown = evaluations[OBJECTS]
    assert not unknown.passed
    assert unknown.severity is dg.AssetCheckSeverity.WARN
    assert (unknown.description or "").startswith("Could not check, so nobody knows: ")
    assert "could not list" in str(unknown.metadata["could_not_check"].value)
    assert "count" not in unknown.metadata
    assert evaluations["processed_periods_are_over"].passed
    assert "the sweep along S3 stands still" in said(answer)


def test_a_ledger_that_is_away_fails_the_tick(instance: dg.DagsterInstance, store: Store) -> None:
    with pytest.raises(DatabaseUnavailable):
        tick(instance, Database("postgresql://nobody@127.0.0.1:1/nothing"), store)


def test_a_partition_key_that_somebody_typed_is_found_and_gone_when_it_is_deleted(
    instance: dg.DagsterInstance, database: Database, store: Store
) -> None:
    episodes = a_series(database)
    instance.add_dynamic_partitions(EPISODES_NAME, [*(one.partition_key for one in episodes), "a typo, or two"])
    instance.add_dynamic_partitions(PERIODS_NAME, ["20260209-0000z-00000000"])
    evaluation = reported(tick(instance, database, store))[KEYS]
    assert not evaluation.passed
    assert evaluation.metadata["count"].value == 2
    instance.delete_dynamic_partition(EPISODES_NAME, "a typo, or two")
    instance.delete_dynamic_partition(PERIODS_NAME, "20260209-0000z-00000000")
    # As after its rest, which on a busy machine is longer than the time between these two ticks.
    with database.begin() as db:
        db.execute(sa.update(sweeps).values(began_at=sweeps.c.completed_at))
    assert reported(tick(instance, database, store))[KEYS].passed


def test_two_daemons_open_one_incident(instance: dg.DagsterInstance, database: Database, store: Store) -> None:
    an_orphan(database)
    context = [
        dg.build_sensor_context(instance=instance, resources={"ledger": database, "store": store}) for _ in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(integrity_sensor, context))
    with database.begin() as db:
        subjects = list(db.execute(sa.select(incidents.c.subject).where(incidents.c.closed_at.is_(None))).scalars())
    assert subjects.count(f"check:{ORPHANS}") == 1


def test_a_tick_is_noted(instance: dg.DagsterInstance, database: Database, store: Store) -> None:
    tick(instance, database, store)
    with database.begin() as db:
        ticked_at = db.execute(
            sa.select(watchers.c.ticked_at).where(watchers.c.name == "integrity_sensor")
        ).scalar_one()
    assert abs(datetime.now(UTC) - ticked_at) < timedelta(minutes=1)


def test_every_check_can_be_run_as_a_run_of_its_own(
    instance: dg.DagsterInstance, database: Database, store: Store
) -> None:
    job = build_definitions({"ledger": database, "store": store}).resolve_job_def(check_integrity.name)
    done = job.execute_in_process(instance=instance)
    assert done.success
    evaluations = {one.check_name: one.passed for one in done.get_asset_check_evaluations()}
    assert evaluations == {check.name: True for check in CHECKS}
