"""The CNI plugin, which replaces linkerd-init; checked only if CNI is enabled.

Source: linkerd2 `pkg/healthcheck`, category linkerd-cni-plugin.
"""

from __future__ import annotations

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.checks.existence import installed_values
from prefect_linkerd.mesh.snapshot.mesh import CNI_NAMESPACE, Snapshot

cni_plugin = Category[Snapshot]("linkerd-cni-plugin", "cni")

NAME = "linkerd-cni"
INSTALL = "Install chart linkerd2-cni, or set cniEnabled to false in the control plane's values."


def _look_if_used(snapshot: Snapshot) -> None:
    if not installed_values(snapshot).get("cniEnabled"):
        raise Skip("CNI is not enabled")


@cni_plugin.check("cni-plugin-cm-exists", "cni plugin ConfigMap exists", fatal=True)
def cni_plugin_cm_exists(snapshot: Snapshot) -> Problems:
    _look_if_used(snapshot)
    name = f"{CNI_NAMESPACE}/linkerd-cni-config"
    if name not in snapshot.config_maps:
        yield Problem(f"ConfigMap/{name}", "it does not exist", INSTALL)


@cni_plugin.check("cni-plugin-cr-exists", "cni plugin ClusterRole exists", fatal=True)
def cni_plugin_cr_exists(snapshot: Snapshot) -> Problems:
    _look_if_used(snapshot)
    if NAME not in snapshot.cluster_roles:
        yield Problem(f"ClusterRole/{NAME}", "it does not exist", INSTALL)


@cni_plugin.check("cni-plugin-crb-exists", "cni plugin ClusterRoleBinding exists", fatal=True)
def cni_plugin_crb_exists(snapshot: Snapshot) -> Problems:
    _look_if_used(snapshot)
    if NAME not in snapshot.cluster_role_bindings:
        yield Problem(f"ClusterRoleBinding/{NAME}", "it does not exist", INSTALL)


@cni_plugin.check("cni-plugin-sa-exists", "cni plugin ServiceAccount exists", fatal=True)
def cni_plugin_sa_exists(snapshot: Snapshot) -> Problems:
    _look_if_used(snapshot)
    name = f"{CNI_NAMESPACE}/{NAME}"
    if name not in snapshot.service_accounts:
        yield Problem(f"ServiceAccount/{name}", "it does not exist", INSTALL)


@cni_plugin.check("cni-plugin-ds-exists", "cni plugin DaemonSet exists", fatal=True)
def cni_plugin_ds_exists(snapshot: Snapshot) -> Problems:
    _look_if_used(snapshot)
    if snapshot.workload("DaemonSet", CNI_NAMESPACE, NAME) is None:
        yield Problem(f"DaemonSet/{CNI_NAMESPACE}/{NAME}", "it does not exist", INSTALL)


@cni_plugin.check("cni-plugin-ready", "cni plugin pod is running on all nodes", fatal=True)
def cni_plugin_ready(snapshot: Snapshot) -> Problems:
    _look_if_used(snapshot)
    found = snapshot.workload("DaemonSet", CNI_NAMESPACE, NAME)
    if found is not None and found.ready != found.wanted:
        text = f"{found.ready} of {found.wanted} pods are ready"
        yield Problem(found.subject, text, "Look at the pods that are not, and at their nodes.")
