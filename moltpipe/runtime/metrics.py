"""The figures of a studio for Prometheus, and the server behind `moltpipe metrics`.

Here: the names of the figures, how often and for how long each group of them is read, the HTTP. Not here: the
statements (`ledger.metrics`), what to do at which figure (`deploy/prometheus`, docs/metrics.md).

Nothing is counted in this process, so nothing is lost when it ends, and two of them say the same: every figure is read
from the ledger or from Dagster. What cannot be read is left out, and `moltpipe_reading_up` says so: an exporter that
went on telling its last numbers while its database is away would show a healthy queue for a whole night.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from pydantic import SecretStr
from sqlalchemy.engine import Connection
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moltpipe.ledger import metrics as figures
from moltpipe.ledger.checks import CHECKS
from moltpipe.ledger.database import NOTICE_A_DEAD_SERVER, Database
from moltpipe.ledger.spending import Caps
from moltpipe.ledger.text import one_line
from moltpipe.ledger.watching import SILENCE
from moltpipe.runtime.environment import environment
from moltpipe.runtime.services import Services
from moltpipe.runtime.stack import Say
from moltpipe.settings import Settings
from moltpipe.studio.alerts import check_subject, unchecked_subject

if TYPE_CHECKING:
    import dagster as dg

SCRAPE_S = 8.0
"""A scrape is answered within so long. Prometheus gives up after ten seconds unless it is told otherwise."""
FRESH_S = 3.0
"""A reading is used again for so long: two that scrape do not double the load."""
REST = 50
"""A pass over all of history comes again after so many times as it took: it costs a fiftieth of one core at most."""
LONGEST_LOOK_S = 5.0
LONGEST_PASS_S = 60.0
"""After so long the database gives up a look at what is under way, or a pass over all of history."""
_CONNECT_S = 5
_ENDING_S = 2.0
_WATCHING = "integrity_sensor"

Reads = Callable[[Connection], Iterable[Metric]]
KeyT = TypeVar("KeyT", bound=str | tuple[str, ...])


@dataclass(frozen=True)
class Reading:
    """What one look brought."""

    metrics: Sequence[Metric] | None
    """None when it failed."""
    why: str
    """Why it failed; empty when it did not."""
    read_at: float
    """Seconds since the epoch."""
    took_s: float


@dataclass
class Source:
    """A group of figures, and how to read them: one reading at a time, not more often than it can bear."""

    name: str
    read: Callable[[], Sequence[Metric]]
    lane: threading.Lock
    """Held while it is read: sources of one lane share one connection."""
    is_pass: bool = False
    """It goes over all of history: it rests `REST` times as long as it took, and the last one is shown meanwhile."""
    in_ledger: bool = True
    last: Reading | None = None
    _under_way: Future[Reading] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> Future[Reading] | None:
        """The reading that is under way, begun now if it is due; None while the last one will do."""
        with self._lock:
            if self._under_way is None and self._is_due():
                self._under_way = Future()
                # Of its own, and a daemon: a database that hangs keeps neither the next scrape nor the end waiting.
                threading.Thread(target=self._take, args=[self._under_way], name=self.name, daemon=True).start()
            return self._under_way

    def end(self, within_s: float) -> None:
        """Wait a moment for a reading that is under way, so that it gives its connection back."""
        with self._lock:
            under_way = self._under_way
        wait([] if under_way is None else [under_way], within_s)

    def _is_due(self) -> bool:
        if self.last is None:
            return True
        rest_s = max(FRESH_S, REST * self.last.took_s) if self.is_pass else FRESH_S
        return time.time() - self.last.read_at >= rest_s

    def _take(self, promised: Future[Reading]) -> None:
        metrics, why = None, ""
        with self.lane:
            began = time.monotonic()
            try:
                metrics = self.read()
            except Exception as error:  # noqa: BLE001 - whatever it is, this group is left out and the others are told
                why = one_line(error)
        reading = Reading(metrics, why, time.time(), time.monotonic() - began)
        with self._lock:
            self.last, self._under_way = reading, None
        promised.set_result(reading)


class StudioCollector(Collector):
    """All figures, read at each scrape within `scrape_s`. `say` is told once why something cannot be read."""

    def __init__(self, sources: Sequence[Source], say: Say, *, scrape_s: float = SCRAPE_S) -> None:
        self._sources = sources
        self._say = say
        self._said: frozenset[str] = frozenset()
        self._scrape_s = scrape_s

    def collect(self) -> Iterator[Metric]:
        """What can be said now."""
        begun = [(source, source.begin()) for source in self._sources]
        # A pass is waited for only where there is no earlier one to show.
        awaited = {
            source.name: promised
            for source, promised in begun
            if promised is not None and not (source.is_pass and source.last is not None)
        }
        late = wait(awaited.values(), self._scrape_s).not_done
        readings = {
            source.name: source.last
            for source in self._sources
            if awaited.get(source.name) not in late and source.last is not None
        }
        self._explain(readings)
        is_up = any(
            readings[source.name].metrics is not None
            for source in self._sources
            if source.in_ledger and not source.is_pass and source.name in readings
        )
        yield _gauge("moltpipe_up", "1 when the ledger could be read for this scrape.", {(): float(is_up)})
        yield _gauge(
            "moltpipe_build_info", "Always 1; the version that serves this.", {version("moltpipe"): 1}, "version"
        )
        # What was read of a ledger that is away now is not the state of now.
        told = {
            source.name: readings[source.name]
            for source in self._sources
            if source.name in readings and readings[source.name].metrics is not None and (is_up or not source.in_ledger)
        }
        names = [source.name for source in self._sources]
        yield _gauge(
            "moltpipe_reading_up",
            "1 for a group of figures that is told, 0 for one that could not be read and is left out.",
            {name: float(name in told) for name in names},
            "reading",
        )
        yield _gauge(
            "moltpipe_reading_seconds",
            "How long it took to read the group.",
            {name: one.took_s for name, one in told.items()},
            "reading",
        )
        yield _gauge(
            "moltpipe_reading_timestamp_seconds",
            "When the group was read. A pass over all of history is older than the scrape.",
            {name: one.read_at for name, one in told.items()},
            "reading",
        )
        for one in told.values():
            yield from one.metrics or ()

    def end(self) -> None:
        """Wait a moment for what is under way."""
        until = time.monotonic() + _ENDING_S
        for source in self._sources:
            source.end(max(0.0, until - time.monotonic()))

    def _explain(self, readings: Mapping[str, Reading]) -> None:
        """Once, and not at every scrape. A database that is away is one reason for all groups."""
        reasons = frozenset(one.why for one in readings.values() if one.why)
        for why in sorted(reasons - self._said):
            self._say(f"figures are left out: {why}")
        self._said = reasons


@contextmanager
def collector(settings: Settings, services: Services, say: Say) -> Iterator[StudioCollector]:
    """The figures of the studio behind these services, for the length of a block.

    Every session is read-only by its own settings, so a role that may only read is enough, and any other writes
    nothing. Nothing is migrated.
    """
    reading = replace(services, database_url=SecretStr(read_only(services.database_url.get_secret_value())))
    variables = environment(settings, reading)
    database = Database(variables["MOLTPIPE_DATABASE_URL"])
    studio = StudioCollector([*ledger_sources(database, settings), dagster_source(variables)], say)
    try:
        yield studio
    finally:
        studio.end()
        database.dispose()


def read_only(url: str) -> str:
    """The address with what makes its sessions read-only and impatient. Dagster's own sessions are made of it as well.

    A role may have less than this, never more.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    limits = f"-cdefault_transaction_read_only=on -cstatement_timeout={round(LONGEST_PASS_S)}s"
    query["options"] = f"{query.get('options', '')} {limits}".strip()
    for name, value in {"connect_timeout": _CONNECT_S, **NOTICE_A_DEAD_SERVER}.items():
        query.setdefault(name, str(value))
    query.setdefault("application_name", "moltpipe metrics")
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


