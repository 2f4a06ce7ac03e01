from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.engine import Connection

from moltpipe.ledger import audit, repairs
from moltpipe.ledger.audience import cast_clip_vote, clip_outcome, clip_vote_of
from moltpipe.ledger.checks import CHECKS, run_checks
from moltpipe.ledger.checks.finding import MAX_ROWS, Conditions, Finding
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import claim_job, complete_job, heartbeat, load_jobs, rest_job
from moltpipe.ledger.media import publish_variant
from moltpipe.ledger.periods import close_period, create_period, get_outcome, get_period, open_due_periods
from moltpipe.ledger.repairs import REMEDIES, Repair, plan_repairs, repair
from moltpipe.ledger.series import all_episodes, episodes_of
from moltpipe.ledger.votes import cast_vote
from moltpipe.studio.records import Episode, Period
from moltpipe.studio.voting import Fate, Outcome
from moltpipe_tests.ledger.beginnings import LEASE, RULES, await_a_waiter, everything, filed, one, stored

NOW = datetime.now(UTC)
CONDITIONS = Conditions(NOW)
HOUR = timedelta(hours=1)

Damage = Callable[[Connection], object]


def run(db: Connection, statement: str, **values: object) -> int:
    return db.execute(sa.text(statement), values).rowcount


def without(db: Connection, table: str, *constraints: str) -> None:
    """Take away what forbids a damage, as one who works in the database by hand would."""
    for constraint in constraints:
        run(db, f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint}")


def broken(db: Connection) -> dict[str, Finding]:
    return {finding.name: finding for finding in run_checks(db, CONDITIONS) if not finding.passed}


def a_vote(
    db: Connection, *titles: str, ends_at: datetime = NOW - HOUR, length: timedelta = HOUR, genre: str = "comedy"
) -> tuple[Period, list[UUID]]:
    """A period in which scripts stand; the first has three votes, and each of the others one less, down to one."""
    starts_at = ends_at - length
    scripts = [filed(db, title, genre=genre, now=starts_at).script_id for title in titles]
    period = create_period(db, "agent_voting", starts_at, ends_at)
    open_due_periods(db, starts_at)
    for number, script in enumerate(scripts):
        for voter in range(max(1, 3 - number)):
            cast_vote(db, script, f"voter-{voter}", 1, starts_at + length / 2)
    return period, scripts


def a_series(db: Connection, title: str = "The Buoy") -> list[Episode]:
    period, _ = a_vote(db, title, ends_at=NOW - 2 * HOUR)
    outcome = close_period(db, period.id, RULES, period.ends_at)
    assert isinstance(outcome, Outcome)
    return episodes_of(db, outcome.winners[0].series_id)


def produced(db: Connection, episode: Episode) -> None:
    """Its variants are out and its job is done."""
    claim = claim_job(db, episode.partition_key, "run-1", LEASE)
    for number in range(1, episode.variants_wanted + 1):
        name = f"{episode.partition_key}-{number}"
        publish_variant(
            db,
            claim,
            number,
            stored(name),
            captions_key=f"{name}.vtt",
            thumbnail_key=f"{name}.jpg",
            duration_seconds=34.5,
            ingredients=name,
        )
    complete_job(db, claim)


def status_of(db: Connection, script_id: UUID) -> tuple[str, UUID | None]:
    row = db.execute(
        sa.text("SELECT pilot_status, voting_period_id FROM scripts WHERE id = :id"), {"id": script_id}
    ).one()
    return row.pilot_status, row.voting_period_id


# Each damage, and the checks that tell of it --------------------------------------------------------------------------


def selected_without_series(db: Connection) -> None:
    without(db, "scripts", "ck_scripts_selected_has_series")
    run(db, "UPDATE scripts SET pilot_status = 'selected' WHERE id = :id", id=filed(db, "The Orphan").script_id)


def series_without_an_episode(db: Connection) -> None:
    episodes = a_series(db)
    run(db, "DELETE FROM production_jobs WHERE job_type = 'single_episode'")
    run(db, "DELETE FROM episodes WHERE id = :id", id=episodes[2].id)


