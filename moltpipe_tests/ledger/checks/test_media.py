from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.finding import Severity
from moltpipe.ledger.checks.media import MEDIA_OBJECTS_ARE_THERE, OBJECTS_ARE_KNOWN
from moltpipe_tests.ledger.checks.damage import first_columns, look, only_finding, sql

SINCE = datetime(2026, 3, 2, 12, tzinfo=UTC)
OBSERVED = "INSERT INTO observations (check_name, subject, detail, since) VALUES (:name, :subject, :detail, :since)"


@pytest.mark.parametrize(("found", "said"), [("null", None), ("999", 999)])
def test_a_medium_that_is_gone_or_has_another_size_is_found(
    transaction: Connection, found: str, said: int | None
) -> None:
    row_id = str(uuid4())
    detail = f'{{"table": "takes", "row_id": "{row_id}", "expected_bytes": 5000000000, "found_bytes": {found}}}'
    sql(transaction, OBSERVED, name="media_objects_are_there", subject="takes/a.mp4", detail=detail, since=SINCE)
    finding = only_finding(transaction, MEDIA_OBJECTS_ARE_THERE)
    assert list(finding.rows[0])[:5] == ["key", "table", "row_id", "expected_bytes", "found_bytes"]
    assert first_columns(finding, 5) == [("takes/a.mp4", "takes", row_id, 5_000_000_000, said)]
    assert finding.since == SINCE
    assert "--remake KEY" in finding.remedy


def test_an_object_that_no_row_knows_is_told_as_a_warning(transaction: Connection) -> None:
    sql(transaction, OBSERVED, name="objects_are_known", subject="takes/b.mp4", detail='{"bytes": 7}', since=SINCE)
    finding = only_finding(transaction, OBJECTS_ARE_KNOWN)
    assert first_columns(finding, 2) == [("takes/b.mp4", 7)]
    assert (finding.since, finding.severity) == (SINCE, Severity.WARNING)


def test_a_sweep_that_cannot_go_on_is_not_a_medium_that_is_gone(transaction: Connection) -> None:
    sql(transaction, "INSERT INTO sweeps (name, error) VALUES ('objects', 'the bucket refused: 403')")
    unknown = {finding.name: finding.could_not_check for finding in look(transaction) if not finding.passed}
    assert set(unknown) == {MEDIA_OBJECTS_ARE_THERE.name, OBJECTS_ARE_KNOWN.name}
    assert "the bucket refused: 403" in str(unknown[MEDIA_OBJECTS_ARE_THERE.name])
