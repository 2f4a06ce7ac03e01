"""What a prune reads of the ledger, and how it takes things away.

Here: facts for the rules, and removals, each in the caller's one transaction. Not here: what may go
(`studio.retention`), the objects in S3 and the order of things (`production.pruning`), Dagster's tables
(`ledger.dagster_tables`).

A row goes before its object: an object without a row costs space, a row without its object is an episode that cannot
be cut. Between the two stands a departure, so that a prune that was killed is finished by the next one.

Nothing is taken from an episode while somebody works on it: its job is held until the objects are gone. The store puts
nothing where the same bytes lie already, so that a run could record what is deleted in the same second.

Three things are never pruned. Calls are the record of the money. The audit says who did what beside the normal way, and
is asked years later; it is written by persons and repairs, so it stays small. Votes, scripts, series and cuts are what
the studio is about.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from moltpipe.ledger import audit
from moltpipe.ledger.calls import OVER, CallState, expire_call
from moltpipe.ledger.schema import (
    alerts,
    clip_variants,
    departures,
    episodes,
    incidents,
    limited_series,
    observations,
    production_jobs,
    provider_events,
    provider_jobs,
    scores,
    shots,
    spent_numbers,
    takes,
    voiceovers,
    watchers,
)
from moltpipe.ledger.sweeps import MEDIA_OBJECTS_ARE_THERE, OBJECTS_ARE_KNOWN, bytewise, known_objects
from moltpipe.ledger.watching import SILENCE
from moltpipe.studio.retention import ARRIVALS, Medium, OldIncident, OldNews, OldWatcher, Pruned, Stranger
from moltpipe.studio.sweeping import Listed, stem_of

FIRST = UUID(int=0)
"""Behind it come all rows."""
_SETTLED = frozenset({*OVER, CallState.INGESTED})
_PRUNED = "its result was superseded and removed by `moltpipe prune`: what it cost stays"
_OF_ID = re.compile(r"[a-z]+/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})[/-].+")


# Media ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of medium that is superseded by a later one of the same."""

    name: str
    table: sa.Table
    candidates: sa.Select[Any]
    """Ids of rows that may have been superseded."""
    facts: sa.Select[Any]


