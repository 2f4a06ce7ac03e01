from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import candidates, create_period
from moltpipe_tests.cli.conftest import Moltpipe, now
from moltpipe_tests.stories import a_filed_script, closed_vote


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
