"""The steps that give a running mesh a new issuer."""

from __future__ import annotations

from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.pki.certificates import CertificateInfo
from prefect_linkerd.mesh.probe.run import Probe
from prefect_linkerd.mesh.records.rotation import RotationClaim
from prefect_linkerd.mesh.rotation import issuer as issuer_rotation
from prefect_linkerd.mesh.rotation.issuer import IssuerRotation, ReleaseWriter
from prefect_linkerd.mesh.rotation.options import RotationOptions
from prefect_linkerd.mesh.rotation.story import issuer_markdown, issuer_notice
from prefect_linkerd.tasks.events import send
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, cluster_of
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.rotation import await_approval, control_plane_chart
from prefect_linkerd.tasks.step import step
from prefect_linkerd.tasks.trust_anchor import key_ring


@step("look", description="Checks that the issuer can be rotated; changes nothing.")
def look_at_issuer(mesh: LinkerdMesh, options: RotationOptions) -> CertificateInfo | None:
    cluster = cluster_of(mesh)
    ring = key_ring(mesh, cluster)
    return issuer_rotation.look_at_issuer(cluster, mesh, ring, options, _writer(mesh)).issuer


def _writer(mesh: LinkerdMesh) -> ReleaseWriter:
    return ReleaseWriter(Helm(cluster_of(mesh)), lambda: control_plane_chart(mesh))


def approve_issuer(options: RotationOptions) -> None:
    """Pauses the run until somebody resumes it, where the new issuer has to be asked for."""
    if "switch" in options.approvals:
        await_approval("a new issuer, signed by the trust anchor that the mesh has", options)


@step("issuer", description="A new issuer, and that identity has loaded it.")
def rotate_the_issuer(
    mesh: LinkerdMesh,
    claim: RotationClaim,
    options: RotationOptions,
    before: CertificateInfo | None,
    probe: Probe,
) -> IssuerRotation:
    cluster = cluster_of(mesh)
    ring = key_ring(mesh, cluster)
    with RolloutProgress(mesh.name, "issuer") as progress:
        done = issuer_rotation.rotate_issuer(
            cluster, mesh, ring, claim, options, before, _writer(mesh), progress, probe
        )
    create_markdown_artifact(
        issuer_markdown(mesh.name, done),
        key=mesh_key(mesh.name, "issuer-rotation"),
        description=f"Issuer of mesh {mesh.name}",
    )
    send([issuer_notice(mesh.name, done)])
    return done
