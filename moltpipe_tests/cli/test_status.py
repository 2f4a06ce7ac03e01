from __future__ import annotations

from datetime import timedelta

from moltpipe.ledger.accounts import block_account
from moltpipe.ledger.calls import claim_call, mark_ambiguous, mark_submitting
from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import create_period
from moltpipe_tests.cli.conftest import Moltpipe, now
from moltpipe_tests.ledger.beginnings import claimed, intent, submitted
from moltpipe_tests.ledger.big_studio import TAKES_PER_SERIES, fill
from moltpipe_tests.stories import a_series


def test_an_empty_ledger_has_the_whole_shape(moltpipe: Moltpipe) -> None:
    said = moltpipe("status", "--json")
    assert said.status == 0
    assert said.json == {
        "periods": [],
        "periods_left_out": 0,
        "scripts": {"draft": 0, "submitted": 0, "voting": 0, "selected": 0, "rejected": 0},
        "series": [],
        "series_left_out": 0,
        "jobs": {"pending": 0, "running": 0, "failed": 0},
        "calls": {"in_flight": 0, "ambiguous": []},
        "engines": [],
        "spend_usd": 0.0,
        "reserved_usd": 0.0,
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
            "progress": {"shots": 0, "voiceovers": 0, "takes": 0, "takes_wanted": 0},
            "variants": [],
            "selected_variant": None,
        }
        for one in episodes
    ]
    assert document["jobs"] == {"pending": 5, "running": 0, "failed": 0}
    assert document["scripts"]["selected"] == 1
    assert document["periods"][0]["state"] == "processed"


def test_people_see_how_far_an_episode_is_once_it_has_a_script(moltpipe: Moltpipe, database: Database) -> None:
    episode = a_series(database)[1]
    assert " takes" not in moltpipe("status").out
    with database.begin() as db:
        _, shots = claimed(db, episode)
    assert f"    has {len(shots)} shots, 0 lines spoken, 0 of {len(shots)} takes\n" in moltpipe("status").out


def test_partition_keys_stand_whole_within_80_columns(moltpipe: Moltpipe, database: Database) -> None:
    episodes = a_series(database)
    lines = moltpipe("status").out.splitlines()
    assert max(map(len, lines)) <= 80
    for one in episodes:
        (line,) = (line for line in lines if one.partition_key in line.split())
        assert line.endswith(f"pending    0 of {one.variants_wanted}")


def test_people_see_paid_calls_only_where_there_is_something_to_see(moltpipe: Moltpipe, database: Database) -> None:
    episode = a_series(database)[1]
    before = moltpipe("status").out
    assert "spent: 0.00 USD\n" in before
    assert "call" not in before
    assert "account" not in before
    with database.begin() as db:
        submitted(db, episode_id=episode.id)
        call = claim_call(db, intent(episode_id=episode.id))
        mark_submitting(db, call.id)
        mark_ambiguous(db, call.id, "no answer")
        block_account(db, "api.example/1a2b", timedelta(minutes=1), "429: slow down")
    said = moltpipe("status").out
    assert f"{call.id}  camera  1.00 USD" in said
    assert f"for {episode.partition_key}, since " in said
    assert "    no answer\n" in said
    assert f"waits for a person: call {call.id} may have been accepted" in said
    (account,) = (line for line in said.splitlines() if line.startswith("api.example/1a2b"))
    assert account.endswith("429: slow down")
    assert "calls: 1 in flight" in said
    assert "spent: 2.00 USD, of which 2.00 are reserved" in said


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


def test_people_see_how_the_audience_votes_and_how_much_is_left_out(moltpipe: Moltpipe, database: Database) -> None:
    with database.begin() as db:
        fill(db, scripts=200, takes=TAKES_PER_SERIES * 22)
    said = moltpipe("status").out
    assert "    votes 1: 0, 2: 2, 3: 1, 4: 0\n" in said
    assert "    votes 1: 0, 2: 2 (selected), 3: 1, 4: 0\n" in said
    assert "and 2 series that are finished: `moltpipe status --all`" in said
    assert "  on the variants of the-story-no-" in said
    assert max(map(len, said.splitlines())) <= 80
    everything = moltpipe("status", "--all").out
    assert "left" not in everything
    assert "--all" not in everything
    assert everything.count(" · completed") == said.count(" · completed") + 2 == 22
    assert len(moltpipe("status", "--all", "--json").json["series"]) == 32
