"""Rounds: a series for the studio, a damage in the midst of its making, and the wait until the studio is quiet again.

Here: filing, voting, breaking, and what an operator would do while the studio heals. Not here: the damages
(`faults.damages`), what must be true afterwards (`faults.rules`).

Several rounds make a wave: a damage that meets the series of this round meets those of the rounds before as well, and
the studio comes to rest once a wave. Nobody waits for what waits for a clock: what was put off is made due, as an
operator would who sees that the cause is gone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe import samples
from moltpipe.ledger.audience import cast_clip_vote, find_variant
from moltpipe.ledger.checks import run_checks
from moltpipe.ledger.checks.finding import Conditions, Finding
from moltpipe.ledger.decisions import NothingToDecide, NothingToRetry, resubmit, retry
from moltpipe.ledger.periods import change_voting_settings, create_period, make_room, open_due_periods
from moltpipe.ledger.production import load_episode
from moltpipe.ledger.scripts import FiledScript, file_script
from moltpipe.ledger.votes import OutsideWindow, cast_vote
from moltpipe.studio.admission import judge
from moltpipe_tests.faults.damages import LONGEST_S, SHORTEST_S, Damage
from moltpipe_tests.faults.world import LEASE_S, World

VOTING_S = 4
CLIP_VOTING_MINUTES = 1
LATEST_MOMENT_S = 24.0
LIKED_VARIANT = 3
PATIENCE_S = 300.0
"""How long nothing may get done before what is left is given up as lost."""
LONGEST_REST_S = 1200.0
_LOOK_S = 1.0
_OPERATOR = "the operator of the harness"

_SHORT_SCRIPT = """
CREATE FUNCTION a_short_script() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shots (episode_id, shot_number, prompt, audio, gen_clip_seconds, duration_seconds, edit_extend_strategy)
    SELECT NEW.id, number,
           jsonb_build_object('camera', 'static', 'scene', 'Shot ' || number || ' of ' || NEW.partition_key),
           jsonb_build_object('type', 'narration', 'description', 'Line ' || number || ' of ' || NEW.partition_key),
           3, 3, 'hold_last_frame'
    FROM generate_series(1, CASE NEW.episode_number WHEN 1 THEN 2 ELSE 1 END) AS number;
    RETURN NEW;
END $$;
CREATE TRIGGER a_short_script AFTER INSERT ON episodes FOR EACH ROW
WHEN (NEW.episode_number < 5 OR mod(hashtext(NEW.partition_key), 4) <> 0) EXECUTE FUNCTION a_short_script()
"""
"""A series of sixty takes would keep two cores busy for minutes. The screenwriter writes an end to every fourth."""


_DONE = """
SELECT (SELECT count(*) FROM shots) + (SELECT count(*) FROM voiceovers) + (SELECT count(*) FROM takes)
     + (SELECT count(*) FROM clip_variants) + (SELECT count(*) FROM production_jobs WHERE completed_at IS NOT NULL)
     + (SELECT count(*) FROM voting_periods WHERE is_processed)
"""
"""A number that grows with everything that gets done."""
_UNKNOWN_TO_DAGSTER = """
SELECT stage || ' of ' || e.partition_key AS what
FROM episodes e JOIN production_jobs j ON j.episode_id = e.id,
     unnest(ARRAY['episode_script', 'voiceover', 'clips', 'stitched_episode']) AS stage
