from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice

import pytest
import sqlalchemy as sa

from moltpipe.ledger import calls
from moltpipe.ledger.accounts import block_account
from moltpipe.ledger.audience import cast_clip_vote, clip_vote_of, standing_of
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import claim_job, complete_job, fail_job, rest_job
from moltpipe.ledger.media import publish_variant, record_take, record_voiceover
from moltpipe.ledger.periods import close_early, create_period
from moltpipe.ledger.status import NEWEST, status
from moltpipe.studio.records import Episode
from moltpipe_tests.ledger.beginnings import (
    LEASE,
    NOON,
    RULES,
    claimed,
    filed,
    intent,
    one,
    series,
    stored,
    submitted,
)
from moltpipe_tests.ledger.big_studio import TAKES_PER_SERIES, fill


@pytest.fixture
def episodes(database: Database) -> list[Episode]:
    with database.begin() as db:
        return series(db)


def publish(db: sa.Connection, episode: Episode, variants: int | None = None) -> None:
    claim = claim_job(db, episode.partition_key, "run-1", LEASE)
    for number in range(1, (variants or episode.variants_wanted) + 1):
        publish_variant(
            db,
            claim,
            number,
            stored(f"{episode.partition_key}-{number}"),
            captions_key="c",
            thumbnail_key="t",
            duration_seconds=30,
            ingredients="i",
        )
    if variants is None:
        complete_job(db, claim)
    else:
        rest_job(db, claim)


def fail(db: sa.Connection, episode: Episode, times: int = 3) -> None:
    for _ in range(times):
        fail_job(db, claim_job(db, episode.partition_key, "run-9", LEASE), "the voice broke", NOON)


def test_the_document_has_the_shape_of_the_contract(database: Database, episodes: list[Episode]) -> None:
    with database.begin() as db:
        filed(db, "Waiting")
        create_period(db, "agent_voting", NOON + timedelta(days=7), NOON + timedelta(days=8))
        calls.mark_succeeded(db, submitted(db).id, Decimal("0.25"))
        document = json.loads(json.dumps(status(db, NOON)))
    assert [period["state"] for period in document["periods"]] == ["processed", "scheduled"]
    assert set(document["periods"][0]) == {"id", "period_type", "starts_at", "ends_at", "state", "episode"}
    assert (document["periods_left_out"], document["series_left_out"]) == (0, 0)
    assert document["scripts"] == {"draft": 0, "submitted": 1, "voting": 0, "selected": 1, "rejected": 0}
    (one_series,) = document["series"]
    assert (one_series["title"], one_series["status"]) == ("The Buoy", "pending")
    assert [episode["partition_key"] for episode in one_series["episodes"]] == [one.partition_key for one in episodes]
    assert set(one_series["episodes"][0]) == {
        "id",
        "episode_number",
        "partition_key",
        "status",
        "variants_done",
        "variants_wanted",
        "waiting_for",
        "progress",
        "variants",
        "selected_variant",
    }
    assert document["jobs"] == {"pending": 5, "running": 0, "failed": 0}
    assert document["calls"] == {"in_flight": 0, "ambiguous": []}
    assert document["engines"] == []
    assert (document["spend_usd"], document["reserved_usd"]) == (0.25, 0)


def test_every_episode_says_where_it_is_and_what_it_waits_for(database: Database, episodes: list[Episode]) -> None:
    with database.begin() as db:
        claim_job(db, episodes[0].partition_key, "run-1", LEASE)
        publish(db, episodes[1])
        fail(db, episodes[2])
        fail(db, episodes[3], times=1)
        document = status(db, NOON)
    told = document["series"][0]["episodes"]
    assert [one["status"] for one in told] == ["producing", "completed", "failed", "pending", "pending"]
    assert [(one["variants_done"], one["variants_wanted"]) for one in told[:2]] == [(0, 4), (1, 1)]
    waits = [one["waiting_for"] for one in told]
    assert waits[0] == "run run-1"
    assert waits[1] is None
    assert "the voice broke" in waits[2]
    assert "retry at" in waits[3]
    assert "the voice broke" in waits[3]
    assert document["jobs"] == {"pending": 2, "running": 1, "failed": 1}


