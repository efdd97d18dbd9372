"""The API server reports changes as they happen; without permission to watch, callers poll."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from prefect_linkerd.mesh.kubernetes.client import Cluster
from tests.support.api_server import ApiServer
from tests.support.workloads import deployment

GROUP = "/apis/apps/v1"
DEPLOYMENTS = f"{GROUP}/namespaces/app/deployments"


def event(kind: str, name: str) -> str:
    return json.dumps({"type": kind, "object": {"metadata": {"name": name}}}) + "\n"


@pytest.fixture
def server() -> ApiServer:
    resource = {"kind": "Deployment", "name": "deployments", "namespaced": True, "verbs": []}
    server = ApiServer()
    server.answers[GROUP] = lambda _: (200, json.dumps({"resources": [resource]}))
    return server


def names(cluster: Cluster) -> list[str]:
    found = cluster.watch("apps/v1", "Deployment", "app", "7", 5)
    return [obj["metadata"]["name"] for obj in found]


def test_what_changes_is_told_and_what_is_deleted_is_not(server: ApiServer) -> None:
    asked: list[dict[str, Any]] = []

    def answer(query: dict[str, list[str]]) -> tuple[int, str]:
        asked.append(query)
        kinds = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "MODIFIED")
        return 200, "".join(event(kind, f"{n}-{kind}") for n, kind in enumerate(kinds))

    server.answers[DEPLOYMENTS] = answer
    assert names(server.cluster) == ["0-ADDED", "1-MODIFIED", "4-MODIFIED"]
    assert asked == [{"watch": ["true"], "resourceVersion": ["7"], "timeoutSeconds": ["5"]}]


@pytest.mark.parametrize(
    "text", ["", event("ADDED", "web") + "{", json.dumps({"type": "ERROR", "object": {}}) + "\n"]
)
def test_a_watch_that_breaks_off_just_ends(server: ApiServer, text: str) -> None:
    server.answers[DEPLOYMENTS] = lambda _: (200, text)
    assert names(server.cluster) in ([], ["web"])


def test_who_may_not_watch_asks_once(server: ApiServer) -> None:
    server.answers[DEPLOYMENTS] = lambda _: (403, "{}")
    cluster = server.cluster
    assert names(cluster) == names(cluster) == []
    assert server.asked.count(DEPLOYMENTS) == 1


def test_a_change_is_told_at_once(cluster: Cluster, namespace: str) -> None:
    cluster.create(deployment("web", namespace))
    _, version = cluster.list_to_watch("apps/v1", "Deployment", namespace)
    patch = {"metadata": {"annotations": {"tests/changed": "yes"}}}
    change = threading.Timer(
        1, lambda: cluster.merge("apps/v1", "Deployment", "web", namespace, patch)
    )
    change.start()
    begin = time.monotonic()
    found = cluster.watch("apps/v1", "Deployment", namespace, version, 60)
    changed = (obj for obj in found if "tests/changed" in obj["metadata"].get("annotations", {}))
    assert next(changed)["kind"] == "Deployment"
    assert time.monotonic() - begin < 30
    change.join()
