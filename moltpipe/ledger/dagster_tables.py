"""Dagster's own tables, in the schema beside ours: what is old in them, and what the UI still shows by it.

Here: the facts about runs, events and results of checks that `studio.retention` judges, and removing what no function
of Dagster removes. Not here: deleting a run, for which Dagster has a function (`runtime.pruning` calls it).

`delete_run` takes the run, its tags, its events and its slots in pools. It leaves its rows in `asset_check_executions`,
and nothing in Dagster ever removes events that belong to no run: a sensor that reports 21 checks every ten minutes
writes 3,000 a day of each. Read with dagster 1.13: columns and keys of `dagster._core.storage.*.schema`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.studio.retention import OldEvent, OldResult, OldRun

# A look for a later event is a subquery with a LIMIT: an EXISTS would be hashed, which reads all events for each page.
_IS_NEWEST = """
e.asset_key IS NOT NULL AND CASE WHEN e.partition IS NULL
    THEN (
        SELECT later.id FROM dagster.event_logs AS later
        WHERE later.asset_key = e.asset_key AND later.dagster_event_type = e.dagster_event_type
            AND later.partition IS NULL AND later.id > e.id
        LIMIT 1
    )
    ELSE (
        SELECT later.id FROM dagster.event_logs AS later
        WHERE later.asset_key = e.asset_key AND later.dagster_event_type = e.dagster_event_type
            AND later.partition = e.partition AND later.id > e.id
        LIMIT 1
    )
END IS NULL
"""
"""Whether an event `e` is the newest of its kind, of its asset and partition."""

_RUNS = sa.text(
    f"""
WITH page AS MATERIALIZED (
    SELECT id, run_id, status, pipeline_name, end_time, update_timestamp
    FROM dagster.runs
    WHERE id > :after AND create_timestamp < :before
    ORDER BY id
    LIMIT :limit
)
SELECT
    r.id,
    r.run_id,
    r.status IN ('SUCCESS', 'FAILURE', 'CANCELED') AS is_over,
    coalesce(to_timestamp(r.end_time), r.update_timestamp AT TIME ZONE 'UTC') AS ended_at,
    coalesce(e.bears_newest_event, false) AS bears_newest_event,
    coalesce(e.bytes, 0) AS bytes,
    CASE WHEN p.value IS NULL
        THEN NOT EXISTS (
            SELECT FROM dagster.runs AS later
            WHERE later.pipeline_name = r.pipeline_name AND later.id > r.id
                AND (
                    SELECT lp.id FROM dagster.run_tags AS lp
                    WHERE lp.run_id = later.run_id AND lp.key = 'dagster/partition' LIMIT 1
                ) IS NULL
        )
        ELSE NOT EXISTS (
            SELECT FROM dagster.run_tags AS lp JOIN dagster.runs AS later ON later.run_id = lp.run_id
            WHERE lp.key = 'dagster/partition' AND lp.value = p.value
                AND later.pipeline_name = r.pipeline_name AND later.id > r.id
        )
    END AS is_newest_of_work,
    EXISTS (
        SELECT FROM incidents AS i
        WHERE i.closed_at IS NULL AND i.subject = 'run:' || r.pipeline_name || ':' || coalesce(p.value, '')
    ) AS is_of_open_incident,
    EXISTS (
        SELECT FROM dagster.run_tags AS again
        WHERE again.key IN ('dagster/parent_run_id', 'dagster/root_run_id') AND again.value = r.run_id
            AND again.run_id <> r.run_id
    ) AS is_begun_again,
    EXISTS (
        SELECT FROM dagster.run_tags AS b JOIN dagster.bulk_actions AS whole ON whole.key = b.value
        WHERE b.run_id = r.run_id AND b.key = 'dagster/backfill'
            AND whole.status IN ('REQUESTED', 'CANCELING', 'FAILING')
    ) AS is_of_backfill_under_way,
    EXISTS (SELECT FROM production_jobs AS j WHERE j.process_uuid = r.run_id) OR EXISTS (
        SELECT FROM provider_jobs AS c
        WHERE r.run_id IN (c.process_uuid, c.claimed_by)
            AND c.state IN ('claimed', 'submitting', 'submitted', 'running', 'succeeded', 'ambiguous')
    ) AS is_named
FROM page AS r
LEFT JOIN LATERAL (
    SELECT t.value FROM dagster.run_tags AS t WHERE t.run_id = r.run_id AND t.key = 'dagster/partition' LIMIT 1
) AS p ON true
LEFT JOIN LATERAL (
    SELECT
        sum(octet_length(e.event)) AS bytes,
        bool_or(
            {_IS_NEWEST}
        ) AS bears_newest_event
    FROM dagster.event_logs AS e WHERE e.run_id = r.run_id
) AS e ON true
ORDER BY r.id
"""  # noqa: S608 - of our own text alone
)

# The newest result of each check, of all and of those that were completed: Dagster shows both.
_NEWEST_RESULTS = sa.text(
    """
SELECT max(id) AS id FROM dagster.asset_check_executions GROUP BY asset_key, check_name, partition
UNION
SELECT max(id) FROM dagster.asset_check_executions WHERE execution_status <> 'PLANNED'
GROUP BY asset_key, check_name, partition
"""
)
_OF_RESULTS = sa.text(
    "SELECT id, run_id, evaluation_event_storage_id FROM dagster.asset_check_executions WHERE id = ANY(:ids)"
)
_EVENTS = sa.text(
    f"""
