"""The rules of the design, held against what is left when a studio has come to rest: nothing lost, nothing twice.

Here: looking, from outside, with statements of our own beside the studio's checks. Not here: the damage
(`faults.damages`), waiting for the rest (`faults.rounds`).

The truth about what was paid is the providers' own account, not ours.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.production.sweeping import sweep_objects
from moltpipe.store import StoreError
from moltpipe.studio.screenplay import EPISODES_PER_SERIES, PILOT_VARIANTS
from moltpipe.studio.sweeping import AREAS
from moltpipe_tests.fakes.server import Provider
from moltpipe_tests.faults.rounds import LIKED_VARIANT, Log, Round, failed
from moltpipe_tests.faults.world import World

_OPEN_INCIDENTS = "SELECT subject || ': ' || title FROM incidents WHERE closed_at IS NULL AND subject <> :expected"
_SWEEP_S = 60.0
_SETTLING_S = 60.0
_ORPHANS = "objects_are_known"
_TAKES_MADE_TWICE = """
SELECT 'takes of shot ' || shot_id || ', variant ' || variant_number, count(*)
FROM takes GROUP BY shot_id, variant_number HAVING count(*) > 1
"""
_LINES_MADE_TWICE = """
SELECT 'voiceovers of shot ' || shot_id, count(*) FROM voiceovers GROUP BY shot_id HAVING count(*) > 1
"""


@dataclass
class Verdict:
    """What is against the rules. All three lists are empty in a studio that keeps them."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    orphans: int = 0
    """Objects without a row, left by uploads that a damage ended. Allowed, as the studio names them."""

    @property
    def kept(self) -> bool:
        """Whether nothing is against the rules."""
        return not (self.lost or self.duplicated or self.unexplained)

    def add(self, other: Verdict) -> None:
        """Take in what another look found."""
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.unexplained += other.unexplained
        self.orphans = max(self.orphans, other.orphans)


def judged(world: World, rounds: Sequence[Round], log: Log, restless: Sequence[str]) -> Verdict:
    """Look at everything that the rounds of a wave were to make, and at all that the providers were asked for."""
    verdict = Verdict(lost=[f"never comes to rest: {one}" for one in restless], unexplained=list(log.unnamed))
    log.unnamed.clear()
    with world.database.begin() as db:
        for one in rounds:
            _period(db, one, verdict)
            _series(db, one, verdict)
        _takes(db, verdict)
        _accounts(db, world, log, verdict)
    _objects(world, rounds, verdict)
    _orphans(world, verdict)
    _checks(world, verdict)
    return verdict


def selections(world: World, rounds: Sequence[Round]) -> Verdict:
    """Every pilot serves what its audience liked."""
    verdict = Verdict()
    with world.database.begin() as db:
        for one in rounds:
            selected = db.execute(
                sa.text(
                    "SELECT e.episode_number, v.variant_number, count(b.voter_key) AS votes FROM limited_series s"
                    " JOIN episodes e ON e.series_id = s.id JOIN clip_variants v ON v.episode_id = e.id"
                    " LEFT JOIN clip_votes b ON b.episode_id = e.id WHERE s.script_id = :script AND v.is_selected"
                    " GROUP BY e.episode_number, v.variant_number ORDER BY e.episode_number"
                ),
                {"script": one.script.script_id},
            ).all()
            if [row.episode_number for row in selected] != list(range(1, EPISODES_PER_SERIES + 1)):
                verdict.lost.append(f"round {one.number}: selected are {selected}")
            # Nobody voted where the studio was away for the whole minute of the vote: then the first one is served.
            elif selected[0].variant_number != (LIKED_VARIANT if selected[0].votes else 1):
                verdict.unexplained.append(f"round {one.number}: its pilot serves {selected[0]}")
    return verdict


def _period(db: Connection, one: Round, verdict: Verdict) -> None:
    period = db.execute(sa.text("SELECT * FROM voting_periods WHERE id = :id"), {"id": one.period_id}).one()
    if not period.is_processed or period.outcome is None:
        verdict.lost.append(f"round {one.number}: its period has no outcome")
        return
    if period.processed_at < period.ends_at:
        verdict.unexplained.append(f"round {one.number}: its period was processed at {period.processed_at}, too early")
    winners = [winner["script_id"] for winner in period.outcome["winners"]]
    if winners != [str(one.script.script_id)]:
        verdict.unexplained.append(f"round {one.number}: winners are {winners}")
    rows = db.execute(
        sa.text("SELECT id, pilot_status FROM scripts WHERE id = ANY(:ids)"),
        {"ids": [one.script.script_id, one.rival.script_id]},
    )
    fates = {row.id: row.pilot_status for row in rows}
    wanted = {one.script.script_id: "selected", one.rival.script_id: "rejected"}
    if fates != wanted:
        verdict.lost.append(f"round {one.number}: its scripts are {fates}")


