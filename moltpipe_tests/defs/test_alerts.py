"""The alert sensor on a real instance, ledger and webhook."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.test_utils import create_run_for_test

from moltpipe.alerting import channels
from moltpipe.defs.alerts import alert_sensor, tell
from moltpipe.defs.delivery import DELIVERY_CHECKS, NO_CUT, Judged, results
from moltpipe.defs.runs import PARTITION_TAG
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.incidents import Trouble, close_incident, open_incident, open_incidents, undelivered_alerts
from moltpipe.ledger.jobs import JobHeld, complete_job
from moltpipe.ledger.periods import close_agent_vote, voting_settings
from moltpipe.settings import variables
from moltpipe.studio.alerts import MESSAGES_PER_MINUTE
from moltpipe.studio.delivery import RULES, Delivery, Finding
from moltpipe.studio.keys import period_key
from moltpipe.studio.records import Episode
from moltpipe_tests.ledger.beginnings import await_a_waiter, one
from moltpipe_tests.stories import a_claim, a_series, closed_vote
from moltpipe_tests.webhook import Manner, Webhook, webhook

KEY = "buoy-1a2b3c4d-e01"
UI = "http://ui.example:3000"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A webhook, with its channel `a` set."""
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOLTPIPE_UI_URL", UI)
    with webhook() as running:
        monkeypatch.setenv("MOLTPIPE_ALERT_URLS", running.url("a"))
        yield running


class Ticks:
    """The sensor as the daemon would tick it: each tick has the cursor of the one before."""

    def __init__(self, instance: dg.DagsterInstance, database: Database) -> None:
        self.instance, self.database = instance, database
        self.cursor: str | None = None

    def __call__(self) -> str:
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"ledger": self.database}
        )
        answer = alert_sensor(context)
        assert isinstance(answer, dg.SensorResult)
        assert not answer.run_requests
        self.cursor = answer.cursor
        return answer.skip_reason.skip_message or "" if answer.skip_reason else ""


@pytest.fixture
def tick(instance: dg.DagsterInstance, database: Database) -> Ticks:
    return Ticks(instance, database)


def run(
    instance: dg.DagsterInstance, error: Callable[[], BaseException] | None = None, *, job: str = "produce_episode"
) -> str:
    """A run of a job of this name for the partition, which fails with this error."""

    @dg.op
    def clips() -> None:
        if error is not None:
            raise error()

    @dg.job(name=job)
    def made() -> None:
        clips()

    return made.execute_in_process(instance=instance, tags={PARTITION_TAG: KEY}, raise_on_error=False).run_id


def away() -> Exception:
    return RuntimeError("the camera is away")


def held() -> Exception:
    now = datetime.now(UTC)
    return JobHeld(KEY, "another-run", now, now)


def subjects(database: Database) -> list[str]:
    with database.begin() as db:
        return [incident.subject for incident in open_incidents(db)]


def titles(hook: Webhook, name: str = "a") -> list[str]:
    return [message.title for message in hook.taken(name)]


def trouble(number: int = 0) -> Trouble:
    return Trouble(f"check:{number}", "error", f"trouble {number}", "row 1", "mend it", "/assets/x")


def queue(database: Database, hook: Webhook, *names: str, count: int = 1, first: int = 0) -> tuple[Any, ...]:
    """So many troubles that these channels must be told of. Returns the channels."""
    made = channels([hook.url(name) for name in names])
    for number in range(first, first + count):
        with database.begin() as db:
            open_incident(db, trouble(number), [channel.id for channel in made])
    return made


def make_due(database: Database) -> None:
    with database.begin() as db:
        db.execute(sa.text("UPDATE alerts SET due_at = clock_timestamp(), held_until = NULL"))


