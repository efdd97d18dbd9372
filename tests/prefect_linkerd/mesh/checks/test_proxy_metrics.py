"""What proxies and viz's Prometheus report, over real HTTP through the API server's proxy."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.snapshot.proxy_metrics import (
    Responses,
    choose_sample,
    parse_proxy_metrics,
    read_prometheus,
    read_proxy_metrics,
)
from tests.prefect_linkerd.mesh.checks.test_judges_beyond import pod
from tests.support.api_server import Answer, ApiServer, admin
from tests.support.installed import InstalledMesh, on

ENDS = 1_795_620_542.646

# As linkerd2-proxy writes them: first the metrics of its own registry, then the older ones.
PROXY = f"""\
# HELP control_identity_cert_expiration_timestamp_seconds Time when this proxy's current mTLS \
identity certificate will expire (in seconds since the UNIX epoch).
# TYPE control_identity_cert_expiration_timestamp_seconds gauge
# UNIT control_identity_cert_expiration_timestamp_seconds seconds
control_identity_cert_expiration_timestamp_seconds {ENDS}
# HELP control_identity_cert_refreshes The total number of times this proxy's mTLS identity \
certificate has been refreshed by the Identity provider.
# TYPE control_identity_cert_refreshes counter
control_identity_cert_refreshes_total{{result="ok"}} 3
control_identity_cert_refreshes_total{{result="error"}} 0
# EOF
# HELP response_total Total count of HTTP responses.
# TYPE response_total counter
response_total{{direction="inbound",target_addr="10.0.0.7:8080",target_ip="10.0.0.7",\
srv_name="default:all-unauthenticated",tls="true",client_id="web.app.serviceaccount.identity.\
linkerd.cluster.local",status_code="200",classification="success",grpc_status="",error=""}} 90
response_total{{direction="inbound",target_addr="10.0.0.7:8080",tls="true",status_code="503",\
classification="failure",grpc_status="",error="unexpected"}} 10
response_total{{direction="outbound",authority="books.app:7002",status_code="500",\
classification="failure",grpc_status="",error=""}} 1000
"""
OLDER = PROXY.replace("control_identity", "identity")

FORBIDDEN = {
    "kind": "Status",
    "message": 'pods "web-1:4191" is forbidden: User "viewer" cannot get resource "pods/proxy"',
}


@pytest.fixture
def api() -> Iterator[ApiServer]:
    server = ApiServer()
    yield server
    server.server.shutdown()
    server.server.server_close()


QUERY = "/api/v1/namespaces/linkerd-viz/services/http:prometheus:9090/proxy/api/v1/query"


# The text


@pytest.mark.parametrize("text", [PROXY, OLDER])
def test_metrics_of_old_and_new_proxies_are_read(text: str) -> None:
    said = parse_proxy_metrics(text)
    assert said.responses == Responses(90, 10)
    assert said.responses.success_rate == pytest.approx(0.9)
    assert said.identity_ends == datetime.fromtimestamp(ENDS, UTC)


def test_a_proxy_without_traffic_or_certificate_has_no_rate() -> None:
    said = parse_proxy_metrics("identity_cert_expiration_timestamp_seconds 0\n")
    assert said.identity_ends is None
    assert said.responses.success_rate is None


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 10**6)), max_size=20))
def test_inbound_responses_add_up(lines: list[tuple[bool, bool, int]]) -> None:
    text = "# TYPE response_total counter\n" + "".join(
        f'response_total{{direction="{"inbound" if inbound else "outbound"}",n="{number}",'
        f'classification="{"success" if good else "failure"}"}} {count}\n'
        for number, (inbound, good, count) in enumerate(lines)
    )
    said = parse_proxy_metrics(text).responses
    assert said.succeeded == sum(count for inbound, good, count in lines if inbound and good)
    assert said.failed == sum(count for inbound, good, count in lines if inbound and not good)


# The sample


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 9)), unique=True), st.data())
def test_a_sample_has_every_workload_before_a_second_pod_of_one(
    pairs: list[tuple[str, int]], data: st.DataObject
) -> None:
    limit = data.draw(st.integers(0, 12))
    pods = [pod(f"{owner}-{number}", owner=owner) for owner, number in pairs]
    chosen = choose_sample(pods, limit)
    assert len(chosen) == min(limit, len(pods))
    owners = [one.owner for one in chosen]
    workloads = {one.owner for one in pods}
    assert len(set(owners)) == min(limit, len(workloads))
    assert chosen == choose_sample(reversed(pods), limit)


# The requests


def test_every_proxy_is_asked_once_and_those_that_are_silent_are_named(api: ApiServer) -> None:
    api.answers[admin("web-1")] = lambda _: (200, PROXY)
    api.answers[admin("web-2")] = lambda _: (200, "<html>{this is no metric")
    api.answers[admin("web-3")] = lambda _: (403, "")
    pods = [pod(f"web-{number}") for number in (1, 2, 3, 4)]
    sample = read_proxy_metrics(api.cluster, pods)
    assert sorted(api.asked) == [admin(f"web-{number}") for number in (1, 2, 3, 4)]
    assert list(sample.answers) == ["app/web-1"]
    assert sample.answers["app/web-1"].responses.total == 100
    assert set(sample.silent) == {"app/web-2", "app/web-3", "app/web-4"}
    assert "cannot be read" in sample.silent["app/web-2"]
    assert sample.silent["app/web-4"] == "503 no endpoints"
    assert set(sample.workloads.values()) == {"Deployment/app/web"}


def test_a_proxy_that_does_not_answer_in_time_is_silent(api: ApiServer) -> None:
    over = threading.Event()
    api.answers[admin("web-1")] = lambda _: (200, str(over.wait(30)))
    sample = read_proxy_metrics(api.cluster, [pod("web-1")], timeout=0.2)
    over.set()
    assert set(sample.silent) == {"app/web-1"}


def test_a_missing_permission_is_an_error_and_no_silence(api: ApiServer) -> None:
    api.answers[admin("web-1")] = lambda _: (403, json.dumps(FORBIDDEN))
    with pytest.raises(ApiError, match="pods/proxy"):
        read_proxy_metrics(api.cluster, [pod("web-1")])
    api.answers[QUERY] = lambda _: (403, json.dumps(FORBIDDEN))
    with pytest.raises(ApiError, match="forbidden"):
        read_prometheus(api.cluster, "linkerd-viz", "")


def _vector(*series: tuple[dict[str, str], float]) -> str:
    result = [{"metric": labels, "value": [1.0, str(value)]} for labels, value in series]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})


def test_prometheus_says_which_pods_it_knows_and_how_workloads_fare(api: ApiServer) -> None:
    def answer(query: dict[str, list[str]]) -> Answer:
        (text,) = query["query"]
        if text.startswith("max(process_start_time_seconds)"):
            return 200, _vector(({"pod": "web-1", "namespace": "app"}, 1.0))
        web = {"namespace": "app", "deployment": "web"}
        return 200, _vector(
            (web | {"classification": "success"}, 75.0),
            (web | {"classification": "failure"}, 25.0),
            ({"namespace": "app", "statefulset": "db", "classification": "success"}, 5.0),
            ({"namespace": "app", "classification": "success"}, 7.0),
        )

    api.answers[QUERY] = answer
    said = read_prometheus(api.cluster, "linkerd-viz", "")
    assert said.state == "answers"
    assert said.pods == {"web-1"}
    assert said.responses == {
        "Deployment/app/web": Responses(75.0, 25.0),
        "StatefulSet/app/db": Responses(5.0, 0.0),
    }
    assert api.asked == [QUERY, QUERY]


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ((403, ""), "refuses"),
        ((503, "no endpoints"), "silent"),
        ((200, "<html>"), "silent"),
        ((200, '{"status": "error"}'), "silent"),
    ],
)
def test_a_prometheus_that_gives_no_answer_says_why(
    api: ApiServer, answer: Answer, state: str
) -> None:
    api.answers[QUERY] = lambda _: answer
    said = read_prometheus(api.cluster, "linkerd-viz", "")
    assert said.state == state
    assert said.detail


def test_a_prometheus_elsewhere_is_not_asked(api: ApiServer) -> None:
    said = read_prometheus(api.cluster, "linkerd-viz", "https://prometheus.example.com")
    assert said.state == "external"
    assert api.asked == []


@pytest.mark.parametrize("mesh", [on("stable-2.14.10"), on("edge-26.8.3")], indirect=True)
def test_the_admin_ports_of_a_mesh_answer_through_its_api_server(mesh: InstalledMesh) -> None:
    sample = mesh.read().proxy_sample
    deadline = time.monotonic() + 60
    while sample.silent and time.monotonic() < deadline:
        sample = mesh.read().proxy_sample
    assert not sample.silent
    assert len(sample.answers) == 10
    assert len(set(sample.workloads.values())) == 10
    now = datetime.now(UTC)
    for said in sample.answers.values():
        assert said.identity_ends is not None
        assert 0 < (said.identity_ends - now).total_seconds() <= 24 * 3600 + 60
