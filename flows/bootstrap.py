"""Install a Linkerd mesh, or resume an interrupted installation."""

from __future__ import annotations

from prefect_linkerd.mesh.bootstrap.installed import Installed
from prefect_linkerd.mesh.bootstrap.plan import BootstrapPlan, require_bootstrap_plan
from prefect_linkerd.mesh.linkerd.facts import EXTENSION_CHARTS, release_facts
from prefect_linkerd.tasks.emojivoto import emojivoto
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.ingress import ingress
from prefect_linkerd.tasks.installed import verify
from prefect_linkerd.tasks.issuer import issuer
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect
from prefect_linkerd.tasks.namespaces import namespaces
from prefect_linkerd.tasks.preflight import find_charts, plan
from prefect_linkerd.tasks.releases import dependency, release
from prefect_linkerd.tasks.step import submit
from prefect_linkerd.tasks.trust_anchor import trust_anchor

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
    facts = planned.facts

    namespaces(live)
    anchor = trust_anchor(live)

    # The CRDs need no identity, and cert-manager's rollout takes its time: side by side.
    crds = (
        submit(release, live, charts["linkerd-crds"], facts) if "linkerd-crds" in charts else None
    )
    if mesh.issuer == "cert-manager":
        dependency(live, "cert-manager", facts)
    issuer(live, anchor)
    if crds is not None:
        crds.result()

    control_plane = charts[release_facts(mesh.linkerd).control_plane_chart]
    release(live, control_plane, facts, anchor.bundle)

    # Everything from here on is a workload of the mesh and independent of the others.
    on_top = [
        submit(release, live, charts[name], facts, anchor.bundle)
        for name in EXTENSION_CHARTS
        if name in charts
    ]
    app = submit(emojivoto, live) if mesh.emojivoto.enabled else None
    if mesh.traefik.enabled:
        dependency(live, "traefik", facts)
        ingress(live)
    for extension in on_top:
        extension.result()
    if app is not None:
        app.result()

    return verify(live, charts)
