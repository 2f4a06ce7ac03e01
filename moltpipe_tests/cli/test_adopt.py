from __future__ import annotations

import getpass
from collections.abc import Iterator

import pytest

from moltpipe.ledger.audit import entries
from moltpipe.ledger.database import Database
from moltpipe_tests.cli.conftest import Moltpipe
from moltpipe_tests.ledger.molt_database import MoltDatabase, broken, healthy, incident, molt_database


@pytest.fixture
def old(empty_database_url: str) -> Iterator[MoltDatabase]:
    with molt_database(empty_database_url) as opened:
        yield opened


def test_the_incident_comes_over_and_the_next_step_is_said(
    moltpipe: Moltpipe, old: MoltDatabase, empty_database_url: str
) -> None:
    told = incident(old)
    said = moltpipe("adopt", "--from", empty_database_url)
    assert said.status == 0
    lines = said.out.splitlines()
    assert lines[0].startswith("adopted from /")
    assert "rows that break a rule: 3" in lines
    assert f"scripts {told.script}" in lines
    shown = lines[lines.index(f"scripts {told.script}") + 1]
    assert shown.startswith(
        "  series_id = nothing: a script that was selected has its limited series. Adopted as it is"
    )
    assert any(line.startswith("NOT VALID") and "ck_scripts_selected_has_series" in line for line in lines)
    assert "`moltpipe repair --dry-run`" in lines[-1]
    assert "selected_scripts_have_series (scripts): 1 found" in moltpipe("check").out


def test_again_is_unchanged(moltpipe: Moltpipe, old: MoltDatabase, empty_database_url: str) -> None:
    healthy(old)
    assert moltpipe("adopt", "--from", empty_database_url).out.startswith("adopted from ")
    assert moltpipe("adopt", "--from", empty_database_url).out.startswith("unchanged: nothing in ")
    assert moltpipe("adopt", "--from", empty_database_url, "--json").json["unchanged"] is True


def test_json_is_one_document(moltpipe: Moltpipe, old: MoltDatabase, empty_database_url: str) -> None:
    broken(old)
    said = moltpipe("adopt", "--from", empty_database_url, "--json")
    assert (said.status, said.err) == (0, "")
    assert set(said.json) == {
        "source", "dry_run", "unchanged", "adopted", "already_here", "not_for_us", "remarks", "changed", "not_valid"
    }  # fmt: skip
    assert set(said.json["remarks"][0]) == {"table", "id", "field", "value", "rule", "done"}


def test_a_dry_run_does_nothing(
    moltpipe: Moltpipe, database: Database, old: MoltDatabase, empty_database_url: str
) -> None:
    incident(old)
    said = moltpipe("adopt", "--from", empty_database_url, "--dry-run")
    assert said.out.startswith("would be adopted from ")
    assert "next: " not in said.out
    with database.begin() as db:
        assert entries(db, 9) == []
    assert moltpipe("adopt", "--from", empty_database_url).out.startswith("adopted from ")


def test_many_remarks_are_counted_and_the_first_are_shown(
    moltpipe: Moltpipe, old: MoltDatabase, empty_database_url: str
) -> None:
    studio = old.studio(old.agent("a-bot"))
    for number in range(45):
        old.script(studio, f"Number {number}", "nonsense")
    said = moltpipe("adopt", "--from", empty_database_url)
    assert "rows that break a rule: 45" in said.out
    assert "and 5 more: `--json` shows all of them" in said.out


def test_what_changed_there_is_told(moltpipe: Moltpipe, old: MoltDatabase, empty_database_url: str) -> None:
    week = healthy(old)
    moltpipe("adopt", "--from", empty_database_url)
    old.change("scripts", week.waiting, title="Twelve Orbits")
    said = moltpipe("adopt", "--from", empty_database_url)
    assert "rows that changed there after they were adopted: 1" in said.out
    assert "title = Twelve Orbits: it was another when it was adopted. Kept here as it was adopted." in said.out


def test_the_audit_names_the_account(
    moltpipe: Moltpipe, database: Database, old: MoltDatabase, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    incident(old)
    moltpipe("adopt", "--from", empty_database_url)
    healthy(old)

    def nameless() -> str:
        raise OSError("no such number")

    named = getpass.getuser()
    monkeypatch.setattr(getpass, "getuser", nameless)
    moltpipe("adopt", "--from", empty_database_url)
    with database.begin() as db:
        assert [entry.by for entry in entries(db, 9)] == ["an operator", named]


def test_our_own_database_is_wrong_usage(moltpipe: Moltpipe, database_url: str) -> None:
    said = moltpipe("adopt", "--from", database_url)
    assert said.status == 2
    assert "own database" in " ".join(said.err.split())


@pytest.mark.parametrize("words", [[], ["--from", "mysql://molt:do-not-tell@host/molt"], ["--from", "do-not-tell"]])
def test_an_address_that_cannot_be_read_is_wrong_usage(moltpipe: Moltpipe, words: list[str]) -> None:
    said = moltpipe("adopt", *words)
    assert (said.status, said.out) == (2, "")
    assert "do-not-tell" not in said.err


def test_a_database_that_is_not_there_is_one_line(moltpipe: Moltpipe) -> None:
    said = moltpipe("adopt", "--from", "postgresql://molt:do-not-tell@127.0.0.1:1/molt", "--json")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("PostgreSQL at 127.0.0.1:1 is not available")
    assert "do-not-tell" not in said.err


def test_a_database_that_is_no_molt_is_refused_with_what_it_lacks(
    moltpipe: Moltpipe, old: MoltDatabase, empty_database_url: str
) -> None:
    old.db.execute("ALTER TABLE voting_periods DROP COLUMN is_processed")
    said = moltpipe("adopt", "--from", empty_database_url)
    assert (said.status, said.out) == (1, "")
    assert "there is no column voting_periods.is_processed" in said.err
    assert "Traceback" not in said.err
