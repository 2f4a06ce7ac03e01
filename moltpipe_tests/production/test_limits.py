"""Fifty claimants in several processes: never too many, never too close, never a cent too much."""

from __future__ import annotations

import itertools
import multiprocessing
from decimal import Decimal

import psycopg
import pytest

from moltpipe.ledger.database import Database
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import serving
from moltpipe_tests.production.hosted_settings import of_engine
from moltpipe_tests.production.many_calls import Crowd, run
from moltpipe_tests.production.one_shot_episode import add_shot
from moltpipe_tests.stories import a_series

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload([run.__module__])
AT_ONCE = 3
APART_S = 0.04
CLAIMANTS = (13, 13, 12, 12)


@pytest.fixture
def crowded_series(database: Database, database_url: str) -> list[str]:
    """Partition keys of four episodes with one shot each."""
    episodes = a_series(database)[1:]
    with psycopg.connect(database_url) as db:
        for episode in episodes:
            add_shot(db, episode.id, 1)
    return [episode.partition_key for episode in episodes]


def crowd(environment: dict[str, str], partition_keys: list[str]) -> list[tuple[int, int, list[str]]]:
    """What came of the claimants of each process."""
    pipes, children = [], []
    for partition_key, claimants in zip(partition_keys, CLAIMANTS, strict=True):
        ours, theirs = CHILDREN.Pipe(duplex=False)
        child = CHILDREN.Process(target=run, args=(Crowd(environment, partition_key, claimants), theirs))
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    outcomes = [pipe.recv() for pipe in pipes]
    for child in children:
        child.join()
    return outcomes


def test_fifty_claimants_keep_to_the_limits_of_the_account(
    crowded_series: list[str], environment: dict[str, str]
) -> None:
    provider = FakeReplicate(latency_s=0.1)
    with serving(provider):
        outcomes = crowd(
            environment
            | of_engine("CAMERA", "replicate", f"{provider.base}/v1")
            | {
                "MOLTPIPE_REPLICATE_MAX_CONCURRENCY": str(AT_ONCE),
                "MOLTPIPE_REPLICATE_START_DELAY_MS": str(round(APART_S * 1000)),
            },
            crowded_series,
        )
    assert [done for done, _, _ in outcomes] == list(CLAIMANTS), outcomes
    assert provider.billed == sum(CLAIMANTS)
    assert provider.billed_twice == []
    assert provider.most_in_flight <= AT_ONCE
    gaps = [later - earlier for earlier, later in itertools.pairwise(sorted(provider.starts))]
    assert min(gaps) >= APART_S


def test_fifty_claimants_spend_no_cent_above_a_cap(
    crowded_series: list[str], environment: dict[str, str], database_url: str
) -> None:
    provider = FakeReplicate(latency_s=0.05)
    with serving(provider):
        outcomes = crowd(
            environment
            | of_engine("CAMERA", "replicate", f"{provider.base}/v1")
            | {
                "MOLTPIPE_REPLICATE_MAX_CONCURRENCY": "8",
                "MOLTPIPE_REPLICATE_PRICE_USD": "0.25",
                "MOLTPIPE_BUDGET_SERIES_USD": "10.50",
            },
            crowded_series,
        )
    with psycopg.connect(database_url) as db:
        row = db.execute("SELECT sum(cost_usd), sum(reserved_usd), max(cost_usd) FROM provider_jobs").fetchone()
    assert row is not None
    spent, reserved, each = row
    assert reserved == 0
    assert spent <= Decimal("10.50")
    assert spent + each > Decimal("10.50"), "the cap was not used up"
    assert provider.billed == sum(done for done, _, _ in outcomes)
    assert sum(refused for _, refused, _ in outcomes) == sum(CLAIMANTS) - provider.billed
    assert all(not failed for _, _, failed in outcomes), outcomes
