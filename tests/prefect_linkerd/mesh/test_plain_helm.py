"""Meshes that a person installed with plain helm: adopted without losing a single object."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.records import read_release
from prefect_linkerd.mesh.identity.trust_anchor import ensure_trust_anchor
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import signed_by
from sandbox.cluster import Sandbox
from tests.support.invariant import Invariant
from tests.support.meshes import add_workloads, store_of
from tests.support.plain import (
    KEPT,
    Names,
    Plain,
    failing,
    is_in_step,
    issuer_never_missing,
    issuer_of,
    new_issuer,
    uids,
)
from tests.support.rotations import rotate

pytestmark = pytest.mark.timeout(600)

OTHER_NAMES = Names("crds", "default", "l5d", "mesh")


@pytest.fixture
def plain(
    fresh_sandbox: Callable[..., Sandbox], helm_path: str, charts_dir: Path, tmp_path: Path
) -> Plain:
    return Plain(fresh_sandbox(), helm_path, charts_dir, tmp_path)


def without_anchor(config: MeshConfig) -> MeshConfig:
    """As after a rotation: the key is kept, and the old anchor is no longer provided."""
    kept = {"certificate_file": None, "private_key_file": None}
    return config.model_copy(update={"trust_anchor": config.trust_anchor.model_copy(update=kept)})


def test_a_chart_made_issuer_stays_the_charts_through_rotations(plain: Plain) -> None:
    """Releases with other names, the CRDs' in another namespace, and Linkerd in its own."""
    plain.install("stable-2.13.7", OTHER_NAMES)
    cluster, config = plain.cluster, plain.config("stable-2.13.7", namespaces={"linkerd": "mesh"})
    assert failing(plain, config) == {}
    add_workloads(cluster, 4, control_plane="mesh")
    before = uids(cluster, KEPT, "mesh")
    ensure_trust_anchor(Mesh(cluster, config), store_of(cluster, config), datetime.now(UTC))
    with issuer_never_missing(cluster, "mesh"), Invariant(plain.sandbox):
        done = new_issuer(plain, config)
        assert done.before != done.after
        assert done.restarted == 0
        is_in_step(plain, config)
        phases = rotate(cluster, config, plain.helm)
    assert phases == ["bundle", "spread", "switch", "drop", "done"]
    is_in_step(plain, config)
    issuer = issuer_of(plain, "mesh")
    assert issuer.is_chart_made
    assert str(issuer.owner) == "Helm release mesh/l5d"
    assert signed_by(issuer.certificate, plain.anchor.certificate, "issuer") is None
    assert before.items() <= uids(cluster, KEPT, "mesh").items()
    assert failing(plain, without_anchor(config)) == {}
    # Each upgrade was applied to the person's own release.
    assert read_release(cluster, "linkerd-control-plane", "mesh") is None
    own = read_release(cluster, "l5d", "mesh")
    assert own is not None
    assert own.revision == 4
