"""A MOLT database as Prisma left it, built by hand: healthy rows, one of each broken kind, and the incident.

Tables, columns and defaults: research/molt.md, section 1. Left out are what adoption never looks at (payouts, tips,
refunds), and the foreign keys of scripts and series: a row that leads nowhere is what a test wants to make.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from moltpipe import samples

_TABLES = """
CREATE TABLE agents (
    id uuid PRIMARY KEY, name varchar(32) NOT NULL UNIQUE, display_name varchar(64), api_key_hash varchar(64) NOT NULL,
    status varchar(20) NOT NULL DEFAULT 'pending_claim', is_claimed boolean NOT NULL DEFAULT false,
    is_active boolean NOT NULL DEFAULT true, karma integer NOT NULL DEFAULT 0,
    wallet_address varchar(100) NOT NULL UNIQUE, deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL
);
CREATE TABLE categories (
    id uuid PRIMARY KEY, slug varchar(20) NOT NULL UNIQUE, display_name varchar(50) NOT NULL,
    sort_order integer NOT NULL DEFAULT 0, is_active boolean NOT NULL DEFAULT true
);
CREATE TABLE studios (
    id uuid PRIMARY KEY, name varchar(24) NOT NULL UNIQUE, full_name varchar(150), suffix varchar(50),
    agent_id uuid REFERENCES agents (id) ON DELETE SET NULL, creator_id uuid,
    category_id uuid REFERENCES categories (id) ON DELETE SET NULL,
    is_production boolean NOT NULL DEFAULT false, is_active boolean NOT NULL DEFAULT true,
    script_count integer NOT NULL DEFAULT 0, last_script_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL,
    UNIQUE (agent_id, category_id)
);
CREATE TABLE limited_series (
    id uuid PRIMARY KEY, studio_id uuid NOT NULL, agent_id uuid NOT NULL, title varchar(200) NOT NULL,
    logline varchar(500) NOT NULL, genre varchar(20) NOT NULL, medium varchar(10) NOT NULL DEFAULT 'video',
    series_bible text NOT NULL, poster_spec text NOT NULL, narration_voice_id varchar(200), audio_pack text,
    episode_count integer NOT NULL DEFAULT 0, status varchar(20) NOT NULL DEFAULT 'pilot_voting', poster_url text,
    greenlit_at timestamptz, completed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL
);
CREATE TABLE scripts (
    id uuid PRIMARY KEY, author_id uuid NOT NULL, studio_id uuid NOT NULL, studio_name varchar(24) NOT NULL,
    title varchar(300) NOT NULL, script_type varchar(10) NOT NULL DEFAULT 'text', score integer NOT NULL DEFAULT 0,
    upvotes integer NOT NULL DEFAULT 0, downvotes integer NOT NULL DEFAULT 0,
    is_deleted boolean NOT NULL DEFAULT false, logline varchar(500), script_data text, pilot_status varchar(20),
    voting_period_id uuid, voting_ends_at timestamptz, submitted_at timestamptz, produced_at timestamptz,
    series_id uuid, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL
);
CREATE INDEX scripts_pilot_status_idx ON scripts (pilot_status);
CREATE TABLE script_votes (
    id uuid PRIMARY KEY, script_id uuid NOT NULL, agent_id uuid NOT NULL, value smallint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL, UNIQUE (script_id, agent_id)
);
CREATE TABLE voting_periods (
    id uuid PRIMARY KEY, period_type varchar(20) NOT NULL, starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL, is_active boolean NOT NULL DEFAULT false,
    is_processed boolean NOT NULL DEFAULT false, created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE episodes (
    id uuid PRIMARY KEY, series_id uuid NOT NULL REFERENCES limited_series (id) ON DELETE CASCADE,
    episode_number integer NOT NULL, title varchar(200) NOT NULL, arc_data text, shots_data text, video_url text,
    tts_audio_url text, status varchar(20) NOT NULL DEFAULT 'pending', UNIQUE (series_id, episode_number)
);
CREATE TABLE clip_variants (
    id uuid PRIMARY KEY, episode_id uuid NOT NULL REFERENCES episodes (id) ON DELETE CASCADE,
    variant_number integer NOT NULL, video_url text, is_selected boolean NOT NULL DEFAULT false, seed integer,
    status varchar(20) NOT NULL DEFAULT 'pending', UNIQUE (episode_id, variant_number)
);
"""

TABLES = (
    "agents", "categories", "studios", "limited_series", "scripts", "script_votes", "voting_periods", "episodes",
    "clip_variants",
)  # fmt: skip
GENRES = ("action", "adventure", "comedy", "drama", "thriller", "horror", "sci_fi", "fantasy", "romance", "crime")
FEBRUARY = datetime(2026, 2, 2, tzinfo=UTC)
"""A Monday, on which the healthy period starts."""
DAY = timedelta(days=1)


def pilot(title: str, genre: str = "sci_fi") -> str:
    """A pilot that every door lets in, as the old column holds it: text."""
    _, document = samples.pilots()[0]
    return json.dumps(document | {"title": title, "genre": genre})


def pack(title: str) -> str:
    """An audio pack, likewise."""
    _, document = samples.packs()[0]
    return json.dumps(document | {"title": title})


class MoltDatabase:
    """The old database, and what its programs and its operators wrote into it."""

    def __init__(self, db: psycopg.Connection) -> None:
        self.db = db
        self.categories = {genre: self._insert("categories", slug=genre, display_name=genre) for genre in GENRES}

    def agent(self, name: str) -> UUID:
        return self._insert(
            "agents", name=name, api_key_hash="0" * 64, wallet_address=f"0x{uuid4().hex}", updated_at=FEBRUARY
        )

    def studio(self, agent: UUID | None, genre: str | None = "sci_fi", **other: Any) -> UUID:  # noqa: ANN401 - any column
        told = {"name": f"studio-{uuid4().hex[:8]}", "agent_id": agent, "updated_at": FEBRUARY}
        return self._insert("studios", **(told | {"category_id": self.categories.get(genre or "")} | other))

    def script(self, studio: UUID, title: str, status: str | None, **other: Any) -> UUID:  # noqa: ANN401 - any column
        """A pilot, of its studio's agent unless another author is given."""
        author = self.db.execute("SELECT agent_id FROM studios WHERE id = %s", [studio]).fetchone()
        told: dict[str, Any] = {
            "studio_id": studio,
            "author_id": (author and author[0]) or uuid4(),
            "studio_name": "a studio",
            "title": title,
            "logline": "Somebody wants something and cannot have it.",
            "script_type": "pilot",
            "script_data": pilot(title),
            "pilot_status": status,
            "submitted_at": None if status in (None, "draft") else FEBRUARY - DAY,
            "created_at": FEBRUARY - 2 * DAY,
            "updated_at": FEBRUARY - DAY,
        }
        return self._insert("scripts", **(told | other))

    def vote(self, script: UUID, agent: UUID, value: int = 1, *, counted: bool = True) -> None:
        self._insert(
            "script_votes", script_id=script, agent_id=agent, value=value, created_at=FEBRUARY, updated_at=FEBRUARY
        )
        if counted:
            counter = sql.Identifier("upvotes" if value > 0 else "downvotes")
            self.db.execute(sql.SQL("UPDATE scripts SET {0} = {0} + 1 WHERE id = %s").format(counter), [script])

    def period(self, starts_at: datetime, ends_at: datetime, **other: Any) -> UUID:  # noqa: ANN401 - any column
        told = {"period_type": "agent_voting", "starts_at": starts_at, "ends_at": ends_at, "created_at": FEBRUARY}
        return self._insert("voting_periods", **(told | other))

    def series(self, studio: UUID, title: str, **other: Any) -> UUID:  # noqa: ANN401 - any column
        document = json.loads(pilot(title))
        told: dict[str, Any] = {
            "studio_id": studio,
            "agent_id": uuid4(),
            "title": title,
            "logline": document["logline"],
            "genre": "sci_fi",
            "status": "pending",
            "series_bible": json.dumps(document["series_bible"]),
            "poster_spec": json.dumps(document["poster_spec"]),
            "created_at": FEBRUARY + 7 * DAY,
            "updated_at": FEBRUARY + 7 * DAY,
        }
        return self._insert("limited_series", **(told | other))

    def film(self, series: UUID, episode_number: int) -> None:
        """An episode whose video was made."""
        episode = self._insert("episodes", series_id=series, episode_number=episode_number, title="Pilot")
        address = f"https://molt.example/episodes/{episode}/variant-1.mp4"
        self._insert("clip_variants", episode_id=episode, variant_number=1, video_url=address, status="completed")

    def change(self, table: str, row: UUID, **values: Any) -> None:  # noqa: ANN401 - any column
        """What somebody wrote into a row by hand."""
        settings = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in values)
        self.db.execute(
            sql.SQL("UPDATE {} SET {} WHERE id = %s").format(sql.Identifier(table), settings), [*values.values(), row]
        )

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table."""
        statement = sql.SQL("SELECT * FROM {} ORDER BY id")
        return {table: self.db.execute(statement.format(sql.Identifier(table))).fetchall() for table in TABLES}

    def _insert(self, table: str, **values: Any) -> UUID:  # noqa: ANN401 - any column
        row_id = uuid4()
        told = {"id": row_id, **values}
        self.db.execute(
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, told)),
                sql.SQL(", ").join([sql.Placeholder()] * len(told)),
            ),
            list(told.values()),
        )
        return row_id


@contextmanager
def molt_database(url: str) -> Iterator[MoltDatabase]:
    """Make the old tables in an empty database."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(_TABLES)
        yield MoltDatabase(db)


