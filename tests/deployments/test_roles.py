"""The files of deployments/rbac/, applied together by Kustomize."""

from __future__ import annotations

from collections import Counter

import yaml

from prefect_linkerd.deployments.roles import FOLDER
from prefect_linkerd.mesh.kubernetes.client import name_of


def test_the_kustomization_can_be_applied_to_any_cluster() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    # Its roles are in an application's namespace, which may not exist.
    left_out = {"smoke_test.yaml", "kustomization.yaml"}
    assert {*listed} == {path.name for path in FOLDER.iterdir()} - left_out
    objects = [obj for name in listed for obj in yaml.safe_load_all((FOLDER / name).read_text())]
    twice = [name for name, count in Counter(map(name_of, objects)).items() if count > 1]
    assert not twice
    there = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Namespace"}
    # The user creates the flows' own namespace.
    places = {obj["metadata"].get("namespace") for obj in objects} - {None, "prefect"}
    assert places <= there | {"kube-system"}
