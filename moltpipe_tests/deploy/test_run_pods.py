"""The pods of runs, as the launcher that deploy/kubernetes describes sends them to the API of Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._core.launcher.base import WorkerStatus
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, JobPythonOrigin, RepositoryPythonOrigin
from dagster._serdes import ConfigurableClassData
from dagster_aws.s3 import S3Resource

from moltpipe.definitions import build_definitions
from moltpipe.runtime.run_pods import RunPods, largest, run_pods
from moltpipe.settings import SettingsError
from moltpipe.studio.pods import SIZES
from moltpipe_tests.deploy.kubernetes_api import KubernetesApi, kubernetes_api
from moltpipe_tests.deploy.manifests import (
    VERSION,
    chart_pod,
    documents,
    image_of_kustomize,
    named,
    settings,
    unrestricted,
)

STAGES = ["episode_script", "voiceover", "clips", "stitched_episode"]


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    # What a plan is made of must be there when it is made: in the code server by its environment.
    s3 = S3Resource(endpoint_url=settings()["MOLTPIPE_S3_ENDPOINT_URL"])
    return build_definitions({"s3": s3}).get_repository_def()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    with kubernetes_api(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


@pytest.fixture
def launcher(api: KubernetesApi, instance: dg.DagsterInstance, tmp_path: Path) -> RunPods:
    """As described for the cluster, but for the way to the API."""
    outside = {"job_namespace": "moltpipe", "load_incluster_config": False, "kubeconfig_file": str(api.kubeconfig)}
    file = tmp_path / "run-pods.yaml"
    file.write_text(yaml.safe_dump(documents("run-pods.yaml")[0] | outside))
    made = run_pods(file)
    made.register_instance(instance)
    return made


def run_of(
    instance: dg.DagsterInstance,
    repository: dg.RepositoryDefinition,
    *,
    job: str | None = None,
    assets: list[str] | None = None,
    tags: dict[str, str] | None = None,
) -> dg.DagsterRun:
    """A run of a job of ours, or one of assets that somebody picked, as a backfill and a person do."""
    keys = {dg.AssetKey(name) for name in assets or ()}
    definition = (
        repository.get_job(job)
        if job
        else repository.get_implicit_global_asset_job_def().get_subset(asset_selection=keys)
    )
    return instance.create_run_for_job(
        definition,
        tags=tags,
        status=dg.DagsterRunStatus.STARTING,
        asset_selection=frozenset(keys) or None,
        job_code_origin=JobPythonOrigin(
            definition.name,
            RepositoryPythonOrigin(
                executable_path="python",
                code_pointer=ModuleCodePointer("moltpipe.definitions", "defs", None),
                # What the chart tells the code server as DAGSTER_CURRENT_IMAGE.
                container_image=image_of_the_code_server(),
                entry_point=DEFAULT_DAGSTER_ENTRY_POINT,
            ),
        ),
    )


@pytest.fixture(scope="module")
def episode(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition) -> dg.DagsterRun:
    return run_of(instance, repository, job="produce_episode")


def image_of_the_code_server() -> str:
    (container,) = chart_pod("code-server")["spec"]["containers"]
    return str(container["image"])


def launched(launcher: RunPods, api: KubernetesApi, run: dg.DagsterRun) -> dict[str, Any]:
    launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    return api.jobs[f"dagster-run-{run.run_id}"]


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize(
    ("job", "assets", "stages"),
    [
        pytest.param("produce_episode", None, STAGES, id="an episode"),
        pytest.param("close_voting_period", None, ["voting_outcome"], id="a closing"),
        pytest.param("check_integrity", None, ["checks"], id="the checks"),
        pytest.param("prune", None, ["retention"], id="a prune"),
        pytest.param(None, ["stitched_episode"], ["stitched_episode"], id="a backfill of cuts"),
        pytest.param(None, ["voiceover"], ["voiceover"], id="voices, made by hand"),
        pytest.param(None, ["voiceover", "clips"], ["voiceover", "clips"], id="two assets"),
        pytest.param(None, ["voting_outcome"], ["voting_outcome"], id="a closing by hand"),
    ],
)
def test_a_pod_is_as_large_as_the_largest_of_its_stages(
    launcher: RunPods,
    api: KubernetesApi,
    instance: dg.DagsterInstance,
    repository: dg.RepositoryDefinition,
    job: str | None,
    assets: list[str] | None,
    stages: list[str],
) -> None:
    made = launched(launcher, api, run_of(instance, repository, job=job, assets=assets))
    assert container_of(made)["resources"] == largest(SIZES[stage].resources() for stage in stages)
    kubernetes_validate.validate(made, VERSION, strict=True)


def test_what_a_person_asks_for_in_the_launchpad_comes_first(
    launcher: RunPods, api: KubernetesApi, instance: dg.DagsterInstance, repository: dg.RepositoryDefinition
) -> None:
    asked = {"requests": {"cpu": "8", "memory": "16Gi"}, "limits": {"cpu": "8", "memory": "16Gi"}}
    tag = json.dumps({"container_config": {"resources": asked}})
    run = run_of(instance, repository, job="produce_episode", tags={"dagster-k8s/config": tag})
    resources = container_of(launched(launcher, api, run))["resources"]
    assert {kind: dict(resources[kind]) | asked[kind] for kind in asked} == resources


def test_a_run_that_says_no_size_gets_the_one_of_the_file(
    launcher: RunPods, api: KubernetesApi, instance: dg.DagsterInstance
) -> None:
    @dg.job
    def bare() -> None: ...

    run = instance.create_run_for_job(
        bare,
        status=dg.DagsterRunStatus.STARTING,
        job_code_origin=JobPythonOrigin(
            "bare", RepositoryPythonOrigin("python", ModuleCodePointer("m", "f", None), image_of_the_code_server())
        ),
    )
    assert container_of(launched(launcher, api, run))["resources"] == documents("run-pods.yaml")[0]["resources"]


def test_every_stage_has_a_size_and_every_size_a_stage(repository: dg.RepositoryDefinition) -> None:
    executable = {key.to_user_string() for key in repository.asset_graph.executable_asset_keys}
    assert executable | {"checks", "retention"} == set(SIZES)


def test_the_largest_is_found_whatever_its_unit() -> None:
    sizes = [
        {"requests": {"cpu": "1500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        {"requests": {"cpu": "2", "memory": "900Mi"}, "limits": {"cpu": "2"}},
    ]
    assert largest(sizes) == {"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "2Gi", "cpu": "2"}}


def test_a_pod_starts_the_run_through_the_entrypoint_with_settings_and_secrets(
    launcher: RunPods, api: KubernetesApi, episode: dg.DagsterRun
) -> None:
    job = launched(launcher, api, episode)
    container = container_of(job)
    assert "command" not in container
    assert container["args"][:3] == ["dagster", "api", "execute_run"]
    assert episode.run_id in container["args"][3]
    assert container["image"] == image_of_the_code_server() == image_of_kustomize()
    assert container["envFrom"] == [
        {"configMapRef": {"name": "moltpipe-settings"}},
        {"secretRef": {"name": "moltpipe-database"}},
        {"secretRef": {"name": "moltpipe-s3", "optional": True}},
    ]
    own = {one["name"]: one["value"] for one in container["env"]}
    assert not own.keys() & settings().keys()
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert mounts[own["MOLTPIPE_SECRETS_DIR"]] == "engines"
    assert mounts[settings()["MOLTPIPE_DATA_DIR"]] == mounts["/tmp"] == "scratch"  # noqa: S108 - the path in the pod


def test_a_pod_is_restricted_knows_no_token_and_goes_after_an_hour(
    launcher: RunPods, api: KubernetesApi, episode: dg.DagsterRun
) -> None:
    job = launched(launcher, api, episode)
    template = job["spec"]["template"]
    pod = template["spec"]
    assert unrestricted(pod) == []
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["restartPolicy"] == "Never"
    assert pod["serviceAccountName"] in named("ServiceAccount")
    assert pod["terminationGracePeriodSeconds"] == 60
    assert (job["spec"]["backoffLimit"], job["spec"]["ttlSecondsAfterFinished"]) == (0, 3600)
    assert template["metadata"]["labels"]["moltpipe/part"] == "run"
    assert template["metadata"]["labels"]["dagster/run-id"] == episode.run_id
    assert template["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_scratch_space_holds_what_the_largest_stage_may_use() -> None:
    (scratch,) = (one for one in documents("run-pods.yaml")[0]["volumes"] if one["name"] == "scratch")
    assert scratch["emptyDir"]["sizeLimit"] == "12Gi"
    assert max(size.scratch_limit for size in SIZES.values()) == 12 * 1024


def test_a_run_whose_pod_cannot_be_asked_about_lives(
    launcher: RunPods, api: KubernetesApi, episode: dg.DagsterRun
) -> None:
    """Dagster would fail it, and its episode would be given to another while it works."""
    launched(launcher, api, episode)
    assert launcher.check_run_worker_health(episode).status is WorkerStatus.RUNNING
    api.status = {"failed": 1}
    assert launcher.check_run_worker_health(episode).status is WorkerStatus.FAILED
    api.jobs.clear()
    gone = launcher.check_run_worker_health(episode)
    assert gone.status is WorkerStatus.RUNNING
    assert "could not be found" in str(gone.msg)


def test_the_launcher_may_do_what_it_does_and_nothing_else(
    launcher: RunPods, api: KubernetesApi, instance: dg.DagsterInstance, repository: dg.RepositoryDefinition
) -> None:
    run = run_of(instance, repository, assets=["voiceover"])
    launched(launcher, api, run)
    launcher.check_run_worker_health(run)
    assert "said the run" in str(launcher.get_run_worker_debug_info(run))
    assert launcher.terminate(run.run_id)  # type: ignore[no-untyped-call] # Dagster's
    assert "Could not find job" in str(launcher.get_run_worker_debug_info(run))
    (role,) = named("Role").values()
    allowed = {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert api.asked == allowed


def test_a_terminated_run_is_seen_as_ended_by_a_person(
    launcher: RunPods, api: KubernetesApi, instance: dg.DagsterInstance, repository: dg.RepositoryDefinition
) -> None:
    """It cancels its jobs at the providers then, which a pod that is merely evicted does not."""
    run = run_of(instance, repository, assets=["voiceover"])
    launched(launcher, api, run)
    launcher.terminate(run.run_id)  # type: ignore[no-untyped-call] # Dagster's
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.CANCELING
    assert api.jobs == {}


def test_the_settings_choose_this_launcher(launcher: RunPods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `dagster.yaml` names it: the file of the fixture is the one that the environment points to."""
    assert isinstance(launcher, RunPods)
    monkeypatch.setenv("MOLTPIPE_LAUNCHER", "k8s")
    monkeypatch.setenv("MOLTPIPE_RUN_PODS", str(tmp_path / "run-pods.yaml"))
    data = ConfigurableClassData("moltpipe.runtime.launchers", "ChosenLauncher", "{}")
    configured = data.rehydrate(as_type=RunLauncher)  # type: ignore[type-abstract] # any of its kind
    assert isinstance(configured, RunPods)
    assert configured.job_namespace == "moltpipe"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not set"),
        ("service_account: x", "service_account"),
        ("[1, 2]", "run-pods.yaml"),
        ("a: [", "run-pods.yaml"),
    ],
)
def test_a_file_that_describes_no_pods_is_refused_by_name(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "run-pods.yaml"
    file.write_text(content or "")
    with pytest.raises(SettingsError, match="MOLTPIPE_RUN_PODS") as refusal:
        run_pods(file if content else None)
    assert said in str(refusal.value)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MOLTPIPE_RUN_PODS=.*none\.yaml"):
        run_pods(tmp_path / "none.yaml")
