"""How the tests of the checks look and do damage: by hand, as an operator with `psql` would."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.audience import clip_vote_of
from moltpipe.ledger.checks import run_checks
from moltpipe.ledger.checks.finding import Cell, Check, Conditions, Finding
from moltpipe.ledger.jobs import claim_job, complete_job
from moltpipe.ledger.media import publish_variant
from moltpipe.ledger.periods import close_early
from moltpipe.studio.records import Episode
from moltpipe_tests.ledger.beginnings import LEASE, RULES, series, stored

HOUR = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(UTC)


def sql(db: Connection, statement: str, **values: object) -> None:
    db.execute(sa.text(statement), values)


def look(db: Connection, **conditions: Any) -> list[Finding]:  # noqa: ANN401 - any field of the conditions
    """What all checks find at this moment."""
    return run_checks(db, Conditions(**({"now": now()} | conditions)))


def failed(db: Connection, **conditions: Any) -> list[str]:  # noqa: ANN401 - as above
    """Names of the checks that do not pass."""
    return [finding.name for finding in look(db, **conditions) if not finding.passed]


def only_finding(db: Connection, check: Check, **conditions: Any) -> Finding:  # noqa: ANN401 - as above
    """What one check finds, while all the others pass: damage is told once, under its own name."""
    (finding,) = (one for one in look(db, **conditions) if not one.passed)
    assert (finding.name, finding.asset, finding.severity) == (check.name, check.asset, check.severity)
    assert finding.could_not_check is None
    assert finding.remedy == check.remedy
    assert len(finding.rows) == finding.count
    return finding


def first_columns(finding: Finding, count: int) -> list[tuple[Cell, ...]]:
    """The first columns of what was found, which repair and alerts rely on."""
    return [tuple(row.values())[:count] for row in finding.rows]


def published(db: Connection) -> list[Episode]:
    """The five episodes of a series that is finished: every variant out, its second vote over."""
    episodes = series(db)
    for episode in episodes:
        publish(db, episode)
    vote = clip_vote_of(db, episodes[0].id)
    assert vote is not None
    close_early(db, vote.id, RULES, now(), "the tests wait for nobody")
    return episodes


def publish(db: Connection, episode: Episode) -> None:
    """Every variant of an episode is out, and its job completed."""
    claim = claim_job(db, episode.partition_key, "run-1", LEASE)
    for number in range(1, episode.variants_wanted + 1):
        publish_variant(
            db,
            claim,
            number,
            stored(f"{episode.partition_key}-{number}"),
            captions_key="c",
            thumbnail_key="t",
            duration_seconds=30,
            ingredients="i",
        )
    complete_job(db, claim)


def ago(db: Connection, table: str, column: str, row_id: UUID, time: timedelta) -> datetime:
    """Set a column back to so long ago, by the clock of the database; the time that it has now."""
    moment: datetime = db.execute(
        sa.text(f"UPDATE {table} SET {column} = clock_timestamp() - :time WHERE id = :id RETURNING {column}"),  # noqa: S608 - names from the tests
        {"time": time, "id": row_id},
    ).scalar_one()
    return moment
