from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

import pytest
import sqlalchemy as sa

from moltpipe.ledger.checks import CHECKS, run_checks
from moltpipe.ledger.checks.finding import MAX_ROWS, Conditions, Severity
from moltpipe.ledger.checks.series import SELECTED_SCRIPTS_HAVE_SERIES
from moltpipe.ledger.database import Database
from moltpipe.ledger.series import (
    NoSuchScript,
    SeriesUnreadable,
    UnknownSeries,
    all_episodes,
    count_series,
    episodes_of,
    load_series,
    make_series,
    set_poster,
)
from moltpipe_tests.ledger.beginnings import DOCUMENT, filed, one, pilot, series, stored
from moltpipe_tests.stories import a_filed_pack

CONDITIONS = Conditions(datetime.now(UTC))


def _orphan(db: sa.Connection, title: str = "The Orphan", genre: str = "drama") -> None:
    """What operators of the old system did by hand."""
    db.execute(sa.text("ALTER TABLE scripts DROP CONSTRAINT IF EXISTS ck_scripts_selected_has_series"))
    script = filed(db, title, genre=genre)
    db.execute(sa.text("UPDATE scripts SET pilot_status = 'selected' WHERE id = :id"), {"id": script.script_id})


def test_a_series_carries_what_its_script_says(database: Database) -> None:
    with database.begin() as db:
        script = filed(db)
        made = load_series(db, make_series(db, script.script_id))
        episodes = episodes_of(db, made.id)
    assert (made.title, made.genre, made.agent_name, made.script_id) == ("The Buoy", "comedy", "molt", script.script_id)
    assert (made.bible, made.poster_spec) == (pilot().series_bible, pilot().poster_spec)
    assert made.script_data["shots"] == DOCUMENT["shots"]
    assert [episode.partition_key for episode in episodes] == [
        f"the-buoy-{made.id.hex[:8]}-e{number:02d}" for number in range(1, 6)
    ]
    assert [episode.variants_wanted for episode in episodes] == [4, 1, 1, 1, 1]


def test_making_a_series_again_adds_only_what_is_missing(database: Database) -> None:
    with database.begin() as db:
        script = filed(db).script_id
        made = make_series(db, script)
        before = episodes_of(db, made)
        db.execute(sa.text("DELETE FROM production_jobs WHERE job_type = 'pilot_variants'"))
        db.execute(sa.text("DELETE FROM production_jobs WHERE episode_id = :id"), {"id": before[4].id})
        db.execute(sa.text("DELETE FROM episodes WHERE id = :id"), {"id": before[4].id})
        assert make_series(db, script) == made
        after = episodes_of(db, made)
        assert after[:4] == before[:4]
        assert (len(after), count_series(db), one(db, "SELECT count(*) FROM production_jobs")) == (5, 1, 5)


def test_two_that_make_one_series_at_once_make_it_once(database: Database) -> None:
    with database.begin() as db:
        script = filed(db).script_id
    together = threading.Barrier(2)

    def make(_: int) -> object:
        together.wait()
        with database.begin() as db:
            return make_series(db, script)

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(make, range(2)))) == 1
    with database.begin() as db:
        assert len(all_episodes(db)) == 5


def test_a_series_whose_bible_was_broken_says_so(database: Database) -> None:
    with database.begin() as db:
        made = make_series(db, filed(db).script_id)
        db.execute(sa.text("UPDATE limited_series SET series_bible = '{}'"))
        with pytest.raises(SeriesUnreadable, match="global_style_bible"):
            load_series(db, made)


def test_the_poster_spec_of_the_old_system_is_read(database: Database) -> None:
    with database.begin() as db:
        script = filed(db).script_id
        db.execute(
            sa.text(
                "UPDATE scripts SET script_data = "
                "script_data - 'poster_spec' || jsonb_build_object('Scripter_spec', script_data -> 'poster_spec')"
            )
        )
        assert load_series(db, make_series(db, script)).poster_spec == pilot().poster_spec


