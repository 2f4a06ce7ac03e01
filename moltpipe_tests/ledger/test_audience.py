from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moltpipe.ledger.audience import (
    NoClipVote,
    UnknownVariant,
    cast_clip_vote,
    clip_vote_of,
    close_clip_vote,
    find_episode,
    find_variant,
    open_clip_vote,
    outcome_of,
    pilots_of,
    select_as_decided,
    served,
    standing_of,
    withdraw_clip_vote,
)
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.periods import (
    OtherVote,
    OutcomeMissing,
    PeriodNotOver,
    ReasonMissing,
    UnknownPeriodId,
    change_voting_settings,
    close_agent_vote,
    close_early,
    close_period,
    create_period,
    get_outcome,
    get_period,
    list_periods,
)
from moltpipe.ledger.production import UnknownEpisode, load_production
from moltpipe.ledger.series import episodes_of
from moltpipe.ledger.votes import OutsideWindow
from moltpipe.studio.audience import ClipOutcome, NothingToSelect, ranked
from moltpipe.studio.records import Episode, Period, Variant
from moltpipe_tests.ledger.beginnings import RULES, await_a_waiter, hang_up, one
from moltpipe_tests.stories import (
    a_claim,
    a_cut,
    a_filed_pack,
    a_filed_script,
    a_pilot_that_is_out,
    a_series,
    another_series,
)

HOUR = timedelta(hours=1)


@pytest.fixture
def out(database: Database) -> tuple[Episode, list[Variant]]:
    """A pilot whose variants are voted on."""
    return a_pilot_that_is_out(database)


@pytest.fixture
def pilot(out: tuple[Episode, list[Variant]]) -> Episode:
    return out[0]


@pytest.fixture
def variants(out: tuple[Episode, list[Variant]]) -> list[Variant]:
    return out[1]


@pytest.fixture
def vote(database: Database, pilot: Episode) -> Period:
    """The vote on them."""
    with database.begin() as db:
        return opened(db, pilot)


def opened(db: sa.Connection, pilot: Episode) -> Period:
    period = clip_vote_of(db, pilot.id)
    assert period is not None
    return period


def selected(db: sa.Connection, episode: Episode) -> list[int]:
    production = load_production(db, episode.partition_key)
    return [number for number, variant in production.variants.items() if variant.is_selected]


def counts(db: sa.Connection, pilot: Episode) -> list[int]:
    return [one.votes for one in standing_of(db, pilot.id)]


def at_once(count: int, act: Callable[[int], Any]) -> list[Any]:
    """What each of so many threads got that began in the same moment."""
    together = threading.Barrier(count)

    def begin(number: int) -> Any:  # noqa: ANN401 (whatever the act gives)
        together.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def test_the_vote_opens_with_the_last_variant_for_as_long_as_the_settings_say(database: Database) -> None:
    pilot = a_series(database)[0]
    claim = a_claim(database, pilot)
    with database.begin() as db:
        change_voting_settings(db, clip_voting_minutes=90)
    for number in (4, 2, 1):
        a_cut(database, claim, number)
        with database.begin() as db:
            assert clip_vote_of(db, pilot.id) is None
    before = datetime.now(UTC)
    a_cut(database, claim, 3)
    with database.begin() as db:
        period = opened(db, pilot)
        assert (period.period_type, period.episode_id, period.is_active) == ("clip_voting", pilot.id, True)
        assert before - timedelta(seconds=1) <= period.starts_at <= datetime.now(UTC)
        assert period.ends_at - period.starts_at == timedelta(minutes=90)
        assert selected(db, pilot) == []
        assert pilots_of(db) == pilots_of(db, unprocessed_only=True) == {period.id: pilot.partition_key}