def processed_without_outcome(db: Connection) -> None:
    period, _ = a_vote(db, "First", "Second")
    close_period(db, period.id, RULES, period.ends_at)
    without(db, "voting_periods", "ck_voting_periods_processed_with_outcome")
    run(db, "UPDATE voting_periods SET outcome = NULL")


def processed_a_week_early(db: Connection) -> None:
    without(
        db,
        "voting_periods",
        "ck_voting_periods_processed_with_outcome",
        "ck_voting_periods_processed_when_over",
    )
    create_period(db, "agent_voting", NOW + timedelta(days=3), NOW + timedelta(days=10))
    run(db, "UPDATE voting_periods SET is_processed = true, processed_at = :now", now=NOW)


def processed_at_a_time_to_come(db: Connection) -> None:
    create_period(db, "agent_voting", NOW + timedelta(days=3), NOW + timedelta(days=10))
    run(db, "UPDATE voting_periods SET is_processed = true, outcome = '{}', processed_at = ends_at")


def decided_at_a_time_to_come(db: Connection) -> None:
    period, _ = a_vote(db, "First", "Second", ends_at=NOW + HOUR, length=2 * HOUR)
    close_period(db, period.id, RULES, period.ends_at)


def decided_early_without_a_word(db: Connection) -> None:
    period, _ = a_vote(db, "First", "Second")
    close_period(db, period.id, RULES, period.ends_at)
    without(db, "voting_periods", "ck_voting_periods_processed_when_over")
    run(db, "UPDATE voting_periods SET processed_at = starts_at")


def winner_turned_down(db: Connection) -> None:
    period, (first, _) = a_vote(db, "First", "Second")
    close_period(db, period.id, RULES, period.ends_at)
    run(db, "UPDATE scripts SET pilot_status = 'rejected' WHERE id = :id", id=first)


def left_voting(db: Connection) -> None:
    period, _ = a_vote(db, "First")
    close_period(db, period.id, RULES, period.ends_at)
    late = filed(db, "Late").script_id
    run(db, "UPDATE scripts SET pilot_status = 'voting', voting_period_id = :p WHERE id = :id", id=late, p=period.id)


def never_closed(db: Connection) -> None:
    a_vote(db, "First", "Second")


def never_opened(db: Connection) -> None:
    filed(db, "Waiting", now=NOW - HOUR)
    create_period(db, "agent_voting", NOW - HOUR, NOW + HOUR)


def owner_gone(db: Connection) -> None:
    claim_job(db, a_series(db)[1].partition_key, "run-1", LEASE)
    run(db, "UPDATE production_jobs SET heartbeat_at = now() - interval '5 minutes' WHERE process_uuid = 'run-1'")


def done_without_media(db: Connection) -> None:
    produced(db, a_series(db)[1])
    run(db, "DELETE FROM clip_variants")


def media_without_done(db: Connection) -> None:
    produced(db, a_series(db)[1])
    run(
        db,
        "UPDATE production_jobs SET completed_at = NULL, available_at = :long_ago WHERE completed_at IS NOT NULL",
        # By the clock that the checks are given: that of the database may be half an hour ahead of it, in a long run.
        long_ago=NOW - HOUR / 3,
    )


def vote_not_opened(db: Connection) -> None:
    produced(db, a_series(db)[0])
    run(db, "DELETE FROM voting_periods WHERE period_type = 'clip_voting'")


def only_variant_not_selected(db: Connection) -> None:
    produced(db, a_series(db)[1])
    run(db, "UPDATE clip_variants SET is_selected = false")


def closed_clip_vote(db: Connection) -> Period:
    """A vote on a pilot's variants that variant 3 has won."""
    pilot = a_series(db)[0]
    produced(db, pilot)
    period = clip_vote_of(db, pilot.id)
    assert period is not None
    third = one(db, "SELECT id FROM clip_variants WHERE variant_number = 3")
    cast_clip_vote(db, third, "agent:a", datetime.now(UTC))
    run(db, "UPDATE voting_periods SET starts_at = :s, ends_at = :e WHERE id = :id", s=NOW - HOUR, e=NOW, id=period.id)
    close_period(db, period.id, RULES, NOW)
    return period


