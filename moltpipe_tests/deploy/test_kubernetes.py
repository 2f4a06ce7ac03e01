"""deploy/kubernetes, without a cluster: every object by the schemas of Kubernetes, and the facts that files share.

The keys of the chart's values were taken from its own models (`helm/dagster/schema/schema/charts` of
dagster-io/dagster, the newest stored files, which have what came with 1.13); those of `global` from a typed client for
the chart of 1.13.8.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dagster
import kubernetes_validate
import pytest
import yaml
from dagster._cli.api import grpc_command

from moltpipe.media.encoders import desk_size
from moltpipe.runtime.environment import dagster_url
from moltpipe.runtime.stack import DEFINITIONS
from moltpipe.settings import Settings, load_settings, misspelt, variable, variables
from moltpipe.studio.pods import SIZES
from moltpipe_tests.deploy.manifests import (
    CHART_PARTS,
    FOLDER,
    ROOT,
    VERSION,
    Document,
    as_deployment,
    chart_pod,
    code_server_values,
    documents,
    image_of_kustomize,
    kustomized,
    named,
    settings,
    templates,
    text,
    unrestricted,
    values,
)

GUIDE = ROOT / "docs" / "kubernetes.md"

_SCHEDULING = {"nodeSelector", "affinity", "tolerations", "schedulerName"}
_POD = _SCHEDULING | {
    "podSecurityContext", "securityContext", "resources", "annotations", "labels", "volumes", "volumeMounts",
    "readinessProbe", "livenessProbe", "startupProbe", "env", "envConfigMaps", "envSecrets", "image",
}  # fmt: skip
_SYSTEM = _POD | {
    "deploymentLabels", "checkDbReadyInitContainer", "initContainerResources", "extraContainers", "logFormat",
    "extraPrependedInitContainers",
}  # fmt: skip
KNOWN = {
    "": {
        "dagsterWebserver", "dagster-user-deployments", "postgresql", "generatePostgresqlPasswordSecret",
        "generateCeleryConfigSecret", "rabbitmq", "redis", "flower", "ingress", "imagePullSecrets", "computeLogManager",
        "scheduler", "runLauncher", "pythonLogs", "dagsterDaemon", "busybox", "migrate", "telemetry", "serviceAccount",
        "global", "retention", "additionalInstanceConfig", "rbacEnabled", "extraManifests",
    },
    "global": {
        "postgresqlSecretName", "postgresqlAuthWifEnabled", "dagsterHome", "serviceAccountName",
        "celeryConfigSecretName", "dagsterInstanceConfigMap",
    },
    "serviceAccount": {"create", "name", "annotations"},
    "dagsterWebserver": _SYSTEM
    | {
        "replicaCount", "nameOverride", "pathPrefix", "service", "workspace", "enableReadOnly", "dbStatementTimeout",
        "dbPoolRecycle", "dbPoolMaxOverflow", "logLevel",
    },
    "dagsterWebserver.service": {"type", "port", "annotations"},
    "dagsterDaemon": _SYSTEM
    | {
        "enabled", "runCoordinator", "heartbeatTolerance", "runMonitoring", "runRetries", "sensors", "schedules",
        "backfills",
    },
    "dagster-user-deployments": {
        "enabled", "enableSubchart", "imagePullSecrets", "deployments", "serviceAccount", "rbacEnabled",
        "includeInstance", "postgresqlSecretName", "celeryConfigSecretName", "dagsterHome",
    },
    "dagster-user-deployments.deployments": _POD
    | {
        "name", "dagsterApiGrpcArgs", "codeServerArgs", "includeConfigInLaunchedRuns", "deploymentNamespace", "port",
        "replicaCount", "initContainers", "sidecarContainers", "deploymentStrategy",
    },
}  # fmt: skip
"""By the path of a section of the chart's values, the keys that it may have."""

OTHERS = {
    "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DAGSTER_HOME",
    "DAGSTER_DISABLE_TELEMETRY", "MOLTPIPE_DAGSTER_POSTGRES_URL",
}  # fmt: skip
"""Variables of Dagster and boto, and the one that Dagster's configuration asks for beside our settings."""

