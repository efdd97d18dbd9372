"""The way back of an upgrade, whatever a dead run has left."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_linkerd.mesh.errors import ReleaseError
from prefect_linkerd.mesh.helm.records import (
    RELEASE_NAME,
    RELEASE_NAMESPACE,
    Revision,
    create,
    deployed,
    record,
    revisions,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.planning.chart_split import (
    decide_split,
    finish,
    give_back,
    restore,
    take_over,
)
from prefect_linkerd.mesh.records.upgrade import RecordedRelease, UpgradeRecord
from prefect_linkerd.mesh.upgrade.way_back import way_back

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def release(chart: str, name: str = "", part: str = "") -> RecordedRelease:
    return RecordedRelease(
        name=name or chart,
        namespace="linkerd",
        chart=chart,
        chart_version="1",
        revision=3,
        part=part,
    )


VIZ = release("linkerd-viz")
OLD = release("linkerd2")
OTHER_NAME = release("linkerd2", "mesh-prod", "linkerd2")
UNNAMED_PART = release("linkerd2", "mesh-prod")
SPLIT = ("linkerd-crds", "linkerd-control-plane", "linkerd-viz")


@pytest.mark.parametrize("old", [OLD, OTHER_NAME, UNNAMED_PART])
@pytest.mark.parametrize(
    ("present", "actions"),
    [
        # Before, during and after the split; in the last case the record of 2.11 is gone.
        (("linkerd2", "linkerd-viz"), ["give back", "roll back"]),
        (("linkerd2", "linkerd-crds", "linkerd-viz"), ["give back", "roll back"]),
        (("linkerd2", *SPLIT), ["unsplit", "give back", "roll back"]),
        (SPLIT, ["restore", "unsplit", "give back", "roll back"]),
    ],
)
def test_the_one_chart_comes_back_from_anywhere(
    old: RecordedRelease, present: tuple[str, ...], actions: list[str]
) -> None:
    upgrade = UpgradeRecord(source="a", target="b", started=NOW, releases=(VIZ, old))
    steps = way_back(upgrade, present)
    assert [step.action for step in steps] == actions
    assert {step.release for step in steps if step.action != "roll back"} == {old}
    assert steps[-1].release == VIZ


def test_two_charts_are_rolled_back_in_order_and_crds_stay() -> None:
    releases = tuple(map(release, ("linkerd-viz", "linkerd-crds", "linkerd-control-plane")))
    upgrade = UpgradeRecord(source="a", target="b", started=NOW, releases=releases)
    steps = way_back(upgrade, SPLIT)
    assert [(s.action, s.part) for s in steps] == [
        ("roll back", "linkerd-control-plane"),
        ("roll back", "linkerd-viz"),
    ]


# The records, on a real API server


def config_map(name: str, namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
    }


def crd(name: str) -> Object:
    plural, _, group = name.partition(".")
    kind = plural.capitalize()
    schema = {"openAPIV3Schema": {"type": "object"}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": plural[:-1], "kind": kind},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def owner_of(cluster: Cluster, obj: Object) -> tuple[str, str] | None:
    metadata = obj["metadata"]
    found = cluster.get(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace"))
    assert found is not None, metadata["name"]
    notes: dict[str, Any] = found["metadata"].get("annotations") or {}
    name = notes.get(RELEASE_NAME)
    return (name, notes[RELEASE_NAMESPACE]) if name else None


def test_a_split_that_had_ended_is_undone(cluster: Cluster, namespace: str) -> None:
    """For a release with another name, which owns its record, objects and CRDs again."""
    owner = ("mesh-prod", namespace)
    stays, left = crd(f"stays.{namespace}.example"), crd(f"lefts.{namespace}.example")
    identity = config_map("identity", namespace)
    objects = [stays, left, identity]
    for obj in objects:
        obj["metadata"]["annotations"] = {RELEASE_NAME: owner[0], RELEASE_NAMESPACE: owner[1]}
        cluster.apply(obj)
    texts = [(str(obj).replace("'", '"'), obj) for obj in objects]
    chart = {"metadata": {"name": "linkerd2", "version": "2.11.5"}, "values": {}}
    config = {"controllerLogLevel": "debug"}
    content: dict[str, Any] = {"chart": chart, "config": config}
    source = Revision(
        *owner, 4, "deployed", "linkerd2", "2.11.5", "", config, {}, tuple(texts), content
    )
    create(cluster, record(source, *owner, [text for text, _ in texts], NOW))
    before = deployed(cluster, *owner)
    assert before is not None
    try:
        split = decide_split(before, [stays["metadata"]["name"]], cluster.api_versions())
        take_over(cluster, before, split, namespace, NOW)
        finish(cluster, before, split)
        assert not revisions(cluster, *owner)
        assert owner_of(cluster, left) is None
        assert owner_of(cluster, identity) == ("linkerd-control-plane", namespace)

        # Twice, because the run may die in between.
        for _ in range(2):
            restore(cluster, owner, [left["metadata"]["name"]], namespace, NOW)
            give_back(cluster, owner, namespace)

        assert {owner_of(cluster, obj) for obj in objects} == {owner}
        after = deployed(cluster, *owner)
        assert after is not None
        assert (after.chart, after.chart_version, after.values) == ("linkerd2", "2.11.5", config)
        assert {obj["metadata"]["name"] for obj in after.manifest} == {
            stays["metadata"]["name"],
            "identity",
        }
        for name in ("linkerd-crds", "linkerd-control-plane"):
            assert not revisions(cluster, name, namespace)

        # With nothing to go back to it raises an error instead of going half the way.
        cluster.delete("v1", "Secret", "sh.helm.release.v1.mesh-prod.v1", namespace)
        with pytest.raises(ReleaseError, match="to finish the upgrade"):
            restore(cluster, owner, [], namespace, NOW)
    finally:
        for obj in (stays, left):
            cluster.delete("apiextensions.k8s.io/v1", obj["kind"], obj["metadata"]["name"])
