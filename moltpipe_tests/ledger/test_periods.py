from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.periods import (
    EndsBeforeStart,
    OutcomeMissing,
    OutcomeUnreadable,
    PeriodNotOver,
    PeriodOverlaps,
    ReasonMissing,
    SettingRefused,
    UnknownPeriodId,
    change_voting_settings,
    close_agent_vote,
    close_early,
    close_period,
    create_period,
    ensure_upcoming,
    get_outcome,
    get_period,
    list_periods,
    make_room,
    open_due_periods,
    unprocessed_periods,
    voting_settings,
)
from moltpipe.studio.voting import Cadence, VotingRules
from moltpipe_tests.ledger.beginnings import NOON, RULES, await_a_waiter, filed, hang_up, one, opened, series, vote

HOUR = timedelta(hours=1)
WRITTEN = ("limited_series", "episodes", "production_jobs")


def _counts(db: sa.Connection) -> dict[str, int]:
    return {table: one(db, f"SELECT count(*) FROM {table}") for table in WRITTEN}  # noqa: S608 (constants)


def _standing(db: sa.Connection) -> dict[str, str]:
    rows = db.execute(sa.text("SELECT title, pilot_status FROM scripts"))
    return {row.title: row.pilot_status for row in rows}


def test_closing_writes_winner_series_episodes_and_jobs(database: Database) -> None:
    with database.begin() as db:
        winner, loser, other_genre = filed(db, "Won"), filed(db, "Lost"), filed(db, "Elsewhere", genre="drama")
        period = opened(db)
        for script in (winner, loser, other_genre):
            vote(db, script.script_id, "orbit")
        vote(db, winner.script_id, "marrow")
    with database.begin() as db:
        outcome = close_agent_vote(db, period.id, RULES, period.ends_at)
    with database.begin() as db:
        assert _standing(db) == {"Won": "selected", "Lost": "rejected", "Elsewhere": "selected"}
        assert _counts(db) == {"limited_series": 2, "episodes": 10, "production_jobs": 10}
        jobs = db.execute(
            sa.text(
                "SELECT e.episode_number, j.job_type, j.priority, j.max_attempts, j.process_uuid "
                "FROM production_jobs j JOIN episodes e ON e.id = j.episode_id WHERE e.series_id = :id ORDER BY 1"
            ),
            {"id": outcome.winners[0].series_id},
        ).all()
        assert [tuple(job) for job in jobs] == [(1, "pilot_variants", 100, 3, None)] + [
            (number, "single_episode", 50, 3, None) for number in (2, 3, 4, 5)
        ]
        closed = get_period(db, period.id)
        assert (closed.is_active, closed.is_processed, closed.processed_at) == (False, True, period.ends_at)
        assert get_outcome(db, period.id) == outcome
    assert {winner.title for winner in outcome.winners} == {"Won", "Elsewhere"}


def test_a_second_closer_gets_the_same_outcome(database: Database) -> None:
    with database.begin() as db:
        script = filed(db)
        period = opened(db)
        vote(db, script.script_id)
    together = threading.Barrier(3)

    def close(_: int) -> Any:  # noqa: ANN401 (an Outcome, compared as a whole)
        together.wait()
        with database.begin() as db:
            return close_period(db, period.id, RULES, period.ends_at)

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(close, range(3))
    assert all(other == first for other in others)
    with database.begin() as db:
        assert _counts(db) == {"limited_series": 1, "episodes": 5, "production_jobs": 5}


def test_a_closer_that_waits_sees_what_the_other_one_decided(database: Database) -> None:
    with database.begin() as db:
        script = filed(db)
        period = opened(db)
        vote(db, script.script_id)

    def close() -> Any:  # noqa: ANN401 (an Outcome, compared as a whole)
        with database.begin() as db:
            return close_period(db, period.id, VotingRules(min_votes=9), period.ends_at + HOUR)

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            outcome = close_agent_vote(db, period.id, RULES, period.ends_at)
            second = pool.submit(close)
            await_a_waiter(db)
        assert second.result() == outcome


