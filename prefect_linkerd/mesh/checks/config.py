"""What the control plane's chart creates besides workloads: namespace, RBAC, CRDs, webhooks.

Source: linkerd2 `pkg/healthcheck`, category linkerd-config (formerly `linkerd check config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.checks.resources import labels_of, missing
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.spans import versions_where
from prefect_linkerd.mesh.snapshot.mesh import Snapshot

crd = Category[Snapshot]("linkerd-crd", "crds")
config = Category[Snapshot]("linkerd-config", "control-plane")

AGAIN = "Make Helm recreate it: `helm rollback` the release to its current revision."
"""Bootstrap would not recreate it: it skips a release deployed with the wanted chart and values."""
COMPONENTS = ("destination", "identity", "proxy-injector")
SERVICE_ACCOUNTS = tuple(f"linkerd-{component}" for component in COMPONENTS)


@config.check("l5d-existence-ns", "control plane Namespace exists", fatal=True)
def existence_ns(snapshot: Snapshot) -> Problems:
    name = snapshot.config.namespaces.linkerd
    if name not in snapshot.namespaces:
        yield Problem(f"Namespace/{name}", "it does not exist", "Install Linkerd with bootstrap.")


def _rbac_names(snapshot: Snapshot) -> list[str]:
    namespace = snapshot.config.namespaces.linkerd
    return [f"linkerd-{namespace}-identity", f"linkerd-{namespace}-proxy-injector"]


@config.check("l5d-existence-cr", "control plane ClusterRoles exist", fatal=True)
def existence_cr(snapshot: Snapshot) -> Problems:
    return missing("ClusterRole", _rbac_names(snapshot), snapshot.cluster_roles, remedy=AGAIN)


@config.check("l5d-existence-crb", "control plane ClusterRoleBindings exist", fatal=True)
def existence_crb(snapshot: Snapshot) -> Problems:
    names, found = _rbac_names(snapshot), snapshot.cluster_role_bindings
    return missing("ClusterRoleBinding", names, found, remedy=AGAIN)


@config.check("l5d-existence-sa", "control plane ServiceAccounts exist", fatal=True)
def existence_sa(snapshot: Snapshot) -> Problems:
    namespace = snapshot.config.namespaces.linkerd
    names = [f"{namespace}/{name}" for name in SERVICE_ACCOUNTS]
    return missing("ServiceAccount", names, snapshot.service_accounts, remedy=AGAIN)


def _missing_crds(snapshot: Snapshot) -> Problems:
    facts = release_facts(snapshot.version)
    if not facts.checks_crd_versions:
        found = labels_of(snapshot.crds)
        yield from missing("CustomResourceDefinition", facts.crds, found, remedy=AGAIN)
        return
    for name, version in facts.crds.items():
        subject, obj = f"CustomResourceDefinition/{name}", snapshot.crds.get(name)
        if obj is None:
            yield Problem(subject, "it does not exist", AGAIN)
        elif all(served["name"] != version for served in obj["spec"]["versions"]):
            yield Problem(subject, f"it has no version {version}", AGAIN)


@crd.check(
    "l5d-existence-crd",
    "control plane CustomResourceDefinitions exist",
    fatal=True,
    versions=versions_where(lambda facts: not facts.has_one_chart),
)
@config.check("l5d-existence-crd", "control plane CustomResourceDefinitions exist", fatal=True)
def existence_crd(snapshot: Snapshot) -> Problems:
    return _missing_crds(snapshot)


@config.check("l5d-existence-mwc", "control plane MutatingWebhookConfigurations exist", fatal=True)
def existence_mwc(snapshot: Snapshot) -> Problems:
    names, found = ["linkerd-proxy-injector-webhook-config"], snapshot.mutating_webhooks
    return missing("MutatingWebhookConfiguration", names, labels_of(found), remedy=AGAIN)


@config.check(
    "l5d-existence-vwc", "control plane ValidatingWebhookConfigurations exist", fatal=True
)
def existence_vwc(snapshot: Snapshot) -> Problems:
    names, found = ["linkerd-sp-validator-webhook-config"], snapshot.validating_webhooks
    return missing("ValidatingWebhookConfiguration", names, labels_of(found), remedy=AGAIN)


@config.check(
    "l5d-proxy-init-run-as-root",
    "proxy-init container runs as root user if docker container runtime is used",
)
def proxy_init_run_as_root(snapshot: Snapshot) -> Problems:
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
