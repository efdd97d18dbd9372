"""Following the advice of a refusal resolves it, and no other takes its place."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.checks.preflight import preflight
from prefect_linkerd.mesh.config.model import Dependency, MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.helm.ownership import owner_of
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.install.dependencies import decide_dependency
from prefect_linkerd.mesh.install.namespaces import lacks, namespaces, refuse_namespace
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE
from prefect_linkerd.mesh.kubernetes.permissions import Permission
from prefect_linkerd.mesh.planning.preflight import (
    Finding,
    ForeignNamespace,
    PreflightSnapshot,
)
from tests.support.advice import follows, follows_each
from tests.support.preflights import (
    CHARTS,
    CONFIG,
    GOOD,
    LINKERD_CLI,
    NOW,
    helm,
    release,
    seen,
)

KUSTOMIZE = {"metadata": {"name": "n", "labels": {"kustomize.toolkit.fluxcd.io/name": "k"}}}
MANAGED = MeshConfig.model_validate(
    {"issuer": "cert-manager", "trust_anchor": {"custody": "in-cluster"}}
)
ELSEWHERE = MeshConfig.model_validate({"namespaces": {"linkerd": "mesh"}})
THAT_ONE = (
    release("linkerd-crds", "2026.8.3", namespace="mesh"),
    release("linkerd-control-plane", "2026.8.3", namespace="mesh"),
)

OLDER, NEWER = (
    tuple(release(chart, version) for chart in ("linkerd-crds", "linkerd-control-plane"))
    for version in ("2025.4.4", "2026.8.3")
)


Situation = tuple[PreflightSnapshot, MeshConfig]
ADVICE: dict[str, tuple[Situation, str, Situation]] = {
    # The situation, the advice, and the situation after it was followed.
    "a newer Kubernetes": (
        (replace(GOOD, facts=ClusterFacts("v1.30.1", frozenset())), CONFIG),
        "or upgrade Kubernetes",
        (GOOD, CONFIG),
    ),
    "clocks": (
        (replace(GOOD, local_clock=NOW + timedelta(hours=1)), CONFIG),
        "Set the clocks (NTP)",
        (GOOD, CONFIG),
    ),
    "nodes": ((replace(GOOD, unready_nodes=3), CONFIG), "Fix the nodes", (GOOD, CONFIG)),
    "permissions": (
        (replace(GOOD, denied=(Permission("create", "namespaces"),)), CONFIG),
        "Grant it the role of docs/permissions.md",
        (GOOD, CONFIG),
    ),
    "a namespace on its way out": (
        (replace(GOOD, terminating=("Namespace/linkerd",)), CONFIG),
        "Wait until it is gone",
        (GOOD, CONFIG),
    ),
    "somebody's Linkerd: its namespaces": (
        (seen(*THAT_ONE, owned=[helm("linkerd-control-plane", "mesh")]), CONFIG),
        "Put its namespaces into the configuration",
        (
            seen(*THAT_ONE, config=ELSEWHERE, owned=[helm("linkerd-control-plane", "mesh")]),
            ELSEWHERE,
        ),
    ),
    "somebody's Linkerd: namespaces.linkerd": (
        (seen(*THAT_ONE), CONFIG),
        "set namespaces.linkerd to mesh, or uninstall that one",
        (seen(*THAT_ONE, config=ELSEWHERE), ELSEWHERE),
    ),
    "somebody's Linkerd, uninstalled": (
        (seen(*THAT_ONE), CONFIG),
        "or uninstall that one",
        (seen(), CONFIG),
    ),
    "the linkerd CLI's": (
        (seen(owned=[LINKERD_CLI]), CONFIG),
        "Uninstall it first",
        (seen(), CONFIG),
    ),
    "a Kustomization's": (
        (seen(owned=[owner_of(KUSTOMIZE)]), CONFIG),
        "or remove it there first",
        (seen(), CONFIG),
    ),
    "an issuer of the chart": (
        (replace(GOOD, issuer_owner=helm("linkerd-control-plane", "linkerd")), MANAGED),
        "Set issuer to self-signed",
        (
            replace(GOOD, issuer_owner=helm("linkerd-control-plane", "linkerd")),
            MANAGED.model_copy(update={"issuer": "self-signed"}),
        ),
    ),
    "a driver": (
        (
            replace(
                GOOD,
                installed=replace(
                    GOOD.installed, owners={"linkerd-control-plane": owner_of(KUSTOMIZE)}
                ),
            ),
            CONFIG,
        ),
        "Change it there. verify_mesh, check_certificates and smoke_test work on this mesh",
        (GOOD, CONFIG),
    ),
    "another version": (
        (seen(*OLDER), CONFIG),
        "Set version to the installed release (edge-1), or use the upgrade flow",
        (seen(*NEWER), CONFIG),
    ),
    "a namespace of Flux": (
        (
            replace(
                GOOD,
                foreign_namespaces=(
                    ForeignNamespace("Namespace/n", owner_of(KUSTOMIZE), ("a: b",)),
                ),
            ),
            CONFIG,
        ),
        "Set there: a: b",
        (GOOD, CONFIG),
    ),
}


@follows_each(ADVICE)
def test_preflights_advice_fixes_what_it_is_about(case: str) -> None:
    (before, config), advice, (after, changed) = ADVICE[case]
    remedies = [f.remedy for f in errors(before, config)]
    assert any(advice in remedy for remedy in remedies), remedies
    assert errors(after, changed) == []


def errors(snapshot: PreflightSnapshot, config: MeshConfig) -> list[Finding]:
    return [f for f in preflight(snapshot, config, CHARTS) if f.severity == "error"]


@follows(
    "Set there what Linkerd needs: ",
)
@pytest.mark.parametrize("wanted", namespaces(MANAGED), ids=lambda o: o["metadata"]["name"])
def test_what_a_namespace_is_said_to_lack_is_all_that_it_lacks(wanted: dict[str, Any]) -> None:
    found = {"metadata": {**KUSTOMIZE["metadata"], "name": wanted["metadata"]["name"]}}
    text = refuse_namespace(wanted, found, owner_of(found)).remedy
    lines = text.removeprefix("Set there what Linkerd needs: ").rstrip(".")
    given: dict[str, dict[str, str]] = {"label": {}, "annotation": {}}
    for line in filter(None, lines.split(", ")):
        kind, _, text = line.partition(" ")
        given[kind] |= yaml.safe_load(text)
    metadata = {"labels": given["label"], "annotations": given["annotation"]}
    assert all(isinstance(v, str) for part in metadata.values() for v in part.values())
    assert lacks(wanted, {"metadata": metadata}) == []


@follows(
    "Have its owner finish that installation, or uninstall it",
    "turn its install setting on",
)
@pytest.mark.parametrize("name", ["cert-manager", "traefik"])
def test_advice_about_a_dependency(name: Dependency) -> None:
    key = name.replace("-", "_")

    def config(**settings: bool) -> MeshConfig:
        return MANAGED.model_copy(update={key: getattr(MANAGED, key).model_copy(update=settings)})

    def decide(mesh: MeshConfig, *releases: Release, served: bool = False) -> str:
        return decide_dependency(name, mesh, releases, served=served)

    theirs = replace(release(name, "1"), status="pending-install")
    with pytest.raises(InvalidInput, match="finish that installation, or uninstall it"):
        decide(config(), theirs)
    assert decide(config(), replace(theirs, status="deployed"), served=True) == "use"
    assert decide(config()) == "release"
    with pytest.raises(InvalidInput, match=f"Install {name}, or turn its install setting on"):
        decide(config(install=False))
    assert decide(config(install=False), served=True) == "use"
    assert decide(config(install=True)) == "release"
    # docs/adopt.md: a release to be upgraded by these flows.
    assert decide(config(adopt=True), theirs, served=True) == "release"
    assert decide(config(), replace(theirs, labels=MADE_HERE)) == "release"
