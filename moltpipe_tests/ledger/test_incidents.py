from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks import CHECKS
from moltpipe.ledger.checks.finding import Finding, Severity
from moltpipe.ledger.database import Database
from moltpipe.ledger.incidents import (
    Incident,
    Taken,
    Trouble,
    close_incident,
    let_go,
    note_failed,
    note_sent,
    open_incident,
    open_incidents,
    open_subjects,
    settle_findings,
    take_due_alerts,
    undelivered_alerts,
)
from moltpipe.studio.alerts import BROKEN, MESSAGES_PER_MINUTE
from moltpipe_tests.ledger.beginnings import await_a_waiter, one

A, B = "channel-a", "channel-b"
TROUBLE = Trouble("check:x", "error", "x is broken (1)", "row 1", "mend it", "/assets/x")


def queued(db: Connection) -> list[tuple[str, str, str]]:
    rows = db.execute(
        sa.text(
            "SELECT subject, kind, channel FROM alerts JOIN incidents i ON i.id = incident_id ORDER BY 1, 2 DESC, 3"
        )
    )
    return [(row[0], row[1], row[2]) for row in rows]


def finding(name: str = "x", *, count: int = 0, could_not_check: str | None = None) -> Finding:
    rows: list[dict[str, Any]] = [{"row": n} for n in range(count)]
    return Finding(name, "scripts", Severity.ERROR, count, rows, "mend it", None, could_not_check)


def subjects(db: Connection) -> list[str]:
    return [incident.subject for incident in open_incidents(db)]


def taken_ids(taken: Taken) -> list[UUID]:
    return [alert.id for alert in taken.pending]


def sent(db: Connection, channel: str = A) -> Taken:
    """Take what is due and tell it in one message."""
    taken = take_due_alerts(db, channel)
    note_sent(db, taken_ids(taken), uuid4())
    return taken


def test_an_incident_is_opened_once_and_closed_once(transaction: Connection) -> None:
    assert open_incident(transaction, TROUBLE, [A, B])
    assert not open_incident(transaction, TROUBLE, [A, B])
    assert close_incident(transaction, "check:x", [A, B])
    assert not close_incident(transaction, "check:x", [A, B])
    assert queued(transaction) == [("check:x", kind, channel) for kind in ("opened", "closed") for channel in (A, B)]
    assert open_incidents(transaction) == []


def test_what_comes_back_is_a_new_incident(transaction: Connection) -> None:
    for _ in range(2):
        assert open_incident(transaction, TROUBLE, [A])
        assert close_incident(transaction, "check:x", [A])
    assert len(queued(transaction)) == 4


def test_an_open_incident_takes_the_new_words_and_is_not_told_again(transaction: Connection) -> None:
    open_incident(transaction, TROUBLE, [A])
    assert not open_incident(transaction, replace(TROUBLE, title="x is broken (2)", body="row 1, row 2"), [A])
    (incident,) = open_incidents(transaction)
    assert (incident.title, incident.body) == ("x is broken (2)", "row 1, row 2")
    assert len(queued(transaction)) == 1


def test_an_open_incident_that_has_not_changed_is_not_written(transaction: Connection) -> None:
    """Each check looks every few seconds, for as long as somebody lets it fail."""
    open_incident(transaction, TROUBLE, [A])
    before = one(transaction, "SELECT ctid::text FROM incidents WHERE subject = 'check:x'")
    open_incident(transaction, TROUBLE, [A])
    assert one(transaction, "SELECT ctid::text FROM incidents WHERE subject = 'check:x'") == before


def test_text_that_postgres_refuses_does_not_keep_an_incident_from_being_known(transaction: Connection) -> None:
    assert open_incident(transaction, replace(TROUBLE, body="a\x00b\ud800"), [A])


def test_without_channels_an_incident_is_kept_and_nothing_queued(transaction: Connection) -> None:
    assert open_incident(transaction, TROUBLE, [])
    assert subjects(transaction) == ["check:x"]
    assert close_incident(transaction, "check:x", [A])
    assert queued(transaction) == []


def test_no_all_clear_for_a_channel_that_was_not_told(transaction: Connection) -> None:
    open_incident(transaction, TROUBLE, [A])
    close_incident(transaction, "check:x", [A, B])
    assert queued(transaction) == [("check:x", "opened", A), ("check:x", "closed", A)]


def test_nothing_is_queued_when_the_finding_is_undone(database: Database) -> None:
    with database.begin() as db:
        open_incident(db, TROUBLE, [A])
        db.rollback()
    with database.begin() as db:
        assert (subjects(db), queued(db)) == ([], [])


