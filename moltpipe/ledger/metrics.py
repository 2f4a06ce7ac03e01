"""Figures of a studio for monitoring: how much waits, for how long, what it cost, what was found wrong.

Here: one function for each group of figures, one query each, nothing written. Not here: their names and how often they
are read (`runtime.metrics`), finding what is wrong (`ledger.checks`: what was found last is read here, not looked for).

What is under way is read through the partial indexes of what is unfinished, so it costs the same after years. What
there ever was (ended calls, bytes, episodes) takes a pass over its table: whoever reads it does so seldom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.engine import Connection

from moltpipe.ledger.calls import OVER, CallState
from moltpipe.ledger.periods import AGENT_VOTING
from moltpipe.ledger.schema import (
    alerts,
    clip_variants,
    clip_votes,
    engine_accounts,
    episodes,
    incidents,
    limited_series,
    observations,
    production_jobs,
    provider_jobs,
    scores,
    script_votes,
    scripts,
    sweeps,
    takes,
    voiceovers,
    voting_periods,
    watchers,
)

JOB_STATES = ("waiting", "postponed", "running", "resting", "lapsed", "undecided", "given_up")
PERIOD_STATES = ("scheduled", "open", "due")
SCRIPT_STATES = ("draft", "submitted", "voting", "selected", "rejected")
EPISODE_STATES = ("pending", "producing", "completed", "failed")
SERIES_STATES = ("pending", "producing", "active", "completed", "failed")
NEWEST_PERIODS = 20
"""So many of the script votes that were closed last tell how long it takes until a camera is done."""
CALL_BUCKETS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Upper bounds of the buckets into which the seconds of calls are counted."""

_ENDED = (*sorted(state.value for state in OVER), CallState.INGESTED.value)
_UNDER_WAY = tuple(state.value for state in CallState if state.value not in _ENDED)
# It stands still within a query, so that an index helps.
_CLOCK = sa.func.statement_timestamp()


@dataclass(frozen=True)
class Waiting:
    """So many are in some state, the oldest for so long."""

    count: int
    oldest_s: float | None
    """None where it cannot be told, or where there is none."""


@dataclass(frozen=True)
class OpenCalls:
    """Calls of an engine that are not over."""

    engine: str
    operation: str
    state: str
    count: int
    oldest_s: float


@dataclass(frozen=True)
class EndedCalls:
    """Calls of an engine that are over in the same way."""

    engine: str
    operation: str
    state: str
    error_class: str | None
    count: int
    cost_usd: float
    timed: int
    """Those of which it is known when the request left and when the engine was done."""
    seconds: float
    """Their seconds together."""
    within: tuple[int, ...]
    """How many of them took at most as long as each of `CALL_BUCKETS_S` says."""


@dataclass(frozen=True)
class Spent:
    """Money of now, in US dollars, with what is reserved for calls that are not over."""

    today: float
    """By everybody on this day of UTC."""
    dearest_series: float
    """On the series in work that has cost most."""
    dearest_run: float
    """By the run at work that has spent most."""
    reserved: float


@dataclass(frozen=True)
class AfterClose:
    """How long the newest script votes took from their end to something, in seconds."""

    latest: float | None
    median: float | None
    worst: float | None


@dataclass(frozen=True)
class FirstTakes:
    """What followed upon the newest closed script votes."""

    to_call: AfterClose
    """To the first request that left to an engine."""
    to_take: AfterClose
    """To the first camera that was done."""
    waiting_s: float
    """For how long the oldest of them has waited for its first take, while work on it goes on; 0 where none waits."""


@dataclass(frozen=True)
class SweepState:
    """How far a sweep has come."""

    name: str
    began_at: datetime
    completed_at: datetime | None
    under_way: bool
    fails: bool


