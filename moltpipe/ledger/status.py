"""Where each thing is and what it waits for, in one document.

Here: the JSON shape of `moltpipe status`, a contract. Not here: the words of it (`studio.jobs`), tables for
people (`cli`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as POSTGRES_UUID
from sqlalchemy.engine import Connection, Row, RowMapping

from moltpipe.ledger.accounts import account_states
from moltpipe.ledger.audience import CLIP_VOTING
from moltpipe.ledger.calls import ambiguous_calls, count_at_provider
from moltpipe.ledger.jobs import load_jobs_where
from moltpipe.ledger.periods import AGENT_VOTING
from moltpipe.ledger.schema import (
    clip_variants,
    clip_votes,
    episodes,
    limited_series,
    scripts,
    shots,
    takes,
    voiceovers,
    voting_periods,
)
from moltpipe.ledger.spending import reserved, spend
from moltpipe.ledger.windows import PERIODS, period_from
from moltpipe.studio.jobs import lease_state, waiting_for
from moltpipe.studio.screenplay import EPISODES_PER_SERIES, PILOT_VARIANTS
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

NEWEST = 20
"""So many of the series that are finished are told of, and so many of the periods of each kind that are processed."""


def status(db: Connection, now: datetime, lease: timedelta = LEASE, *, everything: bool = False) -> dict[str, Any]:
    """Periods, scripts, series with their episodes, jobs, calls, accounts and spend, as JSON.

    Of what is finished, the newest alone, unless `everything` is asked for: `series_left_out` and `periods_left_out`
    say how many more there are. `spend_usd` holds `reserved_usd`, which is set aside for calls that are not over.
    """
    newest = None if everything else NEWEST
    undecided = db.execute(ambiguous_calls().order_by("since")).all()
    # The oldest of an episode comes last and stays.
    undecided_calls = {row.episode: row.call_id for row in reversed(undecided)}
    periods, periods_left_out = _periods(db, newest)
    series, series_left_out = _series(db, newest)
    episodes_by_series, job_counts = _episodes(db, [row["id"] for row in series], undecided_calls, now, lease)
    return {
        "periods": periods,
        "periods_left_out": periods_left_out,
        "scripts": _scripts(db),
        "series": [
            {
                "id": str(row["id"]),
                "title": row["title"],
                "status": row["status"],
                "episodes": episodes_by_series[row["id"]],
            }
            for row in series
        ],
        "series_left_out": series_left_out,
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


def _periods(db: Connection, newest: int | None) -> tuple[list[dict[str, Any]], int]:
    """The earliest first, and how many are left out. A vote on variants says of which episode."""
    statement = (
        sa.select(*PERIODS.selected_columns, episodes.c.partition_key)
        .outerjoin(episodes, episodes.c.id == voting_periods.c.episode_id)
        .order_by(voting_periods.c.starts_at, voting_periods.c.id)
    )
    if newest is not None:
        latest = (
            sa.select(voting_periods.c.id)
            .where(voting_periods.c.is_processed, voting_periods.c.period_type == kind)
            .order_by(voting_periods.c.ends_at.desc())
            .limit(newest)
            for kind in (AGENT_VOTING, CLIP_VOTING)
        )
        unprocessed = sa.select(voting_periods.c.id).where(~voting_periods.c.is_processed)
        statement = statement.where(voting_periods.c.id.in_(sa.union_all(unprocessed, *latest)))
    rows: list[Row[Any]] = list(db.execute(statement))
    told = [
        {
            "id": str(period.id),
            "period_type": period.period_type,
            "starts_at": period.starts_at.isoformat(),
            "ends_at": period.ends_at.isoformat(),
            "state": period_state(period),
            "episode": row.partition_key,
        }
        for row in rows
        for period in (period_from(row),)
    ]
    return told, _count(db, voting_periods) - len(told)


def _series(db: Connection, newest: int | None) -> tuple[list[RowMapping], int]:
    """Id, title and status in the order in which they were made, and how many are left out."""
    told = (
        sa.select(limited_series.c.id, limited_series.c.title, _series_progress.c.status)
        .join(_series_progress, _series_progress.c.series_id == limited_series.c.id)
        .order_by(limited_series.c.created_at, limited_series.c.id)
    )
    if newest is not None:
        told = told.where(limited_series.c.id == _any(_series_to_tell(db, newest)))
    rows = list(db.execute(told).mappings())
    return rows, _count(db, limited_series) - len(rows)


def _series_to_tell(db: Connection, newest: int) -> list[UUID]:
    """Every series that is not finished, and the newest of those that are.

    Says what the view `series_progress` says of a finished one, in one pass over all variants: the view counts anew
    for each of all episodes that ever were.
    """
    out = (
        sa.select(
            clip_variants.c.episode_id,
            sa.func.count().label("variants"),
            sa.func.count().filter(clip_variants.c.variant_number == 1).label("first"),
        )
        .group_by(clip_variants.c.episode_id)
        .subquery()
    )
    is_out = sa.case(
        (sa.and_(episodes.c.episode_number == 1, limited_series.c.medium == "video"), out.c.variants >= PILOT_VARIANTS),
        else_=out.c.first >= 1,
    )
    finished = (
        sa.select(episodes.c.series_id)
        .join(limited_series, limited_series.c.id == episodes.c.series_id)
        .join(out, out.c.episode_id == episodes.c.id)
        .where(is_out)
        .group_by(episodes.c.series_id)
        .having(sa.func.count() >= EPISODES_PER_SERIES)
        .subquery()
    )
    is_finished = finished.c.series_id.is_not(None)
    ranked = (
        sa.select(
            limited_series.c.id,
            is_finished.label("is_finished"),
            sa.func.row_number()
            .over(partition_by=is_finished, order_by=(limited_series.c.created_at.desc(), limited_series.c.id))
            .label("place"),
        )
        .outerjoin(finished, finished.c.series_id == limited_series.c.id)
        .subquery()
    )
    wanted = sa.select(ranked.c.id).where(~ranked.c.is_finished | (ranked.c.place <= newest))
    return list(db.execute(wanted).scalars())


def _count(db: Connection, table: sa.Table) -> int:
    counted: int = db.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    return counted


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
    db: Connection, series_ids: Sequence[UUID], undecided_calls: dict[str, UUID], now: datetime, lease: timedelta
) -> tuple[dict[UUID, list[dict[str, Any]]], Counter[str]]:
    """The episodes of these series, and how many of their unfinished jobs are where."""
    jobs = {job.episode_id: job for job in load_jobs_where(db, _of(series_ids))}
    variants = _variants(db, series_ids)
    # Leases are measured by the clock that wrote them.
    clock = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    by_series: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
    counts: Counter[str] = Counter()
    rows = db.execute(
        sa.select(episodes, _episode_progress)
        .join(_episode_progress, _episode_progress.c.episode_id == episodes.c.id)
        .where(_of(series_ids))
        .order_by(episodes.c.series_id, episodes.c.episode_number)
    ).all()
    progress = _progress(db, {row.id: row.variants_wanted for row in rows if row.status != "completed"})
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
                "progress": progress.get(row.id),
                "variants": variants[row.id],
                "selected_variant": next(
                    (one["variant_number"] for one in variants[row.id] if one["is_selected"]), None
                ),
            }
        )
    return by_series, counts


def _progress(db: Connection, variants_wanted: Mapping[UUID, int]) -> dict[UUID, dict[str, int]]:
    """What has been made so far of the episodes that want so many variants, by episode."""
    mine = shots.c.episode_id == episodes.c.id

    def count(what: sa.Select[Any]) -> sa.ScalarSelect[Any]:
        return what.where(mine).correlate(episodes).scalar_subquery()

    spoken = sa.select(sa.func.count(sa.distinct(voiceovers.c.shot_id))).join(shots, shots.c.id == voiceovers.c.shot_id)
    filmed = sa.select(sa.func.count()).select_from(takes).join(shots, shots.c.id == takes.c.shot_id)
    rows = db.execute(
        sa.select(
            episodes.c.id,
            count(sa.select(sa.func.count()).select_from(shots)).label("shots"),
            count(spoken).label("voiceovers"),
            count(filmed.where(takes.c.is_current)).label("takes"),
            limited_series.c.medium,
        )
        .join(limited_series, limited_series.c.id == episodes.c.series_id)
        .where(episodes.c.id == _any(list(variants_wanted)))
    )
    return {
        row.id: {
            "shots": row.shots,
            "voiceovers": row.voiceovers,
            "takes": row.takes,
            "takes_wanted": row.shots * variants_wanted[row.id] if row.medium == "video" else 0,
        }
        for row in rows
    }


def _variants(db: Connection, series_ids: Sequence[UUID]) -> dict[UUID, list[dict[str, Any]]]:
    """The variants that are out, by episode, each with the votes of the audience."""
    votes = (
        sa.select(sa.func.count())
        .where(clip_votes.c.clip_variant_id == clip_variants.c.id)
        .correlate(clip_variants)
        .scalar_subquery()
    )
    rows = db.execute(
        sa.select(
            clip_variants.c.id,
            clip_variants.c.episode_id,
            clip_variants.c.variant_number,
            clip_variants.c.is_selected,
            votes.label("votes"),
        )
        .join(episodes, episodes.c.id == clip_variants.c.episode_id)
        .where(_of(series_ids))
        .order_by(clip_variants.c.episode_id, clip_variants.c.variant_number)
    )
    by_episode: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_episode[row.episode_id].append(
            {
                "id": str(row.id),
                "variant_number": row.variant_number,
                "votes": row.votes,
                "is_selected": row.is_selected,
            }
        )
    return by_episode


def _of(series_ids: Sequence[UUID]) -> sa.ColumnElement[bool]:
    return episodes.c.series_id == _any(series_ids)


def _any(ids: Sequence[UUID]) -> sa.ColumnElement[Any]:
    """As one array: of values one by one, a statement takes 65,535."""
    return sa.any_(sa.literal(list(ids), ARRAY(POSTGRES_UUID(as_uuid=True))))


def _scripts(db: Connection) -> dict[str, int]:
    counted = db.execute(sa.select(scripts.c.pilot_status, sa.func.count()).group_by(scripts.c.pilot_status))
    counts = {row[0]: row[1] for row in counted}
    return {name: counts.get(name, 0) for name in _SCRIPTS}
