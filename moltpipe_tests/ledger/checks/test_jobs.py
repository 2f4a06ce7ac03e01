from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.finding import Severity
from moltpipe.ledger.checks.jobs import (
    COMPLETED_JOBS_ARE_PUBLISHED,
    JOBS_DO_NOT_WAIT_TOO_LONG,
    JOBS_HAVE_ATTEMPTS_LEFT,
    JOBS_HAVE_LIVE_OWNERS,
)
from moltpipe.ledger.jobs import claim_job, fail_job, rest_job
from moltpipe.studio.records import Episode
from moltpipe_tests.ledger.beginnings import LEASE, one, series
from moltpipe_tests.ledger.checks.damage import ago, failed, first_columns, now, only_finding, publish, sql


@pytest.fixture
def episode(transaction: Connection) -> Episode:
    return series(transaction)[1]


def _job_id(db: Connection, episode: Episode) -> UUID:
    job_id: UUID = one(db, "SELECT id FROM production_jobs WHERE episode_id = :id", id=episode.id)
    return job_id


def test_a_job_whose_run_fell_silent_is_found_a_minute_after_its_lease(
    transaction: Connection, episode: Episode
) -> None:
    db = transaction
    job = claim_job(db, episode.partition_key, "run-7", LEASE)
    ago(db, "production_jobs", "heartbeat_at", job.job_id, LEASE + timedelta(seconds=50))
    assert failed(db, lease=LEASE) == []
    silent_since = ago(db, "production_jobs", "heartbeat_at", job.job_id, LEASE + timedelta(seconds=61))
    finding = only_finding(db, JOBS_HAVE_LIVE_OWNERS, lease=LEASE)
    assert first_columns(finding, 4) == [
        (str(job.job_id), episode.partition_key, "run-7", silent_since.isoformat()),
    ]
    assert finding.since == silent_since
    assert "moltpipe repair" in finding.remedy
    assert failed(db, lease=2 * LEASE) == []
    rest_job(db, job)
    assert failed(db, lease=LEASE) == [], "a run between two steps gives no sign of life and need not"


def test_an_episode_that_was_given_up_is_found(transaction: Connection, episode: Episode) -> None:
    db = transaction
    for attempt in range(3):
        assert failed(db) == [], f"after {attempt} attempts"
        fail_job(db, claim_job(db, episode.partition_key, "run-7", LEASE), "the voice broke", now())
    finding = only_finding(db, JOBS_HAVE_ATTEMPTS_LEFT)
    assert first_columns(finding, 4) == [(str(_job_id(db, episode)), episode.partition_key, 3, "the voice broke")]
    assert finding.since is not None
    assert finding.since <= now()
    assert "--retry PARTITION_KEY" in finding.remedy
    claim_job(db, episode.partition_key, "run-8", LEASE)
    assert failed(db) == [], "a person has started it again"


def test_a_job_that_waits_for_half_an_hour_is_told_as_a_warning(transaction: Connection, episode: Episode) -> None:
    db = transaction
    job_id = _job_id(db, episode)
    ago(db, "production_jobs", "available_at", job_id, timedelta(minutes=29))
    assert failed(db) == []
    waits_since = ago(db, "production_jobs", "available_at", job_id, timedelta(minutes=31))
    finding = only_finding(db, JOBS_DO_NOT_WAIT_TOO_LONG)
    assert first_columns(finding, 3) == [(str(job_id), episode.partition_key, waits_since.isoformat())]
    assert (finding.since, finding.severity) == (waits_since, Severity.WARNING)
    claim_job(db, episode.partition_key, "run-7", LEASE)
    assert failed(db) == []


def test_a_completed_job_whose_variants_are_gone_is_found(transaction: Connection, episode: Episode) -> None:
    db = transaction
    publish(db, episode)
    sql(db, "DELETE FROM clip_variants")
    finding = only_finding(db, COMPLETED_JOBS_ARE_PUBLISHED)
    assert first_columns(finding, 4) == [(str(_job_id(db, episode)), episode.partition_key, 0, 1)]
    assert finding.since == one(db, "SELECT completed_at FROM production_jobs WHERE completed_at IS NOT NULL")
    claim_job(db, episode.partition_key, "run-7", LEASE)
    assert failed(db) == [], "somebody is at it"


def test_a_pilot_that_is_completed_without_its_fourth_variant_is_found(transaction: Connection) -> None:
    db = transaction
    pilot = series(db)[0]
    publish(db, pilot)
    sql(db, "DELETE FROM clip_variants WHERE variant_number = 2")
    assert first_columns(only_finding(db, COMPLETED_JOBS_ARE_PUBLISHED), 4) == [
        (str(_job_id(db, pilot)), pilot.partition_key, 3, 4)
    ]


def test_a_job_that_never_says_it_is_done_is_found_after_ten_minutes(transaction: Connection, episode: Episode) -> None:
    db = transaction
    publish(db, episode)
    sql(db, "UPDATE production_jobs SET completed_at = NULL, available_at = now() - interval '9 minutes'")
    assert failed(db) == []
    job_id = _job_id(db, episode)
    since = ago(db, "production_jobs", "available_at", job_id, timedelta(minutes=11))
    finding = only_finding(db, COMPLETED_JOBS_ARE_PUBLISHED)
    assert first_columns(finding, 4) == [(str(job_id), episode.partition_key, 1, 1)]
    assert finding.since == since