def job_states(db: Connection, lease: timedelta) -> dict[str, Waiting]:
    """Unfinished production jobs by state, each of `JOB_STATES`, with the seconds that the oldest has been in it.

    `waiting` for a free run, `postponed` until a later time, `running`, `resting` between two steps of its run,
    `lapsed`: its run fell silent; and two that wait for a person: `undecided` about a paid call, `given_up` after the
    last attempt. As `studio.jobs` tells it to the operator.
    """
    undecided = (
        sa.select(sa.func.min(sa.func.coalesce(provider_jobs.c.left_at, provider_jobs.c.claimed_at)))
        .where(
            provider_jobs.c.state == CallState.AMBIGUOUS.value,
            provider_jobs.c.episode_id == production_jobs.c.episode_id,
        )
        .scalar_subquery()
    )
    owned, silent = production_jobs.c.process_uuid.is_not(None), production_jobs.c.heartbeat_at < _CLOCK - lease
    at_work = production_jobs.c.heartbeat_at.is_not(None) & ~silent
    exhausted = production_jobs.c.attempt_count >= production_jobs.c.max_attempts
    cases: tuple[tuple[sa.ColumnElement[bool], str, sa.ColumnElement[Any]], ...] = (
        (owned & production_jobs.c.heartbeat_at.is_(None), "resting", production_jobs.c.claimed_at),
        (owned & at_work, "running", production_jobs.c.claimed_at),
        (undecided.is_not(None), "undecided", undecided),
        (exhausted, "given_up", sa.func.least(production_jobs.c.available_at, _CLOCK)),
        (owned, "lapsed", production_jobs.c.heartbeat_at),
        (production_jobs.c.available_at > _CLOCK, "postponed", sa.null()),
    )
    told = (
        sa.select(
            sa.case(*((holds, name) for holds, name, _ in cases), else_="waiting").label("state"),
            sa.case(*((holds, since) for holds, _, since in cases), else_=production_jobs.c.available_at).label(
                "since"
            ),
        )
        .where(production_jobs.c.completed_at.is_(None))
        .subquery()
    )
    return _waiting(db, told, JOB_STATES)


def period_states(db: Connection) -> dict[tuple[str, str], Waiting]:
    """Voting periods that are not processed, by type and state; of those that are due, for how long."""
    state = sa.case(
        (voting_periods.c.ends_at <= _CLOCK, "due"), (voting_periods.c.starts_at <= _CLOCK, "open"), else_="scheduled"
    )
    told = (
        sa.select(
            (voting_periods.c.period_type + " " + state).label("state"),
            sa.case((voting_periods.c.ends_at <= _CLOCK, voting_periods.c.ends_at)).label("since"),
        )
        .where(~voting_periods.c.is_processed)
        .subquery()
    )
    kinds = ("agent_voting", "clip_voting")
    counted = _waiting(db, told, [f"{kind} {state}" for kind in kinds for state in PERIOD_STATES])
    return {(kind, state): counted[f"{kind} {state}"] for kind in kinds for state in PERIOD_STATES}


def first_takes(db: Connection) -> FirstTakes:
    """How long it took from the end of a script vote to the first request and to the first take.

    Of the newest `NEWEST_PERIODS` that made a series to be seen. A vote that was closed early ended when it was closed.
    The ledger keeps no time of a take, so it is the time at which its camera was done.
    """
    closed_at = sa.func.least(voting_periods.c.ends_at, voting_periods.c.processed_at)
    newest = (
        sa.select(voting_periods.c.id, closed_at.label("closed_at"))
        .where(voting_periods.c.is_processed, voting_periods.c.period_type == AGENT_VOTING)
        .order_by(voting_periods.c.ends_at.desc())
        .limit(NEWEST_PERIODS)
        .subquery()
    )
    filmed = sa.and_(provider_jobs.c.operation == "film", _ended_as() == CallState.INGESTED.value)
    called = (
        sa.select(
            sa.func.min(provider_jobs.c.left_at).label("first_call"),
            sa.func.min(provider_jobs.c.finished_at).filter(filmed).label("first_take"),
        )
        .where(provider_jobs.c.episode_id == episodes.c.id)
        .lateral()
    )
    worked_on = sa.exists().where(
        production_jobs.c.episode_id == episodes.c.id,
        production_jobs.c.completed_at.is_(None),
        production_jobs.c.attempt_count < production_jobs.c.max_attempts,
    )
    of_period = (
        sa.select(
            newest.c.closed_at,
            _seconds(sa.func.min(called.c.first_call) - newest.c.closed_at).label("to_call"),
            _seconds(sa.func.min(called.c.first_take) - newest.c.closed_at).label("to_take"),
            sa.case(
                (
                    sa.func.min(called.c.first_take).is_(None) & sa.func.bool_or(worked_on),
                    _seconds(_CLOCK - newest.c.closed_at),
                )
            ).label("waits"),
        )
        .select_from(newest)
        .join(scripts, sa.and_(scripts.c.voting_period_id == newest.c.id, scripts.c.series_id.is_not(None)))
        .join(limited_series, sa.and_(limited_series.c.id == scripts.c.series_id, limited_series.c.medium == "video"))
        .join(episodes, episodes.c.series_id == limited_series.c.id)
        .join(called, sa.true())
        .group_by(newest.c.id, newest.c.closed_at)
        .subquery()
    )
    row = db.execute(
        sa.select(
            *_after_close(of_period, "to_call"),
            *_after_close(of_period, "to_take"),
            sa.func.coalesce(sa.func.max(of_period.c.waits), 0.0).label("waits"),
        )
    ).one()
    return FirstTakes(AfterClose(*row[0:3]), AfterClose(*row[3:6]), row.waits)


