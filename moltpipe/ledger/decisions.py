"""Decisions: what only a person can say.

Here: what follows when somebody says of a paid call that it is to be made again or not, of an episode that was given
up that it is to be tried again, of a medium that is gone that it is to be made anew. Not here: what can be mended
without anybody's word (`ledger.repairs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger import audit
from moltpipe.ledger.calls import (
    Call,
    CallState,
    call_by_id,
    expire_call,
    failed_for_good,
    give_up_call,
    live_call,
    lock_call,
    mark_failed,
)
from moltpipe.ledger.checks.finding import Conditions
from moltpipe.ledger.checks.media import MEDIA_OBJECTS_ARE_THERE
from moltpipe.ledger.checks.money import PAID_CALLS_ARE_NOT_FORGOTTEN
from moltpipe.ledger.jobs import job_of_episode, reopen_job, resume_jobs_of
from moltpipe.ledger.schema import (
    clip_variants,
    episodes,
    limited_series,
    observations,
    production_jobs,
    provider_jobs,
    scores,
    shots,
    takes,
    voiceovers,
)
from moltpipe.studio.moments import spelled
from moltpipe.studio.records import Job

Kind = Literal["resubmit", "give_up", "retry", "remake"]

_NAMES: dict[Kind, str] = {
    "resubmit": "call_id",
    "give_up": "call_id",
    "retry": "partition_key",
    "remake": "key",
}
_ABANDONED = "abandoned"
"""Class of the failure of a call that was given up while its provider was at it."""


@dataclass(frozen=True)
class Decision:
    """What a person decided, or is about to."""

    subject: str
    """The id of a call, the partition key of an episode, or the key of an object."""
    decision: Kind
    what: str

    def as_json(self) -> dict[str, Any]:
        """The shape of `moltpipe repair --json`."""
        return {_NAMES[self.decision]: self.subject, "decision": self.decision, "what": self.what}


class NothingToDecide(Exception):
    """A call is in a state that needs no person, or one in which this decision makes no sense."""

    def __init__(self, call: Call, expected: str) -> None:
        super().__init__(f"call {call.id} to {call.engine} is {call.state}: expected {expected}")
        self.call = call


class NothingToRetry(Exception):
    """An episode needs no other attempt."""

    def __init__(self, partition_key: str, why: str) -> None:
        super().__init__(f"{partition_key} needs no other attempt: {why}")
        self.partition_key = partition_key
        self.why = why


class NothingToRemake(Exception):
    """A medium cannot be made anew, or not now."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key} is not made anew: {why}")
        self.key = key
        self.why = why


def decide(db: Connection, decision: Kind, subjects: Iterable[str], by: str, *, dry_run: bool) -> list[Decision]:
    """Decide the same about several things, in the caller's one transaction, and write it into the audit.

    With `dry_run` it is done and undone. `subjects` are ids of calls, partition keys of episodes, or keys of objects.

    Raises:
        UnknownCall, UnknownEpisode: there is no such call or episode.
        JobMissing: an episode has no production job.
        NothingToDecide, NothingToRetry, NothingToRemake: one of them needs no decision.
    """
    act = _ACTS[decision]
    with db.begin_nested() as tried:
        decided = [act(db, subject, by) for subject in dict.fromkeys(subjects)]
        if dry_run:
            tried.rollback()
    return decided


def resubmit(db: Connection, call_id: UUID, by: str) -> Decision:
    """Put a call aside that is ambiguous, or failed for good, so that its request is made again, now.

    What was reserved for an ambiguous one stays on it as its cost: nobody can prove that it was not billed. The
    production job of its episode becomes available with all of its attempts.

    Raises:
        UnknownCall: there is no such call.
        NothingToDecide: the request is not held up by this call.
    """
    episode_id = call_by_id(db, call_id).episode_id
    if episode_id is not None:
        # Before the call, as everywhere: a run that holds its job takes its calls after it.
        resume_jobs_of(db, episode_id)
    call = lock_call(db, call_id)
    if call.state is not CallState.AMBIGUOUS and not _is_unused(db, call):
        blocking = failed_for_good(db, call.fingerprint)
        if blocking is None or blocking.id != call.id or live_call(db, call.fingerprint) is not None:
            raise NothingToDecide(
                call,
                "one that is ambiguous, that failed and keeps its request from being made, or of no use",
            )
    amount, before = call.cost_usd + call.reserved_usd, _row_of(db, call)
    expire_call(db, call_id, _said(f"put aside by {by}", call))
    what = (
        f"make the request of call {call.id} to {call.engine} again; {amount:.2f} USD stay on the old one as its cost"
    )
    return _decided(db, by, "resubmit", call, before, what)


