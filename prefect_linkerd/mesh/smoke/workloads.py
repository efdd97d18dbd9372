"""The pods of a smoke test: backends that identify themselves, and the Job that calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.load.workloads import CONTAINER_PORT, container, pod, serving
from prefect_linkerd.mesh.smoke.options import SmokeOptions

# Long enough for requests to overlap, so that a balancer that counts pending ones has a choice.
DELAY_MS = 5
WARM_UP_SECONDS = 30


@dataclass(frozen=True)
class Backend:
    """The pods behind a Service: the name that they answer with, and how they behave."""

    name: str
    replicas: int = 1
    fail_percent: int = 0


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
    serves = container("backend", config, options.image, arguments)
    template = pod(config, serves, program_name, labels=selector)
    return serving(name, namespace, role.replicas, serves, template, selector)


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
    """The Job that sends the traffic of one measurement, limited in requests and in time.

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
    sends = container("client", config, options.image, arguments)
    # After a crash its output becomes the message.
    sends["terminationMessagePolicy"] = "FallbackToLogsOnError"
    template = pod(config, sends, program_name, labels={}, meshed=meshed)
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
    """The longest that a client Job may take from its start, including the image pull."""
    return options.timeout_seconds + WARM_UP_SECONDS + options.traffic_seconds
