"""What blocks an upgrade: plans with real charts, from handmade snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.checks.preflight import preflight
from prefect_linkerd.mesh.errors import PreflightFailed
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.helm.client import Helm, Release
from prefect_linkerd.mesh.helm.values import ClusterFacts, values_for
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.planning.preflight import PreflightSnapshot
from prefect_linkerd.mesh.upgrade.plan import (
    UpgradePlan,
    http_route,
    plan_markdown,
    plan_upgrade,
    require_plan,
)
from tests.support.upgrade_plans import ADAPTOR, FACTS, SPLIT, revision, snapshot


def found(plan: UpgradePlan) -> dict[str, tuple[str, str]]:
    """Each finding's severity and text, by its id."""
    return {finding.id: (finding.severity, str(finding)) for finding in plan.findings}


@pytest.mark.real_charts
def test_a_plan_without_findings_can_be_carried_out(charts_dir: Path) -> None:
    plan = plan_upgrade(snapshot(charts_dir, "stable-2.13.7", "stable-2.14.10"))
    assert require_plan(plan) is plan
    assert [(s.name, s.action, s.before, s.after) for s in plan.steps] == [
        ("linkerd-crds", "upgrade", "1.6.1", "1.8.0"),
        ("linkerd-control-plane", "upgrade", "1.12.7", "1.16.11"),
    ]
    assert not plan.is_done


@pytest.mark.real_charts
def test_a_kubernetes_that_is_too_old_is_refused(charts_dir: Path) -> None:
    read = snapshot(charts_dir, "edge-25.4.4", "edge-26.8.3")
    now = datetime.now(UTC)

    def on(kubernetes: str) -> UpgradePlan:
        facts = replace(FACTS, version=kubernetes)
        cluster = PreflightSnapshot(facts, now, now, (), (), (), (), 0, 1)
        findings = preflight(cluster, read.config, tuple(read.charts.values()))
        return plan_upgrade(replace(read, facts=facts, findings=findings))

    assert not on("v1.31.2-gke.1").findings
    severity, text = found(on("v1.20.9"))["k8s-version"]
    assert (severity, "this is v1.20.9" in text) == ("error", True)
    with pytest.raises(PreflightFailed, match=r"control-plane 2026\.8\.3: it needs"):
        require_plan(on("v1.20.9"))


@pytest.mark.real_charts
@pytest.mark.parametrize(
    ("owner", "says", "installs"),
    [
        ("", "installed with linkerd-crds", True),
        ("linkerd/linkerd-crds", "owned by linkerd/linkerd-crds, and upgraded with it", True),
        ("kube-system/gateway-api", "owned by kube-system/gateway-api, and left alone", False),
    ],
)
def test_the_gateway_api_is_left_to_whoever_owns_it(
    charts_dir: Path, cluster: Cluster, helm_path: str, owner: str, says: str, installs: bool
) -> None:
    read = snapshot(charts_dir, "edge-25.4.4", "edge-26.8.3")
    facts = ClusterFacts(cluster.version(), cluster.api_versions(), owner)
    chart = read.charts["linkerd-crds"]
    values = values_for(chart, read.config, facts)
    rendered = Helm(cluster, helm_path).render(chart, chart.name, "linkerd", values, facts)
    plan = plan_upgrade(replace(read, facts=facts, rendered={"linkerd-crds": rendered}))
    assert plan.gateway_api == says
    assert f"Gateway API: {says}." in plan_markdown(plan)
    names = [change.name for change in plan.crds if change.change == "create"]
    assert ("httproutes.gateway.networking.k8s.io" in names) == installs


