"""What may go, and what stays however old it is: the rules of `moltpipe prune`, pure.

Here: one rule for each kind of thing, over facts that somebody has read. Not here: reading them (`ledger.retention`,
`ledger.dagster_tables`, `store`), the order in which things go (`production.pruning`, `runtime.pruning`).

Age alone decides of nothing but a cache: what is evidence of something live stays for ever. And age counts from when a
thing became superfluous, not from when it was made: a take of two years that was replaced yesterday was in the cut
until then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

ARRIVALS = "arrivals/"
CONFORMED = "conformed/"
COMPUTE_LOGS = "compute-logs/"

_OF_RUN = re.compile(r"compute-logs/storage/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/.+")


@dataclass(frozen=True)
class Keeping:
    """For how long things stay that nobody needs any more."""

    runs: timedelta
    """Runs of Dagster that are over, and what they printed."""
    takes: timedelta
    """Media that were superseded, and objects of nobody."""
    records: timedelta
    """What is written down of trouble that is over."""

    def before(self, now: datetime) -> Before:
        """The moments before which something must have become superfluous."""
        return Before(now - self.runs, now - self.takes, now - self.records)


@dataclass(frozen=True)
class Before:
    """What became superfluous before these moments may go."""

    runs: datetime
    takes: datetime
    records: datetime


@dataclass(frozen=True)
class Pruned:
    """What went of one kind, or would go."""

    what: str
    count: int = 0
    bytes: int | None = 0
    """None where the size is not known."""
    oldest: datetime | None = None
    """When the oldest of them was made, or came to its end."""

    def and_also(self, count: int, size: int | None, oldest: datetime | None) -> Pruned:
        """With more of the same."""
        moments = [one for one in (self.oldest, oldest) if one is not None]
        known = None if self.bytes is None or size is None else self.bytes + size
        return Pruned(self.what, self.count + count, known, min(moments, default=None))

    def as_json(self) -> dict[str, Any]:
        """The shape of `moltpipe prune --json`."""
        return {
            "what": self.what,
            "count": self.count,
            "bytes": self.bytes,
            "oldest": self.oldest.isoformat() if self.oldest else None,
        }


# Dagster's records ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OldRun:
    """A run of Dagster, with what still needs it."""

    run_id: str
    ended_at: datetime | None
    """None while it is not over."""
    bytes: int = 0
    """Of its events."""
    bears_newest_event: bool = False
    """One of its events is the newest of its kind of an asset or a partition: a materialization, an observation, the
    plan of an attempt that failed. The UI shows the partition by it."""
    bears_newest_result: bool = False
    """It evaluated a check that nobody has evaluated since."""
    is_newest_of_work: bool = False
    """The last of its job and partition: a sensor takes the pace of the next attempt from it, and its key."""
    is_named: bool = False
    """A production job, or a paid call that is not settled, is in its hands."""
    is_of_open_incident: bool = False
    is_begun_again: bool = False
    """Another run was started from it; the UI fails to show that one's group without it."""
    is_of_backfill_under_way: bool = False


def run_may_go(run: OldRun, before: datetime) -> bool:
    """Whether a run, with its events, is over for long enough and nothing live is shown, paced or owned by it.

    A call that is settled does not keep the run that paid for it: the ledger's own row is the record of the money, and
    with hosted cameras every run would stay for ever.
    """
    return (
        run.ended_at is not None
        and run.ended_at < before
        and not run.bears_newest_event
        and not run.bears_newest_result
        and not run.is_newest_of_work
        and not run.is_named
        and not run.is_of_open_incident
        and not run.is_begun_again
        and not run.is_of_backfill_under_way
    )


@dataclass(frozen=True)
class OldEvent:
    """An event that belongs to no run, such as the result of a check that a sensor reported, every ten minutes."""

    id: int
    at: datetime
    bytes: int = 0
    is_newest: bool = False
    """Of its kind, of its asset and partition."""
    is_newest_result: bool = False
    """The newest result of a check is read from it."""


def event_may_go(event: OldEvent, before: datetime) -> bool:
    """Whether the UI shows something newer in its place."""
    return event.at < before and not event.is_newest and not event.is_newest_result


@dataclass(frozen=True)
class OldResult:
    """A row of Dagster's history of a check. Deleting a run leaves these behind."""

    id: int
    at: datetime
    bytes: int = 0
    is_newest: bool = False
    """Of its check and partition, among all or among those that were completed."""
    is_of_run: bool = False
    """Its run is still there."""


def result_may_go(result: OldResult, before: datetime) -> bool:
    """Whether it is neither what the UI says of its check now nor part of a run that can be looked at."""
    return result.at < before and not result.is_newest and not result.is_of_run


def run_of_log(key: str) -> str | None:
    """The run that printed what lies under a key of the compute logs; None for what a sensor's tick printed."""
    match = _OF_RUN.fullmatch(key)
    return match[1] if match else None


