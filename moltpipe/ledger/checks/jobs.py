"""Production jobs that nobody works on, that ran out of attempts, or that say something else than the media.

Here: jobs against the clock and against the view `episode_progress`. Not here: which one runs next (`studio.jobs`),
ending dead runs (`defs`), jobs that were never made (`checks.series`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.finding import Check, Conditions, Severity
from moltpipe.ledger.schema import audit, clip_variants, episodes, limited_series, production_jobs
from moltpipe.studio.screenplay import PILOT_VARIANTS

GRACE = timedelta(seconds=60)
"""How long after its lease a job may still wait for somebody to take it back."""
LONG_WAIT = timedelta(minutes=30)
"""How long a job may wait for a free run."""
UNNOTICED = timedelta(minutes=10)
"""How long a job may stay unfinished whose media are all there."""

# The clock that wrote the heartbeats; unlike `clock_timestamp()` it stands still within a query, so an index helps.
_CLOCK = sa.func.statement_timestamp()
_progress = sa.table(
    "episode_progress", sa.column("episode_id"), sa.column("variants_done"), sa.column("variants_wanted")
)
_IS_FREE = production_jobs.c.process_uuid.is_(None)
_IS_UNFINISHED = production_jobs.c.completed_at.is_(None)
_HAS_ATTEMPTS = production_jobs.c.attempt_count < production_jobs.c.max_attempts


def _of_episodes(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    return (
        sa.select(production_jobs.c.id.label("job_id"), episodes.c.partition_key, *columns)
        .select_from(production_jobs)
        .join(episodes, episodes.c.id == production_jobs.c.episode_id)
    )


def _orphaned(_db: Connection, conditions: Conditions) -> sa.Select[Any]:
    return _of_episodes(
        production_jobs.c.process_uuid,
        production_jobs.c.heartbeat_at,
        production_jobs.c.heartbeat_at.label("since"),
    ).where(~_IS_FREE, production_jobs.c.heartbeat_at < _CLOCK - (conditions.lease + GRACE))


JOBS_HAVE_LIVE_OWNERS = Check(
    "jobs_have_live_owners",
    "stitched_episode",
    "Every job that a run holds hears from it.",
    _orphaned,
    remedy="The process of the run is gone. `reaper_sensor` ends the run and gives the job to a new one while "
    "`moltpipe up` runs; `moltpipe repair` gives the job back without it.",
)


def _exhausted(_db: Connection, conditions: Conditions) -> sa.Select[Any]:
    return _of_episodes(
        production_jobs.c.attempt_count,
        production_jobs.c.last_error,
        # It carries the rest before an attempt that will not come, so it may lie ahead.
        sa.func.least(production_jobs.c.available_at, conditions.now).label("since"),
    ).where(_IS_UNFINISHED, _IS_FREE, ~_HAS_ATTEMPTS)


JOBS_HAVE_ATTEMPTS_LEFT = Check(
    "jobs_have_attempts_left",
    "stitched_episode",
    "No episode was given up after its last attempt.",
    _exhausted,
    remedy="Mend what `last_error` names. Then `moltpipe repair --retry PARTITION_KEY` gives the episode all its "
    "attempts again; what is made and paid for already is kept.",
)


def _waiting_long(_db: Connection, conditions: Conditions) -> sa.Select[Any]:
    return _of_episodes(
        production_jobs.c.available_at,
        production_jobs.c.priority,
        production_jobs.c.last_error,
        production_jobs.c.available_at.label("since"),
    ).where(_IS_UNFINISHED, _IS_FREE, _HAS_ATTEMPTS, production_jobs.c.available_at < conditions.now - LONG_WAIT)


JOBS_DO_NOT_WAIT_TOO_LONG = Check(
    "jobs_do_not_wait_too_long",
    "stitched_episode",
    "Every job that may run gets a run within half an hour.",
    _waiting_long,
    remedy="Nothing is lost: the jobs wait their turn. If nothing runs, start `moltpipe up` and see that "
    "`production_sensor` is on and its ticks succeed (Automation in the Dagster UI). If everything is busy, there is "
    "more work than places: raise MOLTPIPE_MAX_CONCURRENT_RUNS, or wait.",
    severity=Severity.WARNING,
)


def _misstated(_db: Connection, conditions: Conditions) -> sa.Select[Any]:
    """A job that is worked on is left alone: it may be about to say so itself."""
    return sa.union_all(_unpublished(), _unnoticed(conditions)).subquery().select()


def _unpublished() -> sa.Select[Any]:
    """Completed, with a variant missing.

    Says what the view `episode_progress` says, in one pass over the variants of all episodes that ever were: the view
    counts anew for each of them.
    """
    has_several = sa.and_(episodes.c.episode_number == 1, limited_series.c.medium == "video")
    out = (
        sa.select(
            clip_variants.c.episode_id,
            sa.func.count().label("variants"),
            sa.func.count().filter(clip_variants.c.variant_number == 1).label("first"),
        )
        .group_by(clip_variants.c.episode_id)
        .subquery()
    )
    done = sa.func.coalesce(sa.case((has_several, out.c.variants), else_=out.c.first), 0)
    wanted = sa.case((has_several, PILOT_VARIANTS), else_=1)
    return (
        _of_episodes(
            done.label("variants_done"),
            wanted.label("variants_wanted"),
            production_jobs.c.completed_at,
            production_jobs.c.completed_at.label("since"),
        )
        .join(limited_series, limited_series.c.id == episodes.c.series_id)
        .outerjoin(out, out.c.episode_id == episodes.c.id)
        .where(~_IS_UNFINISHED, _IS_FREE, done < wanted)
    )


def _unnoticed(conditions: Conditions) -> sa.Select[Any]:
    """Not completed, although every variant is out.

    Where a person has had a medium made anew (`ledger.decisions`), the old cut is out all the while, and only a run can
    say that it is done.
    """
    opened_by_a_person = sa.exists().where(
        audit.c.action == "remake",
        audit.c.after["production_jobs"][0]["id"].astext == sa.cast(production_jobs.c.id, sa.Text),
        audit.c.after["production_jobs"][0]["completed_at"].astext.is_(None),
    )
    return (
        _of_episodes(
            _progress.c.variants_done,
            _progress.c.variants_wanted,
            production_jobs.c.completed_at,
            production_jobs.c.available_at.label("since"),
        )
        .join(_progress, _progress.c.episode_id == episodes.c.id)
        .where(
            _IS_UNFINISHED,
            _IS_FREE,
            production_jobs.c.available_at < conditions.now - UNNOTICED,
            _progress.c.variants_done >= _progress.c.variants_wanted,
            ~opened_by_a_person,
        )
    )


COMPLETED_JOBS_ARE_PUBLISHED = Check(
    "completed_jobs_are_published",
    "stitched_episode",
    "A job is completed if and only if every variant of its episode is out.",
    _misstated,
    remedy="`moltpipe repair` opens a job again whose variants are gone, so that they are made anew from what is kept, "
    "and completes one whose variants are all out.",
)
