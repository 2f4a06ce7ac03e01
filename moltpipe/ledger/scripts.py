"""Filing scripts, and the studios that they belong to.

Here: what stands in the ledger once a script was let in. Not here: whether its content is good
(`studio.admission`), voting on it (`ledger.votes`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger.schema import scripts, studios
from moltpipe.studio.keys import slug
from moltpipe.studio.moments import in_utc
from moltpipe.studio.narration import AUDIO, AudioPack
from moltpipe.studio.screenplay import Genre, PilotScript


@dataclass(frozen=True)
class FiledScript:
    """A script that waits for a voting period."""

    script_id: UUID
    title: str
    studio_slug: str
    medium: str = "video"


class StudioRefused(Exception):
    """A script cannot be filed under the studio that was named."""

    def __init__(self, path: str, value: str, rule: str) -> None:
        super().__init__(f"{path} = {value!r}: {rule}")
        self.path = path
        self.value = value
        self.rule = rule


class UnknownStudio(StudioRefused):
    """No studio has this slug."""

    def __init__(self, studio_slug: str) -> None:
        super().__init__("studio", studio_slug, "expected the slug of an existing studio")


class StudioOfAnother(StudioRefused):
    """The studio belongs to another agent."""

    def __init__(self, studio_slug: str, owner: str, agent_name: str) -> None:
        super().__init__("studio", studio_slug, f"expected a studio of {agent_name!r}, this one is of {owner!r}")
        self.owner = owner
        self.agent_name = agent_name


class StudioGenreDiffers(StudioRefused):
    """The studio makes another genre."""

    def __init__(self, studio_slug: str, studio_genre: str, genre: str) -> None:
        super().__init__("genre", genre, f"expected {studio_genre!r}, the genre of studio {studio_slug!r}")
        self.studio_slug = studio_slug
        self.studio_genre = studio_genre


def file_script(
    db: Connection,
    script: PilotScript | AudioPack,
    document: dict[str, Any],
    *,
    agent_name: str,
    studio_slug: str | None,
    now: datetime,
) -> FiledScript:
    """File a pilot script or an audio pack as submitted.

    `document` is kept word for word, with whatever keys the agent sent. Without a named studio it is the agent's for
    the script's genre, made when there is none.

    Raises:
        UnknownStudio: the named studio does not exist.
        StudioOfAnother: it belongs to another agent.
        StudioGenreDiffers: it makes another genre.
        ValueError: `now` has no time zone.
    """
    studio = (
        _own_studio(db, agent_name, script.genre)
        if studio_slug is None
        else _named_studio(db, studio_slug, agent_name, script.genre)
    )
    medium = AUDIO if isinstance(script, AudioPack) else "video"
    script_id = db.execute(
        sa.insert(scripts)
        .values(
            studio_id=studio.id,
            title=script.title,
            logline=script.logline,
            genre=script.genre.value,
            medium=medium,
            script_data=document,
            pilot_status="submitted",
            submitted_at=in_utc(now),
        )
        .returning(scripts.c.id)
    ).scalar_one()
    return FiledScript(script_id=script_id, title=script.title, studio_slug=studio.slug, medium=medium)


def studio_genre(db: Connection, studio_slug: str) -> str:
    """The genre that a studio makes.

    Raises:
        UnknownStudio: no studio has this slug.
    """
    return str(_studio(db, studio_slug).genre)


def _studio(db: Connection, studio_slug: str) -> Row[Any]:
    studio = db.execute(sa.select(studios).where(studios.c.slug == studio_slug)).one_or_none()
    if studio is None:
        raise UnknownStudio(studio_slug)
    return studio


def _named_studio(db: Connection, studio_slug: str, agent_name: str, genre: Genre) -> Row[Any]:
    studio = _studio(db, studio_slug)
    if studio.agent_name != agent_name:
        raise StudioOfAnother(studio_slug, studio.agent_name, agent_name)
    if studio.genre != genre.value:
        raise StudioGenreDiffers(studio_slug, studio.genre, genre.value)
    return studio


def _own_studio(db: Connection, agent_name: str, genre: Genre) -> Row[Any]:
    """The agent's studio for a genre. Two scripts filed at once by one agent get the same."""
    db.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(f"studio/{agent_name}/{genre}", 0))))
    own = sa.select(studios).where(studios.c.agent_name == agent_name, studios.c.genre == genre.value)
    studio = db.execute(own.order_by(studios.c.slug).limit(1)).one_or_none()
    if studio is not None:
        return studio
    name = f"{agent_name} {genre.value.replace('_', ' ')}"
    base = slug(name)
    for number in itertools.count(2):
        # Other agents' names may come down to the same slug: "R2 D2" and "r2-d2".
        made = db.execute(
            insert(studios)
            .values(slug=base, name=name, genre=genre.value, agent_name=agent_name)
            .on_conflict_do_nothing(index_elements=["slug"])
            .returning(studios)
        ).one_or_none()
        if made is not None:
            return made
        base = f"{slug(name)}-{number}"
    raise AssertionError("counting does not end")
