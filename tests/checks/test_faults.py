"""Faults of a mesh that `linkerd check` finds, each found by exactly its checks."""

from __future__ import annotations

from contextlib import AbstractContextManager

from tests.checks.faults import Fault, each_of, fault, removed
from tests.checks.healthy import allowed
from tests.checks.installed import InstalledMesh

RBAC = "rbac.authorization.k8s.io/v1"
ADMISSION = "admissionregistration.k8s.io/v1"


def no_cluster_role(mesh: InstalledMesh) -> AbstractContextManager[object]:
    return removed(mesh.cluster, RBAC, "ClusterRole", "linkerd-linkerd-identity")


def no_injector_webhook(mesh: InstalledMesh) -> AbstractContextManager[object]:
    name = "linkerd-proxy-injector-webhook-config"
    return removed(mesh.cluster, ADMISSION, "MutatingWebhookConfiguration", name)


FAULTS = [
    fault("a ClusterRole is missing", no_cluster_role, errors="l5d-existence-cr"),
    fault("the injector's webhook is missing", no_injector_webhook, errors="l5d-existence-mwc"),
]


@each_of(FAULTS)
def test_a_fault_is_found_by_exactly_its_checks(mesh: InstalledMesh, fault: Fault) -> None:
    healthy = allowed(mesh)
    with fault.cause(mesh):
        assert mesh.settles_to(healthy | fault.found) == healthy | fault.found
    assert mesh.settles_to(healthy) == healthy, "it is not as it was before"
