"""Writing the shots of an episode, by whoever holds its job."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.jobs import still_mine
from moltpipe.ledger.production import shots_of
from moltpipe.ledger.schema import episodes, shots, takes, voiceovers
from moltpipe.studio.records import Claim, Shot
from moltpipe.studio.screenplay import EpisodeScript


class ShotsInUse(Exception):
    """The script of an episode cannot be written again: media was made from it."""

    def __init__(self, partition_key: str, takes: int, voiceovers: int) -> None:
        super().__init__(
            f"the shots of {partition_key} cannot be replaced: {takes} takes and {voiceovers} voiceovers were made "
            "from them, and what was paid for is not thrown away"
        )
        self.partition_key = partition_key
        self.takes = takes
        self.voiceovers = voiceovers


class WrongEpisode(Exception):
    """A script is of another episode than the one that was claimed."""

    def __init__(self, partition_key: str, expected: int, got: int) -> None:
        super().__init__(f"{partition_key} is episode {expected}: expected its script, got that of episode {got}")
        self.partition_key = partition_key
        self.expected = expected
        self.got = got


def write_shots(db: Connection, claim: Claim, script: EpisodeScript, *, replace: bool = False) -> tuple[Shot, ...]:
    """Write an episode's title and shots. Shots that are there stay as they are, unless they are to be replaced.

    Raises:
        Superseded: the episode's job is no longer this process's.
        WrongEpisode: the script is of another episode.
        ShotsInUse: they are to be replaced, but takes or voiceovers were made from them.
    """
    still_mine(db, claim)
    number = db.execute(sa.select(episodes.c.episode_number).where(episodes.c.id == claim.episode_id)).scalar_one()
    if number != script.episode_number:
        raise WrongEpisode(claim.partition_key, number, script.episode_number)
    existing = shots_of(db, claim.episode_id)
    if existing and not replace:
        return existing
    _clear(db, claim)
    db.execute(sa.update(episodes).where(episodes.c.id == claim.episode_id).values(title=script.title))
    db.execute(
        sa.insert(shots),
        [
            {
                "episode_id": claim.episode_id,
                "shot_number": shot_number,
                "prompt": shot.prompt.model_dump(mode="json"),
                "audio": shot.audio.model_dump(mode="json"),
                "gen_clip_seconds": shot.gen_clip_seconds,
                "duration_seconds": shot.duration_seconds,
                "edit_extend_strategy": shot.edit_extend_strategy.value,
                "kind": shot.kind.value if shot.kind else None,
                "engine": shot.engine,
                "transition": shot.transition.value,
            }
            for shot_number, shot in enumerate(script.shots, start=1)
        ],
    )
    return shots_of(db, claim.episode_id)


def _clear(db: Connection, claim: Claim) -> None:
    """Remove the shots of an episode of which nothing was made."""
    ids = sa.select(shots.c.id).where(shots.c.episode_id == claim.episode_id)
    made = {
        table.name: db.execute(
            sa.select(sa.func.count()).select_from(table).where(table.c.shot_id.in_(ids))
        ).scalar_one()
        for table in (takes, voiceovers)
    }
    if any(made.values()):
        raise ShotsInUse(claim.partition_key, made["takes"], made["voiceovers"])
    db.execute(sa.delete(shots).where(shots.c.episode_id == claim.episode_id))
