"""The API server's time, from a recent answer or by a request for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from prefect_linkerd.mesh.kubernetes import client
from tests.support.api_server import ApiServer, admin

PODS = "/api/v1/namespaces/app/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/app/deployments"
PATHS = ("/version", PODS, DEPLOYMENTS, admin("api-1"))


@pytest.fixture
def server() -> ApiServer:
    server = ApiServer()
    server.answers = {path: lambda _: (200, "{}") for path in PATHS}
    server.answers["/apis/tap.linkerd.io/v1alpha1"] = lambda _: (200, "{}")
    return server


def is_now(moment: datetime) -> bool:
    return -1 < (datetime.now(UTC) - moment).total_seconds() < 3


def test_an_answer_that_has_just_come_says_what_time_it_is(server: ApiServer) -> None:
    cluster = server.cluster
    cluster.request("GET", PODS)
    assert is_now(cluster.clock())
    assert cluster.clock().microsecond == 0
    assert server.asked == [PODS]


def test_so_does_that_of_another_group_of_its_own(server: ApiServer) -> None:
    cluster = server.cluster
    cluster.request("GET", DEPLOYMENTS)
    assert is_now(cluster.clock())
    assert server.asked == [DEPLOYMENTS]


def test_an_older_one_does_not(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = server.cluster
    cluster.request("GET", PODS)
    monkeypatch.setattr(client, "DATED_SECONDS", 0.0)
    assert is_now(cluster.clock())
    assert server.asked == [PODS, "/version"]


def test_nor_does_one_from_before_this_machine_slept(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monotonic clock stands still during sleep."""
    cluster = server.cluster
    cluster.request("GET", PODS)
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + 3600)
    cluster.clock()
    assert server.asked == [PODS, "/version"]


@pytest.mark.parametrize("seconds", [3, -3])
def test_nor_does_one_from_before_this_machines_clock_was_set(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    cluster = server.cluster
    cluster.request("GET", PODS)
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + seconds)
    cluster.clock()
    assert server.asked == [PODS, "/version"]


@pytest.mark.parametrize("path", [admin("api-1"), "/apis/tap.linkerd.io/v1alpha1"])
def test_what_answers_behind_the_api_server_has_another_clock(server: ApiServer, path: str) -> None:
    cluster = server.cluster
    cluster.request("GET", path)
    assert is_now(cluster.clock())
    assert server.asked == [path, "/version"]
