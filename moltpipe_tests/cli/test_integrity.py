from __future__ import annotations

import getpass
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from moltpipe.ledger.calls import CallState, call_by_id, claim_call, mark_ambiguous, mark_submitting
from moltpipe.ledger.database import Database
from moltpipe_tests.cli.conftest import Moltpipe
from moltpipe_tests.ledger.beginnings import intent
from moltpipe_tests.stories import a_filed_script, a_series

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
    assert failed["rows"][0]["subject"] == orphan
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
    assert [one["subject"] for one in repaired.json["repairs"]] == [orphan]
    document = moltpipe("status", "--json").json
    (series,) = document["series"]
    assert [one["episode_number"] for one in series["episodes"]] == [1, 2, 3, 4, 5]
    assert document["jobs"]["pending"] == 5
    assert moltpipe("check").status == 0
    assert moltpipe("repair").out == "nothing to repair\n"


@pytest.fixture
def undecided(database: Database) -> UUID:
    """A call for an episode that its provider may have accepted."""
    episode = a_series(database)[1]
    with database.begin() as db:
        call = claim_call(db, intent(episode_id=episode.id))
        mark_submitting(db, call.id)
        return mark_ambiguous(db, call.id, "no answer").id


def state_of(database: Database, call_id: UUID) -> CallState:
    with database.begin() as db:
        return call_by_id(db, call_id).state


def test_a_call_that_a_person_must_decide_fails_the_check(moltpipe: Moltpipe, undecided: UUID) -> None:
    said = moltpipe("check")
    assert said.status == 1
    assert "FAILED   ambiguous_calls_are_decided (clips): 1 found" in said.out
    assert str(undecided) in said.out.split()
    assert "`moltpipe repair --resubmit CALL_ID`" in said.out
    assert moltpipe("repair").out == "nothing to repair\n"


@pytest.mark.parametrize(
    ("option", "decision", "state"),
    [("--resubmit", "resubmit", CallState.EXPIRED), ("--give-up", "give_up", CallState.FAILED)],
)
def test_a_person_decides(
    moltpipe: Moltpipe, database: Database, undecided: UUID, option: str, decision: str, state: CallState
) -> None:
    planned = moltpipe("repair", option, undecided, "--dry-run", "--json").json
    assert planned["dry_run"] is True
    assert [(one["call_id"], one["decision"]) for one in planned["decided"]] == [(str(undecided), decision)]
    assert state_of(database, undecided) is CallState.AMBIGUOUS
    said = moltpipe("repair", option, undecided, "--json")
    assert said.status == 0
    assert said.json == {"dry_run": False, "repairs": [], "decided": planned["decided"]}
    assert state_of(database, undecided) is state
    assert moltpipe("check").status == 0
    with database.begin() as db:
        assert f"by {getpass.getuser()}: no answer" in (call_by_id(db, undecided).error or "")


def test_people_read_what_was_decided(moltpipe: Moltpipe, undecided: UUID) -> None:
    assert moltpipe("repair", "--give-up", undecided, "--dry-run").out.startswith("to do: leave call")
    said = moltpipe("repair", "--give-up", undecided)
    assert said.out == f"done: leave call {undecided} to camera failed; 1.00 USD stay on it as its cost\n"


def test_a_decision_about_what_needs_none_is_refused_whole(
    moltpipe: Moltpipe, database: Database, undecided: UUID
) -> None:
    nowhere = uuid4()
    said = moltpipe("repair", "--resubmit", undecided, "--resubmit", nowhere, "--json")
    assert (said.status, said.out, said.err) == (1, "", f"refused: there is no call {nowhere}\n")
    assert state_of(database, undecided) is CallState.AMBIGUOUS
    assert moltpipe("repair", "--resubmit", undecided).status == 0
    again = moltpipe("repair", "--resubmit", undecided)
    assert again.status == 1
    assert f"refused: call {undecided} to camera is expired" in again.err


@pytest.mark.parametrize("words", [["--resubmit", "seven"], ["--resubmit", uuid4(), "--give-up", uuid4()]])
def test_a_decision_that_cannot_be_read_is_wrong_usage(moltpipe: Moltpipe, words: list[object]) -> None:
    assert moltpipe("repair", *words).status == 2


def test_an_operator_without_a_name_may_decide(
    moltpipe: Moltpipe, database: Database, undecided: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise OSError("no such number")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert moltpipe("repair", "--give-up", undecided).status == 0
    with database.begin() as db:
        assert call_by_id(db, undecided).error == "given up by an operator: no answer"