def selection_taken_away(db: Connection) -> None:
    closed_clip_vote(db)
    run(db, "UPDATE clip_variants SET is_selected = false")


def clip_vote_processed_by_hand(db: Connection) -> None:
    """Nobody counted the votes, nothing is selected, and no outcome says anything."""
    closed_clip_vote(db)
    without(db, "voting_periods", "ck_voting_periods_processed_with_outcome")
    run(db, "UPDATE clip_variants SET is_selected = false")
    run(db, "UPDATE voting_periods SET outcome = NULL WHERE period_type = 'clip_voting'")


DAMAGES: list[tuple[Damage, set[str]]] = [
    (selected_without_series, {"selected_scripts_have_series"}),
    (series_without_an_episode, {"series_have_all_episodes_and_jobs"}),
    (processed_without_outcome, {"processed_periods_have_outcome"}),
    (processed_a_week_early, {"processed_periods_are_over", "processed_periods_have_outcome"}),
    (processed_at_a_time_to_come, {"processed_periods_are_over"}),
    (decided_at_a_time_to_come, {"processed_periods_are_over"}),
    (decided_early_without_a_word, {"processed_periods_are_over"}),
    (winner_turned_down, {"outcomes_agree_with_scripts"}),
    (left_voting, {"outcomes_agree_with_scripts"}),
    (never_closed, {"due_periods_are_closed"}),
    (never_opened, {"due_periods_are_open"}),
    (owner_gone, {"jobs_have_live_owners"}),
    (done_without_media, {"completed_jobs_are_published"}),
    (media_without_done, {"completed_jobs_are_published"}),
    (vote_not_opened, {"pilots_have_their_clip_vote"}),
    (only_variant_not_selected, {"published_episodes_have_a_selected_variant"}),
    (selection_taken_away, {"published_episodes_have_a_selected_variant"}),
    (
        clip_vote_processed_by_hand,
        {"processed_periods_have_outcome", "published_episodes_have_a_selected_variant"},
    ),
]
_NAMES = [damage.__name__ for damage, _ in DAMAGES]


@pytest.mark.parametrize(("damage", "checks"), DAMAGES, ids=_NAMES)
def test_a_damage_is_found_planned_mended_and_written_down(
    database: Database, damage: Damage, checks: set[str]
) -> None:
    with database.begin() as db:
        damage(db)
    with database.begin() as db:
        assert set(broken(db)) == checks
        as_it_was = everything(db)
        planned = plan_repairs(db, CONDITIONS)
    with database.begin() as db:
        assert everything(db) == as_it_was
        done = repair(db, CONDITIONS, "a test")
    assert done
    assert [one.failed for one in done] == [None] * len(done)
    # Ids of what is made differ from one time to the next; nothing that is said holds one of those.
    assert done == planned
    with database.begin() as db:
        assert broken(db) == {}
        assert repair(db, CONDITIONS, "a test") == plan_repairs(db, CONDITIONS) == []
        entries = audit.entries(db, 10)
    assert {(entry.by, entry.action) for entry in entries} == {("a test", "repair")}
    assert [entry.subject for entry in reversed(entries)] == [one.subject for one in done]
    for entry, mended in zip(reversed(entries), done, strict=True):
        assert entry.what == f"{mended.check}: {mended.what}"
        assert entry.before != entry.after


def test_every_check_with_a_remedy_was_damaged_here() -> None:
    assert {remedy.check for remedy in REMEDIES} == {check for _, checks in DAMAGES for check in checks}
    assert {remedy.check for remedy in REMEDIES} <= {check.name for check in CHECKS}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_remedy_that_names_the_plain_command_has_it(check: Any) -> None:  # noqa: ANN401 - a check
    assert ("`moltpipe repair`" in check.remedy) == (check.name in {remedy.check for remedy in REMEDIES})


def test_all_damages_at_once_are_mended_at_once(database: Database) -> None:
    with database.begin() as db:
        selected_without_series(db)
        processed_without_outcome(db)
        episodes = all_episodes(db)
        produced(db, episodes[1])
        run(db, "UPDATE clip_variants SET is_selected = false")
        produced(db, episodes[2])
        run(db, "DELETE FROM clip_variants WHERE episode_id = :id", id=episodes[2].id)
        assert len(broken(db)) == 4
        assert not any(one.failed for one in repair(db, CONDITIONS, "a test"))
        assert broken(db) == {}


