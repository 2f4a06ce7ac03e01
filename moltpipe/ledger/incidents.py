"""Incidents: what is wrong from when to when, and who has been told.

Here: opening and closing an incident once, queueing what each channel is told, and handing the queue to whoever sends.
Not here: what is wrong (`ledger.checks`, `defs.alerts`), the words and how many messages they make (`studio.alerts`),
sending (`moltpipe.alerting`).

The rejected alternative was to send in the tick that finds something: a channel that is down for that minute would
never hear of it, and two daemons would tell everything twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger.checks.finding import Finding
from moltpipe.ledger.jobs import completed_episodes
from moltpipe.ledger.periods import unprocessed_periods
from moltpipe.ledger.schema import alerts, incidents
from moltpipe.ledger.text import storable
from moltpipe.studio.alerts import (
    CLOSING,
    MESSAGES_PER_MINUTE,
    PendingAlert,
    Trouble,
    broken_promise,
    check_subject,
    pause_after,
    run_of,
    unchecked_subject,
    unknown_promise,
)
from moltpipe.studio.keys import period_key

__all__ = ["Trouble", "close_incident", "open_incident", "settle_findings"]

HOLD = timedelta(seconds=60)
"""How long a sender has what it took. Longer than sending may take: what it took is told again after that."""
_TAKEN_AT_ONCE = 200


@dataclass(frozen=True)
class Incident:
    """Something that is wrong and not over."""

    subject: str
    severity: str
    title: str
    body: str
    remedy: str
    path: str
    opened_at: datetime


@dataclass(frozen=True)
class Undelivered:
    """What a channel has not been told of yet."""

    subject: str
    title: str
    kind: str
    channel: str
    due_at: datetime
    attempts: int
    last_error: str | None


@dataclass(frozen=True)
class Taken:
    """What one sender has to tell a channel. Nobody else tells it meanwhile."""

    pending: tuple[PendingAlert, ...] = ()
    sent_lately: int = 0
    """Messages that the channel got in the last minute."""


def open_incident(db: Connection, trouble: Trouble, channels: Sequence[str]) -> bool:
    """Open an incident and queue an alert for every channel, unless one of the same subject is open.

    An open one takes the new words and is not told again: a count that changes is no news.

    Returns:
        Whether it was opened now.
    """
    told = {
        "severity": trouble.severity,
        "title": storable(trouble.title),
        "body": storable(trouble.body),
        "remedy": storable(trouble.remedy),
        "path": storable(trouble.path),
    }
    subject = storable(trouble.subject)
    opened: UUID | None = db.execute(
        insert(incidents)
        .values(subject=subject, opened_at=sa.func.clock_timestamp(), **told)
        .on_conflict_do_nothing(index_elements=["subject"], index_where=incidents.c.closed_at.is_(None))
        .returning(incidents.c.id)
    ).scalar_one_or_none()
    if opened is None:
        differs = sa.or_(*(incidents.c[name].is_distinct_from(value) for name, value in told.items()))
        db.execute(sa.update(incidents).where(_is_open(subject), differs).values(**told))
        return False
    if channels:
        db.execute(
            sa.insert(alerts),
            [{"incident_id": opened, "kind": "opened", "channel": channel} for channel in dict.fromkeys(channels)],
        )
    return True


def close_incident(db: Connection, subject: str, channels: Sequence[str]) -> bool:
    """Close the open incident of a subject, and queue the all-clear for those channels that its opening was queued for.

    Returns:
        Whether one was open.
    """
    closed: UUID | None = db.execute(
        sa.update(incidents)
        .where(_is_open(storable(subject)))
        .values(closed_at=sa.func.clock_timestamp())
        .returning(incidents.c.id)
    ).scalar_one_or_none()
    if closed is None:
        return False
    db.execute(
        sa.insert(alerts).from_select(
            ["incident_id", "kind", "channel"],
            sa.select(alerts.c.incident_id, sa.literal("closed"), alerts.c.channel).where(
                alerts.c.incident_id == closed, alerts.c.kind == "opened", alerts.c.channel.in_(list(channels))
            ),
        )
    )
    return True


def settle_findings(db: Connection, findings: Sequence[Finding], channels: Sequence[str]) -> None:
    """Open an incident for every check that fails, and close those of checks that pass again.

    A check that could not look says nothing about its promise: its own incident stays as it is, and that nobody can
    look is one of its own. Cheap while nothing changes: one query.
    """
    subjects = [subject for one in findings for subject in (check_subject(one.name), unchecked_subject(one.name))]
    are_open = {one.subject: one for one in _open(db, incidents.c.subject.in_(subjects))}
    # In one order, so that two daemons that settle at once wait for each other instead of in a circle.
    for finding in sorted(findings, key=lambda one: one.name):
        broken, unknown = check_subject(finding.name), unchecked_subject(finding.name)
        trouble = None
        if finding.could_not_check is not None:
            trouble = unknown_promise(finding.name, finding.asset, finding.could_not_check)
        elif finding.count:
            trouble = _trouble(finding)
        if finding.could_not_check is None:
            for subject in (broken, unknown):
                if subject in are_open and (trouble is None or subject != trouble.subject):
                    close_incident(db, subject, channels)
        if trouble is not None and not _says(are_open.get(trouble.subject), trouble):
            open_incident(db, trouble, channels)


def open_incidents(db: Connection) -> list[Incident]:
    """What is wrong now, the oldest first."""
    return _open(db, sa.true())


def open_subjects(db: Connection, prefix: str) -> frozenset[str]:
    """Subjects of open incidents that begin so."""
    return frozenset(one.subject for one in _open(db, incidents.c.subject.startswith(prefix, autoescape=True)))


def runs_done_by_others(db: Connection) -> list[str]:
    """Subjects of open incidents of runs whose work has been done since, by a person, a repair or another run.

    No run of theirs comes any more that could succeed: the vote is closed, or the episode was completed later.
    """
    failed = {one: run_of(one.subject) for one in _open(db, incidents.c.subject.startswith("run:"))}
    if not failed:
        return []
    unclosed = {period_key(period) for period in unprocessed_periods(db)}
    completed = completed_episodes(db, {key for _, key in failed.values()})
    return [
        one.subject
        for one, (job, key) in failed.items()
        if (job == CLOSING and key not in unclosed) or (key in completed and completed[key] > one.opened_at)
    ]


def tell_newcomer(db: Connection, channel: str) -> None:
    """Queue for a channel what is open and was never queued for it: it was set, or set right, after the opening."""
    told = alerts.alias("told")
    untold = ~sa.exists().where(told.c.incident_id == incidents.c.id, told.c.channel == channel)
    opened = sa.select(incidents.c.id, sa.literal("opened"), sa.literal(channel))
    queued = insert(alerts).from_select(
        ["incident_id", "kind", "channel"], opened.where(incidents.c.closed_at.is_(None), untold)
    )
    db.execute(queued.on_conflict_do_nothing())


def undelivered_alerts(db: Connection) -> list[Undelivered]:
    """What channels have not been told of yet, the oldest first."""
    rows = db.execute(
        sa.select(
            incidents.c.subject,
            incidents.c.title,
            alerts.c.kind,
            alerts.c.channel,
            alerts.c.due_at,
            alerts.c.attempts,
            alerts.c.last_error,
        )
        .join(incidents, incidents.c.id == alerts.c.incident_id)
        .where(alerts.c.sent_at.is_(None))
        .order_by(incidents.c.opened_at, incidents.c.subject, alerts.c.kind.desc(), alerts.c.channel)
    )
    return [Undelivered(**row) for row in rows.mappings()]


def take_due_alerts(db: Connection, channel: str, hold: timedelta = HOLD) -> Taken:
    """Take what a channel is to be told now, for `hold`. Whoever dies with it leaves it to the next after that.

    Nothing is taken while somebody else sends to the channel, or when it has had its messages of this minute: two
    senders would break its order and its pace. The all-clear waits for its opening, or is taken with it.
    """
    lock = sa.func.pg_try_advisory_xact_lock(sa.func.hashtextextended(f"moltpipe alerts to {channel}", 0))
    if not db.execute(sa.select(lock)).scalar_one():
        return Taken()
    clock: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    waiting = (alerts.c.channel == channel) & alerts.c.sent_at.is_(None)
    if db.execute(sa.select(sa.exists().where(waiting, alerts.c.held_until > clock))).scalar_one():
        return Taken()
    lately = (alerts.c.channel == channel) & (alerts.c.sent_at > clock - timedelta(minutes=1))
    sent_lately: int = db.execute(sa.select(sa.func.count(alerts.c.message_id.distinct())).where(lately)).scalar_one()
    if sent_lately >= MESSAGES_PER_MINUTE:
        return Taken(sent_lately=sent_lately)
    due = (
        sa.select(alerts.c.id.label("alert_id"), alerts.c.kind, incidents)
        .join(incidents, incidents.c.id == alerts.c.incident_id)
        .where(waiting, alerts.c.due_at <= clock)
        .order_by(alerts.c.due_at)
        .limit(_TAKEN_AT_ONCE)
        .with_for_update(of=alerts, skip_locked=True)
    )
    openings = db.execute(due.where(alerts.c.kind == "opened")).all()
    opening = alerts.alias("opening")
    untold = sa.exists().where(
        opening.c.incident_id == alerts.c.incident_id,
        opening.c.channel == channel,
        opening.c.kind == "opened",
        opening.c.sent_at.is_(None),
        opening.c.id.not_in([row.alert_id for row in openings]),
    )
    closings = db.execute(due.where(alerts.c.kind == "closed", ~untold)).all()
    taken = [_pending(row) for row in (*openings, *closings)]
    if taken:
        _update(db, (one.id for one in taken), held_until=clock + hold)
    return Taken(tuple(taken), sent_lately)


def note_sent(db: Connection, ids: Collection[UUID], message_id: UUID) -> None:
    """These left in one message."""
    _update(db, ids, sent_at=sa.func.clock_timestamp(), message_id=message_id, held_until=None, last_error=None)


def note_failed(db: Connection, ids: Collection[UUID], error: str) -> None:
    """These could not be sent: each is due again after a rest that grows with its attempts. None is ever given up."""
    rows = db.execute(sa.select(alerts.c.id, alerts.c.attempts).where(alerts.c.id.in_(list(ids))))
    by_attempts: dict[int, list[UUID]] = {}
    for row in rows:
        by_attempts.setdefault(row.attempts + 1, []).append(row.id)
    for attempts, of_them in by_attempts.items():
        _update(
            db,
            of_them,
            attempts=attempts,
            due_at=sa.func.clock_timestamp() + pause_after(attempts),
            held_until=None,
            last_error=storable(error),
        )


def let_go(db: Connection, ids: Collection[UUID]) -> None:
    """Give back what was taken and not tried."""
    _update(db, ids, held_until=None)


def _update(db: Connection, ids: Iterable[UUID], **values: object) -> None:
    db.execute(sa.update(alerts).where(alerts.c.id.in_(list(ids)), alerts.c.sent_at.is_(None)).values(**values))


def _is_open(subject: str) -> sa.ColumnElement[bool]:
    return (incidents.c.subject == subject) & incidents.c.closed_at.is_(None)


def _open(db: Connection, which: sa.ColumnElement[bool]) -> list[Incident]:
    rows = db.execute(
        sa.select(
            incidents.c.subject,
            incidents.c.severity,
            incidents.c.title,
            incidents.c.body,
            incidents.c.remedy,
            incidents.c.path,
            incidents.c.opened_at,
        )
        .where(incidents.c.closed_at.is_(None), which)
        .order_by(incidents.c.opened_at, incidents.c.subject)
    )
    return [Incident(**row) for row in rows.mappings()]


def _says(incident: Incident | None, trouble: Trouble) -> bool:
    """Whether an open incident says the very same, so that nothing need be written."""
    return incident is not None and (
        incident.severity,
        incident.title,
        incident.body,
        incident.remedy,
        incident.path,
    ) == (
        trouble.severity,
        trouble.title,
        trouble.body,
        trouble.remedy,
        trouble.path,
    )


def _trouble(finding: Finding) -> Trouble:
    return broken_promise(
        finding.name,
        finding.asset,
        finding.severity.value,
        finding.count,
        finding.rows,
        finding.remedy,
        finding.since,
    )


def _pending(row: Row[Any]) -> PendingAlert:
    return PendingAlert(
        id=row.alert_id,
        incident_id=row.id,
        kind=row.kind,
        severity=row.severity,
        title=row.title,
        body=row.body,
        remedy=row.remedy,
        path=row.path,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
    )
