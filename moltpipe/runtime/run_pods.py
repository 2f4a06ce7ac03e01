"""Runs as pods of a Kubernetes cluster: what a pod is like, and how large it is.

Here: Dagster's launcher for Kubernetes, configured by a file, and what we do otherwise than it. Not here: which
launcher is chosen (`runtime.launchers`), the sizes (`studio.pods`), the file (`deploy/kubernetes/run-pods.yaml`).
Imports Kubernetes' client, which takes a second: only where runs are pods.

A file and not variables, because a security context, volumes and a time to live do not fit into variables, and because
it then says them in Dagster's own documented words.

A run's stages follow each other in one process, so the pod must fit every one of them, and not their sum. Dagster gives
a pod the tags of its job or of its run, and never those of the assets in it: with tags on `produce_episode` alone, a
backfill of `stitched_episode` or an asset that a person materializes would run in a pod of any size. The plan of a run
names the stages that were chosen, whoever chose them, and carries their tags, of the very definitions that it will use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import dagster as dg
import yaml
from dagster._config import process_config
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig, get_user_defined_k8s_config
from kubernetes.utils.quantity import parse_quantity

from moltpipe.settings import SettingsError, variable
from moltpipe.studio.pods import Resources

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where Kubernetes tells a pod its namespace.

Source: https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
"""


def run_pods(file: Path | None, inst_data: ConfigurableClassData | None = None) -> RunPods:
    """The launcher that a file describes, in the words of Dagster's `K8sRunLauncher`.

    Without `job_namespace` runs start where this process is.

    Raises:
        SettingsError: there is no file, or its content is none.
    """
    name = variable("run_pods")
    if file is None:
        raise SettingsError(
            [f"{name} is not set: expected the file that says what the pods of runs are like, for LAUNCHER=k8s"]
        )
    try:
        described = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError([f"{name}={file}: {' '.join(str(error).split())}"]) from None
    processed = process_config(K8sRunLauncher.config_type(), described)  # type: ignore[no-untyped-call] # Dagster's
    if not processed.success or not isinstance(processed.value, Mapping):
        complaints = [f"{name}={file}: {error.message}" for error in processed.errors or ()]
        raise SettingsError(complaints or [f"{name}={file}: expected the fields of Dagster's K8sRunLauncher"])
    config = dict(processed.value)
    if "job_namespace" not in described and _OWN_NAMESPACE.exists():
        config["job_namespace"] = _OWN_NAMESPACE.read_text().strip()
    return RunPods(inst_data=inst_data, **config)


class RunPods(K8sRunLauncher):
    """One pod per run, as large as the run needs, and given up only when Kubernetes says that it failed."""

    def get_container_context_for_run(self, dagster_run: dg.DagsterRun) -> K8sContainerContext:
        """Dagster's, with the size of the run where its own tags name none."""
        context = super().get_container_context_for_run(dagster_run)
        resources = resources_of(self._instance, dagster_run)
        if resources is None:
            return context
        config = UserDefinedDagsterK8sConfig(container_config={"resources": resources})
        return context.merge(K8sContainerContext(run_k8s_config=config))

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Dagster's, but what cannot be told is no death.

        Dagster fails a run whose pod it could not ask about, be it that the API server restarts or answers 429: the
        pod works on while its episode is given to another. A pod that is gone without a word is the reaper's, who goes
        by its heartbeat.
        """
        health: CheckRunHealthResult = super().check_run_worker_health(run)
        if health.status is not WorkerStatus.UNKNOWN:
            return health
        return CheckRunHealthResult(WorkerStatus.RUNNING, f"nothing is known of its pod: {health.msg}")


def resources_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Resources | None:
    """What the largest stage of a run needs; None where no stage says it, or a person has said it for this run."""
    if "resources" in get_user_defined_k8s_config(run.tags).container_config or run.execution_plan_snapshot_id is None:
        return None
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    configs = (
        get_user_defined_k8s_config(step.tags or {}).container_config
        for step in plan.steps
        if step.key in plan.step_keys_to_execute
    )
    return largest(config["resources"] for config in configs if "resources" in config) or None


def largest(sizes: Iterable[Resources]) -> Resources:
    """Of each resource the most that any of them requests, and the most that any is limited to."""
    found: dict[str, dict[str, str]] = {}
    for size in sizes:
        for kind, quantities in size.items():
            most = found.setdefault(kind, {})
            for resource, quantity in quantities.items():
                if resource not in most or parse_quantity(quantity) > parse_quantity(most[resource]):
                    most[resource] = quantity
    return found