def open_calls(db: Connection) -> list[OpenCalls]:
    """Calls that are not over, by engine, operation and state."""
    since = sa.func.coalesce(provider_jobs.c.left_at, provider_jobs.c.claimed_at)
    kind = (provider_jobs.c.engine, provider_jobs.c.operation, provider_jobs.c.state)
    rows = db.execute(
        sa.select(*kind, sa.func.count(), _seconds(_CLOCK - sa.func.min(since)))
        .where(provider_jobs.c.state.in_(_UNDER_WAY))
        .group_by(*kind)
        .order_by(*kind)
    )
    return [OpenCalls(*row) for row in rows]


def ended_calls(db: Connection) -> list[EndedCalls]:
    """All calls that ever ended, by engine, operation, state and class of error. A pass over all of them.

    Calls are never pruned, and one that ended stays so, though it is put aside later: these counts never fall. The
    seconds are those from the departure of the request to the moment at which the engine was done, of calls that
    brought something.
    """
    took = _seconds(
        provider_jobs.c.finished_at - sa.func.coalesce(provider_jobs.c.left_at, provider_jobs.c.submitted_at)
    )
    kind = (provider_jobs.c.engine, provider_jobs.c.operation, _ended_as().label("state"), provider_jobs.c.error_class)
    timed = (
        sa.select(
            *kind,
            provider_jobs.c.cost_usd,
            sa.case((_ended_as() == CallState.INGESTED.value, took)).label("took"),
        )
        .where(provider_jobs.c.state.in_(_ENDED))
        .subquery()
    )
    # Turned around, because a bucket of Prometheus holds its upper bound: so many bounds are not exceeded.
    bounds = sa.literal([-bound for bound in reversed(CALL_BUCKETS_S)], ARRAY(sa.Float))
    buckets = sa.func.width_bucket(-timed.c.took, bounds)
    columns = (timed.c.engine, timed.c.operation, timed.c.state, timed.c.error_class)
    rows = db.execute(
        sa.select(
            *columns,
            buckets.label("buckets"),
            sa.func.count().label("calls"),
            sa.cast(sa.func.sum(timed.c.cost_usd), sa.Float).label("cost_usd"),
            sa.func.count(timed.c.took).label("timed"),
            sa.func.coalesce(sa.func.sum(timed.c.took), 0.0).label("seconds"),
        )
        .group_by(*columns, "buckets")
        .order_by(*columns)
    )
    return [_together(key, list(same)) for key, same in groupby(rows, lambda row: tuple(row[:4]))]


def _ended_as() -> sa.ColumnElement[Any]:
    """How a call ended. One that is put aside later, by a prune or a person, brought what it brought.

    A count that falls is taken for one that began anew, and what is left of it for what happened in this minute.
    """
    put_aside = provider_jobs.c.state == CallState.EXPIRED.value
    return sa.case(
        (put_aside & provider_jobs.c.result.is_not(None), CallState.INGESTED.value),
        (put_aside & (provider_jobs.c.error_class != CallState.AMBIGUOUS.value), CallState.FAILED.value),
        else_=provider_jobs.c.state,
    )


def _together(key: tuple[str, str, str, str | None], same: list[sa.Row[Any]]) -> EndedCalls:
    """Calls of one kind, which come by how many bounds they do not exceed."""
    number = len(CALL_BUCKETS_S)
    within = (
        sum(row.timed for row in same if row.buckets is not None and row.buckets >= number - place)
        for place in range(number)
    )
    return EndedCalls(
        *key,
        count=sum(row.calls for row in same),
        cost_usd=sum(row.cost_usd for row in same),
        timed=sum(row.timed for row in same),
        seconds=sum(row.seconds for row in same),
        within=tuple(within),
    )


