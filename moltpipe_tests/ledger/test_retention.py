"""What a prune reads of the ledger and takes away, on a real PostgreSQL."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.calls import claim_call, mark_ingested, mark_submitted, mark_submitting, mark_succeeded
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import complete_job
from moltpipe.ledger.media import publish_variant, record_score, record_take, record_voiceover
from moltpipe.ledger.production import load_production
from moltpipe.ledger.retention import (
    FIRST,
    KINDS,
    Kind,
    departures_page,
    hold_idle,
    old_incidents,
    old_news,
    remove_incidents,
    retire,
    strangers,
    superseded_page,
)
from moltpipe.ledger.schema import alerts, departures, incidents, scores, takes, voiceovers
from moltpipe.studio.records import Claim, Episode, Production, Shot
from moltpipe.studio.retention import Medium, Pruned, medium_may_go
from moltpipe.studio.sweeping import Listed
from moltpipe_tests.ledger.beginnings import claimed, everything, intent, one, series, stored, submitted
from moltpipe_tests.ledger.big_studio import fill

TAKES, VOICEOVERS, MUSIC = KINDS
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def made_twice(db: Connection, episode: Episode | None = None) -> tuple[Claim, Shot]:
    """An episode of which everything was made twice before it was cut; nobody works on it any more."""
    claim, shots = claimed(db, episode or series(db)[1])
    shot = shots[0]
    for number in (1, 2):
        record_take(db, claim, shot.id, 1, stored(f"takes/{shot.id}/1-{number}.mp4"), 5, {})
        record_voiceover(db, claim, shot.id, stored(f"voiceovers/{shot.id}/{number}.wav"), 3, [])
        record_score(db, claim, stored(f"music/{claim.episode_id}/{number}.wav"), 60)
    publish_variant(
        db,
        claim,
        1,
        stored(f"episodes/{claim.episode_id}/variant-1-{'a' * 12}.mp4"),
        captions_key=f"episodes/{claim.episode_id}/variant-1-{'a' * 12}.vtt",
        thumbnail_key=f"episodes/{claim.episode_id}/variant-1-{'a' * 12}.jpg",
        duration_seconds=60,
        ingredients="",
    )
    complete_job(db, claim)
    return claim, shot


def superseded(db: Connection, kind: Kind) -> list[Medium]:
    found, more = superseded_page(db, kind, after=FIRST, limit=100)
    assert more is None
    return found


def soon(db: Connection) -> datetime:
    moment: datetime = one(db, "SELECT clock_timestamp() + interval '1 second'")
    return moment


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_of_what_was_made_twice_the_first_is_superseded(transaction: Connection, kind: Kind) -> None:
    claim, _ = made_twice(transaction)
    (medium,) = superseded(transaction, kind)
    assert (medium.take_number, medium.used_number, medium.episode_id) == (1, 2, claim.episode_id)
    assert not medium.is_in_work
    assert medium_may_go(medium, soon(transaction))


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_as_long_as_a_run_has_the_episode_it_is_in_work(transaction: Connection, kind: Kind) -> None:
    claim, _ = made_twice(transaction)
    assert hold_idle(transaction, [claim.episode_id]) == {claim.episode_id}
    transaction.execute(
        sa.text("UPDATE production_jobs SET process_uuid = 'r', claimed_at = now() WHERE episode_id = :id"),
        {"id": claim.episode_id},
    )
    (medium,) = superseded(transaction, kind)
    assert medium.is_in_work
    assert hold_idle(transaction, [claim.episode_id]) == set()


def test_pages_of_superseded_media_cover_every_row_once(transaction: Connection) -> None:
    made_twice(transaction)
    seen: list[UUID] = []
    after: UUID | None = FIRST
    while after is not None:
        page, after = superseded_page(transaction, VOICEOVERS, after=after, limit=1)
        seen += [medium.id for medium in page]
    assert seen == [medium.id for medium in superseded(transaction, VOICEOVERS)]


def test_what_is_retired_leaves_its_objects_to_depart(transaction: Connection) -> None:
    _, shot = made_twice(transaction)
    for kind in KINDS:
        retire(transaction, kind, superseded(transaction, kind))
    assert [superseded(transaction, kind) for kind in KINDS] == [[], [], []]
    assert {one.key for one in departures_page(transaction, after="", limit=9)} >= {
        f"takes/{shot.id}/1-1.mp4",
        f"voiceovers/{shot.id}/1.wav",
    }


def test_a_number_that_was_retired_never_comes_again(transaction: Connection) -> None:
    """Not even when a person has the last one made anew, whose row is taken away for that."""
    claim, shot = made_twice(transaction)
    for kind in KINDS:
        retire(transaction, kind, superseded(transaction, kind))
    for table in (takes, voiceovers, scores):
        transaction.execute(sa.delete(table))
    production = load_production(transaction, claim.partition_key)
    assert _next_numbers(production, shot) == [2, 2, 2]
    claim, _ = claimed(transaction, production.episode)
    assert [
        record_take(transaction, claim, shot.id, 1, stored("takes/new.mp4"), 5, {}).take_number,
        record_voiceover(transaction, claim, shot.id, stored("voiceovers/new.wav"), 3, []).take_number,
        record_score(transaction, claim, stored("music/new.wav"), 60).take_number,
    ] == [2, 2, 2]


def _next_numbers(production: Production, shot: Shot) -> list[int]:
    return [
        production.next_number(production.takes.get((shot.id, 1)), shot.id, 1),
        production.next_number(production.voiceovers.get(shot.id), shot.id),
        production.next_number(production.score, production.episode.id),
    ]


def test_what_a_call_delivered_stays_as_long_as_anything_was_made_of_it(transaction: Connection) -> None:
    """A line that two shots share is spoken once."""
    claim, shot = made_twice(transaction)
    call = submitted(transaction)
    arrived = {"media": {"key": "arrivals/a.bin", "sha256": "a" * 64, "bytes": 7}}
    transaction.execute(
        sa.text("UPDATE provider_jobs SET state = 'ingested', result = :result WHERE id = :id").bindparams(
            sa.bindparam("result", type_=sa.JSON)
        ),
        {"result": arrived, "id": call.id},
    )
    transaction.execute(sa.update(voiceovers).values(provider_job_id=call.id))
    (first,) = superseded(transaction, VOICEOVERS)
    retire(transaction, VOICEOVERS, [first])
    assert one(transaction, "SELECT state FROM provider_jobs WHERE id = :id", id=call.id) == "ingested"
    claim, _ = claimed(transaction, load_production(transaction, claim.partition_key).episode)
    record_voiceover(transaction, claim, shot.id, stored("voiceovers/third.wav"), 3, [])
    (second,) = superseded(transaction, VOICEOVERS)
    (gone,) = retire(transaction, VOICEOVERS, [second])
    assert (gone.count, gone.bytes) == (1, 7)
    assert one(transaction, "SELECT state FROM provider_jobs WHERE id = :id", id=call.id) == "expired"
    assert "arrivals/a.bin" in set(transaction.execute(sa.select(departures.c.key)).scalars())


def test_a_result_that_another_episode_uses_again_in_the_same_moment_stays(database: Database) -> None:
    """A line that was spoken before is not paid for again: what it was made of is taken from the call of then."""
    with database.begin() as db:
        _, episode, other, *_ = series(db)
        claim, _ = made_twice(db, episode)
        call = claim_call(db, intent(episode_id=claim.episode_id, account=None))
        mark_submitting(db, call.id)
        mark_submitted(db, call.id, "job")
        mark_succeeded(db, call.id, Decimal(0))
        mark_ingested(db, call.id, {"media": {"key": "arrivals/a.bin", "sha256": "a" * 64, "bytes": 7}})
        db.execute(sa.update(voiceovers).where(voiceovers.c.take_number == 1).values(provider_job_id=call.id))
        (first,) = superseded(db, VOICEOVERS)

    def prune() -> list[Pruned]:
        with database.begin() as db:
            return retire(db, VOICEOVERS, [first])

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            its_claim, its_shots = claimed(db, other, "run-2")
            record_voiceover(db, its_claim, its_shots[0].id, stored("voiceovers/other.wav"), 3, [], call.id)
            pruning = pool.submit(prune)
            while not one(db, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
                db.execute(sa.text("SELECT pg_stat_clear_snapshot()"))
        assert pruning.result() == []
    with database.begin() as db:
        assert one(db, "SELECT state FROM provider_jobs WHERE id = :id", id=call.id) == "ingested"
        assert "arrivals/a.bin" not in set(db.execute(sa.select(departures.c.key)).scalars())


def test_a_cut_has_been_replaced_since_its_successor_was_published(transaction: Connection) -> None:
    claim, _ = made_twice(transaction)
    stem = f"episodes/{claim.episode_id}/variant-1-"
    keys = [f"{stem}{'0' * 12}.mp4", f"{stem}{'0' * 12}.srt", f"{stem}{'a' * 12}.srt", f"{stem}{'a' * 12}.mp4"]
    found = strangers(transaction, [Listed(key, 1, LONG_AGO) for key in keys])
    published = one(transaction, "SELECT published_at FROM clip_variants")
    assert [(one.superseded_at, one.is_known) for one in found] == [
        (published, False),
        (published, False),
        # Beside the cut under its name, though no column tells of it.
        (None, True),
        (None, True),
    ]
    assert {one.episodes for one in found[:2]} == {frozenset({claim.episode_id})}


def test_a_cut_that_is_younger_than_the_one_on_record_was_not_superseded_by_it(transaction: Connection) -> None:
    """The ledger was restored from a backup of before."""
    claim, _ = made_twice(transaction)
    key = f"episodes/{claim.episode_id}/variant-1-{'0' * 12}.mp4"
    (cut_since,) = strangers(transaction, [Listed(key, 1, soon(transaction))])
    assert (cut_since.superseded_at, cut_since.is_ours) == (None, True)


def test_whose_an_object_is_says_its_key(transaction: Connection) -> None:
    claim, shot = made_twice(transaction)
    gone = uuid4()
    claim_call(transaction, intent(episode_id=claim.episode_id, subject_id=gone, operation="speak"))
    of_nobody = uuid4()
    keys = {
        f"takes/{shot.id}/1-9-{'0' * 12}.mp4": True,
        f"music/{claim.episode_id}/9-{'0' * 12}.wav": True,
        # Of a shot that went with its script.
        f"voiceovers/{gone}/1-{'0' * 12}.wav": True,
        f"takes/{of_nobody}/1-1-{'0' * 12}.mp4": False,
        f"episodes/{of_nobody}/variant-1-{'0' * 12}.mp4": False,
        f"series/{of_nobody}/poster-{'0' * 12}.png": False,
        "takes/notes.txt": False,
    }
    found = strangers(transaction, [Listed(key, 1, LONG_AGO) for key in keys])
    assert {one.key: one.is_ours for one in found} == keys
    assert {one.episodes for one in found} == {frozenset({claim.episode_id}), frozenset()}


def test_incidents_that_are_over_are_told_with_their_alerts(transaction: Connection) -> None:
    now = soon(transaction)
    ids = [
        transaction.execute(
            sa.insert(incidents)
            .values(subject=f"check:{name}", severity="error", title="t", body="b", closed_at=closed_at)
            .returning(incidents.c.id)
        ).scalar_one()
        for name, closed_at in (("told", now), ("untold", now), ("open", None))
    ]
    for incident, sent_at in ((ids[0], now), (ids[1], None)):
        transaction.execute(sa.insert(alerts).values(incident_id=incident, kind="opened", channel="c", sent_at=sent_at))
    found, _ = old_incidents(transaction, before=now + timedelta(days=1), after=FIRST, limit=10)
    assert {(one.id, one.alerts, one.untold, one.last_sent_at) for one in found} == {
        (ids[0], 1, 0, now),
        (ids[1], 1, 1, None),
    }
    remove_incidents(transaction, [ids[0], ids[2]])
    assert set(transaction.execute(sa.select(incidents.c.id)).scalars()) == {ids[1], ids[2]}


def test_news_of_a_call_that_waits_are_told_as_such(transaction: Connection) -> None:
    call = submitted(transaction, "job-7")
    for event, external_id, call_id in (("a", "job-7", None), ("b", "job-8", call.id), ("c", "job-9", None)):
        transaction.execute(
            sa.text(
                "INSERT INTO provider_events (provider, event_id, external_id, call_id, status)"
                " VALUES ('p', :event, :external_id, :call_id, 'done')"
            ),
            {"event": event, "external_id": external_id, "call_id": call_id},
        )
    found, _ = old_news(transaction, before=soon(transaction), after=FIRST, limit=10)
    assert sorted(one.call_is_settled for one in found) == [False, False, True]


def test_a_batch_of_a_big_studio_reads_by_index(transaction: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    """What a batch costs must not grow with the studio."""
    fill(transaction, scripts=600, takes=12_000)
    # Every tenth take is one that a later one has replaced.
    transaction.execute(
        sa.text(
            "INSERT INTO takes (shot_id, variant_number, take_number, media_key, sha256, bytes, duration_seconds,"
            " probe, is_current) SELECT shot_id, variant_number, 0, media_key || '.old', sha256, bytes,"
            " duration_seconds, probe, false FROM takes WHERE abs(hashtext(media_key)) % 10 = 0"
        )
    )
    transaction.execute(sa.text("ANALYZE"))
    before = everything(transaction)["takes"]
    began = time.perf_counter()
    page, more = superseded_page(transaction, TAKES, after=FIRST, limit=500)
    took = time.perf_counter() - began
    assert len(page) == 500
    assert more is not None
    with capsys.disabled():
        print(f"\n  500 superseded of {len(before)} takes: {took * 1000:.0f} ms")  # noqa: T201 - a figure to look at
    for kind in KINDS:
        column = kind.table.c.id
        candidates = kind.candidates.where(column > FIRST).order_by(column).limit(500)
        facts = kind.facts.where(column == sa.any_(sa.literal([one.id for one in page], sa.ARRAY(sa.UUID))))
        for statement in (candidates, facts):
            plan = _plan(transaction, statement)
            assert not re.search(r"Seq Scan on (takes|voiceovers|provider_jobs)", plan), plan


def _plan(db: Connection, statement: sa.Select[tuple[object]]) -> str:
    compiled = statement.compile(db.engine, compile_kwargs={"render_postcompile": True})
    explained = db.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params)
    return "\n".join(explained.scalars())
