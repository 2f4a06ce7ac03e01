from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.mending import Settlement, as_decided, early_reason, recorded_fate, settlement
from moltpipe.studio.records import Candidate, Period
from moltpipe.studio.voting import Fate, VotingRules

STARTS = datetime(2026, 2, 9, tzinfo=UTC)
ENDS = datetime(2026, 2, 16, tzinfo=UTC)
BEFORE, AFTER = ENDS - timedelta(days=10), ENDS + timedelta(days=10)
PERIOD = Period(uuid4(), "agent_voting", STARTS, ENDS, is_active=False, is_processed=True)
RULES = VotingRules()


def candidate(title: str, upvotes: int = 0, genre: str = "comedy") -> Candidate:
    return Candidate(uuid4(), title, genre, "molt", upvotes, 0, STARTS)


@pytest.mark.parametrize(
    ("decided", "recorded", "reason", "now", "expected"),
    [
        (False, False, None, BEFORE, Settlement.REOPEN),
        # A closing that chose nobody before the time was over decided nothing.
        (False, True, None, BEFORE, Settlement.REOPEN),
        (False, False, "the hall is needed", BEFORE, Settlement.CLOSE),
        (False, False, None, AFTER, Settlement.CLOSE),
        (False, True, None, AFTER, Settlement.RECORD),
        (True, False, None, BEFORE, Settlement.RECORD),
        (True, False, None, AFTER, Settlement.RECORD),
        (True, True, None, BEFORE, Settlement.RECORD),
    ],
)
def test_what_becomes_of_a_period_that_was_processed_by_hand(
    *, decided: bool, recorded: bool, reason: str | None, now: datetime, expected: Settlement
) -> None:
    period = replace(PERIOD, closed_early_reason=reason)
    assert settlement(period, decided=decided, recorded=recorded, now=now) is expected


@given(st.booleans(), st.booleans(), st.sampled_from([None, "why"]), st.sampled_from([BEFORE, ENDS, AFTER]))
def test_what_was_decided_is_never_taken_back(recorded: bool, decided: bool, reason: str | None, now: datetime) -> None:  # noqa: FBT001 - drawn by hypothesis
    period = replace(PERIOD, closed_early_reason=reason)
    if settlement(period, decided=decided, recorded=recorded, now=now) is not Settlement.RECORD:
        assert not decided


def test_who_closed_a_period_early_is_not_made_up() -> None:
    reason = early_reason(replace(PERIOD, processed_at=BEFORE), AFTER)
    assert reason == (
        "found by `moltpipe repair` at 2026-02-26 00:00:00 UTC: it was processed at 2026-02-06 00:00:00 UTC, "
        "before its end; by whom and why is not recorded"
    )
    assert "at a time that is not recorded" in str(early_reason(PERIOD, AFTER))


def test_a_period_that_says_it_was_processed_at_a_time_to_come_is_told_of_as_that() -> None:
    reason = str(early_reason(replace(PERIOD, processed_at=ENDS), BEFORE))
    assert "it is marked as processed at 2026-02-16 00:00:00 UTC, which is yet to come" in reason


def test_a_period_that_was_processed_in_time_or_with_a_reason_needs_none() -> None:
    assert early_reason(replace(PERIOD, processed_at=ENDS), AFTER) is None
    given = replace(PERIOD, processed_at=BEFORE, closed_early_reason="the hall is needed")
    assert early_reason(given, AFTER) == "the hall is needed"


def test_an_outcome_that_is_put_together_has_the_winners_of_the_rows_in_the_order_of_the_votes() -> None:
    loved, chosen, late = candidate("Loved", 9), candidate("Chosen", 1), candidate("Late", 4)
    fates = {loved.script_id: Fate.REJECTED, chosen.script_id: Fate.SELECTED, late.script_id: Fate.RETURNED}
    series_id = uuid4()
    period = replace(PERIOD, processed_at=BEFORE)
    outcome = as_decided(period, [chosen, late, loved], fates, RULES, {chosen.script_id: series_id}, AFTER)
    assert [(row.title, row.rank, row.fate) for row in outcome.ranking] == [
        ("Loved", 1, Fate.REJECTED),
        ("Late", 2, Fate.RETURNED),
        ("Chosen", 3, Fate.SELECTED),
    ]
    assert [(winner.title, winner.series_id) for winner in outcome.winners] == [("Chosen", series_id)]
    assert (outcome.reconstructed_at, outcome.votes, outcome.reason) == (AFTER, 14, None)
    assert outcome.closed_early_reason == early_reason(period, AFTER)
    assert outcome.summary.endswith("(put together afterwards, at 2026-02-26 00:00:00 UTC)")
    assert type(outcome).from_json(outcome.to_json()) == outcome


def test_an_outcome_without_a_winner_says_that_nobody_was_selected() -> None:
    lost = candidate("Lost", 1)
    outcome = as_decided(PERIOD, [lost], {lost.script_id: Fate.REJECTED}, RULES, {}, AFTER)
    assert (outcome.winners, outcome.reason) == ((), "none of its scripts is selected")


def test_a_winner_without_a_series_is_refused() -> None:
    orphan = candidate("The G.U.I.D.E.", 1)
    with pytest.raises(ValueError, match="expected a series for every winner"):
        as_decided(PERIOD, [orphan], {orphan.script_id: Fate.SELECTED}, RULES, {}, AFTER)


def test_the_fate_of_a_script_is_the_one_on_record() -> None:
    won, lost = candidate("Won", 2), candidate("Lost", 1)
    fates = {won.script_id: Fate.SELECTED, lost.script_id: Fate.REJECTED}
    document = as_decided(PERIOD, [won, lost], fates, RULES, {won.script_id: uuid4()}, AFTER).to_json()
    assert recorded_fate(document, won.script_id) is Fate.SELECTED
    assert recorded_fate(document, lost.script_id) is Fate.REJECTED
    assert recorded_fate(document, uuid4()) is Fate.RETURNED


def test_a_winner_on_record_won_whatever_else_the_record_lacks() -> None:
    document = {"winners": [7, {"script_id": str(UUID(int=7))}]}
    assert recorded_fate(document, UUID(int=7)) is Fate.SELECTED
    assert recorded_fate(document, UUID(int=8)) is Fate.RETURNED


@pytest.mark.parametrize("document", [None, [], "won", {}, {"winners": None}, {"winners": ["won"]}])
def test_an_outcome_that_nobody_can_read_decides_nothing(document: object) -> None:
    assert recorded_fate(document, UUID(int=7)) is Fate.RETURNED