def give_up(db: Connection, call_id: UUID, by: str) -> Decision:
    """Leave a call failed that is ambiguous, or that is under way and of which nobody will fetch the result.

    What was reserved for it is its cost, and its request is not made again by itself.

    Raises:
        UnknownCall: there is no such call.
        NothingToDecide: the call is neither.
    """
    call = lock_call(db, call_id)
    amount, before = call.cost_usd + call.reserved_usd, _row_of(db, call)
    said = _said(f"given up by {by}", call)
    if call.state is CallState.AMBIGUOUS:
        give_up_call(db, call_id, said)
    elif _is_forgotten(db, call):
        mark_failed(db, call_id, _ABANDONED, said)
    else:
        raise NothingToDecide(call, "one that is ambiguous, or that `moltpipe check` names as forgotten")
    what = f"leave call {call.id} to {call.engine} failed; {amount:.2f} USD stay on it as its cost"
    return _decided(db, by, "give_up", call, before, what)


def retry(db: Connection, partition_key: str, by: str) -> Decision:
    """Give an episode whose attempts failed all of its attempts again, the first of them now.

    Raises:
        UnknownEpisode: no episode has this partition key.
        JobMissing: it has no production job.
        NothingToRetry: it is completed, a run is at work on it, or nothing failed.
    """
    job = _hold(db, job_of_episode(db, partition_key))
    if job.completed_at is not None:
        raise NothingToRetry(partition_key, f"it was completed at {spelled(job.completed_at)}")
    if job.process_uuid is not None:
        raise NothingToRetry(partition_key, f"run {job.process_uuid} has it")
    if job.attempt_count == 0:
        raise NothingToRetry(partition_key, "none has failed")
    this = production_jobs.c.id == job.id
    before = audit.snapshot(db, production_jobs, this)
    resume_jobs_of(db, job.episode_id)
    what = f"produce {partition_key} with all {job.max_attempts} attempts again, after {job.attempt_count} that failed"
    after = audit.snapshot(db, production_jobs, this)
    audit.record(db, by=by, action="retry", subject=partition_key, what=what, before=before, after=after)
    return Decision(partition_key, "retry", what)


def remake(db: Connection, key: str, by: str) -> Decision:
    """Have a medium made anew whose object is gone or damaged.

    The row of a take, of a voiceover or of music is removed, and kept in the audit: what is not on record is made by
    the next run. An earlier one of the same shot takes its place where there is one. A cut keeps its row, its votes
    and its selection, and is cut anew. Cuts that were made from what is made anew follow by themselves.

    Raises:
        NothingToRemake: nothing is known to be wrong with the object, or a run is at work on the episode.
        JobMissing: the episode has no production job.
    """
    gone = db.execute(
        sa.select(observations.c.detail).where(
            observations.c.check_name == MEDIA_OBJECTS_ARE_THERE.name, observations.c.subject == key
        )
    ).scalar_one_or_none()
    if gone is None:
        raise NothingToRemake(key, f"expected a key that `moltpipe check` names under {MEDIA_OBJECTS_ARE_THERE.name}")
    kind, row_id = _KINDS[gone["table"]], UUID(gone["row_id"])
    episode = db.execute(kind.episode.where(kind.table.c.id == row_id)).one_or_none()
    if episode is None:
        raise NothingToRemake(key, f"its row in {kind.table.name} is gone by now, and the next sweep will say so")
    job = _hold(db, job_of_episode(db, episode.partition_key))
    if job.process_uuid is not None:
        raise NothingToRemake(key, f"run {job.process_uuid} is at work on {episode.partition_key}: let it finish first")
    this = kind.table.c.id == row_id
    row = db.execute(sa.select(kind.table).where(this).with_for_update()).one()
    before = {table.name: audit.snapshot(db, table, where) for table, where in _concerned(kind.table, this, job)}
    said = kind.take_away(db, row)
    if said.is_wanted and not reopen_job(db, job.id):
        resume_jobs_of(db, job.episode_id)
    what = f"{episode.partition_key}: {said.what}"
    after = {table.name: audit.snapshot(db, table, where) for table, where in _concerned(kind.table, this, job)}
    audit.record(db, by=by, action="remake", subject=key, what=what, before=before, after=after)
    return Decision(key, "remake", what)


