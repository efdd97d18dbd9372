"""Lists a mesh's certificates that expire soon: takes about a second and few permissions."""

from __future__ import annotations

from prefect_linkerd.mesh.checks.options import ExpiryThresholds
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

    Each of them sends an event `linkerd.certificate.expiring`, which can trigger an automation that
    runs `rotate_anchor`, `rotate_issuer` or `rotate_webhooks`.

    Args:
        mesh: Which mesh.
        thresholds: How many days before its expiry a certificate is reported.

    Raises:
        CertificateExpired: a certificate has already expired.

    Example:
        >>> soon = check_certificates(LinkerdMesh.load("production"), ExpiryThresholds(days=[90]))
        >>> [(each.expiry.name, round(each.expiry.days_left)) for each in soon]
        [('issuer', 41)]
    """
    due = certificates(connect(mesh), thresholds)
    expired = [item for item in due if item.expiry.days_left <= 0]
    if expired:
        raise CertificateExpired(
            expired[0].expiry.subject,
            expected=f"the {expired[0].expiry.name} to be valid",
            found=f"that it expired on {expired[0].expiry.info.not_after:%Y-%m-%d %H:%M} UTC",
            remedy=expired[0].remedy,
        )
    if due:
        names = ", ".join(f"{i.expiry.name} ({i.expiry.days_left:.1f} days)" for i in due)
        return completed(due, name="Expiring", message=f"Expiring soon: {names}")
    return due