def test_an_audio_pack_becomes_a_series_with_one_cut_for_each_episode(database: Database) -> None:
    script = a_filed_pack(database).script_id
    with database.begin() as db:
        made = load_series(db, make_series(db, script))
        assert (made.medium, made.title, made.genre) == ("audio", "Known by Weight", "drama")
        assert [anchor.name for anchor in made.bible.character_anchors][:2] == ["Car Two", "Benedikt Orlo"]
        assert made.bible.location_anchors == ()
        assert [episode.variants_wanted for episode in episodes_of(db, made.id)] == [1] * 5
        wanted = sa.text("SELECT sum(variants_wanted) FROM episode_progress")
        assert db.execute(wanted).scalar_one() == 5
        assert one(db, "SELECT count(*) FROM production_jobs") == 5
        assert all(finding.passed for finding in run_checks(db, CONDITIONS))


def test_an_audio_pack_without_bible_and_poster_is_readable_as_a_series(database: Database) -> None:
    script = a_filed_pack(database).script_id
    with database.begin() as db:
        db.execute(sa.text("UPDATE scripts SET script_data = script_data - 'poster_spec' || '{\"series_bible\": {}}'"))
        made = load_series(db, make_series(db, script))
    assert made.bible.global_style_bible == made.logline
    assert made.poster_spec.key_visual == made.logline


def test_what_does_not_exist_is_named(database: Database) -> None:
    nowhere = uuid4()
    with database.begin() as db:
        with pytest.raises(NoSuchScript, match=str(nowhere)):
            make_series(db, nowhere)
        with pytest.raises(UnknownSeries, match=str(nowhere)):
            load_series(db, nowhere)


def test_a_poster_stays_unless_it_is_to_be_replaced(database: Database) -> None:
    with database.begin() as db:
        made = make_series(db, filed(db).script_id)
        assert set_poster(db, made, stored("first.png"))
        assert set_poster(db, made, stored("first.png"))
        assert not set_poster(db, made, stored("second.png"))
        assert load_series(db, made).poster_key == "first.png"
        assert set_poster(db, made, stored("second.png"), replace=True)
        assert load_series(db, made).poster_key == "second.png"


def test_a_healthy_ledger_passes_every_check(database: Database) -> None:
    with database.begin() as db:
        series(db)
        filed(db, "Waiting")
        findings = run_checks(db, CONDITIONS)
    assert [(finding.name, finding.asset) for finding in findings] == [(check.name, check.asset) for check in CHECKS]
    assert all(finding.passed for finding in findings)


def test_an_orphan_is_found_and_named(database: Database) -> None:
    with database.begin() as db:
        _orphan(db)
        finding = SELECTED_SCRIPTS_HAVE_SERIES.look(db, CONDITIONS)
    assert (finding.passed, finding.severity, finding.count) == (False, Severity.ERROR, 1)
    assert finding.rows[0]["title"] == "The Orphan"
    assert finding.since is not None
    document = finding.as_json()
    assert {"name", "asset", "passed", "severity", "count", "rows", "remedy"} <= set(document)
    assert (document["name"], document["asset"]) == ("selected_scripts_have_series", "scripts")


def test_a_series_that_lost_episodes_or_jobs_is_found(database: Database) -> None:
    with database.begin() as db:
        episodes = series(db)
        db.execute(sa.text("DELETE FROM production_jobs WHERE job_type = 'single_episode'"))
        db.execute(sa.text("DELETE FROM episodes WHERE id = :id"), {"id": episodes[2].id})
        assert [finding.name for finding in run_checks(db, CONDITIONS) if not finding.passed] == [
            "series_have_all_episodes_and_jobs"
        ]


def test_a_great_damage_is_counted_whole_and_shown_in_part(database: Database) -> None:
    with database.begin() as db:
        for number in range(MAX_ROWS + 2):
            _orphan(db, f"Orphan {number}")
        finding = SELECTED_SCRIPTS_HAVE_SERIES.look(db, CONDITIONS)
        assert (finding.count, len(finding.rows)) == (MAX_ROWS + 2, MAX_ROWS)