def test_a_crash_in_the_middle_of_a_closing_leaves_nothing(database: Database, database_url: str) -> None:
    with database.begin() as db:
        script = filed(db)
        period = opened(db)
        vote(db, script.script_id)

    def close_and_crash() -> None:
        with database.begin() as db:
            close_period(db, period.id, RULES, period.ends_at)
            assert _counts(db)["production_jobs"] == 5
            hang_up(db, database_url)

    with pytest.raises(DatabaseUnavailable):
        close_and_crash()
    with database.begin() as db:
        assert _counts(db) == dict.fromkeys(WRITTEN, 0)
        assert _standing(db) == {"The Buoy": "voting"}
        assert not get_period(db, period.id).is_processed
        assert len(close_agent_vote(db, period.id, RULES, period.ends_at).winners) == 1


@pytest.mark.parametrize("early", [timedelta(microseconds=1), timedelta(days=7)])
def test_a_period_is_not_closed_before_its_end(database: Database, early: timedelta) -> None:
    with database.begin() as db:
        filed(db)
        period = opened(db)
    with pytest.raises(PeriodNotOver) as refused, database.begin() as db:
        close_period(db, period.id, RULES, period.ends_at - early)
    assert refused.value.ends_at == period.ends_at
    with database.begin() as db:
        assert get_outcome(db, period.id) is None


@pytest.mark.parametrize("processed_at", ["NULL", "now()"])
def test_a_future_period_cannot_be_flipped_to_processed_by_hand(database: Database, processed_at: str) -> None:
    with database.begin() as db:
        period = create_period(db, "agent_voting", NOON + timedelta(days=36500), NOON + timedelta(days=36507))
    flip = f"UPDATE voting_periods SET is_processed = true, outcome = '{{}}', processed_at = {processed_at}"  # noqa: S608 (constants)
    with pytest.raises(sa.exc.IntegrityError, match="processed_when_over"), database.begin() as db:
        db.execute(sa.text(flip))
    with database.begin() as db:
        assert not get_period(db, period.id).is_processed


def test_a_script_cannot_be_selected_without_a_series(database: Database) -> None:
    with database.begin() as db:
        filed(db)
    with pytest.raises(sa.exc.IntegrityError, match="selected_has_series"), database.begin() as db:
        db.execute(sa.text("UPDATE scripts SET pilot_status = 'selected'"))


def test_closing_early_is_recorded_with_its_reason(database: Database) -> None:
    with database.begin() as db:
        script = filed(db)
        period = opened(db)
        vote(db, script.script_id)
        outcome = close_early(db, period.id, RULES, NOON + timedelta(minutes=5), "  the hall is needed ")
    with database.begin() as db:
        closed = get_period(db, period.id)
        assert (closed.is_processed, closed.closed_early_reason) == (True, "the hall is needed")
        assert outcome.closed_early_reason == "the hall is needed"
        assert _standing(db) == {"The Buoy": "selected"}
        assert close_period(db, period.id, RULES, NOON) == outcome


def test_closing_early_needs_a_reason(database: Database) -> None:
    with database.begin() as db:
        period = opened(db)
        with pytest.raises(ReasonMissing):
            close_early(db, period.id, RULES, NOON, "  ")
        assert not get_period(db, period.id).is_processed


def test_closing_early_what_is_over_is_a_usual_closing(database: Database) -> None:
    with database.begin() as db:
        period = opened(db)
        close_early(db, period.id, RULES, period.ends_at, "late")
        assert get_period(db, period.id).closed_early_reason is None


def test_a_tie_goes_to_the_earlier_submission(database: Database) -> None:
    with database.begin() as db:
        late, early = filed(db, "Late"), filed(db, "Early", now=NOON - HOUR)
        period = opened(db)
        for script in (late, early):
            vote(db, script.script_id)
        outcome = close_agent_vote(db, period.id, RULES, period.ends_at)
    assert [winner.title for winner in outcome.winners] == ["Early"]


def test_without_a_vote_all_scripts_wait_for_the_next_period(database: Database) -> None:
    with database.begin() as db:
        filed(db)
        period = opened(db)
        outcome = close_agent_vote(db, period.id, RULES, period.ends_at)
        assert (outcome.winners, _standing(db)) == ((), {"The Buoy": "submitted"})
        opened(db, period.ends_at)
        assert _standing(db) == {"The Buoy": "voting"}


