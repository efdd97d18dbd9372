"""Following the advice of upgrade and bootstrap plans clears their findings."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.config.model import MeshConfig, UpgradePolicy
from prefect_linkerd.mesh.errors import InvalidInput, MeshBusy, PreflightFailed
from prefect_linkerd.mesh.helm.chart_changes import ObjectChange, object_changes
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.ownership import RELEASE_NAME, RELEASE_NAMESPACE, Owner
from prefect_linkerd.mesh.helm.records import ReleaseRef
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.losses import Pin, losses, pins
from prefect_linkerd.mesh.planning.plan import accept, require_acceptable
from prefect_linkerd.mesh.planning.preflight import Finding
from prefect_linkerd.mesh.records.upgrade import UpgradeRecord, begin, end
from prefect_linkerd.mesh.upgrade.path import newest_hop
from prefect_linkerd.mesh.upgrade.plan import (
    PlanSnapshot,
    check_path,
    http_route,
    plan_upgrade,
    source_version,
)
from sandbox.binaries import Binaries
from tests.prefect_linkerd.mesh.planning.test_losses import INSTALLED, change, gone, roots
from tests.support.advice import advice, follows, follows_each
from tests.support.certificates import ONE_ANCHOR, OTHER_ANCHOR
from tests.support.upgrade_plans import ADAPTOR, SPLIT, revision, snapshot

V = LinkerdVersion.parse
OLD, NEW = "edge-25.4.4", "edge-26.8.3"


def said(snapshot: PlanSnapshot) -> list[str]:
    """The plan's advice for everything that blocks the upgrade or causes a warning."""
    return [finding.remedy for finding in plan_upgrade(snapshot).findings]


def errors(snapshot: PlanSnapshot) -> list[Finding]:
    return [f for f in plan_upgrade(snapshot).findings if f.severity == "error"]


def changed(read: PlanSnapshot, **config: Any) -> PlanSnapshot:
    fields = read.config.model_dump(exclude_unset=True) | config
    return replace(read, config=MeshConfig.model_validate(fields))


PATHS: dict[str, tuple[tuple[str, str], str, tuple[str, str]]] = {
    "one minor at a time": (
        ("stable-2.11.5", "stable-2.13.7"),
        "Upgrade to a stable-2.12 release first.",
        ("stable-2.11.5", "stable-2.12.6"),
    ),
    "older": (
        ("edge-26.8.3", "edge-25.4.4"),
        "Choose edge-26.8.3 or a newer release.",
        ("edge-26.8.3", "edge-26.8.3"),
    ),
    "stable after edge": (
        ("edge-25.4.4", "stable-2.14.10"),
        "Choose a newer edge release.",
        ("edge-25.4.4", "edge-26.8.3"),
    ),
}


@follows_each(PATHS)
def test_advice_about_a_path(case: str) -> None:
    (source, target), words, (_, better) = PATHS[case]
    assert words in advice(InvalidInput, lambda: check_path(V(source), V(target)))
    check_path(V(source), V(better))


@follows("Upgrade to a stable-2.12 release first.")
def test_advice_about_a_gap_in_what_is_released() -> None:
    def hop(*released: str) -> str:
        return str(newest_hop(UpgradePolicy(), V("stable-2.11.5"), map(V, released)))

    advice(InvalidInput, lambda: hop("stable-2.13.7"))
    assert hop("stable-2.12.6", "stable-2.13.7") == "stable-2.12.6"


@follows("Install a mesh with bootstrap.")
def test_advice_where_there_is_no_mesh_of_helm(charts_dir: Path) -> None:
    advice(InvalidInput, lambda: source_version({}, None))
    chart = ChartCatalog(MeshConfig.model_validate({"charts": {"mirror": charts_dir}})).find(
        "linkerd-control-plane"
    )
    # The release as bootstrap leaves it.
    assert source_version({chart.name: revision(chart)}, None) == chart.app_version


