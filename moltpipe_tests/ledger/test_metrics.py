from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger import calls, metrics
from moltpipe.ledger.accounts import block_account
from moltpipe.ledger.checks.finding import Finding, Severity
from moltpipe.ledger.incidents import settle_findings
from moltpipe.ledger.jobs import claim_job, complete_job, fail_job, load_jobs, postpone_job, rest_job
from moltpipe.ledger.metrics import CALL_BUCKETS_S, JOB_STATES, Waiting
from moltpipe.ledger.periods import create_period
from moltpipe.studio.alerts import check_subject, unchecked_subject
from moltpipe.studio.jobs import lease_state, waiting_for
from moltpipe.studio.records import Episode
from moltpipe_tests.ledger.beginnings import LEASE, everything, intent, series, submitted
from moltpipe_tests.ledger.big_studio import fill


@pytest.fixture
def db(transaction: Connection) -> Connection:
    return transaction


@pytest.fixture
def episodes(db: Connection) -> list[Episode]:
    return series(db)


def back(db: Connection, table: str, column: str, seconds: int, where: str = "true") -> None:
    """Let it have happened so much earlier."""
    db.execute(sa.text(f"UPDATE {table} SET {column} = {column} - interval '{seconds} seconds' WHERE {where}"))  # noqa: S608 - words of this file


def ended(
    db: Connection, seconds: float, *, engine: str = "camera", error_class: str | None = None, cost: str = "0.25"
) -> None:
    """A call that took so long from the departure of its request."""
    call = submitted(db, engine=engine)
    if error_class is None:
        calls.mark_succeeded(db, call.id, Decimal(cost))
        calls.mark_ingested(db, call.id, {"seconds": 5})
    else:
        calls.mark_failed(db, call.id, error_class, "it broke", Decimal(cost))
    db.execute(
        sa.text("UPDATE provider_jobs SET left_at = finished_at - make_interval(secs => :s) WHERE id = :id"),
        {"s": seconds, "id": call.id},
    )


def test_each_unfinished_job_is_counted_where_the_operator_is_told_that_it_is(
    db: Connection, episodes: list[Episode]
) -> None:
    one, two, three, four, five = episodes
    claim_job(db, one.partition_key, "run-1", LEASE)
    rest_job(db, claim_job(db, two.partition_key, "run-2", LEASE))
    claim_job(db, three.partition_key, "run-3", LEASE)
    back(db, "production_jobs", "heartbeat_at", 61, "process_uuid = 'run-3'")
    postpone_job(
        db, claim_job(db, four.partition_key, "run-4", LEASE), datetime.now(UTC) + timedelta(hours=1), "a budget"
    )
    counted = metrics.job_states(db, LEASE)
    assert {state: one.count for state, one in counted.items()} == dict.fromkeys(JOB_STATES, 0) | {
        "running": 1, "resting": 1, "lapsed": 1, "postponed": 1, "waiting": 1,
    }  # fmt: skip
    told = {
        job.partition_key: waiting_for(job, lease_state(job, datetime.now(UTC), LEASE), datetime.now(UTC))
        for job in load_jobs(db)
    }
    assert told[five.partition_key] == "a free run"
    assert "between two steps" in (told[two.partition_key] or "")


def test_jobs_that_wait_for_a_person_are_told_apart(db: Connection, episodes: list[Episode]) -> None:
    claim = claim_job(db, episodes[0].partition_key, "run-1", LEASE)
    fail_job(db, claim, "refused", datetime.now(UTC), for_good=True)
    call = submitted(db, episode_id=episodes[1].id)
    db.execute(
        sa.text("UPDATE provider_jobs SET state = 'ambiguous', left_at = now() - interval '1 hour' WHERE id = :id"),
        {"id": call.id},
    )
    counted = metrics.job_states(db, LEASE)
    assert (counted["given_up"].count, counted["undecided"].count, counted["waiting"].count) == (1, 1, 3)
    assert 3599 < (counted["undecided"].oldest_s or 0) < 3700


def test_the_oldest_of_a_state_gives_its_age(db: Connection, episodes: list[Episode]) -> None:
    db.execute(sa.text("UPDATE production_jobs SET available_at = now() - interval '5 seconds'"))
    back(db, "production_jobs", "available_at", 100, f"episode_id = '{episodes[2].id}'")
    waiting = metrics.job_states(db, LEASE)["waiting"]
    assert waiting.count == 5
    assert 105 <= (waiting.oldest_s or 0) < 200
    assert metrics.job_states(db, LEASE)["running"] == Waiting(0, None)