def test_one_damage_can_be_mended_without_the_others(database: Database) -> None:
    """Series of an adopted studio come without episodes; to mend one orphan must not have all of them produced."""
    only = ("selected_scripts_have_series",)
    with database.begin() as db:
        series_without_an_episode(db)
        selected_without_series(db)
        assert [one.check for one in plan_repairs(db, CONDITIONS, only)] == list(only)
        assert [one.check for one in repair(db, CONDITIONS, "a test", only)] == list(only)
        assert set(broken(db)) == {"series_have_all_episodes_and_jobs"}


# The incident --------------------------------------------------------------------------------------------------------


def as_adopted(db: Connection) -> tuple[UUID, UUID]:
    """The state of the old report: a period of next week processed on 6 February, its script selected, no series.

    As an adoption leaves it: the rules hold for every new row, and the old ones stay as evidence.
    """
    rules = {
        ("scripts", "ck_scripts_selected_has_series"),
        ("voting_periods", "ck_voting_periods_processed_when_over"),
        ("voting_periods", "ck_voting_periods_processed_with_outcome"),
    }
    script = filed(db, "The G.U.I.D.E.", genre="sci_fi", now=datetime(2026, 2, 3, tzinfo=UTC)).script_id
    period = create_period(db, "agent_voting", datetime(2026, 2, 9, tzinfo=UTC), datetime(2026, 2, 16, tzinfo=UTC)).id
    definitions = {}
    for table, rule in rules:
        definitions[table, rule] = one(
            db, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :rule", rule=rule
        )
        without(db, table, rule)
    run(
        db,
        "UPDATE voting_periods SET is_processed = true, processed_at = '2026-02-06 12:00:00+00' WHERE id = :id",
        id=period,
    )
    run(
        db,
        "UPDATE scripts SET pilot_status = 'selected', voting_period_id = :period WHERE id = :id",
        id=script,
        period=period,
    )
    for (table, rule), definition in definitions.items():
        run(db, f"ALTER TABLE {table} ADD CONSTRAINT {rule} {definition} NOT VALID")
    return script, period


def not_in_force(db: Connection) -> list[str]:
    return list(db.execute(sa.text("SELECT conname FROM pg_constraint WHERE NOT convalidated")).scalars())


def test_the_incident_is_found_mended_and_written_down(database: Database) -> None:
    with database.begin() as db:
        script, period = as_adopted(db)
        assert len(not_in_force(db)) == 3
    with database.begin() as db:
        assert set(broken(db)) == {
            "selected_scripts_have_series",
            "processed_periods_are_over",
            "processed_periods_have_outcome",
        }
        assert broken(db)["selected_scripts_have_series"].rows[0]["title"] == "The G.U.I.D.E."
        before = everything(db)
        planned = plan_repairs(db, CONDITIONS)
        assert everything(db) == before
        assert len(not_in_force(db)) == 3
    with database.begin() as db:
        done = repair(db, CONDITIONS, "molt")
    assert done == planned
    assert [(one.check, one.subject) for one in done[:2]] == [
        ("selected_scripts_have_series", str(script)),
        ("processed_periods_have_outcome", str(period)),
    ]
    assert {one.check for one in done[2:]} == {"schema"}
    with database.begin() as db:
        assert broken(db) == {}
        assert not_in_force(db) == []
        assert len(all_episodes(db)) == 5
        assert one(db, "SELECT count(*) FROM production_jobs WHERE completed_at IS NULL") == 5
        mended, outcome = get_period(db, period), get_outcome(db, period)
        (entry,) = (entry for entry in audit.entries(db, 10) if entry.subject == str(period))
    assert (mended.is_processed, mended.processed_at) == (True, datetime(2026, 2, 6, 12, tzinfo=UTC))
    assert mended.closed_early_reason is not None
    assert "processed at 2026-02-06 12:00:00 UTC, before its end" in mended.closed_early_reason
    assert "by whom and why is not recorded" in mended.closed_early_reason
    assert isinstance(outcome, Outcome)
    assert [(winner.title, winner.script_id) for winner in outcome.winners] == [("The G.U.I.D.E.", script)]
    assert outcome.reconstructed_at is not None
    assert "put together afterwards" in outcome.summary
    assert (entry.by, entry.action) == ("molt", "repair")
    assert isinstance(entry.before, dict)
    assert isinstance(entry.after, dict)
    assert entry.before["voting_periods"][0]["outcome"] is None
    assert entry.after["voting_periods"][0]["outcome"]["winners"][0]["title"] == "The G.U.I.D.E."


