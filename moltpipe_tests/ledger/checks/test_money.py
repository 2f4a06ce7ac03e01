from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy.engine import Connection

from moltpipe.ledger import calls
from moltpipe.ledger.checks.finding import Severity
from moltpipe.ledger.checks.money import (
    AMBIGUOUS_CALLS_ARE_DECIDED,
    PAID_CALLS_ARE_NOT_FORGOTTEN,
    SPEND_IS_BELOW_ITS_CAPS,
)
from moltpipe.ledger.jobs import claim_job, fail_job, release_job
from moltpipe.ledger.spending import Caps
from moltpipe.studio.records import Episode
from moltpipe_tests.ledger.beginnings import LEASE, intent, one, series, submitted
from moltpipe_tests.ledger.checks.damage import HOUR, ago, failed, first_columns, now, only_finding, publish, sql


@pytest.fixture
def episode(transaction: Connection) -> Episode:
    return series(transaction)[1]


def test_a_call_that_a_person_must_decide_about_is_found(transaction: Connection, episode: Episode) -> None:
    db = transaction
    call = calls.claim_call(db, intent(episode_id=episode.id))
    calls.mark_submitting(db, call.id)
    left_at = calls.mark_ambiguous(db, call.id, "no answer").left_at
    finding = only_finding(db, AMBIGUOUS_CALLS_ARE_DECIDED)
    assert (finding.rows[0]["call_id"], finding.rows[0]["episode"]) == (str(call.id), episode.partition_key)
    assert finding.since == left_at
    assert "--give-up CALL_ID" in finding.remedy


@pytest.mark.parametrize("state", ["submitted", "running", "succeeded"])
def test_a_call_whose_episode_is_done_without_it_is_found_after_an_hour(
    transaction: Connection, episode: Episode, state: str
) -> None:
    db = transaction
    call = submitted(db, "job-7", episode_id=episode.id)
    sql(db, "UPDATE provider_jobs SET state = :state", state=state)
    ago(db, "provider_jobs", "left_at", call.id, 2 * HOUR)
    assert failed(db) == [], "the next attempt takes it up"
    publish(db, episode)
    ago(db, "provider_jobs", "left_at", call.id, timedelta(minutes=59))
    assert failed(db) == []
    left_at = ago(db, "provider_jobs", "left_at", call.id, timedelta(minutes=61))
    finding = only_finding(db, PAID_CALLS_ARE_NOT_FORGOTTEN)
    assert first_columns(finding, 5) == [(str(call.id), "camera", "job-7", state, episode.partition_key)]
    assert finding.since == left_at
    assert "--give-up CALL_ID" in finding.remedy
    again = claim_job(db, episode.partition_key, "run-9", LEASE)
    assert failed(db) == [], "a run is at the episode again"
    release_job(db, again)
    sql(db, "UPDATE provider_jobs SET account = NULL")
    assert failed(db) == [], "an engine of this machine costs nothing"


def test_a_call_of_no_episode_and_one_of_an_episode_that_was_given_up_are_found(
    transaction: Connection, episode: Episode
) -> None:
    db = transaction
    nobodys, given_up = submitted(db, "job-1"), submitted(db, "job-2", episode_id=episode.id)
    fail_job(db, claim_job(db, episode.partition_key, "run-1", LEASE), "the voice broke", now(), for_good=True)
    sql(db, "UPDATE provider_jobs SET left_at = now() - interval '2 hours'")
    assert failed(db) == ["jobs_have_attempts_left", "paid_calls_are_not_forgotten"]
    sql(db, "UPDATE production_jobs SET attempt_count = 0")
    assert first_columns(only_finding(db, PAID_CALLS_ARE_NOT_FORGOTTEN), 1) == [(str(nobodys.id),)]
    assert given_up.id != nobodys.id


def test_money_that_stays_reserved_for_a_request_that_never_left_is_found(
    transaction: Connection, episode: Episode
) -> None:
    db = transaction
    call = calls.claim_call(db, intent(episode_id=episode.id))
    publish(db, episode)
    ago(db, "provider_jobs", "claimed_at", call.id, 2 * HOUR)
    finding = only_finding(db, PAID_CALLS_ARE_NOT_FORGOTTEN)
    assert (finding.rows[0]["state"], finding.rows[0]["reserved_usd"]) == ("claimed", 1)


def test_a_day_that_has_spent_four_fifths_of_its_budget_is_told(transaction: Connection, episode: Episode) -> None:
    db = transaction
    calls.mark_succeeded(db, submitted(db, "job-1", episode_id=episode.id).id, Decimal("6.99"))
    submitted(db, "job-2", episode_id=episode.id)
    caps = Caps(day_usd=Decimal(10), series_usd=Decimal(100))
    assert failed(db, caps=caps) == [], "7.99 of 10, with what is reserved"
    submitted(db, "job-3", episode_id=episode.id, quote_usd=Decimal("0.01"))
    finding = only_finding(db, SPEND_IS_BELOW_ITS_CAPS, caps=caps)
    assert first_columns(finding, 3) == [("MOLTPIPE_BUDGET_DAY_USD", 10, 8)]
    assert (finding.since, finding.severity) == (None, Severity.WARNING)
    sql(db, "UPDATE provider_jobs SET claimed_at = claimed_at - interval '1 day'")
    assert failed(db, caps=caps) == [], "that was yesterday"
    assert failed(db) == [], "there is no cap"


def test_a_budget_of_nothing_is_kept_while_nothing_is_spent(transaction: Connection, episode: Episode) -> None:
    db = transaction
    caps = Caps(day_usd=Decimal(0), series_usd=Decimal(0))
    calls.claim_call(db, intent(episode_id=episode.id, account=None, quote_usd=Decimal(0)))
    assert failed(db, caps=caps) == [], "an engine of this machine was at work"
    submitted(db, episode_id=episode.id)
    assert only_finding(db, SPEND_IS_BELOW_ITS_CAPS, caps=caps).count == 2


def test_a_series_in_work_that_has_spent_four_fifths_of_its_budget_is_told(
    transaction: Connection, episode: Episode
) -> None:
    db = transaction
    calls.mark_succeeded(db, submitted(db, episode_id=episode.id).id, Decimal(8))
    caps = Caps(series_usd=Decimal(10))
    finding = only_finding(db, SPEND_IS_BELOW_ITS_CAPS, caps=caps)
    assert first_columns(finding, 5) == [
        ("MOLTPIPE_BUDGET_SERIES_USD", 10, 8, str(episode.series_id), one(db, "SELECT title FROM limited_series"))
    ]
    assert failed(db, caps=Caps(series_usd=Decimal("10.01"))) == []


def test_a_series_that_is_finished_spends_nothing_more(transaction: Connection, episode: Episode) -> None:
    db = transaction
    calls.mark_succeeded(db, submitted(db, episode_id=episode.id).id, Decimal(8))
    caps = Caps(series_usd=Decimal(10))
    sql(db, "UPDATE production_jobs SET completed_at = now()")
    assert SPEND_IS_BELOW_ITS_CAPS.name not in failed(db, caps=caps)
