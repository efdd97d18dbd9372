"""What a plan needs before it is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prefect_linkerd.cli.at_terminal import AtTerminal
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.rotation.options import NewAnchor, RotationOptions
from prefect_linkerd.tasks.outside import within
from prefect_linkerd.tasks.preflight import plan as plan_bootstrap
from prefect_linkerd.tasks.rotation import plan_rotation
from prefect_linkerd.tasks.upgrade import plan as plan_upgrade
from prefect_linkerd.tasks.webhooks import inspect_webhooks

NOWHERE = {
    "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "users": [{"name": "none", "user": {}}],
}


@pytest.mark.parametrize(
    "plan",
    [
        lambda mesh: plan_bootstrap(mesh, {}, frozenset()),
        lambda mesh: plan_rotation(mesh, NewAnchor(), RotationOptions(), "rotate"),
        lambda mesh: plan_upgrade(mesh, mesh.config.linkerd, frozenset()),
        lambda mesh: inspect_webhooks(mesh),
    ],
    ids=["bootstrap", "rotate_anchor", "upgrade", "rotate_webhooks"],
)
def test_no_plan_is_made_without_the_helm_that_carries_it_out(
    plan: Callable[[Mesh], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    # The cluster is unreachable, so the check must come before any request.
    mesh = Mesh(Cluster(NOWHERE, patience=0.0), MeshConfig())
    with within(AtTerminal("test")), pytest.raises(InvalidInput, match="the helm binary on PATH"):
        plan(mesh)
