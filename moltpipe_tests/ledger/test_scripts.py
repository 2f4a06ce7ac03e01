from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
import sqlalchemy as sa

from moltpipe.ledger.database import Database
from moltpipe.ledger.schema import scripts
from moltpipe.ledger.scripts import StudioGenreDiffers, StudioOfAnother, UnknownStudio, file_script, studio_genre
from moltpipe_tests.ledger.beginnings import NOON, document, filed, one, pilot
from moltpipe_tests.stories import a_filed_pack


def test_a_script_makes_its_studio_once(database: Database) -> None:
    with database.begin() as db:
        first, second = filed(db, "One"), filed(db, "Two")
        assert first.studio_slug == second.studio_slug == "molt-comedy"
        assert one(db, "SELECT count(*) FROM studios") == 1


def test_two_scripts_filed_at_once_get_one_studio(database: Database) -> None:
    together = threading.Barrier(4)

    def file(number: int) -> str:
        with database.begin() as db:
            together.wait()
            return filed(db, f"Script {number}").studio_slug

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(file, range(4))) == {"molt-comedy"}


def test_agents_whose_names_come_down_to_one_slug_keep_studios_apart(database: Database) -> None:
    with database.begin() as db:
        slugs = [filed(db, agent=agent).studio_slug for agent in ("R2 D2", "r2-d2", "r2.d2")]
        assert slugs == ["r2-d2-comedy", "r2-d2-comedy-2", "r2-d2-comedy-3"]
        assert filed(db, agent="r2-d2").studio_slug == "r2-d2-comedy-2"


def test_an_agent_has_a_studio_per_genre(database: Database) -> None:
    with database.begin() as db:
        assert filed(db, genre="sci_fi").studio_slug == "molt-sci-fi"
        assert filed(db, genre="drama").studio_slug == "molt-drama"
        assert studio_genre(db, "molt-sci-fi") == "sci_fi"


@pytest.mark.parametrize(
    ("slug", "agent", "genre", "error"),
    [
        ("nowhere", "molt", "comedy", UnknownStudio),
        ("molt-comedy", "other", "comedy", StudioOfAnother),
        ("molt-comedy", "molt", "drama", StudioGenreDiffers),
    ],
)
def test_a_studio_that_does_not_fit_is_refused_and_nothing_is_filed(
    database: Database, slug: str, agent: str, genre: str, error: type[Exception]
) -> None:
    with database.begin() as db:
        filed(db)
    with pytest.raises(error), database.begin() as db:
        file_script(db, pilot(genre=genre), document(genre=genre), agent_name=agent, studio_slug=slug, now=NOON)
    with database.begin() as db:
        assert one(db, "SELECT count(*) FROM scripts") == 1
        assert one(db, "SELECT count(*) FROM studios") == 1


def test_the_document_is_kept_word_for_word(database: Database) -> None:
    sent = document() | {"x_from_a_newer_agent": {"n": 1.5, "é": ["ü", None]}}
    with database.begin() as db:
        script = file_script(db, pilot(), sent, agent_name="molt", studio_slug=None, now=NOON)
        row = db.execute(sa.select(scripts).where(scripts.c.id == script.script_id)).one()
    assert row.script_data == sent
    assert (row.pilot_status, row.submitted_at, row.voting_period_id) == ("submitted", NOON, None)


def test_an_audio_pack_is_filed_as_what_it_is(database: Database) -> None:
    filed_pack = a_filed_pack(database)
    with database.begin() as db:
        pilot_script = filed(db)
        media = {row.id: row.medium for row in db.execute(sa.select(scripts.c.id, scripts.c.medium))}
    assert media == {filed_pack.script_id: "audio", pilot_script.script_id: "video"}
    assert (filed_pack.medium, pilot_script.medium) == ("audio", "video")


def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="time zone"), database.begin() as db:
        filed(db, now=datetime(2026, 3, 2))  # noqa: DTZ001 (the point of the test)
