from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.database import Database
from moltpipe.ledger.inbox import external_id_of, has_news, record_event
from moltpipe_tests.ledger.beginnings import await_a_waiter, one

CALL = UUID("5f2d9a52-6a0e-4c7e-9f2b-0d7c1f6f2b11")


def record(
    db: Connection,
    event_id: str = "msg_1",
    *,
    provider: str = "replicate",
    job: str = "p1",
    call: UUID | None = None,
    status: str = "succeeded",
) -> bool:
    return record_event(db, provider, event_id, job, call, status)


def clock(db: Connection) -> datetime:
    now: datetime = one(db, "SELECT clock_timestamp()")
    return now


@pytest.fixture
def start(transaction: Connection) -> datetime:
    return clock(transaction)


def call_with(db: Connection, external_id: str) -> UUID:
    """A call whose job has this id."""
    call_id: UUID = one(
        db,
        "INSERT INTO provider_jobs (fingerprint, engine, operation, state, external_id, request, process_uuid)"
        " VALUES (:fingerprint, 'replicate', 'film', 'submitted', :external_id, '{}', 'run-1') RETURNING id",
        fingerprint=uuid4().hex,
        external_id=external_id,
    )
    return call_id


def test_an_event_is_kept_as_it_came(transaction: Connection, start: datetime) -> None:
    assert record(transaction, call=CALL)
    (event,) = transaction.execute(sa.text("SELECT * FROM provider_events"))
    assert (event.provider, event.event_id, event.external_id, event.call_id, event.status) == (
        "replicate", "msg_1", "p1", CALL, "succeeded",
    )  # fmt: skip
    assert event.received_at >= start


def test_the_same_event_is_kept_once(transaction: Connection) -> None:
    assert record(transaction, job="p1")
    assert not record(transaction, job="p2")
    assert one(transaction, "SELECT string_agg(external_id, ' ') FROM provider_events") == "p1"


def test_two_providers_may_use_the_same_event_id(transaction: Connection) -> None:
    assert record(transaction, provider="replicate")
    assert record(transaction, provider="heygen")


def test_older_events_are_no_news(transaction: Connection, start: datetime) -> None:
    record(transaction, call=CALL)
    since = clock(transaction)
    assert has_news(transaction, [(CALL, "p1")], since) == set()
    assert has_news(transaction, [(CALL, "p1")], start) == {CALL}


def test_of_many_waiting_calls_those_with_news_are_found_with_one_query(
    transaction: Connection, start: datetime
) -> None:
    by_call, by_job, unknown, without = (uuid4() for _ in range(4))
    record(transaction, "msg_1", call=by_call, job="p1")
    record(transaction, "msg_2", call=None, job="p2")
    record(transaction, "msg_3", call=None, job="nobody's")
    asked: list[str] = []
    sa.event.listen(transaction, "before_cursor_execute", lambda *args: asked.append(args[2]))
    news = has_news(transaction, [(by_call, None), (by_job, "p2"), (unknown, None), (without, "p4")], start)
    assert news == {by_call, by_job}
    assert len(asked) == 1


def test_nobody_waiting_is_not_asked_about(transaction: Connection, start: datetime) -> None:
    assert has_news(transaction, [], start) == set()


def test_an_event_that_comes_before_its_calls_id_rescues_the_call(transaction: Connection) -> None:
    record(transaction, "msg_1", call=CALL, job="p1")
    record(transaction, "msg_2", call=CALL, job="p2")
    assert external_id_of(transaction, CALL) == "p1"
    assert external_id_of(transaction, uuid4()) is None


def test_the_id_of_another_calls_job_rescues_nobody(transaction: Connection) -> None:
    other = call_with(transaction, "p1")
    record(transaction, "msg_1", call=CALL, job="p1")
    record(transaction, "msg_2", call=other, job="p1")
    assert external_id_of(transaction, CALL) is None
    assert external_id_of(transaction, other) == "p1"


def test_two_deliveries_at_once_are_one_event(database: Database) -> None:
    def second_delivery() -> bool:
        with database.begin() as db:
            return record(db)

    with ThreadPoolExecutor() as pool:
        with database.begin() as db:
            assert record(db)
            second = pool.submit(second_delivery)
            await_a_waiter(db)
        assert not second.result()
