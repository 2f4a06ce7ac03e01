from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moltpipe.ledger.calls import Call, adopt_call, claim_call, mark_canceled, mark_failed, mark_succeeded
from moltpipe.ledger.database import Database
from moltpipe.ledger.spending import (
    BudgetReached,
    Caps,
    PriceUnknown,
    Purchase,
    lock_budget,
    reservation,
    reserved,
    spend,
)
from moltpipe.studio.records import Episode
from moltpipe_tests.ledger.beginnings import intent, one, series, submitted

TWO = Decimal(2)
CAPS = {"run": Caps(run_usd=TWO), "series": Caps(series_usd=TWO), "day": Caps(day_usd=TWO)}
CLAIMANTS = 50


@pytest.fixture
def episode(database: Database) -> Episode:
    with database.begin() as db:
        return series(db)[0]


def _claim(db: sa.Connection, episode: Episode, caps: Caps, dollars: str = "1", **other: object) -> Call:
    return claim_call(db, intent(episode_id=episode.id, quote_usd=Decimal(dollars), **other), caps)


@pytest.mark.parametrize("cap", CAPS)
def test_a_cap_is_reached_to_the_cent_and_not_passed(database: Database, episode: Episode, cap: str) -> None:
    with database.begin() as db:
        _claim(db, episode, CAPS[cap])
        _claim(db, episode, CAPS[cap], "0.99")
        _claim(db, episode, CAPS[cap], "0.01")
        with pytest.raises(BudgetReached) as reached:
            _claim(db, episode, CAPS[cap], "0.000001")
        # What costs nothing is no matter of money.
        _claim(db, episode, CAPS[cap], "0")
        assert spend(db) == 2
    assert (reached.value.cap, reached.value.limit_usd, reached.value.spent_usd) == (cap, TWO, TWO)
    assert reached.value.wanted_usd == Decimal("0.000001")
    assert f"MOLTPIPE_BUDGET_{cap.upper()}_USD=2.00" in str(reached.value)
    assert "the next call would cost 0.000001 USD" in str(reached.value)