# What each remedy leaves ---------------------------------------------------------------------------------------------


def test_a_period_of_next_week_closes_in_its_time_after_all(database: Database) -> None:
    with database.begin() as db:
        processed_a_week_early(db)
        repair(db, CONDITIONS, "a test")
        period = get_period(db, one(db, "SELECT id FROM voting_periods"))
        assert (period.is_processed, period.is_active, period.processed_at) == (False, False, None)
        assert isinstance(close_period(db, period.id, RULES, period.ends_at), Outcome)


def test_scripts_that_stand_in_a_period_of_next_week_go_on_standing_in_it(database: Database) -> None:
    with database.begin() as db:
        period, (script,) = a_vote(db, "First", ends_at=NOW + HOUR, length=2 * HOUR)
        without(
            db,
            "voting_periods",
            "ck_voting_periods_processed_with_outcome",
            "ck_voting_periods_processed_when_over",
            "ck_voting_periods_active_or_processed",
        )
        run(db, "UPDATE voting_periods SET is_processed = true")
        (mended,) = repair(db, CONDITIONS, "a test")
        assert "which closes at" in mended.what
        assert get_period(db, period.id).is_active
        assert status_of(db, script) == ("voting", period.id)
        cast_vote(db, script, "late", 1, NOW)


def test_a_period_that_was_marked_and_never_closed_is_closed_by_its_votes(database: Database) -> None:
    with database.begin() as db:
        period, (first, second) = a_vote(db, "First", "Second")
        without(db, "voting_periods", "ck_voting_periods_processed_with_outcome")
        run(db, "UPDATE voting_periods SET is_processed = true, is_active = false, processed_at = ends_at")
        assert {"processed_periods_have_outcome", "outcomes_agree_with_scripts"} == set(broken(db))
        (mended,) = repair(db, CONDITIONS, "a test")
        assert mended.check == "processed_periods_have_outcome"
        assert broken(db) == {}
        assert (status_of(db, first)[0], status_of(db, second)[0]) == ("selected", "rejected")
        assert get_period(db, period.id).processed_at == NOW


def test_an_outcome_that_is_put_together_says_what_the_rows_say(database: Database) -> None:
    """The old system turned scripts down one by one, and died on the way: a second tally would make a second winner."""
    with database.begin() as db:
        period, (most, some, few) = a_vote(db, "Most", "Some", "Few")
        close_period(db, period.id, RULES, period.ends_at)
        without(
            db,
            "voting_periods",
            "ck_voting_periods_processed_with_outcome",
            "ck_voting_periods_processed_when_over",
        )
        run(db, "UPDATE scripts SET pilot_status = 'voting' WHERE id = :id", id=few)
        run(db, "UPDATE voting_periods SET outcome = NULL, processed_at = NULL")
        (mended,) = repair(db, CONDITIONS, "a test")
        assert mended.failed is None
        assert broken(db) == {}
        outcome = get_outcome(db, period.id)
        assert isinstance(outcome, Outcome)
        assert [(row.title, row.rank, row.score, row.fate) for row in outcome.ranking] == [
            ("Most", 1, 3, Fate.SELECTED),
            ("Some", 2, 2, Fate.REJECTED),
            ("Few", 3, 1, Fate.RETURNED),
        ]
        assert "at a time that is not recorded" in str(outcome.closed_early_reason)
        assert get_period(db, period.id).processed_at is None
        assert status_of(db, few) == ("submitted", None)
        assert [status_of(db, script)[0] for script in (most, some)] == ["selected", "rejected"]