def test_two_that_look_at_once_open_and_close_once(database: Database) -> None:
    def settle(findings: Sequence[Finding]) -> None:
        with database.begin() as db:
            settle_findings(db, findings, [A])

    for findings, kinds in (([finding(count=1)], 1), ([finding()], 2)):
        with ThreadPoolExecutor() as pool:
            with database.begin() as db:
                settle_findings(db, findings, [A])
                second = pool.submit(settle, findings)
                await_a_waiter(db)
            second.result()
        with database.begin() as db:
            assert len(queued(db)) == kinds


def test_many_daemons_settle_many_findings_without_a_deadlock(database: Database) -> None:
    start = threading.Barrier(4)

    def settle(order: int) -> None:
        for count in (1, 0, 1):
            found = [finding(f"check_{n}", count=count) for n in range(8)]
            start.wait()
            with database.begin() as db:
                settle_findings(db, found if order % 2 else found[::-1], [A])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(settle, range(4)))
    with database.begin() as db:
        assert len(queued(db)) == 8 * 3


def test_a_check_that_fails_opens_and_one_that_passes_again_closes(transaction: Connection) -> None:
    settle_findings(transaction, [finding("x", count=2), finding("y")], [A])
    assert subjects(transaction) == ["check:x"]
    settle_findings(transaction, [finding("x"), finding("y")], [A])
    assert subjects(transaction) == []
    assert queued(transaction) == [("check:x", "opened", A), ("check:x", "closed", A)]


def test_a_check_that_could_not_look_leaves_its_incident_as_it_is(transaction: Connection) -> None:
    settle_findings(transaction, [finding("x", count=1), finding("y")], [A])
    settle_findings(transaction, [finding(name, could_not_check="locked") for name in ("x", "y")], [A])
    assert subjects(transaction) == ["check:x", "could-not-check:x", "could-not-check:y"]
    settle_findings(transaction, [finding("x", count=1), finding("y")], [A])
    assert subjects(transaction) == ["check:x"]
    settle_findings(transaction, [finding("x"), finding("y")], [A])
    assert subjects(transaction) == []


def test_a_broken_check_that_comes_back_from_blindness_passing_is_over(transaction: Connection) -> None:
    settle_findings(transaction, [finding("x", count=1)], [A])
    settle_findings(transaction, [finding("x", could_not_check="locked")], [A])
    settle_findings(transaction, [finding("x")], [A])
    assert subjects(transaction) == []


def test_every_check_has_words_for_what_is_wrong() -> None:
    assert {check.name for check in CHECKS} <= set(BROKEN)


def test_subjects_are_found_by_how_they_begin(transaction: Connection) -> None:
    for subject in ("run:job:k_1", "run:job:k%1", "check:x"):
        open_incident(transaction, replace(TROUBLE, subject=subject), [])
    assert open_subjects(transaction, "run:job:k_") == {"run:job:k_1"}


def test_alerts_are_taken_once_and_the_oldest_first(transaction: Connection) -> None:
    for n in range(3):
        open_incident(transaction, replace(TROUBLE, subject=f"check:{n}", title=str(n)), [A, B])
    taken = take_due_alerts(transaction, A)
    assert [alert.title for alert in taken.pending] == ["0", "1", "2"]
    assert take_due_alerts(transaction, A) == Taken()
    assert len(take_due_alerts(transaction, B).pending) == 3


def test_two_senders_never_have_the_same_alert(database: Database) -> None:
    with database.begin() as db:
        open_incident(db, TROUBLE, [A])
    with database.begin() as first:
        assert len(take_due_alerts(first, A).pending) == 1
        with database.begin() as second:
            assert take_due_alerts(second, A) == Taken()
    with database.begin() as third:
        assert take_due_alerts(third, A) == Taken()


def test_what_is_sent_is_not_taken_again_and_knows_its_message(transaction: Connection) -> None:
    open_incident(transaction, TROUBLE, [A])
    (alert,) = sent(transaction).pending
    assert one(transaction, "SELECT message_id IS NOT NULL AND sent_at IS NOT NULL AND held_until IS NULL FROM alerts")
    assert take_due_alerts(transaction, A).pending == ()
    assert undelivered_alerts(transaction) == []
    assert alert.kind == "opened"


def test_what_a_sender_died_with_is_taken_by_the_next(database: Database) -> None:
    with database.begin() as db:
        open_incident(db, TROUBLE, [A])
    with database.begin() as db:
        taken = take_due_alerts(db, A)
    with database.begin() as db:
        assert take_due_alerts(db, A) == Taken()
        db.execute(sa.text("UPDATE alerts SET held_until = clock_timestamp() - interval '1 second'"))
    with database.begin() as db:
        assert taken_ids(take_due_alerts(db, A)) == taken_ids(taken)


