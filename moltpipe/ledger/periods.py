"""Voting periods: made, opened, closed, and the settings by which the next one is made.

Here: the transactions. Not here: who wins, which period is due and when the next one starts
(`studio.voting`); `now` is always handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger.schema import script_votes, scripts, studios, voting_periods
from moltpipe.ledger.schema import voting_settings as settings_table
from moltpipe.ledger.series import make_series
from moltpipe.studio.moments import in_utc, spelled
from moltpipe.studio.records import Candidate, Period
from moltpipe.studio.voting import Outcome, VotingRules, VotingSettings, declare, next_period, periods_to_open, tally

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


class UnknownPeriodId(Exception):
    """No period has this id."""

    def __init__(self, period_id: UUID) -> None:
        super().__init__(f"there is no voting period {period_id}")
        self.period_id = period_id


class PeriodNotOver(Exception):
    """A period cannot be closed before its time."""

    def __init__(self, period_id: UUID, ends_at: datetime, now: datetime) -> None:
        super().__init__(
            f"period {period_id} ends at {spelled(ends_at)} and it is {spelled(now)}: "
            "wait, or close it early with a reason"
        )
        self.period_id = period_id
        self.ends_at = ends_at
        self.now = now


class OutcomeMissing(Exception):
    """A period is marked as processed, but no outcome was recorded: somebody wrote to the table by hand."""

    def __init__(self, period_id: UUID) -> None:
        super().__init__(f"period {period_id} is marked as processed without an outcome: set is_processed to false")
        self.period_id = period_id


class ReasonMissing(Exception):
    """Closing early was asked for without saying why."""

    def __init__(self, period_id: UUID) -> None:
        super().__init__(f"period {period_id} cannot be closed early without a reason")
        self.period_id = period_id


class SettingRefused(Exception):
    """A voting setting does not exist or cannot have this value."""

    def __init__(self, name: str, value: object, rule: str) -> None:
        super().__init__(f"{name} = {value!r}: {rule}")
        self.name = name
        self.value = value
        self.rule = rule


def create_period(db: Connection, period_type: str, starts_at: datetime, ends_at: datetime) -> Period:
    """Make a voting period.

    Raises:
        EndsBeforeStart: it would not last.
        PeriodOverlaps: an agent voting period has part of this time.
        ValueError: a time has no time zone.
    """
    starts_at, ends_at = in_utc(starts_at), in_utc(ends_at)
    if ends_at <= starts_at:
        raise EndsBeforeStart(starts_at, ends_at)
    try:
        with db.begin_nested():
            row = db.execute(
                sa.insert(voting_periods)
                .values(period_type=period_type, starts_at=starts_at, ends_at=ends_at)
                .returning(voting_periods)
            ).one()
    except sa.exc.IntegrityError as error:
        # The constraint decides, not a look beforehand: two creators that look at once both see free time.
        if getattr(error.orig, "sqlstate", None) != _EXCLUSION_VIOLATION:
            raise
        raise PeriodOverlaps(_overlapping(db, starts_at, ends_at)) from error
    return _period(row)


def list_periods(db: Connection) -> list[Period]:
    """Every voting period, the earliest first."""
    rows = db.execute(sa.select(voting_periods).order_by(voting_periods.c.starts_at, voting_periods.c.id))
    return [_period(row) for row in rows]


def get_period(db: Connection, period_id: UUID) -> Period:
    """One voting period.

    Raises:
        UnknownPeriodId: there is none with this id.
    """
    row = db.execute(sa.select(voting_periods).where(voting_periods.c.id == period_id)).one_or_none()
    if row is None:
        raise UnknownPeriodId(period_id)
    return _period(row)


def get_outcome(db: Connection, period_id: UUID) -> Outcome | None:
    """The recorded outcome of a period, None while it is not closed.

    Raises:
        UnknownPeriodId: there is no such period.
        OutcomeMissing: it was marked as processed by hand.
    """
    return _recorded(db, period_id) if get_period(db, period_id).is_processed else None


def make_room(db: Connection, starts_at: datetime, ends_at: datetime) -> None:
    """Put off the start of agent voting periods in which nobody stands yet until this time is over.

    One that would have no time left is removed. One that is open keeps its time: whoever stands in a vote was
    promised it, so `create_period` refuses the overlap.

    Raises:
        ValueError: a time has no time zone.
    """
    starts_at, ends_at = in_utc(starts_at), in_utc(ends_at)
    in_the_way = sa.and_(
        voting_periods.c.period_type == "agent_voting",
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
    for due in _due(list_periods(db), now):
        locked = _lock_period(db, due.id)
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
                .returning(voting_periods)
            ).one()
            opened.append(_period(row))
    return opened


def candidates(db: Connection, period_id: UUID) -> list[Candidate]:
    """The scripts that stand in a period, with their votes counted, in no particular order."""
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
        .where(scripts.c.voting_period_id == period_id, scripts.c.pilot_status == "voting")
    )
    return [Candidate(**row) for row in rows.mappings()]


def close_period(db: Connection, period_id: UUID, rules: VotingRules, now: datetime) -> Outcome:
    """Record the outcome of a voting period, whole or not at all.

    Locks the period, tallies, and writes winners, losers, series, episodes and production jobs. A second
    closer waits, then gets the recorded outcome. A period that was never opened closes with nobody in it.

    Raises:
        UnknownPeriodId: there is no such period.
        PeriodNotOver: `ends_at` lies in the future (early closing goes through `close_early`).
        OutcomeMissing: it was marked as processed by hand.
    """
    period = _lock_period(db, period_id)
    if period.is_processed:
        return _recorded(db, period_id)
    if now < period.ends_at:
        raise PeriodNotOver(period_id, period.ends_at, now)
    return _close(db, period, rules, now, reason=None)


def close_early(db: Connection, period_id: UUID, rules: VotingRules, now: datetime, reason: str) -> Outcome:
    """Close a period before its time, and record why. One that is over closes as any other.

    Raises:
        UnknownPeriodId: there is no such period.
        ReasonMissing: the reason is empty.
        OutcomeMissing: it was marked as processed by hand.
    """
    if not reason.strip():
        raise ReasonMissing(period_id)
    period = _lock_period(db, period_id)
    if period.is_processed:
        return _recorded(db, period_id)
    return _close(db, period, rules, now, reason=reason.strip() if now < period.ends_at else None)


def ensure_upcoming(db: Connection, now: datetime) -> Period | None:
    """Make the next agent voting period by the settings, or None when there is one ahead.

    Holds the row of settings, so that two that look at once make one.

    Raises:
        PeriodOverlaps: somebody created a period by hand in the same moment; look again later.
    """
    settings = _settings(db, for_update=True)
    times = next_period(settings, list_periods(db), now)
    return create_period(db, "agent_voting", *times) if times else None


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


def _close(db: Connection, period: Period, rules: VotingRules, now: datetime, *, reason: str | None) -> Outcome:
    counted = tally(candidates(db, period.id), rules)
    series_ids = {winner.script_id: make_series(db, winner.script_id) for winner in counted.winners}
    _write_fate(db, counted.losers, pilot_status="rejected")
    _write_fate(db, counted.returned, pilot_status="submitted", voting_period_id=None)
    outcome = declare(period, counted, rules, series_ids, closed_early_reason=reason)
    db.execute(
        sa.update(voting_periods)
        .where(voting_periods.c.id == period.id)
        .values(
            is_active=False, is_processed=True, processed_at=now, closed_early_reason=reason, outcome=outcome.to_json()
        )
    )
    return outcome


def _write_fate(db: Connection, decided: Sequence[Candidate], **values: object) -> None:
    if decided:
        ids = [candidate.script_id for candidate in decided]
        db.execute(sa.update(scripts).where(scripts.c.id.in_(ids)).values(**values))


def _lock_period(db: Connection, period_id: UUID) -> Period:
    locked = sa.select(voting_periods).where(voting_periods.c.id == period_id).with_for_update()
    row = db.execute(locked).one_or_none()
    if row is None:
        raise UnknownPeriodId(period_id)
    return _period(row)


def _recorded(db: Connection, period_id: UUID) -> Outcome:
    document = db.execute(sa.select(voting_periods.c.outcome).where(voting_periods.c.id == period_id)).scalar_one()
    if document is None:
        raise OutcomeMissing(period_id)
    return Outcome.from_json(document)


def _due(periods: Sequence[Period], now: datetime) -> list[Period]:
    return [period for period in periods_to_open(periods, now) if period.period_type == "agent_voting"]


def _overlapping(db: Connection, starts_at: datetime, ends_at: datetime) -> Period:
    return _period(
        db.execute(
            sa.select(voting_periods)
            .where(
                voting_periods.c.period_type == "agent_voting",
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


def _period(row: Row[Any]) -> Period:
    return Period(
        id=row.id,
        period_type=row.period_type,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        is_active=row.is_active,
        is_processed=row.is_processed,
        processed_at=row.processed_at,
        closed_early_reason=row.closed_early_reason,
        episode_id=row.episode_id,
    )
