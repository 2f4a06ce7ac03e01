"""The vote on variants in the sensor's tick, on a real instance and a real ledger."""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import dagster as dg
import pytest
import sqlalchemy as sa

from moltpipe.defs.dispatch import production_sensor
from moltpipe.defs.partitions import EPISODES_NAME
from moltpipe.defs.voting import VotesNotClosed, next_period_schedule, period_sensor
from moltpipe.ledger.audience import cast_clip_vote, clip_vote_of, close_clip_vote, outcome_of, served
from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import create_period, list_periods, open_due_periods, unprocessed_periods
from moltpipe.ledger.production import load_production
from moltpipe.ledger.telling import untold_periods
from moltpipe.studio.records import Episode, Variant
from moltpipe_tests.ledger.beginnings import await_a_waiter
from moltpipe_tests.stories import a_pilot_that_is_out


def tick(instance: dg.DagsterInstance, database: Database) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(instance=instance, resources={"ledger": database})
    answer = period_sensor(context)
    assert isinstance(answer, dg.SensorResult | dg.SkipReason)
    return answer


def over(database: Database, number: int = 0) -> tuple[Episode, list[Variant]]:
    """A pilot, the vote on whose variants ended a second ago, with a vote for the second one."""
    pilot, variants = a_pilot_that_is_out(database, number)
    with database.begin() as db:
        period = clip_vote_of(db, pilot.id)
        assert period is not None
        cast_clip_vote(db, variants[1].id, "agent:orbit", period.starts_at)
        db.execute(
            sa.text(
                "UPDATE voting_periods SET starts_at = now() - interval '2 days', "
                "ends_at = now() - interval '1 second' WHERE id = :id"
            ),
            {"id": period.id},
        )
    return pilot, variants


def lose_variants(database: Database, episode_id: UUID) -> None:
    with database.begin() as db:
        for table in ("clip_votes", "clip_variants"):
            db.execute(sa.text(f"DELETE FROM {table} WHERE episode_id = :id"), {"id": episode_id})  # noqa: S608 (constants)


def observations(instance: dg.DagsterInstance, asset: str) -> list[dg.AssetObservation]:
    """What was observed of an asset, the oldest first."""
    found = instance.fetch_observations(dg.AssetKey(asset), limit=100, ascending=True).records
    observed = [record.asset_observation for record in found]
    return [one for one in observed if one is not None]


def records(value: object) -> list[Mapping[str, object]]:
    assert isinstance(value, dg.TableMetadataValue)
    return [record.data for record in value.records]


def test_a_vote_on_variants_that_is_over_is_closed_in_the_tick(
    instance: dg.DagsterInstance, database: Database
) -> None:
    pilot, _ = over(database)
    answer = tick(instance, database)
    assert isinstance(answer, dg.SkipReason)
    assert f"variant 2 of {pilot.partition_key} is selected" in (answer.skip_message or "")
    with database.begin() as db:
        outcome = outcome_of(db, pilot.id)
        production = load_production(db, pilot.partition_key)
    assert outcome is not None
    assert [number for number, one in production.variants.items() if one.is_selected] == [2]
    assert instance.get_runs_count() == 0
    # It is no partition: no run closes it.
    assert instance.get_dynamic_partitions(EPISODES_NAME) == []


def test_the_tally_and_what_is_served_are_shown_once(instance: dg.DagsterInstance, database: Database) -> None:
    pilot, variants = over(database)
    for _ in range(2):
        tick(instance, database)
    (of_pilot,) = observations(instance, "stitched_episode")
    assert of_pilot.partition == pilot.partition_key
    assert of_pilot.metadata["selected"].value == variants[1].video.key
    assert of_pilot.metadata["votes"].value == 1
    assert records(of_pilot.metadata["audience_vote"]) == [
        {"rank": 1, "variant": 2, "votes": 1, "selected": True},
        {"rank": 2, "variant": 1, "votes": 0, "selected": False},
        {"rank": 3, "variant": 3, "votes": 0, "selected": False},
        {"rank": 4, "variant": 4, "votes": 0, "selected": False},
    ]
    (of_series,) = observations(instance, "limited_series")
    (serves,) = records(of_series.metadata["serves"])
    assert (serves["episode"], serves["variant"], serves["video"]) == (1, 2, variants[1].video.key)


