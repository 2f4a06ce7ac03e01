from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from moltpipe.ledger import audit
from moltpipe.ledger.calls import (
    Call,
    CallState,
    GivenUp,
    UnknownCall,
    call_by_id,
    claim_call,
    mark_ambiguous,
    mark_failed,
    mark_ingested,
    mark_running,
    mark_submitted,
    mark_submitting,
    mark_succeeded,
)
from moltpipe.ledger.checks.finding import Conditions
from moltpipe.ledger.checks.jobs import COMPLETED_JOBS_ARE_PUBLISHED, JOBS_HAVE_ATTEMPTS_LEFT
from moltpipe.ledger.checks.media import MEDIA_OBJECTS_ARE_THERE
from moltpipe.ledger.checks.money import AMBIGUOUS_CALLS_ARE_DECIDED, PAID_CALLS_ARE_NOT_FORGOTTEN
from moltpipe.ledger.database import Database
from moltpipe.ledger.decisions import (
    Decision,
    NothingToDecide,
    NothingToRemake,
    NothingToRetry,
    decide,
    give_up,
    remake,
    resubmit,
    retry,
)
from moltpipe.ledger.jobs import claim_job, complete_job, fail_job, load_jobs, reopen_job, still_mine
from moltpipe.ledger.media import publish_variant, record_score, record_take, record_voiceover
from moltpipe.ledger.production import UnknownEpisode, load_production
from moltpipe.ledger.repairs import repair
from moltpipe.ledger.schema import observations
from moltpipe.ledger.series import set_poster
from moltpipe.ledger.sweeps import settle_observations
from moltpipe.studio.records import Episode, Job, Score, Shot, Take, Variant, Voiceover
from moltpipe_tests.ledger.beginnings import (
    LEASE,
    await_a_waiter,
    claimed,
    everything,
    intent,
    one,
    series,
    stored,
    submitted,
)

FINGERPRINT = "f" * 64


@pytest.fixture
def episode(database: Database) -> Episode:
    with database.begin() as db:
        return series(db)[1]


def lost(db: sa.Connection, episode: Episode, fingerprint: str = FINGERPRINT, subject_id: UUID | None = None) -> Call:
    """A call that may have been accepted."""
    call = claim_call(
        db,
        intent(fingerprint=fingerprint, episode_id=episode.id, subject_id=subject_id or uuid4(), quote_usd=Decimal(2)),
    )
    mark_submitting(db, call.id)
    return mark_ambiguous(db, call.id, "no answer")


def failed(db: sa.Connection, episode: Episode, error_class: str = "filtered") -> Call:
    call = submitted(db, fingerprint=FINGERPRINT, episode_id=episode.id, quote_usd=Decimal(2))
    return mark_failed(db, call.id, error_class, "withheld")


def claim_again(db: sa.Connection, episode: Episode) -> Call:
    return claim_call(db, intent(fingerprint=FINGERPRINT, episode_id=episode.id))


def job_of(db: sa.Connection, episode: Episode) -> Job:
    return next(job for job in load_jobs(db, unfinished_only=False) if job.episode_id == episode.id)


def use_up_attempts(db: sa.Connection, episode: Episode) -> None:
    for _ in range(3):
        fail_job(db, claim_job(db, episode.partition_key, "run-9", LEASE), "no answer", datetime.now(UTC))


# The check -----------------------------------------------------------------------------------------------------------


