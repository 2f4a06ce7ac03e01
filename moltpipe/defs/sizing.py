"""The tags by which a stage says how large its pod must be.

Here: the sizes of `studio.pods` as the tag that Dagster's Kubernetes launchers read. Where runs are processes of a
machine nobody reads it. Not here: the pod of a run of several stages (`runtime.run_pods`).

Source: https://docs.dagster.io/deployment/oss/deployment-options/kubernetes/customizing-your-deployment
"""

from collections.abc import Mapping
from typing import Any

from moltpipe.studio.pods import SIZES

K8S_TAG = "dagster-k8s/config"


def pod_of(stage: str) -> Mapping[str, Any]:
    """The `op_tags` of an asset or check."""
    return {K8S_TAG: {"container_config": {"resources": SIZES[stage].resources()}}}
