"""`moltpipe prune`, called as a user calls it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from moltpipe.ledger.database import Database
from moltpipe.ledger.schema import audit, watchers
from moltpipe.ledger.watching import alone
from moltpipe.runtime.services import S3Access
from moltpipe_tests.cli.conftest import Moltpipe
from moltpipe_tests.conftest import BUCKET


@pytest.fixture
def beside_s3(moltpipe: Moltpipe, object_storage: S3Access, monkeypatch: pytest.MonkeyPatch) -> Moltpipe:
    """Calls `moltpipe WORDS…` where there is an S3."""
    assert object_storage.secret_key is not None
    monkeypatch.setenv("MOLTPIPE_S3_ENDPOINT_URL", object_storage.endpoint_url)
    monkeypatch.setenv("MOLTPIPE_S3_BUCKET", BUCKET)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_storage.access_key or "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", object_storage.secret_key.get_secret_value())
    monkeypatch.setenv("AWS_DEFAULT_REGION", object_storage.region or "")
    return moltpipe


def a_sensor_of_old(database: Database) -> None:
    with database.begin() as db:
        db.execute(sa.text("INSERT INTO watchers VALUES ('of_old', now() - interval '2 years')"))


def names(database: Database) -> list[str]:
    with database.begin() as db:
        return list(db.execute(sa.select(watchers.c.name)).scalars())


def test_a_dry_run_says_what_would_go_and_the_next_one_removes_it(beside_s3: Moltpipe, database: Database) -> None:
    a_sensor_of_old(database)
    said = beside_s3("prune", "--dry-run", "--json")
    assert said.status == 0
    assert said.json["dry_run"] is True
    gone = {one["what"]: one for one in said.json["pruned"]}
    assert {name for name, one in gone.items() if one["count"]} == {"watchers"}
    assert gone["watchers"].keys() == {"what", "count", "bytes", "oldest"}
    assert names(database) == ["of_old"]

    removed = beside_s3("prune")
    assert removed.status == 0
    assert removed.out.split()[:2] == ["removed", "count"]
    assert "watchers" in removed.out
    assert names(database) == []
    with database.begin() as db:
        assert db.execute(sa.select(audit.c.action)).scalars().all() == ["prune"]
    assert beside_s3("prune").out == "nothing to remove\n"


def test_beside_another_prune_it_refuses(beside_s3: Moltpipe, database: Database) -> None:
    with alone(database, "prune"):
        said = beside_s3("prune", "--json")
    assert (said.status, said.out) == (1, "")
    assert "another prune is under way" in said.err


def test_without_s3_it_says_so_and_what_went_before_stays_gone(moltpipe: Moltpipe, database: Database) -> None:
    a_sensor_of_old(database)
    said = moltpipe("prune")
    assert said.status == 1
    assert "could not list compute-logs/" in said.err
    assert names(database) == ["of_old"]
