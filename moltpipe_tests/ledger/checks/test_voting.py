from __future__ import annotations

import json
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.voting import (
    AGENT_PERIODS_DO_NOT_OVERLAP,
    DUE_PERIODS_ARE_CLOSED,
    DUE_PERIODS_ARE_OPEN,
    OUTCOMES_AGREE_WITH_SCRIPTS,
    PROCESSED_PERIODS_ARE_OVER,
    PROCESSED_PERIODS_HAVE_OUTCOME,
)
from moltpipe.ledger.periods import create_period
from moltpipe.studio.records import Period
from moltpipe_tests.ledger.beginnings import filed, one, series
from moltpipe_tests.ledger.checks.damage import HOUR, failed, first_columns, now, only_finding, sql

EARLY = "ALTER TABLE voting_periods DROP CONSTRAINT ck_voting_periods_processed_when_over"
NO_OUTCOME = "ALTER TABLE voting_periods DROP CONSTRAINT ck_voting_periods_processed_with_outcome"


def _period(db: Connection, begins_in: timedelta, lasts: timedelta = HOUR) -> Period:
    starts_at = now() + begins_in
    return create_period(db, "agent_voting", starts_at, starts_at + lasts)


@pytest.mark.parametrize("processed_at", ["ends_at - interval '3 days'", "NULL"])
def test_a_period_that_was_processed_before_its_end_is_found(transaction: Connection, processed_at: str) -> None:
    """The incident: 9 to 16 February, processed on the 6th."""
    db = transaction
    period = _period(db, timedelta(days=2))
    sql(db, EARLY)
    sql(db, "UPDATE voting_periods SET is_processed = true, outcome = '{}', processed_at = " + processed_at)  # noqa: S608 - from the list above
    finding = only_finding(db, PROCESSED_PERIODS_ARE_OVER)
    when = one(db, "SELECT processed_at FROM voting_periods")
    row = (period.id, "agent_voting", period.starts_at, period.ends_at, when)
    assert first_columns(finding, 5) == [
        tuple(part.isoformat() if hasattr(part, "isoformat") else None if part is None else str(part) for part in row)
    ]
    assert finding.since == when
    assert "moltpipe repair" in finding.remedy
    sql(db, "UPDATE voting_periods SET closed_early_reason = 'the studio closed'")
    assert failed(db) == []


def test_a_period_whose_end_is_yet_to_come_is_found_whatever_its_mark_says(transaction: Connection) -> None:
    """No constraint forbids it: the mark names the end of the period as the time at which it was made."""
    db = transaction
    period = _period(db, timedelta(days=2))
    sql(db, "UPDATE voting_periods SET is_processed = true, outcome = '{}', processed_at = ends_at")
    finding = only_finding(db, PROCESSED_PERIODS_ARE_OVER)
    assert first_columns(finding, 1) == [(str(period.id),)]
    assert finding.since is None
    assert failed(db, now=period.ends_at - timedelta(seconds=59)) == [], "the clocks of two machines differ"
    sql(db, "UPDATE voting_periods SET closed_early_reason = 'the studio closed'")
    assert failed(db) == []


def test_a_period_that_is_over_and_open_is_found_after_a_minute(transaction: Connection) -> None:
    db = transaction
    period = _period(db, -2 * HOUR)
    assert failed(db, now=period.ends_at + timedelta(seconds=59)) == []
    finding = only_finding(db, DUE_PERIODS_ARE_CLOSED)
    assert first_columns(finding, 3) == [(str(period.id), "agent_voting", period.ends_at.isoformat())]
    assert finding.since == period.ends_at


def test_a_second_vote_that_is_over_and_open_is_found_as_well(transaction: Connection) -> None:
    db = transaction
    pilot = series(db)[0]
    period = create_period(db, "clip_voting", now() - 2 * HOUR, now() - HOUR, episode_id=pilot.id)
    finding = only_finding(db, DUE_PERIODS_ARE_CLOSED)
    assert first_columns(finding, 2) == [(str(period.id), "clip_voting")]


