"""The real endpoint over real HTTP, in front of a real ledger and a real instance of Dagster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
import httpx
import psycopg
import pytest
import sqlalchemy as sa
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from moltpipe.ledger.database import Database
from moltpipe.runtime.environment import environment
from moltpipe.runtime.metrics import (
    REST,
    Source,
    StudioCollector,
    collector,
    ledger_sources,
    metrics_app,
    read_only,
)
from moltpipe.runtime.services import S3Access, Services
from moltpipe.runtime.webhooks import serving
from moltpipe.settings import Settings, variables
from moltpipe_tests.ledger.beginnings import series, submitted

Scraped = dict[str, Metric]
Scrape = Callable[[], Scraped]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def said() -> list[str]:
    return []


def scraped(address: str) -> Scraped:
    answer = httpx.get(f"{address}/metrics", timeout=30, trust_env=False)
    assert answer.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(figures: Scraped, name: str, **labels: str) -> float:
    (found,) = [one.value for one in figures[name].samples if labels.items() <= one.labels.items()]
    return found


@contextmanager
def served(figures: StudioCollector) -> Iterator[Scrape]:
    with serving(metrics_app(figures), "127.0.0.1", 0) as address:
        yield lambda: scraped(address)
    figures.end()


@pytest.fixture
def of_ledger(database: Database, said: list[str]) -> Iterator[Scrape]:
    """Figures of the ledger alone."""
    with served(StudioCollector(ledger_sources(database, Settings()), said.append)) as scrape:
        yield scrape


def services_at(database_url: str) -> Services:
    return Services(SecretStr(database_url), S3Access("http://127.0.0.1:9", "key", SecretStr("secret")), frozenset())


def queued_run() -> dg.DagsterRun:
    place = RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("127.0.0.1", 9), "__repository__")
    return dg.DagsterRun(
        job_name="produce_episode",
        run_id="r-1",
        status=dg.DagsterRunStatus.QUEUED,
        remote_job_origin=RemoteJobOrigin(place, "produce_episode"),
    )


def test_a_scrape_tells_of_ledger_and_dagster_and_needs_no_more_than_to_read(
    database_url: str, database: Database, tmp_path: Path, said: list[str]
) -> None:
    settings = Settings(data_dir=tmp_path)
    with database.begin() as db:
        series(db)
    os.environ.update(environment(settings, services_at(database_url)))
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        instance.add_run(queued_run())
    name = database_url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE reader_{name} LOGIN")
        admin.execute(f"GRANT USAGE ON SCHEMA public, dagster TO reader_{name}")
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public, dagster TO reader_{name}")
    reader = database_url.replace("//postgres:@", f"//reader_{name}:@")
    assert reader != database_url
    try:
        with collector(settings, services_at(reader), said.append) as figures, served(figures) as scrape:
            told = scrape()
    finally:
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute(f"DROP OWNED BY reader_{name}")
            admin.execute(f"DROP ROLE reader_{name}")
    assert said == []
    assert value(told, "moltpipe_up") == 1
    assert {one.labels["reading"]: one.value for one in told["moltpipe_reading_up"].samples if not one.value} == {}
    assert value(told, "moltpipe_production_jobs", state="waiting") == 5
    assert value(told, "moltpipe_dagster_runs", status="queued") == 1
    assert value(told, "moltpipe_dagster_runs", status="started") == 0
    assert 0 < value(told, "moltpipe_dagster_queue_oldest_seconds") < 300


def test_a_call_that_ended_is_in_the_histogram_of_its_engine(database: Database, of_ledger: Scrape) -> None:
    with database.begin() as db:
        call = submitted(db)
        db.execute(
            sa.text(
                "UPDATE provider_jobs SET state = 'ingested', cost_usd = 0.5, reserved_usd = 0,"
                " finished_at = left_at + interval '7 seconds' WHERE id = :id"
            ),
            {"id": call.id},
        )
    told = of_ledger()
    counted = {
        (one.name, one.labels.get("le")): one.value
        for one in told["moltpipe_call_seconds"].samples
        if one.labels["engine"] == "camera"
    }
    assert counted["moltpipe_call_seconds_bucket", "5.0"] == 0
    assert counted["moltpipe_call_seconds_bucket", "10.0"] == 1
    assert counted["moltpipe_call_seconds_bucket", "+Inf"] == counted["moltpipe_call_seconds_count", None] == 1
    assert counted["moltpipe_call_seconds_sum", None] == 7
    assert value(told, "moltpipe_calls", engine="camera", operation="film", state="ingested") == 1
    assert value(told, "moltpipe_cost_usd", engine="camera") == 0.5


def test_without_a_look_of_the_integrity_sensor_no_check_counts_as_passed(of_ledger: Scrape) -> None:
    assert {one.value for one in of_ledger()["moltpipe_check_unknown"].samples} == {1}


def test_a_database_that_is_away_is_told_at_once_and_no_figure_of_before_is(database_url: str, said: list[str]) -> None:
    url = database_url
    database = Database(url)
    figures = StudioCollector(ledger_sources(database, Settings()), said.append)
    with disposed(database), served(figures) as scrape:
        assert value(scrape(), "moltpipe_up") == 1
        for source in figures._sources:  # noqa: SLF001 - as if the readings had grown old, without a sleep
            outdate(source)
        with psycopg.connect(url.replace(f"/{name_of(url)}?", "/postgres?"), autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name_of(url)} ALLOW_CONNECTIONS false")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name_of(url)])
            told = scrape()
            assert value(told, "moltpipe_up") == 0
            assert {one.value for one in told["moltpipe_reading_up"].samples} == {0}
            assert "moltpipe_production_jobs" not in told
            assert "moltpipe_scripts" not in told
            assert len(said) == 1
            admin.execute(f"ALTER DATABASE {name_of(url)} ALLOW_CONNECTIONS true")
        for source in figures._sources:  # noqa: SLF001 - as above
            outdate(source)
        assert value(scrape(), "moltpipe_up") == 1


@contextmanager
def disposed(database: Database) -> Iterator[None]:
    try:
        yield
    finally:
        database.dispose()


def outdate(source: Source) -> None:
    if source.last is not None:
        object.__setattr__(source.last, "read_at", 0.0)


def name_of(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def test_a_database_that_does_not_answer_keeps_a_scrape_no_longer_than_its_time(said: list[str]) -> None:
    with ExitStack() as held:
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"postgresql://postgres@127.0.0.1:{listener.getsockname()[1]}/nothing"
        figures = StudioCollector(ledger_sources(Database(read_only(url)), Settings()), said.append, scrape_s=0.5)
        scrape = held.enter_context(served(figures))
        began = time.monotonic()
        told = scrape()
        # The database would have been waited for five seconds.
        assert time.monotonic() - began < 4
        assert value(told, "moltpipe_up") == 0
        assert "moltpipe_production_jobs" not in told


def test_a_group_that_cannot_be_read_is_left_out_and_the_others_are_told(
    database: Database, of_ledger: Scrape, said: list[str]
) -> None:
    with database.begin() as db:
        db.execute(sa.text("DROP TABLE observations"))
    told = of_ledger()
    assert value(told, "moltpipe_up") == 1
    assert value(told, "moltpipe_reading_up", reading="observations") == 0
    assert value(told, "moltpipe_reading_up", reading="jobs") == 1
    assert "moltpipe_observations" not in told
    assert said == ['figures are left out: relation "observations" does not exist']


def counting(name: str, lane: threading.Lock, *, is_pass: bool = False) -> tuple[Source, list[float]]:
    read: list[float] = []

    def look() -> list[Metric]:
        read.append(time.time())
        return [Metric("moltpipe_test", "A figure.", "gauge")]

    return Source(name, look, lane, is_pass=is_pass), read


def test_two_that_scrape_at_once_have_one_reading(said: list[str]) -> None:
    lane = threading.Lock()
    source, read = counting("jobs", lane)
    figures = StudioCollector([source], said.append)
    with lane:
        scrapers = [threading.Thread(target=lambda: list(figures.collect())) for _ in range(2)]
        for one in scrapers:
            one.start()
    for one in scrapers:
        one.join()
    list(figures.collect())
    assert len(read) == 1


def test_a_pass_over_history_rests_for_many_times_as_long_as_it_took(said: list[str]) -> None:
    source, read = counting("takes", threading.Lock(), is_pass=True)
    figures = StudioCollector([source], said.append)
    list(figures.collect())
    assert source.last is not None
    object.__setattr__(source.last, "took_s", 10.0)
    object.__setattr__(source.last, "read_at", time.time() - REST * 10 + 5)
    list(figures.collect())
    assert len(read) == 1
    outdate(source)
    begun = source.begin()
    assert begun is not None
    begun.result(10)
    assert len(read) == 2


def test_no_label_names_a_single_thing_of_which_there_may_be_a_million(database: Database, of_ledger: Scrape) -> None:
    with database.begin() as db:
        keys = {episode.partition_key for episode in series(db)}
        ids = {
            str(one) for one in db.execute(sa.text("SELECT id FROM episodes UNION SELECT id FROM scripts")).scalars()
        }
    values = {one for family in of_ledger().values() for sample in family.samples for one in sample.labels.values()}
    assert not values & (keys | ids)


def test_health_is_answered_while_a_scrape_waits(said: list[str]) -> None:
    lane = threading.Lock()
    source, _ = counting("jobs", lane)
    with lane, serving(metrics_app(StudioCollector([source], said.append, scrape_s=30)), "127.0.0.1", 0) as address:
        waiting = threading.Thread(target=scraped, args=[address])
        waiting.start()
        assert httpx.get(f"{address}/healthz", timeout=10, trust_env=False).json() == {"ok": True}
        lane.release()
        waiting.join()
        lane.acquire()


def test_sessions_are_read_only_and_the_address_keeps_what_it_says() -> None:
    url = read_only("postgresql://u:p@db.example:5432/studio?sslmode=require&options=-csearch_path%3Dx")
    assert "sslmode=require" in url
    assert "-csearch_path%3Dx%20-cdefault_transaction_read_only%3Don" in url
    assert "connect_timeout=5" in url
    assert "keepalives_idle=30" in url


def test_the_command_serves_until_it_is_told_to_end_and_makes_no_table(empty_database_url: str, tmp_path: Path) -> None:
    ours = {"MOLTPIPE_DATABASE_URL": empty_database_url, "MOLTPIPE_S3_ENDPOINT_URL": "http://127.0.0.1:9",
            "MOLTPIPE_DATA_DIR": str(tmp_path), "MOLTPIPE_LOG_FORMAT": "json"}  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "moltpipe", "metrics", "--port", "0"],
        env={**os.environ, **ours},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        assert command.stderr is not None
        address = json.loads(command.stderr.readline())["event"].split()[4].removesuffix("/metrics")
        told = scraped(address)
        os.killpg(command.pid, signal.SIGTERM)
        out, err = command.communicate(timeout=60)
    assert value(told, "moltpipe_up") == 0
    assert (command.returncode, out) == (0, "")
    assert 'relation \\"production_jobs\\" does not exist' in err
    assert "Traceback" not in err
    with psycopg.connect(empty_database_url) as db:
        assert db.execute("SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'dagster')").fetchone() == (0,)
