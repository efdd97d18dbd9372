"""Which certificates of a mesh end soon: seconds, and few permissions."""

from __future__ import annotations

from prefect_linkerd.mesh.config.verification import ExpiryThresholds
from prefect_linkerd.mesh.errors import CertificateExpired
from prefect_linkerd.mesh.snapshot.expiry import Expiring
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect
from prefect_linkerd.tasks.outside import Ending, completed
from prefect_linkerd.tasks.verify import certificates

DEFAULTS = ExpiryThresholds()


@flow(
    run_name="certificates of {mesh.name}",
    changes=False,
    page="verify.md#certificates-alone",
    command="certificates",
    grants="certificate_reads",
    fleet=True,
    schedules={"daily": {"minutes": 1440, "at": "06:10"}},
)
def check_certificates(
    mesh: LinkerdMesh, thresholds: ExpiryThresholds = DEFAULTS
) -> tuple[Expiring, ...] | Ending:
    """List the certificates that expire soon, in about a second; change nothing.

    Each that ends soon is an event `linkerd.certificate.expiring`, to which an automation can
    answer with `rotate_anchor` or `rotate_issuer`.

    Args:
        mesh: Which mesh.
        thresholds: How many days before its end a certificate is announced.

    Raises:
        CertificateExpired: one has ended already.
    """
    due = certificates(connect(mesh), thresholds)
    ended = [item for item in due if item.expiry.days_left <= 0]
    if ended:
        raise CertificateExpired(
            ended[0].expiry.subject,
            expected=f"the {ended[0].expiry.name} to be valid",
            found=f"that it ended on {ended[0].expiry.info.not_after:%Y-%m-%d %H:%M} UTC",
            remedy=ended[0].remedy,
        )
    if due:
        names = ", ".join(f"{i.expiry.name} ({i.expiry.days_left:.1f} days)" for i in due)
        return completed(due, name="Expiring", message=f"End soon: {names}")
    return due
