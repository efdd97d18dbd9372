"""Whether the control plane exists and runs: `linkerd-config`, its pods, cluster networks.

Source: linkerd2 `pkg/healthcheck`, category linkerd-existence.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.checks.config import AGAIN, COMPONENTS
from prefect_linkerd.mesh.checks.resources import missing
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.kubernetes.objects import condition_of
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.spans import versions_where
from prefect_linkerd.mesh.snapshot.mesh import Pod, Snapshot

existence = Category[Snapshot]("linkerd-existence", "control-plane")

COMPONENT = "linkerd.io/control-plane-component"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def installed_values(snapshot: Snapshot) -> Mapping[str, Any]:
    """The values that the control plane is installed with.

    Raises:
        Skip: they cannot be read; `l5d-existence-linkerd-config` reports it.
    """
    if not snapshot.control_plane_values:
        raise Skip("ConfigMap linkerd-config cannot be read (l5d-existence-linkerd-config)")
    return snapshot.control_plane_values


@existence.check("l5d-existence-linkerd-config", "'linkerd-config' config map exists", fatal=True)
def existence_linkerd_config(snapshot: Snapshot) -> Problems:
    namespace = snapshot.config.namespaces.linkerd
    subject = f"ConfigMap/{namespace}/linkerd-config"
    if f"{namespace}/linkerd-config" not in snapshot.config_maps:
        yield Problem(subject, "it does not exist", AGAIN)
    elif not snapshot.control_plane_values:
        yield Problem(subject, "its key `values` is not a YAML mapping", AGAIN)


@existence.check("l5d-existence-sa", "heartbeat ServiceAccount exist", fatal=True)
def existence_sa(snapshot: Snapshot) -> Problems:
    if installed_values(snapshot).get("disableHeartBeat"):
        return iter(())
    names = [f"{snapshot.config.namespaces.linkerd}/linkerd-heartbeat"]
    return missing("ServiceAccount", names, snapshot.service_accounts, remedy=AGAIN)


@existence.check("l5d-existence-replicasets", "control plane replica sets are ready", fatal=True)
def existence_replicasets(snapshot: Snapshot) -> Problems:
    for obj in snapshot.replica_sets:
        found = condition_of(obj, "ReplicaFailure")
        if found is not None and found["status"] == "True":
            metadata = obj["metadata"]
            yield Problem(
                f"ReplicaSet/{metadata['namespace']}/{metadata['name']}",
                f"{found.get('reason', '')}: {found.get('message', '')}",
                "Fix what rejects its pods, such as a quota or a webhook.",
            )


@existence.check("l5d-existence-unschedulable-pods", "no unschedulable pods", "warning")
def existence_unschedulable_pods(snapshot: Snapshot) -> Problems:
    for pod in snapshot.pods_in(snapshot.config.namespaces.linkerd):
        for condition in pod.conditions:
            if condition.reason == "Unschedulable":
                text = f"it cannot be scheduled: {condition.message}"
                yield Problem(pod.subject, text, "Make room on the nodes, or add one.")


@existence.check("l5d-api-control-ready", "control plane pods are ready", fatal=True)
def api_control_ready(snapshot: Snapshot) -> Problems:
    namespace = snapshot.config.namespaces.linkerd
    pods = [
        pod
        for pod in snapshot.pods_in(namespace)
        if pod.phase == "Running"
        and (COMPONENT in pod.labels or not release_facts(snapshot.version).finds_pods_by_label)
    ]
    for component in COMPONENTS:
        running = [pod for pod in pods if component_of(pod) == component]
        subject = f"Deployment/{namespace}/linkerd-{component}"
        if not running:
            text = "none of its pods is running"
            yield Problem(subject, text, "Look at its pods and their events.")
        # One ready pod is enough.
        elif all(unready(pod) for pod in running):
            found = "; ".join(
                f"{pod.subject}: {', '.join(unready(pod))} not ready" for pod in running
            )
            yield Problem(subject, found, "Look at the containers' logs.")


def component_of(pod: Pod) -> str:
    """`proxy-injector` for pod `linkerd-proxy-injector-5d8f…-x2x9k`; empty for other names."""
    first, *rest = pod.name.split("-")
    return "-".join(rest[:-2]) if first == "linkerd" and len(rest) >= 3 else ""


def unready(pod: Pod) -> list[str]:
    """The names of a pod's containers that are not ready."""
    return [c.name for c in pod.containers if not c.is_init and not c.ready]


