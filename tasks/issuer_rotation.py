"""The steps that give a running mesh a new issuer."""

from __future__ import annotations

from prefect_linkerd.mesh.kubernetes.permissions import naming_all_missing
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import CertificateInfo
from prefect_linkerd.mesh.planning.dry_run import DryRun
from prefect_linkerd.mesh.probe.run import Probe
from prefect_linkerd.mesh.records.rotation import RotationClaim
from prefect_linkerd.mesh.rotation import issuer as issuer_rotation
from prefect_linkerd.mesh.rotation.issuer import IssuerRotation
from prefect_linkerd.mesh.rotation.options import RotationOptions
from prefect_linkerd.mesh.rotation.permissions import issuer_permissions, rotation_reads
from prefect_linkerd.mesh.rotation.story import issuer_markdown, issuer_notice
from prefect_linkerd.tasks.approval import await_approval
from prefect_linkerd.tasks.events import send
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.step import step
from prefect_linkerd.tasks.trust_anchor import key_ring


@step("look", description="Checks that the issuer can be rotated; changes nothing.")
def inspect_issuer(mesh: Mesh, options: RotationOptions) -> CertificateInfo | None:
    with naming_all_missing(
        mesh.cluster,
        f"issuer rotation of mesh {mesh.name}",
        lambda: rotation_reads(mesh.config) + issuer_permissions(mesh.config, (), has_record=False),
    ):
        return issuer_rotation.inspect_issuer(mesh, key_ring(mesh), options).issuer


def issuer_outlook(mesh: Mesh, before: CertificateInfo | None) -> DryRun:
    """What `rotate_issuer` would do; call it after `inspect_issuer` has passed."""
    now = "none" if before is None else f"{before.subject}, until {before.not_after:%Y-%m-%d}"
    who = (
        "cert-manager renews" if mesh.config.issuer == "cert-manager" else "the trust anchor signs"
    )
    return DryRun(
        f"New issuer of mesh {mesh.name}",
        (
            f"current issuer: {now}",
            f"{who} a new one, and identity loads it",
            "no workload restarts, unless the issuer has expired and downtime is accepted",
        ),
    )


def approve_issuer(options: RotationOptions) -> None:
    """Waits for approval if the options require it.

    Raises:
        NotApproved: the approval times out.
    """
    if "switch" in options.approvals:
        await_approval(
            "a new issuer, signed by the mesh's current trust anchor", options.approval_hours
        )


def why_no_probe(mesh: Mesh, before: CertificateInfo | None) -> str:
    """Why no probe runs during the rotation; empty if one does."""
    return issuer_rotation.why_no_probe(before, mesh.cluster.clock())


@step("issuer", description="Creates a new issuer, and waits until identity has loaded it.")
def rotate_the_issuer(
    mesh: Mesh,
    claim: RotationClaim,
    options: RotationOptions,
    before: CertificateInfo | None,
    probe: Probe,
) -> IssuerRotation:
    ring = key_ring(mesh)
    with RolloutProgress(mesh.name, "issuer") as progress:
        done = issuer_rotation.rotate_issuer(mesh, ring, claim, options, before, progress, probe)
    create_markdown_artifact(
        issuer_markdown(mesh.name, done),
        key=mesh_key(mesh.name, "issuer-rotation"),
        description=f"Issuer of mesh {mesh.name}",
    )
    send([issuer_notice(mesh.name, done)])
    return done