WHERE j.completed_at IS NOT NULL AND NOT EXISTS (
    SELECT FROM dagster.event_logs l WHERE l.dagster_event_type = 'ASSET_MATERIALIZATION'
    AND l.asset_key = jsonb_build_array(stage)::text AND l.partition = e.partition_key
)
UNION ALL
SELECT 'the outcome of period ' || id FROM voting_periods WHERE is_processed AND told_at IS NULL
"""
"""What is made, and Dagster does not know of."""


@dataclass
class Round:
    """One series and one damage."""

    number: int
    damage: str
    seed: int
    script: FiledScript
    rival: FiledScript
    period_id: UUID
    moment_s: float = 0
    """When it was broken, in seconds after the vote began."""
    lasts_s: float = 0
    happened: str = ""
    quiet_after_s: float = 0
    """From the end of the damage to the rest of the wave."""
    runs: int = 0
    """Of its five episodes; those that failed among them."""
    runs_failed: int = 0


@dataclass
class Log:
    """What an operator did, and what had to be named before he could."""

    decided: list[tuple[str, str]] = field(default_factory=list)
    """Engine and canonical request of calls that nobody could know of, sent again by a person."""
    retried: list[str] = field(default_factory=list)
    """Episodes that had used up their attempts."""
    made_due: int = 0
    unnamed: list[str] = field(default_factory=list)
    """What needed a person, and no check named it."""


def prepare(world: World) -> None:
    """Short scripts, and votes on variants that last for a minute."""
    with world.database.begin() as db:
        db.exec_driver_sql(_SHORT_SCRIPT)
        change_voting_settings(db, clip_voting_minutes=CLIP_VOTING_MINUTES)


def play(world: World, damage: Damage, number: int, seed: int, random: Random) -> Round:
    """File two scripts, let one win, break something at a random moment, and make the world whole again."""
    began = time.monotonic()
    played = _campaign(world, number, damage.name, seed)
    moment = random.uniform(0, LATEST_MOMENT_S)
    lasts_s = random.uniform(SHORTEST_S, LONGEST_S)
    time.sleep(max(0.0, began + moment - time.monotonic()))
    played.moment_s = time.monotonic() - began
    broken = time.monotonic()
    try:
        played.happened = damage.do(world, random, lasts_s)
    finally:
        played.lasts_s = time.monotonic() - broken
        world.heal()
    return played


def _campaign(world: World, number: int, damage: str, seed: int) -> Round:
    now = datetime.now(UTC)
    ends_at = now + timedelta(seconds=VOTING_S)
    with world.database.begin() as db:
        script, rival = (
            _filed(db, f"{title} of round {number}", f"agent-{number}-{place}", now)
            for place, title in enumerate(("The Winner", "The Rival"))
        )
        make_room(db, now, ends_at)
        period = create_period(db, "agent_voting", now, ends_at)
        open_due_periods(db, now)
        for voter in ("orbit", "marrow"):
            cast_vote(db, script.script_id, voter, 1, now)
    return Round(number, damage, seed, script, rival, period.id)


def _filed(db: Connection, title: str, agent: str, now: datetime) -> FiledScript:
    document: dict[str, Any] = copy.deepcopy(samples.pilots()[0][1]) | {"title": title}
    # Every line is said in one series alone, so that one that is paid for twice shows in the provider's account.
    document["arc"] = {beat: f"{text} {title}." for beat, text in document["arc"].items()}
    for shot in document["shots"]:
        if "dialogue" in shot["audio"]:
            shot["audio"]["dialogue"]["line"] += f" {title}."
        elif "description" in shot["audio"]:
            shot["audio"]["description"] += f" {title}."
    admission = judge(document)
    assert admission.script is not None, admission.refusals
    return file_script(db, admission.script, admission.document, agent_name=agent, studio_slug=None, now=now)


def await_rest(world: World, rounds: Sequence[Round], log: Log, *, clip_votes_too: bool = False) -> list[str]:
    """Wait until nothing of these rounds is under way, doing what an operator would; what does not come to rest."""
    began = moved_at = time.monotonic()
    before = -1
    look: Callable[[Connection], list[str]] = _clip_votes_that_wait if clip_votes_too else lambda _: []
    while True:
        _attend(world, rounds, log)
        with world.database.begin() as db:
            restless = [*unrest(db, rounds), *look(db)]
            done = db.execute(sa.text(_DONE)).scalar_one() - len(restless)
        now = time.monotonic()
        if done != before:
            before, moved_at = done, now
        if not restless or now - moved_at > PATIENCE_S or now - began > LONGEST_REST_S:
            return restless
        time.sleep(_LOOK_S)


def _attend(world: World, rounds: Sequence[Round], log: Log) -> None:
    """Make due what was put off, decide what only a person can, vote on variants."""
    with world.database.begin() as db:
        log.made_due += db.execute(
            sa.text(
                "UPDATE production_jobs SET available_at = now() WHERE completed_at IS NULL AND process_uuid IS NULL"
                " AND attempt_count < max_attempts AND available_at > now() + interval '1 second'"
            )
        ).rowcount
    with world.database.begin() as db:
        exhausted = db.execute(
            sa.text(
                "SELECT e.partition_key, j.last_error FROM production_jobs j JOIN episodes e ON e.id = j.episode_id"
                " WHERE j.completed_at IS NULL AND j.process_uuid IS NULL AND j.attempt_count >= j.max_attempts"
            )
        ).all()
        ambiguous = db.execute(
            sa.text("SELECT id, engine, request::text AS request FROM provider_jobs WHERE state = 'ambiguous'")
        ).all()
        named = _named(db) if exhausted or ambiguous else set()
    for episode in exhausted:
        if episode.partition_key not in named:
            log.unnamed.append(f"{episode.partition_key} has no attempts left and no check names it")
        with suppress(NothingToRetry), world.database.begin() as db:
            retry(db, episode.partition_key, _OPERATOR)
            log.retried.append(f"{episode.partition_key}: {episode.last_error}")
    for call in ambiguous:
        if str(call.id) not in named:
            log.unnamed.append(f"call {call.id} to {call.engine} is ambiguous and no check names it")
        with suppress(NothingToDecide), world.database.begin() as db:
            resubmit(db, call.id, _OPERATOR)
            log.decided.append((call.engine, call.request))
    _vote(world, rounds)


def _named(db: Connection) -> set[str]:
    """Everything that a failed check shows the operator."""
    findings = failed(db)
    return {str(cell) for finding in findings for row in finding.rows for cell in row.values()}


def failed(db: Connection) -> list[Finding]:
    """The checks that do not pass, or could not be made."""
    conditions = Conditions(datetime.now(UTC), timedelta(seconds=LEASE_S))
    return [finding for finding in run_checks(db, conditions) if not finding.passed]


def _vote(world: World, rounds: Sequence[Round]) -> None:
    """The audience likes one variant of every pilot that is up for a vote."""
    with world.database.begin() as db:
        pilots = db.scalars(
            sa.text(
                "SELECT e.partition_key FROM voting_periods p JOIN episodes e ON e.id = p.episode_id"
                " JOIN limited_series s ON s.id = e.series_id WHERE NOT p.is_processed AND s.script_id = ANY(:scripts)"
                " AND NOT EXISTS (SELECT FROM clip_votes v WHERE v.episode_id = e.id)"
            ),
            {"scripts": [one.script.script_id for one in rounds]},
        ).all()
    for pilot in pilots:
        with suppress(OutsideWindow), world.database.begin() as db:
            variant = find_variant(db, load_episode(db, pilot), LIKED_VARIANT)
            cast_clip_vote(db, variant, "agent:orbit", datetime.now(UTC))


def count_runs(world: World, rounds: Sequence[Round]) -> None:
    """How many runs the episodes of each round took."""
    with world.database.begin() as db:
        for one in rounds:
            one.runs, one.runs_failed = db.execute(
                sa.text(
                    "SELECT count(*), count(*) FILTER (WHERE r.status <> 'SUCCESS') FROM dagster.runs r"
                    " JOIN episodes e ON e.partition_key = r.partition JOIN limited_series s ON s.id = e.series_id"
                    " WHERE s.script_id = :script"
                ),
                {"script": one.script.script_id},
            ).one()


def unrest(db: Connection, rounds: Sequence[Round]) -> list[str]:
    """What is under way, or should be, in words. Each of these that never ends is something lost."""
    found = []
    for one in rounds:
        period = db.execute(
            sa.text("SELECT is_processed, ends_at FROM voting_periods WHERE id = :id"), {"id": one.period_id}
        ).one()
        if not period.is_processed:
            found.append(f"round {one.number}: its period ended at {period.ends_at:%H:%M:%S} and is not processed")
    found += [
        f"{job.partition_key}: job of {job.process_uuid or 'nobody'}, attempt {job.attempt_count} of"
        f" {job.max_attempts}, available {job.available_at:%H:%M:%S}, heartbeat {job.heartbeat_at}, {job.last_error}"
        for job in db.execute(
            sa.text(
                "SELECT e.partition_key, j.* FROM production_jobs j JOIN episodes e ON e.id = j.episode_id"
                " WHERE j.completed_at IS NULL OR j.process_uuid IS NOT NULL"
            )
        )
    ]
    found += [
        f"run {run.run_id} of {run.partition or run.pipeline_name} is {run.status} since {run.update_timestamp}"
        for run in db.execute(
            sa.text(
                "SELECT run_id, partition, pipeline_name, status, update_timestamp FROM dagster.runs"
                " WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
            )
        )
    ]
    found += [
        f"call {call.id} to {call.engine} is {call.state} since {call.claimed_at:%H:%M:%S}"
        for call in db.execute(
            sa.text(
                "SELECT id, engine, state, claimed_at FROM provider_jobs WHERE account IS NOT NULL"
                " AND state NOT IN ('ingested', 'failed', 'canceled', 'expired')"
            )
        )
    ]
    found += [f"Dagster does not know of {one}" for one in db.scalars(sa.text(_UNKNOWN_TO_DAGSTER))]
    return found


def _clip_votes_that_wait(db: Connection) -> list[str]:
    return [
        f"the clip vote of {one.partition_key} ends at {one.ends_at:%H:%M:%S} and is not closed"
        for one in db.execute(
            sa.text(
                "SELECT e.partition_key, p.ends_at FROM voting_periods p JOIN episodes e ON e.id = p.episode_id"
                " WHERE NOT p.is_processed"
            )
        )
    ]