def test_an_unfinished_episode_says_what_is_there_of_it(database: Database, episodes: list[Episode]) -> None:
    """What was made anew counts once."""
    with database.begin() as db:
        claim, shots = claimed(db, episodes[1])
        for again in range(2):
            record_voiceover(db, claim, shots[0].id, stored(f"voice-{again}.wav"), 3.0, [])
            for shot in shots[:2]:
                record_take(db, claim, shot.id, 1, stored(f"{shot.number}-{again}.mp4"), 5.0, {})
        publish(db, episodes[2])
        told = [one["progress"] for one in status(db, NOON)["series"][0]["episodes"]]
    assert told[1:3] == [{"shots": len(shots), "voiceovers": 1, "takes": 2, "takes_wanted": len(shots)}, None]


def test_what_is_reserved_is_told_and_counts_as_spent(database: Database) -> None:
    with database.begin() as db:
        calls.mark_succeeded(db, submitted(db).id, Decimal("0.25"))
        submitted(db)
        document = status(db, NOON)
    assert (document["spend_usd"], document["reserved_usd"]) == (1.25, 1)
    assert document["calls"]["in_flight"] == 1


def test_a_call_that_nobody_knows_of_is_told_and_its_episode_waits_for_a_person(
    database: Database, episodes: list[Episode]
) -> None:
    with database.begin() as db:
        mine, shots = claimed(db, episodes[1])
        first, second = (
            calls.claim_call(db, intent(episode_id=episodes[1].id, subject_id=shots[number].id)) for number in (3, 4)
        )
        for call in (first, second):
            calls.mark_submitting(db, call.id)
            calls.mark_ambiguous(db, call.id, "no answer")
        fail_job(db, mine, "no answer", NOON)
        claim_job(db, episodes[2].partition_key, "run-2", LEASE)
        document = json.loads(json.dumps(status(db, NOON)))
        left_at = calls.call_by_id(db, first.id).left_at
    assert left_at is not None
    assert document["calls"]["ambiguous"][0] == {
        "id": str(first.id),
        "engine": "camera",
        "episode": episodes[1].partition_key,
        "shot": 4,
        "since": left_at.isoformat(),
        "reserved_usd": 1,
        "error": "no answer",
    }
    assert document["calls"]["ambiguous"][1]["id"] == str(second.id)
    waits = [one["waiting_for"] for one in document["series"][0]["episodes"]]
    assert waits[1].startswith(f"a person: call {first.id} may have been accepted")
    assert waits[2] == "run run-2"
    assert "a person" not in waits[3]


def test_accounts_say_until_when_they_are_blocked_and_why(database: Database) -> None:
    with database.begin() as db:
        block_account(db, "api.example/1a2b", timedelta(minutes=1), "429: slow down")
        submitted(db)
        document = json.loads(json.dumps(status(db, NOON)))
        until = one(db, "SELECT blocked_until FROM engine_accounts")
    assert document["engines"] == [
        {"account": "api.example/1a2b", "in_flight": 1, "blocked_until": until.isoformat(), "why": "429: slow down"}
    ]


def test_a_pilot_is_completed_by_its_fourth_variant(database: Database, episodes: list[Episode]) -> None:
    with database.begin() as db:
        publish(db, episodes[0], variants=3)
        pilot = status(db, NOON)["series"][0]["episodes"][0]
        assert (pilot["status"], pilot["variants_done"]) == ("producing", 3)
        publish(db, episodes[0])
        pilot = status(db, NOON)["series"][0]["episodes"][0]
        assert (pilot["status"], pilot["variants_done"], pilot["waiting_for"]) == ("completed", 4, None)