def metrics_app(figures_of_the_studio: Collector) -> Starlette:
    """The application: `GET /metrics` in the format that the scraper asks for, `GET /healthz`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(figures_of_the_studio)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(await asyncio.to_thread(encode, registry), headers={"content-type": content_type})

    async def healthy(_request: Request) -> Response:
        return JSONResponse({"ok": True})

    return Starlette(routes=[Route("/metrics", metrics, methods=["GET"]), Route("/healthz", healthy, methods=["GET"])])


# The ledger ------------------------------------------------------------------------------------------------------


def ledger_sources(database: Database, settings: Settings) -> list[Source]:
    """What the ledger tells: first what is under way, then what there ever was."""
    lease, caps = timedelta(seconds=settings.lease_s), Caps.of(settings)
    looks: dict[str, Reads] = {
        "jobs": lambda db: _jobs(figures.job_states(db, lease)),
        "periods": lambda db: _periods(figures.period_states(db)),
        "open_calls": lambda db: _open_calls(figures.open_calls(db)),
        "accounts": lambda db: _accounts(figures.blocked_accounts(db)),
        "money": lambda db: _money(figures.spent_now(db), caps),
        "watch": lambda db: _watch(figures.last_ticks(db)),
        "checks": _checks,
        "incidents": lambda db: _incidents(figures.incident_counts(db)),
        "alerts": lambda db: _alerts(figures.alerts_waiting(db)),
        "sweeps": lambda db: _sweeps(figures.sweep_states(db)),
        "observations": lambda db: _observations(figures.observation_counts(db)),
    }
    passes: dict[str, Reads] = {
        "first_takes": lambda db: _first_takes(figures.first_takes(db)),
        "scripts": lambda db: _counted("moltpipe_scripts", "Scripts.", "status", figures.script_counts(db)),
        "votes": lambda db: _counted("moltpipe_votes", "Votes that stand.", "of", figures.vote_counts(db)),
        "episodes": lambda db: _counted("moltpipe_episodes", "Episodes.", "status", figures.episode_counts(db)),
        "series": lambda db: _counted("moltpipe_series", "Series.", "status", figures.series_counts(db)),
        "ended_calls": lambda db: _ended_calls(figures.ended_calls(db)),
        "media": lambda db: _media(figures.media_stored(db)),
        "database": lambda db: [
            _gauge("moltpipe_database_bytes", "Size of the database on disk.", {(): figures.database_bytes(db)})
        ],
    }
    look_lane, pass_lane = threading.Lock(), threading.Lock()
    return [
        *(Source(name, _reader(database, one, LONGEST_LOOK_S), look_lane) for name, one in looks.items()),
        *(
            Source(name, _reader(database, one, LONGEST_PASS_S), pass_lane, is_pass=True)
            for name, one in passes.items()
        ),
    ]


def _reader(database: Database, reads: Reads, patience_s: float) -> Callable[[], Sequence[Metric]]:
    def read() -> Sequence[Metric]:
        with database.begin() as db:
            figures.limit_reading(db, patience_s)
            return list(reads(db))

    return read


def _jobs(states: Mapping[str, figures.Waiting]) -> Iterator[Metric]:
    counts = {state: one.count for state, one in states.items()}
    yield _gauge("moltpipe_production_jobs", "Production jobs that are not completed.", counts, "state")
    yield _gauge(
        "moltpipe_production_job_oldest_seconds",
        "How long the oldest production job has been in its state; 0 where there is none.",
        _oldest(states),
        "state",
    )


def _periods(states: Mapping[tuple[str, str], figures.Waiting]) -> Iterator[Metric]:
    yield _gauge(
        "moltpipe_voting_periods",
        "Voting periods that are not processed; due is one that is over.",
        {key: one.count for key, one in states.items()},
        "period_type",
        "state",
    )
    yield _gauge(
        "moltpipe_voting_period_overdue_seconds",
        "How long the oldest period that is due has been over; 0 where none is.",
        {kind: states[kind, "due"].oldest_s or 0 for kind, _ in states},
        "period_type",
    )


def _first_takes(told: figures.FirstTakes) -> Iterator[Metric]:
    for name, what, after in (
        ("moltpipe_close_to_first_call_seconds", "the first request to an engine", told.to_call),
        ("moltpipe_close_to_first_take_seconds", "the first camera that was done", told.to_take),
    ):
        known = {"latest": after.latest, "median": after.median, "worst": after.worst}
        yield _gauge(
            name,
            f"From the end of a script vote to {what}, over the {figures.NEWEST_PERIODS} newest.",
            {statistic: seconds for statistic, seconds in known.items() if seconds is not None},
            "statistic",
        )
    yield _gauge(
        "moltpipe_close_without_first_take_seconds",
        "How long ago the oldest of them ended that has no take yet and is worked on; 0 where none is.",
        {(): told.waiting_s},
    )


def _open_calls(calls: Sequence[figures.OpenCalls]) -> Iterator[Metric]:
    labels = ("engine", "operation", "state")
    keys = [(one.engine, one.operation, one.state) for one in calls]
    yield _gauge(
        "moltpipe_calls_open",
        "Calls to engines that are not over; ambiguous ones wait for a person.",
        {key: one.count for key, one in zip(keys, calls, strict=True)},
        *labels,
    )
    yield _gauge(
        "moltpipe_call_open_oldest_seconds",
        "How long ago the request of the oldest of them left.",
        {key: one.oldest_s for key, one in zip(keys, calls, strict=True)},
        *labels,
    )


def _ended_calls(calls: Sequence[figures.EndedCalls]) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "moltpipe_calls", "Calls to engines that are over.", labels=["engine", "operation", "state"]
    )
    failed = CounterMetricFamily(
        "moltpipe_call_errors", "Calls to engines that failed.", labels=["engine", "operation", "error_class"]
    )
    cost = CounterMetricFamily(
        "moltpipe_cost_usd", "What calls that are over have cost, in US dollars.", labels=["engine", "operation"]
    )
    seconds = HistogramMetricFamily(
        "moltpipe_call_seconds",
        "From the departure of a request until its engine was done, of calls that brought something.",
        labels=["engine", "operation"],
    )
    bounds = [floatToGoString(bound) for bound in (*figures.CALL_BUCKETS_S, float("inf"))]  # type: ignore[no-untyped-call] # prometheus_client types most of itself
    for (engine, operation, state), same in _grouped(calls, lambda one: (one.engine, one.operation, one.state)):
        ended.add_metric([engine, operation, state], sum(one.count for one in same))
    for one in calls:
        if one.state == "failed":
            failed.add_metric([one.engine, one.operation, one.error_class or "unknown"], one.count)
    for (engine, operation), same in _grouped(calls, lambda one: (one.engine, one.operation)):
        cost.add_metric([engine, operation], sum(one.cost_usd for one in same))
        within = [sum(counts) for counts in zip(*((*one.within, one.timed) for one in same), strict=True)]
        seconds.add_metric(
            [engine, operation],
            [(bound, float(count)) for bound, count in zip(bounds, within, strict=True)],
            sum(one.seconds for one in same),
        )
    yield from (ended, failed, cost, seconds)


def _grouped(
    calls: Sequence[figures.EndedCalls], key: Callable[[figures.EndedCalls], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], list[figures.EndedCalls]]]:
    groups: dict[tuple[str, ...], list[figures.EndedCalls]] = {}
    for one in calls:
        groups.setdefault(key(one), []).append(one)
    return list(groups.items())


def _accounts(blocked: Mapping[str, bool]) -> Iterator[Metric]:
    yield _gauge(
        "moltpipe_account_blocked",
        "1 while an account at a provider takes no requests.",
        {account: float(is_blocked) for account, is_blocked in blocked.items()},
        "account",
    )


def _money(spent: figures.Spent, caps: Caps) -> Iterator[Metric]:
    yield _gauge(
        "moltpipe_spend_usd",
        "Spent or reserved: on this day of UTC, on the dearest series in work, by the dearest run at work.",
        {"day": spent.today, "series": spent.dearest_series, "run": spent.dearest_run},
        "cap",
    )
    limits = {"day": caps.day_usd, "series": caps.series_usd, "run": caps.run_usd}
    yield _gauge(
        "moltpipe_budget_usd",
        "The cap that is set, in US dollars; nothing where none is.",
        {cap: float(limit) for cap, limit in limits.items() if limit is not None},
        "cap",
    )
    yield _gauge("moltpipe_reserved_usd", "Reserved for calls that are not over, in US dollars.", {(): spent.reserved})


def _watch(ticks: Mapping[str, datetime]) -> Iterator[Metric]:
    yield _gauge(
        "moltpipe_watcher_tick_timestamp_seconds",
        "When a sensor or schedule last looked; 0 where it never did.",
        {name: ticks[name].timestamp() if name in ticks else 0 for name in SILENCE},
        "watcher",
    )
    yield _gauge(
        "moltpipe_watcher_silence_limit_seconds",
        "For how long it may be silent.",
        {name: silence.total_seconds() for name, silence in SILENCE.items()},
        "watcher",
    )


def _checks(db: Connection) -> Iterator[Metric]:
    """What was found last: an incident is open for every check that fails or cannot look, and for no other."""
    subjects = {
        subject: subject for one in CHECKS for subject in (check_subject(one.name), unchecked_subject(one.name))
    }
    are_open = figures.subjects_of_checks(db, subjects)
    looked = _WATCHING in figures.last_ticks(db)
    yield _gauge(
        "moltpipe_check_failed",
        "1 when a check has found something that must not be.",
        {(one.name, one.severity.value): float(check_subject(one.name) in are_open) for one in CHECKS},
        "check",
        "severity",
    )
    yield _gauge(
        "moltpipe_check_unknown",
        "1 when a check could not look, or nobody has ever looked.",
        {one.name: float(not looked or unchecked_subject(one.name) in are_open) for one in CHECKS},
        "check",
    )


def _incidents(counts: Mapping[tuple[str, str], int]) -> Iterator[Metric]:
    kinds = {(kind, severity): 0 for kind in ("check", "could-not-check", "run") for severity in ("error", "warning")}
    yield _gauge("moltpipe_incidents_open", "Incidents that are open.", kinds | dict(counts), "kind", "severity")


def _alerts(waiting: figures.Waiting) -> Iterator[Metric]:
    yield _gauge("moltpipe_alerts_waiting", "Alerts that no channel has taken yet.", {(): waiting.count})
    yield _gauge(
        "moltpipe_alert_oldest_seconds", "How long the oldest of them has waited.", {(): waiting.oldest_s or 0}
    )


def _sweeps(states: Sequence[figures.SweepState]) -> Iterator[Metric]:
    yield _gauge(
        "moltpipe_sweep_began_timestamp_seconds",
        "When the round of a sweep began.",
        {one.name: one.began_at.timestamp() for one in states},
        "sweep",
    )
    yield _gauge(
        "moltpipe_sweep_completed_timestamp_seconds",
        "When a sweep was last through; 0 where it never was.",
        {one.name: one.completed_at.timestamp() if one.completed_at else 0 for one in states},
        "sweep",
    )
    yield _gauge(
        "moltpipe_sweep_under_way",
        "1 while a round is not through.",
        {one.name: float(one.under_way) for one in states},
        "sweep",
    )
    yield _gauge(
        "moltpipe_sweep_failing",
        "1 while a sweep cannot go on.",
        {one.name: float(one.fails) for one in states},
        "sweep",
    )


def _observations(counts: Mapping[str, int]) -> Iterator[Metric]:
    yield _gauge("moltpipe_observations", "What sweeps have found and is still so.", counts, "check")


def _media(stored: Mapping[str, tuple[int, int]]) -> Iterator[Metric]:
    yield _gauge(
        "moltpipe_media_objects",
        "Media objects that the ledger tells of.",
        {kind: objects for kind, (objects, _) in stored.items()},
        "kind",
    )
    yield _gauge("moltpipe_media_bytes", "Their size.", {kind: size for kind, (_, size) in stored.items()}, "kind")


def _counted(name: str, told: str, label: str, counts: Mapping[str, int]) -> list[Metric]:
    return [_gauge(name, told, counts, label)]


def _oldest(states: Mapping[str, figures.Waiting]) -> dict[str, float]:
    """Of the states of which it is known since when."""
    ages = {state: one.oldest_s if one.count else 0.0 for state, one in states.items()}
    return {state: age for state, age in ages.items() if age is not None}


def _gauge(name: str, told: str, values: Mapping[KeyT, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, told, labels=labels)
    for key, value in values.items():
        family.add_metric([key] if isinstance(key, str) else list(key), value)
    return family


# Dagster ---------------------------------------------------------------------------------------------------------


def dagster_source(variables: Mapping[str, str]) -> Source:
    """What Dagster tells of its runs and its daemon.

    Its instance is opened at the first reading and kept. Its configuration names variables of the environment, so that
    of this process is set, but for what libpq would take for every connection.
    """
    opened: list[dg.DagsterInstance] = []

    def read() -> Sequence[Metric]:
        # Dagster takes seconds to import, which the figures of the ledger need not wait for.
        import dagster as dg  # noqa: PLC0415

        if not opened:
            os.environ.update({name: one for name, one in variables.items() if not name.startswith("PG")})
            opened.append(dg.DagsterInstance.from_config(variables["DAGSTER_HOME"]))
        runs = {
            status.value.lower(): opened[0].get_runs_count(dg.RunsFilter(statuses=[status]))
            for status in dg.DagsterRunStatus
            if status is not dg.DagsterRunStatus.MANAGED
        }
        in_queue = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])
        queued = opened[0].get_run_records(in_queue, limit=1, ascending=True)
        heartbeats = opened[0].get_daemon_heartbeats()
        return list(
            _dagster(
                runs,
                [one.create_timestamp for one in queued],
                {kind.lower(): float(one.timestamp) for kind, one in heartbeats.items()},
            )
        )

    return Source("dagster", read, threading.Lock(), in_ledger=False)


def _dagster(
    runs: Mapping[str, int], oldest_queued: Sequence[datetime], heartbeats: Mapping[str, float]
) -> Iterator[Metric]:
    yield _gauge("moltpipe_dagster_runs", "Dagster's runs.", runs, "status")
    yield _gauge(
        "moltpipe_dagster_queue_oldest_seconds",
        "How long the oldest run has stood in Dagster's queue; 0 where it is empty.",
        {(): max(((datetime.now(UTC) - since).total_seconds() for since in oldest_queued), default=0.0)},
    )
    yield _gauge(
        "moltpipe_dagster_daemon_heartbeat_timestamp_seconds",
        "When a part of Dagster's daemon last gave a sign of life.",
        heartbeats,
        "daemon",
    )