def _no_work(episode_id: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    job = production_jobs.alias()
    of_episode = job.c.episode_id == episode_id
    unfinished = sa.or_(job.c.completed_at.is_(None), job.c.process_uuid.is_not(None))
    return sa.and_(sa.exists().where(of_episode), ~sa.exists().where(of_episode, unfinished))


def _newest(table: sa.Table, column: str) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    newest = table.alias()
    query = sa.select(newest.c.take_number, newest.c.recorded_at).where(newest.c[column] == table.c[column])
    used = query.order_by(newest.c.take_number.desc()).limit(1).correlate(table).lateral()
    return used.c.take_number, used.c.recorded_at


def _of_all_variants(episode_id: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return (
        sa.select(sa.func.min(clip_variants.c.published_at))
        .where(clip_variants.c.episode_id == episode_id)
        .scalar_subquery()
    )


def _takes() -> Kind:
    used, cut = takes.alias(), clip_variants.alias()
    facts = (
        sa.select(
            takes.c.id,
            takes.c.shot_id.label("subject_id"),
            takes.c.variant_number,
            takes.c.take_number,
            takes.c.media_key,
            takes.c.bytes,
            takes.c.sound_key,
            takes.c.sound_bytes,
            takes.c.provider_job_id,
            takes.c.recorded_at,
            shots.c.episode_id,
            used.c.take_number.label("used_number"),
            used.c.recorded_at.label("superseded_at"),
            cut.c.published_at.label("cut_at"),
            (~_no_work(shots.c.episode_id)).label("is_in_work"),
        )
        .join(shots, shots.c.id == takes.c.shot_id)
        .outerjoin(
            used,
            sa.and_(
                used.c.shot_id == takes.c.shot_id, used.c.variant_number == takes.c.variant_number, used.c.is_current
            ),
        )
        .outerjoin(
            cut,
            sa.and_(cut.c.episode_id == shots.c.episode_id, cut.c.variant_number == takes.c.variant_number),
        )
        .where(~takes.c.is_current)
    )
    return Kind("takes", takes, sa.select(takes.c.id).where(~takes.c.is_current), facts)


def _voiceovers() -> Kind:
    number, since = _newest(voiceovers, "shot_id")
    facts = (
        sa.select(
            voiceovers.c.id,
            voiceovers.c.shot_id.label("subject_id"),
            sa.literal(0).label("variant_number"),
            voiceovers.c.take_number,
            voiceovers.c.media_key,
            voiceovers.c.bytes,
            sa.null().label("sound_key"),
            sa.null().label("sound_bytes"),
            voiceovers.c.provider_job_id,
            voiceovers.c.recorded_at,
            shots.c.episode_id,
            number.label("used_number"),
            since.label("superseded_at"),
            _of_all_variants(shots.c.episode_id).label("cut_at"),
            (~_no_work(shots.c.episode_id)).label("is_in_work"),
        )
        .join(shots, shots.c.id == voiceovers.c.shot_id)
        .where(voiceovers.c.take_number < number)
    )
    return Kind("voiceovers", voiceovers, sa.select(voiceovers.c.id), facts)


def _scores() -> Kind:
    number, since = _newest(scores, "episode_id")
    facts = sa.select(
        scores.c.id,
        scores.c.episode_id.label("subject_id"),
        sa.literal(0).label("variant_number"),
        scores.c.take_number,
        scores.c.media_key,
        scores.c.bytes,
        sa.null().label("sound_key"),
        sa.null().label("sound_bytes"),
        scores.c.provider_job_id,
        scores.c.recorded_at,
        scores.c.episode_id,
        number.label("used_number"),
        since.label("superseded_at"),
        _of_all_variants(scores.c.episode_id).label("cut_at"),
        (~_no_work(scores.c.episode_id)).label("is_in_work"),
    ).where(scores.c.take_number < number)
    return Kind("music", scores, sa.select(scores.c.id), facts)


KINDS: tuple[Kind, ...] = (_takes(), _voiceovers(), _scores())


def superseded_page(db: Connection, kind: Kind, *, after: UUID, limit: int) -> tuple[list[Medium], UUID | None]:
    """Media of a kind that were superseded, among the next `limit` rows behind an id.

    Returns:
        The media, and the id to go on behind; None when there are no more rows.
    """
    column = kind.table.c.id
    ids = list(db.execute(kind.candidates.where(column > after).order_by(column).limit(limit)).scalars())
    return superseded(db, kind, ids), ids[-1] if len(ids) == limit else None


def superseded(db: Connection, kind: Kind, ids: Collection[UUID]) -> list[Medium]:
    """Those among these media of a kind that were superseded, as they are now."""
    if not ids:
        return []
    rows = db.execute(kind.facts.where(kind.table.c.id == sa.any_(sa.literal(list(ids), sa.ARRAY(sa.UUID)))))
    return [_medium(row) for row in rows]


def _medium(row: Row[Any]) -> Medium:
    objects = {row.media_key: row.bytes}
    if row.sound_key is not None:
        objects[row.sound_key] = row.sound_bytes
    return Medium(
        id=row.id,
        subject_id=row.subject_id,
        variant_number=row.variant_number,
        take_number=row.take_number,
        episode_id=row.episode_id,
        objects=objects,
        used_number=row.used_number,
        superseded_at=row.superseded_at,
        cut_at=row.cut_at,
        is_in_work=row.is_in_work,
        call_id=row.provider_job_id,
        recorded_at=row.recorded_at,
    )


def hold_idle(db: Connection, episode_ids: Iterable[UUID]) -> set[UUID]:
    """Those of these episodes that nobody works on. Until the transaction ends, nobody begins to: a claim waits."""
    wanted = set(episode_ids)
    if not wanted:
        return set()
    of_them = production_jobs.c.episode_id.in_(wanted)
    held = db.execute(
        sa.select(production_jobs.c.id, production_jobs.c.episode_id)
        .where(of_them, production_jobs.c.process_uuid.is_(None))
        .order_by(production_jobs.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    mine = {row.id for row in held}
    jobs = db.execute(sa.select(production_jobs.c.id, production_jobs.c.episode_id).where(of_them)).all()
    return wanted - {row.episode_id for row in jobs if row.id not in mine}


def retire(db: Connection, kind: Kind, media: Sequence[Medium]) -> list[Pruned]:
    """Take away the rows of media, whose episodes the caller holds. Their objects are left to depart.

    Numbers that were given stay given. What a provider delivered departs with the last medium that was made of it, and
    its call is put aside: the same request is made anew if it should ever come again, instead of asking for a result
    that is gone.

    Returns:
        What provider's results depart with them.
    """
    if not media:
        return []
    table = kind.table
    db.execute(sa.delete(table).where(table.c.id.in_([one.id for one in media])))
    highest: dict[tuple[UUID, int], int] = {}
    for one in media:
        place = (one.subject_id, one.variant_number)
        highest[place] = max(highest.get(place, 0), one.take_number)
    spent = insert(spent_numbers)
    db.execute(
        spent.on_conflict_do_update(
            index_elements=["subject_id", "variant_number"],
            set_={"take_number": sa.func.greatest(spent_numbers.c.take_number, spent.excluded.take_number)},
        ),
        [
            {"subject_id": subject_id, "variant_number": variant, "take_number": number}
            for (subject_id, variant), number in sorted(highest.items())
        ],
    )
    _let_depart(db, [(key, size, one.episode_id) for one in media for key, size in one.objects.items()])
    forgotten = [str(one.id) for one in media]
    db.execute(
        sa.delete(observations).where(
            observations.c.check_name == MEDIA_OBJECTS_ARE_THERE, observations.c.detail["row_id"].astext.in_(forgotten)
        )
    )
    return _retire_arrivals(db, media)


def arrivals_of(db: Connection, media: Collection[Medium]) -> dict[str, tuple[UUID, int, datetime | None]]:
    """What providers delivered of which nothing is left once these media are gone: call, size and time, by key."""
    calls = {one.call_id for one in media if one.call_id is not None}
    if not calls:
        return {}
    going = [one.id for one in media]
    others = [
        sa.exists().where(table.c.provider_job_id == provider_jobs.c.id, table.c.id.not_in(going))
        for table in (takes, voiceovers, scores)
    ]
    rows = db.execute(
        sa.select(provider_jobs.c.id, provider_jobs.c.result["media"].label("media"), provider_jobs.c.finished_at)
        .where(
            provider_jobs.c.id.in_(list(calls)),
            provider_jobs.c.state.in_([state.value for state in _SETTLED]),
            ~sa.or_(*others),
        )
        .order_by(provider_jobs.c.id)
    )
    return {row.media["key"]: (row.id, row.media["bytes"], row.finished_at) for row in rows if row.media is not None}


def _retire_arrivals(db: Connection, media: Collection[Medium]) -> list[Pruned]:
    episode_of = {one.call_id: one.episode_id for one in media if one.call_id is not None}
    # Held before it is asked what else was made of them: another episode of the series may be about to use one again.
    held = sa.select(provider_jobs.c.id, provider_jobs.c.state).where(provider_jobs.c.id.in_(list(episode_of)))
    states = {row.id: row.state for row in db.execute(held.order_by(provider_jobs.c.id).with_for_update())}
    gone = []
    for key, (call_id, size, finished_at) in arrivals_of(db, media).items():
        if states[call_id] == CallState.INGESTED.value:
            expire_call(db, call_id, _PRUNED)
        _let_depart(db, [(key, size, episode_of[call_id])])
        gone.append(Pruned("results as they arrived", 1, size, finished_at))
    return gone


def _let_depart(db: Connection, objects: Sequence[tuple[str, int, UUID]]) -> None:
    db.execute(
        insert(departures).on_conflict_do_nothing(),
        [{"key": key, "bytes": size, "episode_id": episode_id} for key, size, episode_id in objects],
    )


@dataclass(frozen=True)
class Departure:
    """An object whose row is gone."""

    key: str
    bytes: int
    episode_id: UUID
    since: datetime


def departures_page(db: Connection, *, after: str, limit: int) -> list[Departure]:
    """The next objects whose rows are gone, in the order of their keys."""
    key = bytewise(departures.c.key)
    rows = db.execute(sa.select(departures).where(key > after).order_by(key).limit(limit))
    return [Departure(row.key, row.bytes, row.episode_id, row.since) for row in rows]


def departed(db: Connection, keys: Collection[str]) -> None:
    """These objects are gone from the store, and with them what was observed of them."""
    db.execute(sa.delete(departures).where(departures.c.key.in_(keys)))
    _forget(db, keys)


def _forget(db: Connection, keys: Collection[str]) -> None:
    db.execute(
        sa.delete(observations).where(
            observations.c.check_name == OBJECTS_ARE_KNOWN, observations.c.subject.in_(list(keys))
        )
    )


# Objects of nobody ----------------------------------------------------------------------------------------------------


def strangers(db: Connection, objects: Sequence[Listed]) -> list[Stranger]:
    """What the ledger says of objects in the store."""
    keys = [one.key for one in objects]
    known = known_objects(db, keys)
    noticed = sa.select(observations.c.subject, observations.c.since).where(
        observations.c.check_name == OBJECTS_ARE_KNOWN, observations.c.subject.in_(keys)
    )
    observed = {row.subject: row.since for row in db.execute(noticed)}
    unknown = [one.key for one in objects if one.key not in known]
    in_place = _in_its_place(db, unknown)
    calls = _calls_of(db, [key for key in unknown if key.startswith(ARRIVALS)])
    owners = _episodes_of(db, unknown)
    found = []
    for one in objects:
        call, other = calls.get(one.key), in_place.get(one.key)
        is_beside = other is not None and _name(other.key) == _name(one.key)
        found.append(
            Stranger(
                key=one.key,
                bytes=one.bytes,
                modified_at=one.modified_at,
                is_known=one.key in known or is_beside or (call is not None and call.told == one.key),
                is_ours=one.key in owners,
                stranger_since=observed.get(one.key),
                superseded_at=None if other is None or is_beside else other.later_than(one.modified_at),
                call_over_at=call.finished_at if call is not None and CallState(call.state) in _SETTLED else None,
                episodes=frozenset(owners.get(one.key, ())),
            )
        )
    return found


def forget_strangers(db: Connection, keys: Collection[str]) -> None:
    """These objects of nobody are gone from the store."""
    _forget(db, keys)


@dataclass(frozen=True)
class _InPlace:
    """The object of which the row of a cut or a poster tells now."""

    key: str
    since: datetime
    is_poster: bool

    def later_than(self, made_at: datetime) -> datetime | None:
        """Since when it has had its place, if it came there after another object was made.

        A ledger that was restored tells of the cut from before: what was cut since then was not superseded by it. Since
        when a poster has a successor is not written down: it is drawn anew only where its object was lost, so the
        series' own age does.
        """
        return self.since if self.is_poster or self.since > made_at else None


def _in_its_place(db: Connection, keys: Collection[str]) -> dict[str, _InPlace]:
    """What lies in the place of a cut or a poster, by the key of what once lay there or lies beside it.

    What lies beside a cut under its very name belongs to it, whether or not its row tells of it: subtitles have no
    column.
    """
    stems = {key: stem for key in keys if (stem := stem_of(key)) is not None}
    if not stems:
        return {}
    asked = sa.func.unnest(sa.bindparam("stems", sorted(set(stems.values())), sa.ARRAY(sa.Text))).table_valued("stem")
    asked = asked.render_derived()
    begins = bytewise(asked.c.stem)
    told: dict[str, _InPlace] = {}
    for column, at in (
        (clip_variants.c.video_key, clip_variants.c.published_at),
        (limited_series.c.poster_key, limited_series.c.created_at),
    ):
        follows = sa.and_(bytewise(column) >= begins, bytewise(column) < begins.concat("~"))
        is_poster = column is limited_series.c.poster_key
        for stem, key, since in db.execute(sa.select(asked.c.stem, column, at).where(follows)):
            told[stem] = _InPlace(key, since, is_poster)
    return {key: told[stem] for key, stem in stems.items() if stem in told}


def _name(key: str) -> str:
    return key.partition(".")[0]


def _calls_of(db: Connection, keys: Collection[str]) -> dict[str, Row[Any]]:
    """The call under whose id an object arrived, with the key that it tells of, by the object's key."""
    named = {key: call_id for key in keys if (call_id := _id_in(key)) is not None}
    if not named:
        return {}
    rows = db.execute(
        sa.select(
            provider_jobs.c.id,
            provider_jobs.c.state,
            provider_jobs.c.finished_at,
            provider_jobs.c.result["media"]["key"].astext.label("told"),
        ).where(provider_jobs.c.id.in_(set(named.values())))
    ).all()
    by_id = {row.id: row for row in rows}
    return {key: by_id[call_id] for key, call_id in named.items() if call_id in by_id}


def _episodes_of(db: Connection, keys: Collection[str]) -> dict[str, set[UUID]]:
    """Whose objects these are, by the id in the key. Those that name nothing of this ledger are left out."""
    named: dict[UUID, list[str]] = defaultdict(list)
    for key in keys:
        if (owner := _id_in(key)) is not None:
            named[owner].append(key)
    of: dict[str, set[UUID]] = {}

    def note(statement: sa.Select[Any]) -> None:
        for owner, episode_id in db.execute(statement):
            for key in named[owner]:
                of.setdefault(key, set()).update(() if episode_id is None else (episode_id,))

    ids = list(named)
    note(sa.select(episodes.c.id, episodes.c.id).where(episodes.c.id.in_(ids)))
    note(sa.select(shots.c.id, shots.c.episode_id).where(shots.c.id.in_(ids)))
    # The poster is drawn by whichever episode is made first.
    note(sa.select(episodes.c.series_id, episodes.c.id).where(episodes.c.series_id.in_(ids)))
    note(sa.select(provider_jobs.c.id, provider_jobs.c.episode_id).where(provider_jobs.c.id.in_(ids)))
    # A shot may go with its script; the calls for it stay. No index leads there, so only what is left is looked for.
    left = [owner for owner in ids if named[owner][0] not in of]
    if left:
        note(
            sa.select(provider_jobs.c.subject_id, provider_jobs.c.episode_id)
            .where(provider_jobs.c.subject_id.in_(left))
            .distinct()
        )
    return of


def _id_in(key: str) -> UUID | None:
    match = _OF_ID.fullmatch(key)
    return UUID(match[1]) if match else None


# Records --------------------------------------------------------------------------------------------------------------


def old_incidents(
    db: Connection, *, before: datetime, after: UUID, limit: int
) -> tuple[list[OldIncident], UUID | None]:
    """The next incidents that were over before a moment, and the id to go on behind; None when there are no more."""
    page = (
        sa.select(incidents.c.id, incidents.c.closed_at)
        .where(incidents.c.closed_at < before, incidents.c.id > after)
        .order_by(incidents.c.id)
        .limit(limit)
        .subquery()
    )
    told = alerts.c.incident_id == page.c.id
    rows = db.execute(
        sa.select(
            page.c.id,
            page.c.closed_at,
            sa.select(sa.func.max(alerts.c.sent_at)).where(told).scalar_subquery().label("last_sent_at"),
            sa.select(sa.func.count()).where(told).scalar_subquery().label("alerts"),
            sa.select(sa.func.count()).where(told, alerts.c.sent_at.is_(None)).scalar_subquery().label("untold"),
        ).order_by(page.c.id)
    ).all()
    found = [OldIncident(row.id, row.closed_at, row.last_sent_at, row.alerts, row.untold) for row in rows]
    return found, found[-1].id if len(found) == limit else None


def remove_incidents(db: Connection, ids: Collection[UUID]) -> None:
    """Take away incidents with what was told of them."""
    db.execute(sa.delete(alerts).where(alerts.c.incident_id.in_(ids)))
    db.execute(sa.delete(incidents).where(incidents.c.id.in_(ids), incidents.c.closed_at.is_not(None)))


def old_news(db: Connection, *, before: datetime, after: UUID, limit: int) -> tuple[list[OldNews], UUID | None]:
    """The next events in the inbox from before a moment, and the id to go on behind; None when there are no more."""
    waits = provider_jobs.c.state.not_in([state.value for state in _SETTLED])
    calls = [
        sa.exists().where(provider_jobs.c.id == provider_events.c.call_id, waits),
        sa.exists().where(provider_jobs.c.external_id == provider_events.c.external_id, waits),
    ]
    rows = db.execute(
        sa.select(provider_events.c.id, provider_events.c.received_at, (~sa.or_(*calls)).label("call_is_settled"))
        .where(provider_events.c.received_at < before, provider_events.c.id > after)
        .order_by(provider_events.c.id)
        .limit(limit)
    ).all()
    found = [OldNews(row.id, row.received_at, row.call_is_settled) for row in rows]
    return found, found[-1].id if len(found) == limit else None


def remove_news(db: Connection, ids: Collection[UUID]) -> None:
    """Take away events from the inbox."""
    db.execute(sa.delete(provider_events).where(provider_events.c.id.in_(ids)))


def all_watchers(db: Connection) -> list[OldWatcher]:
    """Every sensor and schedule that ever ticked."""
    rows = db.execute(sa.select(watchers).order_by(watchers.c.name))
    return [OldWatcher(row.name, row.ticked_at, row.name in SILENCE) for row in rows]


def remove_watchers(db: Connection, names: Collection[str]) -> None:
    """Take away what was noted of sensors and schedules that are gone."""
    db.execute(sa.delete(watchers).where(watchers.c.name.in_(names)))


def write_down(db: Connection, pruned: Sequence[Pruned], by: str) -> None:
    """Put into the audit what was removed."""
    gone = [one for one in pruned if one.count]
    what = "remove what nobody needs any more: " + ", ".join(f"{one.count} {one.what}" for one in gone)
    audit.record(
        db, by=by, action="prune", subject="retention", what=what, after={one.what: one.as_json() for one in gone}
    )
