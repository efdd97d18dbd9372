"""What a plan says a mesh would lose: values, objects, owners, pins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.chart_changes import ObjectChange, deleted_secrets, has_newer_crds
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.helm.ownership import Owner
from prefect_linkerd.mesh.helm.records import ReleaseRef
from prefect_linkerd.mesh.helm.values import (
    ClusterFacts,
    Values,
    computed_values,
    extra_of,
    load_extra_values,
    merge,
    own_keys,
    values_for,
)
from prefect_linkerd.mesh.planning.losses import Pin, ReleaseChange, losses, lost_values, pins
from prefect_linkerd.mesh.planning.plan import accept
from prefect_linkerd.mesh.planning.preflight import Finding
from tests.support.certificates import ONE_ANCHOR, OTHER_ANCHOR
from tests.support.upgrade_plans import revision

FACTS = ClusterFacts("v1.34.4", frozenset({"v1", "batch/v1", "policy/v1"}))

# What users set in a values file for `helm install`.
INSTALLED: Values = yaml.safe_load(
    """
    cniEnabled: true
    clusterNetworks: "10.0.0.0/8,203.0.113.0/24"
    proxy: {resources: {cpu: {request: 50m}, memory: {limit: 250Mi}}}
    nodeSelector: {kubernetes.io/os: linux}
    tolerations: [{key: dedicated, operator: Equal, value: mesh, effect: NoSchedule}]
    """
)

DEBUG: Values = {"controllerLogLevel": "debug"}


def change(
    mirror: Path,
    installed: Values,
    source: str = "stable-2.13.7",
    target: str = "stable-2.14.10",
    chart: Any = "linkerd-control-plane",
    *,
    ours: bool = False,
    **config: Any,
) -> ReleaseChange:
    """A release with these values, and what the configuration makes of it at another version."""

    def at(version: str) -> MeshConfig:
        return MeshConfig.model_validate(
            {"profile": "demo", "version": version, "charts": {"mirror": str(mirror)}, **config}
        )

    old, new = (ChartCatalog(at(version)).find(chart) for version in (source, target))
    given = at(target)
    return ReleaseChange(
        chart=chart,
        version=new.version,
        before=replace(revision(old), values=installed),
        is_ours=ours,
        defaults=new.defaults,
        values=values_for(new, given, FACTS),
        extra=merge(*load_extra_values(extra_of(chart, given))),
        computed=computed_values(old, at(source), FACTS),
        own_keys=own_keys(old, at(source), FACTS),
    )


def names(found: ReleaseChange) -> set[str]:
    return {".".join(key) for key in lost_values(found)}


@pytest.mark.real_charts
def test_values_of_the_release_that_the_configuration_lacks_are_named(charts_dir: Path) -> None:
    found = change(charts_dir, INSTALLED)
    # nodeSelector equals the chart's default, so it is not lost.
    assert names(found) == {
        *("cniEnabled", "clusterNetworks", "tolerations"),
        *("proxy.resources.cpu.request", "proxy.resources.memory.limit"),
    }
    [finding] = losses([found], "")
    assert (finding.id, finding.severity, finding.acceptable) == ("values-lost", "error", True)
    assert "cniEnabled" in finding.message
    assert "\n" not in finding.remedy


@pytest.mark.real_charts
def test_what_the_finding_says_to_add_keeps_every_value(charts_dir: Path) -> None:
    [finding] = losses([change(charts_dir, INSTALLED)], "")
    text = finding.remedy.partition("configuration: ")[2]
    kept = change(charts_dir, INSTALLED, **yaml.safe_load(text))
    assert losses([kept], "") == []
    assert kept.values["tolerations"] == INSTALLED["tolerations"]


@pytest.mark.real_charts
@pytest.mark.parametrize(
    ("installed", "config", "lost"),
    [
        # The configuration now sets another value.
        (
            {"controllerLogLevel": "debug"},
            {"values": {"inline": {"controllerLogLevel": "warn"}}},
            "",
        ),
        # The same value as before, in the configuration or as the default.
        (
            {"controllerLogLevel": "debug"},
            {"values": {"inline": {"controllerLogLevel": "debug"}}},
            "",
        ),
        ({"cniEnabled": False, "podAnnotations": {}, "tolerations": None}, {}, ""),
        # Removing a default counts as a value.
        ({"proxy": {"logLevel": None}}, {}, "proxy.logLevel"),
        # High availability: computed when on, lost when off.
        ({"controllerReplicas": 3}, {"ha": True}, ""),
        ({"controllerReplicas": 3}, {}, "controllerReplicas"),
        # A computed value that the user had set differently.
        (
            {"identity": {"issuer": {"issuanceLifetime": "48h0m0s"}}},
            {},
            "identity.issuer.issuanceLifetime",
        ),
        # Values that keep the mesh together are checked elsewhere.
        ({"identityTrustAnchorsPEM": "x", "identity": {"issuer": {"scheme": "y"}}}, {}, ""),
        # The source version follows the upgrade; any other is a pin.
        ({"proxy": {"image": {"version": "stable-2.13.7"}}}, {}, ""),
        ({"proxy": {"image": {"version": "stable-2.12.6"}}}, {}, "proxy.image.version"),
        # Neither chart lists it, but templates may read it.
        ({"identityResources": {"cpu": {"limit": "1"}}}, {}, "identityResources.cpu.limit"),
    ],
)
def test_only_what_somebody_set_and_would_miss_is_lost(
    charts_dir: Path, installed: Values, config: dict[str, Any], lost: str
) -> None:
    assert names(change(charts_dir, installed, **config)) == ({lost} if lost else set())


@pytest.mark.real_charts
@pytest.mark.parametrize("chart", ["linkerd-control-plane", "linkerd-viz", "linkerd-jaeger"])
@pytest.mark.parametrize(
    "then",
    [
        {"ha": True},
        {"registry": {"host": "r.example/mirror", "username": "u", "password": "p"}},
        {"issuer": "cert-manager", "trust_anchor": {"custody": "in-cluster"}},
        {"viz": {"dashboard": {"host": "viz.example.com"}}},
        {"lifetimes": {"leaf_hours": 12}},
    ],
    ids=["ha", "registry", "cert-manager", "dashboard", "lifetimes"],
)
def test_an_upgrade_of_our_own_mesh_loses_nothing(
    charts_dir: Path, chart: Any, then: dict[str, Any]
) -> None:
    config = MeshConfig.model_validate(
        {"profile": "demo", "version": "stable-2.13.7", "charts": {"mirror": str(charts_dir)}}
        | then
    )
    old = ChartCatalog(config).find(chart)
    facts = replace(FACTS, webhook_authorities={"linkerd": "PEM", "linkerd-viz": "PEM"})
    installed = values_for(old, config, facts, trust_bundle="PEM")
    assert not names(change(charts_dir, installed, chart=chart, ours=True, **then))
    # Values that these flows computed from settings since removed are not the user's own, except
    # those of high availability, which users set as well.
    if "ha" not in then:
        assert not names(change(charts_dir, installed, chart=chart, ours=True))


@pytest.mark.real_charts
def test_no_secret_is_shown(charts_dir: Path) -> None:
    key = "PRIVATE KEY"
    installed: Values = {
        "proxyInjector": {"keyPEM": f"-----BEGIN {key}-----\nABC"},
        "webhook": {"text": f"-----BEGIN EC {key}-----\nABC"},
        "proxy": {"env": [{"name": "API_TOKEN", "value": "ABC"}, {"name": "A", "value": "b"}]},
        "grafana": {"adminPassword": "ABC"},
    }
    [finding] = losses([change(charts_dir, installed)], "")
    assert "ABC" not in str(finding)
    assert "{name: A, value: b}" in finding.remedy
    assert "`helm get values` shows" in finding.remedy


@pytest.mark.real_charts
@pytest.mark.parametrize(
    ("installed", "config", "says"),
    [
        ({"clusterDomain": "k8s.example"}, {}, "Set cluster_domain to k8s.example."),
        ({"identityTrustDomain": "other"}, {}, "Set trust_domain to other."),
        # The trust domain defaults to the cluster domain.
        ({"clusterDomain": "a.b"}, {"cluster_domain": "a.b"}, "Set trust_domain to a.b."),
        ({"clusterDomain": "a.b"}, {"cluster_domain": "a.b", "trust_domain": "a.b"}, ""),
    ],
)
def test_other_domains_than_the_installed_are_named(
    charts_dir: Path, installed: Values, config: dict[str, Any], says: str
) -> None:
    found = [f for f in losses([change(charts_dir, installed, **config)], "") if f.id == "domains"]
    assert (found[0].remedy if found else "") == says


# Objects


def gone(subject: str) -> ObjectChange:
    return ObjectChange(subject, "delete")


@pytest.mark.real_charts
@pytest.mark.parametrize(
    ("subject", "acceptable"),
    [
        ("Secret/linkerd/linkerd-identity-issuer", False),
        ("ConfigMap/linkerd/linkerd-identity-trust-roots", False),
        ("Namespace/linkerd-viz", False),
        ("CustomResourceDefinition/httproutes.gateway.networking.k8s.io", False),
        ("Secret/linkerd/somebodys", True),
        ("PersistentVolumeClaim/linkerd-viz/prometheus", True),
        ("Deployment/linkerd/linkerd-sp-validator", None),
    ],
)
def test_what_helm_would_delete_is_named(
    charts_dir: Path, subject: str, acceptable: bool | None
) -> None:
    found = losses([replace(change(charts_dir, {}), objects=(gone(subject),))], "")
    if acceptable is None:
        assert found == []
        return
    [finding] = found
    assert (finding.id, finding.subject, finding.acceptable) == ("deleted", subject, acceptable)
    kind, *place, name = subject.lower().split("/")
    where = f" -n {place[0]}" if place else ""
    assert f"kubectl annotate{where} {kind} {name} helm.sh/resource-policy=keep" in finding.remedy
    [accepted] = accept(found, {"deleted"})
    assert accepted.severity == ("warning" if acceptable else "error")


def test_secrets_that_a_manifest_no_longer_has_are_found() -> None:
    def secret(name: str, **metadata: Any) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, **metadata}}

    installed = [secret("issuer"), secret("kept", namespace="linkerd"), secret("hook")]
    hook = secret("hook", annotations={"helm.sh/hook": "pre-upgrade"})
    # Same object with or without a namespace; a hook does not belong to the release.
    wanted = [secret("kept"), hook, {**secret("issuer"), "kind": "ConfigMap"}]
    found = deleted_secrets(installed, wanted, "linkerd")
    assert [obj["metadata"]["name"] for obj in found] == ["issuer", "hook"]


@pytest.mark.real_charts
@pytest.mark.parametrize(
    ("owner", "is_new", "acceptable"),
    [
        (Owner("Helm", "Helm release a/b", ReleaseRef("b", "a")), True, False),
        (Owner("Helm", "Helm release a/b", ReleaseRef("b", "a")), False, True),
        (Owner("Flux", "Flux's HelmRelease/a/b"), False, False),
    ],
)
def test_an_owner_that_would_change_is_named_once(
    charts_dir: Path, owner: Owner, is_new: bool, acceptable: bool
) -> None:
    taken = tuple(
        ObjectChange(f"Role/linkerd/r{n}", "update", taken_from=owner, is_new=is_new)
        for n in range(7)
    )
    [finding] = losses([replace(change(charts_dir, {}), objects=taken)], "")
    assert (finding.id, finding.acceptable) == ("owner", acceptable)
    assert str(owner) in finding.message
    assert finding.subject.endswith(" and 2 more")


@pytest.mark.real_charts
def test_a_trust_bundle_that_somebody_else_keeps_is_left_to_them(charts_dir: Path) -> None:
    owner = Owner("trust-manager", "trust-manager's Bundle/linkerd-identity-trust-roots")
    subject = "ConfigMap/linkerd/linkerd-identity-trust-roots"
    taken = (ObjectChange(subject, "update", taken_from=owner, is_new=True),)
    [finding] = losses([replace(change(charts_dir, {}), objects=taken)], "")
    assert "identity.externalCA: true" in finding.remedy


def roots(pem: str) -> dict[str, Any]:
    metadata = {"name": "linkerd-identity-trust-roots"}
    return {"kind": "ConfigMap", "metadata": metadata, "data": {"ca-bundle.crt": pem}}


@pytest.mark.real_charts
def test_a_trust_bundle_that_would_change_is_named(charts_dir: Path) -> None:
    def of(before: str, after: str) -> list[Finding]:
        return losses([replace(change(charts_dir, {}), rendered=(roots(after),))], before)

    one, two = ONE_ANCHOR, OTHER_ANCHOR
    assert of(one + two, f"{two}\n{one}") == []
    assert of("", one) == []
    [lost] = of(one + two, two)
    assert (lost.id, "loses" in lost.message, "gains" in lost.message) == (
        "trust-bundle",
        True,
        False,
    )
    [replaced] = of(one, two)
    assert "loses" in replaced.message
    assert "gains" in replaced.message
    assert "rotate_anchor" in replaced.remedy


# Pins


def test_pinned_proxies_are_named() -> None:
    workloads = [
        Pin("Deployment/a/x", "stable-2.12.6"),
        Pin("Namespace/b", "stable-2.12.6"),
        Pin("Deployment/c/z", "stable-2.14.10"),
    ]
    [finding] = pins([], workloads, "stable-2.13.7", "stable-2.14.10")
    assert (finding.id, finding.acceptable) == ("pinned-proxy", True)
    assert finding.subject == "Deployment/a/x, Namespace/b"
    assert "at stable-2.12.6" in finding.message


@pytest.mark.real_charts
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"proxy": {"image": {"version": "stable-2.13.7"}}}, "proxy.image.version stable-2.13.7"),
        ({"controllerImageVersion": "stable-2.13.6"}, "controllerImageVersion stable-2.13.6"),
        ({"linkerdVersion": "stable-2.13.7"}, "linkerdVersion stable-2.13.7"),
        ({"proxy": {"image": {"version": "stable-2.14.10"}}}, ""),
        ({"proxy": {"image": {"version": ""}}}, ""),
    ],
)
def test_versions_among_extra_values_are_named(charts_dir: Path, values: Values, says: str) -> None:
    given = change(charts_dir, {}, values={"inline": values})
    found = pins([given], [], "stable-2.13.7", "stable-2.14.10")
    assert [f.id for f in found] == (["pinned-version"] if says else [])
    assert all(says in f.message and f.acceptable for f in found)


# CRDs


@pytest.mark.parametrize(
    ("installed", "wanted", "newer"),
    [
        ("1.8.0", "1.6.1", True),
        ("2025.4.4", "1.8.0", True),
        ("1.9.5-edge", "1.9.4-edge", True),
        ("1.6.1", "1.8.0", False),
        ("1.8.0", "1.8.0", False),
        ("1.8.0-acme.1", "1.8.0", False),
        ("somebody's", "1.8.0", False),
    ],
)
def test_newer_crds_are_known(installed: str, wanted: str, newer: bool) -> None:
    crds = "linkerd-crds"
    assert has_newer_crds((crds, installed), (crds, wanted)) == newer
    # As with 2.12's first revision, which is cut from 2.11's single chart.
    assert not has_newer_crds(("linkerd2", installed), (crds, wanted))
    assert not has_newer_crds(*[("linkerd-control-plane", each) for each in (installed, wanted)])
