"""Describing a running mesh with reads only, so that the description matches it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.adoption import (
    Adoption,
    adoption_markdown,
    adoption_yaml,
    describe,
    read_adoption,
)
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.kubernetes.client import Cluster
from sandbox.cluster import Sandbox
from tests.support.cluster_state import resource_versions, settled_versions
from tests.support.plain import Names, Plain, failing

VALUES: dict[str, Any] = {
    "proxyLogLevel": "debug",
    "controllerReplicas": 2,
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "identity": {"issuer": {"issuanceLifetime": "36h0m0s"}},
    "proxy": {"resources": {"memory": {"limit": "250Mi"}}},
    # The chart's default.
    "controllerLogLevel": "info",
}


def adopted(cluster: Cluster, **base: Any) -> Adoption:
    return describe(read_adoption(cluster, MeshConfig.model_validate({"name": "prod", **base})))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("stable-2.11.5", Names(control_plane="l5d", namespace="default")),
        ("stable-2.14.5", Names("crds", "default", "l5d", "mesh")),
    ],
)
def test_a_plain_mesh_is_described_as_it_is(
    version: str,
    names: Names,
    fresh_sandbox: Callable[..., Sandbox],
    helm_path: str,
    charts_dir: Path,
    tmp_path: Path,
) -> None:
    plain = Plain(fresh_sandbox(), helm_path, charts_dir, tmp_path)
    plain.install(version, names, VALUES)
    before = settled_versions(plain.cluster)
    found = adopted(plain.cluster, charts={"mirror": str(charts_dir)})
    assert resource_versions(plain.cluster) == before

    assert found.config["version"] == version
    assert found.config["lifetimes"] == {"leaf_hours": 36}
    inline = found.config["values"]["inline"]
    inline.pop("disableHeartBeat", None)
    assert inline == {
        key: VALUES[key] for key in ("proxyLogLevel", "controllerReplicas", "tolerations", "proxy")
    }
    shown = adoption_yaml(found)
    assert "PRIVATE KEY" not in shown + adoption_markdown(found)
    config = MeshConfig.model_validate(yaml.safe_load(shown))
    assert config.namespaces.linkerd == ("mesh" if names.namespace == "mesh" else "linkerd")
    # The description matches the mesh: no check finds a difference.
    assert failing(plain, config.model_copy(update={"access": plain.config(version).access})) == {}
    works = {outlook.flow: outlook.works for outlook in found.outlook}
    assert works == {
        "verify_mesh": True,
        "check_certificates": True,
        "smoke_test": True,
        "bootstrap": True,
        "upgrade": True,
        "rotate_issuer": False,
        "rotate_anchor": True,
        "rotate_webhooks": True,
    }
    assert [text.partition(" (")[0] for text in found.missing] == [
        "the private key of the trust anchor"
    ]
    _flux_takes_over(plain.cluster, config.namespaces.linkerd)
    driven = {outlook.flow: outlook.reasons for outlook in adopted(plain.cluster).outlook}
    assert "Flux's HelmRelease/flux-system/linkerd" in driven["upgrade"][0]
    assert driven["verify_mesh"] == ()


def _flux_takes_over(cluster: Cluster, namespace: str) -> None:
    prefix = "helm.toolkit.fluxcd.io"
    labels = {f"{prefix}/name": "linkerd", f"{prefix}/namespace": "flux-system"}
    patch = {"metadata": {"labels": labels}}
    cluster.merge("apps/v1", "Deployment", "linkerd-destination", namespace, patch)


def test_a_cluster_without_linkerd_has_nothing_to_adopt(cluster: Cluster) -> None:
    with pytest.raises(InvalidInput, match="expected one control plane in the cluster, found none"):
        adopted(cluster)