def test_votes_below_the_threshold_select_nobody(database: Database) -> None:
    with database.begin() as db:
        script = filed(db)
        period = opened(db)
        vote(db, script.script_id, value=-1)
        outcome = close_agent_vote(db, period.id, RULES, period.ends_at)
        assert outcome.winners == ()
        assert outcome.reason is not None
        assert _standing(db) == {"The Buoy": "rejected"}
        assert _counts(db) == dict.fromkeys(WRITTEN, 0)


def test_a_period_that_was_never_opened_closes_with_nobody_in_it(database: Database) -> None:
    with database.begin() as db:
        period = create_period(db, "agent_voting", NOON, NOON + HOUR)
        outcome = close_agent_vote(db, period.id, RULES, period.ends_at)
    assert (outcome.ranking, outcome.winners) == ((), ())
    assert outcome.reason is not None


def test_a_script_whose_document_was_broken_by_hand_does_not_hold_up_the_vote(database: Database) -> None:
    with database.begin() as db:
        script = filed(db)
        period = opened(db)
        vote(db, script.script_id)
        db.execute(sa.text("UPDATE scripts SET script_data = '[]'"))
        assert len(close_agent_vote(db, period.id, RULES, period.ends_at).winners) == 1


def test_opening_takes_in_every_waiting_script_once(database: Database) -> None:
    with database.begin() as db:
        filed(db, "One"), filed(db, "Two", genre="drama")
        create_period(db, "agent_voting", NOON, NOON + HOUR)
        assert open_due_periods(db, NOON - HOUR) == []
        assert [period.is_active for period in open_due_periods(db, NOON)] == [True]
        filed(db, "Late")
        assert open_due_periods(db, NOON) == []
        assert _standing(db) == {"One": "voting", "Two": "voting", "Late": "submitted"}


def test_a_period_stays_scheduled_until_a_script_waits(database: Database) -> None:
    with database.begin() as db:
        create_period(db, "agent_voting", NOON, NOON + HOUR)
        assert open_due_periods(db, NOON) == []
        assert not list_periods(db)[0].is_active
        filed(db)
        assert len(open_due_periods(db, NOON)) == 1


def test_two_openers_at_once_open_once(database: Database) -> None:
    with database.begin() as db:
        filed(db)
        create_period(db, "agent_voting", NOON, NOON + HOUR)
    together = threading.Barrier(2)

    def open_(_: int) -> int:
        together.wait()
        with database.begin() as db:
            return len(open_due_periods(db, NOON))

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(open_, range(2))) == [0, 1]


def test_a_period_that_overlaps_is_refused_and_the_other_one_named(database: Database) -> None:
    with database.begin() as db:
        first = create_period(db, "agent_voting", NOON, NOON + HOUR)
        with pytest.raises(PeriodOverlaps) as refused:
            create_period(db, "agent_voting", NOON + HOUR / 2, NOON + 2 * HOUR)
        assert refused.value.other == first
        # The transaction goes on, and periods may touch.
        create_period(db, "agent_voting", NOON + HOUR, NOON + 2 * HOUR)
    with database.begin() as db:
        assert len(list_periods(db)) == 2


def test_votes_on_variants_stand_beside_those_on_scripts_and_beside_each_other(database: Database) -> None:
    with database.begin() as db:
        episodes = series(db)
        (agents,) = list_periods(db)
        for episode in episodes[:2]:
            create_period(db, "clip_voting", agents.starts_at, agents.ends_at, episode_id=episode.id)
        assert [period.episode_id for period in unprocessed_periods(db)].count(None) == 0
        assert len(unprocessed_periods(db)) == 2


def test_a_vote_on_variants_is_about_an_episode_and_one_on_scripts_is_not(database: Database) -> None:
    with database.begin() as db:
        episode = series(db)[0]
        for period_type, episode_id in (("clip_voting", None), ("agent_voting", episode.id)):
            with pytest.raises(ValueError, match="clip_voting"):
                create_period(db, period_type, NOON + HOUR, NOON + 2 * HOUR, episode_id=episode_id)


