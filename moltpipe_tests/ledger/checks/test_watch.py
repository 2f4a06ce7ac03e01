from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.watch import PARTITION_KEYS_FOLLOW_THE_RULE, SENSORS_AND_SCHEDULES_TICK
from moltpipe.ledger.watching import SILENCE, ticked
from moltpipe_tests.ledger.beginnings import one, series
from moltpipe_tests.ledger.checks.damage import failed, first_columns, look, only_finding, sql

LONG_AGO = "UPDATE watchers SET ticked_at = clock_timestamp() - interval '1 day'"


def test_nobody_ever_ticked_where_no_daemon_ever_ran(transaction: Connection) -> None:
    assert failed(transaction) == []


@pytest.mark.parametrize("name", sorted(SILENCE))
def test_who_falls_silent_while_others_tick_is_found(transaction: Connection, name: str) -> None:
    db = transaction
    ticked(db, "period_sensor")
    sql(db, "UPDATE watchers SET ticked_at = clock_timestamp() - :silence WHERE name = :name",
        silence=SILENCE[name] - timedelta(seconds=5), name=name)  # fmt: skip
    assert failed(db) == []
    sql(db, "UPDATE watchers SET ticked_at = clock_timestamp() - :silence WHERE name = :name",
        silence=SILENCE[name] + timedelta(seconds=1), name=name)  # fmt: skip
    finding = only_finding(db, SENSORS_AND_SCHEDULES_TICK)
    silent_since = one(db, "SELECT ticked_at FROM watchers WHERE name = :name", name=name)
    assert first_columns(finding, 2) == [(name, silent_since.isoformat())]
    assert finding.since == silent_since


def test_a_studio_without_daemon_passes(transaction: Connection) -> None:
    db = transaction
    ticked(db, "period_sensor")
    sql(db, LONG_AGO)
    assert failed(db) == []


def test_a_daemon_that_comes_up_after_a_night_finds_nobody_silent(transaction: Connection) -> None:
    db = transaction
    ticked(db, "period_sensor")
    sql(db, LONG_AGO)
    ticked(db, "integrity_sensor")
    assert failed(db) == []


def test_a_watcher_of_another_version_is_not_missed(transaction: Connection) -> None:
    db = transaction
    ticked(db, "period_sensor")
    sql(db, "INSERT INTO watchers VALUES ('integrity_schedule', '2026-01-01')")
    assert failed(db) == []


def test_a_key_of_dagster_that_nothing_in_the_ledger_has_is_found(transaction: Connection) -> None:
    db = transaction
    since = datetime(2026, 3, 2, 12, tzinfo=UTC)
    sql(
        db,
        "INSERT INTO observations VALUES ('partition_keys_follow_the_rule', :key, :detail, :at)",
        key="moltpipe_episodes/Öl, Teil 1",
        detail='{"partition_key": "Öl, Teil 1", "definition": "moltpipe_episodes", "what": "not a key"}',
        at=since,
    )
    finding = only_finding(db, PARTITION_KEYS_FOLLOW_THE_RULE)
    assert first_columns(finding, 3) == [("Öl, Teil 1", "moltpipe_episodes", "not a key")]
    assert finding.since == since


def test_a_key_in_the_ledger_that_breaks_the_rule_is_found(transaction: Connection) -> None:
    db = transaction
    series(db)
    sql(db, "ALTER TABLE episodes DROP CONSTRAINT ck_episodes_partition_key")
    sql(db, "UPDATE episodes SET partition_key = 'Pilot, first cut' WHERE episode_number = 1")
    finding = only_finding(db, PARTITION_KEYS_FOLLOW_THE_RULE)
    assert first_columns(finding, 2) == [("Pilot, first cut", "episodes")]
    assert "breaks the rule" in str(finding.rows[0]["what"])


def test_a_look_at_dagsters_keys_that_cannot_go_on_says_so(transaction: Connection) -> None:
    sql(transaction, "INSERT INTO sweeps (name, error) VALUES ('partition_keys', 'no instance')")
    (finding,) = (one for one in look(transaction) if not one.passed)
    assert finding.name == PARTITION_KEYS_FOLLOW_THE_RULE.name
    assert "no instance" in str(finding.could_not_check)
