from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
import sqlalchemy as sa

from moltpipe.ledger.audience import clip_vote_of
from moltpipe.ledger.calls import mark_ingested, mark_succeeded
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import Superseded
from moltpipe.ledger.media import ShotOfAnother, UnwantedVariant, publish_variant, record_take, record_voiceover
from moltpipe.ledger.production import UnknownEpisode, load_production
from moltpipe.ledger.schema import clip_variants, takes, voiceovers
from moltpipe.ledger.shots import ShotsInUse, WrongEpisode, write_shots
from moltpipe.studio.records import Claim, Episode, Shot, Variant, Word
from moltpipe_tests.ledger.beginnings import claimed, episode_script, one, pilot, series, stored, submitted

WORDS = (Word("salt", 0.0, 0.4), Word("wind", 0.4, 0.9))


@pytest.fixture
def episodes(database: Database) -> list[Episode]:
    with database.begin() as db:
        return series(db)


@pytest.fixture
def at_work(database: Database, episodes: list[Episode]) -> tuple[Claim, tuple[Shot, ...]]:
    """The pilot in the hands of run-1, with its shots."""
    with database.begin() as db:
        return claimed(db, episodes[0])


def publish(db: sa.Connection, claim: Claim, number: int, name: str) -> Variant:
    return publish_variant(
        db,
        claim,
        number,
        stored(name),
        captions_key=f"{name}.vtt",
        thumbnail_key=f"{name}.jpg",
        duration_seconds=34.5,
        ingredients=name,
    )


def test_shots_are_written_as_they_were_scripted(
    database: Database, episodes: list[Episode], at_work: tuple[Claim, tuple[Shot, ...]]
) -> None:
    _, shots = at_work
    assert [shot.number for shot in shots] == list(range(1, len(pilot().shots) + 1))
    assert [(shot.prompt, shot.audio, shot.strategy) for shot in shots] == [
        (shot.prompt, shot.audio, shot.edit_extend_strategy) for shot in pilot().shots
    ]
    with database.begin() as db:
        production = load_production(db, episodes[0].partition_key)
    assert (production.episode.title, production.shots) == ("The Swell", shots)


def test_shots_that_are_there_stay(database: Database, at_work: tuple[Claim, tuple[Shot, ...]]) -> None:
    claim, shots = at_work
    with database.begin() as db:
        assert write_shots(db, claim, episode_script(1, "Another Title")) == shots
        assert one(db, "SELECT title FROM episodes WHERE id = :id", id=claim.episode_id) == "The Swell"


def test_shots_are_replaced_while_nothing_was_made_of_them(
    database: Database, at_work: tuple[Claim, tuple[Shot, ...]]
) -> None:
    claim, shots = at_work
    with database.begin() as db:
        written = write_shots(db, claim, episode_script(1, "Another Title"), replace=True)
        assert len(written) == len(shots)
        assert {shot.id for shot in written}.isdisjoint({shot.id for shot in shots})
        assert one(db, "SELECT title FROM episodes WHERE id = :id", id=claim.episode_id) == "Another Title"


def test_shots_of_which_media_was_made_are_not_replaced(
    database: Database, at_work: tuple[Claim, tuple[Shot, ...]]
) -> None:
    claim, shots = at_work
    with database.begin() as db:
        record_take(db, claim, shots[0].id, 1, stored("take"), 5.0, {})
        record_voiceover(db, claim, shots[0].id, stored("voice"), 0.9, WORDS)
    with pytest.raises(ShotsInUse) as refused, database.begin() as db:
        write_shots(db, claim, episode_script(1), replace=True)
    assert (refused.value.takes, refused.value.voiceovers) == (1, 1)


def test_the_script_of_another_episode_is_refused(database: Database, at_work: tuple[Claim, tuple[Shot, ...]]) -> None:
    with pytest.raises(WrongEpisode), database.begin() as db:
        write_shots(db, at_work[0], episode_script(2))


def test_a_new_take_becomes_current_and_the_old_one_stays(
    database: Database, episodes: list[Episode], at_work: tuple[Claim, tuple[Shot, ...]]
) -> None:
    claim, shots = at_work
    with database.begin() as db:
        first = record_take(db, claim, shots[0].id, 2, stored("take-1"), 5.0, {"codec": "h264"})
        second = record_take(db, claim, shots[0].id, 2, stored("take-2"), 5.0, {})
        other = record_take(db, claim, shots[0].id, 3, stored("take-3"), 5.0, {})
        assert [take.take_number for take in (first, second, other)] == [1, 2, 1]
        assert load_production(db, episodes[0].partition_key).takes == {
            (shots[0].id, 2): second,
            (shots[0].id, 3): other,
        }
        assert one(db, "SELECT count(*) FROM takes") == 3
        assert one(db, "SELECT probe ->> 'codec' FROM takes WHERE id = :id", id=first.id) == "h264"


def test_the_newest_voiceover_is_the_one_that_counts(
    database: Database, episodes: list[Episode], at_work: tuple[Claim, tuple[Shot, ...]]
) -> None:
    claim, shots = at_work
    with database.begin() as db:
        record_voiceover(db, claim, shots[1].id, stored("voice-1"), 0.9, WORDS)
        newest = record_voiceover(db, claim, shots[1].id, stored("voice-2"), 0.9, WORDS)
        assert newest.take_number == 2
        assert newest.words == WORDS
        assert load_production(db, episodes[0].partition_key).voiceovers == {shots[1].id: newest}


