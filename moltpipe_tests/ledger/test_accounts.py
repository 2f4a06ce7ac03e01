from __future__ import annotations

import itertools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moltpipe.ledger.accounts import (
    FAULTS,
    NotYet,
    Started,
    StartLimits,
    account_states,
    block_account,
    note_answered,
    note_fault,
    note_success,
    open_circuit,
    start_call,
)
from moltpipe.ledger.calls import (
    Call,
    CallState,
    IllegalTransition,
    UnknownCall,
    claim_call,
    mark_ambiguous,
    mark_failed,
    mark_submitted,
    mark_succeeded,
    mark_unsent,
)
from moltpipe.ledger.database import Database
from moltpipe_tests.ledger.beginnings import await_a_waiter, intent, one

ACCOUNT = "api.example/1a2b"
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
MANY = StartLimits(max_concurrency=100, start_delay=timedelta(0), deadline=timedelta(hours=1))


@pytest.fixture
def db(transaction: sa.Connection) -> sa.Connection:
    return transaction


def claimed(db: sa.Connection, account: str | None = ACCOUNT, process_uuid: str = "run-1") -> Call:
    return claim_call(db, intent(account=account, process_uuid=process_uuid))


def start(db: sa.Connection, limits: StartLimits = MANY) -> Started | NotYet:
    return start_call(db, claimed(db).id, limits)


def started(db: sa.Connection, limits: StartLimits = MANY) -> Call:
    outcome = start(db, limits)
    assert isinstance(outcome, Started), outcome
    return outcome.call


def kept_waiting(db: sa.Connection, limits: StartLimits = MANY) -> NotYet:
    outcome = start(db, limits)
    assert isinstance(outcome, NotYet), outcome
    return outcome


def clock(db: sa.Connection) -> datetime:
    now: datetime = one(db, "SELECT clock_timestamp()")
    return now


def let_pass(db: sa.Connection, time: timedelta) -> None:
    """Move every time that an account waits for into the past."""
    columns = ("next_start_at", "blocked_until", "probing_until", "opened_at")
    moved = ", ".join(f"{column} = {column} - :time" for column in columns)
    db.execute(sa.text(f"UPDATE engine_accounts SET {moved}"), {"time": time})  # noqa: S608 - constants


def rest(db: sa.Connection, until: datetime | None) -> timedelta:
    """How long from now, to the second."""
    assert until is not None
    return timedelta(seconds=round((until - clock(db)).total_seconds()))


# Starting ------------------------------------------------------------------------------------------------------------


def test_a_call_that_may_leave_counts_as_having_left(db: sa.Connection) -> None:
    before = clock(db)
    call = started(db)
    assert call.state is CallState.SUBMITTING
    assert call.left_at is not None
    assert before < call.left_at < clock(db)


def test_as_many_are_in_flight_as_the_account_allows(db: sa.Connection) -> None:
    two = StartLimits(2, timedelta(0), timedelta(hours=1))
    first, second, third = started(db, two), started(db, two), claimed(db)
    assert start_call(db, third.id, two) == NotYet(None, "2 of 2 in flight")
    mark_submitted(db, first.id, "job-1")
    assert isinstance(start_call(db, third.id, two), NotYet)
    mark_ambiguous(db, second.id, "no answer")
    assert isinstance(start_call(db, third.id, two), NotYet)
    mark_succeeded(db, first.id, Decimal(1))
    assert isinstance(start_call(db, third.id, two), Started)


def test_a_free_place_goes_to_the_process_whose_call_was_claimed_first(db: sa.Connection) -> None:
    two = StartLimits(2, timedelta(0), timedelta(hours=1))
    at_work = [started(db, two), started(db, two)]
    early = [claimed(db, process_uuid="early"), claimed(db, process_uuid="early")]
    late = claimed(db, process_uuid="late")
    for call in (late, early[1]):
        assert isinstance(start_call(db, call.id, two), NotYet)
    for call in at_work:
        mark_submitted(db, call.id, f"job-{call.id}")
        mark_succeeded(db, call.id, Decimal(1))
    assert start_call(db, late.id, two) == NotYet(None, "0 of 2 in flight, 2 that came earlier are next")
    # Who of a process asks, and in which order its calls leave, is its own affair.
    assert isinstance(start_call(db, early[1].id, two), Started)
    assert start_call(db, late.id, two) == NotYet(None, "1 of 2 in flight, 1 that came earlier are next")
    assert isinstance(start_call(db, early[0].id, two), Started)


