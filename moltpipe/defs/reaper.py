"""Runs whose process died are ended, and their work is given back.

Here: the sensor. Not here: which run is dead (`studio.dispatch`), what is read of runs (`defs.runs`), what becomes of
their jobs (`ledger.reaping`).

Dagster's own monitor asks a launcher whether a process lives, and its default launcher cannot tell: such a run stays
STARTED for ever, with its place in the queue and in every pool.
"""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import dagster as dg

from moltpipe.defs.runs import end_dead_run, working_runs
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import clock_of
from moltpipe.ledger.reaping import StillAlive, bury, jobs_of_runs
from moltpipe.ledger.watching import alone, ticked
from moltpipe.settings import load_settings
from moltpipe.studio.dispatch import DeadRun, Listening, dead_runs

_NAME = "reaper_sensor"


@dg.sensor(
    name=_NAME,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process died, whoever launched them, and gives their production jobs back.",
)
def reaper_sensor(context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[Database]) -> dg.SkipReason:
    """The jobs are given back before the run is ended, in a transaction that fails if one of them gave a sign of life.

    The cursor says since when somebody has been listening. Without it the first tick only listens.
    """
    if context.repository_def is None:
        raise dg.DagsterInvariantViolationError("the reaper does not know which runs are its own without a repository")
    now = datetime.now(UTC)
    settings = load_settings()
    listening = Listening.after(_read(context.cursor), now)
    ended: list[DeadRun] = []
    with alone(ledger, _NAME) as free:
        if not free:
            return dg.SkipReason("another daemon is at it")
        runs = working_runs(context.instance, context.repository_def, settings.launcher)
        with ledger.begin() as db:
            jobs = jobs_of_runs(db, [run.run_id for run in runs])
            clock = clock_of(db)
        lease, heartbeat = timedelta(seconds=settings.lease_s), timedelta(seconds=settings.heartbeat_s)
        for dead in dead_runs(runs, jobs, listening, clock, lease, heartbeat):
            with suppress(StillAlive):
                with ledger.begin() as db:
                    bury(db, dead, now, _NAME)
                end_dead_run(context.instance, dead.run_id, dead.why)
                ended.append(dead)
    with ledger.begin() as db:
        ticked(db, _NAME)
    context.update_cursor(_written(listening))
    if not ended:
        return dg.SkipReason(f"{len(runs)} runs at work, none of them dead")
    return dg.SkipReason("; ".join(f"ended run {one.run_id}: {one.why}" for one in ended))


def _read(cursor: str | None) -> Listening | None:
    """What an earlier tick left; None when there is nothing, or nothing that can be read."""
    try:
        return Listening(**{name: datetime.fromisoformat(at) for name, at in json.loads(cursor or "").items()})
    except (ValueError, TypeError, AttributeError):
        return None


def _written(listening: Listening) -> str:
    return json.dumps({"since": listening.since.isoformat(), "last": listening.last.isoformat()})
