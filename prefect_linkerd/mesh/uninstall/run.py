"""An uninstall: its plan, and the run. A run can be killed at any point and run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from prefect_linkerd.mesh.errors import NotReady
from prefect_linkerd.mesh.helm.records import keep_in_record
from prefect_linkerd.mesh.kubernetes.permissions import denied
from prefect_linkerd.mesh.kubernetes.waiting import polls
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import RECORD, RotationClaim
from prefect_linkerd.mesh.uninstall.options import UninstallOptions
from prefect_linkerd.mesh.uninstall.plan import Gone, UninstallPlan, plan_uninstall
from prefect_linkerd.mesh.uninstall.snapshot import read_uninstall, uninstall_permissions

POLL = 0.5


def inspect_uninstall(
    mesh: Mesh, options: UninstallOptions, accepted: frozenset[str], key: str
) -> UninstallPlan:
    """Plans an uninstall; changes nothing.

    Args:
        accepted: ids of findings that a person has reviewed.
        key: where the trust anchor's private key is, in words.

    Raises:
        PreflightFailed: reading is not allowed; names every missing permission.
    """
    snapshot = read_uninstall(mesh, options, key)
    plan = plan_uninstall(snapshot, options, accepted)
    if lacking := denied(mesh.cluster, uninstall_permissions(mesh.cluster, plan, snapshot)):
        plan = plan_uninstall(replace(snapshot, denied=tuple(lacking)), options, accepted)
    return plan


class Uninstall:
    """One run of an uninstall. The plan omits what is already gone.

    Args:
        on_step: called with each item that is about to be removed.
    """

    def __init__(self, mesh: Mesh, plan: UninstallPlan, on_step: Callable[[Gone], None]) -> None:
        self.mesh = mesh
        self.plan = plan
        self._on_step = on_step

    @property
    def needs_claim(self) -> bool:
        """Whether it has to claim the mesh; False if only namespaces are left to delete."""
        return self.plan.has_lease and any(gone.kind != "namespace" for gone in self.plan.goes)

    def remove(self, claim: RotationClaim | None) -> None:
        """Uninstalls the releases and deletes the objects of the plan, in its order.

        Args:
            claim: the run's claim on the mesh, if it needs one.

        Raises:
            ReleaseError: helm failed; has helm's own message.
            MeshBusy: another run has the mesh now.
        """
        cluster = self.mesh.cluster
        for gone in self.plan.goes:
            if gone.kind == "namespace":
                continue
            if claim is not None:
                claim.check()
            self._on_step(gone)
            if gone.release is None:
                cluster.delete(gone.api_version, gone.obj_kind, gone.name, gone.namespace)
                continue
            ref = gone.release
            if gone.keeps:
                keep_in_record(cluster, ref, gone.keeps)
            self.mesh.helm.remove(ref.name, ref.namespace, self.mesh.config.timeout_seconds)
        # The object that holds the lease, which this run may have created.
        cluster.delete("v1", "ConfigMap", RECORD, self.mesh.config.namespaces.linkerd)

    def delete_namespaces(self) -> None:
        """Deletes the plan's namespaces, and waits until each is gone.

        Call it after releasing the lease, which cannot be renewed once the mesh's namespace is
        being deleted.

        Raises:
            NotReady: a namespace is still terminating after the timeout.
        """
        for gone in self.plan.goes:
            if gone.kind == "namespace":
                self._on_step(gone)
                self.mesh.cluster.delete("v1", "Namespace", gone.name)
                self._await_gone(gone)

    def _await_gone(self, gone: Gone) -> None:
        timeout = self.mesh.config.timeout_seconds
        for is_last in polls(timeout, every=POLL):
            if (found := self.mesh.cluster.get("v1", "Namespace", gone.name)) is None:
                return
            if is_last:
                conditions: list[dict[str, str]] = found.get("status", {}).get("conditions") or []
                why = "; ".join(c["message"] for c in conditions if c.get("status") == "True")
                raise NotReady(
                    gone.subject,
                    expected=f"to be gone within {timeout} s",
                    found=f"it is still terminating: {why or 'no reason is given'}",
                    remedy="Remove what blocks it (kubectl get namespace -o yaml shows it), then "
                    "run uninstall again.",
                )