def test_the_budget_of_a_day_is_worth_waiting_for_and_the_others_are_not(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        _claim(db, episode, Caps(), "2")
        until = {}
        for cap, caps in CAPS.items():
            with pytest.raises(BudgetReached) as reached:
                _claim(db, episode, caps)
            until[cap] = reached.value.until
        today = one(db, "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date")
    midnight = datetime(today.year, today.month, today.day, tzinfo=UTC) + timedelta(days=1)
    assert until == {"run": None, "series": None, "day": midnight}


def test_no_day_is_worth_waiting_for_when_the_call_alone_is_too_dear(database: Database, episode: Episode) -> None:
    with database.begin() as db, pytest.raises(BudgetReached) as reached:
        _claim(db, episode, CAPS["day"], "2.01")
    assert reached.value.until is None


def test_each_cap_counts_its_own(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        _claim(db, episode, Caps(), "2")
        # Another run on another series, and yesterday's money of the same day's cap.
        claim_call(db, intent(process_uuid="run-2"), CAPS["run"])
        claim_call(db, intent(), CAPS["series"])
        db.execute(sa.text("UPDATE provider_jobs SET claimed_at = claimed_at - interval '1 day'"))
        _claim(db, episode, CAPS["day"], "2")
        with pytest.raises(BudgetReached):
            _claim(db, episode, CAPS["series"], process_uuid="run-3")


def test_all_episodes_of_a_series_share_its_cap(database: Database) -> None:
    with database.begin() as db:
        first, second, *_ = series(db)
        _claim(db, first, CAPS["series"], "1.5")
        with pytest.raises(BudgetReached):
            _claim(db, second, CAPS["series"])


def test_the_midnight_of_utc_parts_the_days(database: Database) -> None:
    with database.begin() as db:
        now = lock_budget(db)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        wanted = Purchase("camera", Decimal(1), "", "run-1", None)
        claim_call(db, intent(quote_usd=TWO))
        for claimed_at, too_much in ((midnight, True), (midnight - timedelta(microseconds=1), False)):
            db.execute(sa.text("UPDATE provider_jobs SET claimed_at = :at"), {"at": claimed_at})
            if too_much:
                with pytest.raises(BudgetReached):
                    reservation(db, wanted, CAPS["day"], now)
            else:
                assert reservation(db, wanted, CAPS["day"], now) == 1


def test_a_call_that_passes_to_another_run_stays_on_the_bill_of_the_first(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        call = _claim(db, episode, CAPS["run"], "2")
        adopt_call(db, call.id, "run-2")
        _claim(db, episode, CAPS["run"], process_uuid="run-2")
        with pytest.raises(BudgetReached):
            _claim(db, episode, CAPS["run"])


def test_money_that_was_not_spent_is_free_again(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        mark_canceled(db, _claim(db, episode, CAPS["run"], "2").id)
        mark_failed(db, _claim(db, episode, CAPS["run"], "2").id, "quota", "no credit")
        dear = submitted(db, "dear", episode_id=episode.id, quote_usd=TWO)
        mark_succeeded(db, dear.id, Decimal("0.5"))
        _claim(db, episode, CAPS["run"], "1.5")
        assert (spend(db), reserved(db)) == (TWO, Decimal("1.5"))


def test_money_that_may_have_been_spent_is_not(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        lost = submitted(db, "lost", episode_id=episode.id, quote_usd=TWO)
        mark_failed(db, lost.id, "provider_fault", "no light")
        with pytest.raises(BudgetReached):
            _claim(db, episode, CAPS["run"])
        assert (spend(db), reserved(db)) == (TWO, Decimal(0))


@pytest.mark.parametrize("cap", CAPS)
def test_without_a_price_nothing_is_bought_under_a_cap(database: Database, episode: Episode, cap: str) -> None:
    unpriced = intent(episode_id=episode.id, quote_usd=None, basis="no price is known for reel-1")
    with database.begin() as db:
        with pytest.raises(PriceUnknown, match="no price is known for reel-1"):
            claim_call(db, unpriced, CAPS[cap])
        assert claim_call(db, unpriced).reserved_usd == 0


def test_this_machine_works_whatever_the_caps(database: Database) -> None:
    with database.begin() as db:
        claim_call(db, intent(account=None, quote_usd=None), Caps(run_usd=Decimal(0), day_usd=Decimal(0)))


def test_a_refused_claim_leaves_no_row(database: Database) -> None:
    with pytest.raises(BudgetReached), database.begin() as db:
        claim_call(db, intent(quote_usd=Decimal(3)), CAPS["run"])
    with database.begin() as db:
        assert one(db, "SELECT count(*) FROM provider_jobs") == 0


@pytest.mark.parametrize("cap", CAPS)
@given(
    # So that all of them together always want more than there is.
    quotes=st.lists(st.decimals("0.5", 3, places=6), min_size=CLAIMANTS, max_size=CLAIMANTS),
    limit=st.decimals(1, 20, places=2),
)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fifty_that_claim_at_once_never_pass_a_cap(
    database: Database, cap: str, quotes: list[Decimal], limit: Decimal
) -> None:
    caps = {"run": Caps(run_usd=limit), "series": Caps(series_usd=limit), "day": Caps(day_usd=limit)}[cap]
    with database.begin() as db:
        db.execute(sa.text("DELETE FROM provider_jobs"))
        first = one(db, "SELECT count(*) FROM episodes") == 0
        episode_id = series(db)[0].id if first else one(db, "SELECT id FROM episodes LIMIT 1")
    together = threading.Barrier(CLAIMANTS)

    def claim(quote: Decimal) -> bool:
        together.wait()
        try:
            with database.begin() as db:
                claim_call(db, intent(episode_id=episode_id, quote_usd=quote), caps)
        except BudgetReached:
            return False
        return True

    with ThreadPoolExecutor(CLAIMANTS) as pool:
        granted = list(pool.map(claim, quotes))
    with database.begin() as db:
        spent = spend(db)
    assert spent == sum((quote for quote, got in zip(quotes, granted, strict=True) if got), Decimal(0))
    assert spent <= limit
    refused = [quote for quote, got in zip(quotes, granted, strict=True) if not got]
    assert all(spent + quote > limit for quote in refused)
