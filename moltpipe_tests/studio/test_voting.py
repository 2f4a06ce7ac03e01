from __future__ import annotations

import json
import random
from collections import Counter
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moltpipe.studio.records import Candidate, Period
from moltpipe.studio.voting import (
    ABOUT_TO_START,
    IMMEDIATE_DELAY,
    Cadence,
    Fate,
    Outcome,
    VotingRules,
    VotingSettings,
    WinnerScope,
    declare,
    may_vote,
    next_period,
    period_state,
    periods_to_close,
    periods_to_open,
    tally,
)
from moltpipe_tests.studio.making import NOON, candidate, period

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)

CANDIDATES = st.lists(
    st.builds(
        candidate,
        st.integers(0, 4),
        st.integers(0, 4),
        genre=st.sampled_from(["drama", "comedy", "sci_fi"]),
        at=st.integers(0, 2).map(lambda hours: NOON + hours * HOUR),
        script_id=st.uuids(),
    ),
    max_size=8,
    unique_by=lambda one: one.script_id,
)
RULES = st.builds(
    VotingRules,
    winner_scope=st.sampled_from(WinnerScope),
    min_votes=st.integers(1, 4),
    min_score=st.integers(-2, 4),
)


@given(candidates=CANDIDATES, rules=RULES, seed=st.integers())
def test_the_order_in_which_candidates_are_read_changes_nothing(
    candidates: list[Candidate], rules: VotingRules, seed: int
) -> None:
    shuffled = candidates.copy()
    random.Random(seed).shuffle(shuffled)  # noqa: S311 (an order, not a secret)
    assert tally(shuffled, rules) == tally(candidates, rules)


@given(candidates=CANDIDATES, rules=RULES)
def test_every_candidate_has_one_fate_and_every_scope_at_most_one_winner(
    candidates: list[Candidate], rules: VotingRules
) -> None:
    counted = tally(candidates, rules)
    fates = [*counted.winners, *counted.losers, *counted.returned]
    assert Counter(one.script_id for one in fates) == Counter(one.script_id for one in candidates)
    genres = [winner.genre for winner in counted.winners]
    assert len(genres) == len(set(genres))
    if rules.winner_scope is WinnerScope.PERIOD:
        assert len(genres) <= 1
    for winner in counted.winners:
        assert winner.votes >= rules.min_votes
        assert winner.score >= rules.min_score


@given(candidates=CANDIDATES, rules=RULES)
def test_nobody_who_could_win_ranks_before_a_winner(candidates: list[Candidate], rules: VotingRules) -> None:
    counted = tally(candidates, rules)
    won = {standing.scope: standing for standing in counted.ranking if standing.fate is Fate.SELECTED}
    for standing in counted.ranking:
        one = standing.candidate
        if one.votes >= rules.min_votes and one.score >= rules.min_score:
            assert won[standing.scope].rank <= standing.rank
            assert won[standing.scope].candidate.score >= one.score


@given(candidates=CANDIDATES, rules=RULES)
def test_scripts_return_exactly_when_nobody_voted(candidates: list[Candidate], rules: VotingRules) -> None:
    counted = tally(candidates, rules)
    nobody_voted = counted.votes == 0
    assert len(counted.returned) == (len(candidates) if nobody_voted else 0)


def test_ties_go_to_more_upvotes_then_to_the_earlier_then_to_the_smaller_id() -> None:
    loved = candidate(5, 3)
    early = candidate(3, 1, at=NOON - HOUR)
    small = candidate(3, 1, script_id=UUID(int=1))
    large = candidate(3, 1, script_id=UUID(int=2))
    ranking = tally([large, small, early, loved], VotingRules()).ranking
    assert [standing.candidate for standing in ranking] == [loved, early, small, large]
    assert [standing.rank for standing in ranking] == [1, 2, 3, 4]


def test_a_script_that_too_few_voted_on_is_passed_over() -> None:
    popular, best = candidate(4, 2), candidate(3, 0)
    counted = tally([popular, best], VotingRules(min_votes=4))
    assert counted.winners == (popular,)
    assert counted.losers == (best,)


def test_a_genre_without_a_vote_loses_where_others_were_voted_on() -> None:
    voted, ignored = candidate(1), candidate(genre="comedy")
    counted = tally([voted, ignored], VotingRules())
    assert (counted.winners, counted.losers, counted.returned) == ((voted,), (ignored,), ())


def outcome_of(*candidates: Candidate, rules: VotingRules | None = None) -> Outcome:
    rules = rules or VotingRules()
    counted = tally(candidates, rules)
    series_ids = {winner.script_id: uuid4() for winner in counted.winners}
    return declare(period(NOON - DAY, NOON), counted, rules, series_ids)