def _series(db: Connection, one: Round, verdict: Verdict) -> None:
    rows = db.execute(
        sa.text(
            "SELECT script_id, count(*) AS number FROM limited_series WHERE script_id = ANY(:ids) GROUP BY script_id"
        ),
        {"ids": [one.script.script_id, one.rival.script_id]},
    )
    counted = {row.script_id: row.number for row in rows}
    if counted.get(one.script.script_id, 0) == 0:
        verdict.lost.append(f"round {one.number}: its script has no series")
    if counted.get(one.script.script_id, 0) > 1 or one.rival.script_id in counted:
        verdict.duplicated.append(f"round {one.number}: series by script {counted}")
    episodes = db.execute(
        sa.text(
            "SELECT e.partition_key, e.episode_number,"
            " (SELECT count(*) FROM production_jobs j WHERE j.episode_id = e.id) AS jobs,"
            " (SELECT array_agg(v.variant_number ORDER BY v.variant_number) FROM clip_variants v"
            "  WHERE v.episode_id = e.id) AS variants,"
            " (SELECT count(*) FROM shots h WHERE h.episode_id = e.id) AS shots,"
            " (SELECT count(*) FROM takes t JOIN shots h ON h.id = t.shot_id WHERE h.episode_id = e.id"
            "  AND t.is_current) AS takes,"
            " (SELECT count(*) FROM voting_periods p WHERE p.episode_id = e.id) AS votes"
            " FROM episodes e JOIN limited_series s ON s.id = e.series_id WHERE s.script_id = :script"
            " ORDER BY e.episode_number"
        ),
        {"script": one.script.script_id},
    ).all()
    numbers = [episode.episode_number for episode in episodes]
    if numbers != list(range(1, EPISODES_PER_SERIES + 1)):
        verdict.lost.append(f"round {one.number}: its episodes are {numbers}")
    for episode in episodes:
        variants = PILOT_VARIANTS if episode.episode_number == 1 else 1
        if episode.jobs != 1:
            verdict.lost.append(f"{episode.partition_key}: {episode.jobs} jobs")
        if (episode.variants or []) != list(range(1, variants + 1)):
            verdict.lost.append(f"{episode.partition_key}: its variants are {episode.variants}")
        if episode.takes != variants * episode.shots or not episode.shots:
            verdict.lost.append(f"{episode.partition_key}: {episode.takes} takes of {episode.shots} shots")
        if episode.votes != (1 if variants > 1 else 0):
            verdict.lost.append(f"{episode.partition_key}: {episode.votes} clip votes")


def _takes(db: Connection, verdict: Verdict) -> None:
    """Nobody asked for anything to be made anew, so there is one of each."""
    for statement in (_TAKES_MADE_TWICE, _LINES_MADE_TWICE):
        verdict.duplicated += [f"{count} {of}" for of, count in db.execute(sa.text(statement))]


def _accounts(db: Connection, world: World, log: Log, verdict: Verdict) -> None:
    """The providers' own books beside ours."""
    known = set(db.scalars(sa.text("SELECT external_id FROM provider_jobs WHERE external_id IS NOT NULL")).all())
    with world.camera.lock:
        filmed, films_twice = set(world.camera.predictions), _more_than_once(world.camera)
    with world.voice.lock:
        items, lines_twice = list(world.voice.items), _more_than_once(world.voice)
    wanted = _lines_wanted(db)
    for engine, twice in (("replicate", films_twice), ("elevenlabs", lines_twice)):
        verdict.duplicated += [
            f"{engine} was paid {times} times for {given}"
            for given, times in twice.items()
            if times > wanted[json.loads(given).get("text")] and not _decided(log, engine, given)
        ]
    unknown = [f"replicate's {job}" for job in sorted(filmed - known)]
    unknown += [
        f"elevenlabs' {item['history_item_id']}"
        for item in items
        if known.isdisjoint({f"history:{item['history_item_id']}", item["request_id"]})
    ]
    # What a person sent again, because nobody could know, stands twice there and once here.
    allowed = len(log.decided)
    if len(unknown) > allowed:
        verdict.lost.append(f"paid and on no row: {', '.join(unknown)}; {allowed} of them decided by a person")


def _more_than_once(provider: Provider) -> dict[str, int]:
    return {given: provider.bills[given] for given in provider.billed_twice}


def _lines_wanted(db: Connection) -> Counter[str | None]:
    """How many shots have each line: the screenwriter ends two series with the same words, and each is spoken.

    A film is never wanted twice, as its seed is the shot's own.
    """
    lines = db.scalars(
        sa.text(
            "SELECT request ->> 'text' FROM (SELECT DISTINCT ON (fingerprint) request FROM provider_jobs"
            " WHERE operation = 'speak') AS wanted"
        )
    )
    return Counter({None: 1}) + Counter(lines)