def log_may_go(modified_at: datetime, before: datetime, *, run_is_there: bool) -> bool:
    """Whether what was printed is old and its run is gone."""
    return modified_at < before and not run_is_there


# Media ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Medium:
    """A take, a voiceover or music that may have been superseded."""

    id: UUID
    subject_id: UUID
    """The shot, or the episode for music."""
    variant_number: int
    """0 for what all variants share."""
    take_number: int
    episode_id: UUID
    objects: dict[str, int]
    """Size by key."""
    used_number: int | None
    """Number of the one that is used; None where none is."""
    superseded_at: datetime | None
    """When the one that is used came in."""
    cut_at: datetime | None
    """When the oldest of the cuts was published that it may be in; None while one is missing."""
    is_in_work: bool
    """The episode is not completed, or somebody works on it."""
    call_id: UUID | None = None
    recorded_at: datetime | None = None


def medium_may_go(medium: Medium, before: datetime) -> bool:
    """Whether its successor has been in for long enough, and is in every cut that this one may have been in.

    By number, never by age: a lower number than the one that is used. So the highest number stays as long as there is
    any, and what is used stays however it came to be used.

    Which takes a cut was made of is not written down: `clip_variants.ingredients` is a hash over all of them. A cut
    that was published after the successor came in was made of the successor, or of a later one; one from before may
    show this very take. Both at the same moment are from before the day on which such moments began to be written down.
    """
    return (
        medium.used_number is not None
        and medium.take_number < medium.used_number
        and medium.superseded_at is not None
        and medium.superseded_at < before
        and medium.cut_at is not None
        and medium.cut_at > medium.superseded_at
        and not medium.is_in_work
    )


@dataclass(frozen=True)
class Stranger:
    """An object in the store, with what the ledger says of its key."""

    key: str
    bytes: int
    modified_at: datetime
    is_known: bool
    """A row tells of it, or of the cut that it lies beside."""
    is_ours: bool
    """Its key names something that this ledger has, or has paid a call for."""
    stranger_since: datetime | None = None
    """When the sweep first found that no row knows it; None where it did not."""
    superseded_at: datetime | None = None
    """For a cut or a poster: since when its row tells of a successor that came later than the object."""
    call_over_at: datetime | None = None
    """For what a provider delivered: when the call ended, which is settled and tells of another object or of none."""
    episodes: frozenset[UUID] = field(default_factory=frozenset)
    """Whose key it is."""


def stranger_may_go(stranger: Stranger, before: datetime) -> bool:
    """Whether an object is old, and this ledger itself has known for long enough that nobody needs it.

    The object's age alone would do for a bucket and a ledger that belong together. With the address of a new, empty
    ledger, or of one that was restored from a backup, every object would be of nobody, and the first prune would delete
    the studio: so each needs a moment that stands in the ledger and is old itself.

    That moment alone would not do for a bucket in which another studio keeps its media as well: to the sweep of this
    one they are of nobody, and half a year later they were. So an object needs a key that this ledger knows.

    Younger objects stay whatever the ledger says: an upload comes before its row.
    """
    if stranger.is_known or not stranger.is_ours or stranger.modified_at >= before:
        return False
    moments = (stranger.stranger_since, stranger.superseded_at, stranger.call_over_at)
    return any(moment is not None and moment < before for moment in moments)


def conformed_film_may_go(modified_at: datetime, before: datetime) -> bool:
    """Whether house film in the cache is old. It is made again of its source whenever it is missing."""
    return modified_at < before


# Records --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OldIncident:
    """An incident, with what was told of it."""

    id: UUID
    closed_at: datetime | None
    last_sent_at: datetime | None = None
    alerts: int = 0
    untold: int = 0
    """Alerts of it that no channel has taken yet."""


def incident_may_go(incident: OldIncident, before: datetime) -> bool:
    """Whether it is over for long enough, and everybody was told: an alert is never given up, so it keeps its text."""
    return (
        incident.closed_at is not None
        and incident.closed_at < before
        and incident.untold == 0
        and (incident.last_sent_at is None or incident.last_sent_at < before)
    )


@dataclass(frozen=True)
class OldNews:
    """An event in the inbox of webhooks."""

    id: UUID
    received_at: datetime
    call_is_settled: bool
    """No call that it can be about waits for anything; an ambiguous one may still find its id in here."""


def news_may_go(news: OldNews, before: datetime) -> bool:
    """Whether nobody will ask for it any more."""
    return news.received_at < before and news.call_is_settled


@dataclass(frozen=True)
class OldWatcher:
    """When a sensor or schedule ticked last."""

    name: str
    ticked_at: datetime
    is_ours: bool
    """This moltpipe has one of this name."""


def watcher_may_go(watcher: OldWatcher, before: datetime) -> bool:
    """Whether it ticked last long ago and exists no more."""
    return watcher.ticked_at < before and not watcher.is_ours
