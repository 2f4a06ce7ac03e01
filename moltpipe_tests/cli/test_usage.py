from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from moltpipe_tests.cli.conftest import Moltpipe


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MOLTPIPE_PROFILE", "huge"),
        ("MOLTPIPE_DATABASE_URL", "mysql://root@localhost/moltpipe"),
        ("MOLTPIPE_S3_ENDPOINT_URL", "localhost:9000"),
        ("MOLTPIPE_CAMERA", "polaroid"),
        ("MOLTPIPE_PROFIL", "360p24"),
    ],
)
def test_a_wrong_setting_stops_a_command_with_its_name(
    moltpipe: Moltpipe, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    said = moltpipe("status", "--json")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(name)


@pytest.mark.parametrize(
    "words",
    [
        ["nonesuch"],
        ["submit", "--agent", "molt"],
        ["submit", "a.json"],
        ["submit", "a.json", "--agent", " "],
        ["status", "--jsn"],
        ["period"],
        ["period", "create", "--starts-at", "2027-03-01"],
        ["period", "close", "not-a-uuid"],
        ["up", "--port", "99999"],
        ["exec"],
    ],
)
def test_wrong_usage_is_told_from_failed_work(moltpipe: Moltpipe, words: list[str]) -> None:
    assert moltpipe(*words).status == 2


def test_a_database_that_is_not_there_is_one_line(moltpipe: Moltpipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_DATABASE_URL", "postgresql://molt:secret@127.0.0.1:1/moltpipe")
    said = moltpipe("status", "--json")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("PostgreSQL at 127.0.0.1:1 is not available")
    assert said.err.count("\n") == 1
    assert "secret" not in said.err


def test_a_ledger_of_a_newer_moltpipe_is_refused_in_words(moltpipe: Moltpipe, database_url: str) -> None:
    with psycopg.connect(database_url) as db:
        db.execute("UPDATE moltpipe_alembic_version SET version_num = 'from_the_future'")
    said = moltpipe("status")
    assert said.status == 1
    assert "install a newer moltpipe" in said.err
    assert "Traceback" not in said.err


def test_a_data_dir_that_cannot_be_made_is_one_line(
    moltpipe: Moltpipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOLTPIPE_DATA_DIR", str(tmp_path / "file" / "data"))
    said = moltpipe("status")
    assert said.status == 1
    assert "Not a directory" in said.err
    assert "Traceback" not in said.err