def blocked_accounts(db: Connection) -> dict[str, bool]:
    """Every account at a provider that was ever used, and whether it takes no requests now."""
    is_blocked = sa.func.coalesce(engine_accounts.c.blocked_until > _CLOCK, sa.false())
    rows = db.execute(sa.select(engine_accounts.c.account, is_blocked).order_by(engine_accounts.c.account))
    return {row[0]: row[1] for row in rows}


def spent_now(db: Connection) -> Spent:
    """What is spent against each cap: today, on the dearest series in work, by the dearest run at work."""
    amount = sa.func.coalesce(sa.func.sum(provider_jobs.c.cost_usd + provider_jobs.c.reserved_usd), Decimal(0))
    today = sa.func.date_trunc("day", _CLOCK, "UTC")
    in_work = (
        sa.select(episodes.c.series_id)
        .join(production_jobs, production_jobs.c.episode_id == episodes.c.id)
        .where(production_jobs.c.completed_at.is_(None))
    )
    by_series = (
        sa.select(amount.label("usd"))
        .join(episodes, episodes.c.id == provider_jobs.c.episode_id)
        .where(episodes.c.series_id.in_(in_work))
        .group_by(episodes.c.series_id)
        .subquery()
    )
    at_work = sa.select(production_jobs.c.process_uuid).where(production_jobs.c.process_uuid.is_not(None))
    by_run = (
        sa.select(amount.label("usd"))
        .where(provider_jobs.c.claimed_by.in_(at_work))
        .group_by(provider_jobs.c.claimed_by)
        .subquery()
    )
    # Said as in the index, which holds no call for which nothing is reserved.
    reserved = provider_jobs.c.reserved_usd > sa.literal_column("0")
    row = db.execute(
        sa.select(
            sa.select(amount).where(provider_jobs.c.claimed_at >= today).scalar_subquery(),
            sa.select(sa.func.max(by_series.c.usd)).scalar_subquery(),
            sa.select(sa.func.max(by_run.c.usd)).scalar_subquery(),
            sa.select(sa.func.sum(provider_jobs.c.reserved_usd)).where(reserved).scalar_subquery(),
        )
    ).one()
    return Spent(*(float(usd or 0) for usd in row))


def incident_counts(db: Connection) -> dict[tuple[str, str], int]:
    """Open incidents by kind (what stands before the first colon of their subject) and severity."""
    kind = sa.func.split_part(incidents.c.subject, ":", 1)
    rows = db.execute(
        sa.select(kind, incidents.c.severity, sa.func.count())
        .where(incidents.c.closed_at.is_(None))
        .group_by(kind, incidents.c.severity)
    )
    return {(row[0], row[1]): row[2] for row in rows}


def subjects_of_checks(db: Connection, subjects: Mapping[str, str]) -> frozenset[str]:
    """Those among some subjects of incidents that are open, by the names that they have in `subjects`."""
    rows = db.execute(
        sa.select(incidents.c.subject).where(incidents.c.closed_at.is_(None), incidents.c.subject.in_(list(subjects)))
    )
    return frozenset(subjects[subject] for (subject,) in rows)


def alerts_waiting(db: Connection) -> Waiting:
    """Alerts that no channel has taken yet."""
    row = db.execute(
        sa.select(sa.func.count(), _seconds(_CLOCK - sa.func.min(alerts.c.due_at))).where(alerts.c.sent_at.is_(None))
    ).one()
    return Waiting(row[0], row[1])


def last_ticks(db: Connection) -> dict[str, datetime]:
    """When each sensor and schedule last looked."""
    return {row.name: row.ticked_at for row in db.execute(sa.select(watchers))}


def sweep_states(db: Connection) -> list[SweepState]:
    """Every sweep that was ever begun."""
    under_way = sa.or_(sweeps.c.completed_at.is_(None), sweeps.c.completed_at < sweeps.c.began_at)
    rows = db.execute(
        sa.select(sweeps.c.name, sweeps.c.began_at, sweeps.c.completed_at, under_way, sweeps.c.error.is_not(None))
    )
    return [SweepState(*row) for row in rows]


def observation_counts(db: Connection) -> dict[str, int]:
    """What sweeps have found and is still so, by check."""
    rows = db.execute(sa.select(observations.c.check_name, sa.func.count()).group_by(observations.c.check_name))
    return {row[0]: row[1] for row in rows}


