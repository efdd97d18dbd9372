"""Notifications about a mesh, as data; other modules send them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from prefect_linkerd.mesh.checks.certificates import ANCHOR_OVERDUE
from prefect_linkerd.mesh.report.report import Report
from prefect_linkerd.mesh.snapshot.expiry import Expiring


@dataclass(frozen=True)
class Notice:
    """One event about a mesh. `payload` is plain JSON and never holds a secret.

    Automations tell events apart by `labels`, as they can match labels but not a payload.
    """

    event: str
    mesh: str
    payload: dict[str, Any] = field(default_factory=dict[str, Any])
    labels: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def resource(self) -> dict[str, str]:
        """The mesh as a resource, so automations can tell meshes apart."""
        return {
            "prefect.resource.id": f"linkerd.mesh.{self.mesh}",
            "prefect.resource.name": self.mesh,
            "prefect.resource.role": "mesh",
            **self.labels,
        }


VERDICTS = ("linkerd.mesh.healthy", "linkerd.mesh.degraded", "linkerd.mesh.failed")
EXPIRING = "linkerd.certificate.expiring"

OVERDUE = "linkerd.anchor.overdue"

FAILURES = "linkerd.mesh.failures"
"""The label that holds how many times in a row the mesh has failed."""
FAILURES_IN_A_ROW = 3
"""Failures in a row that trigger a notification; fewer may clear on their own."""
RECOVERED = "linkerd.mesh.recovered"
"""The label of the first verdict after failures that sent a notification."""

ROLE, RENEWED_BY = "linkerd.certificate.role", "linkerd.certificate.renewed-by"
"""The labels of an expiring certificate: what it is for, and what renews it automatically."""


def verdict_notice(report: Report, failures_before: int = 0) -> Notice:
    """`linkerd.mesh.healthy`, `.degraded` or `.failed`, with the ids of failing checks.

    Args:
        failures_before: the mesh's failures in a row before this report.
    """
    failures = failures_before + 1 if report.verdict == "failed" else 0
    has_recovered = not failures and failures_before >= FAILURES_IN_A_ROW
    return Notice(
        f"linkerd.mesh.{report.verdict}",
        report.mesh,
        {
            "linkerd": report.linkerd,
            "kubernetes": report.kubernetes,
            "summary": report.summary,
            "checks": dict(report.counts),
            "errors": sorted({r.check.id for r in report.failing if r.outcome == "error"}),
            "warnings": sorted({r.check.id for r in report.failing if r.outcome == "warning"}),
            "proxies": report.proxies,
            "failures": failures,
        },
        {FAILURES: str(failures)} | ({RECOVERED: "true"} if has_recovered else {}),
    )


def overdue_notices(report: Report) -> list[Notice]:
    """`linkerd.anchor.overdue` if proxies still trust a dropped anchor after its deadline."""
    late = any(result.check.id == ANCHOR_OVERDUE for result in report.failing)
    return [Notice(OVERDUE, report.mesh)] if late else []


def certificate_notices(mesh: str, due: Iterable[Expiring]) -> list[Notice]:
    """`linkerd.certificate.expiring` for each certificate that is about to expire."""
    return [
        Notice(
            EXPIRING,
            mesh,
            {
                "certificate": item.expiry.name,
                "role": item.expiry.role,
                "object": item.expiry.subject,
                "common_name": item.expiry.info.common_name,
                "not_after": item.expiry.info.not_after.isoformat(),
                "days_left": round(item.expiry.days_left, 2),
                "threshold_days": item.threshold,
                "is_expired": item.expiry.days_left <= 0,
                "renewed_by": item.expiry.renewed_by,
                "remedy": item.remedy,
            },
            {ROLE: item.expiry.role, RENEWED_BY: item.expiry.renewed_by or "nobody"},
        )
        for item in due
    ]
