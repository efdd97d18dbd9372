"""The objects of the probe: its namespace, and a generation's pods behind a Service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Object
from prefect_linkerd.mesh.kubernetes.permissions import Permission
from prefect_linkerd.mesh.load.fuse import Family
from prefect_linkerd.mesh.load.program import ADMIN_PORT, DRAIN_SECONDS
from prefect_linkerd.mesh.load.workloads import CONTAINER_PORT, container, pod, serving
from prefect_linkerd.mesh.probe.options import NAMESPACE, ProbeOptions

PROBE = Family("probe")
GENERATION_LABEL = "probe.prefect-linkerd/generation"
MADE_LABEL = "probe.prefect-linkerd/made"
"""Marks a namespace that a run has created, so that a run deletes it."""

RESULTS_PORT = 8081


def namespace() -> Object:
    """The probe's own namespace; an administrator may create it along with a narrow role."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            # linkerd-init needs capabilities that only the privileged standard grants.
            "labels": {**MADE_HERE, "pod-security.kubernetes.io/enforce": "privileged"},
        },
    }


def generation(
    name: str,
    place: str,
    config: MeshConfig,
    options: ProbeOptions,
    server: str,
    asked: Sequence[str],
    *,
    url: str,
    program_name: str,
    selector: Mapping[str, str],
) -> Object:
    """A Deployment whose pods answer requests, send requests, and report their counts.

    Args:
        server: the generation's name.
        asked: the generations that it sends requests to from the start.
        url: the URL of a generation's Service; `{}` stands for the generation's name.
    """
    arguments = [
        *("probe", "--host", "", "--port", str(CONTAINER_PORT)),
        *("--results-port", str(RESULTS_PORT), "--name", server, "--replica", "$(POD_NAME)"),
        *("--url", url, "--interval", str(round(1 / options.requests_per_second, 3))),
        *("--timeout", str(options.request_timeout_seconds)),
        *("--warm-up", str(options.warm_up_seconds)),
    ]
    for each in asked:
        arguments += ["--ask", each]
    probes = container("probe", config, options.image, arguments)
    template = pod(config, probes, program_name, labels=selector)
    # Results bypass the proxy, so that a failing mesh cannot hide its failures.
    template["metadata"]["annotations"] |= {
        "config.linkerd.io/skip-inbound-ports": str(RESULTS_PORT),
        # So do other proxies' metrics: its own proxy would have to look up thousands of addresses.
        "config.linkerd.io/skip-outbound-ports": str(ADMIN_PORT),
        # Source: https://linkerd.io/2/tasks/graceful-shutdown/
        "config.alpha.linkerd.io/proxy-wait-before-exit-seconds": str(DRAIN_SECONDS),
    }
    template["spec"]["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(selector)},
        }
    ]
    made = serving(name, place, options.replicas, probes, template, selector)
    template["spec"]["terminationGracePeriodSeconds"] = 2 * DRAIN_SECONDS
    return made


def probe_permissions(place: str, *, creates: bool, pulls: bool) -> list[Permission]:
    """The permissions that the probe needs in its namespace.

    Args:
        creates: whether it creates and deletes the namespace.
        pulls: whether it creates a pull secret there.
    """
    verbs = ("get", "list", "create", "patch", "delete")
    kinds = (("configmaps", ""), ("services", ""), ("deployments", "apps"), ("jobs", "batch"))
    found = [Permission(verb, kind, group, place) for kind, group in kinds for verb in verbs]
    found += [
        Permission("list", "pods", namespace=place),
        Permission("list", "replicasets", "apps", place),
        Permission("get", "pods/proxy", namespace=place),
    ]
    if pulls:
        found += [
            Permission(verb, "secrets", namespace=place) for verb in ("get", "create", "patch")
        ]
    if creates:
        found += [Permission(verb, "namespaces", name=place) for verb in ("patch", "delete")]
        found.append(Permission("create", "namespaces"))
    return found