@pytest.mark.real_charts
@follows(
    "Choose another version, change upgrade.channel or upgrade.constraint, or accept it.",
    "Set viz.enabled to keep it, or accept it.",
    "Accept it. Proxies then export traces as the control plane's value proxy.tracing says:",
    "Remove it from the extra values (",
    "Set the new one in the extra values (",
)
def test_advice_about_a_plan(charts_dir: Path) -> None:
    read = snapshot(charts_dir, OLD, NEW)
    assert errors(read) == []
    for policy in ({"channel": "stable"}, {"constraint": "<26"}):
        unwanted = changed(read, upgrade=policy)
        assert "change upgrade.channel or upgrade.constraint" in said(unwanted)[0]
        assert errors(changed(unwanted, upgrade={"channel": "edge", "constraint": ">=26"})) == []
        assert errors(replace(unwanted, accepted=frozenset({"version-policy"}))) == []

    with_viz = snapshot(charts_dir, OLD, NEW, viz={"enabled": True})
    without = {k: v for k, v in with_viz.charts.items() if k != "linkerd-viz"}
    turned_off = replace(with_viz, charts=without)
    assert said(turned_off) == ["Set viz.enabled to keep it, or accept it."]
    assert errors(with_viz) == []
    assert errors(replace(turned_off, accepted=frozenset({"viz"}))) == []

    with_jaeger = snapshot(charts_dir, OLD, NEW, jaeger={"enabled": True})
    assert said(with_jaeger)[0].startswith("Accept it. Proxies then export traces")
    accepted = replace(with_jaeger, accepted=frozenset({"jaeger"}))
    assert errors(accepted) == []
    traced = {"proxy": {"tracing": {"enabled": True}}}
    assert errors(replace(accepted, user_values={"linkerd-control-plane": traced})) == []

    older = snapshot(charts_dir, "stable-2.11.5", "stable-2.12.6")
    for values, better in (
        (
            {"policyController": {"defaultAllowPolicy": "deny"}},
            {"proxy": {"defaultInboundPolicy": "deny"}},
        ),
        ({"installNamespace": True}, {}),
    ):
        [advised] = said(replace(older, user_values={"linkerd-control-plane": values}))
        assert advised.startswith("Set the new one" if better else "Remove it")
        for then in (better, {}):
            assert errors(replace(older, user_values={"linkerd-control-plane": then})) == []


@pytest.mark.real_charts
@follows(
    "Leave it out of upgrade.dependencies, or let these flows manage it: set cert_manager.install",
    "Set cert_manager.version to a newer one, or leave it out of upgrade.dependencies.",
)
def test_advice_about_a_dependency_of_the_upgrade(charts_dir: Path) -> None:
    policy = {"dependencies": ["cert-manager"]}
    read = snapshot(charts_dir, OLD, NEW, upgrade=policy)
    chart = ChartCatalog(read.config).find("cert-manager")

    def with_it(version: str) -> PlanSnapshot:
        own = replace(revision(chart, "cert-manager"), chart_version=version)
        return replace(
            read,
            installed={**read.installed, "cert-manager": own},
            charts={**read.charts, "cert-manager": chart},
        )

    assert "set cert_manager.install and .adopt to true" in said(read)[0]
    config = {"cert_manager": {"install": True, "adopt": True}, "upgrade": policy}
    # The same as a release that these flows manage.
    assert said(changed(with_it(chart.version), **config)) == []
    assert said(changed(read, upgrade={})) == []
    assert said(with_it("v1.99.0"))[0].startswith("Set cert_manager.version to a newer one")
    newer = replace(chart, version="v1.99.1")
    asked = changed(with_it("v1.99.0"), cert_manager={"version": newer.version}, upgrade=policy)
    assert said(replace(asked, charts={**asked.charts, "cert-manager": newer})) == []
    assert said(changed(with_it("v1.99.0"), upgrade={})) == []