def test_an_undecided_call_is_found_with_what_hangs_on_it(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        _, shots = claimed(db, episode)
        call = lost(db, episode, subject_id=shots[2].id)
        script = lost(db, episode, "e" * 64)
        finding = AMBIGUOUS_CALLS_ARE_DECIDED.look(db, Conditions(datetime.now(UTC)))
    assert (finding.asset, finding.severity, finding.count, finding.since) == ("clips", "error", 2, call.left_at)
    row = finding.rows[0]
    assert (row["call_id"], row["engine"], row["operation"]) == (str(call.id), "camera", "film")
    assert (row["episode"], row["shot"]) == (episode.partition_key, 3)
    assert (row["reserved_usd"], row["error"]) == (2.0, "no answer")
    assert call.left_at is not None
    assert row["left_at"] == call.left_at.isoformat()
    assert (finding.rows[1]["call_id"], finding.rows[1]["shot"]) == (str(script.id), None)
    assert "--resubmit" in finding.remedy
    assert "--give-up" in finding.remedy


# Sending again -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lost, failed])
def test_a_request_that_is_resubmitted_can_be_claimed_again(
    database: Database, episode: Episode, make: Callable[[sa.Connection, Episode], Call]
) -> None:
    with database.begin() as db:
        call = make(db, episode)
        decision = resubmit(db, call.id, "molt")
        aside = call_by_id(db, call.id)
        assert claim_again(db, episode).id != call.id
        assert AMBIGUOUS_CALLS_ARE_DECIDED.look(db, Conditions(datetime.now(UTC))).passed
    assert (decision.subject, decision.decision) == (str(call.id), "resubmit")
    assert "2.00 USD stay on the old one" in decision.what
    assert (aside.state, aside.cost_usd, aside.reserved_usd) == (CallState.EXPIRED, Decimal(2), Decimal(0))
    assert aside.error == f"put aside by molt: {call.error}"


def test_resubmitting_makes_the_episode_s_job_run_at_once(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
        use_up_attempts(db, episode)
        resubmit(db, call.id, "molt")
        job = job_of(db, episode)
        assert job.attempt_count == 0
        assert job.available_at <= one(db, "SELECT clock_timestamp()")


def test_a_completed_job_is_not_run_again_for_it(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
        complete_job(db, claim_job(db, episode.partition_key, "run-1", LEASE))
        before = job_of(db, episode)
        resubmit(db, call.id, "molt")
        assert job_of(db, episode) == before


def test_three_jobs_that_ended_in_a_row_can_be_followed_by_more(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        for _ in range(3):
            call = failed(db, episode, "retry_safe")
        with pytest.raises(GivenUp):
            claim_again(db, episode)
        resubmit(db, call.id, "molt")
        claim_again(db, episode)


def test_a_call_for_no_episode_can_be_resubmitted(database: Database) -> None:
    with database.begin() as db:
        call = claim_call(db, intent())
        mark_submitting(db, call.id)
        mark_ambiguous(db, call.id, "no answer")
        assert resubmit(db, call.id, "molt").subject == str(call.id)


# Giving up -----------------------------------------------------------------------------------------------------------


def test_a_call_that_is_given_up_is_failed_and_not_made_again(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
        decision = give_up(db, call.id, "molt")
        over = call_by_id(db, call.id)
        with pytest.raises(GivenUp, match="given up by molt: no answer"):
            claim_again(db, episode)
    assert (decision.subject, decision.decision) == (str(call.id), "give_up")
    assert (over.state, over.cost_usd, over.reserved_usd) == (CallState.FAILED, Decimal(2), Decimal(0))


def test_who_gave_up_may_think_again(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
        give_up(db, call.id, "molt")
        resubmit(db, call.id, "claw")
        assert call_by_id(db, call.id).error == "put aside by claw: given up by molt: no answer"
        claim_again(db, episode)


# What needs no decision ----------------------------------------------------------------------------------------------


def test_a_job_that_was_found_meanwhile_is_not_thrown_away(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
    with ThreadPoolExecutor(1) as pool, database.begin() as db:
        mark_submitted(db, call.id, "job-7")

        def put_aside() -> Decision:
            with database.begin() as other:
                return resubmit(other, call.id, "molt")

        deciding = pool.submit(put_aside)
        await_a_waiter(db)
        db.commit()
        with pytest.raises(NothingToDecide, match="is submitted"):
            deciding.result()


def test_a_call_that_is_under_way_is_left_alone(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = mark_running(db, submitted(db, episode_id=episode.id).id)
        use_up_attempts(db, episode)
    for act in (resubmit, give_up):
        with pytest.raises(NothingToDecide, match="is running: expected"), database.begin() as db:
            act(db, call.id, "molt")
    with database.begin() as db:
        assert job_of(db, episode).attempt_count == 3


def test_a_failure_that_holds_nothing_up_needs_no_decision(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        harmless = claim_call(db, intent(episode_id=episode.id))
        mark_failed(db, harmless.id, "quota", "no credit")
        put_aside = failed(db, episode)
        resubmit(db, put_aside.id, "molt")
        claim_again(db, episode)
        for call in (harmless, put_aside):
            with pytest.raises(NothingToDecide):
                resubmit(db, call.id, "molt")


def test_only_an_ambiguous_call_can_be_given_up(database: Database, episode: Episode) -> None:
    with database.begin() as db, pytest.raises(NothingToDecide, match="expected one that is ambiguous"):
        give_up(db, failed(db, episode).id, "molt")


def test_an_unknown_call_is_named(database: Database) -> None:
    nowhere = uuid4()
    for act in (resubmit, give_up):
        with pytest.raises(UnknownCall, match=str(nowhere)), database.begin() as db:
            act(db, nowhere, "molt")


# Several at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", ["resubmit", "give_up"])
def test_a_plan_says_the_same_and_changes_nothing(
    database: Database, episode: Episode, decision: Literal["resubmit", "give_up"]
) -> None:
    with database.begin() as db:
        call = lost(db, episode)
        before = everything(db)
        planned = decide(db, decision, [str(call.id)], "molt", dry_run=True)
        assert everything(db) == before
        assert decide(db, decision, [str(call.id)], "molt", dry_run=False) == planned


def test_several_are_decided_together_or_not_at_all(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        calls = [lost(db, episode), lost(db, episode, "e" * 64)]
    ids = [str(call.id) for call in calls]
    with pytest.raises(UnknownCall), database.begin() as db:
        decide(db, "resubmit", [*ids, str(uuid4())], "molt", dry_run=False)
    with database.begin() as db:
        assert AMBIGUOUS_CALLS_ARE_DECIDED.look(db, Conditions(datetime.now(UTC))).count == 2
        assert [one.subject for one in decide(db, "resubmit", [*ids, ids[0]], "molt", dry_run=False)] == ids
        assert AMBIGUOUS_CALLS_ARE_DECIDED.look(db, Conditions(datetime.now(UTC))).passed


def test_a_decision_waits_for_a_run_that_writes_and_does_not_block_it(database: Database, episode: Episode) -> None:
    """A run takes its job and then its calls; a decision that took them the other way round would meet it head on."""
    with database.begin() as db:
        call = lost(db, episode)
        mine, _ = claimed(db, episode)

    def put_aside() -> Decision:
        with database.begin() as db:
            return resubmit(db, call.id, "molt")

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as db:
            still_mine(db, mine)
            deciding = pool.submit(put_aside)
            await_a_waiter(db)
            mark_submitted(db, call.id, "job-7")
        with pytest.raises(NothingToDecide):
            deciding.result()


def test_a_result_of_which_nothing_could_be_made_can_be_asked_for_again(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = submitted(db, episode_id=episode.id)
        mark_succeeded(db, call.id, Decimal(1))
        mark_ingested(db, call.id, {"media": {"key": "arrivals/x.bin", "sha256": "0" * 64, "bytes": 1}})
        resubmit(db, call.id, "a test")
        assert call_by_id(db, call.id).state is CallState.EXPIRED
        assert call_by_id(db, call.id).cost_usd == 1


# Calls of which nobody fetches the result ----------------------------------------------------------------------------


def forgotten(db: sa.Connection, episode: Episode) -> Call:
    """A job at a provider that was left two hours ago, and whose episode was finished without it."""
    call = mark_running(db, submitted(db, episode_id=episode.id, quote_usd=Decimal(2)).id)
    db.execute(sa.text("UPDATE provider_jobs SET left_at = now() - interval '2 hours'"))
    complete_job(db, claim_job(db, episode.partition_key, "run-1", LEASE))
    return call


def test_a_call_of_which_nobody_fetches_the_result_can_be_given_up(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = forgotten(db, episode)
        conditions = Conditions(datetime.now(UTC))
        assert [row["call_id"] for row in PAID_CALLS_ARE_NOT_FORGOTTEN.look(db, conditions).rows] == [str(call.id)]
        decision = give_up(db, call.id, "molt")
        over = call_by_id(db, call.id)
        assert PAID_CALLS_ARE_NOT_FORGOTTEN.look(db, conditions).passed
    assert "2.00 USD stay on it as its cost" in decision.what
    assert (over.state, over.cost_usd, over.reserved_usd) == (CallState.FAILED, Decimal(2), Decimal(0))
    assert over.error == "given up by molt"


def test_a_call_that_the_next_attempt_will_take_up_is_not_given_up(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = forgotten(db, episode)
        reopen_job(db, job_of(db, episode).id)
        with pytest.raises(NothingToDecide, match="that `moltpipe check` names as forgotten"):
            give_up(db, call.id, "molt")
        assert call_by_id(db, call.id).state is CallState.RUNNING


# Another attempt -----------------------------------------------------------------------------------------------------


def test_an_episode_that_was_given_up_gets_all_its_attempts_again(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        use_up_attempts(db, episode)
        conditions = Conditions(datetime.now(UTC))
        assert JOBS_HAVE_ATTEMPTS_LEFT.look(db, conditions).count == 1
        (decision,) = decide(db, "retry", [episode.partition_key], "molt", dry_run=False)
        job = job_of(db, episode)
        assert JOBS_HAVE_ATTEMPTS_LEFT.look(db, conditions).passed
        assert (job.attempt_count, job.completed_at) == (0, None)
        assert job.available_at <= one(db, "SELECT clock_timestamp()")
    assert decision.as_json() == {
        "partition_key": episode.partition_key,
        "decision": "retry",
        "what": f"produce {episode.partition_key} with all 3 attempts again, after 3 that failed",
    }


def test_an_episode_that_needs_no_other_attempt_is_left_alone(database: Database, episode: Episode) -> None:
    key = episode.partition_key
    with database.begin() as db:
        with pytest.raises(NothingToRetry, match="none has failed"):
            retry(db, key, "molt")
        mine = claim_job(db, key, "run-1", LEASE)
        with pytest.raises(NothingToRetry, match="run run-1 has it"):
            retry(db, key, "molt")
        complete_job(db, mine)
        with pytest.raises(NothingToRetry, match="it was completed at"):
            retry(db, key, "molt")
        with pytest.raises(UnknownEpisode, match="nowhere-e01"):
            retry(db, "nowhere-e01", "molt")


# Media that are gone -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A finished episode: the shot that was filmed, and what is on record of it."""

    episode: Episode
    shot: Shot
    take: Take
    voiceover: Voiceover
    score: Score
    variant: Variant


@pytest.fixture
def made(database: Database, episode: Episode) -> Made:
    with database.begin() as db:
        claim, shots = claimed(db, episode)
        shot = shots[2]
        call = submitted(db, episode_id=episode.id, quote_usd=Decimal(2))
        found = Made(
            episode,
            shot,
            record_take(db, claim, shot.id, 1, stored("take.mp4"), 5.0, {}, provider_job_id=call.id),
            record_voiceover(db, claim, shot.id, stored("voice.wav"), 3.0, []),
            record_score(db, claim, stored("music.wav"), 30.0),
            publish_variant(
                db,
                claim,
                1,
                stored("cut.mp4"),
                captions_key="cut.vtt",
                thumbnail_key="cut.jpg",
                duration_seconds=30.0,
                ingredients="these",
            ),
        )
        set_poster(db, episode.series_id, stored("poster.png"))
        complete_job(db, claim)
        return found


def gone(db: sa.Connection, key: str, table: str, row_id: UUID) -> None:
    """What the sweep notes of a row whose object is not there."""
    former = {
        row.subject: row.detail
        for row in db.execute(sa.select(observations).where(observations.c.check_name == MEDIA_OBJECTS_ARE_THERE.name))
    }
    settle_observations(db, MEDIA_OBJECTS_ARE_THERE.name, former | {key: {"table": table, "row_id": str(row_id)}})


def names(db: sa.Connection) -> list[str]:
    return [str(row["key"]) for row in MEDIA_OBJECTS_ARE_THERE.look(db, Conditions(datetime.now(UTC))).rows]


def test_a_take_that_is_gone_is_filmed_again_by_the_next_run(database: Database, made: Made) -> None:
    with database.begin() as db:
        gone(db, "take.mp4", "takes", made.take.id)
        assert names(db) == ["take.mp4"]
        (decision,) = decide(db, "remake", ["take.mp4"], "molt", dry_run=False)
        production = load_production(db, made.episode.partition_key)
        job = job_of(db, made.episode)
        (entry,) = audit.entries(db, 1)
        assert names(db) == []
    assert (production.takes, production.variants[1].ingredients) == ({}, "these")
    assert (job.completed_at, job.attempt_count) == (None, 0)
    assert decision.what.startswith(f"{made.episode.partition_key}: make take 1 of shot 3, variant 1 anew (what call ")
    assert decision.as_json()["key"] == "take.mp4"
    assert (entry.by, entry.action, entry.subject) == ("molt", "remake", "take.mp4")
    assert isinstance(entry.before, dict)
    assert entry.before["takes"][0]["media_key"] == "take.mp4"
    assert isinstance(entry.after, dict)
    assert entry.after["takes"] == []


def test_an_earlier_take_takes_the_place_of_one_that_is_gone(database: Database, made: Made) -> None:
    """Filming again under the number of the first take would find what it had made, which is no current take."""
    with database.begin() as db:
        again = claim_job(db, made.episode.partition_key, "run-2", LEASE)
        lost = record_take(db, again, made.shot.id, 1, stored("second.mp4"), 5.0, {})
        third = record_take(db, again, made.shot.id, 1, stored("third.mp4"), 5.0, {})
        complete_job(db, again)
        gone(db, "second.mp4", "takes", lost.id)
        gone(db, "third.mp4", "takes", third.id)
        what = remake(db, "third.mp4", "molt").what
        production = load_production(db, made.episode.partition_key)
        assert production.takes[made.shot.id, 1].media.key == "take.mp4"
        assert what.endswith("use number 1 again in place of take 3 of shot 3, variant 1")
        assert names(db) == ["second.mp4"]
        assert remake(db, "second.mp4", "molt").what.endswith(
            "forget take 2 of shot 3, variant 1, which a later one has replaced"
        )
        assert load_production(db, made.episode.partition_key).takes == production.takes


def test_a_replaced_medium_that_is_gone_starts_no_work(database: Database, made: Made) -> None:
    with database.begin() as db:
        again = claim_job(db, made.episode.partition_key, "run-2", LEASE)
        record_voiceover(db, again, made.shot.id, stored("second.wav"), 3.0, [])
        complete_job(db, again)
        gone(db, "voice.wav", "voiceovers", made.voiceover.id)
        remake(db, "voice.wav", "molt")
        assert job_of(db, made.episode).completed_at is not None
        assert load_production(db, made.episode.partition_key).voiceovers[made.shot.id].media.key == "second.wav"


def test_what_else_is_gone_is_made_anew(database: Database, made: Made) -> None:
    key = made.episode.partition_key
    with database.begin() as db:
        gone(db, "voice.wav", "voiceovers", made.voiceover.id)
        gone(db, "music.wav", "scores", made.score.id)
        gone(db, "cut.vtt", "clip_variants", made.variant.id)
        gone(db, "poster.png", "limited_series", made.episode.series_id)
        done = decide(db, "remake", ["voice.wav", "music.wav", "cut.vtt", "poster.png"], "molt", dry_run=False)
        production = load_production(db, key)
        assert [one.what.partition(": ")[2] for one in done] == [
            "make voiceover 1 of shot 3 anew",
            "make music 1 anew",
            "cut variant 1 anew",
            "draw the poster of the series anew",
        ]
        assert (production.voiceovers, production.score, production.series.poster_key) == ({}, None, None)
        # The cut stays where it is until it is replaced, with its selection: viewers get what is there.
        assert (production.variants[1].ingredients, production.variants[1].is_selected) == ("", True)
        assert names(db) == ["cut.vtt"]
        pilot = next(job for job in load_jobs(db, unfinished_only=False) if job.partition_key.endswith("-e01"))
        assert done[3].what.startswith(pilot.partition_key)


@pytest.mark.parametrize("key", ["take.mp4", "voice.wav", "music.wav", "cut.vtt"])
def test_repair_does_not_call_done_what_a_person_has_remade(database: Database, made: Made, key: str) -> None:
    """The old cut is out all the while, so the episode looks finished: the wish would be gone without a word."""
    table, row_id = {
        "take.mp4": ("takes", made.take.id),
        "voice.wav": ("voiceovers", made.voiceover.id),
        "music.wav": ("scores", made.score.id),
        "cut.vtt": ("clip_variants", made.variant.id),
    }[key]
    waits_long = sa.text(
        "UPDATE production_jobs SET available_at = now() - interval '20 minutes' WHERE episode_id = :id"
    )
    conditions = Conditions(datetime.now(UTC))
    with database.begin() as db:
        gone(db, key, table, row_id)
        remake(db, key, "molt")
        db.execute(waits_long, {"id": made.episode.id})
        assert COMPLETED_JOBS_ARE_PUBLISHED.look(db, conditions).passed
        repair(db, conditions, "molt")
        assert job_of(db, made.episode).completed_at is None
        use_up_attempts(db, made.episode)
        db.execute(waits_long, {"id": made.episode.id})
        assert JOBS_HAVE_ATTEMPTS_LEFT.look(db, conditions).count == 1
        repair(db, conditions, "molt")
        assert JOBS_HAVE_ATTEMPTS_LEFT.look(db, conditions).count == 1


@pytest.mark.usefixtures("made")
def test_a_medium_of_which_nothing_is_known_to_be_wrong_is_not_thrown_away(database: Database) -> None:
    with database.begin() as db:
        before = everything(db)
        with pytest.raises(NothingToRemake, match="expected a key that `moltpipe check` names"):
            remake(db, "take.mp4", "molt")
        assert everything(db) == before


def test_nothing_is_taken_away_from_a_run(database: Database, made: Made) -> None:
    with database.begin() as db:
        gone(db, "take.mp4", "takes", made.take.id)
        claim_job(db, made.episode.partition_key, "run-2", LEASE)
        with pytest.raises(NothingToRemake, match="run run-2 is at work"):
            remake(db, "take.mp4", "molt")


def test_a_row_that_is_gone_by_now_is_told(database: Database) -> None:
    with database.begin() as db:
        gone(db, "take.mp4", "takes", uuid4())
        with pytest.raises(NothingToRemake, match="its row in takes is gone by now"):
            remake(db, "take.mp4", "molt")


def test_every_decision_is_written_down(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = lost(db, episode)
        decide(db, "give_up", [str(call.id)], "molt", dry_run=False)
        decide(db, "resubmit", [str(call.id)], "claw", dry_run=False)
        use_up_attempts(db, episode)
        decide(db, "retry", [episode.partition_key], "claw", dry_run=True)
        decide(db, "retry", [episode.partition_key], "claw", dry_run=False)
        entries = audit.entries(db, 9)
    assert [(entry.by, entry.action, entry.subject) for entry in reversed(entries)] == [
        ("molt", "give_up", str(call.id)),
        ("claw", "resubmit", str(call.id)),
        ("claw", "retry", episode.partition_key),
    ]
    given_up = entries[-1]
    assert isinstance(given_up.before, list)
    assert isinstance(given_up.after, list)
    assert (given_up.before[0]["state"], given_up.before[0]["reserved_usd"]) == ("ambiguous", 2)
    assert (given_up.after[0]["state"], given_up.after[0]["reserved_usd"]) == ("failed", 0)
