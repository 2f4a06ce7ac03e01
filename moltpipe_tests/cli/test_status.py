from __future__ import annotations

from datetime import timedelta

from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import create_period
from moltpipe_tests.cli.conftest import Moltpipe, now
from moltpipe_tests.stories import a_series


def test_an_empty_ledger_has_the_whole_shape(moltpipe: Moltpipe) -> None:
    said = moltpipe("status", "--json")
    assert said.status == 0
    assert said.json == {
        "periods": [],
        "scripts": {"draft": 0, "submitted": 0, "voting": 0, "selected": 0, "rejected": 0},
        "series": [],
        "jobs": {"pending": 0, "running": 0, "failed": 0},
        "spend_usd": 0.0,
    }
    assert "moltpipe period create" in moltpipe("status").out


def test_every_episode_says_where_it_is_and_what_it_waits_for(moltpipe: Moltpipe, database: Database) -> None:
    episodes = a_series(database)
    document = moltpipe("status", "--json").json
    (series,) = document["series"]
    assert (series["title"], series["status"]) == ("The Buoy That Answered", "pending")
    assert series["episodes"] == [
        {
            "id": str(one.id),
            "episode_number": one.number,
            "partition_key": one.partition_key,
            "status": "pending",
            "variants_done": 0,
            "variants_wanted": one.variants_wanted,
            "waiting_for": "a free run",
        }
        for one in episodes
    ]
    assert document["jobs"] == {"pending": 5, "running": 0, "failed": 0}
    assert document["scripts"]["selected"] == 1
    assert document["periods"][0]["state"] == "processed"


def test_partition_keys_stand_whole_within_80_columns(moltpipe: Moltpipe, database: Database) -> None:
    episodes = a_series(database)
    lines = moltpipe("status").out.splitlines()
    assert max(map(len, lines)) <= 80
    for one in episodes:
        (line,) = (line for line in lines if one.partition_key in line.split())
        assert line.endswith(f"pending    0 of {one.variants_wanted}")


def test_of_many_past_periods_the_last_three_are_shown(moltpipe: Moltpipe, database: Database) -> None:
    with database.begin() as db:
        periods = [
            create_period(db, "agent_voting", now() - timedelta(days=10 - day), now() - timedelta(days=9 - day))
            for day in range(5)
        ]
    for period in periods:
        assert moltpipe("period", "close", period.id).status == 0
    said = moltpipe("status").out
    assert [str(period.id) in said for period in periods] == [False, False, True, True, True]
    assert "and 2 that were processed before" in said
