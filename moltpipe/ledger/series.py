"""Limited series: what a winning script becomes, and reading one back.

Here: one function that makes a series whole, used by the closing of a vote and by repair alike, so there is
no second way in which a series comes to be. Not here: its shots and media (`ledger.shots`, `ledger.media`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger.schema import (
    episodes,
    limited_series,
    production_jobs,
    provider_jobs,
    scripts,
    shots,
    studios,
    takes,
)
from moltpipe.studio.keys import episode_key, slug
from moltpipe.studio.narration import AUDIO, bible_of, poster_spec_of
from moltpipe.studio.records import Episode, Series, Stored
from moltpipe.studio.screenplay import EPISODES_PER_SERIES, LEGACY_POSTER_KEY, PosterSpec, SeriesBible

EPISODES = sa.select(episodes, limited_series.c.medium).join(
    limited_series, limited_series.c.id == episodes.c.series_id
)
"""Episodes as `episode_of` reads them."""
PILOT_PRIORITY = 100
EPISODE_PRIORITY = 50
MAX_ATTEMPTS = 3


class NoSuchScript(Exception):
    """A series was to be made of a script that does not exist."""

    def __init__(self, script_id: UUID) -> None:
        super().__init__(f"there is no script {script_id} to make a series of")
        self.script_id = script_id


class UnknownSeries(Exception):
    """No series has this id."""

    def __init__(self, series_id: UUID) -> None:
        super().__init__(f"there is no series {series_id}")
        self.series_id = series_id


class SeriesUnreadable(Exception):
    """The script that a series came from has no bible or poster spec that can be worked by."""

    def __init__(self, series_id: UUID, error: ValidationError) -> None:
        wrong = "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors())
        super().__init__(f"series {series_id} cannot be produced, its bible or poster spec is broken: {wrong}")
        self.series_id = series_id


def make_series(db: Connection, script_id: UUID) -> UUID:
    """Make a script a series with five episodes and their production jobs, and mark it as selected.

    What is there already stays; what is missing is added. So it may run again, and it mends a script that was
    marked as selected by hand. The script's content is not judged here: it was at the door, and a period
    must be able to close whatever somebody wrote into a row since.

    Returns:
        The id of the series; `load_series` reads it.

    Raises:
        NoSuchScript: there is no such script.
    """
    series_id = _series_of(db, script_id)
    series_slug = db.execute(sa.select(limited_series.c.slug).where(limited_series.c.id == series_id)).scalar_one()
    for number in range(1, EPISODES_PER_SERIES + 1):
        _make_episode(db, series_id, series_slug, number)
    db.execute(sa.update(scripts).where(scripts.c.id == script_id).values(pilot_status="selected", series_id=series_id))
    return series_id


def load_series(db: Connection, series_id: UUID) -> Series:
    """A series with the script and the agent that it came from.

    Raises:
        UnknownSeries: there is no such series.
        SeriesUnreadable: its bible or poster spec is broken.
    """
    row = db.execute(
        sa.select(limited_series, scripts.c.script_data, studios.c.agent_name)
        .join(scripts, scripts.c.id == limited_series.c.script_id)
        .join(studios, studios.c.id == limited_series.c.studio_id)
        .where(limited_series.c.id == series_id)
    ).one_or_none()
    if row is None:
        raise UnknownSeries(series_id)
    return _series(row)


def episodes_of(db: Connection, series_id: UUID) -> list[Episode]:
    """The episodes of a series in their order."""
    rows = db.execute(EPISODES.where(episodes.c.series_id == series_id).order_by(episodes.c.episode_number))
    return [episode_of(row) for row in rows]


def all_episodes(db: Connection) -> list[Episode]:
    """The episodes of all series, series by series as they were made."""
    rows = db.execute(EPISODES.order_by(limited_series.c.created_at, limited_series.c.id, episodes.c.episode_number))
    return [episode_of(row) for row in rows]


def count_series(db: Connection) -> int:
    """How many series there are."""
    return int(db.execute(sa.select(sa.func.count()).select_from(limited_series)).scalar_one())


def first_take_at(db: Connection, series_id: UUID) -> datetime | None:
    """When the camera had made the first of the series' takes; None when there is none from a recorded call."""
    moment: datetime | None = db.execute(
        sa.select(sa.func.min(provider_jobs.c.finished_at))
        .join(takes, takes.c.provider_job_id == provider_jobs.c.id)
        .join(shots, shots.c.id == takes.c.shot_id)
        .join(episodes, episodes.c.id == shots.c.episode_id)
        .where(episodes.c.series_id == series_id)
    ).scalar_one()
    return moment


