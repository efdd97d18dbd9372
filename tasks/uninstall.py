"""The steps that uninstall a mesh: the plan, somebody's approval, and the work itself."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.identity.trust_anchor import ANCHOR_SECRET
from prefect_linkerd.mesh.kubernetes.permissions import denied
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import RECORD, RotationClaim
from prefect_linkerd.mesh.report.events import Notice
from prefect_linkerd.mesh.uninstall.options import UninstallOptions
from prefect_linkerd.mesh.uninstall.plan import (
    Gone,
    UninstallPlan,
    plan_uninstall,
    uninstall_markdown,
)
from prefect_linkerd.mesh.uninstall.run import uninstall
from prefect_linkerd.mesh.uninstall.snapshot import read_uninstall, uninstall_permissions
from prefect_linkerd.tasks.events import send
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact, get_run_logger, outside
from prefect_linkerd.tasks.rotation import claimed_mesh
from prefect_linkerd.tasks.step import step


@step("plan", description="Reads what is there and says what goes and what stays, and why.")
def plan_to_uninstall(
    mesh: Mesh, options: UninstallOptions, accept: frozenset[str]
) -> UninstallPlan:
    """The plan, also as an artifact; nothing is changed."""
    cluster = mesh.cluster
    snapshot = read_uninstall(cluster, mesh.config, options, _place_of_key(mesh))
    plan = plan_uninstall(snapshot, options, accept)
    if lacking := denied(cluster, uninstall_permissions(cluster, plan, snapshot)):
        plan = plan_uninstall(replace(snapshot, denied=tuple(lacking)), options, accept)
    log = get_run_logger()
    for finding in plan.findings:
        log.warning("%s: %s", finding.id, finding)
    create_markdown_artifact(
        uninstall_markdown(plan),
        key=mesh_key(mesh.name, "uninstall-plan"),
        description=f"What would be uninstalled of mesh {mesh.name}",
    )
    return plan


def _place_of_key(mesh: Mesh) -> str:
    """Where the configuration says that the trust anchor's key is."""
    anchor = mesh.config.trust_anchor
    if anchor.custody == "in-cluster":
        return f"Secret/{mesh.config.anchor_namespace}/{ANCHOR_SECRET}"
    if anchor.key_file is not None:
        return f"file {anchor.key_file}"
    block = anchor.secret_block or mesh_key(mesh.name, "trust-anchor")
    return f"Prefect Secret block {block}"


def approve_uninstall(mesh: Mesh, options: UninstallOptions) -> None:
    """Pauses the run until somebody has looked at the plan.

    Raises:
        InvalidInput: somebody says no, or nobody says anything in time.
    """
    if not options.approval:
        return
    is_approved = outside().approve_plan(
        f"uninstalling mesh {mesh.name}",
        mesh_key(mesh.name, "uninstall-plan"),
        options.approval_hours,
    )
    if not is_approved:
        raise InvalidInput(
            f"uninstall of mesh {mesh.name}",
            expected=f"to be approved within {options.approval_hours} hours",
            found="no answer" if is_approved is None else "that it was not",
            remedy="Nothing was changed. Run uninstall again to ask again.",
        )


@contextmanager
def claimed(
    mesh: Mesh, options: UninstallOptions, plan: UninstallPlan
) -> Generator[RotationClaim | None]:
    """The right to change the mesh; None where only namespaces are left, or no place for it."""
    if not plan.has_lease or all(gone.kind == "namespace" for gone in plan.goes):
        yield None
        return
    with claimed_mesh(mesh, options) as claim:
        yield claim


@step("uninstall", description="Uninstalls the releases and deletes what bootstrap made.")
def carry_out(mesh: Mesh, claim: RotationClaim | None, plan: UninstallPlan) -> None:
    def check() -> None:
        if claim is not None:
            claim.check()

    others = tuple(gone for gone in plan.goes if gone.kind != "namespace")
    timeout = mesh.config.timeout_seconds
    uninstall(mesh.cluster, mesh.helm, replace(plan, goes=others), timeout, check, _told)
    # The lease's own object, which this run may have made.
    mesh.cluster.delete("v1", "ConfigMap", RECORD, mesh.config.namespaces.linkerd)


@step("namespaces", description="Deletes the namespaces that were asked for, and waits for them.")
def delete_namespaces(mesh: Mesh, plan: UninstallPlan) -> None:
    """Once the lease is given back: with the mesh's namespace goes the right to renew it."""
    namespaces = tuple(gone for gone in plan.goes if gone.kind == "namespace")
    timeout = mesh.config.timeout_seconds
    last = replace(plan, goes=namespaces)
    uninstall(mesh.cluster, mesh.helm, last, timeout, lambda: None, _told)


def _told(gone: Gone) -> None:
    get_run_logger().info("%s goes", gone.subject)


@step("gone", description="Says what is gone, what stays, and where the key is.")
def tell_uninstalled(mesh: Mesh, plan: UninstallPlan) -> None:
    create_markdown_artifact(
        uninstall_markdown(plan, done=True),
        key=mesh_key(mesh.name, "uninstall"),
        description=f"Mesh {mesh.name}: uninstalled",
    )
    payload = {
        "gone": [gone.subject for gone in plan.goes],
        "stays": [stays.subject for stays in plan.stays],
        "key": plan.key,
    }
    send([Notice("linkerd.mesh.uninstalled", mesh.name, payload)])