def test_completed_jobs_are_not_in_the_queue(db: Connection, episodes: list[Episode]) -> None:
    complete_job(db, claim_job(db, episodes[0].partition_key, "run-1", LEASE))
    assert sum(one.count for one in metrics.job_states(db, LEASE).values()) == 4


def test_a_period_that_is_over_and_open_is_due_since_its_end(db: Connection) -> None:
    now = datetime.now(UTC)
    create_period(db, "agent_voting", now - timedelta(hours=2), now - timedelta(minutes=10))
    create_period(db, "agent_voting", now - timedelta(minutes=10), now + timedelta(hours=1))
    create_period(db, "agent_voting", now + timedelta(hours=1), now + timedelta(hours=2))
    told = metrics.period_states(db)
    assert {state: told["agent_voting", state].count for state in metrics.PERIOD_STATES} == {
        "due": 1, "open": 1, "scheduled": 1,
    }  # fmt: skip
    assert 599 < (told["agent_voting", "due"].oldest_s or 0) < 700
    assert told["agent_voting", "open"].oldest_s is None
    assert told["clip_voting", "due"].count == 0


def test_the_time_to_the_first_take_runs_from_the_end_of_the_vote_to_the_first_camera_that_was_done(
    db: Connection, episodes: list[Episode]
) -> None:
    closed = sa.text("SELECT least(ends_at, processed_at) FROM voting_periods WHERE is_processed")
    closed_at: datetime = db.execute(closed).scalar_one()
    told = metrics.first_takes(db)
    assert (told.to_call.latest, told.to_take.latest) == (None, None)
    assert told.waiting_s == pytest.approx((datetime.now(UTC) - closed_at).total_seconds(), abs=60)
    for after_s, episode in ((40, episodes[3]), (90, episodes[0])):
        call = submitted(db, f"job-{after_s}", episode_id=episode.id)
        calls.mark_succeeded(db, call.id, Decimal(0))
        calls.mark_ingested(db, call.id, {})
        db.execute(
            sa.text("UPDATE provider_jobs SET left_at = :left, finished_at = :done WHERE id = :id"),
            {
                "id": call.id,
                "left": closed_at + timedelta(seconds=after_s - 30),
                "done": closed_at + timedelta(seconds=after_s),
            },
        )
    told = metrics.first_takes(db)
    assert (told.to_call.latest, told.to_call.median, told.to_call.worst) == (10, 10, 10)
    assert told.to_take.latest == 40
    assert told.waiting_s == 0


def test_a_vote_whose_episodes_nobody_works_on_does_not_wait_for_a_take(
    db: Connection, episodes: list[Episode]
) -> None:
    assert episodes
    db.execute(sa.text("UPDATE production_jobs SET attempt_count = max_attempts"))
    assert metrics.first_takes(db).waiting_s == 0


def test_calls_fall_into_the_bucket_of_their_seconds_from_departure_to_end(db: Connection) -> None:
    for seconds in (0.05, 7, 7, 25, 9999):
        ended(db, seconds)
    (told,) = metrics.ended_calls(db)
    assert (told.engine, told.operation, told.state, told.error_class) == ("camera", "film", "ingested", None)
    within = dict(zip(CALL_BUCKETS_S, told.within, strict=True))
    assert (within[0.1], within[5], within[10], within[30], within[3600]) == (1, 1, 3, 4, 4)
    assert (told.timed, told.count) == (5, 5)
    assert told.seconds == pytest.approx(0.05 + 7 + 7 + 25 + 9999)
    assert told.cost_usd == pytest.approx(1.25)


def test_calls_that_failed_are_told_by_their_class_and_have_no_seconds(db: Connection) -> None:
    ended(db, 3, error_class="rejected", cost="0")
    ended(db, 3, error_class="provider_fault", cost="0.1")
    ended(db, 3, engine="voice")
    told = {(one.engine, one.error_class): one for one in metrics.ended_calls(db)}
    assert set(told) == {("camera", "rejected"), ("camera", "provider_fault"), ("voice", None)}
    assert (told["camera", "provider_fault"].timed, told["camera", "provider_fault"].cost_usd) == (0, 0.1)


