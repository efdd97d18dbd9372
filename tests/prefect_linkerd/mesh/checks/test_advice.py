"""Following the advice of checks about faults that no sandbox can cause clears them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from prefect_linkerd.mesh.checks.certificates import certificates
from prefect_linkerd.mesh.checks.check import CheckResult
from prefect_linkerd.mesh.checks.existence import parse_network
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.helm.client import DesiredRelease
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.pki.certificates import fingerprints
from prefect_linkerd.mesh.records.rotation import RECORD, RotationRecord
from prefect_linkerd.mesh.records.upgrade import KEY as UPGRADE_KEY
from prefect_linkerd.mesh.records.upgrade import NAME as UPGRADE
from prefect_linkerd.mesh.records.upgrade import UpgradeRecord
from prefect_linkerd.mesh.report.events import overdue_notices
from prefect_linkerd.mesh.report.report import verify
from prefect_linkerd.mesh.snapshot.mesh import Snapshot
from tests.prefect_linkerd.mesh.checks.test_judges import judge, pod
from tests.prefect_linkerd.mesh.checks.test_judges_beyond import CRDS, ROOT, issuer
from tests.prefect_linkerd.mesh.checks.test_judges_beyond import pod as bundled
from tests.support.advice import advice, follows, follows_each
from tests.support.certificates import NOW, make
from tests.support.snapshots import empty_snapshot

EDGE = MeshConfig(version="edge-26.8.3")
TWO_14 = MeshConfig(version="stable-2.14.10")
SIGNED = issuer(make("identity", signer=ROOT))
OTHER = make("root.linkerd.other")


def remedies(snapshot: Snapshot, check: str) -> list[str]:
    return [problem.remedy for problem in result(snapshot, check).problems]


def result(snapshot: Snapshot, check: str) -> CheckResult:
    identifier, _, description = check.partition(": ")
    found = judge(snapshot, identifier, description)
    assert not found.is_broken, found
    return found


def crd(*versions: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "httproutes.gateway.networking.k8s.io", "annotations": {}},
        "spec": {"versions": [{"name": version} for version in versions]},
    }


def node(heartbeat: datetime) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat.isoformat()}
    return {"metadata": {"name": "n"}, "spec": {}, "status": {"conditions": [ready]}}


AGGREGATION = "kube-system/extension-apiserver-authentication"
Case = tuple[tuple[str, dict[str, Any]], str, dict[str, Any]]
CASES: dict[str, Case] = {
    # The check and the situation; the advice; the situation after it was followed.
    "no version": (
        ("k8s-api: can initialize", {"kubernetes": ""}),
        "Check the kubeconfig and its context.",
        {"kubernetes": "v1.34.4"},
    ),
    "no API server": (
        ("k8s-api: can query", {"api_versions": frozenset[str]()}),
        "Check that the address is that of an API server.",
        {"api_versions": frozenset({"v1"})},
    ),
    "an old Kubernetes": (
        ("k8s-version", {"kubernetes": "v1.25.0", "config": EDGE}),
        "Upgrade Kubernetes, or use an older Linkerd.",
        {"kubernetes": "v1.31.0", "config": EDGE},
    ),
    "an old Kubernetes: an older Linkerd": (
        ("k8s-version", {"kubernetes": "v1.25.0", "config": EDGE}),
        "or use an older Linkerd.",
        {"kubernetes": "v1.25.0", "config": TWO_14},
    ),
    "an old Gateway API": (
        ("gateway-api-crd", {"crds": {"httproutes.gateway.networking.k8s.io": crd("v1beta1")}}),
        "Upgrade the Gateway API to v1.1.1 or newer.",
        {"crds": {"httproutes.gateway.networking.k8s.io": crd("v1beta1", "v1")}},
    ),
    "a clock": (
        ("pre-k8s-clock-skew", {"nodes": (node(NOW - timedelta(hours=1)),)}),
        "Set the clocks of the node and of this machine (NTP).",
        {"nodes": (node(NOW),)},
    ),
    "no aggregation layer": (
        ("pre-k8s: can read extension-apiserver", {}),
        "Start the API server with --",
        {"config_maps": {AGGREGATION: {"data": {"requestheader-client-ca-file": "x"}}}},
    ),
    "no release": (
        ("pl-release-exists", {"wanted": (DesiredRelease(CRDS.name, "linkerd", CRDS, {}),)}),
        "Run bootstrap, or turn the part off in the configuration.",
        {
            "wanted": (DesiredRelease(CRDS.name, "linkerd", CRDS, {}),),
            "releases": (
                Release(CRDS.name, "linkerd", CRDS.name, "1.6.1", "", 1, "deployed", NOW, {}),
            ),
        },
    ),
    "no release: turned off": (
        ("pl-release-exists", {"wanted": (DesiredRelease(CRDS.name, "linkerd", CRDS, {}),)}),
        "or turn the part off in the configuration.",
        {"wanted": ()},
    ),
    "the namespace is there": (
        ("pre-ns", {"namespaces": {"linkerd": {}}}),
        "Delete it, or set namespaces.linkerd to another one.",
        {
            "namespaces": {"linkerd": {}},
            "config": MeshConfig.model_validate({"namespaces": {"linkerd": "mesh"}}),
        },
    ),
    "the trust bundle is another anchor's": (
        ("pl-trust-bundle", {"trust_bundle": OTHER.pem, "secrets": SIGNED}),
        "which is ca.crt of ",
        {"trust_bundle": OTHER.pem + ROOT.pem, "secrets": SIGNED},
    ),
    "nobody knows the issuer's anchor": (
        (
            "pl-trust-bundle",
            {"trust_bundle": OTHER.pem, "secrets": issuer(make("identity", signer=make("lost")))},
        ),
        "Add the anchor that signed it to the bundle, or run rotate_anchor with recover, which",
        {"trust_bundle": ROOT.pem, "secrets": SIGNED},
    ),
    "a version by annotation": (
        (
            "l5d-data-plane-cli-version",
            {
                "config": TWO_14,
                "pods": (
                    pod(
                        image="cr.l5d.io/linkerd/proxy:stable-2.13.7",
                        annotations={"config.linkerd.io/proxy-version": "stable-2.13.7"},
                    ),
                ),
            },
        ),
        "It is pinned by annotation ",
        {"config": TWO_14, "pods": (pod(),)},
    ),
}


@follows_each(CASES)
def test_advice_of_a_check(case: str) -> None:
    (check, before), words, after = CASES[case]
    assert any(words in remedy for remedy in remedies(empty_snapshot(**before), check))
    assert result(empty_snapshot(**after), check).outcome == "success"


@follows("Fix clusterNetworks in the control plane's values.")
def test_advice_about_a_network() -> None:
    advice(InvalidInput, lambda: parse_network("10.0.0.0"))
    assert parse_network("10.0.0.0/8")


def lease(owner: str, seconds: float) -> dict[str, str]:
    return {"owner": owner, "until": (NOW + timedelta(seconds=seconds)).isoformat()}


@follows("Run rotate_anchor again, which finishes it, or with action abort, which goes back.")
def test_advice_about_a_rotation_that_is_open() -> None:
    record = RotationRecord("new", "old", ROOT.pem, "spread", "2026-05-04")

    def said(phase: str, **data: str) -> CheckResult:
        text = json.dumps(asdict(replace(record, phase=phase)))
        found = {f"linkerd/{RECORD}": {"data": {"rotation": text, **data}}}
        return result(empty_snapshot(config_maps=found), "pl-rotation-open")

    assert said("spread").outcome == "warning"
    assert said("spread", **lease("", 30)).outcome == "warning"
    assert said("spread", **lease("a run that died", -1)).outcome == "warning"
    running = said("spread", **lease("rotate north", 30))
    assert running.outcome == "skipped"
    assert "rotate north is at work" in running.reason
    assert said("done").outcome == "success"


@follows("Run upgrade again, which finishes going back.")
def test_advice_about_an_upgrade_that_is_open() -> None:
    record = UpgradeRecord(source="edge-25.4.4", target="edge-26.8.3", started=NOW, releases=())
    back = record.model_copy(update={"direction": "back", "reason": "a gate failed"})

    def said(open_upgrade: UpgradeRecord | None, **data: str) -> CheckResult:
        maps: dict[str, Any] = {f"linkerd/{RECORD}": {"data": data}}
        if open_upgrade is not None:
            maps[f"linkerd/{UPGRADE}"] = {"data": {UPGRADE_KEY: open_upgrade.model_dump_json()}}
        return result(empty_snapshot(config_maps=maps), "pl-upgrade-open")

    assert "from edge-25.4.4 to edge-26.8.3" in str(said(record).problems[0])
    assert "going back to edge-25.4.4" in str(said(back).problems[0])
    assert "a gate failed" in str(said(back).problems[0])
    assert said(record, **lease("upgrade north", 30)).outcome == "skipped"
    assert said(None).outcome == "success"


@follows(
    "They drop it when they restart; rotate_anchor with the action drop restarts them.",
    "Run rotate_anchor with the action drop, which restarts them.",
)
def test_advice_about_proxies_that_trust_a_dropped_anchor() -> None:
    goal = next(iter(fingerprints(ROOT.pem, "anchor")))
    record = RotationRecord(goal, "old", ROOT.pem, "done", "", dropped="2026-05-03T12:00:00+00:00")

    def snapshot_of(record: RotationRecord, bundle: str) -> Snapshot:
        found = {f"linkerd/{RECORD}": {"data": {"rotation": json.dumps(asdict(record))}}}
        pods = (bundled(bundle=bundle),)
        return empty_snapshot(config_maps=found, trust_bundle=ROOT.pem, pods=pods)

    def said(record: RotationRecord, bundle: str, check: str = "pl-anchor-dropped") -> list[str]:
        snapshot = snapshot_of(record, bundle)
        return [str(problem) for problem in result(snapshot, check).problems]

    both = ROOT.pem + OTHER.pem
    [left] = said(record, both)
    assert "1 proxies still trust" in left
    assert "dropped on 2026-05-03 12:00 UTC" in left
    assert left.endswith("rotate_anchor with the action drop restarts them.")
    # tests/prefect_linkerd/mesh/rotation/test_killed.py runs the action.
    assert said(record, ROOT.pem) == []
    overdue = "pl-anchor-overdue"
    early, over = f"{NOW + timedelta(hours=1)}", f"{NOW - timedelta(hours=1)}"
    [late] = said(replace(record, drop_by=over), both, overdue)
    assert late.endswith("Run rotate_anchor with the action drop, which restarts them.")
    for bundle, events in ((both, ["linkerd.anchor.overdue"]), (ROOT.pem, [])):
        snapshot = snapshot_of(replace(record, drop_by=over), bundle)
        report = verify(snapshot, [certificates], ["beyond"])
        assert [notice.event for notice in overdue_notices(report)] == events
    assert "they may keep it until" in said(replace(record, drop_by=early), both)[0]
    for fine in ((early, both), (over, ROOT.pem), ("", both)):
        assert said(replace(record, drop_by=fine[0]), fine[1], overdue) == []
    # An anchor that no rotation has dropped is reported by pl-proxy-trust-bundle.
    assert said(replace(record, goal="another"), both) == []
    assert said(replace(record, dropped=""), both) == []
    assert said(replace(record, phase="spread"), both) == []


FLUX = {"helm.toolkit.fluxcd.io/name": "linkerd", "helm.toolkit.fluxcd.io/namespace": "flux"}


@follows(
    "Unless something is working on it now, change it where it is managed: it belongs to ",
    "Fix what `helm history` names, then change it where it is managed: it belongs to ",
    "Set the configured version to the installed one, or change it where it is managed: it",
    "Write the change into the configuration, or change it where it is managed: it belongs to ",
)
def test_advice_about_a_release_of_somebody_else() -> None:
    good = Release(CRDS.name, "linkerd", CRDS.name, CRDS.version, "", 2, "deployed", NOW, {}, FLUX)
    wanted = (DesiredRelease(CRDS.name, "linkerd", CRDS, {}),)

    def advised(check: str, **changed: Any) -> list[str]:
        releases = (replace(good, **changed),)
        return remedies(empty_snapshot(releases=releases, wanted=wanted), check)

    for check, changed in {
        "pl-release-pending": {"status": "pending-upgrade"},
        "pl-release-failed": {"status": "failed"},
        "pl-release-chart": {"chart_version": "0.0.1"},
        "pl-release-values": {"values": {"enableHttpRoutes": False, "other": 1}},
    }.items():
        [said] = advised(check, **changed)
        assert "change it where it is managed: it belongs to Flux" in said
        assert "bootstrap" not in said
        # After its owner has fixed it.
        assert advised(check) == []