def set_poster(db: Connection, series_id: UUID, poster: Stored, *, replace: bool = False) -> bool:
    """Give a series its poster, once it lies in S3. One that is there stays, unless it is to be replaced.

    Returns:
        Whether the series has this poster now.
    """
    wanted = limited_series.c.id == series_id
    if not replace:
        wanted &= limited_series.c.poster_key.is_(None) | (limited_series.c.poster_key == poster.key)
    return bool(db.execute(sa.update(limited_series).where(wanted).values(poster_key=poster.key)).rowcount)


def episode_of(row: Row[Any]) -> Episode:
    """An episode from its row."""
    return Episode(
        id=row.id,
        series_id=row.series_id,
        number=row.episode_number,
        title=row.title,
        partition_key=row.partition_key,
        medium=row.medium,
    )


def _series_of(db: Connection, script_id: UUID) -> UUID:
    """The id of the script's series, which is made when there is none. Locks the script."""
    script = db.execute(sa.select(scripts).where(scripts.c.id == script_id).with_for_update()).one_or_none()
    if script is None:
        raise NoSuchScript(script_id)
    found: UUID | None = db.execute(
        sa.select(limited_series.c.id).where(limited_series.c.script_id == script_id)
    ).scalar_one_or_none()
    if found is not None:
        return found
    document = script.script_data if isinstance(script.script_data, dict) else {}
    bible: Any = document.get("series_bible", {})
    # The old system's agents know the poster spec by the name that its first schema gave it.
    poster_spec: Any = document.get("poster_spec", document.get(LEGACY_POSTER_KEY, {}))
    if script.medium == AUDIO:
        bible, poster_spec = bible_of(document), poster_spec_of(document)
    made: UUID = db.execute(
        sa.insert(limited_series)
        .values(
            id=uuid4(),
            script_id=script_id,
            studio_id=script.studio_id,
            slug=slug(script.title),
            title=script.title,
            logline=script.logline,
            genre=script.genre,
            medium=script.medium,
            series_bible=bible,
            poster_spec=poster_spec,
        )
        .returning(limited_series.c.id)
    ).scalar_one()
    return made


def _make_episode(db: Connection, series_id: UUID, series_slug: str, number: int) -> None:
    is_pilot = number == 1
    db.execute(
        insert(episodes)
        .values(
            series_id=series_id,
            episode_number=number,
            title="Pilot" if is_pilot else f"Episode {number}",
            partition_key=episode_key(series_slug, series_id, number),
        )
        .on_conflict_do_nothing(index_elements=["series_id", "episode_number"])
    )
    db.execute(
        insert(production_jobs)
        .from_select(
            ["episode_id", "job_type", "priority", "max_attempts"],
            sa.select(
                episodes.c.id,
                sa.literal("pilot_variants" if is_pilot else "single_episode"),
                sa.literal(PILOT_PRIORITY if is_pilot else EPISODE_PRIORITY),
                sa.literal(MAX_ATTEMPTS),
            ).where(episodes.c.series_id == series_id, episodes.c.episode_number == number),
        )
        .on_conflict_do_nothing(index_elements=["episode_id", "job_type"])
    )


def _series(row: Row[Any]) -> Series:
    try:
        bible = SeriesBible.model_validate(row.series_bible)
        poster_spec = PosterSpec.model_validate(row.poster_spec)
    except ValidationError as error:
        raise SeriesUnreadable(row.id, error) from error
    return Series(
        id=row.id,
        script_id=row.script_id,
        slug=row.slug,
        title=row.title,
        logline=row.logline,
        genre=row.genre,
        medium=row.medium,
        bible=bible,
        poster_spec=poster_spec,
        poster_key=row.poster_key,
        script_data=row.script_data,
        agent_name=row.agent_name,
    )
