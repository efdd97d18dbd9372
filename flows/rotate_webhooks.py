"""Renews the certificates of a running mesh's webhooks with the charts that created them."""

from __future__ import annotations

from prefect_linkerd.mesh.planning.dry_run import DryRun
from prefect_linkerd.mesh.rotation.options import WebhookOptions
from prefect_linkerd.mesh.rotation.webhooks import WebhookRenewal
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect
from prefect_linkerd.tasks.rotation import claimed_mesh
from prefect_linkerd.tasks.webhooks import (
    approve_webhooks,
    inspect_webhooks,
    renew_webhooks,
    webhooks_outlook,
)

DEFAULTS = WebhookOptions()


@flow(
    run_name="rotate webhooks of {mesh.name}",
    changes=True,
    page="rotate-anchor.md#webhook-certificates",
    command="rotate-webhooks",
    grants="rotate_webhooks",
    fleet=True,
)
def rotate_webhooks(
    mesh: LinkerdMesh, options: WebhookOptions = DEFAULTS, dry_run: bool = False
) -> WebhookRenewal | DryRun:
    """Renew the certificates of Linkerd's webhooks with the charts that created them.

    Versions and values stay the same. Certificates that cert-manager or the chart's values provide
    are left alone and listed. The pods that serve the webhooks restart.

    Args:
        mesh: Which mesh.
        options: Whether to ask before the first change.
        dry_run: Only show what would be renewed.

    Raises:
        MeshError: the object, what was expected, what was found and how to fix it.

    Example:
        >>> rotate_webhooks(LinkerdMesh.load("production"), dry_run=True)  # says what is renewed
        >>> rotate_webhooks(LinkerdMesh.load("production"))
    """
    live = connect(mesh)
    before = inspect_webhooks(live)
    if dry_run:
        return webhooks_outlook(live)
    approve_webhooks(options)
    with claimed_mesh(live, options) as claim:
        return renew_webhooks(live, claim, before)
