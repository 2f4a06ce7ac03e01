from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.audience import ClipOutcome, NothingToSelect, VariantVotes, agent_voter, decide, ranked
from moltpipe_tests.studio.making import NOON, period

VOTE = replace(period(NOON, NOON + timedelta(days=2), active=True, period_type="clip_voting"), episode_id=UUID(int=7))
KEY = "the-kettle-12345678-e01"
VOTES = st.lists(st.integers(0, 5), min_size=1, max_size=4)


def standing(*votes: int) -> list[VariantVotes]:
    """Variants from number 1 on with so many votes each."""
    return [
        VariantVotes(variant_id=uuid4(), variant_number=number, votes=count)
        for number, count in enumerate(votes, start=1)
    ]


@given(VOTES)
def test_the_selected_variant_has_the_most_votes_and_of_equals_the_lowest_number(votes: list[int]) -> None:
    selected = decide(VOTE, KEY, standing(*votes)).selected
    assert selected.votes == max(votes)
    assert selected.variant_number == votes.index(max(votes)) + 1


@given(VOTES, st.integers())
def test_the_order_in_which_variants_are_read_changes_nothing(votes: list[int], seed: int) -> None:
    variants = standing(*votes)
    shuffled = variants.copy()
    random.Random(seed).shuffle(shuffled)  # noqa: S311 (an order, not a secret)
    assert decide(VOTE, KEY, shuffled) == decide(VOTE, KEY, variants)


@given(VOTES)
def test_the_outcome_counts_every_vote_once_and_names_every_variant_once(votes: list[int]) -> None:
    outcome = decide(VOTE, KEY, standing(*votes))
    assert outcome.votes == sum(votes)
    assert sorted(one.variant_number for one in outcome.ranking) == list(range(1, len(votes) + 1))
    assert outcome.ranking[0] == outcome.selected


def test_variants_are_ranked_by_votes_then_by_number() -> None:
    assert [one.variant_number for one in ranked(standing(1, 3, 0, 3))] == [2, 4, 1, 3]


def test_without_a_vote_the_first_variant_is_selected() -> None:
    outcome = decide(VOTE, KEY, standing(0, 0, 0, 0))
    assert outcome.selected.variant_number == 1
    assert outcome.summary == f"nobody voted: variant 1 of {KEY} is selected, the lowest number"


@pytest.mark.parametrize(
    ("votes", "words"),
    [
        ((0, 1, 0, 0), "is selected with 1 of 1 vote"),
        ((1, 4, 2, 0), "is selected with 4 of 7 votes"),
        ((0, 2, 2, 0), "is selected with 2 of 4 votes, the lowest number of those that have as many"),
    ],
)
def test_the_outcome_says_in_one_line_what_was_selected_and_why(votes: tuple[int, ...], words: str) -> None:
    assert decide(VOTE, KEY, standing(*votes)).summary == f"variant 2 of {KEY} {words}"


def test_an_outcome_survives_the_ledger() -> None:
    outcome = decide(VOTE, KEY, standing(1, 2, 0, 2), closed_early_reason="the hall is needed")
    assert ClipOutcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome
    assert (outcome.period_id, outcome.episode_id) == (VOTE.id, VOTE.episode_id)
    assert outcome.closed_early_reason == "the hall is needed"


def test_nothing_is_selected_where_no_variant_stands() -> None:
    with pytest.raises(NothingToSelect, match=f"{KEY} has no variants"):
        decide(VOTE, KEY, [])


def test_a_vote_on_scripts_selects_no_variant() -> None:
    with pytest.raises(ValueError, match="expected a vote on the variants"):
        decide(period(NOON, NOON + timedelta(days=1)), KEY, standing(1))


def test_an_agent_of_any_name_keeps_apart_from_voters_of_other_kinds() -> None:
    assert agent_voter("orbit") == "agent:orbit"
    assert agent_voter("person:ada") == "agent:person:ada"