def test_a_crash_while_the_last_variant_is_published_leaves_neither_it_nor_the_vote(
    database: Database, database_url: str
) -> None:
    pilot = a_series(database)[0]
    claim = a_claim(database, pilot)
    *_, last = [a_cut(database, claim, number) for number in (1, 2, 3, 4)]
    with database.begin() as db:
        db.execute(sa.text("DELETE FROM voting_periods WHERE period_type = 'clip_voting'"))
        db.execute(sa.text("DELETE FROM clip_variants WHERE variant_number = 4"))

    def publish_and_crash() -> None:
        with database.begin() as db:
            db.execute(
                sa.text(
                    "INSERT INTO clip_variants (episode_id, variant_number, video_key, sha256, bytes, "
                    "duration_seconds, captions_key, thumbnail_key) "
                    "VALUES (:episode, 4, :key, :sha256, 1000, 34.5, 'vtt', 'jpg')"
                ),
                {"episode": pilot.id, "key": last.video.key, "sha256": last.video.sha256},
            )
            assert open_clip_vote(db, pilot.id, datetime.now(UTC)) is not None
            hang_up(db, database_url)

    with pytest.raises(DatabaseUnavailable):
        publish_and_crash()
    with database.begin() as db:
        assert clip_vote_of(db, pilot.id) is None
        assert len(standing_of(db, pilot.id)) == 3
    a_cut(database, claim, 4)
    with database.begin() as db:
        opened(db, pilot)


def test_the_last_two_variants_published_at_once_open_one_vote(database: Database) -> None:
    pilot = a_series(database)[0]
    claim = a_claim(database, pilot)
    for number in (1, 2):
        a_cut(database, claim, number)
    at_once(2, lambda number: a_cut(database, claim, number + 3))
    with database.begin() as db:
        assert [period.episode_id for period in list_periods(db) if period.episode_id] == [pilot.id]


def test_two_that_open_the_vote_at_once_open_one(database: Database, pilot: Episode) -> None:
    with database.begin() as db:
        db.execute(sa.text("DELETE FROM voting_periods WHERE episode_id IS NOT NULL"))

    def open_(_: int) -> Period | None:
        with database.begin() as db:
            return open_clip_vote(db, pilot.id, datetime.now(UTC))

    assert sum(period is not None for period in at_once(3, open_)) == 1
    with database.begin() as db:
        opened(db, pilot)


def test_a_variant_made_again_opens_no_second_vote_and_keeps_votes_and_selection(
    database: Database, pilot: Episode, variants: list[Variant], vote: Period
) -> None:
    with database.begin() as db:
        cast_clip_vote(db, variants[1].id, "agent:orbit", vote.starts_at)
    again = a_cut(database, a_claim(database, pilot), 2, "a better cut")
    with database.begin() as db:
        assert (again.id, again.is_selected) == (variants[1].id, False)
        assert counts(db, pilot) == [0, 1, 0, 0]
        close_clip_vote(db, vote.id, vote.ends_at)
    assert a_cut(database, a_claim(database, pilot), 2, "the best cut").is_selected
    with database.begin() as db:
        assert selected(db, pilot) == [2]
        assert open_clip_vote(db, pilot.id, vote.ends_at) is None
        assert opened(db, pilot).id == vote.id


def test_an_episode_with_one_variant_is_not_voted_on(database: Database) -> None:
    episodes = a_series(database)
    a_cut(database, a_claim(database, episodes[1]), 1)
    narrated = another_series(database, a_filed_pack(database))[0]
    a_cut(database, a_claim(database, narrated), 1)
    with database.begin() as db:
        assert pilots_of(db) == {}
        for episode in (episodes[1], narrated):
            assert open_clip_vote(db, episode.id, datetime.now(UTC)) is None
            assert selected(db, episode) == [1]


def test_a_pilot_with_a_selected_variant_is_not_voted_on_afterwards(database: Database, pilot: Episode) -> None:
    with database.begin() as db:
        db.execute(sa.text("DELETE FROM voting_periods WHERE episode_id IS NOT NULL"))
        db.execute(sa.text("UPDATE clip_variants SET is_selected = true WHERE variant_number = 4"))
        assert open_clip_vote(db, pilot.id, datetime.now(UTC)) is None


def test_a_vote_is_cast_and_moves_and_the_same_again_changes_nothing(
    database: Database, pilot: Episode, variants: list[Variant], vote: Period
) -> None:
    with database.begin() as db:
        ballots = [
            cast_clip_vote(db, variants[number - 1].id, "agent:orbit", vote.starts_at + timedelta(minutes=minute))
            for minute, number in enumerate((2, 2, 3), start=1)
        ]
        assert [ballot.kind for ballot in ballots] == ["cast", "unchanged", "moved"]
        assert [[one.votes for one in ballot.standing] for ballot in ballots] == [
            [0, 1, 0, 0],
            [0, 1, 0, 0],
            [0, 0, 1, 0],
        ]
        assert {ballot.partition_key for ballot in ballots} == {pilot.partition_key}
        assert ballots[-1].variant == ballots[-1].standing[2]
        assert one(db, "SELECT cast_at FROM clip_votes") == vote.starts_at + timedelta(minutes=3)


