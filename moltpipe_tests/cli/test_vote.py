from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa

from moltpipe.ledger.audience import clip_vote_of, close_clip_vote, standing_of
from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import candidates, create_period
from moltpipe.studio.records import Episode, Variant
from moltpipe_tests.cli.conftest import Moltpipe, now
from moltpipe_tests.stories import a_claim, a_cut, a_filed_script, a_pilot_that_is_out, another_series, closed_vote


@pytest.fixture
def script_id(database: Database) -> str:
    """A script in a vote that is on, and that no sensor has opened."""
    script = a_filed_script(database)
    with database.begin() as db:
        create_period(db, "agent_voting", now() - timedelta(hours=1), now() + timedelta(hours=1))
    return str(script.script_id)


def test_a_vote_is_cast_changed_and_withdrawn(moltpipe: Moltpipe, script_id: str) -> None:
    def vote(way: str) -> tuple[str, int]:
        said = moltpipe("vote", script_id, "--agent", "orbit", way, "--json")
        assert said.status == 0
        return said.json["kind"], said.json["score"]

    assert vote("--up") == ("cast", 1)
    assert vote("--down") == ("changed", -1)
    assert vote("--down") == ("withdrawn", 0)


def test_people_read_where_the_script_stands(moltpipe: Moltpipe, script_id: str) -> None:
    moltpipe("vote", script_id, "--agent", "orbit", "--up")
    said = moltpipe("vote", script_id, "--agent", "marrow", "--down")
    assert said.out == "cast: the script stands at +0 (1 up, 1 down)\n"


def test_nobody_votes_for_a_script_of_their_own(moltpipe: Moltpipe, script_id: str) -> None:
    said = moltpipe("vote", script_id, "--agent", "voyager-of-sorts", "--up", "--json")
    assert (said.status, said.out) == (1, "")
    assert "nobody votes on their own" in said.err


def test_a_vote_before_the_window_is_refused_with_a_hint(moltpipe: Moltpipe, database: Database) -> None:
    script = a_filed_script(database)
    with database.begin() as db:
        create_period(db, "agent_voting", now() + timedelta(hours=1), now() + timedelta(hours=2))
    said = moltpipe("vote", script.script_id, "--agent", "orbit", "--up")
    assert (said.status, said.out) == (1, "")
    assert "moltpipe period list" in said.err


def test_a_vote_after_the_window_is_refused_though_nobody_closed_it(moltpipe: Moltpipe, database: Database) -> None:
    period = closed_vote(database)
    with database.begin() as db:
        (standing,) = candidates(db, period.id)
    said = moltpipe("vote", standing.script_id, "--agent", "late", "--up")
    assert said.status == 1
    assert "the voting period ended at" in said.err


def test_an_unknown_script_is_named(moltpipe: Moltpipe) -> None:
    script_id = uuid4()
    said = moltpipe("vote", script_id, "--agent", "orbit", "--up", "--json")
    assert (said.status, said.out) == (1, "")
    assert f"there is no script {script_id}" in said.err


@pytest.mark.parametrize(
    "words",
    [
        ["not-a-uuid", "--agent", "orbit", "--up"],
        [uuid4(), "--agent", "orbit"],
        [uuid4(), "--agent", "orbit", "--up", "--down"],
        [uuid4(), "--agent", "  ", "--up"],
        [uuid4(), "--agent", "x" * 201, "--up"],
        [uuid4(), "--agent", "\x1b[2J", "--up"],
        [uuid4(), "--up"],
    ],
)
def test_a_vote_that_says_nothing_clear_is_wrong_usage(moltpipe: Moltpipe, words: list[object]) -> None:
    said = moltpipe("vote", *words)
    assert (said.status, said.out) == (2, "")
    assert "moltpipe vote --help" in said.err


@pytest.fixture
def out(database: Database) -> tuple[Episode, list[Variant]]:
    """A pilot whose variants are voted on."""
    return a_pilot_that_is_out(database)


def test_a_vote_for_a_variant_is_cast_moved_and_the_same_again_changes_nothing(
    moltpipe: Moltpipe, out: tuple[Episode, list[Variant]]
) -> None:
    pilot, variants = out

    def vote(*words: object) -> dict[str, object]:
        said = moltpipe("vote", *words, "--agent", "orbit", "--json")
        assert said.status == 0
        return said.json

    assert vote("--variant", variants[2].id) == {
        "variant_id": str(variants[2].id),
        "episode": pilot.partition_key,
        "variant_number": 3,
        "agent": "orbit",
        "kind": "cast",
        "votes": [{"variant_number": number, "votes": int(number == 3)} for number in (1, 2, 3, 4)],
    }
    moved = vote(pilot.partition_key, "--variant", 2)
    assert (moved["kind"], moved["variant_id"], moved["variant_number"]) == ("moved", str(variants[1].id), 2)
    assert vote(pilot.id, "--variant", 2)["kind"] == "unchanged"
    withdrawn = vote(pilot.partition_key, "--withdraw")
    assert (withdrawn["kind"], withdrawn["variant_id"], withdrawn["variant_number"]) == ("withdrawn", None, None)
    assert vote(pilot.partition_key, "--withdraw")["kind"] == "unchanged"