def script_counts(db: Connection) -> dict[str, int]:
    """Scripts by status, each of `SCRIPT_STATES`."""
    rows = db.execute(sa.select(scripts.c.pilot_status, sa.func.count()).group_by(scripts.c.pilot_status))
    return dict.fromkeys(SCRIPT_STATES, 0) | {row[0]: row[1] for row in rows}


def vote_counts(db: Connection) -> dict[str, int]:
    """Votes that stand: those on scripts and those on variants. A pass over all of them."""
    row = db.execute(
        sa.select(
            sa.select(sa.func.count()).select_from(script_votes).scalar_subquery(),
            sa.select(sa.func.count()).select_from(clip_votes).scalar_subquery(),
        )
    ).one()
    return {"script": row[0], "variant": row[1]}


def episode_counts(db: Connection) -> dict[str, int]:
    """Episodes by status, each of `EPISODE_STATES`. A pass over all of them."""
    return _by_status(db, "episode_progress", EPISODE_STATES)


def series_counts(db: Connection) -> dict[str, int]:
    """Series by status, each of `SERIES_STATES`. A pass over all of them."""
    return _by_status(db, "series_progress", SERIES_STATES)


def media_stored(db: Connection) -> dict[str, tuple[int, int]]:
    """Objects that rows tell of and their bytes, by table. A pass over all of them.

    Captions, thumbnails and posters have no size on record and are not counted.
    """
    kept = {"takes": takes, "voiceovers": voiceovers, "scores": scores, "variants": clip_variants}
    counted = [
        sa.select(
            sa.literal(name).label("kind"),
            sa.func.count() + (sa.func.count(table.c.sound_key) if name == "takes" else 0),
            sa.func.coalesce(
                sa.func.sum(table.c.bytes + (sa.func.coalesce(table.c.sound_bytes, 0) if name == "takes" else 0)), 0
            ),
        )
        for name, table in kept.items()
    ]
    return {row[0]: (int(row[1]), int(row[2])) for row in db.execute(sa.union_all(*counted))}


def database_bytes(db: Connection) -> int:
    """The size of the whole database on disk, Dagster's tables included where they lie in it."""
    size: int = db.execute(sa.select(sa.func.pg_database_size(sa.func.current_database()))).scalar_one()
    return size


def limit_reading(db: Connection, patience_s: float) -> None:
    """Let a reading take so long and no longer, and write nothing, until this transaction ends.

    Compiling a query (`jit`) takes longer than these take to run.
    """
    limits = {
        "transaction_read_only": "on",
        "statement_timeout": f"{max(1, round(patience_s * 1000))}ms",
        "lock_timeout": f"{max(1, round(patience_s * 1000))}ms",
        "jit": "off",
    }
    db.execute(sa.select(*(sa.func.set_config(name, value, sa.true()) for name, value in limits.items())))


def _waiting(db: Connection, told: sa.Subquery, states: Any) -> dict[str, Waiting]:  # noqa: ANN401 - any collection
    rows = db.execute(
        sa.select(told.c.state, sa.func.count(), _seconds(_CLOCK - sa.func.min(told.c.since))).group_by(told.c.state)
    )
    return dict.fromkeys(states, Waiting(0, None)) | {row[0]: Waiting(row[1], row[2]) for row in rows}


def _after_close(of_period: sa.Subquery, name: str) -> tuple[sa.ColumnElement[Any], ...]:
    """The newest that is known, the median and the worst."""
    seconds = of_period.c[name]
    latest = sa.func.array_agg(aggregate_order_by(seconds, of_period.c.closed_at.desc()))
    return (
        latest.filter(seconds.is_not(None))[1],
        sa.func.percentile_cont(0.5).within_group(seconds),
        sa.func.max(seconds),
    )


def _by_status(db: Connection, view: str, states: tuple[str, ...]) -> dict[str, int]:
    progress = sa.table(view, sa.column("status"))
    rows = db.execute(sa.select(progress.c.status, sa.func.count()).group_by(progress.c.status))
    return dict.fromkeys(states, 0) | {row[0]: row[1] for row in rows}


def _seconds(interval: sa.ColumnElement[Any]) -> sa.ColumnElement[float]:
    # A float, where `extract` makes a numeric, which takes a million calls twice as long.
    return sa.func.date_part("epoch", interval, type_=sa.Float)