def test_the_selected_variant_is_a_link_where_media_have_an_address(
    instance: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLTPIPE_MEDIA_URL", "https://media.example/")
    _, variants = over(database)
    tick(instance, database)
    (seen,) = observations(instance, "stitched_episode")
    assert seen.metadata["selected"] == dg.MetadataValue.url(f"https://media.example/{variants[1].video.key}")


def test_a_vote_that_is_on_is_left_alone(instance: dg.DagsterInstance, database: Database) -> None:
    pilot, _ = a_pilot_that_is_out(database)
    assert isinstance(tick(instance, database), dg.SkipReason)
    with database.begin() as db:
        assert outcome_of(db, pilot.id) is None


def test_one_that_cannot_be_closed_keeps_none_from_closing_and_fails_the_tick(
    instance: dg.DagsterInstance, database: Database
) -> None:
    pilots = [over(database, number)[0] for number in range(3)]
    lose_variants(database, pilots[1].id)
    for _ in range(2):
        with pytest.raises(VotesNotClosed, match=pilots[1].partition_key):
            tick(instance, database)
    with database.begin() as db:
        closed = [outcome_of(db, pilot.id) is not None for pilot in pilots]
    assert closed == [True, False, True]
    assert len(observations(instance, "stitched_episode")) == 2


def test_one_that_cannot_be_closed_does_not_hold_up_a_vote_on_scripts(
    instance: dg.DagsterInstance, database: Database
) -> None:
    pilot, _ = over(database)
    lose_variants(database, pilot.id)
    now = datetime.now(UTC)
    with database.begin() as db:
        scripts = create_period(db, "agent_voting", now - timedelta(hours=2), now - timedelta(hours=1))
    with pytest.raises(VotesNotClosed, match=pilot.partition_key):
        tick(instance, database)
    with database.begin() as db:
        assert [one.id for one in list_periods(db) if one.is_processed] == [scripts.id]


def test_one_that_cannot_be_closed_keeps_no_episode_from_its_run(
    instance: dg.DagsterInstance, database: Database
) -> None:
    pilot, _ = over(database)
    lose_variants(database, pilot.id)
    context = dg.build_sensor_context(instance=instance, resources={"ledger": database})
    answer = production_sensor(context)
    assert isinstance(answer, dg.SensorResult)
    assert len(answer.run_requests or []) == 4


def test_two_daemons_close_a_vote_once_and_tell_of_it_once(instance: dg.DagsterInstance, database: Database) -> None:
    pilot, _ = over(database)
    together = threading.Barrier(2)

    def tick_at_once(_: int) -> object:
        together.wait()
        return tick(instance, database)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(tick_at_once, range(2)))
    assert len(observations(instance, "stitched_episode")) == 1
    with database.begin() as db:
        assert len(served(db, pilot.series_id)) == 1


def test_a_vote_that_somebody_else_closes_meanwhile_is_told_of_by_who_sees_it(
    instance: dg.DagsterInstance, database: Database
) -> None:
    pilot, _ = over(database)
    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            period = clip_vote_of(db, pilot.id)
            assert period is not None
            close_clip_vote(db, period.id, datetime.now(UTC))
            ticking = pool.submit(tick, instance, database)
            await_a_waiter(db)
        assert isinstance(ticking.result(), dg.SkipReason)
    assert len(observations(instance, "stitched_episode")) == 1


def test_ten_thousand_periods_of_the_past_cost_a_tick_nothing(instance: dg.DagsterInstance, database: Database) -> None:
    """Each has an outcome as long as one of thirty scripts.

    Measured in what is read and computed, not by the clock: the machine may have other things to do.
    """
    with database.begin() as db:
        db.execute(
            sa.text(
                "WITH long AS MATERIALIZED ("
                "  SELECT jsonb_agg(md5(n::text)) AS outcome FROM generate_series(1, 200) AS n"
                ") "
                "INSERT INTO voting_periods "
                "(period_type, starts_at, ends_at, is_processed, processed_at, told_at, outcome) "
                "SELECT 'agent_voting', t, t + interval '1 hour', true, t + interval '1 hour', now(), long.outcome "
                "FROM long, "
                "generate_series(now() - interval '10002 hours', now() - interval '3 hours', interval '1 hour') AS t"
            )
        )
        assert len(list_periods(db)) == 10_000
    with database.begin() as db:
        db.execute(sa.text("ANALYZE voting_periods"))
        assert unprocessed_periods(db) == untold_periods(db) == open_due_periods(db, datetime.now(UTC)) == []
        looked_at = sa.text(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'voting_periods'"
        )
        assert db.execute(looked_at).scalar_one() == 0
    over(database)
    began = time.process_time()
    tick(instance, database)
    with dg.build_schedule_context(instance=instance, resources={"ledger": database}) as context:
        next_period_schedule(context)
    assert time.process_time() - began < 1


def test_both_note_that_they_have_looked(instance: dg.DagsterInstance, database: Database) -> None:
    tick(instance, database)
    with dg.build_schedule_context(instance=instance, resources={"ledger": database}) as context:
        next_period_schedule(context)
    with database.begin() as db:
        ticked = {row.name: row.ticked_at for row in db.execute(sa.text("SELECT name, ticked_at FROM watchers"))}
    for name in ("period_sensor", "next_period_schedule"):
        assert datetime.now(UTC) - ticked[name] < timedelta(minutes=1)
