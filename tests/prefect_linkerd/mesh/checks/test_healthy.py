"""A healthy mesh of each version passes, with no warning that linkerd would not give."""

from __future__ import annotations

import pytest

from tests.prefect_linkerd.mesh.checks.healthy import ALLOWED, allowed
from tests.support.installed import InstalledMesh, on


@pytest.mark.real_charts
@pytest.mark.parametrize("mesh", [on(version) for version in ALLOWED], indirect=True)
def test_a_healthy_mesh_passes(mesh: InstalledMesh) -> None:
    assert mesh.settles_to(allowed(mesh)) == allowed(mesh)
    report = mesh.report()
    assert not mesh.read().unread
    assert report.verdict != "failed"
    assert not [result for result in report.results if result.is_broken]
    assert report.proxies >= 8
