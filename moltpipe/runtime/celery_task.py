"""What a Celery worker does with a run: whether it may still begin, and what becomes of it when the worker ends.

Here: the task, and how a worker that is told to end interrupts its runs. Not here: how a run gets to the broker
(`runtime.celery_launcher`), the application that Celery's program loads (`runtime.celery_worker`).
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from typing import Any

import dagster as dg
from celery import Task
from celery.worker import state
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import unpack_value
from dagster._utils.interrupts import capture_interrupts

from moltpipe.runtime.celery_launcher import WORKER_TAG

_logger = logging.getLogger(__name__)


class RunTask(Task):  # type: ignore[misc] # Celery has no types
    """Carries out a run, unless it is over, stopped, or at work elsewhere.

    A broker may hand out a message twice: Redis does so with every one that is not acknowledged for an hour, and a run
    may last longer.
    """

    def __call__(self, execute_job_args_packed: Any) -> int:  # noqa: ANN401 - packed by Dagster
        """Dagster's exit status of the run; 0 for one that was left alone."""
        given = unpack_value(execute_job_args_packed, as_type=ExecuteRunArgs)
        # From the first moment on: a signal that comes before the run has begun is kept for it.
        with capture_interrupts():
            with dg.DagsterInstance.get() as instance:
                if not may_begin(instance, given.run_id):
                    return 0
                instance.add_run_tags(given.run_id, {WORKER_TAG: self.request.hostname})
            return int(self.run(execute_job_args_packed=execute_job_args_packed))


def may_begin(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run that was handed out is still waited for. One that was stopped before it began ends here."""
    run = instance.get_run_by_id(run_id)
    if run is None:
        _logger.warning("run %s is not known: it was deleted, or this worker serves another database", run_id)
        return False
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "Stopped before a worker began it.")
        return False
    if run.status is not dg.DagsterRunStatus.STARTING:
        _logger.info("run %s is %s already and left alone", run_id, run.status.value)
        return False
    return True


def interrupt_runs(**_: object) -> None:
    """Interrupt the runs of this worker when it is told to end; Celery waits for them.

    An episode may take an hour, and no deployment waits so long. A run that is interrupted gives its job back as it
    was, leaves what is at the providers for the next run, and is over within seconds.
    """
    for request in list(state.active_requests):
        if request.worker_pid is not None:
            with suppress(ProcessLookupError):
                os.kill(request.worker_pid, signal.SIGTERM)
