"""Voting periods that were closed too early, too late, or not as their record says.

Here: periods, their outcomes, and the scripts that stood in them. Not here: the series that a winner becomes
(`checks.series`), what follows from the second vote (`checks.audience`), closing (`ledger.periods`).

The incident behind it: a period of next week was flipped to processed by hand. Nothing looked at it again, its votes
were never counted, and one of its scripts was marked as selected with nothing to show for it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONPATH, UUID
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.finding import Check, Conditions
from moltpipe.ledger.schema import scripts, voting_periods

OVERDUE = timedelta(seconds=60)
"""A period is opened and closed within seconds; one that is late by more than this is not looked after.

Nor are the clocks of two machines further apart than this."""

_IS_AGENT_VOTE = voting_periods.c.period_type == "agent_voting"


def _processed_early(_db: Connection, conditions: Conditions) -> sa.Select[Any]:
    """By its mark, or by the clock: no constraint knows what time it is, so a mark may name a time to come.

    By the clock only with more than a minute to go, since whoever closed the period may have had another clock.
    """
    in_time = voting_periods.c.processed_at >= voting_periods.c.ends_at
    is_yet_to_end = voting_periods.c.ends_at > conditions.now + OVERDUE
    known_since = sa.case((voting_periods.c.processed_at <= conditions.now, voting_periods.c.processed_at))
    return sa.select(
        voting_periods.c.id.label("period_id"),
        voting_periods.c.period_type,
        voting_periods.c.starts_at,
        voting_periods.c.ends_at,
        voting_periods.c.processed_at,
        known_since.label("since"),
    ).where(
        voting_periods.c.is_processed,
        in_time.is_not(sa.true()) | is_yet_to_end,
        voting_periods.c.closed_early_reason.is_(None),
    )


PROCESSED_PERIODS_ARE_OVER = Check(
    "processed_periods_are_over",
    "voting_periods",
    "Every processed period had ended when it was processed, or was closed early with a reason.",
    _processed_early,
    remedy="Somebody marked the period as processed by hand. `moltpipe repair` takes the mark away where the period "
    "is not over yet and nothing was decided in it, so that it closes in its time; otherwise it writes down that the "
    "period was closed early.",
)


def _overdue(_db: Connection, conditions: Conditions) -> sa.Select[Any]:
    return sa.select(
        voting_periods.c.id.label("period_id"),
        voting_periods.c.period_type,
        voting_periods.c.ends_at,
        voting_periods.c.ends_at.label("since"),
    ).where(~voting_periods.c.is_processed, voting_periods.c.ends_at < conditions.now - OVERDUE)


DUE_PERIODS_ARE_CLOSED = Check(
    "due_periods_are_closed",
    "voting_periods",
    "Every period whose time is over is closed within a minute.",
    _overdue,
    remedy="`moltpipe repair` closes it, as `period_sensor` does while `moltpipe up` runs. If it comes back, the last "
    "tick of `period_sensor` says why it cannot be closed.",
)


def _unopened(_db: Connection, conditions: Conditions) -> sa.Select[Any]:
    waiting = (
        sa.select(sa.func.count().label("count"), sa.func.min(scripts.c.submitted_at).label("oldest"))
        .where(scripts.c.pilot_status == "submitted", scripts.c.voting_period_id.is_(None))
        .subquery()
    )
    # A period that began with nobody waiting is due from the moment on at which somebody does.
    due_since = sa.func.greatest(voting_periods.c.starts_at, waiting.c.oldest)
    return (
        sa.select(
            voting_periods.c.id.label("period_id"),
            voting_periods.c.starts_at,
            waiting.c.count.label("scripts_waiting"),
            voting_periods.c.ends_at,
            due_since.label("since"),
        )
        .join(waiting, waiting.c.count > 0)
        .where(
            _IS_AGENT_VOTE,
            ~voting_periods.c.is_processed,
            ~voting_periods.c.is_active,
            voting_periods.c.ends_at > conditions.now,
            due_since < conditions.now - OVERDUE,
        )
    )


DUE_PERIODS_ARE_OPEN = Check(
    "due_periods_are_open",
    "voting_periods",
    "Every period that has begun is open within a minute, once scripts wait for it.",
    _unopened,
    remedy="`moltpipe repair` opens it and lets the waiting scripts stand in it, as `period_sensor` does while "
    "`moltpipe up` runs.",
)


def _overlapping(_db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    """By the latest end so far, in the order of their starts: without the constraint there is no index for a join."""
    in_order = (
        sa.select(
            voting_periods.c.id,
            voting_periods.c.starts_at,
            voting_periods.c.ends_at,
            sa.func.max(voting_periods.c.ends_at)
            .over(order_by=(voting_periods.c.starts_at, voting_periods.c.id), rows=(None, -1))
            .label("latest_end"),
        )
        .where(_IS_AGENT_VOTE)
        .subquery()
    )
    earlier = voting_periods.alias()
    other = (
        sa.select(earlier.c.id)
        .where(
            earlier.c.period_type == "agent_voting",
            earlier.c.id != in_order.c.id,
            earlier.c.starts_at <= in_order.c.starts_at,
            earlier.c.ends_at > in_order.c.starts_at,
        )
        .order_by(earlier.c.starts_at, earlier.c.id)
        .limit(1)
        .scalar_subquery()
    )
    return sa.select(
        in_order.c.id.label("period_id"),
        other.label("other_period_id"),
        in_order.c.starts_at,
        in_order.c.ends_at,
        in_order.c.starts_at.label("since"),
    ).where(in_order.c.starts_at < in_order.c.latest_end)


AGENT_PERIODS_DO_NOT_OVERLAP = Check(
    "agent_periods_do_not_overlap",
    "voting_periods",
    "No two periods in which agents vote on scripts have a moment in common.",
    _overlapping,
    remedy="Close the one that is not meant: `moltpipe period close PERIOD_ID --early --reason TEXT`. Where both are "
    "closed, nothing is left to do but to see that the right scripts won; then set the times of one of them apart, "
    "and put the constraint `ex_voting_periods_no_overlap` back.",
)


def _without_outcome(_db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    has_outcome = sa.func.jsonb_typeof(voting_periods.c.outcome) == sa.literal_column("'object'")
    return sa.select(
        voting_periods.c.id.label("period_id"),
        voting_periods.c.period_type,
        voting_periods.c.ends_at,
        voting_periods.c.processed_at,
        sa.func.coalesce(voting_periods.c.processed_at, voting_periods.c.ends_at).label("since"),
    ).where(voting_periods.c.is_processed, has_outcome.is_not(sa.true()))


PROCESSED_PERIODS_HAVE_OUTCOME = Check(
    "processed_periods_have_outcome",
    "voting_outcome",
    "Every processed period has its outcome on record.",
    _without_outcome,
    remedy="`moltpipe repair` writes the outcome down from the scripts and votes as they are.",
)

_SCRIPT_IDS_OF_WINNERS = sa.cast("$.winners[*].script_id", JSONPATH)
_A_UUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"


def _disagreeing(_db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    return sa.union_all(_winners_not_selected(), _left_voting()).subquery().select()


def _winners_not_selected() -> sa.Select[Any]:
    ids = sa.func.jsonb_path_query(voting_periods.c.outcome, _SCRIPT_IDS_OF_WINNERS)
    won = ids.table_valued("script_id").render_derived()
    script_id = won.c.script_id.op("#>>")(sa.literal_column("'{}'"))
    selected = scripts.alias()
    # Compared as text: an outcome that somebody wrote by hand may name anything.
    is_selected = sa.exists().where(selected.c.pilot_status == "selected", sa.cast(selected.c.id, sa.Text) == script_id)
    found = (
        sa.select(script_id.label("script_id"), voting_periods.c.id.label("period_id"), voting_periods.c.processed_at)
        .select_from(voting_periods.join(won, sa.true()))
        .where(voting_periods.c.is_processed, _IS_AGENT_VOTE, ~is_selected)
        .subquery()
    )
    as_uuid = sa.case((found.c.script_id.regexp_match(_A_UUID), sa.cast(found.c.script_id, UUID(as_uuid=True))))
    # Of the few that are found, not by a join: the server expects a thousand winners of each period.
    title, status = (
        sa.select(column).where(scripts.c.id == as_uuid).scalar_subquery()
        for column in (scripts.c.title, scripts.c.pilot_status)
    )
    return sa.select(
        found.c.script_id,
        title.label("title"),
        found.c.period_id,
        status.label("pilot_status"),
        sa.case(
            (status.is_(None), "the outcome names it as a winner, and there is no such script"),
            else_="the outcome names it as a winner, and it is not selected",
        ).label("what"),
        found.c.processed_at.label("since"),
    )


def _left_voting() -> sa.Select[Any]:
    return (
        sa.select(
            sa.cast(scripts.c.id, sa.Text).label("script_id"),
            scripts.c.title,
            voting_periods.c.id.label("period_id"),
            scripts.c.pilot_status,
            sa.literal("its period is closed, and nothing was decided about it").label("what"),
            voting_periods.c.processed_at.label("since"),
        )
        .join(voting_periods, voting_periods.c.id == scripts.c.voting_period_id)
        .where(scripts.c.pilot_status == "voting", voting_periods.c.is_processed)
    )


OUTCOMES_AGREE_WITH_SCRIPTS = Check(
    "outcomes_agree_with_scripts",
    "voting_outcome",
    "Every winner on record is selected, and no script is still voting in a closed period.",
    _disagreeing,
    remedy="`moltpipe repair` selects the winners on record and makes their series, and lets scripts whose period is "
    "closed wait for the next one.",
)
