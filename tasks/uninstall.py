"""The steps that uninstall a mesh: plan, approval and removal."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from prefect_linkerd.mesh.identity.trust_anchor import ANCHOR_SECRET
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import RotationClaim
from prefect_linkerd.mesh.report.events import Notice
from prefect_linkerd.mesh.uninstall.options import UninstallOptions
from prefect_linkerd.mesh.uninstall.plan import UninstallPlan, uninstall_markdown
from prefect_linkerd.mesh.uninstall.run import Uninstall, inspect_uninstall
from prefect_linkerd.tasks.approval import await_approval
from prefect_linkerd.tasks.events import send
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact, get_run_logger, outside
from prefect_linkerd.tasks.rotation import claimed_mesh
from prefect_linkerd.tasks.step import step


@step("plan", description="Plans what is removed and what stays, and why.")
def plan_to_uninstall(
    mesh: Mesh, options: UninstallOptions, accept: frozenset[str]
) -> UninstallPlan:
    """The plan, also as an artifact; changes nothing."""
    plan = inspect_uninstall(mesh, options, accept, key_location(mesh))
    if any(gone.release is not None for gone in plan.goes):
        mesh.helm.require()
    log = get_run_logger()
    for finding in plan.findings:
        log.warning("%s: %s", finding.id, finding)
    create_markdown_artifact(
        uninstall_markdown(plan),
        key=mesh_key(mesh.name, "uninstall-plan"),
        description=f"What would be uninstalled from mesh {mesh.name}",
    )
    return plan


def key_location(mesh: Mesh) -> str:
    """Where the trust anchor's key is, according to the configuration."""
    anchor = mesh.config.trust_anchor
    if anchor.custody == "in-cluster":
        return f"Secret/{mesh.config.anchor_namespace}/{ANCHOR_SECRET}"
    if anchor.key_file is not None:
        return f"file {anchor.key_file}"
    block = anchor.secret_block or mesh_key(mesh.name, "trust-anchor")
    if not outside().has_server:
        return f"not named in the mesh's file, by default Prefect Secret block {block}"
    return f"Prefect Secret block {block}"


def approve_uninstall(mesh: Mesh, options: UninstallOptions) -> None:
    """Waits for approval of the plan if the options require it.

    Raises:
        NotApproved: the plan is rejected, or the approval times out.
    """
    if options.approval:
        await_approval(
            f"the uninstall of mesh {mesh.name}",
            options.approval_hours,
            plan=mesh_key(mesh.name, "uninstall-plan"),
        )


def uninstall_of(mesh: Mesh, plan: UninstallPlan) -> Uninstall:
    """Carries out a plan, and logs each object before it is removed."""
    return Uninstall(mesh, plan, lambda gone: get_run_logger().info("Removing %s", gone.subject))


@contextmanager
def claimed(uninstall: Uninstall, options: UninstallOptions) -> Generator[RotationClaim | None]:
    """Holds the claim to the mesh; None if it is not needed."""
    if not uninstall.needs_claim:
        yield None
        return
    with claimed_mesh(uninstall.mesh, options) as claim:
        yield claim


@step("uninstall", description="Uninstalls the releases and deletes what bootstrap created.")
def remove(uninstall: Uninstall, claim: RotationClaim | None) -> None:
    uninstall.remove(claim)


@step("namespaces", description="Deletes the requested namespaces, and waits until they are gone.")
def delete_namespaces(uninstall: Uninstall) -> None:
    uninstall.delete_namespaces()


@step("gone", description="Reports what was removed, what stays, and where the key is.")
def tell_uninstalled(uninstall: Uninstall) -> None:
    mesh, plan = uninstall.mesh, uninstall.plan
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
