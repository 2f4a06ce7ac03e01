"""Records for tests of the domain, with what a test does not care about filled in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from moltpipe.studio.records import Candidate, Job, Period, Shot
from moltpipe.studio.screenplay import AudioType, ExtendStrategy, ShotAudio, ShotPrompt

NOON = datetime(2026, 2, 9, 12, tzinfo=UTC)
"""A Monday."""


def candidate(
    up: int = 0, down: int = 0, *, genre: str = "drama", at: datetime = NOON, script_id: UUID | None = None
) -> Candidate:
    return Candidate(
        script_id=script_id or uuid4(),
        title="A title",
        genre=genre,
        agent_name="agent",
        upvotes=up,
        downvotes=down,
        submitted_at=at,
    )


def period(
    starts_at: datetime,
    ends_at: datetime,
    *,
    active: bool = False,
    processed: bool = False,
    period_type: str = "agent_voting",
) -> Period:
    return Period(
        id=uuid4(),
        period_type=period_type,
        starts_at=starts_at,
        ends_at=ends_at,
        is_active=active,
        is_processed=processed,
    )


def job(
    partition_key: str = "the-kettle-e01",
    *,
    priority: int = 50,
    owner: str | None = None,
    heartbeat_ago: timedelta | None = None,
    attempts: int = 0,
    available_at: datetime = NOON - timedelta(hours=1),
    completed: bool = False,
    last_error: str | None = None,
) -> Job:
    return Job(
        id=uuid4(),
        episode_id=uuid4(),
        partition_key=partition_key,
        job_type="single_episode",
        priority=priority,
        process_uuid=owner,
        attempt_count=attempts,
        max_attempts=3,
        available_at=available_at,
        claimed_at=NOON - timedelta(hours=1) if owner else None,
        heartbeat_at=NOON - heartbeat_ago if heartbeat_ago is not None else None,
        completed_at=NOON if completed else None,
        last_error=last_error,
    )


def shot(number: int, duration_seconds: float = 6, *, gen_clip_seconds: float = 5) -> Shot:
    return Shot(
        id=uuid4(),
        number=number,
        prompt=ShotPrompt(camera="static", scene="A kettle."),
        audio=ShotAudio(type=AudioType.SILENT),
        gen_clip_seconds=gen_clip_seconds,
        duration_seconds=duration_seconds,
        strategy=ExtendStrategy.NONE,
    )
