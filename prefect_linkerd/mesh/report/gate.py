"""Verifies a mesh until it is healthy: the gate before and after each change."""

from __future__ import annotations

from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.checks.options import DEFAULT_SCOPES
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.waiting import poll
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.report.report import Report, verify
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot

PAUSE = 2.0
"""Seconds between two verifications of a mesh that still fails."""


def await_verdict(mesh: Mesh, patience: float, *, namespace: str | None = None) -> Report:
    """Runs every check until none fails or patience runs out; returns the last report either way.

    Args:
        patience: seconds to wait for errors to clear on their own.
        namespace: whose applications to check besides the mesh's own; by default those of all.

    Raises:
        ApiError: the API server became unreachable, which says nothing about the mesh.
    """

    def report() -> Report:
        snapshot = read_snapshot(mesh)
        for error in snapshot.unread.values():
            if isinstance(error, ApiError) and error.transient:
                raise error
        if namespace is not None:
            snapshot = snapshot.narrowed(namespace)
        return verify(snapshot, CATEGORIES, DEFAULT_SCOPES)

    return poll(report, lambda found: found.verdict != "failed", patience, every=PAUSE)
