"""What the control plane's chart makes beside workloads: namespace, RBAC, CRDs, webhooks.

Source: linkerd2 `pkg/healthcheck`, category linkerd-config (`linkerd check config` of old).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect_linkerd.mesh.checks.check import (
    Category,
    EdgeRelease,
    Problem,
    Problems,
    Skip,
    Versions,
)
from prefect_linkerd.mesh.checks.resources import labels_of, missing
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.snapshot.mesh import Snapshot

crd = Category("linkerd-crd", "crds")
config = Category("linkerd-config", "control-plane")

AGAIN = "Run bootstrap again, which reinstalls the release."
COMPONENTS = ("destination", "identity", "proxy-injector")
SERVICE_ACCOUNTS = tuple(f"linkerd-{component}" for component in COMPONENTS)


@config.check("l5d-existence-ns", "control plane Namespace exists", fatal=True)
def _(snapshot: Snapshot) -> Problems:
    name = snapshot.config.namespaces.linkerd
    if name not in snapshot.namespaces:
        yield Problem(f"Namespace/{name}", "it does not exist", "Install Linkerd by bootstrap.")


def _rbac_names(snapshot: Snapshot) -> list[str]:
    namespace = snapshot.config.namespaces.linkerd
    return [f"linkerd-{namespace}-identity", f"linkerd-{namespace}-proxy-injector"]


@config.check("l5d-existence-cr", "control plane ClusterRoles exist", fatal=True)
def _(snapshot: Snapshot) -> Problems:
    return missing("ClusterRole", _rbac_names(snapshot), snapshot.cluster_roles, remedy=AGAIN)


@config.check("l5d-existence-crb", "control plane ClusterRoleBindings exist", fatal=True)
def _(snapshot: Snapshot) -> Problems:
    names, found = _rbac_names(snapshot), snapshot.cluster_role_bindings
    return missing("ClusterRoleBinding", names, found, remedy=AGAIN)


@config.check("l5d-existence-sa", "control plane ServiceAccounts exist", fatal=True)
def _(snapshot: Snapshot) -> Problems:
    namespace = snapshot.config.namespaces.linkerd
    names = [f"{namespace}/{name}" for name in SERVICE_ACCOUNTS]
    return missing("ServiceAccount", names, snapshot.service_accounts, remedy=AGAIN)


# What `linkerd-crds` installs: each CRD, and its last version since which stable minor and which
# edge. A later line for the same CRD takes the place of the ones before it. Source: the templates
# of charts/linkerd-crds at each release, and which of them the CLI renders for its check: the
# Gateway API's own are checked from 2.14 (edge-23.7.1) until edge-24.8.1.
_GATEWAY_UNTIL: EdgeRelease = (24, 8, 1)
_CRDS: tuple[tuple[str, str, tuple[int, int] | None, EdgeRelease], ...] = (
    ("serviceprofiles.linkerd.io", "v1alpha2", (2, 12), (23, 1, 1)),
    ("authorizationpolicies.policy.linkerd.io", "v1alpha1", (2, 12), (23, 1, 1)),
    ("meshtlsauthentications.policy.linkerd.io", "v1alpha1", (2, 12), (23, 1, 1)),
    ("networkauthentications.policy.linkerd.io", "v1alpha1", (2, 12), (23, 1, 1)),
    ("serverauthorizations.policy.linkerd.io", "v1beta1", (2, 12), (23, 1, 1)),
    ("servers.policy.linkerd.io", "v1beta1", (2, 12), (23, 1, 1)),
    ("servers.policy.linkerd.io", "v1beta2", None, (24, 1, 1)),
    ("servers.policy.linkerd.io", "v1beta3", None, (24, 7, 4)),
    ("httproutes.policy.linkerd.io", "v1beta1", (2, 12), (23, 1, 1)),
    ("httproutes.policy.linkerd.io", "v1beta2", (2, 13), (23, 1, 2)),
    ("httproutes.policy.linkerd.io", "v1beta3", (2, 14), (23, 6, 1)),
    ("httproutes.gateway.networking.k8s.io", "v1beta1", (2, 14), (23, 7, 1)),
    ("grpcroutes.gateway.networking.k8s.io", "v1alpha2", None, (24, 5, 2)),
    ("externalworkloads.workload.linkerd.io", "v1alpha1", None, (24, 1, 1)),
    ("externalworkloads.workload.linkerd.io", "v1beta1", None, (24, 2, 4)),
    ("egressnetworks.policy.linkerd.io", "v1alpha1", None, (24, 10, 4)),
    ("httplocalratelimitpolicies.policy.linkerd.io", "v1alpha1", None, (24, 11, 2)),
)


def expected_crds(version: LinkerdVersion) -> dict[str, str]:
    """The CRDs that a Linkerd version needs, each with the version of it that has to be there."""
    is_edge = version.channel == "edge"
    return {
        name: last
        for name, last, stable, edge in _CRDS
        if (version.numbers >= edge if is_edge else stable is not None and version.minor >= stable)
        and not (
            name.endswith(".gateway.networking.k8s.io")
            and is_edge
            and version.numbers >= _GATEWAY_UNTIL
        )
    }


def _missing_crds(snapshot: Snapshot) -> Problems:
    if not snapshot.version.at_least((2, 12)):
        names, found = ["serviceprofiles.linkerd.io"], labels_of(snapshot.crds)
        yield from missing("CustomResourceDefinition", names, found, remedy=AGAIN)
        return
    for name, version in expected_crds(snapshot.version).items():
        subject, obj = f"CustomResourceDefinition/{name}", snapshot.crds.get(name)
        if obj is None:
            yield Problem(subject, "it does not exist", AGAIN)
        elif all(served["name"] != version for served in obj["spec"]["versions"]):
            yield Problem(subject, f"it has no version {version}", AGAIN)


@crd.check(
    "l5d-existence-crd",
    "control plane CustomResourceDefinitions exist",
    fatal=True,
    versions=Versions(since=(2, 12)),
)
def _(snapshot: Snapshot) -> Problems:
    return _missing_crds(snapshot)


@config.check("l5d-existence-crd", "control plane CustomResourceDefinitions exist", fatal=True)
def _(snapshot: Snapshot) -> Problems:
    return _missing_crds(snapshot)


@config.check("l5d-existence-mwc", "control plane MutatingWebhookConfigurations exist", fatal=True)
def _(snapshot: Snapshot) -> Problems:
    names, found = ["linkerd-proxy-injector-webhook-config"], snapshot.mutating_webhooks
    return missing("MutatingWebhookConfiguration", names, labels_of(found), remedy=AGAIN)


@config.check(
    "l5d-existence-vwc", "control plane ValidatingWebhookConfigurations exist", fatal=True
)
def _(snapshot: Snapshot) -> Problems:
    names, found = ["linkerd-sp-validator-webhook-config"], snapshot.validating_webhooks
    return missing("ValidatingWebhookConfiguration", names, labels_of(found), remedy=AGAIN)


@config.check(
    "l5d-proxy-init-run-as-root",
    "proxy-init container runs as root user if docker container runtime is used",
)
def _(snapshot: Snapshot) -> Problems:
    values = snapshot.control_plane_values
    if not values:
        raise Skip("ConfigMap linkerd-config cannot be read (l5d-existence-linkerd-config)")
    proxy_init: Mapping[str, Any] = values.get("proxyInit") or {}
    if proxy_init.get("runAsRoot"):
        return
    for node in snapshot.nodes:
        runtime = str(node["status"]["nodeInfo"].get("containerRuntimeVersion", ""))
        if runtime.startswith("docker:"):
            yield Problem(
                f"Node/{node['metadata']['name']}",
                f"its container runtime is {runtime}, where proxy-init has to run as root",
                "Set proxyInit.runAsRoot to true in the control plane's values.",
            )