@existence.check(
    "l5d-cluster-networks-verified",
    "cluster networks can be verified",
    "warning",
    versions=versions_where(lambda facts: facts.checks_networks_can_be_verified),
)
def cluster_networks_verified(snapshot: Snapshot) -> Problems:
    for node in snapshot.nodes:
        if not node["spec"].get("podCIDR"):
            yield Problem(
                f"Node/{node['metadata']['name']}",
                "it does not expose a podCIDR",
                "Some networks never do: check manually that clusterNetworks covers every pod.",
            )


@existence.check("l5d-cluster-networks-cidr", "cluster networks contains all node podCIDRs")
def cluster_networks_cidr(snapshot: Snapshot) -> Problems:
    networks = cluster_networks(snapshot)
    nodes = [node for node in snapshot.nodes if node["spec"].get("podCIDR")]
    if not nodes:
        raise Skip("the nodes do not expose a podCIDR")
    for node in nodes:
        text: str = node["spec"]["podCIDR"]
        if not any(contains(network, parse_network(text)) for network in networks):
            message = f"its podCIDR {text} is not in Linkerd's clusterNetworks"
            yield Problem(f"Node/{node['metadata']['name']}", message, _ADD.format(text))


_ADD = "Add {} to clusterNetworks in the control plane's values, and run bootstrap again."


@existence.check(
    "l5d-cluster-networks-pods",
    "cluster networks contains all pods",
    versions=versions_where(lambda facts: facts.checks_networks_of_pods),
)
def cluster_networks_contains_all_pods(snapshot: Snapshot) -> Problems:
    networks = cluster_networks(snapshot)
    for pod in snapshot.pods:
        if pod.ip and not pod.host_network and not includes(networks, pod.ip):
            text = f"its address {pod.ip} is not in Linkerd's clusterNetworks"
            yield Problem(pod.subject, text, _ADD.format("the pods' network"))


@existence.check(
    "l5d-cluster-networks-pods",
    "cluster networks contains all services",
    versions=versions_where(lambda facts: facts.checks_networks_of_services),
)
def cluster_networks_contains_all_services(snapshot: Snapshot) -> Problems:
    networks = cluster_networks(snapshot)
    for service in snapshot.services:
        address = service.cluster_ip
        if address not in ("", "None") and not includes(networks, address):
            text = f"its address {address} is not in Linkerd's clusterNetworks"
            yield Problem(service.subject, text, _ADD.format("the Services' network"))


def cluster_networks(snapshot: Snapshot) -> list[Network]:
    """The networks that Linkerd counts as the cluster's own.

    Raises:
        InvalidInput: one of them is not a network.
    """
    text = str(installed_values(snapshot).get("clusterNetworks", ""))
    return [parse_network(part) for part in text.split(",")]


def parse_network(text: str) -> Network:
    """Parses a network in CIDR form; drops the host bits, as Go's `net.ParseCIDR` does.

    Raises:
        InvalidInput: it is not valid.
    """
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidInput(
            "clusterNetworks",
            expected="networks such as 10.0.0.0/8, separated by commas without spaces",
            found=repr(text),
            remedy="Fix clusterNetworks in the control plane's values.",
        ) from None


def contains(network: Network, other: Network) -> bool:
    """Whether a network contains all addresses of another."""
    return (
        network.version == other.version
        and other.network_address in network
        and other.prefixlen >= network.prefixlen
    )


def includes(networks: Sequence[Network], address: str) -> bool:
    """Whether an address is in one of the networks; False for text that is not an address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)
