"""The application of a worker, for `celery --app moltpipe.runtime.celery_worker worker`; see `moltpipe worker`.

Here: what Celery's program needs to find at import, so this module alone reads the environment when it is imported.
Not here: what is done with a run (`runtime.celery_task`).

A worker imports the definitions once, before it forks: every run is a fresh process, begins within a second and shares
the memory. Nothing in the definitions connects, starts a thread or opens a loop at import.
"""

from __future__ import annotations

import logging
from importlib import import_module

from celery import signals
from dagster_celery.tasks import create_execute_job_task

from moltpipe.runtime.celery_launcher import celery_app
from moltpipe.runtime.celery_task import RunTask, interrupt_runs
from moltpipe.runtime.log_lines import formatter
from moltpipe.runtime.stack import DEFINITIONS
from moltpipe.settings import load_settings


def _load_definitions(**_: object) -> None:
    import_module(DEFINITIONS)


def _print_lines(**_: object) -> None:
    """Celery's own lines in the form of ours, in place of Celery's."""
    lines = logging.StreamHandler()
    lines.setFormatter(formatter(_SETTINGS.log_format))
    lines.addFilter(_without_the_message)
    logging.basicConfig(level=logging.INFO, handlers=[lines])


def _without_the_message(record: logging.LogRecord) -> bool:
    """Celery adds to its lines all that came with a task, which is a page."""
    vars(record).pop("data", None)
    return True


_SETTINGS = load_settings()
app = celery_app(_SETTINGS)
execute_run = create_execute_job_task(app, base=RunTask, shared=False)  # type: ignore[arg-type] # it says dict for each

signals.setup_logging.connect(_print_lines, weak=False)
signals.worker_init.connect(_load_definitions, weak=False)
signals.worker_shutting_down.connect(interrupt_runs, weak=False)
