"""The pods of a smoke test: backends that say who they are, and the Job that asks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.images import rewrite_image
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.smoke import traffic
from prefect_linkerd.mesh.smoke.options import SmokeOptions
from prefect_linkerd.mesh.smoke.routing import PORT

PROGRAM = "traffic.py"
CONTAINER_PORT = 8080
# Long enough that requests overlap, so that a balancer that counts what is pending has a choice.
DELAY_MS = 5
WARM_UP_SECONDS = 30

_FOLDER = "/smoke"


@dataclass(frozen=True)
class Backend:
    """What stands behind a Service: the name that it answers with, and how it behaves."""

    name: str
    replicas: int = 1
    fail_percent: int = 0


def program(name: str, namespace: str) -> Object:
    """The ConfigMap with the program that every pod of a test runs."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {PROGRAM: Path(traffic.__file__).read_text()},
    }


def service(name: str, namespace: str, selector: Mapping[str, str]) -> Object:
    port = {"name": "http", "port": PORT, "targetPort": CONTAINER_PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": dict(selector), "ports": [port]},
    }


def backend(
    name: str,
    namespace: str,
    config: MeshConfig,
    options: SmokeOptions,
    role: Backend,
    *,
    program_name: str,
    selector: Mapping[str, str],
) -> Object:
    """A meshed Deployment whose pods answer with their role and their own name.

    Args:
        selector: the labels of its pods, which no other workload has.
    """
    arguments = [
        *("serve", "--host", "", "--port", str(CONTAINER_PORT), "--backend", role.name),
        *("--replica", "$(POD_NAME)", "--fail-percent", str(role.fail_percent)),
        *("--delay-ms", str(DELAY_MS)),
    ]
    container = _container("backend", config, options, arguments)
    container["env"] = [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]
    container["ports"] = [{"name": "http", "containerPort": CONTAINER_PORT}]
    container["readinessProbe"] = {
        "httpGet": {"path": "/ready", "port": "http"},
        "periodSeconds": 2,
    }
    template = _pod(config, container, program_name, labels=selector)
    template["spec"]["terminationGracePeriodSeconds"] = 5
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": role.replicas,
            "selector": {"matchLabels": dict(selector)},
            "template": template,
        },
    }


def client(
    name: str,
    namespace: str,
    config: MeshConfig,
    options: SmokeOptions,
    url: str,
    *,
    program_name: str,
    headers: Mapping[str, str],
    meshed: bool = True,
    warm_up: int = WARM_UP_SECONDS,
) -> Object:
    """The Job that sends the traffic of one measurement, bounded in count and in time.

    Its result is the container's termination message, which is in the pod's status: no permission
    to read logs is needed, and a proxy that outlives the client does not matter.
    """
    arguments = [
        *("send", "--url", url, "--requests", str(options.requests)),
        *("--connections", str(options.connections), "--seconds", str(options.traffic_seconds)),
        *("--timeout", str(options.request_timeout_seconds), "--warm-up", str(warm_up)),
    ]
    for header, value in headers.items():
        arguments += ["--header", f"{header}={value}"]
    container = _container("client", config, options, arguments)
    # What a crash printed is the message then.
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"
    template = _pod(config, container, program_name, labels={}, meshed=meshed)
    template["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": client_seconds(options),
            "template": template,
        },
    }


def client_seconds(options: SmokeOptions) -> int:
    """The most that a client Job may take from its start, its image's pull included."""
    return options.timeout_seconds + WARM_UP_SECONDS + options.traffic_seconds


def _container(
    name: str, config: MeshConfig, options: SmokeOptions, arguments: list[str]
) -> dict[str, Any]:
    image = options.image
    if config.registry is not None:
        image = rewrite_image(image, config.registry.host)
    return {
        "name": name,
        "image": image,
        "command": ["python3", f"{_FOLDER}/{PROGRAM}"],
        "args": arguments,
        "resources": {
            "requests": {"cpu": "20m", "memory": "32Mi"},
            "limits": {"memory": "128Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "program", "mountPath": _FOLDER, "readOnly": True}],
    }


def _pod(
    config: MeshConfig,
    container: dict[str, Any],
    program_name: str,
    *,
    labels: Mapping[str, str],
    meshed: bool = True,
) -> dict[str, Any]:
    annotations = {"linkerd.io/inject": "enabled" if meshed else "disabled"}
    if meshed:
        annotations |= {
            # The application starts once its proxy is up.
            "config.linkerd.io/proxy-await": "enabled",
            # Whatever the mesh's default is: a test asks about routing, not about policy.
            "config.linkerd.io/default-inbound-policy": "all-unauthenticated",
        }
    spec: dict[str, Any] = {
        "containers": [container],
        "volumes": [{"name": "program", "configMap": {"name": program_name}}],
    }
    if config.registry is not None and config.registry.username is not None:
        spec["imagePullSecrets"] = [{"name": config.registry.pull_secret}]
    return {"metadata": {"labels": dict(labels), "annotations": annotations}, "spec": spec}
