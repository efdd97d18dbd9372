"""What bootstrap says about a mesh that it has installed, based on its report."""

from __future__ import annotations

from typing import cast

import pytest

from prefect_linkerd.mesh.bootstrap.installed import installed, installed_markdown, installed_rows
from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Severity
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import MeshUnhealthy
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.report.report import Report, verify
from prefect_linkerd.mesh.snapshot.mesh import Snapshot
from tests.support.snapshots import empty_snapshot

MESH = Mesh(cast("Cluster", None), MeshConfig(name="new"))


def report_of(severity: Severity) -> Report:
    category = Category[Snapshot]("ours", "beyond")

    @category.check("pl-one", "it works", severity)
    def it_works(_snapshot: Snapshot) -> Problems:
        yield Problem("Pod/linkerd/one", "it does not", "Look at it.")

    return verify(empty_snapshot(), [category], ["beyond"])


def test_a_failed_check_fails_bootstrap() -> None:
    with pytest.raises(MeshUnhealthy, match="pl-one"):
        installed(MESH, report_of("error"), rehearsal=False)


def test_warnings_are_shown() -> None:
    report = report_of("warning")
    found = installed(MESH, report, rehearsal=False)
    assert found.ok
    assert found.warnings == ("pl-one: Pod/linkerd/one: it does not. Look at it.",)
    assert {"part": "warning", "name": "", "version": "", "state": found.warnings[0]} in (
        installed_rows(found)
    )
    assert "| Linkerd |" in installed_markdown(found, report)


def test_a_rehearsal_is_called_one() -> None:
    report = report_of("error")
    found = installed(MESH, report, rehearsal=True)
    assert found.ok
    assert "REHEARSAL, not Linkerd" in installed_markdown(found, report)
    assert installed_rows(found)[0]["state"] == "REHEARSAL, not Linkerd"
