from __future__ import annotations

import pytest

from moltpipe.studio.sentences import is_abbreviated

GOES_ON = [
    ("Then came Dr.", "Moreau"),
    ("(Mr.", "Orlo knew"),
    ("a lamp, e.g.", "The Moth"),
    ("cabin No.", "5 was empty"),
    ("on Nov.", "3 it stopped"),
    ("J.", "R. Orlo"),
    ("J. R.", "Orlo"),
    ("the U.S.", "Navy"),
    ("built by I.", "M. Pei"),
    ("ropes, nets, etc.", "and left"),
    ("at 3 a.m.", "somebody climbs"),
    ("said \u201cMrs.", "\u201cMoth\u201d Orlo"),
    ("\u00c9.", "Zola"),
]
ENDS = [
    ("Did he? No.", "Maybe"),
    ("Did he? No.", "no"),
    ("So did I.", "Then it rained"),
    ("They came at 3 a.m.", "Nobody spoke"),
    ("ropes, nets, etc.", "They left"),
    ("It was cold.", "He went"),
    ("That was the last.", "5 were left"),
    ("the kingdr.", "He went"),
    ("He is a Dr.", ""),
]


@pytest.mark.parametrize(("before", "after"), GOES_ON)
def test_a_stop_that_abbreviates_ends_no_sentence(before: str, after: str) -> None:
    assert is_abbreviated(before, after)


@pytest.mark.parametrize(("before", "after"), ENDS)
def test_a_stop_that_ends_a_sentence_is_no_abbreviation(before: str, after: str) -> None:
    assert not is_abbreviated(before, after)
