"""The subtle judges of linkerd's checks, over handmade snapshots."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.checks.check import CheckResult
from prefect_linkerd.mesh.checks.data_plane import OPAQUE_PORTS, opaque_mismatch
from prefect_linkerd.mesh.checks.existence import component_of, contains, includes, parse_network
from prefect_linkerd.mesh.checks.identity import chains
from prefect_linkerd.mesh.checks.preflight import PREFLIGHT
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ChartError, InvalidInput
from prefect_linkerd.mesh.helm.charts import ChartCatalog, Entry, newest_release
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.permissions import Permission
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.spans import Versions
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.pki.certificates import (
    CertificateInfo,
    read_certificates,
    unsupported_crypto,
)
from prefect_linkerd.mesh.snapshot.mesh import (
    Pod,
    Service,
    ServicePort,
    Snapshot,
    pod_of,
    pod_status,
)
from tests.support.certificates import NOW, Made, make
from tests.support.snapshots import empty_snapshot

STABLE, EDGE = LinkerdVersion.parse("stable-2.14.10"), LinkerdVersion.parse("edge-26.8.3")


def judge(snapshot: Snapshot, id: str, description: str = "") -> CheckResult:  # noqa: A002
    """The result of the check with this id; its description tells several apart."""
    found = [
        check
        for category in CATEGORIES
        for check in category.checks
        if check.id == id and description in check.description
    ]
    return found[0].run(snapshot)


def test_every_check_has_a_name() -> None:
    checks = [check for category in (*CATEGORIES, *PREFLIGHT) for check in category.checks]
    assert [check.id for check in checks if not check.judge.__name__.strip("_")] == []


def pod(
    name: str = "web-1",
    *,
    image: str = "cr.l5d.io/linkerd/proxy:stable-2.14.10",
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    ports: list[dict[str, Any]] | None = None,
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> Pod:
    containers = [
        {"name": "app", "image": "example.com/app:1", "ports": ports or []},
        {"name": "linkerd-proxy", "image": image, "env": []},
    ]
    ready = [{"name": c["name"], "ready": True, "state": {"running": {}}} for c in containers]
    return pod_of(
        {
            "metadata": {
                "name": name,
                "namespace": "app",
                "labels": {"linkerd.io/control-plane-ns": "linkerd"} | (labels or {}),
                "annotations": annotations or {},
            },
            "spec": {"containers": containers, **spec},
            "status": {"phase": "Running", "containerStatuses": ready} | (status or {}),
        }
    )


def service(*ports: ServicePort, annotations: dict[str, str] | None = None) -> Service:
    return Service(
        namespace="app",
        name="web",
        type="ClusterIP",
        cluster_ip="10.96.0.7",
        labels={},
        annotations=annotations or {},
        selector={"app": "web"},
        ports=ports,
        has_address=True,
    )


# Opaque ports

HTTP = {"name": "http", "containerPort": 8080}
BY_NUMBER = ServicePort("web", 80, 8080)
BY_NAME = ServicePort("web", 80, "http")

OPAQUE: dict[str, tuple[ServicePort, str | None, str | None, str]] = {
    "nothing is opaque": (BY_NUMBER, None, None, ""),
    "both are, by number": (BY_NUMBER, "80", "8080", ""),
    "both are, by name": (BY_NAME, "80", "8080", ""),
    "the Service alone, by number": (BY_NUMBER, "80", None, "port 8080 of Pod/app/web-1 is not"),
    "the Service alone, by name": (BY_NAME, "80", "9090", "port 8080 of Pod/app/web-1 is not"),
    "the pod alone, by number": (BY_NUMBER, None, "8080", "its port 80 is not opaque"),
    "the pod alone, by name": (BY_NAME, None, "8080", "its port 80 is not opaque"),
    "the pod's port is not the Service's": (BY_NUMBER, None, "9090", ""),
    "the Service's port is none of its own": (BY_NUMBER, "443", None, ""),
    "the Service's port is the pod's number": (BY_NUMBER, "8080", "8080", ""),
    "a range on the Service": (BY_NUMBER, "80-90", None, "'80-90' in its annotation is not a port"),
    "a range on the pod": (BY_NUMBER, None, "80-90", "'80-90' in the annotation of Pod/app/web-1"),
    "an empty annotation": (BY_NUMBER, "", None, "'' in its annotation is not a port"),
}


@pytest.mark.parametrize(
    ("port", "on_service", "on_pod", "found"), OPAQUE.values(), ids=OPAQUE.keys()
)
def test_opaque_ports(
    port: ServicePort, on_service: str | None, on_pod: str | None, found: str
) -> None:
    def annotation(text: str | None) -> dict[str, str]:
        return {} if text is None else {OPAQUE_PORTS: text}

    text = opaque_mismatch(
        service(port, annotations=annotation(on_service)),
        pod(annotations=annotation(on_pod), ports=[HTTP]),
    )
    assert (found in text) if found else text == ""


@given(st.sets(st.integers(1, 65535), max_size=4), st.booleans())
def test_what_is_opaque_on_both_sides_never_differs(numbers: set[int], by_name: bool) -> None:
    names = {number: f"p{number}" for number in numbers}
    ports = [ServicePort(names[n], n, names[n] if by_name else n) for n in sorted(numbers)]
    opaque = {OPAQUE_PORTS: ",".join(map(str, sorted(numbers)))} if numbers else {}
    containers = [{"name": names[n], "containerPort": n} for n in sorted(numbers)]
    assert not opaque_mismatch(
        service(*ports, annotations=opaque), pod(annotations=opaque, ports=containers)
    )


def test_only_ready_pods_behind_a_service_with_an_address_count() -> None:
    web = service(BY_NUMBER, annotations={OPAQUE_PORTS: "80"})
    parts: dict[str, Any] = {"services": (web,), "pods": (pod(ports=[HTTP]),)}
    id_ = "linkerd-opaque-ports-definition"
    behind = {"app/web": frozenset({"web-1"})}
    assert judge(empty_snapshot(**parts, endpoints=behind), id_).outcome == "warning"
    assert judge(empty_snapshot(**parts), id_).outcome == "success"
    parts["services"] = (replace(web, cluster_ip="None"),)
    assert judge(empty_snapshot(**parts, endpoints=behind), id_).outcome == "success"


# Labels that should be annotations


@pytest.mark.parametrize(
    ("label", "outcome"),
    [
        ("linkerd.io/inject", "warning"),
        ("config.linkerd.io/proxy-cpu-limit", "warning"),
        ("config.alpha.linkerd.io/proxy-wait-before-exit-seconds", "warning"),
        ("linkerd.io/workload-ns", "success"),
        ("app", "success"),
    ],
)
def test_a_label_that_does_nothing(label: str, outcome: str) -> None:
    labelled = pod(labels={label: "x"})
    result = judge(empty_snapshot(pods=(labelled,)), "l5d-data-plane-pod-labels")
    assert result.outcome == outcome
    web = replace(service(), labels={label: "x"})
    result = judge(empty_snapshot(services=(web,)), "l5d-data-plane-services-labels")
    assert result.outcome == outcome


# Networks

NETWORKS = st.builds(
    lambda address, length: ipaddress.ip_network((address, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


@given(NETWORKS, NETWORKS)
def test_a_network_holds_another_as_it_holds_its_ends(
    one: ipaddress.IPv4Network, other: ipaddress.IPv4Network
) -> None:
    holds = other[0] in one and other[-1] in one
    assert contains(one, other) == holds
    assert includes([one], str(other[0])) == (other[0] in one)


def test_networks_of_two_families_live_side_by_side() -> None:
    networks = [parse_network("10.0.0.0/8"), parse_network("fd00::/8")]
    assert includes(networks, "fd00::7")
    assert not includes(networks, "192.0.2.1")
    assert not includes(networks, "no address")
    assert not contains(networks[0], networks[1])


@pytest.mark.parametrize("text", ["", "10.0.0.0", " 10.0.0.0/8x", "10.0.0.0/33"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="clusterNetworks"):
        parse_network(text)


def test_pods_of_the_host_and_without_an_address_have_no_network() -> None:
    outside = {"phase": "Running", "podIP": "192.0.2.1"}
    pods = (
        pod("inside", status={"podIP": "10.1.2.3"}),
        pod("host", status=outside, hostNetwork=True),
        pod("waiting", status={"podIP": ""}),
        pod("outside", status=outside),
    )
    values = {"clusterNetworks": "10.0.0.0/8,fd00::/8"}
    result = judge(
        empty_snapshot(pods=pods, control_plane_values=values), "l5d-cluster-networks-pods", "pods"
    )
    assert [problem.subject for problem in result.problems] == ["Pod/app/outside"]


# Versions


@pytest.mark.parametrize(
    ("version", "minimum"),
    [
        ("stable-2.11.5", (1, 17)),
        ("stable-2.12.0", (1, 21)),
        ("stable-2.14.10", (1, 21)),
        ("edge-23.1.1", (1, 21)),
        ("edge-23.12.2", (1, 22)),
        ("edge-25.4.4", (1, 23)),
        ("edge-26.8.3", (1, 31)),
    ],
)
def test_the_oldest_kubernetes(version: str, minimum: tuple[int, int]) -> None:
    assert release_facts(LinkerdVersion.parse(version)).minimum_kubernetes == minimum
    major, minor = minimum
    for text, outcome in (
        (f"v{major}.{minor}.0", "success"),
        (f"v{major}.{minor - 1}.9-gke.7", "error"),
        ("unknown", "error"),
    ):
        snapshot = empty_snapshot(config=MeshConfig(version=version), kubernetes=text)
        assert judge(snapshot, "k8s-version").outcome == outcome


def test_versions_of_checks() -> None:
    ended = Versions(until=(2, 14), before_edge=(24, 3, 4))
    assert STABLE in ended
    assert LinkerdVersion.parse("edge-24.3.3") in ended
    assert LinkerdVersion.parse("edge-24.3.4") not in ended
    begun = Versions(edge_only=True, since_edge=(26, 7, 1))
    assert (STABLE in begun, EDGE in begun) == (False, True)
    assert LinkerdVersion.parse("edge-26.6.9") not in begun
    assert EDGE not in Versions(until=(2, 11))
    assert str(ended) == "2.11 to 2.14, edges before 24.3.4"
    assert str(begun) == "edge-26.7.1 and newer"


@pytest.mark.parametrize(
    ("version", "outcome", "text"),
    [
        ("stable-2.14.10", "success", ""),
        ("stable-2.14.9", "warning", "the newest is stable-2.14.10"),
        ("edge-26.8.3", "warning", "another channel"),
    ],
)
def test_the_newest_of_the_channel(version: str, outcome: str, text: str) -> None:
    result = judge(
        empty_snapshot(config=MeshConfig(version=version), newest=STABLE), "l5d-version-cli"
    )
    assert result.outcome == outcome
    assert text in "".join(map(str, result.problems))


def test_a_chart_source_that_cannot_be_reached_is_one_warning() -> None:
    away = ChartError("https://charts", expected="an index", found="nothing", remedy="Check it.")
    snapshot = empty_snapshot(unread={"newest": away}, pods=(pod(),))
    assert judge(snapshot, "l5d-version-latest").outcome == "warning"
    for id_ in ("l5d-version-cli", "l5d-data-plane-version"):
        assert judge(snapshot, id_).outcome == "skipped"


def test_the_newest_release_is_of_the_channel_and_has_a_name() -> None:
    names = ("stable-2.14.9", "stable-2.14.10", "edge-26.8.3", "dev-undefined", "", "stable-2.9.1")
    entries = [Entry("1", name, "") for name in names]
    assert newest_release(entries, "linkerd-control-plane", "stable") == STABLE
    assert newest_release(entries, "linkerd-control-plane", "edge") == EDGE
    assert newest_release(entries[3:], "linkerd-control-plane", "edge") is None


@pytest.mark.real_charts
@pytest.mark.parametrize(("version", "newest"), [("stable-2.11.5", STABLE), ("edge-25.4.4", EDGE)])
def test_the_newest_release_of_a_repository(
    charts_dir: Path, version: str, newest: LinkerdVersion
) -> None:
    config = MeshConfig(version=version, charts={"mirror": charts_dir})
    assert ChartCatalog(config).newest_linkerd() == newest


def test_proxies_of_another_version_and_those_that_do_not_say() -> None:
    image = "cr.l5d.io/linkerd/proxy"
    pods = (
        pod("same"),
        pod("older", image=f"{image}:stable-2.14.9"),
        pod("by-digest", image=f"{image}:stable-2.14.9@sha256:0"),
        pod(
            "over", image=f"{image}:stable-2.14.9", status={"phase": "Failed", "reason": "Evicted"}
        ),
    )
    config = MeshConfig(version="stable-2.14.10")
    result = judge(
        empty_snapshot(config=config, pods=pods, newest=STABLE), "l5d-data-plane-cli-version"
    )
    assert [problem.subject for problem in result.problems] == ["Pod/app/older"]


# The CRDs of each version, against the real charts


@pytest.mark.real_charts
@pytest.mark.parametrize(
    "version",
    ["stable-2.12.6", "stable-2.13.7", "stable-2.14.10", "edge-25.4.4", "edge-26.8.3"],
)
def test_expected_crds_are_those_of_the_chart(
    version: str, charts_dir: Path, helm_path: str, cluster: Cluster
) -> None:
    config = MeshConfig(version=version, charts={"mirror": charts_dir})
    chart = ChartCatalog(config).find("linkerd-crds")
    values = {"installGatewayAPI": False} if "installGatewayAPI" in chart.defaults else {}
    facts = ClusterFacts(cluster.version(), cluster.api_versions())
    rendered = Helm(cluster, helm_path).render(chart, "linkerd-crds", "linkerd", values, facts)
    assert release_facts(config.linkerd).crds == {
        obj["metadata"]["name"]: obj["spec"]["versions"][-1]["name"] for obj in rendered
    }


# Pods


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"phase": "Running"}, "Running"),
        ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]},
            "ErrImagePull",
        ),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}, "ExitCode:3"),
        ({"containerStatuses": [{"state": {"terminated": {"signal": 9}}}]}, "Signal:9"),
        (
            {
                "containerStatuses": [
                    {"ready": True, "state": {"running": {}}},
                    {"state": {"terminated": {"reason": "Completed"}}},
                ]
            },
            "Running",
        ),
        ({"initContainerStatuses": [{"state": {"running": {}}}]}, "Init:0/1"),
        (
            {"initContainerStatuses": [{"state": {"terminated": {"exitCode": 1}}}]},
            "Init:ExitCode:1",
        ),
        (
            {"initContainerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
            "Init:CrashLoopBackOff",
        ),
        (
            {"initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}}]},
            "Running",
        ),
    ],
)
def test_the_status_of_a_pod_is_kubectls(status: dict[str, Any], text: str) -> None:
    for key in ("initContainerStatuses", "containerStatuses"):
        status[key] = [{"name": "a"} | each for each in status.get(key, [])]
    obj = {"spec": {"initContainers": [{"name": "a"}]}, "status": {"phase": "Running"} | status}
    assert pod_status(obj) == text


def test_a_native_sidecar_that_runs_does_not_keep_a_pod_from_running() -> None:
    sidecar = {"name": "linkerd-proxy", "restartPolicy": "Always"}
    running = {"name": "linkerd-proxy", "started": True, "ready": True, "state": {"running": {}}}
    obj = {
        "spec": {"initContainers": [sidecar]},
        "status": {"phase": "Running", "initContainerStatuses": [running]},
    }
    assert pod_status(obj) == "Running"
    running["ready"] = False
    assert pod_status(obj) == "Init:0/1"


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("linkerd-identity-5d8f-x2x9k", "identity"),
        ("linkerd-proxy-injector-5d8f-x2x9k", "proxy-injector"),
        ("linkerd-heartbeat-28", ""),
        ("other-identity-5d8f-x2x9k", ""),
    ],
)
def test_the_component_of_a_control_plane_pod(name: str, component: str) -> None:
    assert component_of(replace(pod(), name=name)) == component


def test_one_ready_pod_of_a_component_is_enough() -> None:
    def of(component: str, number: int, ready: bool) -> Pod:
        made = pod(f"linkerd-{component}-5d8f-{number}", labels={COMPONENT: component})
        containers = tuple(replace(c, ready=ready) for c in made.containers)
        return replace(made, namespace="linkerd", containers=containers)

    others = [of(component, 1, True) for component in ("destination", "proxy-injector")]
    half = (*others, of("identity", 1, False), of("identity", 2, True))
    assert judge(empty_snapshot(pods=half), "l5d-api-control-ready").outcome == "success"
    for pods in ((*others, of("identity", 1, False)), others):
        result = judge(empty_snapshot(pods=tuple(pods)), "l5d-api-control-ready")
        assert [problem.subject for problem in result.problems] == [
            "Deployment/linkerd/linkerd-identity"
        ]


COMPONENT = "linkerd.io/control-plane-component"


# Certificates


def info(made: Made) -> CertificateInfo:
    return read_certificates(made.pem, "test")[0]


def test_a_chain_holds_only_by_certificates_that_are_valid_now() -> None:
    root, day = make(), timedelta(days=1)
    middle = make(signer=root, path_length=0)
    leaf = make(signer=middle, is_ca=False)
    chain = [info(leaf), info(middle)]
    assert chains(chain, [info(root)], NOW, "leaf")
    assert chains([info(root)], [info(root)], NOW, "root")
    assert not chains(chain[:1], [info(root)], NOW, "leaf")
    assert not chains(chain, [info(make())], NOW, "leaf")
    assert not chains(chain, [info(root)], NOW + 400 * day, "leaf")
    assert not chains(chain, [info(root)], NOW - 2 * day, "leaf")


@pytest.mark.parametrize(
    ("key", "signature", "version", "is_anchor", "is_supported"),
    [
        ("ECDSA P-256", "ECDSA SHA-256", "stable-2.11.5", True, True),
        ("ECDSA P-256", "RSA SHA-256", "stable-2.14.10", False, True),
        ("ECDSA P-256", "RSA SHA-256", "stable-2.11.5", False, False),
        ("ECDSA P-256", "ECDSA SHA-384", "edge-26.8.3", False, False),
        ("ECDSA secp384r1", "ECDSA SHA-256", "edge-26.8.3", True, False),
        ("RSA 2048", "RSA SHA-256", "stable-2.14.10", True, True),
        ("RSA 4096", "RSA SHA-256", "edge-26.8.3", True, True),
        ("RSA 3072", "RSA SHA-256", "edge-26.8.3", True, False),
        ("RSA 2048", "RSA SHA-256", "stable-2.11.5", True, False),
        ("RSA 2048", "RSA SHA-256", "stable-2.14.10", False, False),
        ("Ed25519", "Ed25519", "edge-26.8.3", True, False),
    ],
)
def test_supported_crypto(
    key: str, signature: str, version: str, is_anchor: bool, is_supported: bool
) -> None:
    certificate = replace(info(make()), key=key, signature=signature)
    wrong = unsupported_crypto(certificate, LinkerdVersion.parse(version), is_anchor=is_anchor)
    assert (wrong is None) == is_supported


# Before an installation


def node(name: str, *, seconds: float, ready: str = "True") -> dict[str, Any]:
    heartbeat = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    condition = {"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat}
    return {"metadata": {"name": name}, "spec": {}, "status": {"conditions": [condition]}}


def test_a_clock_is_skewed_beyond_the_pause_between_two_heartbeats() -> None:
    nodes = (
        node("fresh", seconds=1),
        node("late", seconds=309),
        node("behind", seconds=311),
        node("ahead", seconds=-311),
        node("away", seconds=9999, ready="Unknown"),
    )
    result = judge(empty_snapshot(nodes=nodes), "pre-k8s-clock-skew")
    assert result.outcome == "warning"
    assert [problem.subject for problem in result.problems] == ["Node/behind", "Node/ahead"]


def test_each_permission_is_told_by_its_check() -> None:
    denied = (
        Permission("create", "clusterroles", "rbac.authorization.k8s.io"),
        Permission("create", "services", "", "linkerd"),
        Permission("create", "secrets", "", "linkerd-viz"),
        Permission("delete", "deployments", "apps", "linkerd"),
    )
    snapshot = empty_snapshot(denied=denied)
    assert judge(snapshot, "pre-k8s-cluster-k8s").outcome == "error"
    assert judge(snapshot, "pre-k8s", "can create Services").outcome == "error"
    for description in ("can create Secrets", "can create Deployments", "can read Secrets"):
        assert judge(snapshot, "pre-k8s", description).outcome == "success"
    assert judge(empty_snapshot(denied=None), "pre-k8s-cluster-k8s").outcome == "skipped"