def test_a_winner_on_record_is_selected_where_the_rest_of_the_record_cannot_be_read(database: Database) -> None:
    with database.begin() as db:
        period, (first, _) = a_vote(db, "First", "Second")
        close_period(db, period.id, RULES, period.ends_at)
        run(db, "UPDATE voting_periods SET outcome = jsonb_build_object('winners', outcome -> 'winners')")
        run(db, "UPDATE scripts SET pilot_status = 'voting' WHERE id = :id", id=first)
        (mended,) = repair(db, CONDITIONS, "a test")
        assert mended.failed is None
        assert status_of(db, first) == ("selected", period.id)
        assert broken(db) == {}


def test_a_loser_on_record_that_still_votes_is_turned_down(database: Database) -> None:
    with database.begin() as db:
        period, (first, second) = a_vote(db, "First", "Second")
        close_period(db, period.id, RULES, period.ends_at)
        run(db, "UPDATE scripts SET pilot_status = 'voting'")
        done = repair(db, CONDITIONS, "a test")
        assert len(done) == 2
        assert (status_of(db, first)[0], status_of(db, second)[0]) == ("selected", "rejected")
        assert broken(db) == {}


def test_a_script_that_nobody_decided_about_waits_for_the_next_period(database: Database) -> None:
    with database.begin() as db:
        left_voting(db)
        repair(db, CONDITIONS, "a test")
        late = one(db, "SELECT id FROM scripts WHERE title = 'Late'")
        assert status_of(db, late) == ("submitted", None)


def test_a_job_whose_owner_is_gone_waits_for_its_next_attempt(database: Database) -> None:
    with database.begin() as db:
        owner_gone(db)
        repair(db, CONDITIONS, "a test")
        (job,) = (job for job in load_jobs(db) if job.attempt_count)
    assert (job.process_uuid, job.attempt_count) == (None, 1)
    assert "run run-1 was lost" in str(job.last_error)
    assert job.available_at > NOW


def test_a_living_owner_is_never_robbed(database: Database) -> None:
    """It gives a sign of life while the repair waits for the row."""
    with database.begin() as db:
        owner_gone(db)
        claim = claim_job(db, all_episodes(db)[2].partition_key, "run-2", LEASE)
        rest_job(db, claim)
        mine = claim_job(db, all_episodes(db)[1].partition_key, "run-1", LEASE)
        run(db, "UPDATE production_jobs SET heartbeat_at = now() - interval '5 minutes' WHERE process_uuid = 'run-1'")

    def mend() -> list[Repair]:
        with database.begin() as db:
            return repair(db, CONDITIONS, "a test")

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            assert heartbeat(db, mine)
            mending = pool.submit(mend)
            await_a_waiter(db)
        assert mending.result() == []
    with database.begin() as db:
        assert {job.process_uuid for job in load_jobs(db)} == {None, "run-1", "run-2"}


def test_a_job_whose_media_are_gone_is_open_again(database: Database) -> None:
    with database.begin() as db:
        done_without_media(db)
        run(db, "UPDATE production_jobs SET attempt_count = max_attempts WHERE completed_at IS NOT NULL")
        repair(db, CONDITIONS, "a test")
        assert len(load_jobs(db)) == 5
        assert {job.attempt_count for job in load_jobs(db)} == {0}


def test_the_variant_that_the_vote_chose_is_selected_again(database: Database) -> None:
    with database.begin() as db:
        selection_taken_away(db)
        repair(db, CONDITIONS, "a test")
        assert one(db, "SELECT variant_number FROM clip_variants WHERE is_selected") == 3


def test_a_clip_vote_that_was_processed_by_hand_is_counted(database: Database) -> None:
    with database.begin() as db:
        clip_vote_processed_by_hand(db)
        repair(db, CONDITIONS, "a test")
        period = one(db, "SELECT id FROM voting_periods WHERE period_type = 'clip_voting'")
        assert clip_outcome(db, period).selected.variant_number == 3
        assert one(db, "SELECT variant_number FROM clip_variants WHERE is_selected") == 3


