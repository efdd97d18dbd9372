"""A mesh of Buoyant Enterprise's charts is found, named by its release, and never written."""

from __future__ import annotations

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import PreflightFailed
from prefect_linkerd.mesh.helm.installed import mesh_releases
from prefect_linkerd.mesh.helm.records import RELEASE_NAME, RELEASE_NAMESPACE, Release
from prefect_linkerd.mesh.planning.plan import require_acceptable
from prefect_linkerd.mesh.uninstall.options import UninstallOptions
from prefect_linkerd.mesh.uninstall.plan import UninstallSnapshot, plan_uninstall
from tests.support.advice import follows
from tests.support.certificates import NOW

CHART = "linkerd-enterprise-control-plane"
RELEASE = Release(CHART, "linkerd", CHART, "2.18.0", "enterprise-2.18.0", 1, "deployed", NOW)
MARK = {
    "metadata": {
        "name": "linkerd-destination",
        "namespace": "linkerd",
        "annotations": {RELEASE_NAME: CHART, RELEASE_NAMESPACE: "linkerd"},
    }
}
FOUND = mesh_releases(MeshConfig(), [RELEASE], {"linkerd-control-plane": MARK})


def test_it_is_no_release_of_the_mesh_and_has_an_owner() -> None:
    assert FOUND.control_plane is None
    assert str(FOUND.driver) == f"Helm release linkerd/{CHART}"
    assert FOUND.others == (RELEASE,)


@follows("Uninstall it the way it was installed, then run uninstall again.")
def test_it_is_not_uninstalled() -> None:
    snapshot = UninstallSnapshot(MeshConfig(), FOUND, {})
    plan = plan_uninstall(snapshot, UninstallOptions(crds=True), frozenset({"no-release"}))
    assert [gone.subject for gone in plan.goes] == []
    with pytest.raises(PreflightFailed, match=f"Helm release linkerd/{CHART}"):
        require_acceptable(plan.findings, "uninstall")
    # As advised.
    gone = UninstallSnapshot(MeshConfig(), mesh_releases(MeshConfig(), [], {}), {})
    assert plan_uninstall(gone, UninstallOptions()).findings == ()
