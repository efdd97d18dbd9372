"""Reading proxies before and after a batch, over real HTTP from stand-ins on 127.0.0.1."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from prefect_linkerd.mesh.errors import TrafficDropped
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.snapshot.mesh import Pod, pod_of
from prefect_linkerd.mesh.snapshot.proxy_metrics import Responses
from prefect_linkerd.mesh.traffic.counters import (
    Counters,
    Reading,
    growth,
    parse_counters,
    read_counters,
    since_start,
)
from prefect_linkerd.mesh.traffic.judgement import Measured, Stream
from prefect_linkerd.mesh.traffic.page import traffic_markdown
from prefect_linkerd.mesh.traffic.watch import BatchTraffic, TrafficWatch
from tests.support.api_server import Answer, ApiServer, admin
from tests.support.traffic import counted

WEB, API = "Deployment/app/web", "Deployment/app/api"
TO_API = {"dst_deployment": "api", "dst_namespace": "app", "dst_pod": "api-1", "tls": "true"}
BY_WEB = {"client_id": "web.app.serviceaccount.identity.linkerd.cluster.local", "tls": "true"}
FORBIDDEN = json.dumps(
    {"message": 'pods "api-1:4191" is forbidden: User "runner" cannot get resource "pods/proxy"'}
)


def pod_object(name: str) -> dict[str, Any]:
    workload = name.split("-")[0]
    return {
        "metadata": {
            "namespace": "app",
            "name": name,
            "uid": name,
            "labels": {"linkerd.io/control-plane-ns": "linkerd", "pod-template-hash": "h"},
            "ownerReferences": [
                {"kind": "ReplicaSet", "name": f"{workload}-h", "controller": True}
            ],
        },
        "spec": {
            "serviceAccountName": workload,
            "containers": [{"name": "linkerd-proxy", "image": "example.com/proxy:1"}],
        },
        "status": {"phase": "Running"},
    }


def pod(name: str) -> Pod:
    return pod_of(pod_object(name))


@dataclass
class Proxy:
    """A proxy that has answered for `age` seconds; `to_api` is whether it calls the API."""

    rate: float = 400.0
    failing: float = 0.0
    age: float = 600.0
    to_api: bool = False
    labels: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        self.since = time.monotonic() - self.age

    def __call__(self, _query: Mapping[str, list[str]]) -> Answer:
        requests = (time.monotonic() - self.since) * self.rate
        good, bad = requests * (1 - self.failing), requests * self.failing
        text = "# TYPE response_total counter\n"
        if self.to_api:
            text += counted(good, bad, direction="outbound", labels=TO_API)
            return 200, text + counted(requests, 0)
        return 200, text + counted(good, bad, labels=self.labels)


class Mesh(ApiServer):
    """Pods of namespace app behind an API server; `run` sets their proxies."""

    def __init__(self) -> None:
        super().__init__()
        kinds = [("Pod", "pods", True), ("Node", "nodes", False)]
        resources = [
            {"kind": kind, "name": name, "namespaced": inside, "verbs": ["list"]}
            for kind, name, inside in kinds
        ]
        self.answers["/api/v1"] = lambda _: (200, json.dumps({"resources": resources}))
        self.nodes("containerd://2.1.0")
        self.here: list[str] = []

    def nodes(self, runtime: str) -> None:
        node = {
            "metadata": {"name": "one"},
            "status": {"nodeInfo": {"containerRuntimeVersion": runtime}},
        }
        self._list("/api/v1/nodes", [node])

    def _list(self, path: str, items: list[Any]) -> None:
        answer = json.dumps({"metadata": {}, "items": items})
        self.answers[path] = lambda _: (200, answer)

    def run(self, **proxies: Any) -> tuple[Pod, ...]:
        """Replaces all pods; `api_1` becomes pod api-1."""
        names = [name.replace("_", "-") for name in proxies]
        self.answers.update(zip(map(admin, names), proxies.values(), strict=True))
        self._list("/api/v1/namespaces/app/pods", [pod_object(name) for name in names])
        return tuple(map(pod, names))

    def reads(self) -> int:
        return sum(path.endswith(":4191/proxy/metrics") for path in self.asked)


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    server = Mesh()
    yield server
    server.server.shutdown()
    server.server.server_close()


def watch_of(mesh: Mesh, **options: Any) -> TrafficWatch:
    return TrafficWatch(mesh.cluster, **{"max_drop": 1.0, "seconds": 1.0, **options})


# What proxies report


def test_counters_are_told_apart_by_direction_destination_and_client() -> None:
    said = parse_counters(
        "process_cpu_seconds_total 1\n# TYPE response_total counter\n"
        + counted(90, 10, labels=BY_WEB)
        + counted(500, 0, labels={"route_kind": "default", "route_name": "probe"})
        + counted(7, 3, direction="outbound", labels=TO_API)
        + counted(5, 0, direction="outbound", labels={"authority": "example.com"})
        + 'response_latency_ms_bucket{direction="inbound",le="1"} 8\n'
    )
    assert said.inbound == Responses(90, 10)
    assert said.outbound == {API: Responses(7, 3)}
    assert said.clients == {BY_WEB["client_id"]: 100}


def test_growth_is_what_was_added_whatever_started_meanwhile() -> None:
    pods = (pod("web-1"), pod("api-1"), pod("api-2"))
    judged = frozenset({API})

    def reading(at: float, web: Counters, *api: Responses) -> Reading:
        of_api = {f"api-{n}": Counters(one) for n, one in enumerate(api, 1)}
        return Reading(at, pods, {"web-1": web, **of_api})

    idle = Counters(Responses(1000, 7))
    calling = Counters(Responses(1010, 8), {API: Responses(9, 1), WEB: Responses(99)})
    first = reading(0.0, idle, Responses(500, 5), Responses(100))
    # The API's second proxy has restarted, with its counters at 0.
    second = reading(5.0, calling, Responses(530, 6), Responses(20, 1))
    assert growth(first, second, judged) == {
        Stream(API): Measured(50, 2, 5.0),
        Stream(WEB): Measured(10, 1, 5.0),
        Stream(API, WEB): Measured(9, 1, 5.0),
    }
    # A workload that only shares a caller's identity is not a caller.
    assert since_start(first, judged) == {Stream(API): Responses(600, 5)}


def test_reading_ends_in_time_with_what_was_answered(mesh: Mesh) -> None:
    over = threading.Event()
    pods = mesh.run(api_1=Proxy(), api_2=lambda _: (200, str(over.wait(30))))
    begin = time.monotonic()
    reading = read_counters(mesh.cluster, pods, limit=0.3)
    assert time.monotonic() - begin < 2
    over.set()
    assert list(reading.counters) == ["api-1"]
    assert len(reading.silent) == 1


# A batch


def test_a_batch_that_stays_well_is_shown_with_its_rates_and_does_not_stop(mesh: Mesh) -> None:
    watch = watch_of(mesh)
    watch.before([API], [API], mesh.run(api_1=Proxy(), api_2=Proxy()))
    mesh.run(api_3=Proxy(age=1), api_4=Proxy(age=1))
    row = watch.after()
    assert (row.note, row.drops) == ("", ())
    assert row.before.success == row.after.success == 1
    # Two pods at 400 requests a second each.
    assert row.before.rate == pytest.approx(800, rel=0.3)
    assert row.after.rate == pytest.approx(800, rel=0.3)
    assert "100% of" in str(row)
    assert f"| 1 |  | {API} | 100% of " in traffic_markdown("Mesh m", watch.rows)


def test_a_workload_that_answers_with_errors_after_its_restart_stops(mesh: Mesh) -> None:
    watch = watch_of(mesh)
    watch.before([API], [API], mesh.run(api_1=Proxy()))
    mesh.run(api_2=Proxy(age=1, failing=0.25))
    with pytest.raises(TrafficDropped) as stopped:
        watch.after()
    assert stopped.value.subject == API
    assert "drop by at most 1 percentage points" in stopped.value.expected
    counts = rf"{API}: 7[45](\.\d+)?% of \d+ requests .* a drop of 2[45]\.\d percentage points"
    assert re.search(counts, stopped.value.found)
    page = traffic_markdown("Mesh m", watch.rows)
    assert "**dropped**" in page
    assert re.search(counts, page)


def test_requests_that_never_arrive_are_seen_by_those_who_send_them(mesh: Mesh) -> None:
    """As after failing handshakes: the restarted proxy counts nothing."""
    web = Proxy(to_api=True)
    watch = watch_of(mesh)
    watch.before([API], [API], mesh.run(api_1=Proxy(labels=BY_WEB), web_1=web, db_1=Proxy()))
    assert admin("db-1") not in mesh.asked
    # The same proxy, but its requests fail from now on.
    broken = Proxy(age=0, failing=1.0, to_api=True)
    good = (time.monotonic() - web.since) * web.rate

    def says(_query: Any) -> Answer:
        bad = (time.monotonic() - broken.since) * broken.rate
        sent = counted(good, bad, direction="outbound", labels=TO_API)
        return 200, "# TYPE response_total counter\n" + sent + counted(good + bad, 0)

    mesh.run(api_2=Proxy(age=0, rate=0), web_1=says)
    with pytest.raises(TrafficDropped) as stopped:
        watch.after()
    assert f"{WEB} to {API}: 0% of " in stopped.value.found


def test_a_failure_that_passes_does_not_stop(mesh: Mesh) -> None:
    watch = watch_of(mesh)
    watch.before([API], [API], mesh.run(api_1=Proxy()))
    began = time.monotonic()

    def says(_query: Any) -> Answer:
        # Half of the first 0.8 seconds' requests fail, and none of the later ones.
        age = time.monotonic() - began
        bad = 200 * min(age, 0.8)
        return 200, "# TYPE response_total counter\n" + counted(400 * age - bad, bad)

    mesh.run(api_2=says)
    assert watch.after().drops == ()


def test_on_the_way_back_a_drop_is_shown_and_stops_nothing(mesh: Mesh) -> None:
    watch = watch_of(mesh, stops=False)
    watch.before([API], [API], mesh.run(api_1=Proxy()))
    mesh.run(api_2=Proxy(age=1, failing=0.5))
    (drop,) = watch.after().drops
    assert drop.points == pytest.approx(50, abs=1)


def test_the_next_batch_is_counted_in_the_seconds_after_this_one(mesh: Mesh) -> None:
    watch = watch_of(mesh, seconds=2.0)
    pods = mesh.run(api_1=Proxy(), web_1=Proxy())
    watch.before([API], [API], pods)
    watch.after([WEB])
    begin = time.monotonic()
    watch.before([WEB], [WEB], pods)
    assert time.monotonic() - begin < 1
    assert watch.after().before.rate == pytest.approx(400, rel=0.3)


# No traffic


def row_of(watch: TrafficWatch, pods: tuple[Pod, ...]) -> tuple[BatchTraffic, float]:
    begin = time.monotonic()
    watch.before([API], [API], pods)
    return watch.after(), time.monotonic() - begin


def test_a_batch_without_requests_is_not_waited_for(mesh: Mesh) -> None:
    watch = watch_of(mesh, seconds=60.0)
    row, seconds = row_of(watch, mesh.run(api_1=Proxy(rate=0)))
    assert row.note == "no traffic"
    assert seconds < 1
    # It has had requests, but none just now.
    row, seconds = row_of(watch, mesh.run(api_1=lambda _: (200, counted(1000, 0))))
    assert row.note == "no traffic just before it"
    assert seconds < 2


def test_proxies_that_do_not_answer_are_no_reason_to_stop_or_wait(mesh: Mesh) -> None:
    row, seconds = row_of(watch_of(mesh), mesh.run(api_1=lambda _: (503, "no endpoints")))
    assert row.note == "no traffic: no proxy answers (503 no endpoints)"
    assert seconds < 1


def test_without_the_permission_it_says_so_once_and_asks_no_more(mesh: Mesh) -> None:
    watch = watch_of(mesh)
    pods = mesh.run(api_1=lambda _: (403, FORBIDDEN))
    first, _ = row_of(watch, pods)
    assert "not judged, as the proxies may not be read" in first.note
    assert "pods/proxy" in first.note
    asked = mesh.reads()
    second, _ = row_of(watch, pods)
    assert second.note == "not judged"
    assert mesh.reads() == asked


def test_one_namespace_without_the_permission_leaves_the_others_judged(mesh: Mesh) -> None:
    watch = watch_of(mesh)
    (web,) = mesh.run(web_1=Proxy())
    closed = replace(
        web, namespace="closed", owner=Workload("Deployment", "closed", "web"), uid="closed"
    )
    mesh.answers[admin("web-1").replace("/app/", "/closed/")] = lambda _: (403, FORBIDDEN)
    for _ in range(2):
        judged = [WEB, "Deployment/closed/web"]
        watch.before(judged, judged, (web, closed))
        assert watch.after().before.total
    assert sum("/closed/pods/" in path for path in mesh.asked) == 1


def test_simulated_nodes_are_named_and_soon_not_asked(mesh: Mesh) -> None:
    mesh.nodes("kwok-v0.8.0")
    watch = watch_of(mesh)
    pods = mesh.run(api_1=Proxy(rate=0))
    rows = [row_of(watch, pods)[0] for _ in range(5)]
    assert {row.note for row in rows} == {"no traffic (simulated nodes)"}
    assert mesh.reads() == 3


def test_nothing_is_read_where_it_is_switched_off(mesh: Mesh) -> None:
    row, _ = row_of(watch_of(mesh, max_drop=None), mesh.run(api_1=Proxy()))
    assert row.note == "not watched"
    assert mesh.reads() == 0


def test_a_large_batch_costs_a_bounded_number_of_calls(mesh: Mesh) -> None:
    pods = mesh.run(**{f"app{n}_1": Proxy(rate=0) for n in range(60)})
    everybody = sorted({"/".join(one.owner) for one in pods if one.owner})
    watch = watch_of(mesh)
    watch.before(everybody, everybody, pods)
    watch.after()
    assert mesh.reads() == 20