def test_two_processes_never_wait_for_each_other(db: sa.Connection) -> None:
    """One of them has the oldest call, which is not the one that asks: it may have been refused and rest."""
    alone = StartLimits(1, timedelta(0), timedelta(hours=1))
    at_work = started(db, alone)
    claimed(db, process_uuid="first")
    between, last = claimed(db, process_uuid="second"), claimed(db, process_uuid="first")
    for call in (between, last):
        assert isinstance(start_call(db, call.id, alone), NotYet)
    mark_submitted(db, at_work.id, "job-1")
    mark_succeeded(db, at_work.id, Decimal(1))
    assert isinstance(start_call(db, between.id, alone), NotYet)
    assert isinstance(start_call(db, last.id, alone), Started)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), st.randoms(use_true_random=False))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_whoever_asks_some_call_always_gets_a_free_place(db: sa.Connection, processes: list[str], dice: Random) -> None:
    """Each process asks with one call at a time, in any order of its own, and keeps to it until it has its place."""
    alone = StartLimits(1, timedelta(0), timedelta(hours=1))
    account = f"account-{uuid4()}"
    waiting: dict[str, list[Call]] = {}
    for process in processes:
        waiting.setdefault(process, []).append(claimed(db, account, process))
    for calls in waiting.values():
        dice.shuffle(calls)
    while waiting:
        asked = {process: start_call(db, calls[0].id, alone) for process, calls in waiting.items()}
        served = [process for process, outcome in asked.items() if isinstance(outcome, Started)]
        if not served:
            # Now that all of them are known to wait, one of them must be next.
            asked = {process: start_call(db, calls[0].id, alone) for process, calls in waiting.items()}
            served = [process for process, outcome in asked.items() if isinstance(outcome, Started)]
        (process,) = served
        call = waiting[process].pop(0)
        mark_submitted(db, call.id, f"job-{call.id}")
        mark_succeeded(db, call.id, Decimal(1))
        waiting = {process: calls for process, calls in waiting.items() if calls}


def test_nobody_waits_for_a_process_that_no_longer_asks(db: sa.Connection) -> None:
    """It has died, or its provider has asked it to wait: the row alone would keep its place for ever."""
    alone = StartLimits(1, timedelta(0), timedelta(hours=1))
    at_work, gone, late = started(db, alone), claimed(db, process_uuid="gone"), claimed(db, process_uuid="late")
    assert isinstance(start_call(db, gone.id, alone), NotYet)
    mark_submitted(db, at_work.id, "job-1")
    mark_succeeded(db, at_work.id, Decimal(1))
    assert isinstance(start_call(db, late.id, alone), NotYet)
    db.execute(sa.text("UPDATE engine_queues SET asked_at = asked_at - interval '4 seconds'"))
    assert isinstance(start_call(db, late.id, alone), Started)
    assert one(db, "SELECT string_agg(process_uuid, ',') FROM engine_queues") == "late"


def test_nobody_waits_for_a_call_that_has_not_asked_yet(db: sa.Connection) -> None:
    alone = StartLimits(1, timedelta(0), timedelta(hours=1))
    claimed(db, process_uuid="early")
    started(db, alone)


def test_a_call_that_is_sent_again_does_not_stand_in_its_own_way(db: sa.Connection) -> None:
    alone = StartLimits(1, timedelta(0), timedelta(hours=1))
    call = mark_unsent(db, started(db, alone).id)
    assert isinstance(start_call(db, call.id, alone), Started)


def test_after_its_deadline_a_lost_call_takes_no_place(db: sa.Connection) -> None:
    alone = StartLimits(1, timedelta(0), MINUTE)
    mark_ambiguous(db, started(db, alone).id, "no answer")
    db.execute(sa.text("UPDATE provider_jobs SET left_at = left_at - interval '61 seconds'"))
    started(db, alone)


def test_a_call_that_waits_for_a_person_does_not_stop_the_others(db: sa.Connection) -> None:
    alone = StartLimits(1, timedelta(0), timedelta(hours=1))
    mark_ambiguous(db, started(db, alone).id, "no answer")
    next_one = claimed(db)
    assert isinstance(start_call(db, next_one.id, alone), NotYet)
    db.execute(sa.text("UPDATE provider_jobs SET left_at = left_at - interval '181 seconds'"))
    assert isinstance(start_call(db, next_one.id, alone), Started)


def test_accounts_do_not_wait_for_each_other(db: sa.Connection) -> None:
    alone = StartLimits(1, SECOND, MINUTE)
    started(db, alone)
    assert isinstance(start_call(db, claimed(db, "other.example/3c4d").id, alone), Started)


def test_two_starts_keep_their_distance(db: sa.Connection) -> None:
    slow = StartLimits(100, 10 * SECOND, MINUTE)
    started(db, slow)
    early = kept_waiting(db, slow)
    assert early.wait is not None
    assert 9 * SECOND < early.wait <= 10 * SECOND
    assert not early.blocked
    let_pass(db, early.wait)
    started(db, slow)


