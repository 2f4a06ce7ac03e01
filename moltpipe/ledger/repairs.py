"""Repairs: what a check found and a function can safely mend.

Here: for each damage that has a remedy which loses nothing, that remedy. Not here: finding it (`ledger.checks`), what
a person decides (`ledger.decisions`), what a period needs that was processed by hand (`studio.mending`). A repair goes
through the function that the normal way goes through: the old system's repair scripts wrote rows of their own, and one
of them made the damage that another one was written against.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from moltpipe.ledger import audit
from moltpipe.ledger.audience import find_episode, open_clip_vote, select_as_decided, standing_of
from moltpipe.ledger.checks import CHECKS, LOCKED_S
from moltpipe.ledger.checks.finding import Check, Conditions, CouldNotCheck
from moltpipe.ledger.jobs import complete_idle_job, give_back_lapsed, reopen_job
from moltpipe.ledger.periods import candidates, close_early, close_period, open_due_periods, voting_settings
from moltpipe.ledger.schema import (
    clip_variants,
    episodes,
    limited_series,
    metadata,
    production_jobs,
    scripts,
    voting_periods,
)
from moltpipe.ledger.series import make_series
from moltpipe.ledger.text import one_line
from moltpipe.ledger.windows import hold_period
from moltpipe.studio.audience import ClipOutcome
from moltpipe.studio.mending import Settlement, as_decided, as_selected, early_reason, recorded_fate, settlement
from moltpipe.studio.moments import spelled
from moltpipe.studio.records import Period
from moltpipe.studio.screenplay import EPISODES_PER_SERIES
from moltpipe.studio.voting import Fate, Outcome

Rows: TypeAlias = list[tuple[sa.Table, sa.ColumnElement[bool]]]

_ONE_AT_A_TIME = zlib.crc32(b"moltpipe repair")
_NOT_OWNER = "42501"
_IS_DECIDED = ("selected", "rejected")


@dataclass(frozen=True)
class Repair:
    """One thing that was mended, or would be, or could not be."""

    check: str
    """The check that found it; `schema` for a constraint that is in force again."""
    subject: str
    """The id of the row that is wrong."""
    what: str
    failed: str | None = None
    """Why it could not be mended; None when it was."""

    def as_json(self) -> dict[str, Any]:
        """The shape of `moltpipe repair --json`."""
        return {"check": self.check, "subject": self.subject, "what": self.what, "failed": self.failed}


class NothingHelps(Exception):
    """A function was asked to mend a row and found nothing that it could do."""


@dataclass(frozen=True)
class Remedy:
    """What helps against the finding of one check."""

    check: str
    subject: str
    """The column of the finding that says which row is wrong."""
    table: sa.Table
    """The table of that row."""
    mend: Callable[[Connection, RowMapping, Conditions], str]
    """Mends one row of the finding and says what it did. The row is held, and still wrong."""
    concerned: Callable[[Connection, RowMapping], Rows]
    """The rows that it may change, for the audit."""


def plan_repairs(db: Connection, conditions: Conditions, only: Collection[str] = ()) -> list[Repair]:
    """What `repair` would do, in its order: it is done, and undone.

    Told from the findings alone was the alternative. It cannot know what fails, nor what one repair leaves to the next.
    """
    with db.begin_nested() as undone:
        planned = repair(db, conditions, "nobody", only)
        undone.rollback()
    return planned


def repair(db: Connection, conditions: Conditions, by: str, only: Collection[str] = ()) -> list[Repair]:
    """Mend all that can be mended, in the caller's one transaction, and write it into the audit.

    What fails is undone by itself, and the rest goes on. A second one that repairs at the same moment waits, and finds
    what is left. `by` is who repairs; `only` names checks, when what others find is to stay: a series that is completed
    is produced, and that may cost money.

    Returns:
        What was done, and what could not be.
    """
    # Compiling the queries of the checks (`jit`) takes longer than they take to run.
    db.execute(sa.select(sa.func.pg_advisory_xact_lock(_ONE_AT_A_TIME), sa.func.set_config("jit", "off", sa.true())))
    wanted = [remedy for remedy in REMEDIES if not only or remedy.check in only]
    done: dict[tuple[str, str], Repair] = {}
    # Mending one thing may show another: a winner on record that is selected now has a series to be made.
    while True:
        before = len(done)
        for remedy in wanted:
            _apply(db, remedy, conditions, by, done)
        if len(done) == before:
            break
    return [*done.values(), *_put_constraints_in_force(db, by)]


def _apply(
    db: Connection, remedy: Remedy, conditions: Conditions, by: str, done: dict[tuple[str, str], Repair]
) -> None:
    """Mend every row that a check finds; each is tried once."""
    check = _CHECKS[remedy.check]
    try:
        with db.begin_nested():
            found = _found(db, check, conditions)
    except (CouldNotCheck, sa.exc.DBAPIError) as error:
        _unless_lost(error)
        done.setdefault((check.name, ""), Repair(check.name, "", f"look for what breaks {check.name}", one_line(error)))
        return
    in_this_round: set[tuple[str, str]] = set()
    for row in found:
        key = check.name, str(row[remedy.subject])
        if key in done:
            if key not in in_this_round and done[key].failed is None:
                done[key] = replace(done[key], failed="it was done, and the check finds the same again")
            continue
        in_this_round.add(key)
        mended = _mend(db, remedy, row, conditions, by)
        if mended is not None:
            done[key] = mended


def _mend(db: Connection, remedy: Remedy, row: RowMapping, conditions: Conditions, by: str) -> Repair | None:
    """Mend one row, or undo what was tried. None when it is well by now."""
    check, subject = _CHECKS[remedy.check], str(row[remedy.subject])
    try:
        with db.begin_nested():
            _hold(db, remedy.table, row[remedy.subject])
            # Looked at again under the lock: the sensor, or another repair in this round, may have been here.
            still = _found(db, check, conditions, {remedy.subject: row[remedy.subject]})
            if not still:
                return None
            concerned = remedy.concerned(db, still[0])
            before = _snapshot(db, concerned)
            what = remedy.mend(db, still[0], conditions)
            audit.record(
                db,
                by=by,
                action="repair",
                subject=subject,
                what=f"{check.name}: {what}",
                before=before,
                after=_snapshot(db, concerned),
            )
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one row must not keep the others from being mended
        _unless_lost(error)
        return Repair(check.name, subject, f"mend {_named(row)}", one_line(error))
    return Repair(check.name, subject, what)


def _found(
    db: Connection, check: Check, conditions: Conditions, only: dict[str, object] | None = None
) -> Sequence[RowMapping]:
    """Every row of a finding, not the first fifty; or those with these values."""
    statement = check.rows(db, conditions)
    if statement is None:
        return []
    found = statement.subquery()
    wanted = [found.c[name].is_not_distinct_from(value) for name, value in (only or {}).items()]
    return db.execute(sa.select(found).where(*wanted).order_by(found.c.since)).mappings().all()


def _hold(db: Connection, table: sa.Table, row_id: object) -> None:
    """Hold the row that is wrong. In the mode that lets others refer to it: runs go on writing media."""
    try:
        key = UUID(str(row_id))
    except ValueError as error:
        raise NothingHelps(f"{row_id!r} is the id of nothing") from error
    db.execute(sa.select(table.c.id).where(table.c.id == key).with_for_update(key_share=True))


def _snapshot(db: Connection, concerned: Rows) -> dict[str, Any]:
    return {table.name: audit.snapshot(db, table, where) for table, where in concerned}


def _unless_lost(error: Exception) -> None:
    """Let an error pass that ends all: without its connection, there is nothing to go on with."""
    if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
        raise error


def _named(row: RowMapping) -> str:
    """The row of a finding in words: its first columns."""
    return ", ".join(f"{name} {value}" for name, value in list(row.items())[:2])


# Series --------------------------------------------------------------------------------------------------------------


def _make_series(db: Connection, row: RowMapping, _conditions: Conditions) -> str:
    make_series(db, row["script_id"])
    return f"make the limited series of the selected script {row['title']!r} ({row['script_id']})"


def _complete_series(db: Connection, row: RowMapping, _conditions: Conditions) -> str:
    make_series(db, row["script_id"])
    missing = EPISODES_PER_SERIES - row["episodes_with_job"]
    return (
        f"add what is missing of {row['title']!r} ({row['series_id']}), so that {missing} of its episodes are produced"
    )


def _of_script(_db: Connection, row: RowMapping) -> Rows:
    script_id = UUID(str(row["script_id"]))
    series = sa.select(limited_series.c.id).where(limited_series.c.script_id == script_id)
    of_series = sa.select(episodes.c.id).where(episodes.c.series_id.in_(series))
    return [
        (scripts, scripts.c.id == script_id),
        (limited_series, limited_series.c.script_id == script_id),
        (episodes, episodes.c.series_id.in_(series)),
        (production_jobs, production_jobs.c.episode_id.in_(of_series)),
    ]


# Voting periods ------------------------------------------------------------------------------------------------------


def _settle(db: Connection, row: RowMapping, conditions: Conditions) -> str:
    """Bring a period that somebody marked as processed into a lawful state, in one update of its row."""
    period, now = hold_period(db, row["period_id"]), conditions.now
    document = db.execute(sa.select(voting_periods.c.outcome).where(voting_periods.c.id == period.id)).scalar_one()
    recorded = isinstance(document, dict)
    fates = _fates(db, period)
    decided = any(fate is not Fate.RETURNED for fate in fates.values()) or bool(recorded and document.get("winners"))
    selected_id = _selected(db, period)
    match settlement(period, decided=decided or selected_id is not None, recorded=recorded, now=now):
        case Settlement.REOPEN:
            _unmark(db, period, is_active=bool(fates) or period.episode_id is not None)
            return f"take the mark `processed` from period {period.id}, which closes at {spelled(period.ends_at)}"
        case Settlement.CLOSE:
            _unmark(db, period, is_active=False)
            return f"{_close_again(db, period, conditions)}, which was marked as processed and never closed"
        case Settlement.RECORD if recorded:
            _update(db, period, is_active=False, closed_early_reason=early_reason(period, now))
            return f"write down that period {period.id} was closed early"
        case Settlement.RECORD if selected_id is not None:
            return _record_selection(db, period, selected_id, conditions)
        case Settlement.RECORD:
            return _record(db, period, fates, conditions)


def _record(db: Connection, period: Period, fates: dict[UUID, Fate], conditions: Conditions) -> str:
    """Write down the outcome of a vote on scripts, as the rows have it."""
    won = [script_id for script_id, fate in fates.items() if fate is Fate.SELECTED]
    series_ids = {script_id: make_series(db, script_id) for script_id in won}
    standing = candidates(db, period.id, statuses=("voting", *_IS_DECIDED))
    rules = voting_settings(db).rules
    outcome = as_decided(period, standing, fates, rules, series_ids, conditions.now)
    _let_wait(db, scripts.c.voting_period_id == period.id)
    early = _write_down(db, period, outcome)
    return f"record the outcome of period {period.id} from its scripts ({len(won)} selected){early}"


def _record_selection(db: Connection, period: Period, selected_id: UUID, conditions: Conditions) -> str:
    """Write down the outcome of a vote on variants, as the selection has it."""
    episode = find_episode(db, str(period.episode_id))
    outcome = as_selected(period, episode.partition_key, standing_of(db, episode.id), selected_id, conditions.now)
    early = _write_down(db, period, outcome)
    number = outcome.selected.variant_number
    return f"record the outcome of period {period.id}: variant {number} of {episode.partition_key} is selected{early}"


def _write_down(db: Connection, period: Period, outcome: Outcome | ClipOutcome) -> str:
    """Record an outcome without deciding anything; says whether an early closing is told of with it."""
    reason = outcome.closed_early_reason
    _update(db, period, is_active=False, closed_early_reason=reason, outcome=outcome.to_json())
    return "" if period.closed_early_reason == reason else ", and that it was closed early"


def _fates(db: Connection, period: Period) -> dict[UUID, Fate]:
    """What became of the scripts that stand, or stood, in a period; one that is still voting became nothing."""
    rows = db.execute(
        sa.select(scripts.c.id, scripts.c.pilot_status).where(
            scripts.c.voting_period_id == period.id, scripts.c.pilot_status.in_(("voting", *_IS_DECIDED))
        )
    )
    return {row.id: Fate.RETURNED if row.pilot_status == "voting" else Fate(row.pilot_status) for row in rows}


def _selected(db: Connection, period: Period) -> UUID | None:
    """The variant that is selected of the pilot that a period is about; None where none is, or it is about scripts."""
    found: UUID | None = db.execute(
        sa.select(clip_variants.c.id).where(
            clip_variants.c.episode_id == period.episode_id, clip_variants.c.is_selected
        )
    ).scalar_one_or_none()
    return found


def _unmark(db: Connection, period: Period, *, is_active: bool) -> None:
    _update(
        db,
        period,
        is_processed=False,
        is_active=is_active,
        processed_at=None,
        closed_early_reason=None,
        outcome=sa.null(),
    )


def _update(db: Connection, period: Period, **values: object) -> None:
    db.execute(sa.update(voting_periods).where(voting_periods.c.id == period.id).values(**values))


def _close_again(db: Connection, period: Period, conditions: Conditions) -> str:
    """Close a period that is no longer marked as processed, whether its time is over or not."""
    rules, now = voting_settings(db).rules, conditions.now
    reason = early_reason(period, now)
    if now < period.ends_at and reason is not None:
        close_early(db, period.id, rules, now, reason)
    else:
        close_period(db, period.id, rules, now)
    return f"close period {period.id}"


def _close(db: Connection, row: RowMapping, conditions: Conditions) -> str:
    outcome = close_period(db, row["period_id"], voting_settings(db).rules, conditions.now)
    return f"close period {row['period_id']}, which ended at {spelled(row['ends_at'])}: {outcome.summary}"


def _open(db: Connection, row: RowMapping, conditions: Conditions) -> str:
    opened = [period.id for period in open_due_periods(db, conditions.now)]
    if row["period_id"] not in opened:
        raise NothingHelps("its time is over, or no script waits for it")
    return f"open period {row['period_id']} for the scripts that wait ({row['scripts_waiting']})"


def _agree(db: Connection, row: RowMapping, _conditions: Conditions) -> str:
    """Give a script the fate that the outcome of its period says."""
    script_id = UUID(row["script_id"])
    document = db.execute(
        sa.select(voting_periods.c.outcome).where(voting_periods.c.id == row["period_id"])
    ).scalar_one()
    named = f"script {row['title']!r} ({script_id})"
    match recorded_fate(document, script_id) if row["pilot_status"] == "voting" else Fate.SELECTED:
        case Fate.SELECTED:
            make_series(db, script_id)
            return f"select {named}, a winner on record, and make its series"
        case Fate.REJECTED:
            db.execute(sa.update(scripts).where(scripts.c.id == script_id).values(pilot_status=Fate.REJECTED.value))
            return f"mark {named} as rejected, as the outcome of its period says"
        case Fate.RETURNED:
            _let_wait(db, scripts.c.id == script_id)
            return f"let {named} wait for the next period: its own closed without it"


def _let_wait(db: Connection, which: sa.ColumnElement[bool]) -> None:
    """Scripts that are still voting wait for the next period."""
    db.execute(
        sa.update(scripts)
        .where(which, scripts.c.pilot_status == "voting")
        .values(pilot_status="submitted", voting_period_id=None)
    )


def _of_period(db: Connection, row: RowMapping) -> Rows:
    period = row["period_id"]
    standing = db.execute(sa.select(scripts.c.id).where(scripts.c.voting_period_id == period)).scalars().all()
    episode = sa.select(voting_periods.c.episode_id).where(voting_periods.c.id == period)
    return [
        (voting_periods, voting_periods.c.id == period),
        (scripts, scripts.c.id.in_(standing)),
        (clip_variants, clip_variants.c.episode_id.in_(episode)),
    ]


def _of_opening(_db: Connection, row: RowMapping) -> Rows:
    return [(voting_periods, voting_periods.c.id == row["period_id"])]


# Production jobs -----------------------------------------------------------------------------------------------------


def _give_back(db: Connection, row: RowMapping, conditions: Conditions) -> str:
    job_id, owner, heartbeat_at = row["job_id"], row["process_uuid"], row["heartbeat_at"]
    if not give_back_lapsed(db, job_id, owner, heartbeat_at, conditions.lease, conditions.now):
        raise NothingHelps("its owner gave a sign of life")
    return (
        f"give back the job of {row['partition_key']}: nothing was heard of run {owner} since {spelled(heartbeat_at)}"
    )


def _match_media(db: Connection, row: RowMapping, _conditions: Conditions) -> str:
    done, wanted = row["variants_done"], row["variants_wanted"]
    if done < wanted:
        if not reopen_job(db, row["job_id"]):
            raise NothingHelps("it is unfinished by now")
        return f"take up the job of {row['partition_key']} again: {done} of {wanted} variants are there"
    if not complete_idle_job(db, row["job_id"]):
        raise NothingHelps("a run has it by now")
    return f"complete the job of {row['partition_key']}: all {wanted} of its variants are there"


def _of_job(_db: Connection, row: RowMapping) -> Rows:
    return [(production_jobs, production_jobs.c.id == row["job_id"])]


# The second vote -----------------------------------------------------------------------------------------------------


def _open_clip_vote(db: Connection, row: RowMapping, conditions: Conditions) -> str:
    period = open_clip_vote(db, row["episode_id"], conditions.now)
    if period is None:
        raise NothingHelps("it has its vote by now, or not all of its variants are out")
    return f"open the vote on the variants of {row['partition_key']}, until {spelled(period.ends_at)}"


def _select(db: Connection, row: RowMapping, _conditions: Conditions) -> str:
    if row["period_id"] is not None:
        outcome = select_as_decided(db, row["period_id"])
        return f"select variant {outcome.selected.variant_number} of {row['partition_key']}, as its vote decided"
    only = sa.and_(clip_variants.c.episode_id == row["episode_id"], clip_variants.c.variant_number == 1)
    if not db.execute(sa.update(clip_variants).where(only).values(is_selected=True)).rowcount:
        raise NothingHelps("it has no variant 1")
    return f"select the only variant of {row['partition_key']}"


def _of_episode(_db: Connection, row: RowMapping) -> Rows:
    return [
        (clip_variants, clip_variants.c.episode_id == row["episode_id"]),
        (voting_periods, voting_periods.c.episode_id == row["episode_id"]),
    ]


REMEDIES: tuple[Remedy, ...] = (
    # Series first: the outcome of a period names the series of its winners.
    Remedy("selected_scripts_have_series", "script_id", scripts, _make_series, _of_script),
    Remedy("series_have_all_episodes_and_jobs", "series_id", limited_series, _complete_series, _of_script),
    Remedy("processed_periods_have_outcome", "period_id", voting_periods, _settle, _of_period),
    Remedy("processed_periods_are_over", "period_id", voting_periods, _settle, _of_period),
    Remedy("outcomes_agree_with_scripts", "script_id", scripts, _agree, _of_script),
    Remedy("due_periods_are_closed", "period_id", voting_periods, _close, _of_period),
    Remedy("due_periods_are_open", "period_id", voting_periods, _open, _of_opening),
    Remedy("jobs_have_live_owners", "job_id", production_jobs, _give_back, _of_job),
    Remedy("completed_jobs_are_published", "job_id", production_jobs, _match_media, _of_job),
    Remedy("pilots_have_their_clip_vote", "episode_id", episodes, _open_clip_vote, _of_episode),
    Remedy("published_episodes_have_a_selected_variant", "episode_id", episodes, _select, _of_episode),
)
"""In the order in which they are applied."""
_CHECKS = {check.name: check for check in CHECKS}


# Constraints ---------------------------------------------------------------------------------------------------------

_NOT_IN_FORCE = sa.text(
    "SELECT c.relname, con.conname FROM pg_constraint AS con JOIN pg_class AS c ON c.oid = con.conrelid "
    "WHERE con.contype = 'c' AND NOT con.convalidated AND c.relnamespace = current_schema()::regnamespace "
    "AND c.relname = ANY(:tables) ORDER BY 1, 2"
)


def _put_constraints_in_force(db: Connection, by: str) -> list[Repair]:
    """Have Postgres believe the rules again that rows of an adopted database broke, where none breaks them any more."""
    done = []
    quote = db.dialect.identifier_preparer.quote
    for table, constraint in db.execute(_NOT_IN_FORCE, {"tables": list(metadata.tables)}).all():
        what = f"put the rule {constraint} in force for the rows that were adopted"
        try:
            with db.begin_nested():
                limit = f"{round(LOCKED_S * 1000)}ms"
                db.execute(sa.select(sa.func.set_config("lock_timeout", limit, sa.true())))
                db.exec_driver_sql(f"ALTER TABLE {quote(table)} VALIDATE CONSTRAINT {quote(constraint)}")
                audit.record(db, by=by, action="repair", subject=constraint, what=f"schema: {what}")
        except sa.exc.IntegrityError:
            # A row breaks it still, which is the finding of a check.
            continue
        except sa.exc.DBAPIError as error:
            _unless_lost(error)
            is_not_owner = getattr(error.orig, "sqlstate", None) == _NOT_OWNER
            helps = "its owner has to do it" if is_not_owner else "repair again when nobody changes the table"
            done.append(Repair("schema", constraint, what, f"{one_line(error)}: {helps}"))
        else:
            done.append(Repair("schema", constraint, what))
    return done
