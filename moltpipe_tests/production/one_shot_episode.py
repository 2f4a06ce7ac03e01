"""An episode with a single shot in which somebody speaks: the smallest thing that calls a camera and a voice."""

from __future__ import annotations

import json
from uuid import UUID

import psycopg

from moltpipe.ledger.database import Database
from moltpipe.studio.records import Episode
from moltpipe_tests.stories import a_series


def one_shot_episode(database: Database, url: str, *, shots: int = 1) -> Episode:
    """The episode; nothing was made of it yet. `shots` of them, each with its own words."""
    episode = a_series(database)[1]
    with psycopg.connect(url) as db:
        for number in range(1, shots + 1):
            add_shot(db, episode.id, number)
    return episode


def add_shot(db: psycopg.Connection, episode_id: UUID, number: int) -> None:
    """One more shot of three seconds."""
    db.execute(
        "INSERT INTO shots (episode_id, shot_number, prompt, audio, gen_clip_seconds, duration_seconds,"
        " edit_extend_strategy) VALUES (%s, %s, %s, %s, 3, 3, 'hold_last_frame')",
        (
            episode_id,
            number,
            json.dumps({"camera": "static", "scene": f"A lighthouse at night, seen for the {number}. time."}),
            json.dumps({"type": "narration", "description": f"Light number {number}."}),
        ),
    )
