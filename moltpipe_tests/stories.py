"""Short beginnings that many tests share: a vote that is over, a series that waits to be made."""

from datetime import UTC, datetime, timedelta
from typing import Any

from moltpipe import samples
from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import close_period, create_period, open_due_periods, voting_settings
from moltpipe.ledger.scripts import FiledScript, file_script
from moltpipe.ledger.series import episodes_of
from moltpipe.ledger.votes import cast_vote
from moltpipe.studio.admission import judge
from moltpipe.studio.records import Episode, Period

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
        outcome = close_period(db, period.id, voting_settings(db).rules, datetime.now(UTC))
        return episodes_of(db, outcome.winners[0].series_id)
