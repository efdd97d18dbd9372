"""Whole meshes to check: real charts of one Linkerd version on a sandbox of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import pytest

from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.checks.options import Scope
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.waiting import poll
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import KeyPair
from prefect_linkerd.mesh.report.report import Report, verify
from prefect_linkerd.mesh.snapshot.mesh import Snapshot, read_snapshot
from tests.support.meshes import store_of

Failures = frozenset[tuple[str, str]]
"""Check ids with the outcome `error` or `warning`."""

SCOPES: tuple[Scope, ...] = ("control-plane", "proxy", "cni", "viz", "jaeger", "beyond")
"""The checks of an installed mesh; `pre` is for a cluster without one."""

DEFAULT = "stable-2.14.10"
SETTLED = 60.0
"""Seconds within which the cluster's controllers have to do what a test waits for."""
SOON = (0.3, 0.5, 0.8, 1.2)
"""Seconds between two looks: each reads and checks the whole mesh."""


@dataclass(frozen=True)
class InstalledMesh:
    """A running mesh: its configuration, its cluster, and its trust anchor with the key."""

    config: MeshConfig
    cluster: Cluster
    anchor: KeyPair

    def read(self) -> Snapshot:
        return read_snapshot(Mesh(self.cluster, self.config))

    def report(self, scopes: Iterable[Scope] = SCOPES) -> Report:
        return verify(self.read(), CATEGORIES, scopes)

    def settles_to(self, expected: Failures) -> Failures:
        """Waits until the failures are as expected; returns the last ones after a timeout."""
        pauses = chain(SOON, repeat(SOON[-1]))
        return poll(
            lambda: failures_of(self.report()),
            lambda found: found == expected,
            SETTLED,
            every=lambda: next(pauses),
        )


def failures_of(report: Report) -> Failures:
    """The failing checks of a report."""
    return frozenset((result.check.id, result.outcome) for result in report.failing)


def on(version: str, *values: Any, name: str | None = None) -> Any:
    """A case of a test on a mesh of a version; its first parameter is the fixture `mesh`.

    All cases of a version run in one process, one after the other, so that each mesh is installed
    once and meshes of two versions never run side by side.
    """
    group = pytest.mark.xdist_group(f"mesh {version}")
    return pytest.param(version, *values, marks=group, id=name or version)


def installed(cluster: Cluster, config: MeshConfig) -> InstalledMesh:
    pair = store_of(cluster, config).load()
    assert pair is not None
    return InstalledMesh(config, cluster, pair)
