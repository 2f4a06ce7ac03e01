"""Series that are missing or incomplete: the incident that the project began with.

Here: scripts without their series, series without their episodes. Not here: the votes before them (`voting`), the
jobs that make them (`jobs`).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.finding import Check, Conditions
from moltpipe.ledger.schema import episodes, limited_series, production_jobs, scripts, voting_periods
from moltpipe.studio.screenplay import EPISODES_PER_SERIES


def _orphans(_db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    of_this_script = sa.and_(limited_series.c.id == scripts.c.series_id, limited_series.c.script_id == scripts.c.id)
    return (
        sa.select(
            scripts.c.id.label("script_id"),
            scripts.c.title,
            scripts.c.genre,
            scripts.c.voting_period_id,
            scripts.c.submitted_at,
            sa.func.coalesce(voting_periods.c.processed_at, scripts.c.submitted_at).label("since"),
        )
        .outerjoin(limited_series, of_this_script)
        .outerjoin(voting_periods, voting_periods.c.id == scripts.c.voting_period_id)
        .where(scripts.c.pilot_status == "selected", limited_series.c.id.is_(None))
    )


SELECTED_SCRIPTS_HAVE_SERIES = Check(
    "selected_scripts_have_series",
    "scripts",
    "Every selected script has its limited series.",
    _orphans,
    remedy="`moltpipe repair` makes the series, its episodes and their production jobs.",
)


def _incomplete(_db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    # The job that the view `episode_progress` looks at; there is one of a type.
    job_type = sa.case((episodes.c.episode_number == 1, "pilot_variants"), else_="single_episode")
    per_series = (
        sa.select(
            episodes.c.series_id,
            sa.func.count().label("episodes"),
            sa.func.count(production_jobs.c.id).label("episodes_with_job"),
        )
        .outerjoin(
            production_jobs,
            sa.and_(production_jobs.c.episode_id == episodes.c.id, production_jobs.c.job_type == job_type),
        )
        .group_by(episodes.c.series_id)
        .subquery()
    )
    with_job = sa.func.coalesce(per_series.c.episodes_with_job, 0)
    return (
        sa.select(
            limited_series.c.id.label("series_id"),
            limited_series.c.title,
            limited_series.c.script_id,
            sa.func.coalesce(per_series.c.episodes, 0).label("episodes"),
            with_job.label("episodes_with_job"),
            limited_series.c.created_at.label("since"),
        )
        .outerjoin(per_series, per_series.c.series_id == limited_series.c.id)
        .where(with_job < EPISODES_PER_SERIES)
    )


SERIES_HAVE_ALL_EPISODES_AND_JOBS = Check(
    "series_have_all_episodes_and_jobs",
    "limited_series",
    "Every limited series has five episodes, each with its production job.",
    _incomplete,
    remedy="`moltpipe repair` adds the missing episodes and production jobs. They are then produced, for what the "
    "engines charge; `moltpipe repair --only CHECK` mends what another check finds and leaves this.",
)