def test_a_clip_vote_that_was_processed_before_its_end_goes_on(database: Database) -> None:
    with database.begin() as db:
        pilot = a_series(db)[0]
        produced(db, pilot)
        without(
            db,
            "voting_periods",
            "ck_voting_periods_processed_with_outcome",
            "ck_voting_periods_processed_when_over",
        )
        mark = "UPDATE voting_periods SET is_processed = true, is_active = false WHERE period_type = 'clip_voting'"
        run(db, mark)
        repair(db, CONDITIONS, "a test")
        period = clip_vote_of(db, pilot.id)
        assert period is not None
        assert (period.is_processed, period.is_active) == (False, True)
        assert broken(db) == {}


def test_a_clip_vote_that_somebody_decided_before_its_end_keeps_that_and_says_so(database: Database) -> None:
    with database.begin() as db:
        pilot = a_series(db)[0]
        produced(db, pilot)
        without(
            db,
            "voting_periods",
            "ck_voting_periods_processed_with_outcome",
            "ck_voting_periods_processed_when_over",
        )
        mark = "UPDATE voting_periods SET is_processed = true, is_active = false WHERE period_type = 'clip_voting'"
        run(db, mark)
        run(db, "UPDATE clip_variants SET is_selected = true WHERE variant_number = 2")
        first = one(db, "SELECT id FROM clip_variants WHERE variant_number = 1")
        run(db, "UPDATE voting_periods SET is_processed = false WHERE period_type = 'clip_voting'")
        cast_clip_vote(db, first, "agent:a", datetime.now(UTC))
        run(db, mark)
        repair(db, CONDITIONS, "a test")
        period = clip_vote_of(db, pilot.id)
        assert period is not None
        assert period.is_processed
        assert one(db, "SELECT variant_number FROM clip_variants WHERE is_selected") == 2
        outcome = clip_outcome(db, period.id)
        assert (outcome.selected.variant_number, outcome.votes) == (2, 1)
        assert [row.variant_number for row in outcome.ranking] == [1, 2, 3, 4]
        assert outcome.closed_early_reason == period.closed_early_reason
        assert "put together afterwards" in outcome.summary
        assert "at a time that is not recorded" in str(period.closed_early_reason)
        assert broken(db) == {}


# What fails, and who else repairs ------------------------------------------------------------------------------------


def test_one_that_cannot_be_mended_keeps_nobody_else_from_it(database: Database) -> None:
    with database.begin() as db:
        winner_turned_down(db)
        run(
            db,
            "UPDATE voting_periods SET outcome = jsonb_set(outcome, '{winners,1}', "
            "jsonb_build_object('script_id', CAST(:id AS text)))",
            id=str(uuid4()),
        )
        run(
            db,
            "UPDATE voting_periods SET outcome = jsonb_set(outcome, '{winners,2}', "
            "jsonb_build_object('script_id', 'seven'))",
        )
        selected_without_series(db)
        done = repair(db, CONDITIONS, "a test")
    failed = {one.subject: one.failed for one in done if one.failed}
    assert len(done) - len(failed) == 2
    assert failed.pop("seven") == "'seven' is the id of nothing"
    ((subject, why),) = failed.items()
    assert why == f"there is no script {subject} to make a series of"
    with database.begin() as db:
        assert set(broken(db)) == {"outcomes_agree_with_scripts"}
        assert {entry.subject for entry in audit.entries(db, 9)} == {one.subject for one in done if not one.failed}


def test_what_the_database_refuses_is_undone_and_told_in_its_words(database: Database) -> None:
    with database.begin() as db:
        selected_without_series(db)
        never_closed(db)
        run(db, "ALTER TABLE limited_series ADD CONSTRAINT no_orphans CHECK (title <> 'The Orphan')")
        done = {one.check: one for one in repair(db, CONDITIONS, "a test")}
        refused = done["selected_scripts_have_series"].failed
        assert refused == 'new row for relation "limited_series" violates check constraint "no_orphans"'
        assert done["due_periods_are_closed"].failed is None
        assert set(broken(db)) == {"selected_scripts_have_series"}


def test_a_check_that_cannot_look_does_not_keep_the_others_from_being_mended(database: Database) -> None:
    with database.begin() as db:
        selected_without_series(db)
        run(db, "ALTER VIEW episode_progress RENAME TO elsewhere")
        done = {one.check: one for one in repair(db, CONDITIONS, "a test")}
        assert done["selected_scripts_have_series"].failed is None
        assert "episode_progress" in str(done["completed_jobs_are_published"].failed)