@pytest.mark.parametrize(
    ("completed_failed_claimed", "expected"),
    [
        ((0, 0, 0), "pending"),
        ((0, 0, 1), "producing"),
        ((0, 1, 0), "producing"),
        ((1, 0, 0), "active"),
        ((1, 0, 2), "active"),
        ((3, 1, 1), "active"),
        ((4, 1, 0), "failed"),
        ((0, 5, 0), "failed"),
        ((5, 0, 0), "completed"),
    ],
)
def test_a_series_is_as_far_as_its_episodes(
    database: Database, episodes: list[Episode], completed_failed_claimed: tuple[int, int, int], expected: str
) -> None:
    completed, failed, claimed = completed_failed_claimed
    rest = iter(episodes)
    with database.begin() as db:
        for episode in islice(rest, completed):
            publish(db, episode)
        for episode in islice(rest, failed):
            fail(db, episode)
        for episode in islice(rest, claimed):
            claim_job(db, episode.partition_key, "run-1", LEASE)
        assert one(db, "SELECT status FROM series_progress") == expected


def test_an_episode_without_a_job_points_to_the_repair(database: Database, episodes: list[Episode]) -> None:
    with database.begin() as db:
        db.execute(sa.text("DELETE FROM production_jobs WHERE episode_id = :id"), {"id": episodes[4].id})
        assert "repair" in status(db, NOON)["series"][0]["episodes"][4]["waiting_for"]


def test_a_pilot_says_how_its_variants_stand_and_which_is_selected(database: Database, episodes: list[Episode]) -> None:
    pilot = episodes[0]
    with database.begin() as db:
        publish(db, pilot)
        publish(db, episodes[1])
        vote = clip_vote_of(db, pilot.id)
        assert vote is not None
        third = standing_of(db, pilot.id)[2].variant_id
        cast_clip_vote(db, third, "agent:a", vote.starts_at)
        before = json.loads(json.dumps(status(db, NOON)))
        close_early(db, vote.id, RULES, vote.starts_at, "the tests wait for nobody")
        after = status(db, NOON)["series"][0]["episodes"]
    told, other = before["series"][0]["episodes"][:2]
    assert told["variants"][2] == {"id": str(third), "variant_number": 3, "votes": 1, "is_selected": False}
    assert [one["votes"] for one in told["variants"]] == [0, 0, 1, 0]
    assert (told["selected_variant"], other["selected_variant"]) == (None, 1)
    assert [one["selected_variant"] for one in after] == [3, 1, None, None, None]
    about = {period["period_type"]: period["episode"] for period in before["periods"]}
    assert about == {"agent_voting": None, "clip_voting": pilot.partition_key}


def test_of_a_big_studio_all_that_is_unfinished_is_told_and_the_newest_of_the_rest(transaction: sa.Connection) -> None:
    studio = fill(transaction, scripts=500, takes=TAKES_PER_SERIES * 30)
    assert (studio.series, NEWEST) == (40, 20)
    document = status(transaction, datetime.now(UTC))
    states = Counter(series["status"] for series in document["series"])
    assert (states["completed"], sum(states.values())) == (20, 30)
    assert document["series_left_out"] == 10
    everything = status(transaction, datetime.now(UTC), everything=True)
    assert (len(everything["series"]), everything["series_left_out"], everything["periods_left_out"]) == (40, 0, 0)
    finished = [series for series in everything["series"] if series["status"] == "completed"]
    assert [series for series in document["series"] if series["status"] == "completed"] == finished[10:]
    assert document["jobs"] == everything["jobs"] == {"pending": 36, "running": 6, "failed": 0}
    processed = Counter(period["period_type"] for period in document["periods"] if period["state"] == "processed")
    assert processed == {"agent_voting": 8, "clip_voting": 20}
    assert document["periods_left_out"] == 12
    assert len(everything["periods"]) == len(document["periods"]) + 12