DATABASE_URL = "postgresql://moltpipe_app:secret@db.internal:5432/moltpipe"
SECRET_VALUES = {
    "MOLTPIPE_DATABASE_URL": DATABASE_URL,
    "MOLTPIPE_DAGSTER_POSTGRES_URL": dagster_url(DATABASE_URL),
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
}


def secrets() -> dict[str, set[str]]:
    """The Secrets that somebody must make, with their keys, as the stub for the vault lists them."""
    return {
        one["spec"]["target"]["name"]: {entry["secretKey"] for entry in one["spec"]["data"]}
        for one in documents("externalsecret.yaml")
    }


def pods() -> list[tuple[str, Document]]:
    """Every pod template but those of runs: our own and the chart's."""
    return [*templates(), *((part, chart_pod(part)) for part in CHART_PARTS)]


PODS = [pytest.param(template, id=name) for name, template in pods()]


def variables_of(container: Document) -> dict[str, str]:
    """What is set in a container, with every Secret that it names."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            assert source["configMapRef"]["name"] == "moltpipe-settings"
            found |= settings()
        else:
            found |= {key: SECRET_VALUES[key] for key in secrets()[source["secretRef"]["name"]]}
    return found | {one["name"]: one["value"] for one in container.get("env", ())}


@pytest.mark.parametrize(
    "document", [pytest.param(one, id=f"{one['kind']} {one['metadata']['name']}") for one in kustomized()]
)
def test_every_manifest_is_valid(document: Document) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("part", CHART_PARTS)
def test_what_the_chart_puts_into_pods_is_valid(part: str) -> None:
    kubernetes_validate.validate(as_deployment(chart_pod(part)), VERSION, strict=True)


@pytest.mark.parametrize("path", KNOWN)
def test_the_chart_knows_every_key_of_our_values(path: str) -> None:
    section: Any = values()
    for name in filter(None, path.split(".")):
        section = section[name]
    for one in section if isinstance(section, list) else [section]:
        assert set(one) <= KNOWN[path]


@pytest.mark.parametrize("template", PODS)
def test_every_pod_obeys_the_strictest_standard_of_its_namespace(template: Document) -> None:
    assert named("Namespace")["moltpipe"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert unrestricted(template["spec"]) == []


@pytest.mark.parametrize("template", PODS)
def test_every_pod_can_write_where_it_must_and_mounts_only_what_it_has(template: Document) -> None:
    pod = template["spec"]
    volumes = {one["name"] for one in pod["volumes"]}
    for container in pod["containers"]:
        mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
        assert set(mounts.values()) <= volumes
        assert {settings()["MOLTPIPE_DATA_DIR"], "/tmp"} <= mounts.keys()  # noqa: S108 - the path in the pod
        configmaps = {one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one}
        assert configmaps <= made_configmaps()


def made_configmaps() -> set[str]:
    return {one["name"] for one in documents("kustomization.yaml")[0]["configMapGenerator"]}


@pytest.mark.parametrize("template", PODS)
def test_every_variable_is_a_setting_or_known_to_dagster_or_boto(template: Document) -> None:
    for container in template["spec"]["containers"]:
        assert set(variables_of(container)) <= variables() | OTHERS


@pytest.mark.parametrize("template", PODS)
def test_every_pod_can_read_its_settings(template: Document, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    for container in template["spec"]["containers"]:
        for name, value in variables_of(container).items():
            # The Secret of the providers' keys is a folder in the pod.
            monkeypatch.setenv(name, str(tmp_path) if name == variable("secrets_dir") else value)
        read = load_settings()
    assert read.launcher == "k8s"
    assert read.retention == "off"
    assert read.database_url is not None


def test_the_settings_of_one_file_are_set_for_every_pod() -> None:
    for name, template in pods():
        for container in template["spec"]["containers"]:
            assert {"configMapRef": {"name": "moltpipe-settings"}} in container["envFrom"], name


@pytest.mark.parametrize("part", ["dagsterWebserver", "dagsterDaemon"])
def test_what_dagster_yaml_asks_of_the_environment_is_set_where_no_entrypoint_sets_it(part: str) -> None:
    """The chart starts these two by a command of its own, around the image's entrypoint."""
    asked = set(re.findall(r"env: (\w+)", (ROOT / "dagster.yaml").read_text()))
    assert asked
    (container,) = chart_pod(part)["spec"]["containers"]
    assert asked <= variables_of(container).keys()


