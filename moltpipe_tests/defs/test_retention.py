"""The daily prune in Dagster: when it is asked for, and that the run does it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.test_utils import create_run_for_test

from moltpipe.defs.retention import prune_job, retention_schedule
from moltpipe.ledger.database import Database
from moltpipe.ledger.schema import watchers
from moltpipe.ledger.watching import alone
from moltpipe.runtime.environment import dagster_url
from moltpipe.runtime.services import S3Access
from moltpipe_tests.conftest import BUCKET


def tick(database: Database, at: datetime) -> dg.RunRequest | dg.SkipReason:
    with dg.build_schedule_context(resources={"ledger": database}, scheduled_execution_time=at) as context:
        answer = retention_schedule(context)
    assert isinstance(answer, dg.RunRequest | dg.SkipReason)
    return answer


def test_a_day_has_one_prune(database: Database) -> None:
    today = datetime.now(UTC)
    first, again = tick(database, today), tick(database, today)
    assert isinstance(first, dg.RunRequest)
    assert isinstance(again, dg.RunRequest)
    assert first.run_key == again.run_key == f"prune:{today:%Y-%m-%d}"
    with database.begin() as db:
        assert "retention_schedule" in db.execute(sa.select(watchers.c.name)).scalars().all()


def test_days_that_were_missed_are_not_made_up_for(database: Database) -> None:
    assert isinstance(tick(database, datetime.now(UTC) - timedelta(days=1)), dg.SkipReason)


def test_where_somebody_else_prunes_the_schedule_rests(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_RETENTION", "off")
    assert isinstance(tick(database, datetime.now(UTC)), dg.SkipReason)


@pytest.fixture
def instance(
    database_url: str, object_storage: S3Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """One that keeps its records beside the ledger, as in every deployment."""
    assert object_storage.secret_key is not None
    monkeypatch.setenv("MOLTPIPE_S3_BUCKET", BUCKET)
    monkeypatch.setenv("MOLTPIPE_S3_ENDPOINT_URL", object_storage.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_storage.access_key or "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", object_storage.secret_key.get_secret_value())
    monkeypatch.setenv("AWS_DEFAULT_REGION", object_storage.region or "")
    storage = {"postgres": {"postgres_url": dagster_url(database_url)}}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"storage": storage}) as made:
        yield made


def test_the_run_prunes_and_says_what_went(instance: dg.DagsterInstance, database: Database) -> None:
    old, newest = (
        create_run_for_test(instance, job_name="check_integrity", status=dg.DagsterRunStatus.SUCCESS).run_id
        for _ in range(2)
    )
    with database.begin() as db:
        long_ago = sa.text("UPDATE dagster.runs SET create_timestamp = now() - interval '1 year', update_timestamp ="
                           " now() - interval '1 year'")  # fmt: skip
        db.execute(long_ago)
    done = prune_job.execute_in_process(instance=instance, resources={"ledger": database})
    assert done.success
    left = {run.run_id for run in instance.get_runs()}
    assert newest in left
    assert old not in left
    said = [record.user_message for record in instance.all_logs(done.run_id)]
    assert "removed: 1 runs" in said


def test_a_run_that_meets_another_prune_leaves_it_to_that(
    instance: dg.DagsterInstance, database: Database, database_url: str
) -> None:
    another = Database(database_url)
    with alone(another, "prune"):
        assert prune_job.execute_in_process(instance=instance, resources={"ledger": database}).success
    another.dispose()
