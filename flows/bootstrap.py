"""A Linkerd mesh from nothing."""

from __future__ import annotations

from prefect import flow

from mesh.proof import Proof, require_proof
from tasks.emojivoto import emojivoto
from tasks.ingress import ingress
from tasks.issuer import issuer
from tasks.linkerd_mesh import LinkerdMesh
from tasks.namespaces import namespaces
from tasks.preflight import check_cluster, find_charts
from tasks.proof import proof
from tasks.releases import dependency, release
from tasks.step import submit
from tasks.trust_anchor import trust_anchor


@flow(
    name="bootstrap",
    flow_run_name="bootstrap {mesh.name}",
    persist_result=False,
    validate_parameters=True,
)
def bootstrap(mesh: LinkerdMesh) -> Proof:
    """Brings a cluster to a working Linkerd mesh, or finishes what an earlier run began.

    Every step looks first at what is there and does only what is missing, so it is safe to run
    again at any time; on a finished mesh it changes nothing.

    Args:
        mesh: Which cluster, which Linkerd, and everything that belongs to it.

    Raises:
        MeshError: the object, what was expected, what was found and how to mend it.
    """
    charts = find_charts(mesh)
    facts = check_cluster(mesh, charts)

    namespaces(mesh)
    anchor = trust_anchor(mesh)

    # The CRDs need no identity, and cert-manager's rollout takes its time: side by side.
    crds = (
        submit(release, mesh, charts["linkerd-crds"], facts) if "linkerd-crds" in charts else None
    )
    if mesh.issuer == "cert-manager":
        dependency(mesh, "cert-manager", facts)
    issuer(mesh, anchor)
    if crds is not None:
        crds.result()

    control_plane = charts.get("linkerd2") or charts["linkerd-control-plane"]
    release(mesh, control_plane, facts, anchor.bundle)

    # Everything from here on is a workload of the mesh and independent of the others.
    on_top = [
        submit(release, mesh, charts[name], facts, anchor.bundle)
        for name in ("linkerd-viz", "linkerd-jaeger")
        if name in charts
    ]
    app = submit(emojivoto, mesh) if mesh.smoke_test else None
    if mesh.traefik.enabled:
        dependency(mesh, "traefik", facts)
        ingress(mesh)
    for extension in on_top:
        extension.result()
    if app is not None:
        app.result()

    return require_proof(proof(mesh, charts))