def test_the_same_vote_again_keeps_its_time(database: Database, variants: list[Variant], vote: Period) -> None:
    with database.begin() as db:
        for minute in (1, 2):
            cast_clip_vote(db, variants[0].id, "agent:orbit", vote.starts_at + timedelta(minutes=minute))
        assert one(db, "SELECT cast_at FROM clip_votes") == vote.starts_at + timedelta(minutes=1)


def test_a_vote_is_withdrawn_whichever_variant_it_was_for(
    database: Database, pilot: Episode, variants: list[Variant], vote: Period
) -> None:
    with database.begin() as db:
        cast_clip_vote(db, variants[2].id, "agent:orbit", vote.starts_at)
        withdrawn = [withdraw_clip_vote(db, pilot.id, "agent:orbit", vote.starts_at) for _ in range(2)]
        assert [(ballot.kind, ballot.variant) for ballot in withdrawn] == [("withdrawn", None), ("unchanged", None)]
        assert counts(db, pilot) == [0, 0, 0, 0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["agent:a", "agent:b", "agent:c"]), st.integers(0, 4)), max_size=12))
def test_whatever_is_said_in_whichever_order_each_voter_has_one_vote_and_the_most_voted_is_selected(
    database: Database,
    pilot: Episode,
    variants: list[Variant],
    vote: Period,
    said: list[tuple[str, int]],
) -> None:
    """0 withdraws."""
    standing: dict[str, int] = {}
    with database.begin() as db:
        undone = db.begin_nested()
        for voter, number in said:
            if number:
                cast_clip_vote(db, variants[number - 1].id, voter, vote.starts_at)
                standing[voter] = number
            else:
                withdraw_clip_vote(db, pilot.id, voter, vote.starts_at)
                standing.pop(voter, None)
        expected = [list(standing.values()).count(number) for number in (1, 2, 3, 4)]
        assert counts(db, pilot) == expected
        outcome = close_clip_vote(db, vote.id, vote.ends_at)
        assert outcome.votes == len(standing)
        assert selected(db, pilot) == [outcome.selected.variant_number] == [expected.index(max(expected)) + 1]
        undone.rollback()


def test_one_voter_who_votes_for_everything_at_once_has_one_vote(
    database: Database, pilot: Episode, variants: list[Variant], vote: Period
) -> None:
    def cast(number: int) -> str:
        with database.begin() as db:
            return cast_clip_vote(db, variants[number].id, "agent:orbit", vote.starts_at).kind

    assert sorted(at_once(4, cast)) == ["cast", "moved", "moved", "moved"]
    with database.begin() as db:
        assert sum(counts(db, pilot)) == 1


def test_the_database_itself_keeps_a_voter_to_one_variant(database: Database, variants: list[Variant]) -> None:
    add = sa.text(
        "INSERT INTO clip_votes (clip_variant_id, episode_id, voter_key) "
        "SELECT id, episode_id, 'agent:orbit' FROM clip_variants WHERE id = :id"
    )
    with database.begin() as db:
        db.execute(add, {"id": variants[0].id})
    with pytest.raises(sa.exc.IntegrityError, match="uq_clip_votes_episode_id_voter_key"), database.begin() as db:
        db.execute(add, {"id": variants[1].id})


@pytest.mark.parametrize("moment", ["before", "at its end", "after"])
def test_a_vote_outside_the_window_is_refused(
    database: Database, pilot: Episode, variants: list[Variant], vote: Period, moment: str
) -> None:
    now = {"before": vote.starts_at - timedelta(seconds=1), "at its end": vote.ends_at, "after": vote.ends_at + HOUR}
    with database.begin() as db:
        acts: tuple[Callable[[], object], ...] = (
            lambda: cast_clip_vote(db, variants[0].id, "agent:orbit", now[moment]),
            lambda: withdraw_clip_vote(db, pilot.id, "agent:orbit", now[moment]),
        )
        for act in acts:
            with pytest.raises(OutsideWindow) as refused:
                act()
            assert (refused.value.starts_at, refused.value.ends_at) == (vote.starts_at, vote.ends_at)
        assert counts(db, pilot) == [0, 0, 0, 0]


