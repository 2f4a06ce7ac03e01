"""Runs as tasks of Celery, for more than one machine without Kubernetes.

Here: the launcher, the Celery application that it shares with the workers, how many places the workers have. Not here:
what a worker does with a task (`runtime.celery_worker`), which run is dead (`studio.dispatch`).

dagster-celery brings the way: a run becomes a task. What differs, and why:

- A task has the id of its run. dagster-celery writes the task's id on the run after the task is sent; a daemon that was
  killed in between left a run that nobody could stop, and Dagster's monitor failed over it again and again.
- Whoever stops a run says so in Dagster first. Otherwise the run takes the signal for the end of its machine and leaves
  what it has at a provider to the next one, and the operator pays for what was cancelled.
- There is no result backend, so nobody asks it whether a worker is alive. One that was restarted has forgotten every
  task, and Dagster's monitor takes that for death. Hearts beat in the ledger, and the reaper listens there.
- A message is acknowledged when its run is over, and a worker takes no more of them than it has places: what a worker
  holds behind its busy ones would wait there while another is idle. A message that comes twice for that does nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celery import Celery
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import pack_value
from dagster_celery.config import TASK_EXECUTE_JOB_NAME
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.make_app import make_app
from kombu.exceptions import OperationalError

from moltpipe.settings import Settings, SettingsError, variable

if TYPE_CHECKING:
    from dagster import DagsterRun
    from dagster._core.launcher import LaunchRunContext
    from dagster._serdes import ConfigurableClassData

QUEUE = "dagster"
"""The queue that dagster-celery declares. Two studios on one broker need a database or virtual host each."""

WORKER_TAG = "moltpipe/worker"
"""On a run: the worker that took it."""

_CONFIGURATION: Mapping[str, object] = {
    "task_default_queue": QUEUE,
    "task_ignore_result": True,
    "task_acks_late": True,
    "worker_prefetch_multiplier": 1,
    # Runs go on when the broker is away: what they need is Postgres and S3.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # A fresh process for every run, as with every other launcher: what one leaves behind is no other's.
    "worker_max_tasks_per_child": 1,
    # Dagster records what a run prints by its file descriptors.
    "worker_redirect_stdouts": False,
    "worker_hijack_root_logger": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # A fork takes longer than Celery's four seconds where everybody is at work.
    "worker_proc_alive_timeout": 60,
    "broker_transport_options": {
        # A daemon that cannot reach the broker must say so, and not hang.
        "max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5,
        "socket_connect_timeout": 5, "socket_timeout": 30, "socket_keepalive": True,
    },
}  # fmt: skip

_ANSWER_WITHIN_S = 0.5
_LOOK_EVERY_S = 5.0
_FORGET_AFTER_S = 15.0
"""A worker that is busy forking may miss one question, not three."""


def celery_app(settings: Settings) -> Celery:
    """The application of launcher and workers.

    Raises:
        SettingsError: no broker is set.
    """
    broker = _broker(settings)
    return make_app(  # type: ignore[no-untyped-call] # dagster-celery types its arguments in part
        {"broker": broker, "config_source": _configuration(broker)}
    )


def celery_launcher(settings: Settings, inst_data: ConfigurableClassData | None = None) -> CeleryLauncher:
    """The launcher of these settings.

    Raises:
        SettingsError: no broker is set.
    """
    broker = _broker(settings)
    return CeleryLauncher(QUEUE, broker=broker, config_source=_configuration(broker), inst_data=inst_data)


def _configuration(broker: str) -> dict[str, object]:
    """The configuration for this broker.

    A worker that lost its connection to Redis counts anew, and would take more than it has places; Celery's remedy is
    for Redis alone.
    """
    return {**_CONFIGURATION, "worker_disable_prefetch": broker.startswith("redis")}


def _broker(settings: Settings) -> str:
    if settings.celery_broker_url is None:
        raise SettingsError([f"{variable('celery_broker_url')} is not set: expected the address of Redis or RabbitMQ"])
    return settings.celery_broker_url.get_secret_value()


class CeleryLauncher(CeleryRunLauncher):
    """dagster-celery's launcher without its result backend, for runs that can be told from a dead one by the ledger."""

    def __init__(
        self,
        default_queue: str,
        broker: str,
        config_source: dict[str, object],
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        super().__init__(default_queue, broker=broker, config_source=config_source, inst_data=inst_data)
        self._places = Places(self.celery)

    def places(self) -> int:
        """How many runs the workers that answer can do at once."""
        return self._places.now()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Send the task of a run straight into the broker's queue, under the run's own id.

        A broker that went away since the places were counted costs nothing: the run goes back into Dagster's queue.
        """
        run = context.dagster_run
        if run.job_code_origin is None:
            raise ValueError(f"run {run.run_id} does not say where its code lies")
        given = ExecuteRunArgs(
            job_origin=run.job_code_origin,
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        try:
            self.celery.send_task(
                TASK_EXECUTE_JOB_NAME,
                kwargs={"execute_job_args_packed": pack_value(given)},
                task_id=run.run_id,
                queue=self.default_queue,
            )
        except _unreachable(self.celery):
            self._instance.report_engine_event("The broker cannot be reached: this run waits until it is back.", run)
            # As Dagster itself does for a code server that is away.
            self._instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id=run.run_id)
            return
        self._instance.report_engine_event(
            "Given to Celery: a worker with a free place takes it.",
            run,
            EngineEventData({"Celery queue": self.default_queue}),
            cls=self.__class__,
        )

    def terminate(self, run_id: str) -> bool:
        """Tell Dagster that somebody ends this run, then whoever works on it.

        A task that no worker has taken yet is refused by all who are there, and by the record for any other. Without a
        broker nobody could be told, and the run stays as it is.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if not _is_there(self.celery):
            self._instance.report_engine_event("The broker cannot be reached, so nobody was told to end this run.", run)
            return False
        self._instance.report_run_canceling(run)
        self.celery.control.revoke(run_id, terminate=True, signal="SIGTERM")
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """No: the reaper hears it from the ledger."""
        return False

    @property
    def supports_resume_run(self) -> bool:
        """No: a new run goes on from what is recorded."""
        return False

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:  # noqa: ARG002, FBT001, FBT002 - the base class's
        """What the workers say of a run's task; None when none knows of it."""
        try:
            known = self.celery.control.inspect(timeout=_ANSWER_WITHIN_S).query_task(run.run_id) or {}
        except _unreachable(self.celery):
            return "The broker cannot be reached."
        return "\n".join(f"{worker}: {tasks[run.run_id][0]}" for worker, tasks in known.items() if tasks) or None


class Places:
    """Room for runs among the workers, asked of them now and then."""

    def __init__(self, app: Celery, look_every_s: float = _LOOK_EVERY_S) -> None:
        self._app = app
        self._look_every_s = look_every_s
        self._lock = threading.Lock()
        self._heard: dict[str, tuple[int, float]] = {}
        """Places of each worker, and when it last said so."""
        self._looked_at = -math.inf

    def now(self) -> int:
        """How many there are; none when the broker cannot be reached."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at >= self._look_every_s:
                self._look()
                self._looked_at = time.monotonic()
            return sum(places for places, _ in self._heard.values())

    def _look(self) -> None:
        try:
            answers = self._app.control.inspect(timeout=_ANSWER_WITHIN_S).stats() or {}
        except _unreachable(self._app):
            self._heard.clear()
            return
        now = time.monotonic()
        self._heard.update({worker: (_places_of(said), now) for worker, said in answers.items()})
        for worker in self._silent(now):
            del self._heard[worker]

    def _silent(self, now: float) -> Iterable[str]:
        return [worker for worker, (_, at) in self._heard.items() if now - at > _FORGET_AFTER_S]


def _is_there(app: Celery) -> bool:
    """Whether the broker can be reached."""
    with app.connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1)
        except _unreachable(app):
            return False
    return True


def _unreachable(app: Celery) -> tuple[type[Exception], ...]:
    """What a broker that is away looks like: its own library's errors, where Kombu has not made them its own."""
    return (OSError, OperationalError, *app.connection_for_write().connection_errors)


def _places_of(stats: Mapping[str, Any]) -> int:
    return int(stats["pool"]["max-concurrency"])