def test_what_failed_rests_and_keeps_no_later_one_waiting(transaction: Connection) -> None:
    open_incident(transaction, TROUBLE, [A])
    note_failed(transaction, taken_ids(take_due_alerts(transaction, A)), "refused")
    open_incident(transaction, replace(TROUBLE, subject="check:later"), [A])
    (later,) = take_due_alerts(transaction, A).pending
    note_sent(transaction, [later.id], uuid4())
    (late,) = undelivered_alerts(transaction)
    assert (late.subject, late.attempts, late.last_error) == ("check:x", 1, "refused")


def test_each_failure_rests_longer_and_nothing_is_given_up(transaction: Connection) -> None:
    open_incident(transaction, TROUBLE, [A])
    (alert,) = take_due_alerts(transaction, A).pending
    rests = []
    for attempt in range(1, 31):
        note_failed(transaction, [alert.id], "refused")
        (late,) = undelivered_alerts(transaction)
        assert late.attempts == attempt
        rests.append(one(transaction, "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM alerts"))
    assert rests == pytest.approx(sorted(rests), abs=0.5)
    assert rests[-1] == pytest.approx(600, abs=1)
    transaction.execute(sa.text("UPDATE alerts SET due_at = clock_timestamp()"))
    assert taken_ids(take_due_alerts(transaction, A)) == [alert.id]


def test_what_is_let_go_is_due_at_once_without_an_attempt(transaction: Connection) -> None:
    open_incident(transaction, TROUBLE, [A])
    let_go(transaction, taken_ids(take_due_alerts(transaction, A)))
    assert len(take_due_alerts(transaction, A).pending) == 1
    assert undelivered_alerts(transaction)[0].attempts == 0


def test_an_all_clear_never_overtakes_its_opening(transaction: Connection) -> None:
    open_incident(transaction, TROUBLE, [A])
    note_failed(transaction, taken_ids(take_due_alerts(transaction, A)), "refused")
    close_incident(transaction, "check:x", [A])
    assert take_due_alerts(transaction, A).pending == ()
    transaction.execute(sa.text("UPDATE alerts SET due_at = clock_timestamp()"))
    assert [alert.kind for alert in take_due_alerts(transaction, A).pending] == ["opened", "closed"]


def test_an_all_clear_waits_while_its_opening_is_being_sent(transaction: Connection) -> None:
    open_incident(transaction, TROUBLE, [A])
    opening = take_due_alerts(transaction, A)
    close_incident(transaction, "check:x", [A])
    assert take_due_alerts(transaction, A).pending == ()
    note_sent(transaction, taken_ids(opening), uuid4())
    (closing,) = take_due_alerts(transaction, A).pending
    assert closing.kind == "closed"
    assert closing.closed_at is not None
    assert closing.closed_at >= closing.opened_at


def test_a_channel_gets_five_messages_a_minute_and_the_rest_when_there_is_room(transaction: Connection) -> None:
    for n in range(MESSAGES_PER_MINUTE):
        open_incident(transaction, replace(TROUBLE, subject=f"check:{n}"), [A, B])
        assert sent(transaction).sent_lately == n
    open_incident(transaction, replace(TROUBLE, subject="check:last"), [A, B])
    assert take_due_alerts(transaction, A) == Taken(sent_lately=MESSAGES_PER_MINUTE)
    assert len(take_due_alerts(transaction, B).pending) == MESSAGES_PER_MINUTE + 1
    transaction.execute(sa.text("UPDATE alerts SET sent_at = sent_at - interval '1 minute'"))
    assert len(take_due_alerts(transaction, A).pending) == 1


def test_alerts_of_one_message_count_as_one(transaction: Connection) -> None:
    for n in range(9):
        open_incident(transaction, replace(TROUBLE, subject=f"check:{n}"), [A])
    sent(transaction)
    assert take_due_alerts(transaction, A).sent_lately == 1


def test_an_incident_tells_since_when_it_is_known(transaction: Connection) -> None:
    open_incident(transaction, TROUBLE, [])
    (incident,) = open_incidents(transaction)
    now = datetime.now(UTC)
    assert incident == Incident(
        "check:x", "error", "x is broken (1)", "row 1", "mend it", "/assets/x", incident.opened_at
    )
    assert now - incident.opened_at < timedelta(minutes=1)