def test_a_great_damage_is_mended_whole(database: Database) -> None:
    with database.begin() as db:
        for _ in range(MAX_ROWS + 2):
            selected_without_series(db)
        assert len(repair(db, CONDITIONS, "a test")) == MAX_ROWS + 2
        assert broken(db) == {}


def test_two_that_repair_at_once_repair_once(database: Database) -> None:
    with database.begin() as db:
        as_adopted(db)
        left_voting(db)
        series_without_an_episode(db)
    together = threading.Barrier(2)

    def mend(name: str) -> list[Repair]:
        together.wait()
        with database.begin() as db:
            return repair(db, CONDITIONS, name)

    with ThreadPoolExecutor(2) as pool:
        nothing, all_of_it = sorted(pool.map(mend, ("one", "other")), key=len)
    assert nothing == []
    assert not any(one.failed for one in all_of_it)
    with database.begin() as db:
        assert broken(db) == {}
        assert len({entry.by for entry in audit.entries(db, 50)}) == 1
        assert one(db, "SELECT count(*) FROM limited_series") == one(
            db, "SELECT count(*) FROM scripts WHERE pilot_status = 'selected'"
        )


def test_a_closer_that_is_faster_is_not_gainsaid(database: Database) -> None:
    with database.begin() as db:
        period, _ = a_vote(db, "First", "Second")

    def mend() -> list[Repair]:
        with database.begin() as db:
            return repair(db, CONDITIONS, "a test")

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            outcome = close_period(db, period.id, RULES, NOW)
            mending = pool.submit(mend)
            await_a_waiter(db)
        assert mending.result() == []
    with database.begin() as db:
        assert get_outcome(db, period.id) == outcome


# Rules that are in force again ---------------------------------------------------------------------------------------


def test_a_rule_stays_out_of_force_while_a_row_breaks_it(database: Database) -> None:
    with database.begin() as db:
        as_adopted(db)
        run(db, "ALTER TABLE limited_series ADD CONSTRAINT no_guide CHECK (title <> 'The G.U.I.D.E.')")
        done = repair(db, CONDITIONS, "a test")
        assert "ck_scripts_selected_has_series" in not_in_force(db)
        assert [one.check for one in done if one.failed] == [
            "selected_scripts_have_series",
            "processed_periods_have_outcome",
            "processed_periods_are_over",
        ]


def test_a_table_that_somebody_keeps_costs_no_repair(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `CREATE INDEX CONCURRENTLY` keeps it for hours, and lets everybody write meanwhile."""
    monkeypatch.setattr(repairs, "LOCKED_S", 0.1)
    with database.begin() as db:
        script, _ = as_adopted(db)
    with database.begin() as builder, database.begin() as db:
        run(builder, "LOCK TABLE scripts, voting_periods IN SHARE UPDATE EXCLUSIVE MODE")
        done = repair(db, CONDITIONS, "a test")
    assert {one.failed for one in done if one.check == "schema"} == {
        "canceling statement due to lock timeout: repair again when nobody changes the table"
    }
    with database.begin() as db:
        assert broken(db) == {}
        assert status_of(db, script)[0] == "selected"
        assert not any(one.failed for one in repair(db, CONDITIONS, "a test"))
        assert not_in_force(db) == []


def test_who_does_not_own_the_tables_repairs_them_and_is_told_who_must_do_the_rest(
    database: Database, database_url: str
) -> None:
    role = f"operator_{uuid4().hex[:8]}"
    with database.begin() as db:
        as_adopted(db)
        run(db, f"CREATE ROLE {role} LOGIN")
        run(db, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        with database.begin() as db:
            run(db, f"SET LOCAL ROLE {role}")
            done = repair(db, CONDITIONS, "a test")
            run(db, "RESET ROLE")
            assert broken(db) == {}
    finally:
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    rules = [one for one in done if one.check == "schema"]
    assert len(rules) == 3
    assert all(str(one.failed).startswith("must be owner of table") for one in rules)
    assert not any(one.failed for one in done if one.check != "schema")
