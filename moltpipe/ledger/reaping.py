"""Jobs whose run is dead: read by their owners, and taken back with a word about it in the audit.

Here: the transactions around a dead run. Not here: which run is dead (`studio.dispatch`), ending it (`defs.reaper`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy.engine import Connection

from moltpipe.ledger import audit
from moltpipe.ledger.jobs import Superseded, claim_of, fail_job, load_jobs_where, still_mine
from moltpipe.ledger.schema import production_jobs
from moltpipe.studio.dispatch import DeadRun
from moltpipe.studio.records import Job


class StillAlive(Exception):
    """A run that was taken for dead has given a sign of life, or its job has gone to another."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} is alive after all, or its job is in other hands")
        self.run_id = run_id


def jobs_of_runs(db: Connection, run_ids: Collection[str]) -> list[Job]:
    """The production jobs that these runs own, completed ones included: what is made anew is worked on under them."""
    return load_jobs_where(db, production_jobs.c.process_uuid.in_(run_ids)) if run_ids else []


def bury(db: Connection, dead: DeadRun, now: datetime, by: str) -> None:
    """Give every job of a dead run back as a failed attempt, all or none, and write down who found it dead and why.

    A job that has moved on since it was read, be it by one heartbeat, is never taken from whoever holds it.

    Raises:
        StillAlive: one of the jobs has moved on.
    """
    before = _snapshot(db, dead.jobs)
    for seen in dead.jobs:
        try:
            job = still_mine(db, claim_of(seen))
        except Superseded as error:
            raise StillAlive(dead.run_id) from error
        if job.heartbeat_at != seen.heartbeat_at:
            raise StillAlive(dead.run_id)
        fail_job(db, claim_of(job), f"run {dead.run_id} was lost: {dead.why}", now, lost=True)
    audit.record(
        db,
        by=by,
        action="end a dead run",
        subject=dead.run_id,
        what=_what(dead),
        before=before or None,
        after=_snapshot(db, dead.jobs) or None,
    )


def _what(dead: DeadRun) -> str:
    keys = ", ".join(job.partition_key for job in dead.jobs)
    given_back = f"; gave {keys} back as a failed attempt" if keys else ""
    return f"ended run {dead.run_id}, whose process is gone: {dead.why}{given_back}"


def _snapshot(db: Connection, jobs: Sequence[Job]) -> list[dict[str, object]]:
    return audit.snapshot(db, production_jobs, production_jobs.c.id.in_([job.id for job in jobs])) if jobs else []
