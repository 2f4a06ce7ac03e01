"""The inbox of webhooks: what providers said of their jobs, before anybody looked.

Here: one row per event, and the questions that a poller asks. Not here: whether an event is genuine
(`engines.signatures`), what its news mean for a call (`production.calls`).

A row changes nothing by itself: it makes a poller look sooner, and it may name the id of a job whose answer was lost.
It may come before the call has stored that id, so nothing refers to the call. The rejected alternative, to
let the webhook finish the call, made a webhook and a poll finish the same job twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from moltpipe.ledger.schema import provider_events, provider_jobs


def record_event(
    db: Connection, provider: str, event_id: str, external_id: str, call_id: UUID | None, status: str
) -> bool:
    """Put an event into the inbox. False when the same one is there already."""
    recorded = db.execute(
        insert(provider_events)
        .values(
            provider=provider,
            event_id=event_id,
            external_id=external_id,
            call_id=call_id,
            status=status,
            received_at=sa.func.clock_timestamp(),
        )
        .on_conflict_do_nothing(index_elements=["provider", "event_id"])
        .returning(provider_events.c.id)
    ).one_or_none()
    return recorded is not None


def has_news(db: Connection, calls: Sequence[tuple[UUID, str | None]], since: datetime) -> set[UUID]:
    """Those of the calls, each with its external id, of which an event came at `since` or later.

    One query for all of them. `since` is compared with the database's clock: a little too early costs one look at
    the provider, a little too late nothing, because polling goes on anyway.
    """
    if not calls:
        return set()
    rows = db.execute(
        sa.select(provider_events.c.call_id, provider_events.c.external_id).where(
            provider_events.c.received_at >= since, _about(*zip(*calls, strict=True))
        )
    ).all()
    named = {row.call_id for row in rows}
    told = {row.external_id for row in rows}
    return {call_id for call_id, external_id in calls if call_id in named or external_id in told}


def external_id_of(db: Connection, call_id: UUID) -> str | None:
    """The id of a call's job, as the first event that names the call gives it; None when none does.

    An id that another call has is not given: the reference to the call travels in the address, which Replicate
    does not sign.
    """
    taken = (
        sa.select(provider_jobs.c.id)
        .where(provider_jobs.c.external_id == provider_events.c.external_id, provider_jobs.c.id != call_id)
        .exists()
    )
    return db.execute(
        sa.select(provider_events.c.external_id)
        .where(provider_events.c.call_id == call_id, ~taken)
        .order_by(provider_events.c.received_at, provider_events.c.id)
        .limit(1)
    ).scalar_one_or_none()


def _about(call_ids: Sequence[UUID], external_ids: Sequence[str | None]) -> sa.ColumnElement[bool]:
    known = [one for one in external_ids if one is not None]
    return sa.or_(provider_events.c.call_id.in_(call_ids), provider_events.c.external_id.in_(known))