def test_an_outcome_survives_the_ledger() -> None:
    outcome = outcome_of(candidate(3, 1), candidate(1, 0, genre="comedy"), candidate(0, 2, genre="sci_fi"))
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome
    assert outcome.scopes_without_winner == ("sci_fi",)
    assert outcome.votes == 7
    assert outcome.reason is None
    assert "no winner in sci_fi" in outcome.summary


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ([], "no script stood"),
        ([candidate(), candidate()], "nobody voted"),
        ([candidate(1, 1), candidate(0, 3)], "thresholds"),
    ],
    ids=["nobody stood", "nobody voted", "nobody liked"],
)
def test_an_outcome_says_why_nobody_won(candidates: list[Candidate], words: str) -> None:
    outcome = outcome_of(*candidates)
    assert outcome.winners == ()
    assert words in (outcome.reason or "")
    assert outcome.summary == outcome.reason


def test_no_outcome_names_a_winner_without_a_series() -> None:
    counted = tally([candidate(1)], VotingRules())
    with pytest.raises(ValueError, match=str(counted.winners[0].script_id)):
        declare(period(NOON - DAY, NOON), counted, VotingRules(), {})


def test_rules_that_let_a_script_win_without_a_vote_are_refused() -> None:
    with pytest.raises(ValidationError):
        VotingRules(min_votes=0)


def test_a_period_opens_at_its_start_and_closes_at_its_end() -> None:
    due = period(NOON, NOON + HOUR)
    assert periods_to_open([due], NOON - SECOND) == []
    assert periods_to_open([due], NOON) == [due]
    assert periods_to_open([due], NOON + HOUR) == []
    assert periods_to_close([due], NOON + HOUR - SECOND) == []
    assert periods_to_close([due], NOON + HOUR) == [due]


def test_a_period_closes_whether_or_not_it_was_ever_opened_but_only_once() -> None:
    never_opened = period(NOON - 3 * HOUR, NOON - 2 * HOUR)
    open_ = period(NOON - HOUR, NOON, active=True)
    closed = period(NOON - 5 * HOUR, NOON - 4 * HOUR, processed=True)
    assert periods_to_close([open_, closed, never_opened], NOON) == [never_opened, open_]


def test_an_open_or_processed_period_is_not_opened_again() -> None:
    periods = [period(NOON - HOUR, NOON + HOUR, active=True), period(NOON - HOUR, NOON + HOUR, processed=True)]
    assert periods_to_open(periods, NOON) == []


def test_a_vote_counts_within_the_window_only() -> None:
    open_ = period(NOON, NOON + HOUR, active=True)
    assert "starts at 2026-02-09 12:00:00 UTC" in (may_vote(open_, NOON - SECOND) or "")
    assert may_vote(open_, NOON) is None
    assert may_vote(open_, NOON + HOUR - SECOND) is None
    assert "ended at 2026-02-09 13:00:00 UTC" in (may_vote(open_, NOON + HOUR) or "")
    assert "closed" in (may_vote(period(NOON, NOON + HOUR, processed=True), NOON) or "")


def test_a_period_is_scheduled_open_or_processed() -> None:
    periods = [
        period(NOON, NOON + HOUR),
        period(NOON, NOON + HOUR, active=True),
        period(NOON, NOON + HOUR, processed=True),
    ]
    assert [period_state(one) for one in periods] == ["scheduled", "open", "processed"]


WEEKLY = VotingSettings(cadence=Cadence.WEEKLY, start_weekday=2, start_hour_utc=18, voting_minutes=1440)
DAILY = VotingSettings(cadence=Cadence.DAILY, start_hour_utc=6, voting_minutes=60)
IMMEDIATE = VotingSettings(cadence=Cadence.IMMEDIATE, voting_minutes=30)
WEDNESDAY = datetime.fromisoformat("2026-02-11T18:00:00+00:00")


def test_a_weekly_period_starts_on_its_weekday_and_hour() -> None:
    assert next_period(WEEKLY, [], NOON) == (WEDNESDAY, WEDNESDAY + DAY)
    assert next_period(WEEKLY, [], WEDNESDAY) == (WEDNESDAY, WEDNESDAY + DAY)
    assert next_period(WEEKLY, [], WEDNESDAY + SECOND) == (WEDNESDAY + 7 * DAY, WEDNESDAY + 8 * DAY)


def test_a_daily_period_starts_on_its_hour() -> None:
    start = datetime.fromisoformat("2026-02-10T06:00:00+00:00")
    assert next_period(DAILY, [], NOON) == (start, start + HOUR)


def test_the_next_period_is_reckoned_in_utc_wherever_the_clock_is() -> None:
    tokyo = datetime.fromisoformat("2026-02-12T03:00:00+09:00")
    assert next_period(WEEKLY, [], tokyo) == (WEDNESDAY, WEDNESDAY + DAY)
    with pytest.raises(ValueError, match="no time zone"):
        next_period(WEEKLY, [], NOON.replace(tzinfo=None))


