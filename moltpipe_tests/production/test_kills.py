"""A process is killed at every step of a paid call's life, another one goes on, and the provider is paid once."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from moltpipe.ledger.database import Database
from moltpipe_tests.fakes.elevenlabs import FakeElevenlabs
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import Provider, serving
from moltpipe_tests.fakes.veo import FakeVeo
from moltpipe_tests.production.hosted_settings import of_engine
from moltpipe_tests.production.one_shot import Errand, run
from moltpipe_tests.production.one_shot_episode import one_shot_episode

SetUp = Callable[[], AbstractContextManager[tuple[Provider, dict[str, str]]]]

CHILDREN = multiprocessing.get_context("forkserver")
# The driver is imported where a database is opened: half of the time that a run takes.
CHILDREN.set_forkserver_preload([run.__module__, "psycopg"])


class Studio:
    """Runs errands one after the other against one provider, and looks at what came of them."""

    def __init__(self, url: str, environment: dict[str, str], stage: str, partition_key: str) -> None:
        self.url = url
        self.environment = environment
        self.stage = stage
        self.partition_key = partition_key

    def run(self, kill_at: int | None = None) -> int | str | None:
        """Moments of a run that ended well, the error of one that failed, None for one that was killed."""
        ours, theirs = CHILDREN.Pipe(duplex=False)
        errand = Errand(self.environment, self.stage, self.partition_key, str(uuid4()), kill_at)
        child = CHILDREN.Process(target=run, args=(errand, theirs))
        child.start()
        theirs.close()
        try:
            outcome: int | str | None = ours.recv()
        except EOFError:
            outcome = None
        child.join()
        return outcome

    def let_the_lease_lapse(self) -> None:
        with psycopg.connect(self.url) as db:
            db.execute("UPDATE production_jobs SET heartbeat_at = heartbeat_at - interval '1 hour'")

    def rows(self, table: str) -> int:
        count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
        with psycopg.connect(self.url) as db:
            row = db.execute(count).fetchone()
        assert row is not None
        return int(row[0])

    def call_states(self) -> list[str]:
        with psycopg.connect(self.url) as db:
            return [row[0] for row in db.execute("SELECT state FROM provider_jobs ORDER BY claimed_at").fetchall()]

    def start_over(self) -> None:
        with psycopg.connect(self.url) as db:
            db.execute("TRUNCATE takes, voiceovers, provider_jobs, engine_accounts CASCADE")
            db.execute("UPDATE production_jobs SET process_uuid = NULL, claimed_at = NULL, heartbeat_at = NULL")


def kill_everywhere(studio: Studio, set_up: SetUp, table: str) -> tuple[int, list[int]]:
    """Kill a run at its first moment, its second, and so on, and each time let another one go on.

    Returns:
        How many moments there were, and at which of them only a person could go on.
    """
    plain = studio.environment
    left_to_a_person = []
    for moment in itertools.count(1):
        with set_up() as (provider, of_provider):
            studio.environment = plain | of_provider
            studio.start_over()
            died = studio.run(kill_at=moment) is None
            billed_before = provider.billed
            studio.let_the_lease_lapse()
            outcome = studio.run()
            assert provider.billed <= 1, f"billed {provider.billed} times after a kill at moment {moment}"
            if isinstance(outcome, str):
                assert "repair --resubmit" in outcome, outcome
                assert studio.call_states() == ["ambiguous"]
                assert provider.billed == billed_before, "nothing may be sent while nobody knows"
                left_to_a_person.append(moment)
            else:
                assert studio.rows(table) == 1
                assert provider.billed == 1
                assert studio.call_states() == ["ingested"]
        if not died:
            return moment - 1, left_to_a_person
    raise AssertionError("unreachable: counting does not end")


@pytest.fixture
def one_shot(database: Database, database_url: str) -> str:
    return one_shot_episode(database, database_url).partition_key


def against(make: Callable[..., Provider], role: str, path: str) -> SetUp:
    """A new provider for every round: what an earlier one listed must not be found in a later one."""

    @contextmanager
    def set_up() -> Iterator[tuple[Provider, dict[str, str]]]:
        provider = make(latency_s=0)
        with serving(provider):
            yield provider, of_engine(role, provider.prefix, f"{provider.base}{path}")

    return set_up


def test_where_the_provider_lists_its_jobs_every_kill_is_survived_without_a_person(
    one_shot: str, database_url: str, environment: dict[str, str]
) -> None:
    studio = Studio(database_url, environment, "film", one_shot)
    moments, left_to_a_person = kill_everywhere(studio, against(FakeReplicate, "CAMERA", "/v1"), "takes")
    assert moments > 12
    assert left_to_a_person == []


def test_where_it_does_not_only_the_moment_of_the_request_itself_needs_a_person(
    one_shot: str, database_url: str, environment: dict[str, str]
) -> None:
    studio = Studio(database_url, environment, "film", one_shot)
    moments, left_to_a_person = kill_everywhere(studio, against(FakeVeo, "CAMERA", "/v1beta"), "takes")
    assert moments > 12
    # Committed as leaving, about to be sent, answered and not yet written down: from outside they look the same.
    assert len(left_to_a_person) <= 4


def test_an_answer_that_is_the_result_is_not_asked_for_twice(
    one_shot: str, database_url: str, environment: dict[str, str]
) -> None:
    studio = Studio(database_url, environment, "speak", one_shot)
    moments, left_to_a_person = kill_everywhere(studio, against(FakeElevenlabs, "VOICE", "/v1"), "voiceovers")
    assert moments > 10
    assert left_to_a_person == []
