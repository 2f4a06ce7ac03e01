from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.series import SELECTED_SCRIPTS_HAVE_SERIES, SERIES_HAVE_ALL_EPISODES_AND_JOBS
from moltpipe_tests.ledger.beginnings import filed, one, series
from moltpipe_tests.ledger.checks.damage import first_columns, only_finding, sql

BY_HAND = "UPDATE scripts SET pilot_status = 'selected' WHERE id = :id"


def test_a_script_that_was_selected_by_hand_is_found(transaction: Connection) -> None:
    """The incident: selected, and no series was ever made."""
    db = transaction
    sql(db, "ALTER TABLE scripts DROP CONSTRAINT ck_scripts_selected_has_series")
    orphan = filed(db, "The G.U.I.D.E.").script_id
    sql(db, BY_HAND, id=orphan)
    finding = only_finding(db, SELECTED_SCRIPTS_HAVE_SERIES)
    assert first_columns(finding, 2) == [(str(orphan), "The G.U.I.D.E.")]
    assert finding.since == one(db, "SELECT submitted_at FROM scripts")
    assert "moltpipe repair" in finding.remedy


def test_the_series_of_another_script_does_not_count(transaction: Connection) -> None:
    """Where the constraint is in force, this is how somebody gets past it."""
    db = transaction
    series(db)
    orphan = filed(db, "The Impostor").script_id
    sql(db, "UPDATE scripts SET pilot_status = 'selected', series_id = (SELECT id FROM limited_series) WHERE id = :id",
        id=orphan)  # fmt: skip
    assert first_columns(only_finding(db, SELECTED_SCRIPTS_HAVE_SERIES), 2) == [(str(orphan), "The Impostor")]


@pytest.mark.parametrize(
    ("damage", "episodes", "with_job"),
    [
        (["DELETE FROM production_jobs WHERE job_type = 'single_episode'"], 5, 1),
        (["UPDATE production_jobs SET job_type = 'single_episode'"], 5, 4),
        (["DELETE FROM production_jobs", "DELETE FROM episodes WHERE episode_number > 3"], 3, 0),
        (["DELETE FROM production_jobs", "DELETE FROM episodes"], 0, 0),
    ],
)
def test_a_series_without_all_its_episodes_and_jobs_is_found(
    transaction: Connection, damage: list[str], episodes: int, with_job: int
) -> None:
    db = transaction
    series(db)
    made = db.execute(sa.text("SELECT id, title, script_id, created_at FROM limited_series")).one()
    for statement in damage:
        sql(db, statement)
    finding = only_finding(db, SERIES_HAVE_ALL_EPISODES_AND_JOBS)
    assert first_columns(finding, 5) == [(str(made.id), made.title, str(made.script_id), episodes, with_job)]
    assert finding.since == made.created_at
