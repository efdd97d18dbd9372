"""Computed values against every chart version, rendered by the real helm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import Chart, ChartCatalog, charts_of
from prefect_linkerd.mesh.helm.client import Helm, desired_release
from prefect_linkerd.mesh.helm.values import ClusterFacts, Values, values_for
from prefect_linkerd.mesh.kubernetes.client import Object, name_of
from tests.support.charts import rendering_helm

VERSIONS = [
    "stable-2.11.5",
    "stable-2.12.6",
    "stable-2.13.7",
    "stable-2.14.10",
    "edge-25.4.4",
    "edge-26.8.3",
]
REGISTRY = "registry.example.com:5000/mirror"
BUNDLE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
MODERN = ClusterFacts(
    "v1.34.4",
    frozenset({"v1", "apps/v1", "batch/v1", "policy/v1", "rbac.authorization.k8s.io/v1"}),
    webhook_authorities={"linkerd": BUNDLE, "linkerd-viz": BUNDLE, "linkerd-jaeger": BUNDLE},
)
# Keys that a chart reads but does not list in its values.yaml.
READ_BUT_NOT_LISTED = {
    # Set by the HA values files of Linkerd's own charts.
    *(f"{part}Resources" for part in ("destination", "identity", "heartbeat", "proxyInjector")),
    *("spValidatorResources", "policyControllerResources", "controllerResources"),
}

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ha": {"ha": True},
    "registry": {"registry": {"host": REGISTRY, "username": "u", "password": "p"}},
    "domains": {"trust_domain": "mesh.example.org", "cluster_domain": "k8s.example.org"},
    "cert-manager": {"issuer": "cert-manager", "trust_anchor": {"custody": "in-cluster"}},
    "namespaces": {"namespaces": {"linkerd": "l5d", "viz": "l5d-viz", "jaeger": "l5d-jaeger"}},
    "dashboard": {"viz": {"dashboard": {"host": "viz.example.com"}}},
}


def configure(charts_dir: Path, version: str, feature: str) -> MeshConfig:
    jaeger = {"enabled": version != "edge-26.8.3"}
    # 2.11's jaeger cannot use pull secrets, which preflight refuses.
    if feature == "registry" and version == "stable-2.11.5":
        jaeger["enabled"] = False
    return MeshConfig.model_validate(
        {
            "profile": "demo",
            "version": version,
            "charts": {"mirror": charts_dir},
            "jaeger": jaeger,
            **FEATURES[feature],
        }
    )


def charts(config: MeshConfig) -> list[Chart]:
    catalog = ChartCatalog(config)
    found = [catalog.find(name) for name in charts_of(config)]
    if version_is_newest(config):
        # These do not depend on Linkerd's version, so once is enough.
        found += [catalog.find("cert-manager"), catalog.find("traefik")]
    return found


def version_is_newest(config: MeshConfig) -> bool:
    return config.version == VERSIONS[-1]


def rendered(
    config: MeshConfig, chart: Chart, helm: Helm, *, hooks: bool = True
) -> tuple[Values, list[Object]]:
    values = values_for(chart, config, MODERN, trust_bundle=BUNDLE)
    desired = desired_release(config, chart, values)
    objects = helm.render(chart, desired.name, desired.namespace, values, MODERN)
    if hooks and not desired.hooks:
        objects = [obj for obj in objects if "helm.sh/hook" not in annotations(obj)]
    return values, objects


def annotations(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}


@pytest.fixture(scope="module")
def helm(helm_path: str) -> Helm:
    return rendering_helm(helm_path)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return request.param


def key_paths(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from key_paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def is_listed(path: str, defaults: Any) -> bool:
    for key in path.split("."):
        if not isinstance(defaults, dict) or key not in defaults:
            # An empty mapping or null in values.yaml is a placeholder for any keys.
            return defaults in ({}, None)
        defaults = defaults[key]
    return True


@pytest.mark.real_charts
@pytest.mark.parametrize("feature", FEATURES)
def test_no_value_is_unknown_to_its_chart(charts_dir: Path, version: str, feature: str) -> None:
    config = configure(charts_dir, version, feature)
    for chart in charts(config):
        values = values_for(chart, config, MODERN, trust_bundle=BUNDLE)
        unknown = [
            path
            for path in key_paths(values)
            if not is_listed(path, chart.defaults)
            and path.split(".")[0] not in READ_BUT_NOT_LISTED
            and not is_listed(path, chart.ha)
        ]
        assert unknown == [], f"{chart.name} {chart.version}"


def images(value: Any, key: str = "") -> Iterator[str]:
    """Every image in a manifest: `image` fields, and arguments or variables that name one."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from images(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from images(item, key)
    elif isinstance(value, str):
        if key == "image":
            yield value
        elif match := re.search(r"-image=(\S+)", value):
            yield match[1]


@pytest.mark.real_charts
def test_every_image_comes_from_the_private_registry(
    charts_dir: Path, version: str, helm: Helm
) -> None:
    config = configure(charts_dir, version, "registry")
    for chart in charts(config):
        _, objects = rendered(config, chart, helm)
        found = {
            image
            for obj in objects
            if obj["kind"] != "CustomResourceDefinition"
            for image in images(obj)
        }
        assert found or chart.name == "linkerd-crds"
        foreign = {image for image in found if not image.startswith(REGISTRY + "/")}
        assert foreign == set(), f"{chart.name} {chart.version}"
        # The injector takes its proxies' images from the values in linkerd-config.
        for obj in objects:
            if obj["metadata"]["name"] == "linkerd-config":
                names = re.findall(r"(?:cr|docker)\.l5d\.io\S*", json.dumps(obj["data"]))
                assert names == [], f"{chart.name} {chart.version}"


