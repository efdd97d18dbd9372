"""Following the advice of refusals about other input resolves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.checks.preflight import preflight
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.fleet import FleetOptions, plan_fleet
from prefect_linkerd.mesh.helm.client import OLDEST_HELM, require_helm
from prefect_linkerd.mesh.install.ingress import API_VERSIONS, choose_api_version
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.planning.preflight import Finding
from prefect_linkerd.mesh.smoke.routing import choose_split
from prefect_linkerd.mesh.smoke.smoke_tests import entry_point
from prefect_linkerd.mesh.upgrade.plan import plan_upgrade
from tests.support.advice import advice, follows
from tests.support.crds import versioned_crd
from tests.support.preflights import CHARTS, CONFIG, release, seen
from tests.support.upgrade_plans import snapshot


@follows(
    "Choose a newer release.",
    "Write the channel, a dash and three numbers.",
)
def test_advice_about_a_version() -> None:
    advice(InvalidInput, lambda: LinkerdVersion.parse("stable-2.10.2"))
    for minor in range(11, 15):
        assert LinkerdVersion.parse(f"stable-2.{minor}.0")
    advice(InvalidInput, lambda: LinkerdVersion.parse("2.14.10"))
    assert LinkerdVersion.parse("stable-2.14.10")
    assert LinkerdVersion.parse("edge-26.8.3")


@follows("Save the blocks, or correct the names.")
def test_advice_about_a_fleet() -> None:
    def plan(saved: Sequence[str], *meshes: str) -> tuple[tuple[str, ...], ...]:
        return plan_fleet(saved, meshes, FleetOptions()).waves

    advice(InvalidInput, lambda: plan(["a"], "a", "b"))
    assert plan(["a", "b"], "a", "b")
    assert plan(["a"], "a")


@follows("Turn traefik.install on, or install Traefik's CRDs.")
def test_advice_about_traefik() -> None:
    assert MeshConfig.model_validate({"traefik": {"install": True}}).traefik.install
    advice(InvalidInput, lambda: choose_api_version(frozenset({"v1"})))
    assert choose_api_version(frozenset({"v1", *API_VERSIONS}))


@follows("Install helm … or newer: https://helm.sh/docs/intro/install/")
def test_advice_about_helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    helm = tmp_path / "helm"

    def install(version: str) -> None:
        helm.write_text(f"#!/bin/sh\nprintf v{version}")
        helm.chmod(0o700)

    assert str(OLDEST_HELM) in advice(InvalidInput, lambda: require_helm(str(helm)))
    install("3.9.0")
    advice(InvalidInput, lambda: require_helm(str(helm)))
    # Under another name, because a program is asked for its version only once.
    helm = tmp_path / "newer"
    install(str(OLDEST_HELM))
    require_helm(str(helm))


@follows(
    "Set version to the installed release, or use the upgrade flow.",
    "Look at them: rollouts may have to wait for them.",
)
def test_advice_about_what_is_installed() -> None:
    def found(version: str = "", **changes: Any) -> list[Finding]:
        names = [chart.name for chart in CHARTS] if version else []
        releases = [replace(release(name, version), app_version="") for name in names]
        return preflight(replace(seen(*releases), **changes), CONFIG, CHARTS)

    assert any("use the upgrade flow" in f.remedy for f in found("2025.4.4"))
    assert found(CHARTS[0].version) == []
    assert [f.severity for f in found(unready_nodes=1, nodes=3)] == ["warning"]
    assert found(nodes=3) == []


@follows("Its CRD comes with chart ")
def test_advice_about_a_kind_of_split() -> None:
    version = LinkerdVersion.parse("stable-2.14.10")
    advice(InvalidInput, lambda: choose_split(version, lambda *_: False))
    # The kind that this version's chart linkerd-crds installs.
    served = release_facts(version).splits[-1]
    assert choose_split(version, lambda *kind: kind == served)


@follows("Let bootstrap install Traefik, or give the existing Traefik's Service the label ")
def test_advice_about_traefiks_service() -> None:
    def find(*services: dict[str, Any]) -> str:
        return entry_point(services, "traefik", "cluster.local")

    words = advice(InvalidInput, find)
    label = words.partition("the label ")[2].partition(" ")[0]
    key, _, value = label.partition("=")
    metadata = {"name": "own", "namespace": "ingress", "labels": {key: value}}
    ports = [{"name": words.rstrip(".").rpartition(" ")[2], "port": 8000}]
    service = {"metadata": metadata, "spec": {"ports": ports}}
    assert find(service) == "http://own.ingress.svc.cluster.local:8000/"


@pytest.mark.real_charts
@follows("Move the custom resources to a newer version first; then you cannot go back.")
def test_advice_about_a_version_of_a_crd(charts_dir: Path) -> None:
    read = snapshot(charts_dir, "edge-25.4.4", "edge-26.8.3")

    def errors(*served: str) -> list[str]:
        old, new = (versioned_crd("a.example", *versions) for versions in (served, ("v1",)))
        new["spec"]["group"] = "example"
        plan = plan_upgrade(replace(read, crds=[old], rendered={"linkerd-crds": [new]}))
        return [f.remedy for f in plan.findings if f.id == "crd-versions"]

    assert len(errors("v1alpha1", "v1")) == 1
    assert errors("v1") == []