def test_one_period_is_kept_ahead_while_another_is_open() -> None:
    open_ = period(WEDNESDAY - 7 * DAY, WEDNESDAY, active=True)
    assert next_period(WEEKLY, [open_], NOON) == (WEDNESDAY, WEDNESDAY + DAY)
    assert next_period(WEEKLY, [open_, period(WEDNESDAY, WEDNESDAY + DAY)], NOON) is None


def test_a_processed_period_of_the_future_is_not_taken_for_the_next_one() -> None:
    processed = period(WEDNESDAY, WEDNESDAY + DAY, processed=True)
    assert next_period(WEEKLY, [processed], NOON) == (WEDNESDAY + 7 * DAY, WEDNESDAY + 8 * DAY)


def test_a_period_in_a_far_future_does_not_stop_the_rhythm() -> None:
    far = period(WEDNESDAY + 70 * DAY, WEDNESDAY + 71 * DAY)
    assert next_period(WEEKLY, [far], NOON) == (WEDNESDAY, WEDNESDAY + DAY)


def test_an_immediate_period_starts_within_seconds_when_none_is_open_or_near() -> None:
    start = NOON + IMMEDIATE_DELAY
    assert next_period(IMMEDIATE, [], NOON) == (start, start + HOUR / 2)
    assert next_period(IMMEDIATE, [period(NOON - 2 * HOUR, NOON)], NOON) == (start, start + HOUR / 2)
    assert next_period(IMMEDIATE, [period(NOON - HOUR, NOON + SECOND, active=True)], NOON) is None
    assert next_period(IMMEDIATE, [period(NOON + HOUR / 6, NOON + HOUR)], NOON) is None
    assert next_period(IMMEDIATE, [period(NOON + HOUR, NOON + 2 * HOUR)], NOON) == (start, start + HOUR / 2)


def test_a_short_immediate_period_is_not_squeezed_in_before_one_about_to_start() -> None:
    settings = VotingSettings(cadence=Cadence.IMMEDIATE, voting_minutes=1)
    assert next_period(settings, [period(NOON + ABOUT_TO_START, NOON + HOUR)], NOON) is None
    assert next_period(settings, [period(NOON + ABOUT_TO_START + SECOND, NOON + HOUR)], NOON) is not None


def test_an_immediate_period_follows_a_processed_one_that_lies_in_its_way() -> None:
    processed = period(NOON - HOUR, NOON + HOUR, processed=True)
    assert next_period(IMMEDIATE, [processed], NOON) == (NOON + HOUR, NOON + HOUR * 1.5)


def test_clip_votings_do_not_stand_in_the_way() -> None:
    clips = period(NOON - HOUR, NOON + 9 * DAY, active=True, period_type="clip_voting")
    assert next_period(IMMEDIATE, [clips], NOON) is not None


SETTINGS = st.builds(
    VotingSettings,
    cadence=st.sampled_from(Cadence),
    voting_minutes=st.integers(1, 43200),
    start_weekday=st.integers(0, 6),
    start_hour_utc=st.integers(0, 23),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Period]:
    """Periods around noon that do not overlap, as the database guarantees."""
    made = []
    at = NOON - timedelta(minutes=draw(st.integers(0, 30_000)))
    for _ in range(draw(st.integers(0, 5))):
        at += timedelta(minutes=draw(st.integers(0, 5_000)))
        ends_at = at + timedelta(minutes=draw(st.integers(1, 15_000)))
        made.append(period(at, ends_at, processed=draw(st.booleans())))
        at = ends_at
    return made


@given(settings=SETTINGS, periods=histories(), minutes=st.integers(0, 20_000))
def test_the_next_period_overlaps_none_and_only_one_is_made(
    settings: VotingSettings, periods: list[Period], minutes: int
) -> None:
    now = NOON + timedelta(minutes=minutes)
    made = next_period(settings, periods, now)
    if made is None:
        assert any(not one.is_processed and one.ends_at > now for one in periods)
        return
    starts_at, ends_at = made
    assert now <= starts_at
    assert ends_at - starts_at == timedelta(minutes=settings.voting_minutes)
    assert all(ends_at <= one.starts_at or one.ends_at <= starts_at for one in periods)
    if starts_at > now:  # one that starts this instant is running already, and the next one is made beside it
        assert next_period(settings, [*periods, period(starts_at, ends_at)], now) is None


@given(settings=SETTINGS, minutes=st.lists(st.integers(1, 3_000), max_size=30))
def test_ticking_never_piles_periods_up(settings: VotingSettings, minutes: list[int]) -> None:
    now, periods = NOON, list[Period]()
    for step in minutes:
        made = next_period(settings, periods, now)
        if made is not None:
            periods.append(period(*made))
        assert sum(one.starts_at > now for one in periods) <= 1
        now += timedelta(minutes=step)
