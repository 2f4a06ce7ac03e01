"""Reading all that the ledger knows of one episode in work.

Here: one record per row, put together. Not here: writing any of it (`ledger.shots`, `ledger.media`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger.schema import (
    clip_variants,
    episodes,
    provider_jobs,
    scores,
    shots,
    spent_numbers,
    takes,
    voiceovers,
)
from moltpipe.ledger.series import EPISODES, episode_of, load_series
from moltpipe.studio.records import ClipSound, Episode, Production, Score, Shot, Stored, Take, Variant, Voiceover, Word
from moltpipe.studio.screenplay import ExtendStrategy, ShotAudio, ShotKind, ShotPrompt, Transition


class UnknownEpisode(Exception):
    """No episode has this partition key."""

    def __init__(self, partition_key: str) -> None:
        super().__init__(f"no episode has the partition key {partition_key!r}")
        self.partition_key = partition_key


def load_production(db: Connection, partition_key: str) -> Production:
    """The episode with its series, shots, newest voiceovers, current takes and published variants.

    Raises:
        UnknownEpisode: no episode has this partition key.
        SeriesUnreadable: nobody can work by the series' bible.
    """
    episode = load_episode(db, partition_key)
    of_episode = shots.c.episode_id == episode.id
    newest = (
        sa.select(voiceovers)
        .join(shots, shots.c.id == voiceovers.c.shot_id)
        .where(of_episode)
        .ext(distinct_on(voiceovers.c.shot_id))
        .order_by(voiceovers.c.shot_id, voiceovers.c.take_number.desc())
    )
    current = (
        sa.select(takes, provider_jobs.c.engine, provider_jobs.c.result["credit"].astext.label("credit"))
        .join(shots, shots.c.id == takes.c.shot_id)
        .outerjoin(provider_jobs, provider_jobs.c.id == takes.c.provider_job_id)
        .where(of_episode, takes.c.is_current)
    )
    published = sa.select(clip_variants).where(clip_variants.c.episode_id == episode.id)
    return Production(
        series=load_series(db, episode.series_id),
        episode=episode,
        shots=shots_of(db, episode.id),
        voiceovers={row.shot_id: voiceover_of(row) for row in db.execute(newest)},
        takes={
            (row.shot_id, row.variant_number): replace(take_of(row), engine=row.engine, credit=row.credit)
            for row in db.execute(current)
        },
        score=newest_score(db, episode.id),
        variants={
            row.variant_number: variant_of(row)
            for row in db.execute(published.order_by(clip_variants.c.variant_number))
        },
        spent_numbers=_spent_numbers(db, episode.id),
    )


def _spent_numbers(db: Connection, episode_id: UUID) -> dict[tuple[UUID, int], int]:
    """Take numbers of the episode whose rows were pruned: the highest, by subject and variant."""
    of_episode = sa.select(shots.c.id).where(shots.c.episode_id == episode_id)
    rows = db.execute(
        sa.select(spent_numbers).where(
            sa.or_(spent_numbers.c.subject_id.in_(of_episode), spent_numbers.c.subject_id == episode_id)
        )
    )
    return {(row.subject_id, row.variant_number): row.take_number for row in rows}


def load_episode(db: Connection, partition_key: str) -> Episode:
    """One episode.

    Raises:
        UnknownEpisode: none has this partition key.
    """
    row = db.execute(EPISODES.where(episodes.c.partition_key == partition_key)).one_or_none()
    if row is None:
        raise UnknownEpisode(partition_key)
    return episode_of(row)


def shots_of(db: Connection, episode_id: UUID) -> tuple[Shot, ...]:
    """The shots of an episode in their order."""
    rows = db.execute(sa.select(shots).where(shots.c.episode_id == episode_id).order_by(shots.c.shot_number))
    return tuple(shot_of(row) for row in rows)


def shot_of(row: Row[Any]) -> Shot:
    """A shot from its row."""
    return Shot(
        id=row.id,
        number=row.shot_number,
        prompt=ShotPrompt.model_validate(row.prompt),
        audio=ShotAudio.model_validate(row.audio),
        gen_clip_seconds=row.gen_clip_seconds,
        duration_seconds=row.duration_seconds,
        strategy=ExtendStrategy(row.edit_extend_strategy),
        kind=ShotKind(row.kind) if row.kind else None,
        engine=row.engine,
        transition=Transition(row.transition),
    )


def voiceover_of(row: Row[Any]) -> Voiceover:
    """A voiceover from its row."""
    return Voiceover(
        id=row.id,
        shot_id=row.shot_id,
        take_number=row.take_number,
        media=Stored(row.media_key, row.sha256, row.bytes),
        duration_seconds=row.duration_seconds,
        words=tuple(Word(**word) for word in row.words),
    )


def take_of(row: Row[Any]) -> Take:
    """A take from its row."""
    sound = None
    if row.sound_key is not None:
        sound = ClipSound(Stored(row.sound_key, row.sound_sha256, row.sound_bytes), row.sound_seconds)
    return Take(
        id=row.id,
        shot_id=row.shot_id,
        variant_number=row.variant_number,
        take_number=row.take_number,
        media=Stored(row.media_key, row.sha256, row.bytes),
        duration_seconds=row.duration_seconds,
        sound=sound,
    )


def newest_score(db: Connection, episode_id: UUID) -> Score | None:
    """The newest music of an episode; None when it has none."""
    row = db.execute(
        sa.select(scores).where(scores.c.episode_id == episode_id).order_by(scores.c.take_number.desc()).limit(1)
    ).one_or_none()
    return None if row is None else score_of(row)


def score_of(row: Row[Any]) -> Score:
    """Music from its row."""
    return Score(
        id=row.id,
        episode_id=row.episode_id,
        take_number=row.take_number,
        media=Stored(row.media_key, row.sha256, row.bytes),
        duration_seconds=row.duration_seconds,
    )


def variant_of(row: Row[Any]) -> Variant:
    """A published variant from its row."""
    return Variant(
        id=row.id,
        variant_number=row.variant_number,
        video=Stored(row.video_key, row.sha256, row.bytes),
        captions_key=row.captions_key,
        thumbnail_key=row.thumbnail_key,
        duration_seconds=row.duration_seconds,
        ingredients=row.ingredients,
        is_selected=row.is_selected,
        delivery=row.delivery,
    )
