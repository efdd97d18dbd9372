"""What bootstrap has installed, and whether it passes every check of verify_mesh."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.report.gate import await_verdict
from prefect_linkerd.mesh.report.report import Report, report_markdown, unhealthy
from prefect_linkerd.mesh.snapshot.expiry import Expiry

SETTLE = 60.0
"""Seconds for an error to clear by itself, such as until proxies have their certificates."""


@dataclass(frozen=True)
class Installed:
    """An installed mesh. `failures` and `warnings` are what checks found."""

    mesh: str
    linkerd: str
    kubernetes: str
    releases: tuple[Release, ...]
    certificates: tuple[Expiry, ...]
    proxies: int
    verified: str
    failures: tuple[str, ...]
    warnings: tuple[str, ...]
    rehearsal: bool

    @property
    def ok(self) -> bool:
        return not self.failures


def verify_installed(mesh: Mesh, *, rehearsal: bool) -> Report:
    """Runs the checks only on the mesh's own namespaces and the demo application.

    Args:
        rehearsal: whether its charts are stand-ins, so that checks are known to fail.
    """
    patience = 0.0 if rehearsal else SETTLE
    return await_verdict(mesh, patience, namespace=mesh.config.namespaces.emojivoto)


def installed(mesh: Mesh, report: Report, *, rehearsal: bool) -> Installed:
    """What is installed, from a report about it.

    Raises:
        MeshUnhealthy: a check failed. With rehearsal charts, failures are only shown.
    """
    if report.verdict == "failed" and not rehearsal:
        raise unhealthy(report)
    places = set(mesh.config.namespaces.model_dump().values())
    return Installed(
        mesh=report.mesh,
        linkerd=report.linkerd,
        kubernetes=report.kubernetes,
        releases=tuple(r for r in report.releases if r.namespace in places),
        certificates=report.expiries,
        proxies=report.proxies,
        verified=report.summary,
        failures=() if rehearsal else _found(report, "error"),
        warnings=_found(report, "warning"),
        rehearsal=rehearsal,
    )


def _found(report: Report, outcome: str) -> tuple[str, ...]:
    return tuple(
        f"{result.check.id}: {result.problems[0]}"
        for result in report.failing
        if result.outcome == outcome
    )


def installed_rows(found: Installed) -> list[dict[str, str]]:
    """One row for each thing that is installed: part, name, version, state."""
    state = "REHEARSAL, not Linkerd" if found.rehearsal else "works"
    rows = [
        ("Linkerd", found.mesh, found.linkerd, state),
        ("Kubernetes", "", found.kubernetes, "served"),
        *(
            (
                "Helm release",
                f"{release.namespace}/{release.name}",
                release.chart_version,
                f"{release.status}, revision {release.revision}",
            )
            for release in found.releases
        ),
        *(
            (
                "certificate",
                each.title,
                each.info.fingerprint[:16],
                f"{each.days_left:.1f} days left",
            )
            for each in found.certificates
        ),
        ("proxies", "", "", f"{found.proxies} pods are meshed"),
        *(("warning", "", "", text) for text in found.warnings),
    ]
    return [dict(zip(("part", "name", "version", "state"), row, strict=True)) for row in rows]


def installed_markdown(found: Installed, report: Report) -> str:
    """What is installed, and the report about it, as a page."""
    # The report has the warnings.
    rows = [row for row in installed_rows(found) if row["part"] != "warning"]
    lines = ["| part | name | version | state |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row.values())} |" for row in rows]
    return report_markdown(report) + "\n## Installed\n\n" + "\n".join(lines) + "\n"
