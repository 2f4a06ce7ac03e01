"""All checks together: on a studio that is in order, and where one of them cannot look."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger import checks
from moltpipe.ledger.checks import CHECKS, run_check
from moltpipe.ledger.checks.finding import Check, Conditions, Severity
from moltpipe.ledger.checks.series import SELECTED_SCRIPTS_HAVE_SERIES
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.periods import get_outcome
from moltpipe.ledger.series import all_episodes, load_series
from moltpipe.ledger.spending import Caps
from moltpipe_tests.ledger.beginnings import filed, one
from moltpipe_tests.ledger.big_studio import fill
from moltpipe_tests.ledger.checks.damage import failed, look, published, sql

FOREIGN_KEYS = """
SELECT conrelid::regclass::text, confrelid::regclass::text,
    (SELECT string_agg(format('a.%I IS NOT NULL', attname), ' AND ') FROM pg_attribute
        WHERE attrelid = conrelid AND attnum = ANY(conkey)),
    (SELECT string_agg(format('a.%I = b.%I', x.attname, y.attname), ' AND ')
        FROM unnest(conkey, confkey) AS pair (x, y)
        JOIN pg_attribute AS x ON x.attrelid = conrelid AND x.attnum = pair.x
        JOIN pg_attribute AS y ON y.attrelid = confrelid AND y.attnum = pair.y)
FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace
"""


def test_an_empty_ledger_passes(transaction: Connection) -> None:
    assert failed(transaction) == []


def test_a_finished_series_passes(transaction: Connection) -> None:
    published(transaction)
    assert failed(transaction) == []


def test_a_studio_of_ten_thousand_scripts_in_every_state_passes(transaction: Connection) -> None:
    db = transaction
    studio = fill(db, scripts=10_000, takes=10_000)
    rows = db.execute(sa.text("SELECT pilot_status, count(*) AS scripts FROM scripts GROUP BY 1"))
    states: dict[str, int] = {row.pilot_status: row.scripts for row in rows}
    assert set(states) == {"draft", "submitted", "voting", "selected", "rejected"}
    assert (sum(states.values()), states["selected"]) == (10_000, studio.series)
    caps = Caps(series_usd=Decimal(1000), day_usd=Decimal(1_000_000))
    findings = look(db, caps=caps)
    assert [finding.name for finding in findings] == [check.name for check in CHECKS]
    assert [(one.name, one.rows, one.could_not_check) for one in findings if not one.passed] == []


def test_the_big_studio_is_one_that_moltpipe_could_have_made(transaction: Connection) -> None:
    """Its rows are written past the foreign keys, and by no function of ours."""
    db = transaction
    fill(db, scripts=300, takes=1_000)
    for of, to, is_set, same in db.execute(sa.text(FOREIGN_KEYS)):
        statement = f"SELECT count(*) FROM {of} AS a WHERE {is_set} AND NOT EXISTS (SELECT FROM {to} AS b WHERE {same})"  # noqa: S608 - names from the catalog
        assert one(db, statement) == 0, (of, to)
    processed = db.execute(sa.text("SELECT id, period_type FROM voting_periods WHERE is_processed")).all()
    assert {period_type for _, period_type in processed} == {"agent_voting", "clip_voting"}
    for period_id, _ in processed:
        outcome = get_outcome(db, period_id)
        assert outcome is not None
        assert outcome.votes > 0
    assert load_series(db, all_episodes(db)[0].series_id).bible.character_anchors


def test_every_check_has_an_asset_a_promise_and_a_remedy() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS) == 21
    for check in CHECKS:
        assert check.promise.endswith(".")
        assert check.remedy.endswith(".")
    warnings = {check.name for check in CHECKS if check.severity is Severity.WARNING}
    assert warnings == {"jobs_do_not_wait_too_long", "objects_are_known", "spend_is_below_its_caps"}


def test_a_check_whose_view_is_gone_says_so_and_the_others_look(transaction: Connection) -> None:
    db = transaction
    filed(db, "Waiting")
    sql(db, "DROP VIEW series_progress")
    sql(db, "DROP VIEW episode_progress")
    (finding,) = (one for one in look(db) if not one.passed)
    assert finding.name == "completed_jobs_are_published"
    assert finding.could_not_check == 'relation "episode_progress" does not exist'
    assert (finding.count, finding.as_json()["passed"]) == (0, False)
    assert one(db, "SELECT count(*) FROM scripts") == 1


def test_a_table_that_somebody_has_locked_keeps_no_other_check_waiting(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "LOCKED_S", 0.05)
    with psycopg.connect(database_url) as other, database.begin() as db:
        other.execute("LOCK TABLE clip_variants IN ACCESS EXCLUSIVE MODE")
        unknown = {one.name: one.could_not_check for one in look(db) if not one.passed}
        other.rollback()
        assert set(unknown) == {
            "pilots_have_their_clip_vote",
            "published_episodes_have_a_selected_variant",
            "completed_jobs_are_published",
        }
        assert set(unknown.values()) == {"canceling statement due to lock timeout"}
        assert failed(db) == []


def test_checks_that_find_no_time_left_say_so(transaction: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(transaction, scripts=2_000, takes=1_000)
    monkeypatch.setattr(checks, "PATIENCE_S", 0.0)
    unknown = {one.name: one.could_not_check for one in look(transaction) if not one.passed}
    assert unknown["completed_jobs_are_published"] == "canceling statement due to statement timeout"


def test_a_look_leaves_the_limits_of_the_transaction_as_they_were(transaction: Connection) -> None:
    db = transaction
    limits = "SELECT current_setting('statement_timeout') || current_setting('lock_timeout') || current_setting('jit')"
    before = one(db, limits)
    assert run_check(db, SELECTED_SCRIPTS_HAVE_SERIES, Conditions(datetime.now(UTC))).passed
    assert one(db, limits) == before


def test_a_connection_that_is_lost_is_no_finding(database: Database, database_url: str) -> None:
    def breaking(db: Connection, _: Conditions) -> sa.Select[Any]:
        with psycopg.connect(database_url, autocommit=True) as killer:
            killer.execute("SELECT pg_terminate_backend(%s)", [one(db, "SELECT pg_backend_pid()")])
        return sa.select(sa.literal(1).label("since"))

    unlucky = Check("unlucky", "scripts", "Nothing.", breaking, "None.")
    with pytest.raises(DatabaseUnavailable), database.begin() as db:
        run_check(db, unlucky, Conditions(datetime.now(UTC)))
