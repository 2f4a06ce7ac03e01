"""A whole prune: Dagster's runs, what they printed, superseded media, objects of nobody, old records.

Here: the order, that two prunings do not meet, and deleting runs of Dagster. Not here: what may go
(`studio.retention`), media and records (`production.pruning`).

Runs go before what they printed, rows before objects: a prune that is killed anywhere leaves nothing that tells of
something gone, and the next one goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from moltpipe.ledger.dagster_tables import (
    NewestResults,
    events_page,
    newest_results,
    remove_events,
    remove_results,
    results_page,
    runs_page,
    runs_there,
)
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import clock_of
from moltpipe.ledger.retention import write_down
from moltpipe.ledger.watching import alone
from moltpipe.production.pruning import (
    Pruning,
    Tally,
    delete_counted,
    old_objects,
    prune_media,
    prune_objects,
    prune_records,
)
from moltpipe.store import Store
from moltpipe.studio.retention import (
    COMPUTE_LOGS,
    Keeping,
    OldEvent,
    OldResult,
    OldRun,
    Pruned,
    event_may_go,
    log_may_go,
    result_may_go,
    run_may_go,
    run_of_log,
)

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from sqlalchemy.engine import Connection

    from moltpipe.settings import Settings

RowT = TypeVar("RowT", OldEvent, OldResult)

_RUNS_AT_ONCE = 25
"""Dagster deletes each by a dozen statements on connections of their own, and the reaper waits for a sign of life."""
_ROWS_AT_ONCE = 2000


class AnotherPrune(Exception):
    """Another process prunes the same studio."""

    def __init__(self) -> None:
        super().__init__("another prune is under way: let it finish")


def keeping_of(settings: Settings) -> Keeping:
    """For how long things stay, by the settings."""
    return Keeping(
        runs=timedelta(days=settings.keep_runs_days),
        takes=timedelta(days=settings.keep_takes_days),
        records=timedelta(days=settings.keep_records_days),
    )


def prune(
    database: Database,
    store: Store,
    instance: DagsterInstance,
    keeping: Keeping,
    *,
    by: str,
    dry_run: bool = False,
    told: Callable[[str], None] = lambda _: None,
) -> list[Pruned]:
    """Remove what nobody needs any more, or with `dry_run` only count it.

    `by` is written into the audit with what was removed, also where the prune is interrupted. `told` gets a line after
    each batch. The instance keeps its tables in the ledger's database, in the schema `dagster`.

    Raises:
        AnotherPrune: another process is at it.
        DatabaseUnavailable, StoreError: one of them is away. What has gone has gone, and the next prune goes on.
    """
    tally = Tally(told)
    with alone(database, "prune") as free:
        if not free:
            raise AnotherPrune
        with database.begin() as db:
            before = keeping.before(clock_of(db))
        pruning = Pruning(database, store, before, dry_run, tally)
        try:
            going = _prune_runs(pruning, instance)
            _prune_events(pruning, going)
            _prune_logs(pruning, going)
            prune_media(pruning)
            prune_objects(pruning)
            prune_records(pruning)
        finally:
            if not dry_run and any(one.count for one in tally.result()):
                with database.begin() as db:
                    write_down(db, tally.result(), by)
    return tally.result()


def _prune_runs(pruning: Pruning, instance: DagsterInstance) -> set[str]:
    """Runs that are over, with their events.

    Returns:
        The runs that are gone, or would be.
    """
    before, tally = pruning.before.runs, pruning.tally
    tally.begin("runs")
    newest = _newest(pruning)
    gone: set[str] = set()
    after: int | None = 0
    while after is not None:
        with pruning.database.begin() as db:
            page, after = runs_page(db, newest, before=before, after=after, limit=_RUNS_AT_ONCE)
        going = [run for run in page if run_may_go(run, before)]
        if not pruning.dry_run:
            for run in going:
                _delete_run(instance, run)
        gone.update(run.run_id for run in going)
        ended = [run.ended_at for run in going if run.ended_at is not None]
        tally.add("runs", len(going), sum(run.bytes for run in going), min(ended, default=None))
    return gone


def _delete_run(instance: DagsterInstance, run: OldRun) -> None:
    """Events first, and then the run with what is left.

    Dagster's own order, killed in between, leaves events of no run, which nobody would ever find again.
    """
    instance.event_log_storage.delete_events(run.run_id)
    instance.delete_run(run.run_id)


def _prune_events(pruning: Pruning, gone: set[str]) -> None:
    """Events of no run, and what deleted runs leave in Dagster's history of checks."""
    before, newest = pruning.before.runs, _newest(pruning)

    def events(db: Connection, after: int) -> tuple[list[OldEvent], int | None]:
        return events_page(db, newest, before=before, after=after, limit=_ROWS_AT_ONCE)

    def results(db: Connection, after: int) -> tuple[list[OldResult], int | None]:
        return results_page(db, newest, gone=gone, after=after, limit=_ROWS_AT_ONCE)

    _prune_rows(pruning, "events without a run", events, event_may_go, remove_events)
    _prune_rows(pruning, "results of checks", results, result_may_go, remove_results)


def _prune_rows(
    pruning: Pruning,
    what: str,
    page: Callable[[Connection, int], tuple[list[RowT], int | None]],
    may_go: Callable[[RowT, datetime], bool],
    remove: Callable[[Connection, list[int]], None],
) -> None:
    pruning.tally.begin(what)
    after: int | None = 0
    while after is not None:
        with pruning.database.begin() as db:
            rows, after = page(db, after)
            old = [one for one in rows if may_go(one, pruning.before.runs)]
            if not pruning.dry_run:
                remove(db, [one.id for one in old])
        pruning.tally.add(what, len(old), sum(one.bytes for one in old), min((one.at for one in old), default=None))


def _newest(pruning: Pruning) -> NewestResults:
    with pruning.database.begin() as db:
        return newest_results(db)


def _prune_logs(pruning: Pruning, gone: set[str]) -> None:
    """What was printed by runs that are gone, and by ticks of sensors."""
    for page in old_objects(pruning, COMPUTE_LOGS, pruning.before.runs, "compute logs"):
        runs = {run_id for one in page if (run_id := run_of_log(one.key)) is not None}
        with pruning.database.begin() as db:
            there = runs_there(db, runs) - gone
        going = [
            one
            for one in page
            if log_may_go(one.modified_at, pruning.before.runs, run_is_there=run_of_log(one.key) in there)
        ]
        delete_counted(pruning, going, "compute logs")