@pytest.mark.parametrize("part", ["dagsterWebserver", "dagsterDaemon"])
def test_what_launches_runs_is_told_what_their_pods_are_like(part: str) -> None:
    (container,) = chart_pod(part)["spec"]["containers"]
    file = Path(variables_of(container)["MOLTPIPE_RUN_PODS"])
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in chart_pod(part)["spec"]["volumes"]}
    configmap = volumes[mounts[str(file.parent)]]["configMap"]["name"]
    (generator,) = (one for one in documents("kustomization.yaml")[0]["configMapGenerator"] if one["name"] == configmap)
    assert generator["files"] == [file.name]
    assert (FOLDER / file.name).exists()


def test_dagster_yaml_comes_from_the_image_and_not_from_the_chart() -> None:
    for part in ("dagsterWebserver", "dagsterDaemon"):
        (container,) = chart_pod(part)["spec"]["containers"]
        home = variables_of(container)["DAGSTER_HOME"]
        assert home == documents("run-pods.yaml")[0]["dagster_home"]
        assert f"{home}/dagster.yaml" in (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
        assert home not in {one["mountPath"] for one in container["volumeMounts"]}


def test_every_secret_that_a_pod_names_is_made_and_explained() -> None:
    made = set(secrets()) | set(named("Secret"))
    guide = GUIDE.read_text()
    used = {values()["global"]["postgresqlSecretName"], *documents("run-pods.yaml")[0]["env_secrets"]}
    for _, template in pods():
        pod = template["spec"]
        used |= {one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
        used |= {
            source["secretRef"]["name"]
            for container in pod["containers"]
            for source in container["envFrom"]
            if "secretRef" in source
        }
    assert used | set(secrets()) == made
    for name in secrets():
        assert name in guide, name


def test_the_keys_of_the_secrets_are_settings_as_variables_or_as_files() -> None:
    for name, keys in secrets().items():
        as_variables = {key.upper() for key in keys}
        assert as_variables <= variables() | OTHERS, name
        assert (keys == as_variables) == (name != "moltpipe-engines"), name


def test_the_stub_for_the_vault_names_its_store_and_every_key() -> None:
    for one in documents("externalsecret.yaml"):
        assert (one["apiVersion"], one["kind"]) == ("external-secrets.io/v1", "ExternalSecret")
        assert one["metadata"]["name"] == one["spec"]["target"]["name"]
        assert one["metadata"]["namespace"] == documents("kustomization.yaml")[0]["namespace"]
        assert {"kind", "name"} == one["spec"]["secretStoreRef"].keys()
        for entry in one["spec"]["data"]:
            assert {"secretKey", "remoteRef"} == entry.keys()
            assert {"key", "property"} == entry["remoteRef"].keys()


def test_there_is_one_image() -> None:
    ours = {container["image"] for _, template in templates() for container in template["spec"]["containers"]}
    assert ours == {documents("image/kustomization.yaml")[0]["images"][0]["name"]}
    assert {chart_pod(part)["spec"]["containers"][0]["image"] for part in CHART_PARTS} == {image_of_kustomize()}


def test_the_image_that_the_guide_builds_has_what_its_settings_choose() -> None:
    (built,) = re.findall(r"docker build .*", GUIDE.read_text())
    found = re.search(r"--build-arg EXTRAS=(\S+)", built)
    extras = set(found[1].split(",")) if found else set()
    assert "k8s" in extras
    voice = settings().get("MOLTPIPE_VOICE", Settings.model_fields["voice"].default)
    assert voice != "espeak" or "local" in extras


def test_both_kustomizations_take_the_image_from_one_place() -> None:
    assert documents("kustomization.yaml")[0]["components"] == ["image"]
    assert documents("migrate/kustomization.yaml")[0]["components"] == ["../image"]


def test_chart_and_library_are_of_one_version() -> None:
    pinned = f"--version {dagster.__version__}"
    assert pinned in text("values.yaml")
    assert pinned in GUIDE.read_text()
    assert f"dagster=={dagster.__version__}\n" in (ROOT / "requirements.txt").read_text()


def test_the_code_location_is_called_as_everywhere() -> None:
    """Dagster keeps what it knows of sensors under the location's name."""
    deployment = code_server_values()
    arguments = deployment["dagsterApiGrpcArgs"]
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options["--module-name"] == DEFINITIONS
    assert options["--location-name"] == "moltpipe"
    assert deployment["name"] == "moltpipe"


def test_the_arguments_of_the_code_server_are_some_that_dagster_knows() -> None:
    arguments = code_server_values()["dagsterApiGrpcArgs"]
    known = {flag for parameter in grpc_command.params for flag in parameter.opts}
    assert set(arguments[::2]) <= known


def test_runs_do_not_get_what_the_code_server_has() -> None:
    assert code_server_values()["includeConfigInLaunchedRuns"] == {"enabled": False}


def test_nothing_is_open_to_the_outside() -> None:
    assert values()["ingress"] == {"enabled": False}
    assert values()["dagsterWebserver"]["service"]["type"] == "ClusterIP"
    assert values()["dagsterWebserver"]["enableReadOnly"] is True
    for service in named("Service").values():
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_no_other_service_is_installed() -> None:
    for name in ("postgresql", "rabbitmq", "redis", "flower"):
        assert values()[name] == {"enabled": False}


def test_only_what_launches_runs_has_a_token_for_the_api() -> None:
    tokens = {name: one["automountServiceAccountToken"] for name, one in named("ServiceAccount").items()}
    assert {name for name, mounted in tokens.items() if mounted} == {values()["serviceAccount"]["name"]}
    (binding,) = named("RoleBinding").values()
    assert [subject["name"] for subject in binding["subjects"]] == [values()["serviceAccount"]["name"]]
    assert binding["roleRef"]["name"] in named("Role")
    used = {template["spec"]["serviceAccountName"] for _, template in pods()}
    assert used | {documents("run-pods.yaml")[0]["service_account_name"]} == tokens.keys()


def test_the_variables_that_kubernetes_makes_of_services_are_not_taken_for_settings() -> None:
    """It sets some for every Service of the namespace, and those called moltpipe look like ours."""
    own = {name: [port["port"] for port in one["spec"]["ports"]] for name, one in named("Service").items()}
    webserver = values()["dagsterWebserver"]
    chart = {
        code_server_values()["name"]: [code_server_values()["port"]],
        f"moltpipe-{webserver['nameOverride']}": [webserver["service"]["port"]],
        f"moltpipe-{webserver['nameOverride']}-read-only": [webserver["service"]["port"]],
    }
    made = set()
    for service, ports in (own | chart).items():
        name = service.upper().replace("-", "_")
        made |= {f"{name}_SERVICE_HOST", f"{name}_SERVICE_PORT", f"{name}_PORT"}
        made |= {f"{name}_SERVICE_PORT_{port}" for port in ("GRPC", "HTTP", "METRICS")}
        made |= {f"{name}_PORT_{port}_TCP{end}" for port in ports for end in ("", "_PROTO", "_PORT", "_ADDR")}
    assert not made & variables()
    assert misspelt(dict.fromkeys(made, "x")) == {}


def test_a_budget_stands_on_pods_that_there_are() -> None:
    labels = [template["metadata"]["labels"] for _, template in templates()]
    # What the chart gives its own pods, by `dagster.selectorLabels` and `dagster.webserver.componentName`.
    labels.append({"app.kubernetes.io/instance": "moltpipe", "component": "dagster-webserver"})
    for budget in named("PodDisruptionBudget").values():
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert any(wanted <= one.items() for one in labels)
    replicas = named("Deployment")["moltpipe-webhooks"]["spec"]["replicas"]
    assert min(replicas, values()["dagsterWebserver"]["replicaCount"]) > 1


def test_the_calls_in_flight_fill_the_cores_of_all_pods_and_no_more() -> None:
    """Kubernetes limits a pod's cores, and a pod counts those of its limit."""
    cores = SIZES["clips"].cpu_limit // 1000
    runs = int(settings()["MOLTPIPE_MAX_CONCURRENT_RUNS"])
    assert int(settings()["MOLTPIPE_TAKES_AT_ONCE"]) == runs * desk_size(cores).at_once


def test_retention_has_one_clock() -> None:
    assert settings()["MOLTPIPE_RETENTION"] == "off"
    (cronjob,) = named("CronJob").values()
    assert cronjob["spec"]["concurrencyPolicy"] == "Forbid"
    (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["moltpipe", "prune"]


def test_tables_are_changed_by_their_owner_and_read_by_a_reader() -> None:
    sources = {
        name: {one["secretRef"]["name"] for one in template["spec"]["containers"][0]["envFrom"] if "secretRef" in one}
        for name, template in templates()
    }
    assert sources["moltpipe-migrate"] == {"moltpipe-owner"}
    assert sources["moltpipe-metrics"] == {"moltpipe-reader"}
    assert not any("moltpipe-owner" in used for name, used in sources.items() if name != "moltpipe-migrate")


def test_the_second_address_of_the_database_is_made_as_the_guide_says() -> None:
    given = dict(re.findall(r"--from-literal=(MOLTPIPE_\w*URL)='([^']+)'", GUIDE.read_text()))
    assert given["MOLTPIPE_DAGSTER_POSTGRES_URL"] == dagster_url(given["MOLTPIPE_DATABASE_URL"])


MONITORING = {"namespace": "monitoring"}
INTERNET = {"address": "203.0.113.1"}
METADATA = {"address": "169.254.169.254"}
DATABASE = {"address": "10.1.2.3"}
NAMES = {"namespace": "kube-system"}
NAMES_OF_THE_NODE = {"address": "169.254.20.10"}


def part(name: str) -> dict[str, str]:
    """A pod of ours, by its label: of the chart's values, of run-pods.yaml or of a manifest."""
    there = [template["metadata"]["labels"] for _, template in pods()] + [documents("run-pods.yaml")[0]["labels"]]
    assert name == "proxy" or any(labels.get("moltpipe/part") == name for labels in there), name
    return {"moltpipe/part": name}


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        ("webserver", "code-server", 3030, True),
        ("daemon", "code-server", 3030, True),
        ("run", "code-server", 3030, False),
        ("proxy", "webserver", 3000, True),
        ("run", "webserver", 3000, False),
        ("proxy", "webhooks", 3080, True),
        (MONITORING, "metrics", 9464, True),
        (MONITORING, "webserver", 3000, False),
        (INTERNET, "webserver", 3000, False),
        *((one, DATABASE, 5432, True) for one in ("webserver", "daemon", "code-server", "run", "metrics", "webhooks")),
        *((one, DATABASE, 5432, True) for one in ("retention", "migration")),
        *((one, INTERNET, 443, True) for one in ("webserver", "daemon", "code-server", "run", "retention")),
        *((one, INTERNET, 443, False) for one in ("metrics", "webhooks", "migration")),
        ("run", METADATA, 443, False),
        *((one, NAMES, 53, True) for one in ("webserver", "run", "migration")),
        *((one, NAMES_OF_THE_NODE, 53, True) for one in ("webserver", "run", "migration")),
        ("run", INTERNET, 53, False),
        ("run", METADATA, 53, False),
        ("run", INTERNET, 22, False),
        ("run", INTERNET, 5432, False),
        ("daemon", DATABASE, 6443, True),
        ("webserver", DATABASE, 6443, True),
        ("run", DATABASE, 6443, False),
    ],
)
def test_who_may_talk_to_whom(
    source: str | dict[str, str], target: str | dict[str, str], port: int, *, allowed: bool
) -> None:
    out = isinstance(source, dict) or _passes("egress", "to", part(source), _peer(target), port)
    into = isinstance(target, dict) or _passes("ingress", "from", part(target), _peer(source), port)
    assert (out and into) is allowed


def test_every_port_that_is_listened_on_is_the_one_that_is_allowed() -> None:
    assert code_server_values()["port"] == 3030
    assert values()["dagsterWebserver"]["service"]["port"] == 3000
    assert [port["port"] for port in named("Service")["moltpipe-webhooks"]["spec"]["ports"]] == [3080]
    assert [port["port"] for port in named("Service")["moltpipe-metrics"]["spec"]["ports"]] == [9464]
    for name, command in {name: template["spec"]["containers"][0]["command"] for name, template in templates()}.items():
        if "--port" in command:
            (container,) = named("Deployment")[name]["spec"]["template"]["spec"]["containers"]
            assert int(command[command.index("--port") + 1]) == container["ports"][0]["containerPort"]


def _peer(one: str | dict[str, str]) -> dict[str, str]:
    return one if isinstance(one, dict) else part(one)


def _passes(direction: str, ends: str, labels: dict[str, str], peer: dict[str, str], port: int) -> bool:
    """Whether a policy of this direction on a pod lets a peer pass. What stands in none is refused by `nothing`."""
    assert named("NetworkPolicy")["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    return any(
        any(one["port"] == port for one in rule["ports"]) and (ends not in rule or any(map(_is(peer), rule[ends])))
        for policy in named("NetworkPolicy").values()
        if _selects(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get(direction, ())
    )


def _is(peer: dict[str, str]) -> Callable[[Document], bool]:
    def matches(end: Document) -> bool:
        if "ipBlock" in end:
            if "address" not in peer:
                return False
            address = ipaddress.ip_address(peer["address"])
            block = end["ipBlock"]
            outside = any(address in ipaddress.ip_network(one) for one in block.get("except", ()))
            return address in ipaddress.ip_network(block["cidr"]) and not outside
        if "namespaceSelector" in end:
            return _selects(end["namespaceSelector"], {"kubernetes.io/metadata.name": peer.get("namespace", "")})
        return "moltpipe/part" in peer and _selects(end["podSelector"], peer)

    return matches


def _selects(selector: Document, labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        one["key"] in labels and (one["operator"] == "Exists" or labels[one["key"]] in one["values"])
        for one in selector.get("matchExpressions", ())
    )


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed: kustomize was not tried")
def test_kustomize_makes_what_the_files_say() -> None:
    made = [one for folder in (FOLDER, FOLDER / "migrate") for one in _kustomize(folder)]
    for document in made:
        kubernetes_validate.validate(document, VERSION, strict=True)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "moltpipe"
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in made}
    assert by_name.keys() == {(one["kind"], one["metadata"]["name"]) for one in kustomized()} | {
        ("ConfigMap", name) for name in made_configmaps()
    }
    assert by_name["ConfigMap", "moltpipe-settings"]["data"] == settings()
    assert by_name["ConfigMap", "moltpipe-run-pods"]["data"] == {"run-pods.yaml": text("run-pods.yaml")}
    assert set(_images(made)) == {image_of_kustomize()}


def _kustomize(folder: Path) -> list[Document]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True, timeout=60)
    return list(yaml.safe_load_all(done.stdout))