def test_the_distance_counts_from_the_answer_too(db: sa.Connection) -> None:
    slow = StartLimits(100, 10 * SECOND, MINUTE)
    started(db, slow)
    let_pass(db, 10 * SECOND)
    note_answered(db, ACCOUNT, 10 * SECOND)
    assert isinstance(start(db, slow), NotYet)
    # An answer never brings the next start nearer.
    note_answered(db, ACCOUNT, SECOND)
    assert rest(db, one(db, "SELECT next_start_at FROM engine_accounts")) == 10 * SECOND


def test_only_a_claimed_call_is_started(db: sa.Connection) -> None:
    call = started(db)
    with pytest.raises(IllegalTransition):
        start_call(db, call.id, MANY)
    with pytest.raises(UnknownCall):
        start_call(db, UUID(int=7), MANY)
    with pytest.raises(ValueError, match="expected one that has an account"):
        start_call(db, claimed(db, None).id, MANY)


def test_of_two_that_start_the_same_call_one_sends_it(database: Database) -> None:
    with database.begin() as db:
        call = claimed(db)

    def send() -> Started | NotYet:
        with database.begin() as db:
            return start_call(db, call.id, MANY)

    with ThreadPoolExecutor(1) as pool, database.begin() as db:
        start_call(db, call.id, MANY)
        late = pool.submit(send)
        # The account was made in this transaction, so the other one waits for it to end.
        await_a_waiter(db)
        db.commit()
        with pytest.raises(IllegalTransition):
            late.result()


# Waiting because the provider says so ---------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_provider_wants_it(db: sa.Connection) -> None:
    block_account(db, ACCOUNT, 30 * SECOND, "429: slow down\x00")
    block_account(db, ACCOUNT, 10 * SECOND, "429: later")
    blocked = kept_waiting(db)
    assert (blocked.blocked, blocked.why) == (True, "429: slow down\ufffd")
    assert blocked.wait is not None
    assert 29 * SECOND < blocked.wait <= 30 * SECOND
    note_success(db, ACCOUNT)
    assert kept_waiting(db).blocked
    let_pass(db, 30 * SECOND)
    started(db)
    # A wait is no circuit: nobody has to try first.
    started(db)


# The circuit ---------------------------------------------------------------------------------------------------------


def test_a_refused_key_rests_five_minutes_and_then_twice_as_long_up_to_an_hour(db: sa.Connection) -> None:
    rests = []
    for _ in range(6):
        until = open_circuit(db, ACCOUNT, "401: no such key")
        rests.append(rest(db, until) / MINUTE)
        assert kept_waiting(db).blocked
        let_pass(db, until - clock(db))
    assert rests == [5, 10, 20, 40, 60, 60]


def test_calls_that_were_on_their_way_do_not_open_it_again(db: sa.Connection) -> None:
    first = open_circuit(db, ACCOUNT, "402: no credit")
    assert open_circuit(db, ACCOUNT, "402: no credit") == first
    assert note_fault(db, ACCOUNT, "500") in (None, first)


def test_the_fifth_fault_in_a_row_opens_the_circuit_for_a_minute_later_up_to_thirty(db: sa.Connection) -> None:
    for _ in range(FAULTS - 1):
        assert note_fault(db, ACCOUNT, "503: upstream") is None
    rests = []
    for _ in range(7):
        until = note_fault(db, ACCOUNT, "503: upstream")
        assert until is not None
        rests.append(rest(db, until) / MINUTE)
        let_pass(db, until - clock(db))
    assert rests == [1, 2, 4, 8, 16, 30, 30]


def test_a_success_between_faults_begins_the_count_anew(db: sa.Connection) -> None:
    for _ in range(FAULTS - 1):
        note_fault(db, ACCOUNT, "503")
    note_success(db, ACCOUNT)
    for _ in range(FAULTS - 1):
        assert note_fault(db, ACCOUNT, "503") is None
    started(db)


def test_after_the_rest_one_call_tries_and_the_others_wait(db: sa.Connection) -> None:
    let_pass(db, open_circuit(db, ACCOUNT, "402: no credit") - clock(db))
    started(db)
    waiting = kept_waiting(db)
    assert (waiting.wait, waiting.blocked) == (None, False)
    assert "402: no credit" in waiting.why
    # One that is lost is not waited for longer than a minute.
    let_pass(db, MINUTE)
    started(db)
    kept_waiting(db)
    note_success(db, ACCOUNT)
    started(db)
    started(db)


