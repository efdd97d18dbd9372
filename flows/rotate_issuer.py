"""Replaces the issuer of a running mesh; its current trust anchor signs the new one."""

from __future__ import annotations

from prefect_linkerd.mesh.planning.dry_run import DryRun
from prefect_linkerd.mesh.rotation.issuer import IssuerRotation
from prefect_linkerd.mesh.rotation.options import RotationOptions
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.issuer_rotation import (
    approve_issuer,
    inspect_issuer,
    issuer_outlook,
    rotate_the_issuer,
    why_no_probe,
)
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect
from prefect_linkerd.tasks.probe import probing
from prefect_linkerd.tasks.rotation import claimed_mesh

DEFAULTS = RotationOptions()


@flow(
    run_name="rotate issuer of {mesh.name}",
    changes=True,
    page="rotate-anchor.md",
    command="rotate-issuer",
    grants="rotate_issuer",
    fleet=True,
    key="read",
)
def rotate_issuer(
    mesh: LinkerdMesh, options: RotationOptions = DEFAULTS, dry_run: bool = False
) -> IssuerRotation | DryRun:
    """Replace the issuer of a running mesh; the trust anchor stays, and no workload restarts.

    If the issuer has already expired, every meshed workload is restarted once you accept downtime,
    and its requests are watched meanwhile.

    Args:
        mesh: Which mesh.
        options: What is allowed, whether to ask first (`switch`), and how long identity may take to
            load the new issuer.
        dry_run: Only show what would be done.

    Raises:
        MeshError: the object, what was expected, what was found and how to fix it.

    Example:
        >>> rotate_issuer(LinkerdMesh.load("production"))
    """
    live = connect(mesh)
    before = inspect_issuer(live, options)
    if dry_run:
        return issuer_outlook(live, before)
    approve_issuer(options)
    with (
        claimed_mesh(live, options) as claim,
        probing(live, options.probe, absent=why_no_probe(live, before)) as probe,
    ):
        return rotate_the_issuer(live, claim, options, before, probe)
