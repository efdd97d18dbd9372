"""The emojivoto manifest, adapted for a mesh."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ChartError
from prefect_linkerd.mesh.install.emojivoto import (
    emojivoto_objects,
    ensure_emojivoto,
    load_manifest,
)
from prefect_linkerd.mesh.install.namespaces import ensure_namespaces, namespaces
from prefect_linkerd.mesh.install.registry import pull_secrets
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.rollout import await_rollouts
from prefect_linkerd.mesh.mesh import Mesh


@pytest.fixture
def manifest(shared_dir: Path) -> Path:
    return shared_dir / "manifests/emojivoto.yml"


def test_every_pod_is_meshed_and_the_namespace_is_left_out(manifest: Path) -> None:
    objects = emojivoto_objects(load_manifest(str(manifest)), MeshConfig())
    assert "Namespace" not in {obj["kind"] for obj in objects}
    deployments = [obj for obj in objects if obj["kind"] == "Deployment"]
    assert len(deployments) == 4
    for obj in deployments:
        annotations = obj["spec"]["template"]["metadata"]["annotations"]
        assert annotations["linkerd.io/inject"] == "enabled"


@pytest.mark.real_charts
def test_another_namespace_takes_the_names_in_the_pods_along(manifest: Path) -> None:
    config = MeshConfig(profile="demo", namespaces={"emojivoto": "shop"})
    text = json.dumps(emojivoto_objects(load_manifest(str(manifest)), config))
    assert "web-svc.shop:80" in text
    assert "emoji-svc.shop:8080" in text
    assert ".emojivoto" not in text


def test_a_private_registry_gets_every_image_and_a_pull_secret(manifest: Path) -> None:
    registry = {"host": "r.example/m", "username": "u", "password": "hunter2"}
    config = MeshConfig(profile="demo", registry=registry)
    for obj in emojivoto_objects(load_manifest(str(manifest)), config):
        if obj["kind"] == "Deployment":
            pod = obj["spec"]["template"]["spec"]
            assert pod["imagePullSecrets"] == [{"name": "prefect-linkerd-registry"}]
            assert pod["containers"][0]["image"].startswith("r.example/m/buoyantio/")
    made = {secret["metadata"]["namespace"] for secret in pull_secrets(config)}
    assert made == {namespace["metadata"]["name"] for namespace in namespaces(config)}


@pytest.mark.parametrize("content", ["just text", "- 1\n- 2\n", "{", ""])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.yml"
    path.write_text(content)
    with pytest.raises(ChartError, match=r"emojivoto\.manifest"):
        load_manifest(str(path))


def test_it_rolls_out_and_a_second_time_changes_nothing(
    cluster: Cluster, manifest: Path, namespace: str
) -> None:
    config = MeshConfig(
        namespaces={"emojivoto": namespace},
        emojivoto={"enabled": True, "manifest": str(manifest)},
        traefik={"enabled": False},
    )
    ensure_namespaces(Mesh(cluster, config))
    workloads = ensure_emojivoto(Mesh(cluster, config))
    seen: list[int] = []
    await_rollouts(cluster, workloads, 60, lambda ready, _wanted, _text: seen.append(ready))
    assert seen[-1] == 4

    def generations() -> dict[str, int]:
        return {
            obj["metadata"]["name"]: obj["metadata"]["generation"]
            for obj in cluster.list("apps/v1", "Deployment", namespace)
        }

    before = generations()
    assert ensure_namespaces(Mesh(cluster, config)) == []
    ensure_emojivoto(Mesh(cluster, config))
    assert generations() == before


def test_a_prometheus_of_one_s_own_is_written_to_viz_s_namespace() -> None:
    """The chart's hook, which would write it, is off with a private registry."""
    url = "http://prometheus.monitoring:9090"
    values = {"prometheus": {"enabled": False}, "prometheusUrl": url}
    config = MeshConfig.model_validate({"viz": {"enabled": True, "values": {"inline": values}}})
    found = {obj["metadata"]["name"]: obj["metadata"] for obj in namespaces(config)}
    annotation = "viz.linkerd.io/external-prometheus"
    assert found["linkerd-viz"]["annotations"][annotation] == url
    assert all(annotation not in m["annotations"] for m in found.values() if m["name"] == "linkerd")