def test_two_episodes_that_say_the_same_line_do_not_wait_for_each_other(
    database: Database, episodes: list[Episode], at_work: tuple[Claim, tuple[Shot, ...]]
) -> None:
    """The incident: both rows pointed at the one paid call and then wanted its row; Postgres ended one of the runs."""
    claim, shots = at_work
    with database.begin() as db:
        other_claim, other_shots = claimed(db, episodes[1], "run-2")
        call = submitted(db)
        mark_succeeded(db, call.id, Decimal(1))
        mark_ingested(db, call.id, {})
    with database.begin() as db, database.begin() as other:
        for connection in (db, other):
            connection.execute(sa.text("SET LOCAL lock_timeout = '2s'"))
        record_voiceover(db, claim, shots[0].id, stored("one"), 1.5, WORDS, provider_job_id=call.id)
        record_voiceover(other, other_claim, other_shots[0].id, stored("two"), 1.5, WORDS, provider_job_id=call.id)
        mark_ingested(db, call.id)
        mark_ingested(other, call.id)


def test_recording_the_same_again_changes_nothing(database: Database, at_work: tuple[Claim, tuple[Shot, ...]]) -> None:
    claim, shots = at_work
    with database.begin() as db:
        take = record_take(db, claim, shots[0].id, 1, stored("take"), 5.0, {})
        voice = record_voiceover(db, claim, shots[0].id, stored("voice"), 0.9, WORDS)
    with database.begin() as db:
        assert record_take(db, claim, shots[0].id, 1, stored("take"), 5.0, {}) == take
        assert record_voiceover(db, claim, shots[0].id, stored("voice"), 0.9, WORDS) == voice
        assert one(db, "SELECT count(*) FROM takes") == one(db, "SELECT count(*) FROM voiceovers") == 1


def test_publishing_again_replaces_the_row_and_keeps_the_selection(
    database: Database, episodes: list[Episode], at_work: tuple[Claim, tuple[Shot, ...]]
) -> None:
    claim, _ = at_work
    with database.begin() as db:
        first = publish(db, claim, 1, "cut-1")
        assert not first.is_selected
        db.execute(sa.text("UPDATE clip_variants SET is_selected = true"))
        second = publish(db, claim, 1, "cut-2")
        assert second == replace(
            first,
            video=stored("cut-2"),
            captions_key="cut-2.vtt",
            thumbnail_key="cut-2.jpg",
            ingredients="cut-2",
            is_selected=True,
        )
        assert load_production(db, episodes[0].partition_key).variants == {1: second}


def test_the_only_variant_of_an_episode_is_selected_at_once(database: Database, episodes: list[Episode]) -> None:
    with database.begin() as db:
        claim, _ = claimed(db, episodes[1])
        assert publish(db, claim, 1, "cut").is_selected


def test_the_last_variant_of_a_pilot_opens_the_vote_on_them_in_the_same_transaction(
    database: Database, episodes: list[Episode], at_work: tuple[Claim, tuple[Shot, ...]]
) -> None:
    claim, _ = at_work
    with database.begin() as db:
        for number in (1, 2, 3):
            publish(db, claim, number, f"cut-{number}")
    with database.begin() as db:
        assert clip_vote_of(db, episodes[0].id) is None
        publish(db, claim, 4, "cut-4")
        opened = clip_vote_of(db, episodes[0].id)
        assert opened is not None
        db.rollback()
    with database.begin() as db:
        assert clip_vote_of(db, episodes[0].id) is None
        assert set(load_production(db, episodes[0].partition_key).variants) == {1, 2, 3}


def test_a_variant_that_nobody_wants_is_refused(database: Database, episodes: list[Episode]) -> None:
    with database.begin() as db:
        claim, shots = claimed(db, episodes[1])
    for act in (
        lambda db: publish(db, claim, 2, "cut"),
        lambda db: record_take(db, claim, shots[0].id, 2, stored("take"), 5.0, {}),
    ):
        with pytest.raises(UnwantedVariant), database.begin() as db:
            act(db)


def test_a_shot_of_another_episode_is_refused(
    database: Database, episodes: list[Episode], at_work: tuple[Claim, tuple[Shot, ...]]
) -> None:
    with database.begin() as db:
        other, _ = claimed(db, episodes[1], "run-2")
    with pytest.raises(ShotOfAnother), database.begin() as db:
        record_take(db, other, at_work[1][0].id, 1, stored("take"), 5.0, {})


def test_a_superseded_process_leaves_no_row(database: Database, at_work: tuple[Claim, tuple[Shot, ...]]) -> None:
    lost, shots = at_work
    with database.begin() as db:
        db.execute(sa.text("UPDATE production_jobs SET process_uuid = 'run-2' WHERE process_uuid = 'run-1'"))
    for act in (
        lambda db: record_take(db, lost, shots[0].id, 1, stored("take"), 5.0, {}),
        lambda db: record_voiceover(db, lost, shots[0].id, stored("voice"), 0.9, WORDS),
        lambda db: publish(db, lost, 1, "cut"),
        lambda db: write_shots(db, lost, episode_script(1, "Late"), replace=True),
    ):
        with pytest.raises(Superseded), database.begin() as db:
            act(db)
    with database.begin() as db:
        for made in (takes, voiceovers, clip_variants):
            assert db.execute(sa.select(sa.func.count()).select_from(made)).scalar_one() == 0


def test_an_episode_that_does_not_exist_is_named(database: Database) -> None:
    with pytest.raises(UnknownEpisode, match="no-such-key"), database.begin() as db:
        load_production(db, "no-such-key")