@pytest.mark.real_charts
def test_every_pod_can_pull_from_the_private_registry(
    charts_dir: Path, version: str, helm: Helm
) -> None:
    config = configure(charts_dir, version, "registry")
    for chart in charts(config):
        _, objects = rendered(config, chart, helm)
        accounts = {
            name_of(obj): [s["name"] for s in obj.get("imagePullSecrets", [])]
            for obj in objects
            if obj["kind"] == "ServiceAccount"
        }
        for obj in objects:
            template = obj.get("spec", {}).get("template") or obj.get("spec", {}).get(
                "jobTemplate", {}
            ).get("spec", {}).get("template")
            if obj["kind"] not in ("Deployment", "Job", "CronJob") or not template:
                continue
            spec = template["spec"]
            pulls = [s["name"] for s in spec.get("imagePullSecrets", [])]
            namespace = obj["metadata"].get("namespace", "")
            account = f"ServiceAccount/{namespace}/{spec.get('serviceAccountName')}"
            pulls += accounts.get(account, [])
            assert "prefect-linkerd-registry" in pulls, f"{chart.name}: {name_of(obj)}"


@pytest.mark.real_charts
def test_domains_are_the_configured_ones_everywhere(
    charts_dir: Path, version: str, helm: Helm
) -> None:
    config = configure(charts_dir, version, "domains")
    for chart in charts(config):
        if chart.name in ("cert-manager", "traefik", "linkerd-crds"):
            continue
        _, objects = rendered(config, chart, helm)
        text = json.dumps([obj for obj in objects if obj["kind"] != "CustomResourceDefinition"])
        assert "cluster.local" not in text.replace("root.linkerd.cluster.local", ""), chart.name
        if chart.name in ("linkerd2", "linkerd-control-plane"):
            assert "identity.linkerd.mesh.example.org" in text
            assert "svc.k8s.example.org" in text


@pytest.mark.real_charts
def test_no_release_holds_a_private_key_or_makes_the_issuer(
    charts_dir: Path, version: str, helm: Helm
) -> None:
    config = configure(charts_dir, version, "plain")
    for chart in charts(config):
        values, objects = rendered(config, chart, helm)
        assert "PRIVATE KEY" not in json.dumps(values)
        assert "Secret/linkerd/linkerd-identity-issuer" not in {name_of(obj) for obj in objects}
        assert "Namespace" not in {obj["kind"] for obj in objects}


@pytest.mark.real_charts
def test_objects_live_in_the_configured_namespaces(
    charts_dir: Path, version: str, helm: Helm
) -> None:
    config = configure(charts_dir, version, "namespaces")
    allowed = {*config.namespaces.model_dump().values(), "kube-system", None}
    for chart in charts(config):
        _, objects = rendered(config, chart, helm)
        found = {obj["metadata"].get("namespace") for obj in objects}
        assert found <= allowed, f"{chart.name} {chart.version}"


@pytest.mark.real_charts
def test_webhooks_get_their_ca_from_cert_manager(
    charts_dir: Path, version: str, helm: Helm
) -> None:
    config = configure(charts_dir, version, "cert-manager")
    for chart in charts(config):
        if chart.name in ("cert-manager", "traefik"):
            continue
        _, objects = rendered(config, chart, helm)
        for obj in objects:
            # The certificates are cert-manager's, so the chart makes no Secret for them.
            assert not (obj["kind"] == "Secret" and obj["metadata"]["name"].endswith("-k8s-tls"))
            if obj["kind"].endswith("WebhookConfiguration"):
                source = annotations(obj).get("cert-manager.io/inject-ca-from", "")
                bundle = obj["webhooks"][0]["clientConfig"].get("caBundle", "")
                assert source.startswith("linkerd") or bundle, name_of(obj)


@pytest.mark.real_charts
def test_high_availability_is_the_charts_own(charts_dir: Path, version: str, helm: Helm) -> None:
    config = configure(charts_dir, version, "ha")
    for chart in charts(config):
        if chart.name not in ("linkerd2", "linkerd-control-plane"):
            continue
        _, objects = rendered(config, chart, helm)
        replicas = {
            obj["metadata"]["name"]: obj["spec"]["replicas"]
            for obj in objects
            if obj["kind"] == "Deployment"
        }
        assert set(replicas.values()) == {3}
        webhooks = [o for o in objects if o["kind"] == "MutatingWebhookConfiguration"]
        assert {w["failurePolicy"] for obj in webhooks for w in obj["webhooks"]} == {"Fail"}


@pytest.mark.real_charts
def test_the_dashboard_admits_its_host_alone(charts_dir: Path, version: str, helm: Helm) -> None:
    config = configure(charts_dir, version, "dashboard")
    chart = ChartCatalog(config).find("linkerd-viz")
    _, objects = rendered(config, chart, helm)
    web = next(o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] == "web")
    arguments = [
        a for c in web["spec"]["template"]["spec"]["containers"] for a in c.get("args", [])
    ]
    assert r"-enforced-host=^viz\.example\.com$" in arguments
