from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Literal
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import candidates, close_period
from moltpipe.ledger.votes import NotInVoting, OutsideWindow, OwnStudio, UnknownScript, cast_vote
from moltpipe_tests.ledger.beginnings import NOON, RULES, await_a_waiter, filed, one, opened

MINUTE = timedelta(minutes=1)


def test_a_vote_counts_changes_and_is_withdrawn(database: Database) -> None:
    with database.begin() as db:
        script = filed(db).script_id
        opened(db)
        ballots = [cast_vote(db, script, "orbit", value, NOON + MINUTE) for value in (1, -1, -1, 1)]
    assert [(ballot.kind, ballot.score) for ballot in ballots] == [
        ("cast", 1),
        ("changed", -1),
        ("withdrawn", 0),
        ("cast", 1),
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([-1, 1])), max_size=12))
def test_the_score_is_what_the_agents_said_last(database: Database, said: list[tuple[str, Literal[-1, 1]]]) -> None:
    standing: dict[str, int] = {}
    with database.begin() as db:
        script = filed(db).script_id
        period = opened(db)
        for agent, value in said:
            ballot = cast_vote(db, script, agent, value, NOON)
            if standing.get(agent) == value:
                del standing[agent]
            else:
                standing[agent] = value
            assert ballot.score == sum(standing.values())
        (candidate,) = candidates(db, period.id)
        assert candidate.score == sum(standing.values())
        assert candidate.votes == len(standing)
        db.execute(sa.text("TRUNCATE studios, voting_periods CASCADE"))


@pytest.mark.parametrize("moment", [-MINUTE, timedelta(hours=1), timedelta(days=1)])
def test_a_vote_outside_the_window_is_refused(database: Database, moment: timedelta) -> None:
    with database.begin() as db:
        script = filed(db).script_id
        period = opened(db)
    with pytest.raises(OutsideWindow) as refused, database.begin() as db:
        cast_vote(db, script, "orbit", 1, NOON + moment)
    assert (refused.value.starts_at, refused.value.ends_at) == (period.starts_at, period.ends_at)
    with database.begin() as db:
        assert one(db, "SELECT count(*) FROM script_votes") == 0


def test_the_window_includes_its_start(database: Database) -> None:
    with database.begin() as db:
        script = filed(db).script_id
        opened(db)
        assert cast_vote(db, script, "orbit", 1, NOON).kind == "cast"


def test_nobody_votes_on_their_own(database: Database) -> None:
    with database.begin() as db:
        script = filed(db, agent="molt").script_id
        opened(db)
        with pytest.raises(OwnStudio):
            cast_vote(db, script, "molt", 1, NOON)


def test_a_script_that_waits_takes_no_votes(database: Database) -> None:
    with database.begin() as db:
        script = filed(db).script_id
        with pytest.raises(NotInVoting) as refused:
            cast_vote(db, script, "orbit", 1, NOON)
        assert refused.value.status == "submitted"
        with pytest.raises(UnknownScript):
            cast_vote(db, uuid4(), "orbit", 1, NOON)


def test_two_votes_of_one_agent_at_once_are_one_after_the_other(database: Database) -> None:
    with database.begin() as db:
        script = filed(db).script_id
        opened(db)
    together = threading.Barrier(2)

    def cast(_: int) -> str:
        together.wait()
        with database.begin() as db:
            return cast_vote(db, script, "orbit", 1, NOON).kind

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(cast, range(2))) == ["cast", "withdrawn"]


def test_a_vote_waits_for_a_closing_and_finds_the_period_closed(database: Database) -> None:
    with database.begin() as db:
        script = filed(db).script_id
        period = opened(db)

    def late() -> None:
        with database.begin() as db:
            cast_vote(db, script, "orbit", 1, NOON + MINUTE)

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            outcome = close_period(db, period.id, RULES, period.ends_at)
            vote = pool.submit(late)
            await_a_waiter(db)
        with pytest.raises((OutsideWindow, NotInVoting)):
            vote.result()
    assert outcome.votes == 0
    with database.begin() as db:
        assert one(db, "SELECT count(*) FROM script_votes") == 0


def test_a_closing_waits_for_a_vote_and_counts_it(database: Database) -> None:
    with database.begin() as db:
        script = filed(db).script_id
        period = opened(db)

    def close() -> int:
        with database.begin() as db:
            return close_period(db, period.id, RULES, period.ends_at).votes

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            cast_vote(db, script, "orbit", 1, NOON + MINUTE)
            closing = pool.submit(close)
            await_a_waiter(db)
        assert closing.result() == 1
