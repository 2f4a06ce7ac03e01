"""What deploy/kubernetes says, as objects: the manifests, the chart's values and the pods that come of both."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.34"
"""The release of Kubernetes whose schemas the manifests are held against."""

Document = dict[str, Any]


def text(name: str) -> str:
    return (FOLDER / name).read_text()


def documents(name: str) -> list[Document]:
    return [one for one in yaml.safe_load_all(text(name)) if one]


@cache
def kustomized() -> tuple[Document, ...]:
    """The manifests of `kubectl apply -k` and of the migration, as they stand in their files."""
    names = [*documents("kustomization.yaml")[0]["resources"], "migrate/job.yaml"]
    return tuple(document for name in names for document in documents(name))


@cache
def values() -> Document:
    return documents("values.yaml")[0]


def code_server_values() -> Document:
    (deployment,) = values()["dagster-user-deployments"]["deployments"]
    return dict(deployment)


@cache
def settings() -> dict[str, str]:
    """The ConfigMap moltpipe-settings."""
    lines = [line for line in text("settings.env").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def image_of_kustomize() -> str:
    (image,) = documents("image/kustomization.yaml")[0]["images"]
    return f"{image['newName']}:{image['newTag']}"


def named(kind: str) -> dict[str, Document]:
    return {one["metadata"]["name"]: one for one in kustomized() if one["kind"] == kind}


def templates() -> Iterator[tuple[str, Document]]:
    """The pod templates of our own manifests, by the name of what makes them."""
    for document in kustomized():
        spec = document.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template is not None:
            yield document["metadata"]["name"], template


def chart_pod(part: str) -> Document:
    """The pod template that the chart makes of a part of the values, of those fields that we set.

    The chart's templates (`_deployment-webserver.tpl`, `deployment-daemon.yaml`, `deployment-user.yaml`) add the
    workspace, a dagster.yaml, and from a ConfigMap DAGSTER_HOME, which `env` overrides.
    """
    section = code_server_values() if part == "code-server" else values()[part]
    accounts = {True: values()["dagster-user-deployments"]["serviceAccount"], False: values()["serviceAccount"]}
    image = section["image"]
    probes = {
        name: {key: value for key, value in section[name].items() if key != "enabled"}
        | ({} if "httpGet" in section[name] or "exec" in section[name] else {"exec": {"command": ["dagster"]}})
        for name in ("readinessProbe", "livenessProbe", "startupProbe")
        if name in section
    }
    return {
        "metadata": {"labels": dict(section["labels"])},
        "spec": {
            "serviceAccountName": accounts[part == "code-server"]["name"],
            "securityContext": section["podSecurityContext"],
            "containers": [
                {
                    "name": "dagster",
                    "image": f"{image['repository']}:{image['tag']}",
                    "imagePullPolicy": image["pullPolicy"],
                    "env": section["env"],
                    "envFrom": [{"configMapRef": one} for one in section["envConfigMaps"]]
                    + [{"secretRef": one} for one in section["envSecrets"]],
                    "securityContext": section["securityContext"],
                    "resources": section["resources"],
                    "volumeMounts": section["volumeMounts"],
                    **probes,
                }
            ],
            "volumes": section["volumes"],
        },
    }


CHART_PARTS = ("dagsterWebserver", "dagsterDaemon", "code-server")


def as_deployment(template: Document) -> Document:
    """A whole Deployment around a template, for the schema."""
    labels = template["metadata"]["labels"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "one"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def unrestricted(pod: Document) -> list[str]:
    """What Kubernetes' pod security standard `restricted` would refuse of a pod's spec.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    general = pod.get("securityContext", {})
    found = [
        name
        for name, kept in {
            "runs as root": general.get("runAsNonRoot") is True and general.get("runAsUser", 0) > 0,
            "no seccomp profile": general.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "shares the host": not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")),
            "mounts the host": not any("hostPath" in volume for volume in pod.get("volumes", ())),
        }.items()
        if not kept
    ]
    for container in [*pod["containers"], *(pod.get("initContainers") or ())]:
        own = container.get("securityContext", {})
        found += [
            f"{container['name']} {name}"
            for name, kept in {
                "may gain privileges": own.get("allowPrivilegeEscalation") is False,
                "keeps capabilities": own.get("capabilities", {}).get("drop") == ["ALL"],
                "can write into its image": own.get("readOnlyRootFilesystem") is True,
                "is without requests and limits": {"requests", "limits"} <= container.get("resources", {}).keys(),
            }.items()
            if not kept
        ]
    return found
