from __future__ import annotations

import pytest
import sqlalchemy as sa

from moltpipe.ledger.database import Database
from moltpipe_tests.cli.conftest import Moltpipe
from moltpipe_tests.stories import a_filed_script

CHECK = "selected_scripts_have_series"


@pytest.fixture
def orphan(database: Database) -> str:
    """A script that somebody set to selected, after dropping what forbids it."""
    script = a_filed_script(database)
    with database.begin() as db:
        db.execute(sa.text("ALTER TABLE scripts DROP CONSTRAINT ck_scripts_selected_has_series"))
        db.execute(sa.text("UPDATE scripts SET pilot_status = 'selected' WHERE id = :id"), {"id": script.script_id})
    return str(script.script_id)


def test_all_is_well_in_a_new_house(moltpipe: Moltpipe) -> None:
    said = moltpipe("check", "--json")
    assert said.status == 0
    assert {"name", "asset", "passed", "severity", "count", "rows", "remedy"} <= set(said.json["checks"][0])
    assert all(check["passed"] for check in said.json["checks"])
    assert moltpipe("repair").out == "nothing to repair\n"


def test_a_selected_script_without_a_series_is_named(moltpipe: Moltpipe, orphan: str) -> None:
    said = moltpipe("check", "--json")
    assert said.status == 1
    (failed,) = (check for check in said.json["checks"] if not check["passed"])
    assert (failed["name"], failed["asset"], failed["severity"], failed["count"]) == (CHECK, "scripts", "error", 1)
    assert failed["rows"][0]["script_id"] == orphan
    assert "moltpipe repair" in failed["remedy"]


def test_people_read_the_whole_id_and_the_remedy(moltpipe: Moltpipe, orphan: str) -> None:
    said = moltpipe("check")
    assert said.status == 1
    assert f"FAILED   {CHECK} (scripts): 1 found" in said.out
    assert orphan in said.out.split()
    assert "remedy: `moltpipe repair`" in said.out


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(moltpipe: Moltpipe, orphan: str) -> None:
    planned = moltpipe("repair", "--dry-run", "--json")
    assert planned.status == 0
    assert planned.json["dry_run"] is True
    assert [(one["check"], one["script_id"]) for one in planned.json["repairs"]] == [(CHECK, orphan)]
    assert moltpipe("repair", "--dry-run").out.startswith("to do: ")
    assert moltpipe("check").status == 1
    assert moltpipe("status", "--json").json["series"] == []


def test_repair_gives_it_a_series_and_five_jobs(moltpipe: Moltpipe, orphan: str) -> None:
    repaired = moltpipe("repair", "--json")
    assert repaired.status == 0
    assert [one["script_id"] for one in repaired.json["repairs"]] == [orphan]
    document = moltpipe("status", "--json").json
    (series,) = document["series"]
    assert [one["episode_number"] for one in series["episodes"]] == [1, 2, 3, 4, 5]
    assert document["jobs"]["pending"] == 5
    assert moltpipe("check").status == 0
    assert moltpipe("repair").out == "nothing to repair\n"