def test_a_call_that_is_put_aside_later_is_counted_as_it_ended(db: Connection) -> None:
    """By a prune, whose takes are gone, or by a person who has the request made again."""
    ended(db, 3)
    ended(db, 3, error_class="rejected", cost="0")
    before = metrics.ended_calls(db)
    db.execute(sa.text("UPDATE provider_jobs SET result = '{\"seconds\": 5}' WHERE state = 'ingested'"))
    for call_id in db.execute(sa.text("SELECT id FROM provider_jobs")).scalars().all():
        calls.expire_call(db, call_id, "put aside")
    assert metrics.ended_calls(db) == before


def test_calls_under_way_are_told_by_state_and_not_among_those_that_ended(db: Connection) -> None:
    submitted(db)
    back(db, "provider_jobs", "left_at", 50)
    calls.claim_call(db, intent(engine="other"))
    told = {(one.engine, one.state): one for one in metrics.open_calls(db)}
    assert set(told) == {("camera", "submitted"), ("other", "claimed")}
    assert 50 <= told["camera", "submitted"].oldest_s < 100
    assert metrics.ended_calls(db) == []


def test_money_is_told_as_the_caps_count_it(db: Connection, episodes: list[Episode]) -> None:
    claim_job(db, episodes[0].partition_key, "run-1", LEASE)
    done = submitted(db, "job-1", episode_id=episodes[0].id)
    calls.mark_succeeded(db, done.id, Decimal("0.5"))
    submitted(db, "job-2", episode_id=episodes[1].id, process_uuid="run-2", quote_usd=Decimal(2))
    old = submitted(db, "job-3", quote_usd=Decimal(8))
    back(db, "provider_jobs", "claimed_at", 2 * 86400, f"id = '{old.id}'")
    told = metrics.spent_now(db)
    assert (told.today, told.dearest_series, told.reserved) == (2.5, 2.5, 10)
    assert told.dearest_run == 8.5


def test_what_checks_found_last_is_read_from_their_incidents(db: Connection) -> None:
    def finding(name: str, count: int = 0, why: str | None = None) -> Finding:
        return Finding(name, "scripts", Severity.ERROR, count, [{"id": 1}] * count, "mend it", could_not_check=why)

    settle_findings(db, [finding("one", 1), finding("two"), finding("three", why="S3 is away")], [])
    asked = {
        subject: subject
        for name in ("one", "two", "three")
        for subject in (check_subject(name), unchecked_subject(name))
    }
    assert metrics.subjects_of_checks(db, asked) == {check_subject("one"), unchecked_subject("three")}
    assert {kind for kind, _ in metrics.incident_counts(db)} == {"check", "could-not-check"}
    assert sum(metrics.incident_counts(db).values()) == 2


def test_an_account_is_blocked_until_its_time_is_over(db: Connection) -> None:
    block_account(db, "api.example/1", timedelta(minutes=1), "wait")
    block_account(db, "api.example/2", timedelta(minutes=1), "wait")
    back(db, "engine_accounts", "blocked_until", 120, "account = 'api.example/2'")
    assert metrics.blocked_accounts(db) == {"api.example/1": True, "api.example/2": False}


def test_nothing_can_be_written_in_a_reading(db: Connection) -> None:
    metrics.limit_reading(db, 5)
    with pytest.raises(sa.exc.DBAPIError, match="read-only"):
        db.execute(sa.text("UPDATE voting_settings SET min_votes = 2"))


def test_every_figure_of_a_studio_with_a_past_is_read_and_nothing_changes(db: Connection) -> None:
    studio = fill(db, scripts=200, takes=1000)
    before = everything(db)
    metrics.limit_reading(db, 30)
    assert sum(metrics.script_counts(db).values()) == 200
    assert sum(metrics.series_counts(db).values()) == studio.series
    episodes = metrics.episode_counts(db)
    assert sum(episodes.values()) == studio.series * 5
    assert episodes["completed"] > 0
    stored = metrics.media_stored(db)
    takes, sounds = db.execute(sa.text("SELECT count(*), count(sound_key) FROM takes")).one()
    assert stored["takes"] == (takes + sounds, takes * 3_000_000 + sounds * 400_000)
    assert metrics.vote_counts(db)["script"] == db.execute(sa.text("SELECT count(*) FROM script_votes")).scalar_one()
    assert sum(one.count for one in metrics.ended_calls(db)) == studio.takes
    first = metrics.first_takes(db)
    assert first.to_take.worst is not None
    assert metrics.database_bytes(db) > 1_000_000
    assert metrics.alerts_waiting(db) == Waiting(0, None)
    assert {one.name for one in metrics.sweep_states(db)} == {"objects", "partition_keys"}
    assert everything(db) == before