@pytest.mark.real_charts
@follows(
    "Install the linkerd-smi extension first:",
    "Replace each with an HTTPRoute with weighted backendRefs, shown below, or install",
)
def test_advice_about_traffic_splits(charts_dir: Path) -> None:
    for source, target in (("stable-2.11.5", "stable-2.12.6"), ("stable-2.12.6", "stable-2.13.7")):
        read = replace(snapshot(charts_dir, source, target), traffic_splits=[SPLIT])
        assert len(said(read)) == 1
        assert said(replace(read, releases=[ADAPTOR])) == []
    assert [b["weight"] for b in http_route(SPLIT)["spec"]["rules"][0]["backendRefs"]] == [900, 100]
    assert said(replace(read, traffic_splits=[])) == []


@pytest.mark.real_charts
@follows("Fix what the message names.", "Nothing was changed. Fix these, then run again.")
def test_advice_about_an_object_that_the_api_server_refuses(charts_dir: Path) -> None:
    refused = ObjectChange("Deployment/linkerd/x", "update", refused="spec.replicas: -1 is invalid")
    read = replace(snapshot(charts_dir, OLD, NEW), objects=[refused])
    assert said(read) == ["Fix what the message names."]
    words = advice(PreflightFailed, lambda: require_acceptable(errors(read), "upgrade"))
    assert words.endswith("A person may accept objects (accept; --accept in a terminal).")
    assert errors(replace(read, objects=[replace(refused, refused="")])) == []
    require_acceptable(errors(replace(read, accepted=frozenset({"objects"}))), "upgrade")


@pytest.mark.real_charts
@follows(
    "Keep them by adding to the configuration",
    "Accept it: linkerd-crds takes no extra values.",
    "Set cluster_domain to ",
    "Use rotate_anchor to change the anchors of a running mesh: it restarts the workloads that "
    "need it.",
)
def test_advice_about_what_would_be_lost(charts_dir: Path) -> None:
    def lost(values: Any, /, **config: Any) -> list[Finding]:
        return losses([change(charts_dir, values, **config)], "")

    [kept] = lost(INSTALLED)
    assert lost(INSTALLED, **yaml.safe_load(kept.remedy.partition("configuration: ")[2])) == []
    crds = change(charts_dir, {"enableHttpRoutes": False}, chart="linkerd-crds")
    [found] = losses([crds], "")
    assert found.remedy.startswith("Accept it")
    assert [f.severity for f in accept([found], {"values-lost"})] == ["warning"]

    for value in ("clusterDomain", "identityTrustDomain"):
        fields: dict[str, str] = {}
        while wrong := [f for f in lost({value: "k8s.example"}, **fields) if f.id == "domains"]:
            setting, domain = wrong[0].remedy.removeprefix("Set ").rstrip(".").split(" to ")
            assert setting not in fields
            fields[setting] = domain

    def rotated(before: str, after: str) -> list[Finding]:
        return losses([replace(change(charts_dir, {}), rendered=(roots(after),))], before)

    assert "Use rotate_anchor" in rotated(ONE_ANCHOR, OTHER_ANCHOR)[0].remedy
    # As a rotation leaves it: the rendered bundle equals the cluster's.
    assert rotated(OTHER_ANCHOR, OTHER_ANCHOR) == []


@pytest.mark.real_charts
@follows("Remove it, or accept that it stays.", "Remove the annotation, or accept that it stays.")
def test_advice_about_pinned_versions(charts_dir: Path) -> None:
    target = "stable-2.14.10"

    def found(values: Any, *workloads: Pin) -> list[Finding]:
        given = change(charts_dir, {}, values={"inline": values})
        return pins([given], workloads, "stable-2.13.7", target)

    pinned = {"proxy": {"image": {"version": "stable-2.13.7"}}}
    both = found(pinned, Pin("Deployment/a/x", "stable-2.13.7"))
    assert [f.remedy[:6] for f in both] == ["Remove", "Remove"]
    assert {f.severity for f in accept(both, {"pinned-version", "pinned-proxy"})} == {"warning"}
    assert found({}) == []


