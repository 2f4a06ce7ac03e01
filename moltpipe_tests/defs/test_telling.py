"""Whoever closed a vote, and whoever died before he could tell of it: Dagster is told of its outcome."""

from datetime import UTC, datetime

import dagster as dg
import pytest
import sqlalchemy as sa

from moltpipe.defs.partitions import PERIODS_NAME
from moltpipe.defs.voting import period_sensor, voting_outcome
from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import close_period, voting_settings
from moltpipe.ledger.schema import voting_periods
from moltpipe.studio.keys import period_key
from moltpipe.studio.records import Period
from moltpipe_tests.stories import closed_vote


def tick(instance: dg.DagsterInstance, database: Database) -> str:
    answer = period_sensor(dg.build_sensor_context(instance=instance, resources={"ledger": database}))
    assert isinstance(answer, dg.SkipReason)
    return answer.skip_message or ""


def close_elsewhere(database: Database, period: Period) -> None:
    """As `moltpipe period close` does, a repair, or a tick that is killed before it has told of it."""
    with database.begin() as db:
        close_period(db, period.id, voting_settings(db).rules, datetime.now(UTC))


def outcomes(instance: dg.DagsterInstance) -> list[dg.AssetMaterialization]:
    found = instance.fetch_materializations(dg.AssetKey("voting_outcome"), limit=100, ascending=True).records
    return [one.asset_materialization for one in found if one.asset_materialization is not None]


def test_a_vote_on_scripts_that_somebody_else_closed_is_told_of_once(
    instance: dg.DagsterInstance, database: Database
) -> None:
    period = closed_vote(database)
    close_elsewhere(database, period)
    assert "selected: “The Buoy That Answered”" in tick(instance, database)
    assert tick(instance, database) == "no voting period is over"
    (told,) = outcomes(instance)
    assert told.partition == period_key(period)
    assert told.metadata["winners"].value == 1
    assert instance.get_dynamic_partitions(PERIODS_NAME) == [period_key(period)]


def test_a_vote_that_is_closed_by_materializing_its_partition_is_told_of_by_that_alone(
    instance: dg.DagsterInstance, database: Database
) -> None:
    period = closed_vote(database)
    instance.add_dynamic_partitions(PERIODS_NAME, [period_key(period)])
    dg.materialize(
        [voting_outcome], partition_key=period_key(period), instance=instance, resources={"ledger": database}
    )
    tick(instance, database)
    assert len(outcomes(instance)) == 1


def test_an_adopted_outcome_that_breaks_a_rule_is_shown_by_materializing_its_partition(
    instance: dg.DagsterInstance, database: Database
) -> None:
    period = closed_vote(database)
    close_elsewhere(database, period)
    rule = "ck_voting_periods_processed_when_over"
    with database.begin() as db:
        kept = sa.text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :rule")
        definition = db.execute(kept, {"rule": rule}).scalar_one()
        db.execute(sa.text(f"ALTER TABLE voting_periods DROP CONSTRAINT {rule}"))
        db.execute(sa.text("UPDATE voting_periods SET processed_at = ends_at - interval '1 week'"))
        db.execute(sa.text(f"ALTER TABLE voting_periods ADD CONSTRAINT {rule} {definition} NOT VALID"))
    instance.add_dynamic_partitions(PERIODS_NAME, [period_key(period)])
    dg.materialize(
        [voting_outcome], partition_key=period_key(period), instance=instance, resources={"ledger": database}
    )
    assert [one.metadata["winners"].value for one in outcomes(instance)] == [1]


def test_a_vote_that_a_repair_closes_again_is_told_of_again(instance: dg.DagsterInstance, database: Database) -> None:
    period = closed_vote(database)
    tick(instance, database)
    with database.begin() as db:
        unmarked = {"is_processed": False, "processed_at": None, "outcome": sa.null()}
        db.execute(sa.update(voting_periods).values(unmarked))
    close_elsewhere(database, period)
    tick(instance, database)
    assert [one.partition for one in outcomes(instance)] == [period_key(period)] * 2


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("outcome = NULL", id="no outcome"),
        pytest.param("outcome = '{}'", id="an outcome written by hand"),
        pytest.param("processed_at = ends_at - interval '1 week', closed_early_reason = NULL", id="a week early"),
    ],
)
def test_what_is_no_result_is_not_told_of_and_fails_no_tick(
    instance: dg.DagsterInstance, database: Database, damage: str
) -> None:
    """Adopted as it was, under constraints that hold for new rows only: it cannot even be noted that it was told of."""
    close_elsewhere(database, closed_vote(database))
    with database.begin() as db:
        for name in ("processed_when_over", "processed_with_outcome"):
            db.execute(sa.text(f"ALTER TABLE voting_periods DROP CONSTRAINT ck_voting_periods_{name}"))
        db.execute(sa.text(f"UPDATE voting_periods SET {damage}"))  # noqa: S608 (a constant)
    assert tick(instance, database) == "no voting period is over"
    assert outcomes(instance) == []
