"""How far a sweep has come and what it found, on a real PostgreSQL."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.media import publish_variant, record_score, record_take, record_voiceover
from moltpipe.ledger.schema import observations
from moltpipe.ledger.series import set_poster
from moltpipe.ledger.sweeps import (
    MEDIA_OBJECTS_ARE_THERE,
    OBJECTS,
    OBJECTS_ARE_KNOWN,
    PARTITION_KEYS,
    PARTITION_KEYS_FOLLOW_THE_RULE,
    begin_round,
    complete_round,
    expected_objects,
    keys_of_episodes,
    keys_of_periods,
    known_objects,
    load_sweep,
    move_on,
    observe_partition_keys,
    settle_observations,
    stop_at,
    successors,
)
from moltpipe.studio.keys import period_key
from moltpipe.studio.records import ClipSound
from moltpipe.studio.sweeping import AREAS, Expected, Stray, end_of
from moltpipe_tests.ledger.beginnings import NOON, claimed, opened, series, stored


def observed(db: Connection, check_name: str) -> dict[str, Any]:
    rows = db.execute(sa.select(observations).where(observations.c.check_name == check_name))
    return {row.subject: row.detail for row in rows}


def since(db: Connection, subject: str) -> datetime:
    at: datetime = db.execute(sa.select(observations.c.since).where(observations.c.subject == subject)).scalar_one()
    return at


def an_hour_ago(db: Connection) -> None:
    db.execute(sa.update(observations).values(since=observations.c.since - timedelta(hours=1)))


def some_media(db: Connection) -> None:
    """A row in every column that tells of an object."""
    episode = series(db)[1]
    claim, shots = claimed(db, episode)
    record_voiceover(db, claim, shots[0].id, stored("voiceovers/a.wav"), 3, [])
    sound = ClipSound(stored("takes/a.flac"), 5)
    record_take(db, claim, shots[0].id, 1, stored("takes/a.mp4"), 5, {}, sound=sound)
    record_take(db, claim, shots[1].id, 1, stored("takes/B.mp4"), 5, {})
    record_score(db, claim, stored("music/a.wav"), 60)
    publish_variant(
        db,
        claim,
        1,
        stored("episodes/x/variant-1-0123.mp4"),
        captions_key="episodes/x/variant-1-0123.vtt",
        thumbnail_key="episodes/x/variant-1-0123.jpg",
        duration_seconds=60,
        ingredients="",
    )
    set_poster(db, episode.series_id, stored("series/y/poster-0123.png"))


def everything(db: Connection, limit: int = 100) -> list[Expected]:
    return [one for area in AREAS for one in expected_objects(db, area, end_of(area), limit)]


def test_every_column_that_tells_of_an_object_is_read(transaction: Connection) -> None:
    some_media(transaction)
    assert [(one.key, one.table, one.bytes) for one in everything(transaction)] == [
        ("episodes/x/variant-1-0123.jpg", "clip_variants", None),
        ("episodes/x/variant-1-0123.mp4", "clip_variants", 1000),
        ("episodes/x/variant-1-0123.vtt", "clip_variants", None),
        ("music/a.wav", "scores", 1000),
        ("series/y/poster-0123.png", "limited_series", None),
        # In the order of bytes, whatever the database's locale says: capitals first.
        ("takes/B.mp4", "takes", 1000),
        ("takes/a.flac", "takes", 1000),
        ("takes/a.mp4", "takes", 1000),
        ("voiceovers/a.wav", "voiceovers", 1000),
    ]


def test_a_page_begins_behind_a_key_and_ends_at_its_limit(transaction: Connection) -> None:
    some_media(transaction)
    page = expected_objects(transaction, "takes/B.mp4", end_of("takes/"), 1)
    assert [one.key for one in page] == ["takes/a.flac"]


def test_a_key_is_known_whichever_column_it_stands_in(transaction: Connection) -> None:
    some_media(transaction)
    keys = {one.key for one in everything(transaction)}
    assert known_objects(transaction, [*keys, "takes/nobody.mp4"]) == keys
    assert known_objects(transaction, []) == set()


def test_a_cut_that_was_replaced_is_known_by_its_successor(transaction: Connection) -> None:
    some_media(transaction)
    stems = ["episodes/x/variant-1-", "series/y/poster-", "episodes/x/variant-2-", "series/z/poster-"]
    assert successors(transaction, stems) == {"episodes/x/variant-1-", "series/y/poster-"}
    assert successors(transaction, []) == set()


def test_every_page_is_read_from_indexes(transaction: Connection) -> None:
    """One sequential scan per page would make a round over a million takes a thousand of them."""
    transaction.execute(sa.text("SET LOCAL enable_seqscan = off"))
    plans: list[str] = []

    def explain(_: object, __: object, statement: str, parameters: dict[str, Any], *___: object) -> None:
        if "UNION ALL" in statement and not statement.startswith("EXPLAIN"):
            cursor = transaction.connection.cursor()
            cursor.execute(f"EXPLAIN {statement}", parameters)
            plans.extend(row[0] for row in cursor.fetchall())

    sa.event.listen(transaction, "before_cursor_execute", explain)
    expected_objects(transaction, "takes/", end_of("takes/"), 1000)
    indexes = {word for line in plans for word in line.split() if word.endswith("_bytewise")}
    assert len(indexes) == 8
    assert not any("Seq Scan" in line for line in plans)


def test_a_sweep_goes_on_where_it_stopped(transaction: Connection) -> None:
    assert load_sweep(transaction, OBJECTS) is None
    begin_round(transaction, OBJECTS)
    move_on(transaction, OBJECTS, "takes/b")
    sweep = load_sweep(transaction, OBJECTS)
    assert sweep is not None
    assert (sweep.cursor, sweep.under_way, sweep.completed_at) == ("takes/b", True, None)


def test_a_round_that_is_through_is_followed_by_one_from_the_first_key(transaction: Connection) -> None:
    begin_round(transaction, OBJECTS)
    move_on(transaction, OBJECTS, "takes/b")
    complete_round(transaction, OBJECTS)
    through = load_sweep(transaction, OBJECTS)
    assert through is not None
    assert not through.under_way
    begin_round(transaction, OBJECTS)
    again = load_sweep(transaction, OBJECTS)
    assert again is not None
    assert (again.cursor, again.under_way, again.completed_at) == ("", True, through.completed_at)


def test_a_sweep_that_cannot_go_on_says_why_until_it_can(transaction: Connection) -> None:
    stop_at(transaction, OBJECTS, "S3 is \x00 away")
    begin_round(transaction, OBJECTS)
    move_on(transaction, OBJECTS, "takes/b")
    stop_at(transaction, OBJECTS, "S3 is \x00 away")
    stopped = load_sweep(transaction, OBJECTS)
    assert stopped is not None
    assert (stopped.error, stopped.cursor, stopped.under_way) == ("S3 is \ufffd away", "takes/b", True)
    move_on(transaction, OBJECTS, "takes/c")
    going = load_sweep(transaction, OBJECTS)
    assert going is not None
    assert going.error is None


def test_what_is_found_again_keeps_its_time_and_what_is_not_vanishes(transaction: Connection) -> None:
    settle_observations(transaction, OBJECTS_ARE_KNOWN, {"takes/a": {"bytes": 1}, "takes/b": {"bytes": 2}})
    an_hour_ago(transaction)
    first = since(transaction, "takes/a")
    settle_observations(transaction, OBJECTS_ARE_KNOWN, {"takes/a": {"bytes": 9}, "takes/c": {"bytes": 3}})
    assert observed(transaction, OBJECTS_ARE_KNOWN) == {"takes/a": {"bytes": 9}, "takes/c": {"bytes": 3}}
    assert since(transaction, "takes/a") == first
    assert since(transaction, "takes/c") > first
    settle_observations(transaction, OBJECTS_ARE_KNOWN, {})
    assert observed(transaction, OBJECTS_ARE_KNOWN) == {}


def test_only_the_range_that_was_judged_is_settled(transaction: Connection) -> None:
    everywhere = {"takes/B": {"bytes": 1}, "takes/a": {"bytes": 1}, "takes/b": {"bytes": 1}}
    settle_observations(transaction, OBJECTS_ARE_KNOWN, everywhere)
    settle_observations(transaction, MEDIA_OBJECTS_ARE_THERE, {"takes/a": {"table": "takes"}})
    settle_observations(transaction, OBJECTS_ARE_KNOWN, {}, after="takes/B", up_to="takes/a")
    assert set(observed(transaction, OBJECTS_ARE_KNOWN)) == {"takes/B", "takes/b"}
    assert set(observed(transaction, MEDIA_OBJECTS_ARE_THERE)) == {"takes/a"}


def test_the_keys_of_the_ledger_are_those_that_dagster_is_given(transaction: Connection) -> None:
    episodes = series(transaction)
    period = opened(transaction, NOON + timedelta(days=7))
    assert keys_of_episodes(transaction) == {episode.partition_key for episode in episodes}
    assert period_key(period) in keys_of_periods(transaction)


def test_stray_partition_keys_are_observed_whatever_they_hold(transaction: Connection) -> None:
    strays = [Stray("moltpipe_episodes", "a,\nb\x00\ud800", "no key"), Stray("moltpipe_periods", "", "no key")]
    begin_round(transaction, PARTITION_KEYS)
    observe_partition_keys(transaction, strays)
    assert observed(transaction, PARTITION_KEYS_FOLLOW_THE_RULE) == {
        "moltpipe_episodes/a,\nb\ufffd?": {
            "partition_key": "a,\nb\ufffd?",
            "definition": "moltpipe_episodes",
            "what": "no key",
        },
        "moltpipe_periods/": {"partition_key": "", "definition": "moltpipe_periods", "what": "no key"},
    }
    sweep = load_sweep(transaction, PARTITION_KEYS)
    assert sweep is not None
    assert not sweep.under_way
    observe_partition_keys(transaction, [])
    assert observed(transaction, PARTITION_KEYS_FOLLOW_THE_RULE) == {}
