"""Install a Linkerd mesh, or resume an interrupted installation."""

from __future__ import annotations

from prefect_linkerd.mesh.bootstrap.installed import Installed
from prefect_linkerd.mesh.bootstrap.plan import BootstrapPlan, require_bootstrap_plan
from prefect_linkerd.tasks.bootstrap import bootstrap_of, install
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.installed import verify
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect
from prefect_linkerd.tasks.preflight import find_charts, plan

NOTHING: list[str] = []


@flow(
    run_name="bootstrap {mesh.name}",
    changes=True,
    page="bootstrap.md",
    command="bootstrap",
    grants="bootstrap",
    fleet=True,
    key="kept",
    confirms_cluster=True,
)
def bootstrap(
    mesh: LinkerdMesh, dry_run: bool = False, accept: list[str] = NOTHING
) -> Installed | BootstrapPlan:
    """Install a mesh, or resume an interrupted install.

    Every step first checks what exists and does only what is missing, so it is safe to run again at
    any time; on a finished mesh it changes nothing.

    Args:
        mesh: The mesh to install: its cluster, the Linkerd version and everything else.
        dry_run: Stop after the plan, and change nothing.
        accept: Ids of the plan's findings that you have reviewed and accept.

    Raises:
        MeshError: the object, what was expected, what was found and how to fix it.

    Example:
        >>> plan = bootstrap(LinkerdMesh.load("production"), dry_run=True)
        >>> [finding.id for finding in plan.findings]
        ['values-lost']
        >>> bootstrap(LinkerdMesh.load("production"), accept=["values-lost"])
    """
    live = connect(mesh)
    charts = find_charts(live)
    planned = plan(live, charts, frozenset(accept))
    if dry_run:
        return planned.plan
    require_bootstrap_plan(planned.plan)
    # Namespaces, trust anchor, CRDs, issuer, control plane, then everything that runs on the mesh.
    install(bootstrap_of(live, charts, planned))
    return verify(live, charts)
