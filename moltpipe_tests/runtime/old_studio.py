"""A studio in which much has been superseded, with its objects in a bucket and its runs in Dagster; and a process that
prunes it and can be killed at any step.

A step is: after a transaction that wrote was committed, before and after objects are deleted, before and after a run of
Dagster is. Between two of them nothing lasting happens.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from multiprocessing.connection import Connection as Pipe
from uuid import UUID, uuid4

import dagster as dg
import sqlalchemy as sa
from dagster._core.test_utils import create_run_for_test
from sqlalchemy.engine import Connection

from moltpipe.defs.partitions import EPISODES_NAME
from moltpipe.defs.runs import PARTITION_TAG
from moltpipe.ledger.calls import claim_call, mark_ingested, mark_submitted, mark_submitting, mark_succeeded
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import claim_job, complete_job
from moltpipe.ledger.media import publish_variant, record_score, record_take, record_voiceover
from moltpipe.ledger.schema import alerts, incidents, provider_events, watchers
from moltpipe.ledger.shots import write_shots
from moltpipe.production import pruning
from moltpipe.runtime.pruning import prune
from moltpipe.store import Store, connect
from moltpipe.studio.keys import arrival_key, score_key, take_key, take_sound_key, variant_key, voiceover_key
from moltpipe.studio.records import ClipSound, Episode, Shot, Stored
from moltpipe.studio.retention import Keeping
from moltpipe_tests.ledger.beginnings import episode_script, intent
from moltpipe_tests.shelf import Shelf
from moltpipe_tests.stories import LEASE, a_series

EVERYTHING_IS_OLD = Keeping(*[timedelta(hours=-1)] * 3)
"""By these, everything there is became superfluous long ago, if it is superfluous."""
EVERYTHING_IS_NEW = Keeping(*[timedelta(hours=1)] * 3)


@dataclass(frozen=True)
class OldStudio:
    """What was made."""

    episode: Episode
    shots: tuple[Shot, ...]
    superseded: frozenset[str]
    """Keys of objects that nobody needs."""
    needed: frozenset[str]
    calls: tuple[UUID, ...]
    """Of the first and of the second take."""


def _put(shelf: Shelf, key: str, content: str) -> Stored:
    shelf.lay(key, content.encode())
    return Stored(key, hashlib.sha256(content.encode()).hexdigest(), len(content))


def _hash(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def furnish(database: Database, shelf: Shelf) -> OldStudio:
    """A completed episode of which one take, one voiceover and the music were made twice, and so was the cut.

    Beside it lie an arrival that was replaced at its provider's second attempt, house film in the cache, and what a run
    printed that is gone. An incident is over, a webhook's event is old, and a sensor is no more.
    """
    episode = a_series(database)[1]
    run_id = str(uuid4())
    with database.begin() as db:
        claim = claim_job(db, episode.partition_key, run_id, LEASE)
        shots = write_shots(db, claim, episode_script(episode.number))
    shot, calls, lies = shots[0], [], {}

    def put(key: str, content: str) -> Stored:
        lies[content] = key
        return _put(shelf, key, content)

    for number in (1, 2):
        with database.begin() as db:
            call = claim_call(
                db, intent(episode_id=episode.id, subject_id=shot.id, take_number=number, process_uuid=run_id)
            )
            mark_submitting(db, call.id)
            mark_submitted(db, call.id, f"job-{number}")
            mark_succeeded(db, call.id, Decimal(1))
            arrived = put(arrival_key(call.id, _hash(f"arrival {number}")), f"arrival {number}")
            mark_ingested(
                db, call.id, {"media": {"key": arrived.key, "sha256": arrived.sha256, "bytes": arrived.bytes}}
            )
            calls.append(call.id)
            picture = put(take_key(shot.id, 1, number, _hash(f"take {number}")), f"take {number}")
            heard = put(take_sound_key(shot.id, 1, number, _hash(f"sound {number}")), f"sound {number}")
            record_take(db, claim, shot.id, 1, picture, 5, {}, call.id, ClipSound(heard, 5))
            spoken = put(voiceover_key(shot.id, number, _hash(f"voice {number}")), f"voice {number}")
            record_voiceover(db, claim, shot.id, spoken, 3, [])
            music = put(score_key(episode.id, number, _hash(f"music {number}")), f"music {number}")
            record_score(db, claim, music, 60)
        sha256 = _hash(f"cut {number}")
        video = put(variant_key(episode.id, 1, sha256), f"cut {number}")
        captions = put(variant_key(episode.id, 1, sha256, ".vtt"), f"captions {number}")
        put(variant_key(episode.id, 1, sha256, ".srt"), f"subtitles {number}")
        still = put(variant_key(episode.id, 1, sha256, ".jpg"), f"still {number}")
        with database.begin() as db:
            publish_variant(
                db,
                claim,
                1,
                video,
                captions_key=captions.key,
                thumbnail_key=still.key,
                duration_seconds=30,
                ingredients=sha256,
            )
    put(arrival_key(calls[1], _hash("arrival 0")), "arrival 0")
    put(f"conformed/{'c' * 12}-{'d' * 12}.mp4", "cached 1")
    put(f"compute-logs/storage/{uuid4()}/compute_logs/abcdefgh.err", "printed 1")
    with database.begin() as db:
        complete_job(db, claim)
        _past(db)
    needed = {key for content, key in lies.items() if content.endswith("2")}
    return OldStudio(episode, shots, frozenset(set(lies.values()) - needed), frozenset(needed), tuple(calls))


def _past(db: Connection) -> None:
    long_ago = sa.func.now() - timedelta(days=400)
    incident = db.execute(
        sa.insert(incidents)
        .values(subject="check:x", severity="error", title="t", body="b", opened_at=long_ago, closed_at=long_ago)
        .returning(incidents.c.id)
    ).scalar_one()
    db.execute(sa.insert(alerts).values(incident_id=incident, kind="opened", channel="c", sent_at=long_ago))
    db.execute(sa.insert(incidents).values(subject="check:y", severity="error", title="t", body="b"))
    db.execute(
        sa.insert(provider_events).values(
            provider="p", event_id="e", external_id="job-1", status="done", received_at=long_ago
        )
    )
    db.execute(sa.insert(watchers).values(name="a_sensor_of_old", ticked_at=long_ago))


def old_runs(instance: dg.DagsterInstance, partition_key: str, count: int = 4) -> list[str]:
    """Runs of a partition that ended well and left nothing, the oldest first."""
    instance.add_dynamic_partitions(EPISODES_NAME, [partition_key])
    return [
        create_run_for_test(
            instance,
            job_name="produce_episode",
            status=dg.DagsterRunStatus.SUCCESS,
            tags={PARTITION_TAG: partition_key},
        ).run_id
        for _ in range(count)
    ]


@dataclass(frozen=True)
class Errand:
    """Where the process prunes, and at which step it is killed; None lets it live."""

    database_url: str
    bucket: str
    s3: Mapping[str, str]
    home: str
    kill_at: int | None


def run(errand: Errand, pipe: Pipe) -> None:
    """Prune, and send how many steps it had, or the text of its error."""
    steps = _Steps(errand.kill_at)
    _watch(steps)
    pruning.BATCH = 1
    database = Database(errand.database_url)
    try:
        with dg.DagsterInstance.from_config(errand.home) as instance:
            prune(database, connect(errand.bucket, **errand.s3), instance, EVERYTHING_IS_OLD, by="a test")  # type: ignore[arg-type] # strings all of them
    except Exception as error:  # noqa: BLE001 - the test decides which it expects
        pipe.send(f"{type(error).__name__}: {error}")
    else:
        pipe.send(steps.passed)


class _Steps:
    """Counts, and kills this very process at the chosen count: nothing is flushed, closed or caught."""

    def __init__(self, kill_at: int | None) -> None:
        self.passed = 0
        self._kill_at = kill_at

    def one(self) -> None:
        self.passed += 1
        if self.passed == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _watch(steps: _Steps) -> None:
    begin, delete, delete_run = Database.begin, Store.delete, dg.DagsterInstance.delete_run

    @contextmanager
    def watched_begin(self: Database) -> Iterator[Connection]:
        with begin(self) as db:
            yield db
            wrote = db.execute(sa.text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")).scalar_one()
        if wrote:
            steps.one()

    def watched_delete(self: Store, keys: Sequence[str]) -> None:
        if keys:
            steps.one()
            delete(self, keys)
            steps.one()

    def watched_delete_run(self: dg.DagsterInstance, run_id: str) -> None:
        steps.one()
        delete_run(self, run_id)
        steps.one()

    Database.begin = watched_begin  # type: ignore[method-assign]
    Store.delete = watched_delete  # type: ignore[method-assign]
    dg.DagsterInstance.delete_run = watched_delete_run  # type: ignore[method-assign]
