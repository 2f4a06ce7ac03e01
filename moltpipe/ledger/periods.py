"""Voting periods: made, opened, closed, and the settings by which the next one is made.

Here: the transactions, and the two doors through which either vote is closed. Not here: who wins, which period is due
and when the next one starts (`studio.voting`), what closing a vote on variants writes (`ledger.audience`); `now` is
always handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.engine import Connection

from moltpipe.ledger.audience import CLIP_VOTING, clip_outcome, close_clip_vote
from moltpipe.ledger.schema import script_votes, scripts, studios, voting_periods
from moltpipe.ledger.schema import voting_settings as settings_table
from moltpipe.ledger.series import make_series
from moltpipe.ledger.windows import (
    PERIODS,
    OtherVote,
    OutcomeMissing,
    OutcomeUnreadable,
    PeriodNotOver,
    ReasonMissing,
    UnknownPeriodId,
    get_period,
    hold_period,
    may_close,
    must_be,
    period_from,
    record_outcome,
    recorded_outcome,
)
from moltpipe.studio.audience import ClipOutcome
from moltpipe.studio.moments import in_utc, spelled
from moltpipe.studio.records import Candidate, Period
from moltpipe.studio.voting import Outcome, VotingRules, VotingSettings, declare, next_period, periods_to_open, tally

__all__ = [
    "EndsBeforeStart",
    "OtherVote",
    "OutcomeMissing",
    "OutcomeUnreadable",
    "PeriodNotOver",
    "PeriodOverlaps",
    "ReasonMissing",
    "SettingRefused",
    "UnknownPeriodId",
    "candidates",
    "change_voting_settings",
    "close_agent_vote",
    "close_early",
    "close_period",
    "create_period",
    "ensure_upcoming",
    "get_outcome",
    "get_period",
    "list_periods",
    "make_room",
    "open_due_periods",
    "unprocessed_periods",
    "voting_settings",
]

AGENT_VOTING = "agent_voting"
_EXCLUSION_VIOLATION = "23P01"


class EndsBeforeStart(Exception):
    """A period would end before or when it starts."""

    def __init__(self, starts_at: datetime, ends_at: datetime) -> None:
        super().__init__(f"ends_at {spelled(ends_at)}: expected a time after starts_at, {spelled(starts_at)}")
        self.starts_at = starts_at
        self.ends_at = ends_at


class PeriodOverlaps(Exception):
    """Another agent voting period has part of this time."""

    def __init__(self, other: Period) -> None:
        super().__init__(
            f"the time is taken by period {other.id}, {spelled(other.starts_at)} to {spelled(other.ends_at)}: "
            "expected one that no other agent voting period has a part of"
        )
        self.other = other


class SettingRefused(Exception):
    """A voting setting does not exist or cannot have this value."""

    def __init__(self, name: str, value: object, rule: str) -> None:
        super().__init__(f"{name} = {value!r}: {rule}")
        self.name = name
        self.value = value
        self.rule = rule


def create_period(
    db: Connection, period_type: str, starts_at: datetime, ends_at: datetime, *, episode_id: UUID | None = None
) -> Period:
    """Make a voting period. One of votes on variants is about an episode; `open_clip_vote` makes it in its time.

    Raises:
        EndsBeforeStart: it would not last.
        PeriodOverlaps: an agent voting period has part of this time.
        ValueError: a time has no time zone, or a vote on variants no episode, or one on scripts has one.
    """
    starts_at, ends_at = in_utc(starts_at), in_utc(ends_at)
    if ends_at <= starts_at:
        raise EndsBeforeStart(starts_at, ends_at)
    if (period_type == CLIP_VOTING) != (episode_id is not None):
        raise ValueError(f"{period_type} with episode {episode_id}: expected one for {CLIP_VOTING}, and only for it")
    try:
        with db.begin_nested():
            row = db.execute(
                sa.insert(voting_periods)
                .values(period_type=period_type, starts_at=starts_at, ends_at=ends_at, episode_id=episode_id)
                .returning(*PERIODS.selected_columns)
            ).one()
    except sa.exc.IntegrityError as error:
        # The constraint decides, not a look beforehand: two creators that look at once both see free time.
        if getattr(error.orig, "sqlstate", None) != _EXCLUSION_VIOLATION:
            raise
        raise PeriodOverlaps(_overlapping(db, starts_at, ends_at)) from error
    return period_from(row)


def list_periods(db: Connection) -> list[Period]:
    """Every voting period, the earliest first. Of years: what looks each second uses `unprocessed_periods`."""
    rows = db.execute(PERIODS.order_by(voting_periods.c.starts_at, voting_periods.c.id))
    return [period_from(row) for row in rows]


def unprocessed_periods(db: Connection) -> list[Period]:
    """The voting periods of both kinds that have no outcome yet, the earliest first: a handful, of however many."""
    # As the partial index says it: PostgreSQL does not see that `IS false` means the same, and reads everything.
    unprocessed = PERIODS.where(~voting_periods.c.is_processed)
    rows = db.execute(unprocessed.order_by(voting_periods.c.starts_at, voting_periods.c.id))
    return [period_from(row) for row in rows]


def get_outcome(db: Connection, period_id: UUID) -> Outcome | ClipOutcome | None:
    """The recorded outcome of a period, None while it is not closed.

    Raises:
        UnknownPeriodId: there is no such period.
        OutcomeMissing, OutcomeUnreadable: it was marked as processed by hand.
    """
    period = get_period(db, period_id)
    if not period.is_processed:
        return None
    if period.period_type == CLIP_VOTING:
        return clip_outcome(db, period_id)
    return recorded_outcome(db, period_id, Outcome)


def make_room(db: Connection, starts_at: datetime, ends_at: datetime) -> None:
    """Put off the start of agent voting periods in which nobody stands yet until this time is over.

    One that would have no time left is removed. One that is open keeps its time: whoever stands in a vote was
    promised it, so `create_period` refuses the overlap.

    Raises:
        ValueError: a time has no time zone.
    """
    starts_at, ends_at = in_utc(starts_at), in_utc(ends_at)
    in_the_way = sa.and_(
        voting_periods.c.period_type == AGENT_VOTING,
        voting_periods.c.starts_at < ends_at,
        voting_periods.c.ends_at > starts_at,
        voting_periods.c.is_active.is_(False),
        voting_periods.c.is_processed.is_(False),
        ~sa.exists().where(scripts.c.voting_period_id == voting_periods.c.id),
    )
    db.execute(sa.delete(voting_periods).where(in_the_way, voting_periods.c.ends_at <= ends_at))
    db.execute(sa.update(voting_periods).where(in_the_way).values(starts_at=ends_at))


def open_due_periods(db: Connection, now: datetime) -> list[Period]:
    """Open the agent voting periods whose time has come: every waiting script stands in them from now on.

    A period is opened once; scripts submitted later wait for the next one. While no script waits, it stays
    scheduled, so that the first scripts of a quiet day still get the rest of it.

    Returns:
        The periods that were opened now.
    """
    opened = []
    for due in _due(unprocessed_periods(db), now):
        locked = hold_period(db, due.id)
        if not _due([locked], now):
            continue
        taken_in = db.execute(
            sa.update(scripts)
            .where(scripts.c.pilot_status == "submitted", scripts.c.voting_period_id.is_(None))
            .values(pilot_status="voting", voting_period_id=due.id)
        )
        if taken_in.rowcount:
            row = db.execute(
                sa.update(voting_periods)
                .where(voting_periods.c.id == due.id)
                .values(is_active=True)
                .returning(*PERIODS.selected_columns)
            ).one()
            opened.append(period_from(row))
    return opened


def candidates(db: Connection, period_id: UUID, statuses: Sequence[str] = ("voting",)) -> list[Candidate]:
    """The scripts that stand in a period, with their votes counted, in no particular order.

    Those of other `statuses` stood in it before it was decided.
    """
    votes = (
        sa.select(
            script_votes.c.script_id,
            sa.func.count().filter(script_votes.c.value == 1).label("upvotes"),
            sa.func.count().filter(script_votes.c.value == -1).label("downvotes"),
        )
        .group_by(script_votes.c.script_id)
        .subquery()
    )
    rows = db.execute(
        sa.select(
            scripts.c.id.label("script_id"),
            scripts.c.title,
            scripts.c.genre,
            studios.c.agent_name,
            sa.func.coalesce(votes.c.upvotes, 0).label("upvotes"),
            sa.func.coalesce(votes.c.downvotes, 0).label("downvotes"),
            scripts.c.submitted_at,
        )
        .join(studios, studios.c.id == scripts.c.studio_id)
        .outerjoin(votes, votes.c.script_id == scripts.c.id)
        .where(scripts.c.voting_period_id == period_id, scripts.c.pilot_status.in_(statuses))
    )
    return [Candidate(**row) for row in rows.mappings()]


def close_period(db: Connection, period_id: UUID, rules: VotingRules, now: datetime) -> Outcome | ClipOutcome:
    """Record the outcome of a period of either kind, whole or not at all. `rules` are those of the votes on scripts.

    Raises:
        UnknownPeriodId: there is no such period.
        PeriodNotOver: `ends_at` lies in the future (early closing goes through `close_early`).
        OutcomeMissing, OutcomeUnreadable: it was marked as processed by hand.
        NothingToSelect: it is a vote on variants, and they are gone.
    """
    return _close(db, period_id, rules, now, None)


def close_early(
    db: Connection, period_id: UUID, rules: VotingRules, now: datetime, reason: str
) -> Outcome | ClipOutcome:
    """Close a period of either kind before its time, and record why. One that is over closes as any other.

    Raises:
        UnknownPeriodId: there is no such period.
        ReasonMissing: the reason is empty.
        OutcomeMissing, OutcomeUnreadable: it was marked as processed by hand.
        NothingToSelect: it is a vote on variants, and they are gone.
    """
    return _close(db, period_id, rules, now, reason)


def close_agent_vote(
    db: Connection, period_id: UUID, rules: VotingRules, now: datetime, reason: str | None = None
) -> Outcome:
    """Record the outcome of a vote on scripts, whole or not at all. Before its end only with a `reason`.

    Locks the period, tallies, and writes winners, losers, series, episodes and production jobs. A second
    closer waits, then gets the recorded outcome. A period that was never opened closes with nobody in it.

    Raises:
        UnknownPeriodId: there is no such period.
        OtherVote: it is a vote on variants.
        PeriodNotOver: `ends_at` lies in the future, and no reason was given.
        ReasonMissing: the reason is empty.
        OutcomeMissing, OutcomeUnreadable: it was marked as processed by hand.
    """
    period = hold_period(db, period_id)
    must_be(period, AGENT_VOTING)
    if period.is_processed:
        return recorded_outcome(db, period.id, Outcome)
    early = may_close(period, now, reason)
    counted = tally(candidates(db, period.id), rules)
    series_ids = {winner.script_id: make_series(db, winner.script_id) for winner in counted.winners}
    _write_fate(db, counted.losers, pilot_status="rejected")
    _write_fate(db, counted.returned, pilot_status="submitted", voting_period_id=None)
    outcome = declare(period, counted, rules, series_ids, closed_early_reason=early)
    record_outcome(db, period.id, outcome.to_json(), now, closed_early_reason=early)
    return outcome


def ensure_upcoming(db: Connection, now: datetime) -> Period | None:
    """Make the next agent voting period by the settings, or None when there is one ahead.

    Holds the row of settings, so that two that look at once make one.

    Raises:
        PeriodOverlaps: somebody created a period by hand in the same moment; look again later.
    """
    settings = _settings(db, for_update=True)
    # One that was closed early still has its time, which no other may have a part of.
    matters = PERIODS.where(voting_periods.c.ends_at > now, voting_periods.c.period_type == AGENT_VOTING)
    times = next_period(settings, [period_from(row) for row in db.execute(matters)], now)
    return create_period(db, AGENT_VOTING, *times) if times else None


def voting_settings(db: Connection) -> VotingSettings:
    """Rules and rhythm of the votes."""
    return _settings(db, for_update=False)


def change_voting_settings(db: Connection, **changes: object) -> VotingSettings:
    """Change some of the settings; the others stay.

    Raises:
        SettingRefused: a setting does not exist, or its value is out of range.
    """
    current = _settings(db, for_update=True).model_dump()
    for name, value in changes.items():
        if name not in current:
            raise SettingRefused(name, value, f"expected one of {', '.join(sorted(current))}")
    try:
        changed = VotingSettings.model_validate(current | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingRefused(str(first["loc"][0]), first["input"], first["msg"]) from error
    db.execute(sa.update(settings_table).values(**changed.model_dump(mode="json")))
    return changed


def _close(
    db: Connection, period_id: UUID, rules: VotingRules, now: datetime, reason: str | None
) -> Outcome | ClipOutcome:
    if get_period(db, period_id).period_type == CLIP_VOTING:
        return close_clip_vote(db, period_id, now, reason)
    return close_agent_vote(db, period_id, rules, now, reason)


def _write_fate(db: Connection, decided: Sequence[Candidate], **values: object) -> None:
    if decided:
        ids = [candidate.script_id for candidate in decided]
        db.execute(sa.update(scripts).where(scripts.c.id.in_(ids)).values(**values))


def _due(periods: Sequence[Period], now: datetime) -> list[Period]:
    return [period for period in periods_to_open(periods, now) if period.period_type == AGENT_VOTING]


def _overlapping(db: Connection, starts_at: datetime, ends_at: datetime) -> Period:
    return period_from(
        db.execute(
            PERIODS.where(
                voting_periods.c.period_type == AGENT_VOTING,
                voting_periods.c.starts_at < ends_at,
                voting_periods.c.ends_at > starts_at,
            )
            .order_by(voting_periods.c.starts_at)
            .limit(1)
        ).one()
    )


def _settings(db: Connection, *, for_update: bool) -> VotingSettings:
    statement = sa.select(settings_table)
    row = db.execute(statement.with_for_update() if for_update else statement).mappings().one()
    return VotingSettings.model_validate({name: row[name] for name in VotingSettings.model_fields})