def _concerned(table: sa.Table, this: sa.ColumnElement[bool], job: Job) -> list[tuple[sa.Table, Any]]:
    return [(table, this), (production_jobs, production_jobs.c.id == job.id)]


def _hold(db: Connection, job: Job) -> Job:
    """The job as it is, held until the end of the transaction, so that no run takes it meanwhile."""
    db.execute(sa.select(production_jobs.c.id).where(production_jobs.c.id == job.id).with_for_update())
    return job_of_episode(db, job.partition_key)


def _row_of(db: Connection, call: Call) -> list[dict[str, Any]]:
    return audit.snapshot(db, provider_jobs, provider_jobs.c.id == call.id)


def _decided(db: Connection, by: str, decision: Kind, call: Call, before: list[dict[str, Any]], what: str) -> Decision:
    subject = str(call.id)
    audit.record(db, by=by, action=decision, subject=subject, what=what, before=before, after=_row_of(db, call))
    return Decision(subject, decision, what)


def _is_unused(db: Connection, call: Call) -> bool:
    """Whether a result arrived and nothing could be made of it."""
    if call.state is not CallState.INGESTED or call.account is None:
        return False
    return not any(
        db.execute(sa.select(table.c.id).where(table.c.provider_job_id == call.id).limit(1)).first()
        for table in (takes, voiceovers, scores)
    )


def _is_forgotten(db: Connection, call: Call) -> bool:
    """Whether the check names this call as one of which nobody will fetch the result."""
    found = PAID_CALLS_ARE_NOT_FORGOTTEN.rows(db, Conditions(datetime.now(UTC)))
    if found is None:
        return False
    forgotten = found.subquery()
    return db.execute(sa.select(forgotten.c.call_id).where(forgotten.c.call_id == call.id)).first() is not None


def _said(decision: str, call: Call) -> str:
    return f"{decision}: {call.error}" if call.error else decision


# Media that are gone -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gone:
    """What becomes of a medium that is gone."""

    what: str
    is_wanted: bool = True
    """Whether the episode has to be worked on for it."""


@dataclass(frozen=True)
class _Kind:
    """A kind of medium: its table, whose episode's run makes it anew, and what is done with the row."""

    table: sa.Table
    episode: sa.Select[Any]
    take_away: Callable[[Connection, Row[Any]], _Gone]


def _take(db: Connection, row: Row[Any]) -> _Gone:
    _remove(db, takes, row)
    named = f"take {row.take_number} of shot {_shot_number(db, row)}, variant {row.variant_number}"
    if not row.is_current:
        return _replaced(named)
    of_variant = sa.and_(takes.c.shot_id == row.shot_id, takes.c.variant_number == row.variant_number)
    newest = sa.select(sa.func.max(takes.c.take_number)).where(of_variant, _lies_in_store(takes)).scalar_subquery()
    earlier = db.execute(
        sa.update(takes)
        .where(of_variant, takes.c.take_number == newest)
        .values(is_current=True)
        .returning(takes.c.take_number)
    ).scalar_one_or_none()
    return _succeeded(db, row, named, earlier)


def _voiceover(db: Connection, row: Row[Any]) -> _Gone:
    _remove(db, voiceovers, row)
    named = f"voiceover {row.take_number} of shot {_shot_number(db, row)}"
    return _newest_counts(db, voiceovers, voiceovers.c.shot_id == row.shot_id, row, named)


def _score(db: Connection, row: Row[Any]) -> _Gone:
    _remove(db, scores, row)
    return _newest_counts(db, scores, scores.c.episode_id == row.episode_id, row, f"music {row.take_number}")