def test_the_window_includes_its_start(database: Database, variants: list[Variant], vote: Period) -> None:
    with database.begin() as db:
        assert cast_clip_vote(db, variants[0].id, "agent:orbit", vote.starts_at).kind == "cast"


def test_a_vote_on_what_is_not_voted_on_says_why(database: Database, vote: Period) -> None:
    episodes = another_series(database, a_filed_script(database, 1))
    claim = a_claim(database, episodes[0])
    lonely = a_cut(database, claim, 1)
    only = a_cut(database, a_claim(database, episodes[1]), 1)
    with database.begin() as db:
        with pytest.raises(NoClipVote, match="1 of 4 are out"):
            cast_clip_vote(db, lonely.id, "agent:orbit", vote.starts_at)
        with pytest.raises(NoClipVote, match="it has only one"):
            cast_clip_vote(db, only.id, "agent:orbit", vote.starts_at)
        with pytest.raises(UnknownVariant):
            cast_clip_vote(db, uuid4(), "agent:orbit", vote.starts_at)
        with pytest.raises(UnknownEpisode):
            withdraw_clip_vote(db, uuid4(), "agent:orbit", vote.starts_at)
        with pytest.raises(UnknownVariant, match="these are out: 1"):
            find_variant(db, episodes[0], 2)


def test_who_cannot_vote_since_a_variant_was_selected_without_a_vote_is_told_so(
    database: Database, pilot: Episode
) -> None:
    with database.begin() as db:
        db.execute(sa.text("DELETE FROM voting_periods WHERE period_type = 'clip_voting'"))
        db.execute(sa.text("UPDATE clip_variants SET is_selected = true WHERE variant_number = 3"))
        with pytest.raises(NoClipVote, match="variant 3 was selected without a vote"):
            cast_clip_vote(db, find_variant(db, pilot, 1), "agent:orbit", datetime.now(UTC))


def test_an_episode_is_found_by_its_key_and_by_its_id(database: Database, pilot: Episode) -> None:
    with database.begin() as db:
        assert find_episode(db, pilot.partition_key) == find_episode(db, str(pilot.id)) == pilot
        with pytest.raises(UnknownEpisode, match="no-such-key"):
            find_episode(db, "no-such-key")


def test_closing_moves_the_selection_and_records_the_outcome(
    database: Database, pilot: Episode, variants: list[Variant], vote: Period
) -> None:
    with database.begin() as db:
        for voter, number in (("agent:a", 3), ("agent:b", 3), ("agent:c", 1)):
            cast_clip_vote(db, variants[number - 1].id, voter, vote.starts_at)
        db.execute(sa.text("UPDATE clip_variants SET is_selected = variant_number = 4 WHERE true"))
    with database.begin() as db:
        outcome = close_clip_vote(db, vote.id, vote.ends_at)
    with database.begin() as db:
        assert selected(db, pilot) == [3]
        closed = get_period(db, vote.id)
        assert (closed.is_active, closed.is_processed, closed.processed_at) == (False, True, vote.ends_at)
        assert closed.closed_early_reason is None
        assert get_outcome(db, vote.id) == outcome_of(db, pilot.id) == outcome
        assert (outcome.votes, outcome.selected.variant_id) == (3, variants[2].id)
        assert outcome.ranking == ranked(standing_of(db, pilot.id))


def test_either_door_closes_a_vote_on_variants(database: Database) -> None:
    doors: tuple[Callable[[sa.Connection, Period], object], ...] = (
        lambda db, vote: close_period(db, vote.id, RULES, vote.ends_at),
        lambda db, vote: close_early(db, vote.id, RULES, vote.starts_at, "  the hall is needed "),
    )
    reasons = []
    for number, close in enumerate(doors):
        pilot, _ = a_pilot_that_is_out(database, number)
        with database.begin() as db:
            outcome = close(db, opened(db, pilot))
            assert isinstance(outcome, ClipOutcome)
            assert selected(db, pilot) == [1]
            assert get_outcome(db, outcome.period_id) == outcome
            assert get_period(db, outcome.period_id).closed_early_reason == outcome.closed_early_reason
            reasons.append(outcome.closed_early_reason)
    assert reasons == [None, "the hall is needed"]


