"""Money: calls that a person must decide about, calls that nobody comes back for, and caps that are nearly reached.

Here: what `ledger.calls` and `ledger.spending` know. Not here: deciding (`ledger.decisions`).
"""

from __future__ import annotations

from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.calls import CallState, ambiguous_calls
from moltpipe.ledger.checks.finding import Check, Conditions, Severity
from moltpipe.ledger.schema import episodes, limited_series, production_jobs, provider_jobs

FORGOTTEN = timedelta(hours=1)
"""How long after its request left a call may have nobody who waits for it."""
NEARLY = Decimal("0.8")
"""The part of a cap from which on it is told."""

_LIVE = (CallState.CLAIMED, CallState.SUBMITTING, CallState.SUBMITTED, CallState.RUNNING, CallState.SUCCEEDED)


def _undecided(_db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    return ambiguous_calls()


AMBIGUOUS_CALLS_ARE_DECIDED = Check(
    "ambiguous_calls_are_decided",
    "clips",
    "No call waits for a person to say whether its request is to be sent again.",
    _undecided,
    remedy="See at the provider what became of the request. `moltpipe repair --resubmit CALL_ID` sends it again, "
    "and `moltpipe repair --give-up CALL_ID` leaves it failed.",
)


def _forgotten(_db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    """A call is taken up again by the next attempt at its episode, so one whose episode gets none is forgotten."""
    since = sa.func.coalesce(provider_jobs.c.left_at, provider_jobs.c.claimed_at)
    somebody_comes_back = sa.exists().where(
        production_jobs.c.episode_id == provider_jobs.c.episode_id,
        production_jobs.c.process_uuid.is_not(None)
        | (
            production_jobs.c.completed_at.is_(None)
            & (production_jobs.c.attempt_count < production_jobs.c.max_attempts)
        ),
    )
    return (
        sa.select(
            provider_jobs.c.id.label("call_id"),
            provider_jobs.c.engine,
            provider_jobs.c.external_id,
            provider_jobs.c.state,
            episodes.c.partition_key.label("episode"),
            provider_jobs.c.operation,
            sa.cast(provider_jobs.c.reserved_usd, sa.Float).label("reserved_usd"),
            since.label("since"),
        )
        .outerjoin(episodes, episodes.c.id == provider_jobs.c.episode_id)
        .where(
            provider_jobs.c.state.in_([state.value for state in _LIVE]),
            provider_jobs.c.account.is_not(None),
            since < sa.func.statement_timestamp() - FORGOTTEN,
            ~somebody_comes_back,
        )
    )


PAID_CALLS_ARE_NOT_FORGOTTEN = Check(
    "paid_calls_are_not_forgotten",
    "clips",
    "Every call to a provider that is under way has an episode that is still worked on.",
    _forgotten,
    remedy="Nobody will fetch the result, and what is reserved for the call counts against the budgets. "
    "`moltpipe repair --give-up CALL_ID` ends it; `moltpipe repair --retry PARTITION_KEY` takes up an episode that "
    "was given up, and with it the call.",
)


def _nearly_spent(_db: Connection, conditions: Conditions) -> sa.Select[Any] | None:
    caps = conditions.caps
    found = []
    if caps.day_usd is not None:
        found.append(_of_the_day(conditions, caps.day_usd))
    if caps.series_usd is not None:
        found.append(_of_series(caps.series_usd))
    return sa.union_all(*found).subquery().select() if found else None


def _sum() -> sa.ColumnElement[Decimal]:
    return sa.func.sum(provider_jobs.c.cost_usd + provider_jobs.c.reserved_usd)


def _is_nearly(spent_usd: sa.ColumnElement[Decimal], limit_usd: Decimal) -> sa.ColumnElement[bool]:
    """Whether a cap is nearly reached. One of 0 lets only what is free be made, which spends nothing of it."""
    return sa.and_(spent_usd >= NEARLY * limit_usd, spent_usd > 0)


def _of_the_day(conditions: Conditions, limit_usd: Decimal) -> sa.Select[Any]:
    # A cost is of the day of UTC on which it was claimed, as in `ledger.spending`.
    spent = _sum()
    today = conditions.now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (
        sa.select(
            sa.literal("MOLTPIPE_BUDGET_DAY_USD").label("cap"),
            sa.literal(float(limit_usd), sa.Float).label("limit_usd"),
            sa.cast(spent, sa.Float).label("spent_usd"),
            sa.cast(sa.null(), sa.Text).label("series_id"),
            sa.literal("today").label("of"),
            sa.cast(sa.null(), sa.TIMESTAMP(timezone=True)).label("since"),
        )
        .where(provider_jobs.c.claimed_at >= today)
        .having(_is_nearly(spent, limit_usd))
    )


def _of_series(limit_usd: Decimal) -> sa.Select[Any]:
    """Of series that are still made: on one that is finished, nothing more will be spent."""
    spent = _sum()
    in_work = (
        sa.select(episodes.c.series_id)
        .join(production_jobs, production_jobs.c.episode_id == episodes.c.id)
        .where(production_jobs.c.completed_at.is_(None))
    )
    return (
        sa.select(
            sa.literal("MOLTPIPE_BUDGET_SERIES_USD").label("cap"),
            sa.literal(float(limit_usd), sa.Float).label("limit_usd"),
            sa.cast(spent, sa.Float).label("spent_usd"),
            sa.cast(limited_series.c.id, sa.Text).label("series_id"),
            limited_series.c.title.label("of"),
            sa.cast(sa.null(), sa.TIMESTAMP(timezone=True)).label("since"),
        )
        .join(episodes, episodes.c.series_id == limited_series.c.id)
        .join(provider_jobs, provider_jobs.c.episode_id == episodes.c.id)
        .where(limited_series.c.id.in_(in_work))
        .group_by(limited_series.c.id)
        .having(_is_nearly(spent, limit_usd))
    )


SPEND_IS_BELOW_ITS_CAPS = Check(
    "spend_is_below_its_caps",
    "clips",
    "Less than 80 % of every budget is spent or reserved.",
    _nearly_spent,
    remedy="Work that would go over the budget waits: for the next day of UTC, or for you. Raise the variable that "
    "`cap` names and start `moltpipe up` again, if it is to go on.",
    severity=Severity.WARNING,
)
