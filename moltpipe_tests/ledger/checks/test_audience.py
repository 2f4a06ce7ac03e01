from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.audience import PILOTS_HAVE_THEIR_CLIP_VOTE, PUBLISHED_EPISODES_HAVE_A_SELECTED_VARIANT
from moltpipe_tests.ledger.beginnings import one, series
from moltpipe_tests.ledger.checks.damage import failed, first_columns, only_finding, publish, published, sql

NONE_SELECTED = "UPDATE clip_variants SET is_selected = false WHERE episode_id = :id"


def _completed_at(db: Connection, episode_id: UUID) -> datetime:
    moment: datetime = one(db, "SELECT completed_at FROM production_jobs WHERE episode_id = :id", id=episode_id)
    return moment


def test_a_pilot_whose_vote_was_never_opened_is_found(transaction: Connection) -> None:
    db = transaction
    pilot = series(db)[0]
    publish(db, pilot)
    assert failed(db) == []
    sql(db, "DELETE FROM voting_periods WHERE period_type = 'clip_voting'")
    finding = only_finding(db, PILOTS_HAVE_THEIR_CLIP_VOTE)
    assert first_columns(finding, 2) == [(str(pilot.id), pilot.partition_key)]
    assert finding.since == _completed_at(db, pilot.id)
    sql(db, "UPDATE clip_variants SET is_selected = true WHERE variant_number = 3")
    assert failed(db) == [], "another tool has selected one, and there is nothing to vote on"


def test_an_episode_with_one_variant_of_which_none_is_selected_is_found(transaction: Connection) -> None:
    db = transaction
    second = series(db)[1]
    publish(db, second)
    assert failed(db) == []
    sql(db, NONE_SELECTED, id=second.id)
    finding = only_finding(db, PUBLISHED_EPISODES_HAVE_A_SELECTED_VARIANT)
    assert first_columns(finding, 2) == [(str(second.id), second.partition_key)]
    assert finding.since == _completed_at(db, second.id)


def test_the_pilot_of_an_audio_series_has_one_variant_and_no_vote(transaction: Connection) -> None:
    db = transaction
    pilot = series(db)[0]
    publish(db, pilot)
    sql(db, "UPDATE limited_series SET medium = 'audio'")
    sql(db, "DELETE FROM voting_periods WHERE period_type = 'clip_voting'")
    assert first_columns(only_finding(db, PUBLISHED_EPISODES_HAVE_A_SELECTED_VARIANT), 1) == [(str(pilot.id),)]


def test_a_vote_that_is_over_and_selected_nothing_is_found(transaction: Connection) -> None:
    db = transaction
    pilot = published(db)[0]
    assert failed(db) == []
    sql(db, NONE_SELECTED, id=pilot.id)
    finding = only_finding(db, PUBLISHED_EPISODES_HAVE_A_SELECTED_VARIANT)
    vote = db.execute(sa.text("SELECT id, processed_at FROM voting_periods WHERE period_type = 'clip_voting'")).one()
    assert first_columns(finding, 2) == [(str(pilot.id), pilot.partition_key)]
    assert (finding.rows[0]["period_id"], finding.since) == (str(vote.id), vote.processed_at)
