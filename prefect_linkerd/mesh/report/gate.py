"""Whether a mesh is well, asked until it is: the gate before and after each change."""

from __future__ import annotations

from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.checks.options import DEFAULT_SCOPES
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.waiting import poll
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.report.report import Report, verify
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot

PAUSE = 2.0
"""Seconds between two verifications of a mesh that is not well yet."""


def await_verdict(mesh: Mesh, patience: float, *, namespace: str | None = None) -> Report:
    """Every check at the version that the mesh should have; the last report, whatever it says.

    Args:
        patience: seconds for which an error may pass by itself.
        namespace: whose applications count, with the mesh's own; by default everybody's.

    Raises:
        ApiError: the API server was lost meanwhile, which says nothing about the mesh.
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
