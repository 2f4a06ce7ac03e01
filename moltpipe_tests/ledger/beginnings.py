"""How the stories of these tests begin: scripts filed, a period open, votes cast, a series made."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID, uuid4

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.calls import Call, Intent, claim_call, mark_submitted, mark_submitting
from moltpipe.ledger.jobs import claim_job
from moltpipe.ledger.periods import close_agent_vote, create_period, open_due_periods
from moltpipe.ledger.schema import metadata
from moltpipe.ledger.scripts import FiledScript, file_script
from moltpipe.ledger.series import episodes_of
from moltpipe.ledger.shots import write_shots
from moltpipe.ledger.votes import cast_vote
from moltpipe.samples import sample_scripts
from moltpipe.studio.records import Claim, Episode, Period, Shot, Stored
from moltpipe.studio.screenplay import EpisodeScript, PilotScript
from moltpipe.studio.voting import VotingRules

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
RULES = VotingRules()
LEASE = timedelta(seconds=60)
DOCUMENT: dict[str, Any] = json.loads(sample_scripts()[0].read_text())


def document(title: str = "The Buoy", genre: str = "comedy") -> dict[str, Any]:
    return DOCUMENT | {"title": title, "genre": genre}


def pilot(title: str = "The Buoy", genre: str = "comedy") -> PilotScript:
    return PilotScript.model_validate(document(title, genre))


def filed(
    db: Connection, title: str = "The Buoy", *, agent: str = "molt", genre: str = "comedy", now: datetime = NOON
) -> FiledScript:
    return file_script(
        db,
        pilot(title, genre),
        document(title, genre),
        agent_name=agent,
        studio_slug=None,
        now=now - timedelta(hours=1),
    )


def opened(db: Connection, starts_at: datetime = NOON, *, hours: float = 1) -> Period:
    """A period in which every script that was filed so far stands."""
    period = create_period(db, "agent_voting", starts_at, starts_at + timedelta(hours=hours))
    open_due_periods(db, starts_at)
    return period


def vote(db: Connection, script_id: UUID, voter: str = "a-voter", value: Literal[-1, 1] = 1) -> None:
    cast_vote(db, script_id, voter, value, NOON + timedelta(minutes=1))


def series(db: Connection) -> list[Episode]:
    """The five episodes of a series that won its vote."""
    script = filed(db)
    period = opened(db)
    vote(db, script.script_id)
    outcome = close_agent_vote(db, period.id, RULES, period.ends_at)
    return episodes_of(db, outcome.winners[0].series_id)


def claimed(db: Connection, episode: Episode, process_uuid: str = "run-1") -> tuple[Claim, tuple[Shot, ...]]:
    """An episode in the hands of a process, with its shots."""
    claim = claim_job(db, episode.partition_key, process_uuid, LEASE)
    return claim, write_shots(db, claim, episode_script(episode.number))


def episode_script(number: int, title: str = "The Swell") -> EpisodeScript:
    return EpisodeScript(episode_number=number, title=title, shots=pilot().shots)


def intent(**other: Any) -> Intent:  # noqa: ANN401 - any field of the intent
    """A request for a take to a hosted camera that would cost a dollar, with what a test wants to be different.

    Each has a fingerprint of its own unless the test gives one.
    """
    fields = {
        "fingerprint": uuid4().hex * 2,
        "engine": "camera",
        "model": "reel-1",
        "operation": "film",
        "request": {"seconds": 5},
        "process_uuid": "run-1",
        "episode_id": None,
        "subject_id": uuid4(),
        "variant_number": 1,
        "take_number": 1,
        "account": "api.example/1a2b",
        "quote_usd": Decimal(1),
        "basis": "5 seconds at $0.2",
    }
    return Intent(**(fields | other))


def submitted(db: Connection, external_id: str = "job-7", **other: Any) -> Call:  # noqa: ANN401 - as above
    """A call that its engine accepted."""
    call = claim_call(db, intent(**other))
    mark_submitting(db, call.id)
    return mark_submitted(db, call.id, external_id)


def stored(name: str) -> Stored:
    """An object as the store would have put it."""
    return Stored(key=name, sha256=hashlib.sha256(name.encode()).hexdigest(), bytes=1000)


def one(db: Connection, statement: str, **values: object) -> Any:  # noqa: ANN401 (whatever the column holds)
    return db.execute(sa.text(statement), values).scalar_one()


def everything(db: Connection) -> dict[str, list[Any]]:
    """All rows of all tables, to see whether anything was changed."""
    return {
        table.name: sorted(db.execute(sa.select(sa.func.to_jsonb(table.table_valued()))).scalars(), key=json.dumps)
        for table in metadata.tables.values()
    }


def hang_up(db: Connection, url: str) -> None:
    """Have Postgres end this connection, and find out: what a crash looks like from inside a transaction."""
    with psycopg.connect(url, autocommit=True) as killer:
        killer.execute("SELECT pg_terminate_backend(%s)", [one(db, "SELECT pg_backend_pid()")])
    one(db, "SELECT 1")


def await_a_waiter(db: Connection) -> None:
    """Until somebody waits for a lock of this transaction: Postgres knows by whom each backend is blocked."""
    mine = one(db, "SELECT pg_backend_pid()")
    waiters = "SELECT count(*) FROM pg_locks WHERE NOT granted AND :mine = ANY(pg_blocking_pids(pid))"
    while not one(db, waiters, mine=mine):
        pass