@pytest.mark.real_charts
@pytest.mark.parametrize(
    ("source", "target", "releases", "severity", "remedy"),
    [
        # Up to 2.11 Linkerd reads them itself; from 2.12 on they already have no effect.
        ("stable-2.11.5", "stable-2.12.6", [], "error", "Install the linkerd-smi extension"),
        ("stable-2.12.6", "stable-2.13.7", [], "warning", "HTTPRoute with weighted"),
        ("stable-2.11.5", "stable-2.12.6", [ADAPTOR], "", ""),
    ],
)
def test_traffic_splits_need_something_instead(
    charts_dir: Path,
    source: str,
    target: str,
    releases: list[Release],
    severity: str,
    remedy: str,
) -> None:
    read = snapshot(charts_dir, source, target)
    plan = plan_upgrade(replace(read, traffic_splits=[SPLIT], releases=releases))
    if not severity:
        assert not plan.findings
        return
    assert found(plan)["smi"][0] == severity
    assert remedy in found(plan)["smi"][1]
    page = plan_markdown(plan, [SPLIT])
    assert "## Instead of TrafficSplit/emojivoto/web" in page
    assert "kind: HTTPRoute" in page


def test_an_http_route_splits_as_the_traffic_split_did() -> None:
    route = http_route(SPLIT)
    assert (route["kind"], route["metadata"]["namespace"]) == ("HTTPRoute", "emojivoto")
    assert route["spec"]["parentRefs"][0]["name"] == "web-svc"
    [rule] = route["spec"]["rules"]
    weights = {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}
    assert weights == {"web-svc": 900, "web-next": 100}


@pytest.mark.real_charts
def test_an_extension_that_goes_away_is_for_a_person_to_accept(charts_dir: Path) -> None:
    read = snapshot(charts_dir, "edge-25.4.4", "edge-26.8.3", jaeger={"enabled": True})
    plan = plan_upgrade(read)
    assert ("linkerd-jaeger", "uninstall") in [(s.name, s.action) for s in plan.steps]
    with pytest.raises(PreflightFailed, match="A person may accept jaeger"):
        require_plan(plan)
    require_plan(plan_upgrade(replace(read, accepted=frozenset({"jaeger"}))))


def lost(mirror: Path, values: Mapping[str, Any], **parts: Any) -> UpgradePlan:
    read = snapshot(mirror, "stable-2.11.5", "stable-2.12.6")
    user = {"linkerd-control-plane": dict(values)}
    return plan_upgrade(replace(read, user_values=user, **parts))


@pytest.mark.real_charts
def test_values_that_would_do_nothing_are_named(charts_dir: Path) -> None:
    # 2.12's own notice: the default policy moved.
    moved = {"policyController": {"defaultAllowPolicy": "cluster-authenticated"}}
    severity, text = found(lost(charts_dir, moved))["values"]
    assert severity == "error"
    assert "it is replaced by proxy.defaultInboundPolicy" in text
    assert not lost(charts_dir, {"proxy": {"logLevel": "debug"}}).findings
    accepted = lost(charts_dir, moved, accepted=frozenset({"values"}))
    assert found(accepted)["values"][0] == "warning"


@pytest.mark.real_charts
def test_dependencies_are_planned_and_never_taken_back(charts_dir: Path) -> None:
    policy = {"dependencies": ["cert-manager"]}
    read = snapshot(charts_dir, "edge-25.4.4", "edge-26.8.3", upgrade=policy)
    # It was installed by somebody else, so it is left to them.
    severity, text = found(plan_upgrade(read))["dependency"]
    assert (severity, "left as it is" in text) == ("warning", True)

    chart = ChartCatalog(read.config).find("cert-manager")

    def at(version: str) -> UpgradePlan:
        own = replace(revision(chart, "cert-manager"), chart_version=version)
        return plan_upgrade(
            replace(
                read,
                installed={**read.installed, "cert-manager": own},
                charts={**read.charts, "cert-manager": chart},
            )
        )

    older = at("v1.20.0")
    assert not older.findings
    step = next(s for s in older.steps if s.name == "cert-manager")
    assert (step.action, step.before, step.after) == ("upgrade", "v1.20.0", chart.version)
    with pytest.raises(PreflightFailed, match=r"is older than v1\.99\.0, and a"):
        require_plan(at("v1.99.0"))