def _decided(log: Log, engine: str, given: str) -> bool:
    """Whether a person had the request that this input belongs to sent again."""
    words = {str(value) for value in json.loads(given).values()}
    return any(
        name == engine and any(str(value) in words for value in json.loads(request).values() if len(str(value)) > 9)
        for name, request in log.decided
    )


def _objects(world: World, rounds: Sequence[Round], verdict: Verdict) -> None:
    """Every object that a row tells of is there, whole."""
    with world.database.begin() as db:
        rows = db.execute(
            sa.text(
                "WITH ours AS (SELECT e.id, s.id AS series_id, s.poster_key FROM episodes e"
                " JOIN limited_series s ON s.id = e.series_id WHERE s.script_id = ANY(:scripts))"
                " SELECT t.media_key AS key, t.sha256, t.bytes FROM takes t JOIN shots h ON h.id = t.shot_id"
                " JOIN ours ON ours.id = h.episode_id"
                " UNION ALL SELECT t.sound_key, t.sound_sha256, t.sound_bytes FROM takes t"
                " JOIN shots h ON h.id = t.shot_id JOIN ours ON ours.id = h.episode_id WHERE t.sound_key IS NOT NULL"
                " UNION ALL SELECT v.media_key, v.sha256, v.bytes FROM voiceovers v JOIN shots h ON h.id = v.shot_id"
                " JOIN ours ON ours.id = h.episode_id"
                " UNION ALL SELECT c.video_key, c.sha256, c.bytes FROM clip_variants c"
                " JOIN ours ON ours.id = c.episode_id"
                " UNION ALL SELECT unnest(ARRAY[c.captions_key, c.thumbnail_key]), NULL, NULL FROM clip_variants c"
                " JOIN ours ON ours.id = c.episode_id"
                " UNION ALL SELECT DISTINCT poster_key, NULL::text, NULL::bigint FROM ours WHERE poster_key IS NOT NULL"
            ),
            {"scripts": [one.script.script_id for one in rounds]},
        ).all()
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "object"
        for row in rows:
            try:
                content = world.store.fetch(row.key, target).read_bytes()
            except StoreError as error:
                verdict.lost.append(f"{row.key}: {error}")
                continue
            if row.bytes is not None and (len(content), _sha256(content)) != (row.bytes, row.sha256):
                verdict.lost.append(f"{row.key}: {len(content)} bytes, and not those that its row tells of")
            if row.bytes is None and not content:
                verdict.lost.append(f"{row.key} is empty")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _orphans(world: World, verdict: Verdict) -> None:
    """Objects that no row tells of are those that the studio's sweep would name, once they are old enough."""
    until = time.monotonic() + _SWEEP_S
    while not (swept := sweep_objects(world.database, world.store, _SWEEP_S, on_its_way=timedelta(0))).through:
        if swept.error is not None or time.monotonic() > until:
            verdict.unexplained.append(f"the sweep along S3 does not come through: {swept}")
            return
    with world.database.begin() as db:
        named = set(
            db.scalars(sa.text("SELECT subject FROM observations WHERE check_name = :name"), {"name": _ORPHANS})
        )
        known = set(db.scalars(sa.text(_KNOWN_STEMS)))
    unknown = {listed.key for area in AREAS for listed in world.store.listing(area) if not _is_known(listed.key, known)}
    verdict.orphans = len(unknown)
    verdict.unexplained += [f"{key} has no row, and no check would name it" for key in sorted(unknown - named)]


_KNOWN_STEMS = """
SELECT unnest(ARRAY[media_key, sound_key]) FROM takes UNION SELECT media_key FROM voiceovers
UNION SELECT media_key FROM scores UNION SELECT poster_key FROM limited_series
UNION SELECT unnest(ARRAY[video_key, captions_key, thumbnail_key, regexp_replace(captions_key, 'vtt$', 'srt')])
FROM clip_variants
"""


def _is_known(key: str, known: Iterable[str]) -> bool:
    return key in set(known)


def _checks(world: World, verdict: Verdict) -> None:
    """The studio says of itself that all is well, and has given the all-clear, once its sensors have looked again."""
    until = time.monotonic() + _SETTLING_S
    while True:
        with world.database.begin() as db:
            findings = [finding for finding in failed(db) if finding.name != _ORPHANS]
            incidents = db.scalars(sa.text(_OPEN_INCIDENTS), {"expected": f"check:{_ORPHANS}"}).all()
        if not findings and not incidents:
            return
        if time.monotonic() > until:
            verdict.unexplained += [f"no all-clear for {one}" for one in incidents]
            verdict.unexplained += [f"check {one.name}: {one.could_not_check or one.rows[:3]}" for one in findings]
            return
        time.sleep(1)