def test_a_vote_on_variants_is_not_closed_before_its_end(database: Database, pilot: Episode, vote: Period) -> None:
    early = vote.ends_at - timedelta(microseconds=1)
    with database.begin() as db:
        with pytest.raises(PeriodNotOver):
            close_clip_vote(db, vote.id, early)
        with pytest.raises(PeriodNotOver):
            close_period(db, vote.id, RULES, early)
        with pytest.raises(ReasonMissing):
            close_clip_vote(db, vote.id, early, " ")
        assert (outcome_of(db, pilot.id), selected(db, pilot)) == (None, [])
        assert close_clip_vote(db, vote.id, vote.ends_at, "late").closed_early_reason is None


def test_the_kinds_of_vote_are_not_taken_for_each_other(database: Database, vote: Period) -> None:
    with database.begin() as db:
        scripts = create_period(db, "agent_voting", vote.starts_at, vote.ends_at)
        with pytest.raises(OtherVote, match="expected clip_voting"):
            close_clip_vote(db, scripts.id, vote.ends_at)
        with pytest.raises(OtherVote, match="expected agent_voting"):
            close_agent_vote(db, vote.id, RULES, vote.ends_at)
        with pytest.raises(UnknownPeriodId):
            close_clip_vote(db, uuid4(), vote.ends_at)


def test_closers_at_once_get_one_outcome(database: Database, pilot: Episode, vote: Period) -> None:
    def close(number: int) -> Any:  # noqa: ANN401 (a ClipOutcome, compared as a whole)
        with database.begin() as db:
            return close_clip_vote(db, vote.id, vote.ends_at + timedelta(seconds=number))

    first, *others = at_once(3, close)
    assert all(other == first for other in others)
    with database.begin() as db:
        assert selected(db, pilot) == [1]


def test_a_closer_that_waits_sees_what_the_other_one_decided(
    database: Database, variants: list[Variant], vote: Period
) -> None:
    def close() -> ClipOutcome:
        with database.begin() as db:
            return close_clip_vote(db, vote.id, vote.starts_at, "late to the party")

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            cast_clip_vote(db, variants[1].id, "agent:orbit", vote.starts_at)
            outcome = close_clip_vote(db, vote.id, vote.ends_at)
            second = pool.submit(close)
            await_a_waiter(db)
        assert second.result() == outcome


def test_a_closing_waits_for_a_vote_and_counts_it(database: Database, variants: list[Variant], vote: Period) -> None:
    def close() -> int:
        with database.begin() as db:
            return close_clip_vote(db, vote.id, vote.ends_at).selected.variant_number

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            cast_clip_vote(db, variants[3].id, "agent:orbit", vote.starts_at)
            closing = pool.submit(close)
            await_a_waiter(db)
        assert closing.result() == 4


def test_a_vote_waits_for_a_closing_and_finds_the_vote_closed(
    database: Database, pilot: Episode, variants: list[Variant], vote: Period
) -> None:
    def late() -> None:
        with database.begin() as db:
            cast_clip_vote(db, variants[3].id, "agent:orbit", vote.starts_at)

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            outcome = close_clip_vote(db, vote.id, vote.ends_at)
            ballot = pool.submit(late)
            await_a_waiter(db)
        with pytest.raises(OutsideWindow, match="closed"):
            ballot.result()
    assert outcome.votes == 0
    with database.begin() as db:
        assert counts(db, pilot) == [0, 0, 0, 0]


def test_a_crash_in_the_middle_of_a_closing_leaves_nothing(
    database: Database, database_url: str, pilot: Episode, vote: Period
) -> None:
    def close_and_crash() -> None:
        with database.begin() as db:
            close_clip_vote(db, vote.id, vote.ends_at)
            hang_up(db, database_url)

    with pytest.raises(DatabaseUnavailable):
        close_and_crash()
    with database.begin() as db:
        assert (selected(db, pilot), get_period(db, vote.id).is_processed) == ([], False)


