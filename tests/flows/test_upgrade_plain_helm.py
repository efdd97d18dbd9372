"""Upgrades of meshes that a user installed by helm alone, with an issuer that the chart creates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.helm.installed import read_mesh_releases
from prefect_linkerd.mesh.helm.records import ReleaseRef
from sandbox.cluster import Sandbox
from tests.support.flows import Flows
from tests.support.invariant import Invariant
from tests.support.meshes import add_workloads
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
from tests.support.upgrades import proxies

pytestmark = pytest.mark.timeout(600)


UPGRADES: list[tuple[str, str, Names]] = [
    ("stable-2.11.5", "stable-2.12.6", Names(control_plane="l5d", namespace="default")),
    ("stable-2.13.7", "stable-2.14.10", Names("crds", "default", "l5d")),
]


@pytest.mark.parametrize(("source", "target", "names"), UPGRADES)
def test_an_upgrade_keeps_a_chart_made_issuer(
    source: str,
    target: str,
    names: Names,
    fresh_sandbox: Callable[..., Sandbox],
    helm_path: str,
    charts_dir: Path,
    tmp_path: Path,
    flows: Flows,
) -> None:
    plain = Plain(fresh_sandbox(), helm_path, charts_dir, tmp_path)
    plain.install(source, names)
    cluster, config = plain.cluster, plain.config(source)
    add_workloads(cluster, 2)
    before, issuer = uids(cluster, KEPT, "linkerd"), issuer_of(plain, "linkerd").certificate
    fields: dict[str, Any] = config.model_dump(mode="json", exclude_defaults=True)
    fields["trust_anchor"]["passphrase"] = "correct horse battery staple"
    if source == "stable-2.11.5":
        # Its chart created the namespace, which must not be deleted with a later revision.
        first = flows("bootstrap", fields)
        assert first.returncode == 0, first.stderr[-4000:]
    with issuer_never_missing(cluster), Invariant(plain.sandbox):
        done = flows.upgrade(fields, to=target)
        assert (done.get("source"), done.get("target")) == (source, target), done
        assert proxies(cluster) == {target}
        after = config.model_copy(update={"version": target})
        assert issuer_of(plain, "linkerd").certificate.strip() == issuer.strip()
        is_in_step(plain, after)
        again = flows("bootstrap", {**fields, "version": target})
        assert again.returncode == 0, again.stderr[-4000:]
    lost = {key for key, uid in before.items() if uids(cluster, KEPT, "linkerd").get(key) != uid}
    # Only ConfigMaps of the old chart that the next one no longer has are lost.
    assert not {key for key in lost if not key.startswith("ConfigMap/linkerd-config-")}, lost
    new = new_issuer(plain, after)
    assert new.before != new.after
    assert failing(plain, after) == {}
    found = read_mesh_releases(cluster, after)
    if source != "stable-2.11.5":
        assert found.ref("linkerd-control-plane") == ReleaseRef("l5d", "linkerd")
