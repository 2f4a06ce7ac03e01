"""Where a run starts, and how many may: what `dagster.yaml` names for every deployment.

Here: the launcher that the settings choose, and the queue in front of it. Not here: Celery's launcher
(`runtime.celery_launcher`), Kubernetes' (`runtime.run_pods`), who takes a run from a broker (`runtime.celery_worker`).

A class in `dagster.yaml` cannot come from the environment, and `{env: X}` of a variable that is not set is an error, so
that a laptop would have to name a broker. Therefore these two read the settings themselves, and their entries in
`dagster.yaml` are the same everywhere. No secret stands in what Dagster keeps and shows of its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from dagster._config import UserConfigSchema
from dagster._core.launcher import DefaultRunLauncher, RunLauncher
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig
from dagster._serdes import ConfigurableClassData

from moltpipe.media.cores import usable_cores
from moltpipe.settings import load_settings


class ChosenLauncher(DefaultRunLauncher):
    """Dagster's own launcher, or the one that `MOLTPIPE_LAUNCHER` names in its place.

    Neither Celery nor Kubernetes is imported unless it is chosen.
    """

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Nothing: the settings say it."""
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override] # Dagster asks for any RunLauncher, and its classes for their own
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> RunLauncher[Any]:
        """The launcher of this process's settings.

        Raises:
            SettingsError: a setting is wrong. Keys of engines are not asked for: a webserver has none.
        """
        settings = load_settings(with_keys=False)
        match settings.launcher:
            case "celery":
                from moltpipe.runtime.celery_launcher import celery_launcher  # noqa: PLC0415 - an extra

                return celery_launcher(settings, inst_data)
            case "k8s":
                from moltpipe.runtime.run_pods import run_pods  # noqa: PLC0415 - an extra

                return run_pods(settings.run_pods, inst_data)
            case "local":
                return super().from_config_value(inst_data, config_value)


@runtime_checkable
class HasPlaces(Protocol):
    """A launcher that knows how many runs there is room for."""

    def places(self) -> int:
        """Room for this many runs at once, among those who can be reached now."""


class RunQueue(QueuedRunCoordinator[Any]):
    """Dagster's queue, which hands out no more runs than there are places for.

    A run that was handed to a broker while all workers were busy would wait there: out of the order of priorities (a
    pilot goes before its other episodes), counted as one that starts, and failed by Dagster for taking so long. Here it
    stays queued. A worker that comes or goes changes the number within seconds; without a broker it is none.
    """

    _dequeues = False

    @property
    def dequeue_num_workers(self) -> int:
        """How many runs are launched side by side.

        Where a launch starts a process on this machine, as many as it has cores: each start keeps one busy, so that
        with more of them at once a pilot, which goes first and takes longest, came up with the last of its series.
        """
        configured: int = super().dequeue_num_workers or 1
        if load_settings(with_keys=False).launcher != "local":
            return configured
        return min(configured, usable_cores())

    @property
    def dequeue_interval_seconds(self) -> int:
        """Only the daemon that takes runs from the queue asks for this, once, when it starts.

        Whoever else reads the configuration, every single run among them, must not talk to the broker for it.
        """
        self._dequeues = True
        return super().dequeue_interval_seconds

    def get_run_queue_config(self) -> RunQueueConfig:
        """The configuration, with the places that there are now as the upper limit."""
        config = super().get_run_queue_config()
        launcher = self._instance.run_launcher if self._dequeues else None
        if not isinstance(launcher, HasPlaces):
            return config
        return config._replace(max_concurrent_runs=min(config.max_concurrent_runs, launcher.places()))
