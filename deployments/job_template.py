"""The base job template of the Kubernetes work pool: Prefect's own, with our additions.

    python -m prefect_linkerd.deployments.job_template > template.json

writes the file for `prefect work-pool create --base-job-template`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, cast

IMAGE = f"prefect-linkerd:{version('prefect-linkerd')}"
"""The image that deployments/Dockerfile builds."""
NOBODY = 10001
"""The user and group of the image."""

PLACEMENT: Mapping[str, Any] = {
    "image_pull_secrets": {
        "title": "Image Pull Secrets",
        "description": 'For the image\'s registry, such as [{"name": "registry"}].',
        "type": "array",
        "items": {"type": "object"},
        "default": [],
    },
    "node_selector": {
        "title": "Node Selector",
        "description": "Labels of the nodes that Jobs may run on.",
        "type": "object",
        "additionalProperties": {"type": "string"},
        "default": {},
    },
    "tolerations": {
        "title": "Tolerations",
        "description": "Node taints that Jobs tolerate, as in a Pod.",
        "type": "array",
        "items": {"type": "object"},
        "default": [],
    },
}
"""Variables that Prefect's template lacks: how the image is pulled, and where Jobs run."""

PATCH: Mapping[str, Any] = {
    "job_configuration": {
        "job_manifest": {
            "spec": {
                "completions": 1,
                "parallelism": 1,
                "template": {
                    "spec": {
                        # prefect-kubernetes sets them here, but a Pod has no such fields.
                        "completions": None,
                        "parallelism": None,
                        "securityContext": {
                            "runAsNonRoot": True,
                            "runAsUser": NOBODY,
                            "runAsGroup": NOBODY,
                            "fsGroup": NOBODY,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "volumes": [{"name": "tmp", "emptyDir": {}}],
                        "imagePullSecrets": "{{ image_pull_secrets }}",
                        "nodeSelector": "{{ node_selector }}",
                        "tolerations": "{{ tolerations }}",
                    }
                },
            }
        }
    },
    "variables": {
        "properties": {
            "image": {"default": IMAGE},
            "finished_job_ttl": {"default": 3600},
            "namespace": {"default": "prefect"},
            "pod_watch_timeout_seconds": {"default": 300},
            "cpu_request": {"default": "100m"},
            "memory_request": {"default": "256Mi"},
            "memory_limit": {"default": "1Gi"},
            "service_account_name": {"default": "default"},
            **PLACEMENT,
        }
    },
}
"""A JSON merge patch (RFC 7386)."""

CONTAINER: Mapping[str, Any] = {
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    },
    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 a folder of the pod
}
"""The patch for the only container, because a merge patch replaces whole lists."""


def job_template() -> dict[str, Any]:
    """The template of the installed prefect-kubernetes, patched.

    It is what `prefect work-pool get-default-base-job-template --type kubernetes` prints.
    """
    from prefect_kubernetes.worker import (  # pyright: ignore[reportMissingTypeStubs]
        KubernetesWorker,
    )

    template = merged(KubernetesWorker.get_default_base_job_template(), PATCH)
    [container] = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"][
        "containers"
    ]
    container |= CONTAINER
    return template


def merged(target: Any, patch: Any) -> Any:
    """Applies a JSON merge patch, as in RFC 7386, section 2."""
    if not isinstance(patch, Mapping):
        return patch
    found = dict(cast("Mapping[str, Any]", target)) if isinstance(target, Mapping) else {}
    for name, value in cast("Mapping[str, Any]", patch).items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


if __name__ == "__main__":
    print(json.dumps(job_template(), indent=2))
