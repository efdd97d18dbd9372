"""What linkerd itself says of a healthy mesh of each version, and why."""

from __future__ import annotations

from tests.checks.installed import Failures, InstalledMesh

ALLOWED: dict[str, dict[tuple[str, str], str]] = {
    "stable-2.11.5": {},
    "stable-2.12.6": {},
    "stable-2.14.10": {},
    "edge-25.4.4": {},
    "edge-26.8.3": {},
}
"""By version: the check with its outcome, and the reason."""


def allowed(mesh: InstalledMesh) -> Failures:
    return frozenset(ALLOWED[mesh.config.version])