def test_a_vote_whose_variants_are_gone_stays_open_and_says_so(
    database: Database, pilot: Episode, vote: Period
) -> None:
    with database.begin() as db:
        db.execute(sa.text("DELETE FROM clip_variants"))
    with pytest.raises(NothingToSelect, match=pilot.partition_key), database.begin() as db:
        close_clip_vote(db, vote.id, vote.ends_at)
    with database.begin() as db:
        assert not get_period(db, vote.id).is_processed


def test_a_vote_processed_by_hand_without_an_outcome_is_not_taken_for_closed(
    database: Database, pilot: Episode, variants: list[Variant], vote: Period
) -> None:
    with database.begin() as db:
        cast_clip_vote(db, variants[1].id, "agent:orbit", vote.starts_at)
        db.execute(sa.text("ALTER TABLE voting_periods DROP CONSTRAINT ck_voting_periods_processed_with_outcome"))
        db.execute(
            sa.text(
                "UPDATE voting_periods SET is_processed = true, is_active = false, processed_at = ends_at "
                "WHERE episode_id IS NOT NULL"
            )
        )
        reads: tuple[Callable[[], object], ...] = (
            lambda: close_period(db, vote.id, RULES, vote.ends_at),
            lambda: get_outcome(db, vote.id),
            lambda: outcome_of(db, pilot.id),
        )
        for read in reads:
            with pytest.raises(OutcomeMissing):
                read()
        # The way out: the votes are counted and that is recorded.
        assert select_as_decided(db, vote.id) == get_outcome(db, vote.id)
        assert selected(db, pilot) == [2]


def test_a_selection_that_was_taken_away_comes_back_as_it_was_decided(
    database: Database, pilot: Episode, variants: list[Variant], vote: Period
) -> None:
    with database.begin() as db:
        cast_clip_vote(db, variants[1].id, "agent:orbit", vote.starts_at)
        with pytest.raises(ValueError, match="expected one that was decided"):
            select_as_decided(db, vote.id)
        outcome = close_clip_vote(db, vote.id, vote.ends_at)
        # Votes that somebody removed since do not change what was decided.
        db.execute(sa.text("DELETE FROM clip_votes"))
        for damage in ("is_selected = false", "is_selected = (variant_number = 4)"):
            db.execute(sa.text("UPDATE clip_variants SET is_selected = false"))
            db.execute(sa.text(f"UPDATE clip_variants SET {damage}"))  # noqa: S608 (constants)
            assert select_as_decided(db, vote.id) == outcome
            assert selected(db, pilot) == [2]


def test_where_the_decided_variant_is_gone_the_votes_are_counted_again(
    database: Database, pilot: Episode, variants: list[Variant], vote: Period
) -> None:
    with database.begin() as db:
        for voter, number in (("agent:a", 2), ("agent:b", 2), ("agent:c", 3)):
            cast_clip_vote(db, variants[number - 1].id, voter, vote.starts_at)
        close_clip_vote(db, vote.id, vote.ends_at)
        db.execute(sa.text("DELETE FROM clip_votes WHERE clip_variant_id = :id"), {"id": variants[1].id})
        db.execute(sa.text("DELETE FROM clip_variants WHERE id = :id"), {"id": variants[1].id})
        outcome = select_as_decided(db, vote.id)
        assert (outcome.selected.variant_number, selected(db, pilot)) == (3, [3])
        assert get_outcome(db, vote.id) == outcome


def test_a_series_serves_what_is_selected_and_a_pilot_only_after_its_vote(
    database: Database, pilot: Episode, variants: list[Variant], vote: Period
) -> None:
    with database.begin() as db:
        episodes = episodes_of(db, pilot.series_id)
    second = a_cut(database, a_claim(database, episodes[1]), 1)
    with database.begin() as db:
        assert [(one.episode_number, one.video_key) for one in served(db, pilot.series_id)] == [(2, second.video.key)]
        cast_clip_vote(db, variants[2].id, "agent:orbit", vote.starts_at)
        close_clip_vote(db, vote.id, vote.ends_at)
        shown = served(db, pilot.series_id)
        assert [(one.episode_number, one.variant_number) for one in shown] == [(1, 3), (2, 1)]
        assert (shown[0].clip_variant_id, shown[0].partition_key) == (variants[2].id, pilot.partition_key)
        assert shown[0].video_key == variants[2].video.key
        assert served(db, uuid4()) == []