def test_people_read_what_became_of_their_vote_and_where_the_variants_stand(
    moltpipe: Moltpipe, out: tuple[Episode, list[Variant]]
) -> None:
    key = out[0].partition_key
    moltpipe("vote", key, "--variant", 2, "--agent", "marrow")
    for words, told in (
        (("--variant", 2), f"cast for variant 2 of {key}: 1 has 0 votes, 2 has 2, 3 has 0, 4 has 0\n"),
        (("--variant", 3), f"moved to variant 3 of {key}: 1 has 0 votes, 2 has 1, 3 has 1, 4 has 0\n"),
        (
            ("--variant", 3),
            f"unchanged, your vote is for variant 3 of {key}: 1 has 0 votes, 2 has 1, 3 has 1, 4 has 0\n",
        ),
        (("--withdraw",), f"withdrawn from {key}: 1 has 0 votes, 2 has 1, 3 has 0, 4 has 0\n"),
        (("--withdraw",), f"unchanged, you have no vote on {key}: 1 has 0 votes, 2 has 1, 3 has 0, 4 has 0\n"),
    ):
        assert moltpipe("vote", key, *words, "--agent", "orbit").out == told


def test_agents_are_told_apart_from_voters_of_other_kinds(
    moltpipe: Moltpipe, database: Database, out: tuple[Episode, list[Variant]]
) -> None:
    moltpipe("vote", "--variant", out[1][0].id, "--agent", "orbit")
    with database.begin() as db:
        assert db.execute(sa.text("SELECT voter_key FROM clip_votes")).scalar_one() == "agent:orbit"


def test_an_agent_may_vote_on_the_variants_of_its_own_pilot(
    moltpipe: Moltpipe, out: tuple[Episode, list[Variant]]
) -> None:
    said = moltpipe("vote", out[0].partition_key, "--variant", 1, "--agent", "voyager-of-sorts")
    assert said.status == 0


def test_a_vote_on_variants_that_are_not_all_out_is_refused_with_a_hint(moltpipe: Moltpipe, database: Database) -> None:
    pilot = another_series(database, a_filed_script(database))[0]
    variant = a_cut(database, a_claim(database, pilot), 1)
    for words in ((pilot.partition_key, "--variant", 1), ("--variant", variant.id), (pilot.id, "--withdraw")):
        said = moltpipe("vote", *words, "--agent", "orbit", "--json")
        assert (said.status, said.out) == (1, "")
        assert "1 of 4 are out, and the vote opens with the last of them" in said.err
        assert "moltpipe period list" in said.err
    said = moltpipe("vote", pilot.partition_key, "--variant", 2, "--agent", "orbit")
    assert said.status == 1
    assert f"there is no variant 2 of {pilot.partition_key}: these are out: 1" in said.err


def test_a_vote_on_variants_after_its_closing_is_refused(
    moltpipe: Moltpipe, database: Database, out: tuple[Episode, list[Variant]]
) -> None:
    pilot, variants = out
    with database.begin() as db:
        period = clip_vote_of(db, pilot.id)
        assert period is not None
        close_clip_vote(db, period.id, now(), "the hall is needed")
    said = moltpipe("vote", "--variant", variants[0].id, "--agent", "late")
    assert (said.status, said.out) == (1, "")
    assert "closed and its outcome is recorded" in said.err
    with database.begin() as db:
        assert {one.votes for one in standing_of(db, pilot.id)} == {0}


@pytest.mark.parametrize("words", [("no-such-pilot-e01", "--variant", "1"), (str(uuid4()), "--withdraw")])
def test_an_unknown_episode_is_named(moltpipe: Moltpipe, words: tuple[str, ...]) -> None:
    said = moltpipe("vote", *words, "--agent", "orbit")
    assert (said.status, said.out) == (1, "")
    assert words[0] in said.err


def test_an_unknown_variant_is_named(moltpipe: Moltpipe) -> None:
    variant_id = uuid4()
    said = moltpipe("vote", "--variant", variant_id, "--agent", "orbit")
    assert (said.status, said.out) == (1, "")
    assert f"there is no variant {variant_id}" in said.err


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ([], "SCRIPT_ID"),
        (["--up"], "SCRIPT_ID"),
        (["a-pilot-e01", "--up"], "--variant N"),
        (["--withdraw"], "EPISODE"),
        (["--variant", "2"], "--variant"),
        (["a-pilot-e01", "--variant", "0"], "--variant"),
        (["a-pilot-e01", "--variant", "5"], "--variant"),
        (["a-pilot-e01", "--variant", "two"], "--variant"),
        (["a-pilot-e01", "--variant", "9" * 5000], "--variant"),
        (["a-pilot-e01", "--variant", uuid4()], "--variant"),
        (["a-pilot-e01", "--variant", "1", "--up"], "--up|--down"),
        (["a-pilot-e01", "--withdraw", "--down"], "--up|--down"),
        (["a-pilot-e01", "--variant", "1", "--withdraw"], "--withdraw"),
    ],
)
def test_words_of_both_votes_at_once_are_wrong_usage(moltpipe: Moltpipe, words: list[object], about: str) -> None:
    said = moltpipe("vote", *words, "--agent", "orbit")
    assert (said.status, said.out) == (2, "")
    assert about in said.err