@dataclass(frozen=True)
class Healthy:
    """A week of voting as it should have gone: one winner with its series, one loser, one script that came later."""

    period: UUID
    winner: UUID
    loser: UUID
    waiting: UUID
    series: UUID
    voters: tuple[UUID, UUID]


def healthy(molt: MoltDatabase) -> Healthy:
    author, rival, voter = molt.agent("orbit-nine"), molt.agent("sol-4002"), molt.agent("a-voter")
    own, other = molt.studio(author, name="orbit-nine-sci_fi"), molt.studio(rival, "drama", name="sol-4002-drama")
    period = molt.period(FEBRUARY, FEBRUARY + 7 * DAY, is_processed=True)
    closed_at = FEBRUARY + 7 * DAY + timedelta(minutes=3)
    series = molt.series(own, "Nine Orbits", created_at=closed_at)
    standing: dict[str, Any] = {"voting_period_id": period, "updated_at": closed_at}
    winner = molt.script(own, "Nine Orbits", "produced", series_id=series, produced_at=closed_at, **standing)
    loser = molt.script(other, "Dry Land", "rejected", script_data=pilot("Dry Land", "drama"), **standing)
    waiting = molt.script(own, "Ten Orbits", "submitted", submitted_at=FEBRUARY + 3 * DAY)
    molt.script(own, "A Sketch", "draft", script_data=None)
    molt.script(own, "Thrown Away", "draft", is_deleted=True)
    molt.vote(winner, voter)
    molt.vote(winner, rival)
    molt.vote(loser, voter, -1)
    post = molt.script(own, "An opinion", None, script_type="text", script_data=None)
    molt.vote(post, voter)
    return Healthy(period, winner, loser, waiting, series, (voter, rival))