def _cut(db: Connection, row: Row[Any]) -> _Gone:
    # A cut whose ingredients are not known is made anew, and published in the place of the old one.
    db.execute(sa.update(clip_variants).where(clip_variants.c.id == row.id).values(ingredients=""))
    return _Gone(f"cut variant {row.variant_number} anew")


def _poster(db: Connection, row: Row[Any]) -> _Gone:
    db.execute(sa.update(limited_series).where(limited_series.c.id == row.id).values(poster_key=None))
    _forget_observations(db, row)
    return _Gone("draw the poster of the series anew")


def _newest_counts(
    db: Connection, table: sa.Table, of_same: sa.ColumnElement[bool], row: Row[Any], named: str
) -> _Gone:
    """What becomes of a medium of which the newest is used."""
    newest = db.execute(sa.select(sa.func.max(table.c.take_number)).where(of_same)).scalar_one()
    if newest is not None and newest > row.take_number:
        return _replaced(named)
    return _succeeded(db, row, named, newest)


def _replaced(named: str) -> _Gone:
    return _Gone(f"forget {named}, which a later one has replaced", is_wanted=False)


def _succeeded(db: Connection, row: Row[Any], named: str, earlier: int | None) -> _Gone:
    if earlier is not None:
        return _Gone(f"use number {earlier} again in place of {named}")
    call = None if row.provider_job_id is None else call_by_id(db, row.provider_job_id)
    if call is None or call.account is None:
        return _Gone(f"make {named} anew")
    return _Gone(
        f"make {named} anew (what call {call.id} delivered is used again while it is kept; "
        f"`moltpipe repair --resubmit {call.id}` pays {call.cost_usd:.2f} USD for another)"
    )


def _remove(db: Connection, table: sa.Table, row: Row[Any]) -> None:
    db.execute(sa.delete(table).where(table.c.id == row.id))
    _forget_observations(db, row)


def _forget_observations(db: Connection, row: Row[Any]) -> None:
    """What was observed of a row that tells of no object any more."""
    db.execute(
        sa.delete(observations).where(
            observations.c.check_name == MEDIA_OBJECTS_ARE_THERE.name,
            observations.c.detail["row_id"].astext == str(row.id),
        )
    )


def _lies_in_store(table: sa.Table) -> sa.ColumnElement[bool]:
    gone = sa.select(observations.c.detail["row_id"].astext).where(
        observations.c.check_name == MEDIA_OBJECTS_ARE_THERE.name
    )
    return sa.cast(table.c.id, sa.Text).not_in(gone)


def _shot_number(db: Connection, row: Row[Any]) -> int:
    number: int = db.execute(sa.select(shots.c.shot_number).where(shots.c.id == row.shot_id)).scalar_one()
    return number


def _of_shot(table: sa.Table) -> sa.Select[Any]:
    return (
        sa.select(episodes.c.partition_key)
        .join(shots, shots.c.episode_id == episodes.c.id)
        .join(table, table.c.shot_id == shots.c.id)
    )


def _of_episode(table: sa.Table) -> sa.Select[Any]:
    return sa.select(episodes.c.partition_key).join(table, table.c.episode_id == episodes.c.id)


_PILOT = (
    sa.select(episodes.c.partition_key)
    .join(limited_series, limited_series.c.id == episodes.c.series_id)
    .where(episodes.c.episode_number == 1)
)
_KINDS = {
    kind.table.name: kind
    for kind in (
        _Kind(takes, _of_shot(takes), _take),
        _Kind(voiceovers, _of_shot(voiceovers), _voiceover),
        _Kind(scores, _of_episode(scores), _score),
        _Kind(clip_variants, _of_episode(clip_variants), _cut),
        _Kind(limited_series, _PILOT, _poster),
    )
}
_ACTS: dict[Kind, Callable[[Connection, str, str], Decision]] = {
    "resubmit": lambda db, call_id, by: resubmit(db, UUID(call_id), by),
    "give_up": lambda db, call_id, by: give_up(db, UUID(call_id), by),
    "retry": retry,
    "remake": remake,
}
