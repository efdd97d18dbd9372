"""Whether a cluster is ready for an installation: `linkerd check --pre`.

Linkerd does a dry-run create of what it would install. These checks ask the API server's authorizer
instead, so nothing has to be rendered or sent.

Source: linkerd2 `pkg/healthcheck`, categories pre-kubernetes-setup and
pre-linkerd-global-resources.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.checks.resources import labels_of, of_control_plane
from prefect_linkerd.mesh.kubernetes.objects import condition_of, is_true
from prefect_linkerd.mesh.kubernetes.permissions import Permission
from prefect_linkerd.mesh.linkerd.spans import versions_where
from prefect_linkerd.mesh.snapshot.mesh import Snapshot, timestamp

pre_kubernetes_setup = Category[Snapshot]("pre-kubernetes-setup", "pre")
pre_linkerd_global_resources = Category[Snapshot]("pre-linkerd-global-resources", "pre")

MAX_HEARTBEAT_AGE = timedelta(minutes=5, seconds=10)
"""The kubelet's longest pause between two heartbeats plus the clock skew that linkerd allows.
Source: linkerd2 `pkg/healthcheck`, `AllowedClockSkew`."""


@pre_kubernetes_setup.check("pre-ns", "control plane namespace does not already exist")
def pre_ns(snapshot: Snapshot) -> Problems:
    name = snapshot.config.namespaces.linkerd
    if name in snapshot.namespaces:
        text = "it already exists"
        remedy = "Delete it, or set namespaces.linkerd to another one."
        yield Problem(f"Namespace/{name}", text, remedy)


@pre_kubernetes_setup.check("pre-k8s-cluster-k8s", "can create non-namespaced resources")
def pre_k8s_cluster_k8s(snapshot: Snapshot) -> Problems:
    return _denied(p for p in _asked(snapshot) if p.verb == "create" and not p.namespace)


def _asked(snapshot: Snapshot) -> tuple[Permission, ...]:
    if snapshot.denied is None:
        raise Skip("permissions were not read")
    return snapshot.denied


def _denied(permissions: Iterable[Permission]) -> Problems:
    for permission in permissions:
        text = f"this identity may not {permission}"
        yield Problem("permissions", text, "Grant it the role of docs/permissions.md.")


def _can(description: str, verb: str, resource: str) -> None:
    @pre_kubernetes_setup.check("pre-k8s", description)
    def can_do(snapshot: Snapshot) -> Problems:
        wanted = (verb, resource, snapshot.config.namespaces.linkerd)
        return _denied(p for p in _asked(snapshot) if (p.verb, p.resource, p.namespace) == wanted)


_can("can create ServiceAccounts", "create", "serviceaccounts")
_can("can create Services", "create", "services")
_can("can create Deployments", "create", "deployments")
_can("can create CronJobs", "create", "cronjobs")
_can("can create ConfigMaps", "create", "configmaps")
_can("can create Secrets", "create", "secrets")
_can("can read Secrets", "get", "secrets")


@pre_kubernetes_setup.check("pre-k8s", "can read extension-apiserver-authentication configmap")
def can_read_extension_apiserver_authentication_configmap(snapshot: Snapshot) -> Problems:
    name, key = "extension-apiserver-authentication", "requestheader-client-ca-file"
    subject = f"ConfigMap/kube-system/{name}"
    remedy = f"Start the API server with --{key}: viz's tap is behind the aggregation layer."
    found = snapshot.config_maps.get(f"kube-system/{name}")
    if found is None:
        yield Problem(subject, "it does not exist", remedy)
    elif not found.get("data", {}).get(key):
        yield Problem(subject, f"--{key} is not configured", remedy)


@pre_kubernetes_setup.check("pre-k8s-clock-skew", "no clock skew detected", "warning")
def pre_k8s_clock_skew(snapshot: Snapshot) -> Problems:
    for node in snapshot.nodes:
        if not is_true(node, "Ready"):
            continue
        ready = condition_of(node, "Ready") or {}
        if (heartbeat := timestamp(ready.get("lastHeartbeatTime"))) is not None:
            age = snapshot.local_now - heartbeat
            if abs(age) > MAX_HEARTBEAT_AGE:
                yield Problem(
                    f"Node/{node['metadata']['name']}",
                    f"its last heartbeat is {age.total_seconds():.0f} s off this machine's clock",
                    "Set the clocks of the node and of this machine (NTP).",
                )


# In later versions `linkerd install` checks these itself, before it prints anything.
_CHECKED = versions_where(lambda facts: facts.checks_nothing_is_installed)


def _not_there(kind: str, found: Iterable[str]) -> Problems:
    for name in sorted(found):
        text = "it exists, though no control plane should be installed"
        yield Problem(f"{kind}/{name}", text, "Uninstall the Linkerd that it belongs to.")


@pre_linkerd_global_resources.check("pre-l5d-existence", "no ClusterRoles exist", versions=_CHECKED)
def no_cluster_roles_exist(snapshot: Snapshot) -> Problems:
    found = snapshot.cluster_roles
    return _not_there("ClusterRole", (n for n in found if of_control_plane(found[n])))


@pre_linkerd_global_resources.check(
    "pre-l5d-existence", "no ClusterRoleBindings exist", versions=_CHECKED
)
def no_cluster_role_bindings_exist(snapshot: Snapshot) -> Problems:
    found = snapshot.cluster_role_bindings
    return _not_there("ClusterRoleBinding", (n for n in found if of_control_plane(found[n])))


@pre_linkerd_global_resources.check(
    "pre-l5d-existence", "no CustomResourceDefinitions exist", versions=_CHECKED
)
def no_custom_resource_definitions_exist(snapshot: Snapshot) -> Problems:
    found = labels_of(snapshot.crds)
    return _not_there("CustomResourceDefinition", (n for n in found if of_control_plane(found[n])))


@pre_linkerd_global_resources.check(
    "pre-l5d-existence", "no MutatingWebhookConfigurations exist", versions=_CHECKED
)
def no_mutating_webhook_configurations_exist(snapshot: Snapshot) -> Problems:
    found = labels_of(snapshot.mutating_webhooks)
    names = (name for name in found if of_control_plane(found[name]))
    return _not_there("MutatingWebhookConfiguration", names)


@pre_linkerd_global_resources.check(
    "pre-l5d-existence", "no ValidatingWebhookConfigurations exist", versions=_CHECKED
)
def no_validating_webhook_configurations_exist(snapshot: Snapshot) -> Problems:
    found = labels_of(snapshot.validating_webhooks)
    names = (name for name in found if of_control_plane(found[name]))
    return _not_there("ValidatingWebhookConfiguration", names)