def test_a_failed_run_is_told_once_and_its_success_as_over(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    run_id = run(instance, away)
    assert tick() == "channel 1 (json): 1 sent"
    (told,) = hook.taken("a")
    assert told.title == f"moltpipe: job produce_episode failed for {KEY}"
    assert "clips: RuntimeError: the camera is away" in told.body
    assert told.body.endswith(f"{UI}/runs/{run_id}")
    assert told.tone == "failure"

    assert tick() == "nothing to tell"
    run(instance, away)
    tick()
    assert len(hook.taken("a")) == 1
    assert subjects(database) == [f"run:produce_episode:{KEY}"]

    run(instance)
    tick()
    assert titles(hook)[1].startswith("moltpipe: over after ")
    assert hook.taken("a")[1].tone == "success"
    assert subjects(database) == []


def test_a_run_that_an_operator_ended_is_no_incident(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    create_run_for_test(instance, status=dg.DagsterRunStatus.CANCELED, tags={PARTITION_TAG: KEY})
    tick()
    assert (subjects(database), hook.taken("a")) == ([], [])


def test_a_run_whose_work_another_one_does_is_no_incident(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    run(instance, held)
    tick()
    assert (subjects(database), hook.taken("a")) == ([], [])


def test_a_run_whose_process_was_told_to_stop_is_no_incident(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    """`moltpipe up` was ended: the job was given back as it was, and a new run goes on with it."""
    stopped = instance.get_run_by_id(run(instance, dg.DagsterExecutionInterruptedError))
    assert stopped is not None
    assert stopped.status is dg.DagsterRunStatus.FAILURE
    tick()
    assert (subjects(database), hook.taken("a")) == ([], [])


def test_a_run_that_died_without_a_word_is_an_incident(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    died = create_run_for_test(
        instance, job_name="produce_episode", status=dg.DagsterRunStatus.STARTED, tags={PARTITION_TAG: KEY}
    )
    instance.report_run_failed(died, "The process of this run is gone.")
    tick()
    assert subjects(database) == [f"run:produce_episode:{KEY}"]
    assert "The process of this run is gone." in hook.taken("a")[0].body


def test_a_run_that_was_called_failed_and_succeeds_all_the_same_is_over(
    instance: dg.DagsterInstance, database: Database, tick: Ticks
) -> None:
    """The incident: what runs are copied from was killed, Dagster called its runs failed, and they lived."""
    lives = create_run_for_test(
        instance, job_name="produce_episode", status=dg.DagsterRunStatus.STARTED, tags={PARTITION_TAG: KEY}
    )
    instance.report_run_failed(lives, "Run execution process unexpectedly exited.")
    tick()
    assert subjects(database) == [f"run:produce_episode:{KEY}"]
    over = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_SUCCESS.value, job_name="produce_episode")
    instance.report_dagster_event(over, lives.run_id)
    tick()
    assert subjects(database) == []


def died_with(instance: dg.DagsterInstance, episode: Episode, meanwhile: Callable[[], None]) -> None:
    """A run of an episode whose process died, after this was done in it."""
    tags = {PARTITION_TAG: episode.partition_key}
    died = create_run_for_test(instance, job_name="produce_episode", status=dg.DagsterRunStatus.STARTED, tags=tags)
    meanwhile()
    instance.report_run_failed(died, "The process of this run is gone.")


def completed(database: Database, episode: Episode) -> None:
    claim = a_claim(database, episode)
    with database.begin() as db:
        complete_job(db, claim)


def test_a_run_that_died_when_its_episode_was_complete_failed_at_nothing(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    """No other run comes after it, so nothing else would ever say that what failed before is over."""
    episode = a_series(database)[1]
    died_with(instance, episode, lambda: None)
    tick()
    assert subjects(database) == [f"run:produce_episode:{episode.partition_key}"]
    died_with(instance, episode, lambda: completed(database, episode))
    tick()
    assert subjects(database) == []
    assert [message.tone for message in hook.taken("a")] == ["failure", "success"]


def test_a_run_that_died_as_it_made_a_complete_episode_anew_is_an_incident(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    episode = a_series(database)[1]
    completed(database, episode)
    died_with(instance, episode, lambda: None)
    tick()
    assert subjects(database) == [f"run:produce_episode:{episode.partition_key}"]
    assert len(hook.taken("a")) == 1


def test_a_lost_cursor_changes_nothing(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    run(instance, away)
    tick()
    run(instance)
    tick()
    told = titles(hook)
    for cursor in (None, "", "nonsense", "{}", "[1]"):
        tick.cursor = cursor
        tick()
    assert titles(hook) == told
    assert subjects(database) == []


def test_an_old_failure_that_somebody_tags_is_not_told_again(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    failed = run(instance, away)
    run(instance)
    tick()
    cursor = tick.cursor
    instance.add_run_tags(failed, {"seen-by": "an operator"})
    assert cursor is not None
    tick.cursor = cursor.replace(failed, "another")
    tick()
    assert (subjects(database), hook.taken("a")) == ([], [])


def test_runs_are_looked_at_once(instance: dg.DagsterInstance, hook: Webhook, tick: Ticks) -> None:
    assert hook.port
    run_id = run(instance, away)
    tick()
    assert run_id in (tick.cursor or "")
    before = tick.cursor
    tick()
    assert tick.cursor == before


def test_an_episode_that_a_person_made_whole_ends_what_failed_for_it(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    run(instance, away)
    tick()
    assert len(hook.taken("a")) == 1
    run(instance, job="another_way")
    tick()
    assert subjects(database) == []


def cut(*, black: bool) -> list[Judged]:
    found = tuple(
        Finding(rule, ("black from 0:01 to 0:09",) if black and rule == "nothing_black" else ()) for rule in RULES
    )
    return [Judged("variant 1", Delivery(found, 30.0, 1000))]


def stitched(instance: dg.DagsterInstance, cuts: list[Judged]) -> None:
    """A run of `stitched_episode` that ends with these findings."""

    @dg.asset(check_specs=DELIVERY_CHECKS)
    def stitched_episode():  # type: ignore[no-untyped-def] # noqa: ANN202 -- Dagster's own generator
        yield dg.MaterializeResult(check_results=list(results(KEY, cuts)))

    assert dg.materialize([stitched_episode], instance=instance).success


def test_a_broken_rule_of_delivery_is_told_with_its_partition_until_it_holds(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    stitched(instance, cut(black=True))
    tick()
    assert subjects(database) == [f"check:nothing_black:{KEY}"]
    (told,) = hook.taken("a")
    assert told.title == f"moltpipe: {KEY} breaks nothing_black"
    assert "variant 1: black from 0:01 to 0:09" in told.body
    assert told.body.endswith(f"{UI}/assets/stitched_episode?view=partitions&partition={KEY}")

    stitched(instance, [Judged("the cut", None, NO_CUT)])
    tick()
    assert subjects(database) == [f"check:nothing_black:{KEY}"]
    stitched(instance, cut(black=False))
    tick()
    assert subjects(database) == []
    assert len(hook.taken("a")) == 2


def test_a_rule_that_nobody_could_look_into_is_no_incident(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    stitched(instance, [Judged("the cut", None, NO_CUT)])
    tick()
    assert (subjects(database), hook.taken("a")) == ([], [])


def test_without_channels_incidents_are_kept_and_nothing_is_sent(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOLTPIPE_ALERT_URLS")
    run(instance, away)
    assert tick() == "nothing to tell"
    assert subjects(database) == [f"run:produce_episode:{KEY}"]
    with database.begin() as db:
        assert undelivered_alerts(db) == []
    assert hook.asked("a") == 0


def test_what_cannot_be_noted_keeps_nobody_from_being_told(database: Database, hook: Webhook, tick: Ticks) -> None:
    queue(database, hook, "a")
    tick.cursor = '{"since": "0001-01-01T00:00:00+00:00", "seen": []}'
    with pytest.raises(OverflowError):
        tick()
    assert len(hook.taken("a")) == 1


def test_a_sensor_without_its_ledger_fails_its_tick(instance: dg.DagsterInstance, hook: Webhook) -> None:
    nowhere = Ticks(instance, Database("postgresql://nobody@127.0.0.1:1/nothing"))
    with pytest.raises(DatabaseUnavailable):
        nowhere()
    assert hook.asked("a") == 0


def test_a_channel_that_fails_loses_nothing_and_blocks_nobody(database: Database, hook: Webhook) -> None:
    hook.manners["refuses"], hook.manners["hangs"] = Manner.REFUSES, Manner.HANGS
    with_limit = f"{hook.url('hangs')}?rto=0.5"
    made = channels([hook.url("refuses"), with_limit, "json://127.0.0.1:9/x", hook.url("a")])
    with database.begin() as db:
        open_incident(db, trouble(), [channel.id for channel in made])
    began = time.monotonic()
    tell(database, made, UI)
    assert time.monotonic() - began < 10
    assert titles(hook) == ["moltpipe: trouble 0"]
    with database.begin() as db:
        late = undelivered_alerts(db)
    assert {one.channel for one in late} == {channel.id for channel in made[:3]}
    assert {one.attempts for one in late} == {1}
    assert all(one.last_error and one.last_error.startswith("channel ") for one in late)

    hook.manners.clear()
    make_due(database)
    tell(database, made, UI)
    assert titles(hook, "refuses") == titles(hook, "hangs") == titles(hook, "a") == ["moltpipe: trouble 0"]


def test_later_alerts_go_on_while_one_rests(database: Database, hook: Webhook) -> None:
    made = queue(database, hook, "a")
    hook.manners["a"] = Manner.REFUSES
    tell(database, made, UI)
    hook.manners.clear()
    queue(database, hook, "a", first=1)
    tell(database, made, UI)
    assert titles(hook) == ["moltpipe: trouble 1"]
    make_due(database)
    tell(database, made, UI)
    assert titles(hook) == ["moltpipe: trouble 1", "moltpipe: trouble 0"]


def test_after_a_failure_the_rest_of_the_tick_is_left_for_the_next(database: Database, hook: Webhook) -> None:
    made = queue(database, hook, "a", count=2)
    hook.manners["a"] = Manner.REFUSES
    tell(database, made, UI)
    assert hook.asked("a") == 1
    hook.manners.clear()
    tell(database, made, UI)
    assert titles(hook) == ["moltpipe: trouble 1"]


def test_what_is_told_keeps_its_order(database: Database, hook: Webhook) -> None:
    made = queue(database, hook, "a", count=2)
    tell(database, made, UI)
    with database.begin() as db:
        close_incident(db, trouble(0).subject, [made[0].id])
    queue(database, hook, "a", first=2)
    tell(database, made, UI)
    words = [title.rpartition(": ")[2] for title in titles(hook)]
    assert words == ["trouble 0", "trouble 1", "trouble 0", "trouble 2"]


def test_two_senders_at_once_tell_it_once(database: Database, hook: Webhook) -> None:
    made = queue(database, hook, "a", "b", count=2)
    start = threading.Barrier(4)

    def send_together(_: int) -> None:
        start.wait()
        tell(database, made, UI)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send_together, range(4)))
    assert titles(hook, "a") == titles(hook, "b") == ["moltpipe: trouble 0", "moltpipe: trouble 1"]


def test_a_sender_that_dies_between_sending_and_noting_it_loses_nothing(database: Database, hook: Webhook) -> None:
    """It is told again after the hold: twice is better than never, and nobody can have both without the receiver."""
    made = queue(database, hook, "a")
    hook.manners["a"] = Manner.LATE
    with ThreadPoolExecutor() as pool:
        dying = pool.submit(tell, database, made, UI)
        hook.await_asked("a")
        with database.begin() as db:
            db.execute(sa.text("SELECT id FROM alerts FOR UPDATE"))
            hook.let_go.set()
            await_a_waiter(db)
            waiter = one(db, "SELECT pid FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)) LIMIT 1")
            one(db, "SELECT pg_terminate_backend(:pid)", pid=waiter)
            with pytest.raises(DatabaseUnavailable):
                dying.result()
    with database.begin() as db:
        assert len(undelivered_alerts(db)) == 1
    tell(database, made, UI)
    assert len(titles(hook)) == 1
    make_due(database)
    tell(database, made, UI)
    assert titles(hook) == ["moltpipe: trouble 0"] * 2
    with database.begin() as db:
        assert undelivered_alerts(db) == []


def test_a_flood_becomes_a_few_messages_and_none_is_lost(database: Database, hook: Webhook) -> None:
    made: tuple[Any, ...] = ()
    for n in range(MESSAGES_PER_MINUTE + 3):
        made = queue(database, hook, "a", first=n)
        tell(database, made, UI)
    assert len(titles(hook)) == MESSAGES_PER_MINUTE
    with database.begin() as db:
        assert len(undelivered_alerts(db)) == 3
        db.execute(sa.text("UPDATE alerts SET sent_at = sent_at - interval '1 minute'"))
    tell(database, made, UI)
    assert titles(hook)[-1] == "moltpipe: 3 alerts: 3 new"
    with database.begin() as db:
        assert undelivered_alerts(db) == []
        messages = one(db, "SELECT count(DISTINCT message_id) FROM alerts")
    assert messages == MESSAGES_PER_MINUTE + 1 == len(titles(hook))


def test_what_waited_for_a_channel_that_is_gone_is_left_alone(database: Database, hook: Webhook) -> None:
    both = queue(database, hook, "gone", "a")
    tell(database, both[1:], UI)
    assert hook.asked("gone") == 0
    assert len(titles(hook)) == 1
    with database.begin() as db:
        (left,) = undelivered_alerts(db)
    assert (left.channel, left.attempts) == (both[0].id, 0)


def test_a_channel_that_was_set_later_hears_of_what_is_open_once_and_of_its_end(
    database: Database, hook: Webhook
) -> None:
    """Its address had a slip: under the right one it is another channel."""
    queue(database, hook, "slip", count=2)
    with database.begin() as db:
        close_incident(db, trouble(0).subject, [])
    right = channels([hook.url("a")])
    for _ in range(2):
        tell(database, right, UI)
    assert titles(hook) == ["moltpipe: trouble 1"]
    with database.begin() as db:
        close_incident(db, trouble(1).subject, [right[0].id])
    tell(database, right, UI)
    assert [message.tone for message in hook.taken("a")] == ["failure", "success"]


def test_a_closing_that_failed_is_over_when_a_person_has_closed_the_vote(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    """No run would come any more that could succeed."""
    period = closed_vote(database)
    tags = {PARTITION_TAG: period_key(period)}
    failed = create_run_for_test(
        instance, job_name="close_voting_period", status=dg.DagsterRunStatus.STARTED, tags=tags
    )
    instance.report_run_failed(failed, "The process of this run is gone.")
    tick()
    tick()
    assert subjects(database) == [f"run:close_voting_period:{period_key(period)}"]
    with database.begin() as db:
        close_agent_vote(db, period.id, voting_settings(db).rules, datetime.now(UTC))
    tick()
    assert subjects(database) == []
    assert [message.tone for message in hook.taken("a")] == ["failure", "success"]


def test_a_run_that_failed_is_over_when_its_episode_is_completed_without_it(
    instance: dg.DagsterInstance, database: Database, hook: Webhook, tick: Ticks
) -> None:
    """As by `moltpipe repair`, which completes a job whose variants are all out."""
    episode = a_series(database)[1]
    died_with(instance, episode, lambda: None)
    tick()
    completed(database, episode)
    tick()
    assert subjects(database) == []
    assert [message.tone for message in hook.taken("a")] == ["failure", "success"]


def test_the_sensor_says_that_it_ticked(database: Database, hook: Webhook, tick: Ticks) -> None:
    assert hook.port
    tick()
    with database.begin() as db:
        age = one(db, "SELECT clock_timestamp() - ticked_at FROM watchers WHERE name = 'alert_sensor'")
    assert age < timedelta(minutes=1)