SELECT
    e.id,
    e.timestamp AT TIME ZONE 'UTC' AS at,
    octet_length(e.event) AS bytes,
    {_IS_NEWEST} AS is_newest
FROM dagster.event_logs AS e
WHERE e.run_id = '' AND e.id > :after AND e.timestamp < :before
ORDER BY e.id
LIMIT :limit
"""  # noqa: S608 - of our own text alone
)
_RESULTS = sa.text(
    """
SELECT
    x.id,
    x.run_id,
    coalesce(x.evaluation_event_timestamp, x.create_timestamp) AT TIME ZONE 'UTC' AS at,
    coalesce(octet_length(x.evaluation_event), 0) AS bytes,
    EXISTS (SELECT FROM dagster.runs AS r WHERE r.run_id = x.run_id) AS is_of_run
FROM dagster.asset_check_executions AS x
WHERE x.id > :after
ORDER BY x.id
LIMIT :limit
"""
)
_REMOVE_EVENTS = (
    sa.text("DELETE FROM dagster.asset_event_tags WHERE event_id = ANY(:ids)"),
    sa.text("DELETE FROM dagster.event_logs WHERE id = ANY(:ids) AND run_id = ''"),
)
_REMOVE_RESULTS = sa.text("DELETE FROM dagster.asset_check_executions WHERE id = ANY(:ids)")
_THERE = sa.text("SELECT run_id FROM dagster.runs WHERE run_id = ANY(:run_ids)")


@dataclass(frozen=True)
class NewestResults:
    """What the UI says of every check now."""

    ids: frozenset[int]
    run_ids: frozenset[str]
    event_ids: frozenset[int]


def newest_results(db: Connection) -> NewestResults:
    """The newest result of each check. One look over the whole history of checks."""
    ids = list(db.execute(_NEWEST_RESULTS).scalars())
    rows = db.execute(_OF_RESULTS, {"ids": ids}).all()
    return NewestResults(
        frozenset(row.id for row in rows),
        frozenset(row.run_id for row in rows if row.run_id),
        frozenset(row.evaluation_event_storage_id for row in rows if row.evaluation_event_storage_id is not None),
    )


def runs_page(
    db: Connection, newest: NewestResults, *, before: datetime, after: int, limit: int
) -> tuple[list[OldRun], int | None]:
    """The next runs that were created before a moment, with what needs them, in the order in which they came.

    Returns:
        The runs, and what to go on behind; None when there are no more.
    """
    rows = db.execute(_RUNS, {"before": _naive(before), "after": after, "limit": limit}).all()
    runs = [
        OldRun(
            run_id=row.run_id,
            ended_at=row.ended_at if row.is_over else None,
            bytes=int(row.bytes),
            bears_newest_event=row.bears_newest_event,
            bears_newest_result=row.run_id in newest.run_ids,
            is_newest_of_work=row.is_newest_of_work,
            is_named=row.is_named,
            is_of_open_incident=row.is_of_open_incident,
            is_begun_again=row.is_begun_again,
            is_of_backfill_under_way=row.is_of_backfill_under_way,
        )
        for row in rows
    ]
    return runs, rows[-1].id if len(rows) == limit else None


def events_page(
    db: Connection, newest: NewestResults, *, before: datetime, after: int, limit: int
) -> tuple[list[OldEvent], int | None]:
    """The next events without a run from before a moment, and what to go on behind; None when there are no more."""
    rows = db.execute(_EVENTS, {"before": _naive(before), "after": after, "limit": limit}).all()
    events = [OldEvent(row.id, row.at, row.bytes, row.is_newest, row.id in newest.event_ids) for row in rows]
    return events, rows[-1].id if len(rows) == limit else None


def results_page(
    db: Connection, newest: NewestResults, *, gone: Collection[str], after: int, limit: int
) -> tuple[list[OldResult], int | None]:
    """The next results of checks in the order in which they came, and what to go on behind; None at the end.

    `gone` are runs that count as deleted, though they may still be there.
    """
    rows = db.execute(_RESULTS, {"after": after, "limit": limit}).all()
    results = [
        OldResult(row.id, row.at, row.bytes, row.id in newest.ids, row.is_of_run and row.run_id not in gone)
        for row in rows
    ]
    return results, rows[-1].id if len(rows) == limit else None


def remove_events(db: Connection, ids: Sequence[int]) -> None:
    """Remove events that belong to no run, with their tags."""
    for statement in _REMOVE_EVENTS:
        db.execute(statement, {"ids": list(ids)})


def remove_results(db: Connection, ids: Sequence[int]) -> None:
    """Remove results of checks from Dagster's history of them."""
    db.execute(_REMOVE_RESULTS, {"ids": list(ids)})


def runs_there(db: Connection, run_ids: Collection[str]) -> set[str]:
    """Those of these runs that Dagster knows."""
    return set(db.execute(_THERE, {"run_ids": list(run_ids)}).scalars()) if run_ids else set()


def _naive(moment: datetime) -> datetime:
    """As Dagster writes it: UTC without saying so."""
    return moment.astimezone(UTC).replace(tzinfo=None)
