"""Carries an uninstall out: what is gone already is no step any more, so it can be resumed."""

from __future__ import annotations

from collections.abc import Callable

from prefect_linkerd.mesh.errors import NotReady
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.records import keep_in_record
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.waiting import polls
from prefect_linkerd.mesh.uninstall.plan import Gone, UninstallPlan

POLL = 0.5


def uninstall(
    cluster: Cluster,
    helm: Helm,
    plan: UninstallPlan,
    timeout: int,
    check: Callable[[], None],
    on_step: Callable[[Gone], None],
) -> None:
    """Uninstalls and deletes what the plan says goes, in its order.

    Args:
        timeout: seconds that one release, or one namespace, may take to go.
        check: called before each step; raises where this run may change nothing any more.
        on_step: called with each thing that is about to go.

    Raises:
        ReleaseError: helm's own message.
        NotReady: a namespace does not go.
    """
    for gone in plan.goes:
        check()
        on_step(gone)
        if gone.release is not None:
            ref = gone.release
            if gone.keeps:
                keep_in_record(cluster, ref, gone.keeps)
            helm.remove(ref.name, ref.namespace, timeout)
            continue
        cluster.delete(gone.api_version, gone.obj_kind, gone.name, gone.namespace)
        if gone.kind == "namespace":
            _await_gone(cluster, gone, timeout)


def _await_gone(cluster: Cluster, gone: Gone, timeout: int) -> None:
    for is_last in polls(timeout, every=POLL):
        if (found := cluster.get("v1", "Namespace", gone.name)) is None:
            return
        if is_last:
            conditions: list[dict[str, str]] = found.get("status", {}).get("conditions") or []
            why = "; ".join(c["message"] for c in conditions if c.get("status") == "True")
            raise NotReady(
                gone.subject,
                expected=f"to be gone within {timeout} s",
                found=f"it is still terminating: {why or 'no reason is given'}",
                remedy="Remove what holds it (kubectl get namespace -o yaml shows it), then run "
                "uninstall again.",
            )
