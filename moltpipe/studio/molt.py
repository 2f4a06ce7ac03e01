"""A MOLT database: its rows as Prisma left them.

Here: the shapes. A field without a default is a column that must be there; one with a default may be missing. Not here:
reading them (`ledger.molt`), what becomes of them (`studio.adoption`).

Statuses are free text, documents are text that may be no JSON, and an id may lead nowhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from moltpipe.studio.moments import spelled

_DIGITS = 8
_NO_FACTS = frozenset({"updated_at", "upvotes", "downvotes"})


@dataclass(frozen=True)
class OldAgent:
    """`agents`."""

    id: UUID
    name: str


@dataclass(frozen=True)
class OldCategory:
    """`categories`: a genre, by its slug."""

    id: UUID
    slug: str


@dataclass(frozen=True)
class OldStudio:
    """`studios`."""

    id: UUID
    name: str
    agent_id: UUID | None
    category_id: UUID | None


@dataclass(frozen=True)
class OldScript:
    """`scripts`: pilots, and beside them texts and links, which agents post."""

    id: UUID
    author_id: UUID | None
    studio_id: UUID | None
    title: str
    script_type: str
    is_deleted: bool
    logline: str | None
    script_data: str | None
    pilot_status: str | None
    voting_period_id: UUID | None
    submitted_at: datetime | None
    produced_at: datetime | None
    series_id: UUID | None
    upvotes: int
    downvotes: int
    """Counters that were written beside the votes, and not with them."""
    created_at: datetime
    updated_at: datetime | None = None


@dataclass(frozen=True)
class OldVote:
    """`script_votes`."""

    script_id: UUID
    agent_id: UUID
    value: int
    created_at: datetime | None = None

    @property
    def id(self) -> str:
        """What tells it from every other."""
        return f"{self.script_id}/{self.agent_id}"


@dataclass(frozen=True)
class OldPeriod:
    """`voting_periods`, which knew neither when they were processed nor who won."""

    id: UUID
    period_type: str
    starts_at: datetime
    ends_at: datetime
    is_active: bool
    is_processed: bool


@dataclass(frozen=True)
class OldSeries:
    """`limited_series`, which did not know their scripts."""

    id: UUID
    studio_id: UUID | None
    title: str
    logline: str
    genre: str
    medium: str
    series_bible: str | None
    poster_spec: str | None
    audio_pack: str | None
    created_at: datetime


OldRow: TypeAlias = OldStudio | OldScript | OldVote | OldPeriod | OldSeries
TABLES: Mapping[type[OldRow], str] = {
    OldStudio: "studios",
    OldPeriod: "voting_periods",
    OldScript: "scripts",
    OldSeries: "limited_series",
    OldVote: "script_votes",
}


@dataclass(frozen=True)
class Molt:
    """A MOLT database as far as it is brought over, at one moment."""

    agents: tuple[OldAgent, ...] = ()
    categories: tuple[OldCategory, ...] = ()
    studios: tuple[OldStudio, ...] = ()
    scripts: tuple[OldScript, ...] = ()
    votes: tuple[OldVote, ...] = ()
    periods: tuple[OldPeriod, ...] = ()
    series: tuple[OldSeries, ...] = ()
    episodes_with_media: Mapping[UUID, int] = field(default_factory=dict)
    """How many episodes of a series have a video or a sound, by the series' id."""
    posts: int = 0
    """Texts and links without a status, of which only the number is read."""


def digest(row: OldRow) -> str:
    """What a row says, field by field in eight digits each. Times of writing and counters are no part of it."""
    return "".join(_digits(getattr(row, name)) for name in _facts(row))


def fields_that_differ(before: str, row: OldRow) -> list[str]:
    """Names of the fields in which a row is not what its digest said."""
    now = digest(row)
    return [
        name
        for number, name in enumerate(_facts(row))
        if before[number * _DIGITS :][:_DIGITS] != now[number * _DIGITS :][:_DIGITS]
    ]


def _facts(row: OldRow) -> list[str]:
    return [one.name for one in dataclasses.fields(row) if one.name not in _NO_FACTS]


def _digits(value: object) -> str:
    text = spelled(value) if isinstance(value, datetime) else str(value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
