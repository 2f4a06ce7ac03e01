from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger import audit
from moltpipe.ledger.database import Database
from moltpipe.ledger.schema import scripts, voting_periods, watchers
from moltpipe_tests.ledger.beginnings import filed, one, series


def note(db: Connection, subject: str, **other: audit.Json) -> None:
    audit.record(db, by="molt", action="repair", subject=subject, what="mend it", **other)


def test_the_newest_entries_come_first_also_those_of_one_transaction(transaction: Connection) -> None:
    for number in range(5):
        note(transaction, str(number))
    assert [entry.subject for entry in audit.entries(transaction, 3)] == ["4", "3", "2"]


def test_an_entry_says_who_did_what_and_what_was_there_before(transaction: Connection) -> None:
    note(transaction, "7", before={"state": "lost"}, after=[{"state": "found"}])
    (entry,) = audit.entries(transaction, 1)
    assert (entry.by, entry.action, entry.subject, entry.what) == ("molt", "repair", "7", "mend it")
    assert (entry.before, entry.after) == ({"state": "lost"}, [{"state": "found"}])
    assert entry.as_json() == {
        "at": entry.at.isoformat(),
        "by": "molt",
        "action": "repair",
        "subject": "7",
        "what": "mend it",
        "before": {"state": "lost"},
        "after": [{"state": "found"}],
    }


def test_what_was_not_given_is_absent_and_not_a_json_null(transaction: Connection) -> None:
    note(transaction, "7")
    assert one(transaction, "SELECT before IS NULL AND after IS NULL FROM audit")
    (entry,) = audit.entries(transaction, 1)
    assert (entry.before, entry.after) == (None, None)


def test_what_is_undone_is_not_written_down(database: Database) -> None:
    def fail(db: Connection) -> None:
        note(db, "7")
        raise RuntimeError("undone")

    with pytest.raises(RuntimeError, match="undone"), database.begin() as db:
        fail(db)
    with database.begin() as db:
        assert audit.entries(db, 1) == []


def test_words_that_postgres_refuses_do_not_lose_the_entry(transaction: Connection) -> None:
    audit.record(transaction, by="m\x00lt", action="repair", subject="a\ud800b", what="x" * 9000)
    (entry,) = audit.entries(transaction, 1)
    assert (entry.by, entry.subject) == ("m\ufffdlt", "a?b")
    assert len(entry.what) < 9000


def test_a_snapshot_holds_the_rows_without_their_large_documents(transaction: Connection) -> None:
    series(transaction)
    filed(transaction, "Waiting")
    (selected,) = audit.snapshot(transaction, scripts, scripts.c.pilot_status == "selected")
    assert (selected["title"], selected["pilot_status"]) == ("The Buoy", "selected")
    assert "script_data" not in selected
    (period,) = audit.snapshot(transaction, voting_periods, sa.true())
    assert period["outcome"]["winners"][0]["title"] == "The Buoy"


def test_a_snapshot_of_a_great_many_rows_is_cut(transaction: Connection) -> None:
    transaction.execute(
        sa.text("INSERT INTO watchers (name, ticked_at) SELECT 'w' || n, now() FROM generate_series(1, 500) AS n")
    )
    assert len(audit.snapshot(transaction, watchers, sa.true())) == 200