def test_a_period_must_last_and_its_times_must_have_a_zone(database: Database) -> None:
    with database.begin() as db:
        with pytest.raises(EndsBeforeStart):
            create_period(db, "agent_voting", NOON, NOON)
        with pytest.raises(ValueError, match="time zone"):
            create_period(db, "agent_voting", datetime(2026, 3, 2), NOON)  # noqa: DTZ001 (the point of the test)


def test_unknown_periods_are_named(database: Database) -> None:
    nowhere = uuid4()
    with database.begin() as db:
        for act in (
            lambda: get_period(db, nowhere),
            lambda: close_period(db, nowhere, RULES, NOON),
            lambda: close_early(db, nowhere, RULES, NOON, "why not"),
        ):
            with pytest.raises(UnknownPeriodId, match=str(nowhere)):
                act()


def test_a_period_processed_by_hand_without_an_outcome_is_not_taken_for_closed(database: Database) -> None:
    with database.begin() as db:
        period = create_period(db, "agent_voting", NOON, NOON + HOUR)
        db.execute(sa.text("ALTER TABLE voting_periods DROP CONSTRAINT ck_voting_periods_processed_with_outcome"))
        db.execute(sa.text("UPDATE voting_periods SET is_processed = true, processed_at = ends_at"))
        with pytest.raises(OutcomeMissing):
            close_period(db, period.id, RULES, period.ends_at)


def test_an_outcome_that_somebody_wrote_by_hand_is_told_as_that(database: Database) -> None:
    with database.begin() as db:
        period = create_period(db, "agent_voting", NOON, NOON + HOUR)
        db.execute(sa.text("UPDATE voting_periods SET is_processed = true, processed_at = ends_at, outcome = '{}'"))
        with pytest.raises(OutcomeUnreadable, match=f"period {period.id} cannot be read"):
            close_period(db, period.id, RULES, period.ends_at)
        with pytest.raises(OutcomeUnreadable):
            get_outcome(db, period.id)


def test_one_period_is_kept_ahead(database: Database) -> None:
    with database.begin() as db:
        made = ensure_upcoming(db, NOON)
        assert made is not None
        assert made.starts_at > NOON
        assert ensure_upcoming(db, NOON) is None


def test_two_that_look_ahead_at_once_make_one_period(database: Database) -> None:
    together = threading.Barrier(2)

    def look(_: int) -> bool:
        together.wait()
        with database.begin() as db:
            return ensure_upcoming(db, NOON) is not None

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(look, range(2))) == [False, True]


def test_settings_survive_and_others_stay(database: Database) -> None:
    with database.begin() as db:
        changed = change_voting_settings(db, cadence="daily", min_votes=3)
    with database.begin() as db:
        assert voting_settings(db) == changed
        assert (changed.cadence, changed.min_votes, changed.voting_minutes) == (Cadence.DAILY, 3, 1440)


@pytest.mark.parametrize(
    ("name", "value"), [("cadence", "hourly"), ("min_votes", 0), ("voting_minutes", 43201), ("tempo", 1)]
)
def test_a_setting_out_of_range_is_refused_by_name(database: Database, name: str, value: object) -> None:
    with database.begin() as db:
        before = voting_settings(db)
        with pytest.raises(SettingRefused) as refused:
            change_voting_settings(db, **{name: value})
        assert (refused.value.name, refused.value.value) == (name, value)
        assert voting_settings(db) == before


def test_room_is_made_only_where_nobody_stands(database: Database) -> None:
    with database.begin() as db:
        create_period(db, "agent_voting", NOON, NOON + HOUR)
        create_period(db, "agent_voting", NOON + HOUR, NOON + 3 * HOUR)
        make_room(db, NOON, NOON + 2 * HOUR)
        assert [(p.starts_at, p.ends_at) for p in list_periods(db)] == [(NOON + 2 * HOUR, NOON + 3 * HOUR)]
        filed(db)
        opened(db, hours=2)
        before = list_periods(db)
        make_room(db, NOON, NOON + HOUR)
        assert list_periods(db) == before
