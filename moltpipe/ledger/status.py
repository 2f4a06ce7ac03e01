"""Where each thing is and what it waits for, in one document.

Here: the JSON shape of `moltpipe status`, a contract. Not here: the words of it (`studio.jobs`), tables for
people (`cli`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger.accounts import account_states
from moltpipe.ledger.calls import ambiguous_calls, count_at_provider
from moltpipe.ledger.jobs import load_jobs
from moltpipe.ledger.periods import list_periods
from moltpipe.ledger.schema import episodes, limited_series, scripts
from moltpipe.ledger.spending import reserved, spend
from moltpipe.studio.jobs import lease_state, waiting_for
from moltpipe.studio.records import Job
from moltpipe.studio.voting import period_state

LEASE = timedelta(seconds=60)
_SCRIPTS = ("draft", "submitted", "voting", "selected", "rejected")
_JOBS = {"pending": "pending", "producing": "running", "failed": "failed"}

_episode_progress = sa.table(
    "episode_progress",
    sa.column("episode_id"),
    sa.column("status"),
    sa.column("variants_done"),
    sa.column("variants_wanted"),
)
_series_progress = sa.table("series_progress", sa.column("series_id"), sa.column("status"))


def status(db: Connection, now: datetime, lease: timedelta = LEASE) -> dict[str, Any]:
    """Periods, scripts, series with their episodes, jobs, calls, accounts and spend, as JSON.

    `spend_usd` holds `reserved_usd`, which is set aside for calls that are not over.
    """
    jobs = {job.episode_id: job for job in load_jobs(db, unfinished_only=False)}
    undecided = db.execute(ambiguous_calls().order_by("since")).all()
    # The oldest of an episode comes last and stays.
    undecided_calls = {row.episode: row.call_id for row in reversed(undecided)}
    episodes_by_series, job_counts = _episodes(db, jobs, undecided_calls, now, lease)
    return {
        "periods": [
            {
                "id": str(period.id),
                "period_type": period.period_type,
                "starts_at": period.starts_at.isoformat(),
                "ends_at": period.ends_at.isoformat(),
                "state": period_state(period),
            }
            for period in list_periods(db)
        ],
        "scripts": _scripts(db),
        "series": [
            {
                "id": str(row.id),
                "title": row.title,
                "status": row.status,
                "episodes": episodes_by_series[row.id],
            }
            for row in db.execute(
                sa.select(limited_series.c.id, limited_series.c.title, _series_progress.c.status)
                .join(_series_progress, _series_progress.c.series_id == limited_series.c.id)
                .order_by(limited_series.c.created_at, limited_series.c.id)
            )
        ],
        "jobs": {name: job_counts[name] for name in _JOBS.values()},
        "calls": {"in_flight": count_at_provider(db), "ambiguous": [_ambiguous(row) for row in undecided]},
        "engines": [
            {
                "account": one.account,
                "in_flight": one.in_flight,
                "blocked_until": one.blocked_until.isoformat() if one.blocked_until else None,
                "why": one.reason,
            }
            for one in account_states(db)
        ],
        "spend_usd": float(spend(db)),
        "reserved_usd": float(reserved(db)),
    }


def _ambiguous(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": str(row.call_id),
        "engine": row.engine,
        "episode": row.episode,
        "shot": row.shot,
        "since": row.since.isoformat(),
        "reserved_usd": row.reserved_usd,
        "error": row.error,
    }


def _episodes(
    db: Connection, jobs: dict[UUID, Job], undecided_calls: dict[str, UUID], now: datetime, lease: timedelta
) -> tuple[dict[UUID, list[dict[str, Any]]], Counter[str]]:
    """The episodes of every series, and how many of the unfinished jobs are where."""
    # Leases are measured by the clock that wrote them.
    clock = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    by_series: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
    counts: Counter[str] = Counter()
    rows = db.execute(
        sa.select(episodes, _episode_progress)
        .join(_episode_progress, _episode_progress.c.episode_id == episodes.c.id)
        .order_by(episodes.c.series_id, episodes.c.episode_number)
    )
    for row in rows:
        job = jobs.get(row.id)
        if job is not None and row.status in _JOBS:
            counts[_JOBS[row.status]] += 1
        by_series[row.series_id].append(
            {
                "id": str(row.id),
                "episode_number": row.episode_number,
                "partition_key": row.partition_key,
                "status": row.status,
                "variants_done": row.variants_done,
                "variants_wanted": row.variants_wanted,
                "waiting_for": None
                if row.status == "completed"
                else "`moltpipe repair`: it has no production job"
                if job is None
                else waiting_for(job, lease_state(job, clock, lease), now, undecided_calls.get(row.partition_key)),
            }
        )
    return by_series, counts


def _scripts(db: Connection) -> dict[str, int]:
    counted = db.execute(sa.select(scripts.c.pilot_status, sa.func.count()).group_by(scripts.c.pilot_status))
    counts = {row[0]: row[1] for row in counted}
    return {name: counts.get(name, 0) for name in _SCRIPTS}