@dataclass(frozen=True)
class Incident:
    """The state of the old report."""

    script: UUID
    period: UUID


def incident(molt: MoltDatabase) -> Incident:
    """One script, selected without a series in a period that was processed three days before it began.

    What is known: the period of 9 to 16 February 2026 (seven days, the old default) was processed on 6 February, which
    the report also dates to the 3rd; the script is the only real one, and won; it stands in the period, which no
    regular way could have opened by then; no series, no episode and no production job was ever made.
    """
    author, voter = molt.agent("the-guide"), molt.agent("a-reader")
    studio = molt.studio(author, "sci_fi", name="the-guide-sci_fi")
    starts_at = datetime(2026, 2, 9, tzinfo=UTC)
    ends_at = starts_at + 7 * DAY
    period = molt.period(
        starts_at, ends_at, is_active=False, is_processed=True, created_at=datetime(2026, 2, 3, 14, 5, tzinfo=UTC)
    )
    script = molt.script(
        studio,
        "The G.U.I.D.E.",
        "selected",
        voting_period_id=period,
        voting_ends_at=ends_at,
        created_at=datetime(2026, 2, 3, 18, 0, tzinfo=UTC),
        submitted_at=datetime(2026, 2, 3, 18, 2, tzinfo=UTC),
        updated_at=datetime(2026, 2, 6, 9, 6, tzinfo=UTC),
    )
    molt.vote(script, voter)
    return Incident(script, period)


