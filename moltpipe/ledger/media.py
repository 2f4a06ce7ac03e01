"""Recording media that lies in S3, verified: voiceovers, takes, published variants.

Here: the rows that are the truth about what was made. Not here: uploading (`store`) and looking at it
(`media`). Every function first makes sure that the episode still belongs to the process that writes, and a
record that repeats what is there already changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from moltpipe.ledger.audience import open_clip_vote
from moltpipe.ledger.jobs import still_mine
from moltpipe.ledger.production import load_episode, score_of, take_of, variant_of, voiceover_of
from moltpipe.ledger.schema import clip_variants, provider_jobs, scores, shots, spent_numbers, takes, voiceovers
from moltpipe.studio.records import Claim, ClipSound, Score, Stored, Take, Variant, Voiceover, Word


class ShotOfAnother(Exception):
    """A shot does not belong to the episode that was claimed."""

    def __init__(self, shot_id: UUID, partition_key: str) -> None:
        super().__init__(f"shot {shot_id} is none of {partition_key}")
        self.shot_id = shot_id
        self.partition_key = partition_key


class UnwantedVariant(Exception):
    """An episode has no variant of this number."""

    def __init__(self, partition_key: str, variant_number: int, wanted: int) -> None:
        super().__init__(f"{partition_key} has no variant {variant_number}: expected 1 to {wanted}")
        self.partition_key = partition_key
        self.variant_number = variant_number
        self.wanted = wanted


def record_voiceover(
    db: Connection,
    claim: Claim,
    shot_id: UUID,
    media: Stored,
    duration_seconds: float,
    words: Sequence[Word],
    provider_job_id: UUID | None = None,
) -> Voiceover:
    """Record a voiceover of a shot under the next take number. The former ones stay.

    Raises:
        Superseded: the episode's job is no longer this process's.
        ShotOfAnother: the shot is of another episode.
    """
    _hold(db, claim, shot_id)
    of_shot = voiceovers.c.shot_id == shot_id
    row = db.execute(sa.select(voiceovers).where(of_shot, voiceovers.c.media_key == media.key)).one_or_none()
    if row is None:
        row = db.execute(
            sa.insert(voiceovers)
            .values(
                shot_id=shot_id,
                take_number=_next_number(db, voiceovers, of_shot, shot_id),
                **_stored(media, "media_key", duration_seconds),
                words=[asdict(word) for word in words],
                provider_job_id=provider_job_id,
            )
            .returning(voiceovers)
        ).one()
    return voiceover_of(row)


def record_take(
    db: Connection,
    claim: Claim,
    shot_id: UUID,
    variant_number: int,
    media: Stored,
    duration_seconds: float,
    probe: dict[str, Any],
    provider_job_id: UUID | None = None,
    sound: ClipSound | None = None,
) -> Take:
    """Record a take of a shot in one variant, with the sound it came with, and make it the current one.

    The former ones stay.

    Raises:
        Superseded: the episode's job is no longer this process's.
        ShotOfAnother: the shot is of another episode.
        UnwantedVariant: the episode has no such variant.
    """
    _hold(db, claim, shot_id)
    _check_wanted(db, claim, variant_number)
    of_variant = sa.and_(takes.c.shot_id == shot_id, takes.c.variant_number == variant_number)
    row = db.execute(sa.select(takes).where(of_variant, takes.c.media_key == media.key)).one_or_none()
    if row is None:
        number = _next_number(db, takes, of_variant, shot_id, variant_number)
        db.execute(sa.update(takes).where(of_variant, takes.c.is_current).values(is_current=False))
        row = db.execute(
            sa.insert(takes)
            .values(
                shot_id=shot_id,
                variant_number=variant_number,
                take_number=number,
                **_stored(media, "media_key", duration_seconds),
                probe=probe,
                provider_job_id=provider_job_id,
                **_sound(sound),
            )
            .returning(takes)
        ).one()
    return take_of(row)


def arrival_of_take(db: Connection, take_id: UUID) -> Stored | None:
    """What the camera delivered for a take, as it came; None where it was not kept, as with cameras of this machine."""
    kept: dict[str, Any] | None = db.execute(
        sa.select(provider_jobs.c.result["media"])
        .join(takes, takes.c.provider_job_id == provider_jobs.c.id)
        .where(takes.c.id == take_id)
    ).scalar_one_or_none()
    return None if kept is None else Stored(key=kept["key"], sha256=kept["sha256"], bytes=kept["bytes"])


def record_score(
    db: Connection, claim: Claim, media: Stored, duration_seconds: float, provider_job_id: UUID | None = None
) -> Score:
    """Record music of the episode under the next take number. The former ones stay.

    Raises:
        Superseded: the episode's job is no longer this process's.
    """
    still_mine(db, claim)
    of_episode = scores.c.episode_id == claim.episode_id
    row = db.execute(sa.select(scores).where(of_episode, scores.c.media_key == media.key)).one_or_none()
    if row is None:
        row = db.execute(
            sa.insert(scores)
            .values(
                episode_id=claim.episode_id,
                take_number=_next_number(db, scores, of_episode, claim.episode_id),
                **_stored(media, "media_key", duration_seconds),
                provider_job_id=provider_job_id,
            )
            .returning(scores)
        ).one()
    return score_of(row)


def publish_variant(
    db: Connection,
    claim: Claim,
    variant_number: int,
    video: Stored,
    *,
    captions_key: str,
    thumbnail_key: str,
    duration_seconds: float,
    ingredients: str,
    delivery: dict[str, Any] | None = None,
) -> Variant:
    """Publish a cut of the episode, in place of the one that this variant had; its objects stay in S3.

    A selection stays with the variant. Of an episode with one variant, it is selected at once. The last one of a pilot
    opens the vote on its variants, in this transaction and from now by the clock of the database.

    Raises:
        Superseded: the episode's job is no longer this process's.
        UnwantedVariant: the episode has no such variant.
    """
    still_mine(db, claim)
    wanted = _check_wanted(db, claim, variant_number)
    published = {
        **_stored(video, "video_key", duration_seconds),
        "captions_key": captions_key,
        "thumbnail_key": thumbnail_key,
        "ingredients": ingredients,
        "delivery": sa.null() if delivery is None else delivery,
        "published_at": sa.func.clock_timestamp(),
    }
    row = db.execute(
        insert(clip_variants)
        .values(episode_id=claim.episode_id, variant_number=variant_number, is_selected=wanted == 1, **published)
        .on_conflict_do_update(index_elements=["episode_id", "variant_number"], set_=published)
        .returning(clip_variants)
    ).one()
    open_clip_vote(db, claim.episode_id, db.execute(sa.select(sa.func.clock_timestamp())).scalar_one())
    return variant_of(row)


def _sound(sound: ClipSound | None) -> dict[str, object]:
    if sound is None:
        return {}
    return {
        "sound_key": sound.media.key,
        "sound_sha256": sound.media.sha256,
        "sound_bytes": sound.media.bytes,
        "sound_seconds": sound.duration_seconds,
    }


def _hold(db: Connection, claim: Claim, shot_id: UUID) -> None:
    still_mine(db, claim)
    of = db.execute(sa.select(shots.c.episode_id).where(shots.c.id == shot_id)).scalar_one_or_none()
    if of != claim.episode_id:
        raise ShotOfAnother(shot_id, claim.partition_key)


def _check_wanted(db: Connection, claim: Claim, variant_number: int) -> int:
    wanted = load_episode(db, claim.partition_key).variants_wanted
    if not 1 <= variant_number <= wanted:
        raise UnwantedVariant(claim.partition_key, variant_number, wanted)
    return wanted


def _next_number(
    db: Connection, table: sa.Table, of: sa.ColumnElement[bool], subject_id: UUID, variant_number: int = 0
) -> int:
    """The number after the highest one that there ever was. Safe, because the caller holds the episode's job."""
    highest: int = db.execute(sa.select(sa.func.coalesce(sa.func.max(table.c.take_number), 0)).where(of)).scalar_one()
    spent = db.execute(
        sa.select(spent_numbers.c.take_number).where(
            spent_numbers.c.subject_id == subject_id, spent_numbers.c.variant_number == variant_number
        )
    ).scalar_one_or_none()
    return max(highest, spent or 0) + 1


def _stored(media: Stored, key_column: str, duration_seconds: float) -> dict[str, object]:
    return {
        key_column: media.key,
        "sha256": media.sha256,
        "bytes": media.bytes,
        "duration_seconds": duration_seconds,
    }