def test_a_period_that_has_begun_is_found_once_scripts_wait_for_it(transaction: Connection) -> None:
    db = transaction
    period = _period(db, -HOUR, 2 * HOUR)
    assert failed(db) == []
    for title in ("The First", "The Second"):
        filed(db, title, now=period.starts_at)
    finding = only_finding(db, DUE_PERIODS_ARE_OPEN)
    assert first_columns(finding, 3) == [(str(period.id), period.starts_at.isoformat(), 2)]
    assert finding.since == period.starts_at
    sql(db, "UPDATE scripts SET submitted_at = now() - interval '10 seconds'")
    assert failed(db) == [], "the first scripts came just now"


def test_periods_that_overlap_are_named_both(transaction: Connection) -> None:
    db = transaction
    sql(db, "ALTER TABLE voting_periods DROP CONSTRAINT ex_voting_periods_no_overlap")
    long = _period(db, HOUR, 8 * HOUR)
    _period(db, 20 * HOUR)
    assert failed(db) == []
    inside, last = _period(db, 2 * HOUR), _period(db, 8 * HOUR, 2 * HOUR)
    finding = only_finding(db, AGENT_PERIODS_DO_NOT_OVERLAP)
    assert first_columns(finding, 2) == [(str(inside.id), str(long.id)), (str(last.id), str(long.id))]
    assert finding.since == inside.starts_at
    assert "moltpipe period close" in finding.remedy


def test_periods_one_after_the_other_do_not_overlap(transaction: Connection) -> None:
    db = transaction
    first = _period(db, HOUR)
    create_period(db, "agent_voting", first.ends_at, first.ends_at + HOUR)
    assert failed(db) == []


@pytest.mark.parametrize("outcome", ["NULL", "'null'", "'\"won\"'"])
def test_a_processed_period_without_outcome_is_found(transaction: Connection, outcome: str) -> None:
    db = transaction
    period = _period(db, -2 * HOUR)
    sql(db, NO_OUTCOME)
    sql(db, "UPDATE voting_periods SET is_processed = true, processed_at = ends_at, outcome = " + outcome)  # noqa: S608 - as above
    finding = only_finding(db, PROCESSED_PERIODS_HAVE_OUTCOME)
    assert first_columns(finding, 3) == [(str(period.id), "agent_voting", period.ends_at.isoformat())]
    assert finding.since == period.ends_at


def test_a_winner_on_record_that_is_not_selected_is_found(transaction: Connection) -> None:
    db = transaction
    series(db)
    sql(db, "UPDATE scripts SET pilot_status = 'rejected'")
    finding = only_finding(db, OUTCOMES_AGREE_WITH_SCRIPTS)
    script = db.execute(sa.text("SELECT id, title, voting_period_id, pilot_status FROM scripts")).one()
    assert first_columns(finding, 4) == [(str(script.id), script.title, str(script.voting_period_id), "rejected")]
    assert "not selected" in str(finding.rows[0]["what"])
    assert finding.since == one(db, "SELECT processed_at FROM voting_periods")


def test_a_winner_that_is_no_script_is_found(transaction: Connection) -> None:
    db = transaction
    series(db)
    nobody, nonsense = str(uuid4()), "the best one"
    winners = json.dumps([{"script_id": nobody}, {"script_id": nonsense}])
    sql(
        db, "UPDATE voting_periods SET outcome = outcome || jsonb_build_object('winners', cast(:w AS jsonb))", w=winners
    )
    finding = only_finding(db, OUTCOMES_AGREE_WITH_SCRIPTS)
    assert {row["script_id"] for row in finding.rows} == {nobody, nonsense}
    assert {row["what"] for row in finding.rows} == {"the outcome names it as a winner, and there is no such script"}


def test_a_script_that_is_still_voting_in_a_closed_period_is_found(transaction: Connection) -> None:
    db = transaction
    series(db)
    left = filed(db, "The One Left Behind").script_id
    period: UUID = one(db, "SELECT id FROM voting_periods")
    sql(
        db,
        "UPDATE scripts SET pilot_status = 'voting', voting_period_id = :period WHERE id = :id",
        period=period,
        id=left,
    )
    finding = only_finding(db, OUTCOMES_AGREE_WITH_SCRIPTS)
    assert first_columns(finding, 4) == [(str(left), "The One Left Behind", str(period), "voting")]
    assert "nothing was decided" in str(finding.rows[0]["what"])
