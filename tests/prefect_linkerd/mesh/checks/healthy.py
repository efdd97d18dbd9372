"""What linkerd itself reports on a healthy mesh of each version, and why."""

from __future__ import annotations

from tests.support.installed import Failures, InstalledMesh

OUTDATED = "the chart source has a newer release of the channel, which linkerd's version check says"
NOT_NEWEST: dict[tuple[str, str], str] = {
    (check, "warning"): OUTDATED
    for check in (
        "l5d-version-cli",
        "l5d-version-control",
        "l5d-cp-proxy-version",
        "l5d-data-plane-version",
        "l5d-viz-proxy-cp-version",
        "l5d-jaeger-proxy-cp-version",
    )
}

ALLOWED: dict[str, dict[tuple[str, str], str]] = {
    "stable-2.11.5": NOT_NEWEST,
    "stable-2.12.6": NOT_NEWEST,
    "stable-2.14.10": {},
    "edge-25.4.4": NOT_NEWEST,
    "edge-26.8.3": {},
}
"""By version: each check with its outcome, and the reason."""


def allowed(mesh: InstalledMesh) -> Failures:
    return frozenset(ALLOWED[mesh.config.version])