def test_a_call_that_tries_and_is_refused_opens_it_for_twice_as_long(db: sa.Connection) -> None:
    let_pass(db, open_circuit(db, ACCOUNT, "402: no credit") - clock(db))
    call = started(db)
    mark_failed(db, call.id, "quota", "402: no credit")
    assert rest(db, open_circuit(db, ACCOUNT, "402: no credit")) == 10 * MINUTE
    assert kept_waiting(db).blocked


def test_a_call_that_tries_and_is_told_to_wait_lets_the_next_one_try(db: sa.Connection) -> None:
    let_pass(db, open_circuit(db, ACCOUNT, "402: no credit") - clock(db))
    mark_unsent(db, started(db).id)
    block_account(db, ACCOUNT, SECOND, "429")
    let_pass(db, SECOND)
    started(db)


def test_a_success_closes_the_circuit_and_its_next_rest_is_short_again(db: sa.Connection) -> None:
    open_circuit(db, ACCOUNT, "401")
    note_success(db, ACCOUNT)
    started(db)
    assert rest(db, open_circuit(db, ACCOUNT, "401")) == 5 * MINUTE


def test_the_success_of_a_call_from_before_the_outage_proves_nothing(db: sa.Connection) -> None:
    old = started(db)
    let_pass(db, open_circuit(db, ACCOUNT, "402: no credit") - clock(db))
    db.execute(sa.text("UPDATE provider_jobs SET left_at = left_at - interval '1 hour'"))
    assert old.left_at is not None
    note_success(db, ACCOUNT, old.left_at - timedelta(hours=1))
    tried = started(db)
    assert isinstance(start(db), NotYet)
    note_success(db, ACCOUNT, tried.left_at)
    started(db)


# For the operator ----------------------------------------------------------------------------------------------------


def test_the_operator_sees_who_is_at_work_and_who_may_not(db: sa.Connection) -> None:
    mark_succeeded(db, mark_submitted(db, started(db).id, "job-1").id, Decimal(1))
    started(db)
    mark_ambiguous(db, started(db).id, "no answer")
    until = open_circuit(db, "other.example/3c4d", "401: no such key")
    idle, blocked = account_states(db)
    assert (idle.account, idle.in_flight, idle.blocked_until, idle.reason) == (ACCOUNT, 1, None, None)
    assert (blocked.in_flight, blocked.blocked_until, blocked.reason) == (0, until, "401: no such key")
    let_pass(db, timedelta(hours=2))
    assert [one.blocked_until for one in account_states(db)] == [None, None]


# Over every process --------------------------------------------------------------------------------------------------

LIMITS = StartLimits(max_concurrency=3, start_delay=timedelta(milliseconds=15), deadline=timedelta(hours=1))

_AT_WORK_S = 0.06
"""Long enough that the limit of starts alone would let more than three in."""


def make_calls(url: str, claimants: int) -> int:
    """Make calls side by side in a process of its own; the most that all processes together had in flight."""
    database = Database(url)

    def call(_: int) -> int:
        with database.begin() as db:
            call_id = claimed(db).id
        while True:
            with database.begin() as db:
                outcome = start_call(db, call_id, LIMITS)
            if isinstance(outcome, Started):
                break
            time.sleep(outcome.wait.total_seconds() if outcome.wait else 0.01)
        with database.begin() as db:
            in_flight = one(db, "SELECT count(*) FROM provider_jobs WHERE state IN ('submitting', 'submitted')")
            mark_submitted(db, call_id, f"job-{call_id}")
        time.sleep(_AT_WORK_S)
        with database.begin() as db:
            note_answered(db, ACCOUNT, timedelta(0))
            mark_succeeded(db, call_id, Decimal(1))
        return int(in_flight)

    with ThreadPoolExecutor(claimants) as pool:
        highest = max(pool.map(call, range(claimants)))
    database.dispose()
    return highest


def test_fifty_calls_of_four_processes_keep_the_limits_of_their_account(database: Database, database_url: str) -> None:
    claimants = (13, 13, 12, 12)
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        highest = [one.result() for one in [pool.submit(make_calls, database_url, count) for count in claimants]]
    assert max(highest) == LIMITS.max_concurrency
    with database.begin() as db:
        calls = db.execute(sa.text("SELECT left_at, finished_at FROM provider_jobs ORDER BY left_at")).all()
    assert len(calls) == 50
    lefts = [call.left_at for call in calls]
    assert min(later - earlier for earlier, later in itertools.pairwise(lefts)) >= LIMITS.start_delay
    for left_at in lefts:
        assert sum(call.left_at <= left_at < call.finished_at for call in calls) <= LIMITS.max_concurrency