def broken(molt: MoltDatabase) -> dict[str, UUID]:
    """One row of every broken kind, by what is wrong with it."""
    made: dict[str, UUID] = {}
    author, voter = molt.agent("broken-author"), molt.agent("broken-voter")
    studio = molt.studio(author, "sci_fi", name="the-broken-sci_fi")
    nowhere = uuid4()
    week = FEBRUARY + 30 * DAY
    over = molt.period(week, week + 7 * DAY, is_processed=True)
    running = molt.period(week + 7 * DAY, week + 14 * DAY, is_active=True)
    open_ = {"voting_period_id": running}

    made["a studio of nobody"] = molt.studio(None, "drama")
    made["a studio of no genre"] = molt.studio(author, None)
    made["a script of a lost studio"] = molt.script(studio, "Lost", "submitted", studio_id=nowhere, author_id=author)
    made["an unknown status"] = molt.script(studio, "Odd", "winner")
    made["no status"] = molt.script(studio, "Forgotten", None)
    made["deleted and voted on"] = molt.script(studio, "Deleted", "voting", is_deleted=True, **open_)
    made["a text that waits"] = molt.script(studio, "Text", "submitted", script_type="text", script_data=None)
    made["no JSON"] = molt.script(studio, "Torn", "submitted", script_data='{"title": "Torn", ')
    made["no shots, voted on"] = molt.script(studio, "Empty", "voting", script_data='{"title": "Empty"}', **open_)
    made["NUL in the text"] = molt.script(studio, "Nul", "submitted", script_data='{"title": "\\u0000"}')
    made["an orphan"] = molt.script(studio, "Orphan", "selected", voting_period_id=over, updated_at=week + 7 * DAY)
    made["voting in what is over"] = molt.script(studio, "Late", "voting", voting_period_id=over)
    made["voting nowhere"] = molt.script(studio, "Nowhere", "voting", voting_period_id=nowhere)
    made["rejected nowhere"] = molt.script(studio, "Gone", "rejected", voting_period_id=nowhere)
    made["never submitted"] = molt.script(studio, "Timeless", "rejected", submitted_at=None)
    made["another genre"] = molt.script(studio, "Laughs", "submitted", script_data=pilot("Laughs", "comedy"))
    made["counted wrong"] = molt.script(studio, "Miscounted", "submitted", upvotes=3)
    made["a series that is lost"] = molt.script(studio, "Seriesless", "produced", series_id=nowhere)

    made["ends before it starts"] = molt.period(week + 20 * DAY, week + 19 * DAY)
    made["overlaps"] = molt.period(week + 8 * DAY, week + 9 * DAY)
    made["of clips"] = molt.period(week + 30 * DAY, week + 31 * DAY, period_type="human_voting")
    made["open and processed"] = molt.period(week + 40 * DAY, week + 41 * DAY, is_active=True, is_processed=True)
    made["a vote of nobody"] = made["voted"] = molt.script(studio, "Voted", "voting", **open_)
    molt.vote(made["voted"], voter)
    molt.vote(made["voted"], nowhere)
    molt.vote(made["voted"], author)
    molt.vote(nowhere, voter)
    molt.vote(made["counted wrong"], voter, 5, counted=False)

    made["a film without a script"] = molt.series(studio, "Scriptless")
    made["sound without a script"] = molt.series(
        studio, "Heard", medium="audio", genre="drama", audio_pack=pack("Heard")
    )
    made["swallowed"] = molt.script(studio, "Heard", "produced", series_id=made["sound without a script"])
    made["a torn bible"] = molt.series(studio, "Torn bible", series_bible="{", poster_spec="[]", genre="western")
    molt.script(studio, "Torn bible", "produced", series_id=made["a torn bible"], script_data=None)
    made["filmed"] = molt.series(studio, "Filmed")
    molt.script(studio, "Filmed", "produced", series_id=made["filmed"])
    molt.film(made["filmed"], 1)
    made["the orphan's period"], made["the open period"] = over, running
    return made
