"""What others are told of a mesh: events as data, for whoever can send them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mesh.expiry import Expiring
from mesh.report import Report


@dataclass(frozen=True)
class Notice:
    """One event about a mesh. `payload` is plain JSON and never holds a secret."""

    event: str
    mesh: str
    payload: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def resource(self) -> dict[str, str]:
        """The mesh as a resource, by which automations tell meshes apart."""
        return {
            "prefect.resource.id": f"linkerd.mesh.{self.mesh}",
            "prefect.resource.name": self.mesh,
            "prefect.resource.role": "mesh",
        }


def verdict_notice(report: Report) -> Notice:
    """`linkerd.mesh.healthy`, `.degraded` or `.failed`, with the ids of what did not hold."""
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
        },
    )


def certificate_notices(mesh: str, due: Iterable[Expiring]) -> list[Notice]:
    """`linkerd.certificate.expiring` for each certificate that is about to end."""
    return [
        Notice(
            "linkerd.certificate.expiring",
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
        )
        for item in due
    ]
