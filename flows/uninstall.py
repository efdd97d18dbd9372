"""Uninstall a Linkerd mesh, or finish an uninstall that was interrupted."""

from __future__ import annotations

from prefect_linkerd.mesh.planning.plan import require_acceptable
from prefect_linkerd.mesh.uninstall.options import UninstallOptions
from prefect_linkerd.mesh.uninstall.plan import UninstallPlan
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect
from prefect_linkerd.tasks.uninstall import (
    approve_uninstall,
    claimed,
    delete_namespaces,
    plan_to_uninstall,
    remove,
    tell_uninstalled,
    uninstall_of,
)

DEFAULTS = UninstallOptions()
NOTHING: list[str] = []


@flow(
    run_name="uninstall {mesh.name}",
    changes=True,
    page="uninstall.md",
    command="uninstall",
    grants="uninstall",
    key="named",
)
def uninstall(
    mesh: LinkerdMesh,
    options: UninstallOptions = DEFAULTS,
    dry_run: bool = False,
    accept: list[str] = NOTHING,
) -> UninstallPlan:
    """Uninstall a mesh, after a plan that says what is removed, what stays and why.

    Objects with another owner stay. So do the trust anchor's private key and, unless you choose
    otherwise, CRDs, namespaces, cert-manager and Traefik. Safe to run again after an interruption.

    Args:
        mesh: Which mesh.
        options: How much to remove, and whether to ask before the first change.
        dry_run: Stop after the plan, and change nothing.
        accept: Ids of the plan's findings that you have reviewed and accept.

    Raises:
        MeshError: the object, what was expected, what was found and how to fix it.

    Example:
        >>> plan = uninstall(LinkerdMesh.load("production"), dry_run=True)
        >>> [finding.id for finding in plan.findings]
        ['injected']
        >>> uninstall(LinkerdMesh.load("production"), accept=["injected"])
    """
    live = connect(mesh)
    plan = plan_to_uninstall(live, options, frozenset(accept))
    if dry_run or plan.is_done:
        return plan
    require_acceptable(plan.findings, f"uninstall of mesh {mesh.name}")
    approve_uninstall(live, options)
    run = uninstall_of(live, plan)
    with claimed(run, options) as claim:
        remove(run, claim)
    delete_namespaces(run)
    tell_uninstalled(run)
    return plan
