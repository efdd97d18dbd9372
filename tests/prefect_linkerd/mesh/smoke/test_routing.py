"""How each Linkerd version splits traffic, with its charts' real CRDs on a real API server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError, InvalidInput
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.smoke.options import SmokeOptions
from prefect_linkerd.mesh.smoke.routing import SplitApi, choose_split, refusal, split
from prefect_linkerd.mesh.smoke.run import SmokeRun
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from tests.support.charts import crds

GATEWAY_V1 = ("gateway.networking.k8s.io/v1", "HTTPRoute")
CASES: dict[str, tuple[str, tuple[str, str]]] = {
    "stable-2.11.5": (
        "stable/linkerd2-2.11.5.tgz",
        ("split.smi-spec.io/v1alpha2", "TrafficSplit"),
    ),
    "stable-2.12.6": (
        "stable/linkerd-crds-1.4.0.tgz",
        ("linkerd.io/v1alpha2", "ServiceProfile"),
    ),
    "stable-2.13.7": (
        "stable/linkerd-crds-1.6.1.tgz",
        ("policy.linkerd.io/v1beta2", "HTTPRoute"),
    ),
    "stable-2.14.10": (
        "stable/linkerd-crds-1.8.0.tgz",
        ("gateway.networking.k8s.io/v1beta1", "HTTPRoute"),
    ),
    "edge-25.4.4": ("edge/linkerd-crds-2025.4.4.tgz", GATEWAY_V1),
    "edge-26.8.3": ("edge/linkerd-crds-2026.8.3.tgz", GATEWAY_V1),
}


@pytest.fixture(scope="module")
def alone(binaries: Binaries) -> Iterator[Cluster]:
    with Sandbox("crds", binaries=binaries, nodes=1) as sandbox:
        yield sandbox.cluster()


@pytest.mark.real_charts
@pytest.mark.xdist_group("crds")
@pytest.mark.parametrize("version", CASES)
def test_every_step_of_a_split_is_accepted_and_removed(
    version: str, alone: Cluster, charts_dir: Path, helm_path: str
) -> None:
    chart, expected = CASES[version]
    made = crds(helm_path, charts_dir / chart)
    for crd in made:
        alone.apply(crd)
    try:
        while not fresh(alone).serves(*expected):
            time.sleep(0.2)
        api = choose_split(LinkerdVersion.parse(version), fresh(alone).serves)
        assert (api.api_version, api.kind) == expected
        walk(alone, api, version)
        refuse_nonsense(alone, api)
    finally:
        for crd in made:
            alone.delete(crd["apiVersion"], crd["kind"], crd["metadata"]["name"])
        names = [(c["apiVersion"], c["kind"], c["metadata"]["name"]) for c in made]
        while left := [name for name in names if alone.get(*name)]:
            # If a CRD's storage was not ready yet, a change makes the API server try again.
            change = {"metadata": {"annotations": {"asked-again": str(time.monotonic())}}}
            for name in left:
                with contextlib.suppress(ApiError):
                    alone.merge(*name, None, change)
            time.sleep(1)


def walk(cluster: Cluster, api: SplitApi, version: str) -> None:
    config, options = MeshConfig(version=version), SmokeOptions(namespace="default")
    cluster = fresh(cluster)
    with SmokeRun(Mesh(cluster, config), options, "traffic-split") as run:
        run.front("web", "stable")
        for weight in options.weights:
            run.split(api, "web", {"stable": 100 - weight, "canary": weight})
            (stored,) = cluster.list(api.api_version, api.kind, "default")
            assert weights(stored) == {
                run.name("stable"): 100 - weight,
                run.name("canary"): weight,
            }
        assert f"{api.kind}/default/{stored['metadata']['name']}" in run.objects
    assert list(cluster.list(api.api_version, api.kind, "default")) == []
    assert list(cluster.list("v1", "Service", "default", labels="smoke.prefect-linkerd/run")) == []
    assert list(cluster.list("batch/v1", "Job", "default")) == []


def fresh(cluster: Cluster) -> Cluster:
    """The same access, without the cached kinds of an earlier version."""
    return Cluster(cluster._as_kubeconfig())  # pyright: ignore[reportPrivateUsage]


def weights(obj: dict[str, Any]) -> dict[str, int]:
    spec = obj["spec"]
    if obj["kind"] == "HTTPRoute":
        return {b["name"]: b["weight"] for b in spec["rules"][0]["backendRefs"]}
    if obj["kind"] == "TrafficSplit":
        return {b["service"]: b["weight"] for b in spec["backends"]}
    return {o["authority"].split(".")[0]: o["weight"] for o in spec["dstOverrides"]}


def refuse_nonsense(cluster: Cluster, api: SplitApi) -> None:
    """The real schema decides: it rejects a weight that is not a number."""
    nonsense: Any = {"a": "heavy"}
    with pytest.raises(ApiError) as refused:
        fresh(cluster).create(split(api, "x", "default", "web", nonsense, "cluster.local"))
    assert refused.value.status in (400, 422)


@pytest.mark.parametrize(
    ("version", "chart"),
    [
        ("stable-2.11.5", "linkerd2"),
        ("stable-2.12.6", "linkerd-crds"),
        ("edge-26.8.3", "linkerd-crds"),
    ],
)
def test_a_cluster_that_serves_none_is_told_what_to_do(version: str, chart: str) -> None:
    with pytest.raises(InvalidInput, match=f"comes with chart {chart}"):
        choose_split(LinkerdVersion.parse(version), lambda *_: False)


@pytest.mark.parametrize("version", ["stable-2.14.10", "edge-26.8.3"])
def test_linkerds_own_route_stands_in_for_the_gateway_apis(version: str) -> None:
    def serves(api_version: str, _kind: str) -> bool:
        return api_version.startswith("policy.linkerd.io/")

    api = choose_split(LinkerdVersion.parse(version), serves)
    assert api.api_version == "policy.linkerd.io/v1beta3"


def test_edges_before_the_gateway_api_get_linkerds_own_route() -> None:
    early = release_facts(LinkerdVersion.parse("edge-23.4.1")).splits
    assert {api_version.split("/")[0] for api_version, _ in early} == {"policy.linkerd.io"}


def test_the_service_that_a_route_is_for_is_named_as_each_group_wants_it() -> None:
    def parent(api_version: str) -> dict[str, Any]:
        api = SplitApi(api_version, "HTTPRoute")
        route = split(api, "r", "shop", "web", {"a": 5, "b": 95}, "cluster.local")
        return route["spec"]["parentRefs"][0]

    assert parent("gateway.networking.k8s.io/v1")["group"] == ""
    assert parent("policy.linkerd.io/v1beta2")["group"] == "core"


def test_a_profile_is_named_after_the_service_and_the_clusters_domain() -> None:
    api = SplitApi("linkerd.io/v1alpha2", "ServiceProfile")
    profile = split(api, "ignored", "shop", "web", {"a": 5, "b": 95}, "k8s.example.org")
    assert profile["metadata"]["name"] == "web.shop.svc.k8s.example.org"
    assert profile["spec"]["dstOverrides"][0] == {
        "authority": "a.shop.svc.k8s.example.org.:80",
        "weight": 5,
    }


def route_with(*parents: tuple[str, str, str]) -> dict[str, Any]:
    return {
        "status": {
            "parents": [
                {
                    "controllerName": controller,
                    "conditions": [
                        {"type": "ResolvedRefs", "status": "True"},
                        {"type": "Accepted", "status": status, "reason": reason, "message": ""},
                    ],
                }
                for controller, status, reason in parents
            ]
        }
    }


def test_only_linkerds_own_word_on_a_route_counts() -> None:
    ours = "linkerd.io/policy-controller"
    assert refusal({}) is None
    assert refusal(route_with(("other.example/controller", "True", ""))) is None
    assert refusal(route_with((ours, "True", "Accepted"))) == ""
    found = route_with(
        ("other.example/controller", "True", ""), (ours, "False", "NoMatchingParent")
    )
    assert refusal(found) == "NoMatchingParent"