def _images(made: Iterable[Document]) -> list[str]:
    found = []
    for document in made:
        spec = document.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            found += [container["image"] for container in template["spec"]["containers"]]
    return found


@pytest.mark.skipif(
    shutil.which("helm") is None or "DAGSTER_HELM_CHART" not in os.environ,
    reason="helm, or the chart's folder in DAGSTER_HELM_CHART, is not there: the chart was not rendered",
)
def test_the_chart_makes_valid_pods_of_our_values() -> None:
    done = subprocess.run(
        [
            "helm", "template", "moltpipe", os.environ["DAGSTER_HELM_CHART"], "--namespace", "moltpipe",
            "--values", str(FOLDER / "values.yaml"),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    made = [one for one in yaml.safe_load_all(done.stdout) if one]
    for document in made:
        kubernetes_validate.validate(document, VERSION, strict=True)
    ours = [one for one in made if one["kind"] == "Deployment"]
    assert len(ours) == 4
    for deployment in ours:
        pod = deployment["spec"]["template"]["spec"]
        assert unrestricted({**pod, "initContainers": []}) == []
        assert pod["containers"][0]["image"] == image_of_kustomize()
    assert not [one for one in made if one["kind"] in ("Role", "RoleBinding", "ServiceAccount", "Ingress")]