@pytest.mark.real_charts
@follows(
    "Set identity.externalCA: true in the extra values (values.inline)",
    "Turn it off in the chart's values, or have its owner delete it.",
    "Take it out of its owner's release first, or accept that it changes hands.",
)
def test_advice_about_an_owner(charts_dir: Path, cluster: Cluster, helm_path: str) -> None:
    def found(*objects: ObjectChange) -> list[Finding]:
        return losses([replace(change(charts_dir, {}), objects=objects)], "")

    def taken(subject: str, by: str, *, is_new: bool) -> ObjectChange:
        owner = Owner(by, f"{by}'s", ReleaseRef("b", "a") if by == "Helm" else None)
        return ObjectChange(subject, "update", taken_from=owner, is_new=is_new)

    bundle = "ConfigMap/linkerd/linkerd-identity-trust-roots"
    assert "externalCA: true" in found(taken(bundle, "trust-manager", is_new=True))[0].remedy
    facts = ClusterFacts(cluster.version(), cluster.api_versions())

    def renders(**values: Any) -> set[str]:
        config = {"values": {"inline": values}, "version": "stable-2.14.10"}
        given = change(charts_dir, {}, **config)
        chart = ChartCatalog(
            MeshConfig.model_validate({"charts": {"mirror": charts_dir}, **config})
        ).find(given.chart)
        issuer = {"identityTrustAnchorsPEM": ONE_ANCHOR, "identity": {"issuer": {"tls": {}}}}
        made = Helm(cluster, helm_path).render(
            chart, chart.name, "linkerd", {**issuer, **given.values}, facts
        )
        return {f"{obj['kind']}/linkerd/{obj['metadata']['name']}" for obj in made}

    assert bundle in renders()
    assert bundle not in renders(identity={"externalCA": True})
    # With it off the chart makes no such object, so nothing is taken over.
    role = "Role/linkerd/r"
    [refused] = found(taken(role, "Flux", is_new=True))
    assert refused.remedy.startswith("Turn it off in the chart's values")
    assert found() == []
    [shared] = found(taken(role, "Helm", is_new=False))
    assert shared.remedy.startswith("Take it out")
    assert [f.severity for f in accept([shared], {"owner"})] == ["warning"]


@pytest.mark.real_charts
@follows("Keep it by: kubectl annotate", "If it is of type kubernetes.io/tls:")
def test_what_is_annotated_is_not_deleted(
    charts_dir: Path, cluster: Cluster, namespace: str, kubectl: Callable[[str], None]
) -> None:
    own = ReleaseRef("mesh", namespace)
    for name in ("linkerd-identity-issuer", "somebodys"):
        subject = f"Secret/{namespace}/{name}"
        [found] = losses([replace(change(charts_dir, {}), objects=(gone(subject),))], "")
        marks = {RELEASE_NAME: own.name, RELEASE_NAMESPACE: own.namespace}
        metadata = {"name": name, "namespace": namespace, "annotations": marks}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
        cluster.create(
            {**secret, "type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}}
        )

        def deleted(obj: Any = secret) -> list[str]:
            changes = object_changes(cluster, namespace, [obj], [], {own})
            return [c.subject for c in changes if c.change == "delete"]

        assert deleted() == [subject]
        kubectl(found.remedy.partition("kubectl ")[2])
        assert deleted() == []


@pytest.fixture
def kubectl(binaries: Binaries, cluster: Cluster) -> Callable[[str], None]:
    """Runs a kubectl command as a user would copy it from a message."""

    def run(arguments: str) -> None:
        with cluster.kubeconfig_file() as file:
            command = [str(binaries.kubectl), "--kubeconfig", str(file), *shlex.split(arguments)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return run


@follows(
    "Finish it by running upgrade with its version, or with go_back.",
)
def test_advice_about_an_upgrade_in_progress(cluster: Cluster, namespace: str) -> None:
    config = MeshConfig.model_validate({"namespaces": {"linkerd": namespace}})
    first, other = (
        UpgradeRecord(source=OLD, target=target, releases=[], started=datetime.now(UTC))
        for target in (NEW, "edge-26.9.1")
    )
    begin(Mesh(cluster, config), first)
    advice(MeshBusy, lambda: begin(Mesh(cluster, config), other))
    assert begin(Mesh(cluster, config), first) == first
    # The upgrade ends, completed or gone back.
    end(Mesh(cluster, config))
    assert begin(Mesh(cluster, config), other) == other
