"""Short beginnings that many tests share: a vote that is over, a series that waits to be made, a pilot that is out."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from moltpipe import samples
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import claim_job
from moltpipe.ledger.media import publish_variant
from moltpipe.ledger.periods import close_agent_vote, create_period, open_due_periods, voting_settings
from moltpipe.ledger.scripts import FiledScript, file_script
from moltpipe.ledger.series import episodes_of, make_series
from moltpipe.ledger.votes import cast_vote
from moltpipe.studio.admission import judge
from moltpipe.studio.keys import variant_key
from moltpipe.studio.records import Claim, Episode, Period, Stored, Variant
from moltpipe.studio.screenplay import PILOT_VARIANTS

LEASE = timedelta(seconds=60)


def a_filed_script(database: Database, number: int = 0) -> FiledScript:
    """One of the sample scripts, submitted by its agent two hours ago."""
    return _filed(database, *samples.pilots()[number])


def a_filed_pack(database: Database) -> FiledScript:
    """The sample audio pack, likewise."""
    return _filed(database, *samples.packs()[0])


def _filed(database: Database, agent: str, document: dict[str, Any]) -> FiledScript:
    admission = judge(document)
    assert admission.script is not None
    with database.begin() as db:
        return file_script(
            db,
            admission.script,
            admission.document,
            agent_name=agent,
            studio_slug=None,
            now=datetime.now(UTC) - timedelta(hours=2),
        )


def closed_vote(database: Database, script: FiledScript | None = None) -> Period:
    """A period that ended a second ago, in which one script got a vote, and that nobody has closed yet."""
    script = script or a_filed_script(database)
    now = datetime.now(UTC)
    with database.begin() as db:
        period = create_period(db, "agent_voting", now - timedelta(hours=1), now - timedelta(seconds=1))
        open_due_periods(db, period.starts_at)
        cast_vote(db, script.script_id, "a-voter", 1, period.starts_at + timedelta(minutes=1))
    return period


def a_series(database: Database, script: FiledScript | None = None) -> list[Episode]:
    """The five episodes of a series whose jobs wait."""
    period = closed_vote(database, script)
    with database.begin() as db:
        outcome = close_agent_vote(db, period.id, voting_settings(db).rules, datetime.now(UTC))
        return episodes_of(db, outcome.winners[0].series_id)


def another_series(database: Database, script: FiledScript) -> list[Episode]:
    """The same beside a series that is there, without a vote: two of these cannot have been on at the same time."""
    with database.begin() as db:
        return episodes_of(db, make_series(db, script.script_id))


def a_cut(database: Database, claim: Claim, number: int, content: str = "a first cut") -> Variant:
    """A variant of a claimed episode, published. Its objects are in no store."""
    sha256 = hashlib.sha256(f"{claim.episode_id} {number} {content}".encode()).hexdigest()
    key = variant_key(claim.episode_id, number, sha256)
    with database.begin() as db:
        return publish_variant(
            db,
            claim,
            number,
            Stored(key=key, sha256=sha256, bytes=1000),
            captions_key=f"{key}.vtt",
            thumbnail_key=f"{key}.jpg",
            duration_seconds=34.5,
            ingredients=content,
        )


def a_claim(database: Database, episode: Episode) -> Claim:
    """The episode in the hands of a process."""
    with database.begin() as db:
        return claim_job(db, episode.partition_key, "run-1", LEASE)


def a_pilot_that_is_out(database: Database, number: int = 0) -> tuple[Episode, list[Variant]]:
    """The pilot of a series of one of the sample scripts, with all of its variants: the vote on them is open."""
    pilot = another_series(database, a_filed_script(database, number))[0]
    claim = a_claim(database, pilot)
    return pilot, [a_cut(database, claim, number) for number in range(1, PILOT_VARIANTS + 1)]
