from __future__ import annotations

import getpass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import boto3
import pytest
import sqlalchemy as sa

from moltpipe.ledger.calls import CallState, call_by_id, claim_call, mark_ambiguous, mark_submitting
from moltpipe.ledger.checks import CHECKS
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import claim_job, fail_job
from moltpipe.ledger.series import make_series
from moltpipe.runtime.services import S3Access
from moltpipe_tests.cli.conftest import Moltpipe
from moltpipe_tests.ledger.beginnings import intent
from moltpipe_tests.stories import LEASE, a_filed_script, a_series

CHECK = "selected_scripts_have_series"


@pytest.fixture
def moltpipe(moltpipe: Moltpipe, object_storage: S3Access, monkeypatch: pytest.MonkeyPatch) -> Moltpipe:
    """Calls `moltpipe WORDS…`, with a bucket of the test's own: `check` looks at what lies in it."""
    assert object_storage.access_key is not None
    assert object_storage.secret_key is not None
    bucket, secret_key = f"check-{uuid4().hex}", object_storage.secret_key.get_secret_value()
    boto3.client(
        "s3",
        endpoint_url=object_storage.endpoint_url,
        aws_access_key_id=object_storage.access_key,
        aws_secret_access_key=secret_key,
        region_name=object_storage.region,
    ).create_bucket(Bucket=bucket)
    monkeypatch.setenv("MOLTPIPE_S3_ENDPOINT_URL", object_storage.endpoint_url)
    monkeypatch.setenv("MOLTPIPE_S3_BUCKET", bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_storage.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    monkeypatch.setenv("AWS_REGION", object_storage.region or "us-east-1")
    return moltpipe


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
    assert moltpipe("check").out == f"all {len(CHECKS)} checks passed\n"
    assert moltpipe("repair").out == "nothing to repair\n"
    assert moltpipe("repair", "--log").out == "nothing was repaired or decided yet\n"
    assert moltpipe("repair", "--log", "--json").json == {"entries": []}


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
    assert f"FAILED   {CHECK} (scripts): 1 found, for 2 h 0 min" in said.out
    assert orphan in said.out.split()
    assert said.out.endswith(f"\n{len(CHECKS) - 1} checks passed\n")
    assert "remedy: `moltpipe repair`" in said.out


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(moltpipe: Moltpipe, orphan: str) -> None:
    planned = moltpipe("repair", "--dry-run", "--json")
    assert planned.status == 0
    assert planned.json["dry_run"] is True
    assert [(one["check"], one["subject"]) for one in planned.json["repairs"]] == [(CHECK, orphan)]
    assert moltpipe("repair", "--dry-run").out.startswith("to do: ")
    assert moltpipe("check").status == 1
    assert moltpipe("status", "--json").json["series"] == []


def test_repair_gives_it_a_series_and_five_jobs(moltpipe: Moltpipe, orphan: str) -> None:
    repaired = moltpipe("repair", "--json")
    assert repaired.status == 0
    assert [(one["subject"], one["failed"]) for one in repaired.json["repairs"]] == [(orphan, None)]
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


# What cannot be looked at, and what cannot be mended -----------------------------------------------------------------


def test_what_could_not_be_looked_at_is_neither_passed_nor_failed(
    moltpipe: Moltpipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLTPIPE_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    said = moltpipe("check")
    assert said.status == 1
    unknown = "UNKNOWN  media_objects_are_there (clips): could not look: the sweep over objects cannot go on: "
    assert unknown in said.out
    assert "FAILED" not in said.out
    found = {check["name"]: check for check in moltpipe("check", "--json").json["checks"]}
    assert found["media_objects_are_there"]["passed"] is False
    assert found["media_objects_are_there"]["count"] == 0
    assert "127.0.0.1:9" in found["media_objects_are_there"]["could_not_check"]
    assert found[CHECK]["passed"] is True


def test_a_warning_is_shown_and_does_not_fail(moltpipe: Moltpipe, database: Database) -> None:
    key = a_series(database)[1].partition_key
    with database.begin() as db:
        db.execute(sa.text("UPDATE production_jobs SET available_at = now() - interval '1 hour'"))
    said = moltpipe("check")
    assert said.status == 0
    assert "warning  jobs_do_not_wait_too_long (stitched_episode): 5 found, for 1 h " in said.out
    assert key in said.out.split()


def test_a_great_damage_is_shown_in_part(moltpipe: Moltpipe, database: Database) -> None:
    scripts = [a_filed_script(database, number).script_id for number in range(2)]
    with database.begin() as db:
        for script in scripts:
            make_series(db, script)
        db.execute(sa.text("UPDATE production_jobs SET attempt_count = max_attempts"))
    said = moltpipe("check")
    assert "FAILED   jobs_have_attempts_left (stitched_episode): 10 found" in said.out
    assert said.out.count("  job_id ") == 5
    assert "  and 5 more: `moltpipe check --json`\n" in said.out


def test_one_that_cannot_be_mended_is_told_and_the_others_are(
    moltpipe: Moltpipe, database: Database, orphan: str
) -> None:
    second = a_filed_script(database, 1)
    with database.begin() as db:
        db.execute(sa.text("UPDATE scripts SET pilot_status = 'selected' WHERE id = :id"), {"id": second.script_id})
        db.execute(
            sa.text("ALTER TABLE limited_series ADD CONSTRAINT not_this CHECK (script_id <> '" + orphan + "'::uuid)")
        )
    for words in (("repair", "--dry-run"), ("repair",)):
        said = moltpipe(*words)
        assert said.status == 1
        assert f"FAILED: mend script_id {orphan}, title" in said.out
        assert 'violates check constraint "not_this"' in said.out
        done = "to do" if "--dry-run" in words else "done"
        assert f"{done}: make the limited series of the selected script" in said.out
        assert str(second.script_id) in said.out
    assert len(moltpipe("status", "--json").json["series"]) == 1


# The audit -----------------------------------------------------------------------------------------------------------


def test_what_was_repaired_can_be_read_afterwards(moltpipe: Moltpipe, orphan: str) -> None:
    moltpipe("repair", "--dry-run")
    assert moltpipe("repair", "--log", "--json").json == {"entries": []}
    moltpipe("repair")
    (entry,) = moltpipe("repair", "--log", "--json").json["entries"]
    assert (entry["by"], entry["action"], entry["subject"]) == (getpass.getuser(), "repair", orphan)
    assert entry["before"]["limited_series"] == []
    assert len(entry["after"]["production_jobs"]) == 5
    said = moltpipe("repair", "--log")
    assert said.status == 0
    assert f" UTC  {getpass.getuser()}  repair  {CHECK}: make the limited series of the selected script" in said.out


def test_the_newest_entries_of_the_log_are_read_alone(moltpipe: Moltpipe, orphan: str, undecided: UUID) -> None:
    moltpipe("repair")
    moltpipe("repair", "--give-up", undecided)
    (newest,) = moltpipe("repair", "--log", "1", "--json").json["entries"]
    assert (newest["action"], newest["subject"]) == ("give_up", str(undecided))
    assert [one["subject"] for one in moltpipe("repair", "--log", "--json").json["entries"]] == [
        str(undecided),
        orphan,
    ]


# Another attempt, another medium -------------------------------------------------------------------------------------


@pytest.fixture
def given_up(database: Database) -> str:
    """An episode that has no attempts left, by its partition key."""
    key = a_series(database)[1].partition_key
    with database.begin() as db:
        fail_job(db, claim_job(db, key, "run-1", LEASE), "no light", datetime.now(UTC), for_good=True)
    return key


def test_an_episode_that_was_given_up_is_tried_again(moltpipe: Moltpipe, given_up: str) -> None:
    said = moltpipe("check")
    assert said.status == 1
    assert "FAILED   jobs_have_attempts_left (stitched_episode): 1 found" in said.out
    assert moltpipe("repair").out == "nothing to repair\n"
    planned = moltpipe("repair", "--retry", given_up, "--dry-run", "--json").json
    assert [(one["partition_key"], one["decision"]) for one in planned["decided"]] == [(given_up, "retry")]
    assert moltpipe("check").status == 1
    assert moltpipe("repair", "--retry", given_up).out == f"done: {planned['decided'][0]['what']}\n"
    assert moltpipe("check").status == 0
    again = moltpipe("repair", "--retry", given_up)
    assert (again.status, again.out) == (1, "")
    assert again.err == f"refused: {given_up} needs no other attempt: none has failed\n"


def test_an_episode_that_nobody_knows_is_named(moltpipe: Moltpipe) -> None:
    said = moltpipe("repair", "--retry", "nowhere-e01")
    assert (said.status, said.err) == (1, "refused: no episode has the partition key 'nowhere-e01'\n")


def test_a_medium_of_which_nothing_is_known_to_be_wrong_is_kept(moltpipe: Moltpipe) -> None:
    said = moltpipe("repair", "--remake", "takes/a.mp4")
    assert said.status == 1
    assert said.err.startswith("refused: takes/a.mp4 is not made anew: expected a key that `moltpipe check` names")


def test_repair_mends_what_one_check_finds_alone(moltpipe: Moltpipe, database: Database, orphan: str) -> None:
    a_series(database)
    with database.begin() as db:
        db.execute(sa.text("DELETE FROM production_jobs"))
    planned = moltpipe("repair", "--only", CHECK, "--dry-run", "--json").json["repairs"]
    assert [(one["check"], one["subject"]) for one in planned if one["check"] != "schema"] == [(CHECK, orphan)]
    assert moltpipe("repair", "--only", CHECK).status == 0
    failed = [check["name"] for check in moltpipe("check", "--json").json["checks"] if not check["passed"]]
    assert failed == ["series_have_all_episodes_and_jobs"]
    wrong = moltpipe("repair", "--only", "scripts")
    assert wrong.status == 2
    assert CHECK in wrong.err


@pytest.mark.parametrize(
    "words",
    [
        ["--log", "--retry", "a-e01"],
        ["--retry", "a-e01", "--remake", "a.mp4"],
        ["5"],
        ["--log", "0"],
        ["--log", "--only", CHECK],
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(moltpipe: Moltpipe, words: list[str]) -> None:
    assert moltpipe("repair", *words).status == 2
