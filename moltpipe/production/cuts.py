"""A finished cut: what is known of it, and how it is published.

Here: what the cutting of pictures (`production.cutting`) and of narrations (`production.narrating`) have in common.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from moltpipe.ledger.media import publish_variant
from moltpipe.media.gate import Delivery
from moltpipe.media.sound import Loudness
from moltpipe.production.work import Work
from moltpipe.studio.keys import variant_key
from moltpipe.studio.records import Production, Variant

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """A variant published now, with the figures of its delivery."""

    variant: Variant
    delivery: Delivery
    loudness: Loudness


@dataclass(frozen=True)
class Cutting:
    """What the stage did: the episode's variants, and which were cut now."""

    production: Production
    cut_now: tuple[Cut, ...]
    cost_usd: Decimal
    """What this episode's music has cost so far."""


class MissingMedia(Exception):
    """An episode is to be cut, but takes or voiceovers are missing."""

    def __init__(self, partition_key: str, missing: list[str]) -> None:
        super().__init__(f"{partition_key} cannot be cut, these are missing: {', '.join(missing)}")
        self.partition_key = partition_key
        self.missing = missing


@dataclass(frozen=True)
class Print:
    """The files of a cut that passed the gate, and what it was made from."""

    video: Path
    vtt: Path
    srt: Path
    thumbnail: Path
    seconds: float
    ingredients: str
    delivery: Delivery
    loudness: Loudness


def publish(work: Work, variant_number: int, ready: Print) -> Cut:
    """Lay a cut and what belongs to it into the store, then record it.

    Raises:
        Superseded: the episode's job is no longer this process's; nothing was recorded.
    """
    line, episode = work.line, work.production.episode
    stored = line.store.put(ready.video, lambda sha256: variant_key(episode.id, variant_number, sha256, ".mp4"))

    def put_beside(file: Path, suffix: str) -> str:
        return line.store.put(file, lambda _: variant_key(episode.id, variant_number, stored.sha256, suffix)).key

    captions_key = put_beside(ready.vtt, ".vtt")
    put_beside(ready.srt, ".srt")
    thumbnail_key = put_beside(ready.thumbnail, ".jpg")
    with line.database.begin() as db:
        variant = publish_variant(
            db,
            work.claim,
            variant_number,
            stored,
            captions_key=captions_key,
            thumbnail_key=thumbnail_key,
            duration_seconds=ready.seconds,
            ingredients=ready.ingredients,
            delivery=ready.delivery.as_json(),
        )
    log.info("cut published", extra={"variant": variant_number, "seconds": ready.seconds, "key": stored.key})
    return Cut(variant=variant, delivery=ready.delivery, loudness=ready.loudness)
