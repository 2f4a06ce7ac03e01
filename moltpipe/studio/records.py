"""What the ledger keeps, as the rest of the house sees it: plain frozen records.

Here: the shapes that travel between `ledger`, `production`, `defs` and `cli`. Not here: columns and
constraints (`ledger.schema`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from moltpipe.studio.screenplay import (
    PILOT_VARIANTS,
    ExtendStrategy,
    PosterSpec,
    SeriesBible,
    ShotAudio,
    ShotKind,
    ShotPrompt,
    Transition,
)


@dataclass(frozen=True)
class Word:
    """One spoken word, in seconds from the start of its voiceover."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Stored:
    """An object that lies in S3, verified after its upload."""

    key: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Series:
    """A limited series and the script it came from."""

    id: UUID
    script_id: UUID
    slug: str
    title: str
    logline: str
    genre: str
    medium: str
    bible: SeriesBible
    poster_spec: PosterSpec
    poster_key: str | None
    script_data: dict[str, Any]
    agent_name: str


@dataclass(frozen=True)
class Episode:
    """One of the five episodes of a series."""

    id: UUID
    series_id: UUID
    number: int
    title: str
    partition_key: str
    medium: str = "video"

    @property
    def variants_wanted(self) -> int:
        """Complete cuts that this episode is to have: variants differ in their pictures, and a narration has none."""
        return PILOT_VARIANTS if self.number == 1 and self.medium == "video" else 1


@dataclass(frozen=True)
class Shot:
    """One shot of an episode as it lies in the ledger. Lengths in seconds."""

    id: UUID
    number: int
    prompt: ShotPrompt
    audio: ShotAudio
    gen_clip_seconds: float
    duration_seconds: float
    strategy: ExtendStrategy
    kind: ShotKind | None = None
    engine: str | None = None
    """The camera that the script asks for in this shot."""
    transition: Transition = Transition.CUT
    """How the shot begins."""


@dataclass(frozen=True)
class Voiceover:
    """The newest voiceover of a shot."""

    id: UUID
    shot_id: UUID
    take_number: int
    media: Stored
    duration_seconds: float
    words: tuple[Word, ...]


@dataclass(frozen=True)
class ClipSound:
    """The sound that a clip came with, kept apart from its picture: 48 kHz FLAC."""

    media: Stored
    duration_seconds: float


@dataclass(frozen=True)
class Take:
    """The current take of one shot in one variant."""

    id: UUID
    shot_id: UUID
    variant_number: int
    take_number: int
    media: Stored
    duration_seconds: float
    engine: str | None = None
    """The camera that made it; None for one that another tool recorded."""
    credit: str | None = None
    """Whom to name for footage that somebody else shot."""
    sound: ClipSound | None = None
    """What was heard with it; None where the clip was silent."""


@dataclass(frozen=True)
class Score:
    """The newest music of an episode."""

    id: UUID
    episode_id: UUID
    take_number: int
    media: Stored
    duration_seconds: float


@dataclass(frozen=True)
class Variant:
    """One published cut of an episode."""

    id: UUID
    variant_number: int
    video: Stored
    captions_key: str
    thumbnail_key: str
    duration_seconds: float
    ingredients: str
    """Hash of the takes, voiceovers and profile that went in."""
    is_selected: bool
    delivery: dict[str, Any] | None = None
    """What the delivery gate found, as it was recorded; None for a cut that another tool made."""


@dataclass(frozen=True)
class Production:
    """All that the ledger knows of one episode in work, read in one transaction."""

    series: Series
    episode: Episode
    shots: tuple[Shot, ...]
    voiceovers: dict[UUID, Voiceover] = field(default_factory=dict)
    """By shot id."""
    takes: dict[tuple[UUID, int], Take] = field(default_factory=dict)
    """By shot id and variant number."""
    score: Score | None = None
    variants: dict[int, Variant] = field(default_factory=dict)
    """By variant number."""
    spent_numbers: dict[tuple[UUID, int], int] = field(default_factory=dict)
    """The highest take number that was pruned, by shot (or episode, for music) and variant (0 for what is heard)."""

    def next_number(self, former: Voiceover | Take | Score | None, subject_id: UUID, variant_number: int = 0) -> int:
        """The number of the next take: none that was ever given comes again."""
        spent = self.spent_numbers.get((subject_id, variant_number), 0)
        return max(former.take_number if former else 0, spent) + 1

    def is_published(self, variant_number: int, ingredients: str) -> bool:
        """Whether a variant is published as it would be cut now; one that was made of anything else is stale."""
        published = self.variants.get(variant_number)
        return published is not None and published.ingredients == ingredients


@dataclass(frozen=True)
class Period:
    """A voting period."""

    id: UUID
    period_type: str
    starts_at: datetime
    ends_at: datetime
    is_active: bool
    is_processed: bool
    processed_at: datetime | None = None
    closed_early_reason: str | None = None
    episode_id: UUID | None = None
    """The pilot whose variants a clip vote is about."""


@dataclass(frozen=True)
class Candidate:
    """A script in a voting period with its votes counted."""

    script_id: UUID
    title: str
    genre: str
    agent_name: str
    upvotes: int
    downvotes: int
    submitted_at: datetime

    @property
    def score(self) -> int:
        """Upvotes less downvotes."""
        return self.upvotes - self.downvotes

    @property
    def votes(self) -> int:
        """All votes cast, whichever way."""
        return self.upvotes + self.downvotes


@dataclass(frozen=True)
class Job:
    """A production job: one episode to be made, and who makes it."""

    id: UUID
    episode_id: UUID
    partition_key: str
    job_type: str
    priority: int
    process_uuid: str | None
    attempt_count: int
    max_attempts: int
    available_at: datetime
    claimed_at: datetime | None
    heartbeat_at: datetime | None
    completed_at: datetime | None
    last_error: str | None


@dataclass(frozen=True)
class Claim:
    """The right of one process to write for one episode, checked again at every write."""

    job_id: UUID
    episode_id: UUID
    partition_key: str
    process_uuid: str
