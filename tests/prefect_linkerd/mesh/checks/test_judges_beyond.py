"""The judges of our own checks, over handmade snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.checks.certificates import issuance_lifetime
from prefect_linkerd.mesh.checks.check import CheckResult
from prefect_linkerd.mesh.checks.webhooks import not_served
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError, ChartError
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.client import DesiredRelease
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.helm.safety_values import UnsafeValue
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.selector import matches
from prefect_linkerd.mesh.linkerd.facts import FIRST_EDGES, release_facts
from prefect_linkerd.mesh.linkerd.skew import skew_problem
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.planning.desired import differing_keys
from prefect_linkerd.mesh.snapshot.mesh import Certificates, Snapshot, WorkloadState, pod_of
from prefect_linkerd.mesh.snapshot.proxy_metrics import (
    Prometheus,
    ProxyMetrics,
    ProxySample,
    Responses,
)
from prefect_linkerd.mesh.snapshot.webhooks import WebhookSigner, webhooks_of
from tests.support.certificates import NOW, YEAR, Made, make
from tests.support.snapshots import empty_snapshot

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
ROOT = make(ends=10 * YEAR)


def judge(snapshot: Snapshot, id: str) -> CheckResult:  # noqa: A002 it is linkerd's word
    (check,) = [c for category in CATEGORIES for c in category.checks if c.id == id]
    return check.run(snapshot)


def texts(result: CheckResult) -> str:
    return "\n".join(map(str, result.problems))


def pod(
    name: str = "web-1",
    *,
    bundle: str = "",
    image: str = "cr.l5d.io/linkerd/proxy:stable-2.14.10",
    owner: str = "web",
    namespace: str = "app",
    meshed: bool = True,
    ready: bool = True,
    annotations: Mapping[str, str] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> Any:
    proxy = {
        "name": "linkerd-proxy",
        "image": image,
        "env": [{"name": "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "value": bundle}],
    }
    labels = {"pod-template-hash": "abc", "app": owner}
    if meshed:
        labels["linkerd.io/control-plane-ns"] = "linkerd"
    return pod_of(
        {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": name,
                "labels": labels,
                "annotations": dict(annotations or {}),
                "ownerReferences": [
                    {"kind": "ReplicaSet", "name": f"{owner}-abc", "controller": True}
                ],
            },
            "spec": {
                "containers": [
                    {"name": "app", "ports": [{"name": "http", "containerPort": 80}]},
                    *([proxy] if meshed else []),
                ],
                **(spec or {}),
            },
            "status": {
                "phase": "Running",
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True" if ready else "False",
                        "reason": "ContainersNotReady",
                        "message": "app",
                    }
                ],
            },
        }
    )


def issuer(made: Made) -> dict[str, Certificates]:
    found = Certificates("kubernetes.io/tls", frozenset({"tls.crt"}), made.pem, ROOT.pem, True)
    return {"linkerd/linkerd-identity-issuer": found}


# Certificates


def test_the_trust_bundle_is_held_against_the_issuer() -> None:
    other = make("root.linkerd.other")
    made = make("identity", signer=ROOT)
    snapshot = empty_snapshot(trust_bundle=other.pem + ROOT.pem, secrets=issuer(made))
    assert judge(snapshot, "pl-trust-bundle").outcome == "success"

    result = judge(snapshot.changed(trust_bundle=other.pem), "pl-trust-bundle")
    assert result.outcome == "error"
    (problem,) = result.problems
    assert problem.subject == "ConfigMap/linkerd/linkerd-identity-trust-roots"
    assert "it holds root.linkerd.other (" in problem.message
    assert "signed by CN=root.linkerd.cluster.local" in problem.message
    assert "which is ca.crt of Secret/linkerd/linkerd-identity-issuer" in problem.remedy

    empty = judge(snapshot.changed(trust_bundle=""), "pl-trust-bundle")
    assert "it holds no anchor" in texts(empty)
    unknown = issuer(make("identity", signer=make("nobody's")))
    lost = judge(snapshot.changed(secrets=unknown), "pl-trust-bundle")
    assert "rotate_anchor with recover" in texts(lost)
    trusted = ROOT.pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE")
    unread = judge(snapshot.changed(trust_bundle=trusted), "pl-trust-bundle")
    assert "BEGIN TRUSTED CERTIFICATE" in texts(unread)
    assert "openssl x509" in texts(unread)


def test_the_trust_bundle_of_an_issuer_with_an_intermediate_is_the_upper_ones() -> None:
    middle = make("middle", signer=ROOT)
    made = make("identity", signer=middle)
    chain = Certificates(
        "kubernetes.io/tls", frozenset({"tls.crt"}), made.pem + middle.pem, ROOT.pem, True
    )
    secrets = {"linkerd/linkerd-identity-issuer": chain}
    snapshot = empty_snapshot(trust_bundle=ROOT.pem, secrets=secrets)
    assert judge(snapshot, "pl-trust-bundle").outcome == "success"


@given(lived=st.integers(1, 4000), left=st.integers(-100, 4000))
def test_an_anchor_is_reported_within_30_days_or_the_last_third(lived: int, left: int) -> None:
    # Certificates count whole seconds, so stay a minute off the exact boundary.
    life = timedelta(days=lived + left, minutes=1)
    if life <= timedelta():
        return
    anchor = make(starts=-lived * DAY, ends=left * DAY + timedelta(minutes=1))
    result = judge(empty_snapshot(trust_bundle=anchor.pem), "pl-anchor-days-left")
    is_late = left * DAY + timedelta(minutes=1) < min(30 * DAY, life / 3)
    assert result.outcome == ("warning" if is_late else "success")


def test_an_expired_webhook_ca_is_replaced_where_it_is() -> None:
    """rotate_webhooks renews nothing where cert-manager signs with a CA that a person made."""
    host, key = "tap.linkerd-viz.svc", "linkerd-viz/tap-k8s-tls"
    authority = make("webhook", starts=-2 * DAY, ends=-HOUR)
    own = make(host, signer=authority, dns_names=(host,), is_ca=False)
    secret = Certificates("", frozenset({"tls.crt", "tls.key"}), own.pem, authority.pem, True)
    (webhook,) = (each for _, each in webhooks_of(MeshConfig()) if key.endswith(f"/{each.secret}"))
    by_chart = WebhookSigner("linkerd-viz", webhook, "")
    manual = replace(by_chart, certificate="tap", signing="linkerd-viz/ca")
    kept = replace(manual, keeper="ca")
    for signer, says in (
        (manual, "Put another CA into Secret/linkerd-viz/ca"),
        (kept, "if cert-manager manages it, look at"),
    ):
        snapshot = empty_snapshot(secrets={key: secret}, webhook_signers=(signer,))
        (problem,) = not_served(snapshot, "linkerd-viz", "tap-k8s-tls", authority.pem, host)
        assert says in problem.remedy
        assert judge(snapshot, "pl-webhook-ca-days-left").outcome == (
            "warning" if signer is manual else "success"
        )


def test_an_issuer_that_cert_manager_keeps_is_judged_by_its_renewal() -> None:
    short = make("identity", signer=ROOT, starts=-40 * HOUR, ends=8 * HOUR)
    snapshot = empty_snapshot(trust_bundle=ROOT.pem, secrets=issuer(short))
    ending = "l5d-identity-issuer-cert-not-expiring-soon"
    assert judge(snapshot, "pl-issuer-days-left").outcome == "warning"
    assert judge(snapshot, ending).outcome == "warning"
    kept = {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": "identity", "namespace": "linkerd", "generation": 1},
        "spec": {"secretName": "linkerd-identity-issuer"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "renewalTime": (NOW + HOUR).isoformat(),
        },
    }
    in_time = snapshot.changed(certificates=(kept,))
    for id in ("pl-issuer-days-left", "pl-certificate-renewal", "pl-certificate-ready", ending):  # noqa: A001
        assert judge(in_time, id).outcome == "success"
    other = snapshot.changed(
        certificates=({**kept, "metadata": {**kept["metadata"], "namespace": "other"}},)
    )
    assert judge(other, ending).outcome == "warning"
    late = in_time.changed(now=NOW + 2 * HOUR)
    assert judge(late, "pl-certificate-renewal").outcome == "warning"
    assert judge(late, ending).outcome == "warning"
    kept["status"]["conditions"] = [
        {"type": "Ready", "status": "False", "reason": "DoesNotExist", "message": "no issuer"}
    ]
    assert judge(in_time, ending).outcome == "warning"
    refused = judge(late, "pl-certificate-ready")
    assert refused.outcome == "error"
    assert "DoesNotExist: no issuer" in texts(refused)


@given(hours=st.floats(0.1, 100), lifetime=st.integers(1, 72))
def test_leaves_are_cut_short_by_the_end_of_their_issuer(hours: float, lifetime: int) -> None:
    made = make("identity", signer=ROOT, ends=timedelta(seconds=int(hours * 3600)))
    values = {"identity": {"issuer": {"issuanceLifetime": f"{lifetime}h0m0s"}}}
    snapshot = empty_snapshot(
        trust_bundle=ROOT.pem, secrets=issuer(made), control_plane_values=values
    )
    result = judge(snapshot, "pl-leaf-lifetime")
    is_cut = int(hours * 3600) < lifetime * 3600
    assert result.outcome == ("warning" if is_cut else "success")


@pytest.mark.parametrize(
    ("text", "hours"),
    [("1h30m", 1.5), ("5400s", 1.5), ("90000ms", 0.025), ("", 24), ("soon", 24), ("24", 24)],
)
def test_a_lifetime_is_read_as_go_reads_it(text: str, hours: float) -> None:
    """An invalid duration means the default, as in linkerd2 `controller/cmd/identity/main.go`."""
    values = {"identity": {"issuer": {"issuanceLifetime": text}}}
    snapshot = empty_snapshot(control_plane_values=values)
    assert issuance_lifetime(snapshot) == timedelta(hours=hours)


def test_leaves_are_cut_short_by_the_end_of_the_anchor() -> None:
    anchor = make(ends=5 * HOUR)
    made = make("identity", signer=anchor, ends=YEAR)
    snapshot = empty_snapshot(trust_bundle=anchor.pem, secrets=issuer(made))
    found = texts(judge(snapshot, "pl-leaf-lifetime"))
    assert "gets 5.0 h instead of 24.0 h, as its trust anchor expires" in found
    assert "ConfigMap/linkerd/linkerd-identity-trust-roots" in found


# Proxies


def test_bundles_are_compared_by_certificates_and_reported_by_workload() -> None:
    old, new = make("old"), ROOT
    reordered = f"\n{old.pem.strip()}\n\n{new.pem}"
    snapshot = empty_snapshot(
        trust_bundle=new.pem + old.pem,
        secrets=issuer(make("identity", signer=new)),
        pods=(
            pod("same", bundle=reordered, owner="same"),
            pod("a-1", bundle=old.pem, owner="a"),
            pod("a-2", bundle=old.pem, owner="a"),
            pod("b-1", bundle=new.pem + old.pem + make("odd").pem, owner="b"),
        ),
    )
    found = judge(snapshot, "pl-proxy-trust-bundle")
    assert [problem.subject for problem in found.problems] == [
        "Deployment/app/a",
        "Deployment/app/b",
    ]
    assert "2 proxies are without root.linkerd.cluster.local" in texts(found)
    assert "1 proxy is with odd" in texts(found)
    lacking = judge(snapshot, "pl-proxy-trusts-issuer")
    assert [problem.subject for problem in lacking.problems] == ["Deployment/app/a"]


@given(st.permutations(range(4)))
def test_the_order_of_a_bundle_says_nothing(order: list[int]) -> None:
    anchors = [ANCHORS[index].pem for index in order]
    snapshot = empty_snapshot(
        trust_bundle="".join(made.pem for made in ANCHORS),
        pods=(pod(bundle="\n".join(anchors)),),
    )
    assert judge(snapshot, "pl-proxy-trust-bundle").outcome == "success"


ANCHORS = [make(f"anchor {number}") for number in range(4)]

STABLE = st.tuples(st.just(2), st.integers(11, 14), st.integers(0, 10))
EDGE = st.tuples(st.integers(24, 27), st.integers(1, 12), st.integers(1, 5))
VERSIONS = st.one_of(
    STABLE.map(lambda numbers: LinkerdVersion("stable", numbers)),
    EDGE.map(lambda numbers: LinkerdVersion("edge", numbers)),
)


@given(VERSIONS, VERSIONS)
def test_a_control_plane_supports_the_version_before_its_own(
    control_plane: LinkerdVersion, proxy: LinkerdVersion
) -> None:
    ahead = release_facts(control_plane).series - release_facts(proxy).series
    assert (skew_problem(control_plane, proxy) is None) == (ahead in (0, 1))


@given(VERSIONS)
def test_a_version_supports_itself(version: LinkerdVersion) -> None:
    assert skew_problem(version, version) is None


def test_the_edges_of_each_version_are_in_order() -> None:
    assert list(FIRST_EDGES) == sorted(FIRST_EDGES)
    assert list(FIRST_EDGES.values()) == sorted(FIRST_EDGES.values())
    assert release_facts(LinkerdVersion.parse("edge-24.11.8")).series == 17
    assert release_facts(LinkerdVersion.parse("edge-25.4.3")).series == 17
    assert release_facts(LinkerdVersion.parse("edge-26.8.3")).series == 20


def test_old_proxies_are_reported_by_workload_and_unknown_ones_left_alone() -> None:
    image = "cr.l5d.io/linkerd/proxy:"
    snapshot = empty_snapshot(
        control_plane_values={"linkerdVersion": "stable-2.14.10"},
        pods=(
            pod("a-1", image=image + "stable-2.12.6", owner="a"),
            pod("a-2", image=image + "stable-2.12.6", owner="a"),
            pod("b-1", image=image + "stable-2.13.7", owner="b"),
            pod("c-1", image=image + "git-1234", owner="c"),
        ),
    )
    found = judge(snapshot, "pl-proxy-skew")
    assert [problem.subject for problem in found.problems] == ["Deployment/app/a"]
    assert "2 proxies are of version stable-2.12.6" in texts(found)


# Workloads


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "warning"),
        ({"annotations": {"linkerd.io/inject": "disabled"}}, "success"),
        ({"spec": {"hostNetwork": True}}, "success"),
        ({"meshed": True}, "success"),
    ],
)
def test_a_pod_without_a_proxy_is_one_that_the_injector_would_take(
    changes: dict[str, Any], outcome: str
) -> None:
    namespace = {"metadata": {"name": "app", "annotations": {"linkerd.io/inject": "enabled"}}}
    bare = pod(**({"meshed": False} | changes))
    snapshot = empty_snapshot(namespaces={"app": namespace}, pods=(bare,))
    assert judge(snapshot, "pl-workload-meshed").outcome == outcome


REFUSED = (
    'pods "web-x" is forbidden: violates PodSecurity "restricted:latest": unrestricted '
    'capabilities (container "linkerd-init" must not include "NET_ADMIN", "NET_RAW")'
)


def state(kind: str = "Deployment", **changes: Any) -> WorkloadState:
    nothing: dict[str, str] = {}
    found = WorkloadState(
        kind, "app", "web", nothing, nothing, nothing, 2, 0, False, "", host_network=False
    )
    return replace(found, **changes)


@pytest.mark.parametrize("inject", ["enabled", "disabled"])
def test_pods_that_admission_refuses_are_told_in_its_own_words(inject: str) -> None:
    """The old pods keep running without a proxy, so their number says nothing."""
    namespace = {"metadata": {"name": "app", "annotations": {"linkerd.io/inject": inject}}}
    old = (pod("web-1", meshed=False), pod("web-2", meshed=False))
    for workload, refusals in (
        (state(refusal=REFUSED), {}),
        (state("StatefulSet"), {Workload("StatefulSet", "app", "web"): REFUSED}),
        (state("DaemonSet"), {Workload("DaemonSet", "app", "web"): REFUSED}),
    ):
        snapshot = empty_snapshot(
            namespaces={"app": namespace}, pods=old, workloads=(workload,), refusals=refusals
        )
        found = judge(snapshot, "pl-workload-pods")
        assert found.outcome == ("warning" if inject == "enabled" else "success")
        if inject == "enabled":
            assert REFUSED in texts(found)
            assert "cniEnabled" in found.problems[0].remedy
            meshed = judge(snapshot, "pl-workload-meshed")
            assert ("Restart it" in texts(meshed)) == (workload.kind != "Deployment")
    # Events outlive the problem that they report.
    snapshot = empty_snapshot(
        namespaces={"app": namespace},
        pods=(replace(old[0], owner=Workload("StatefulSet", "app", "web")),) * 2,
        workloads=(state("StatefulSet"),),
        refusals={Workload("StatefulSet", "app", "web"): REFUSED},
    )
    assert judge(snapshot, "pl-workload-pods").outcome == "success"


def test_pods_with_udp_ports_are_not_injected() -> None:
    namespace = {"metadata": {"name": "app", "annotations": {"linkerd.io/inject": "enabled"}}}
    ports = [{"containerPort": 53, "protocol": "UDP"}]
    bare = pod(meshed=False, spec={"containers": [{"name": "dns", "ports": ports}]})
    snapshot = empty_snapshot(namespaces={"app": namespace}, pods=(bare,))
    assert judge(snapshot, "pl-workload-meshed").outcome == "success"


def test_the_webhook_s_selector_counts() -> None:
    namespace = {
        "metadata": {
            "name": "app",
            "labels": {"config.linkerd.io/admission-webhooks": "disabled"},
            "annotations": {"linkerd.io/inject": "enabled"},
        }
    }
    expression = {
        "key": "config.linkerd.io/admission-webhooks",
        "operator": "NotIn",
        "values": ["disabled"],
    }
    webhook = {"namespaceSelector": {"matchExpressions": [expression]}}
    snapshot = empty_snapshot(
        namespaces={"app": namespace},
        pods=(pod(meshed=False),),
        mutating_webhooks={"linkerd-proxy-injector-webhook-config": {"webhooks": [webhook]}},
    )
    assert judge(snapshot, "pl-workload-meshed").outcome == "success"


def test_pods_that_are_not_ready_are_reported_with_their_reason() -> None:
    snapshot = empty_snapshot(
        pods=(
            pod("a-1", ready=False),
            pod("a-2", ready=False),
            pod("elsewhere", ready=False, meshed=False),
        )
    )
    found = judge(snapshot, "pl-pod-ready")
    assert texts(found).startswith(
        "Deployment/app/web: 2 pods are not ready: a-1: ContainersNotReady: app."
    )
    assert len(found.problems) == 1


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"))
EXPRESSION = st.builds(
    lambda key, operator, values: {"key": key, "operator": operator, "values": values},
    st.sampled_from("abc"),
    st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    st.lists(st.sampled_from("xyz"), min_size=1),
)


@given(LABELS, EXPRESSION)
def test_an_expression_and_its_opposite_never_agree(
    labels: dict[str, str], expression: dict[str, Any]
) -> None:
    opposite = {
        "In": "NotIn",
        "NotIn": "In",
        "Exists": "DoesNotExist",
        "DoesNotExist": "Exists",
    }[expression["operator"]]
    one = matches({"matchExpressions": [expression]}, labels)
    other = matches({"matchExpressions": [expression | {"operator": opposite}]}, labels)
    assert one != other


@given(LABELS, LABELS)
def test_labels_are_matched_where_they_are_among_an_object_s(
    wanted: dict[str, str], labels: dict[str, str]
) -> None:
    assert matches({"matchLabels": wanted}, labels) == (wanted.items() <= labels.items())
    assert matches({}, labels)


# Releases

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["x", "y"])),
    lambda below: st.dictionaries(st.sampled_from("abcd"), below, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)


@given(MAPPINGS, MAPPINGS)
def test_values_differ_where_a_key_is_named(have: dict[str, Any], want: dict[str, Any]) -> None:
    keys = differing_keys(have, want)
    assert (keys == []) == (have == want)
    assert keys == differing_keys(want, have)


def test_differing_values_are_named_and_never_shown() -> None:
    have = {"a": {"password": "secret-one", "b": 1}, "same": [1]}
    want = {"a": {"password": "secret-two", "b": 1}, "same": [1], "new": True}
    assert differing_keys(have, want) == ["a.password", "new"]


def test_without_charts_there_is_nothing_to_compare_with() -> None:
    error = ChartError("charts", expected="an index", found="nothing", remedy="Wait.")
    snapshot = empty_snapshot(unread={"wanted": error})
    for id in ("pl-release-exists", "pl-release-chart", "pl-release-values"):  # noqa: A001
        result = judge(snapshot, id)
        assert result.outcome == "skipped"
        assert "nothing to compare with" in result.reason


PLANE = Chart("linkerd-control-plane", "1.12.7", "stable-2.13.7", "", "here", Path("x"))
CRDS = Chart("linkerd-crds", "1.6.1", "", "", "here", Path("x"))


def test_an_extra_value_that_contradicts_the_mesh_is_named_where_it_stands() -> None:
    unsafe = UnsafeValue("identityTrustAnchorsPEM", "values file a.yaml, line 3", "x", "y", "Go.")
    wanted = DesiredRelease(PLANE.name, "linkerd", PLANE, {}, unsafe=(unsafe,))
    found = judge(empty_snapshot(wanted=(wanted,)), "pl-release-values")
    assert texts(found).startswith("values file a.yaml, line 3: identityTrustAnchorsPEM is x")
    assert found.problems[0].remedy == "Go."


@pytest.mark.parametrize(("installed", "outcome"), [("1.8.0", "success"), ("1.4.0", "warning")])
def test_newer_crds_under_an_older_control_plane_are_well(installed: str, outcome: str) -> None:
    release = Release(CRDS.name, "linkerd", CRDS.name, installed, "", 2, "deployed", NOW, {})
    snapshot = empty_snapshot(
        wanted=(DesiredRelease(CRDS.name, "linkerd", CRDS, {}),), releases=(release,)
    )
    assert judge(snapshot, "pl-release-chart").outcome == outcome


# Policies and ingresses


def obj(kind: str, spec: dict[str, Any], name: str = "one", namespace: str = "app") -> Object:
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def server(port: int | str) -> Object:
    return obj("Server", {"podSelector": {"matchLabels": {"app": "web"}}, "port": port})


def with_policies(group: str, kind: str, *objects: Object, pods: Iterable[Any] = ()) -> Snapshot:
    return empty_snapshot(policies={(group, kind): objects}, pods=tuple(pods))


@pytest.mark.parametrize(
    ("port", "pods", "text"),
    [
        ("http", [pod()], None),
        (81, [pod()], None),
        ("grpc", [pod()], "has a port grpc"),
        ("http", [], "matches no pod"),
        ("http", [pod(meshed=False)], "has a proxy to enforce it"),
    ],
)
def test_a_server_selects_a_port_of_a_meshed_pod(
    port: int | str, pods: list[Any], text: str | None
) -> None:
    snapshot = with_policies("policy.linkerd.io", "Server", server(port), pods=pods)
    found = judge(snapshot, "pl-server-selects")
    assert (text is None) == (found.outcome == "success")
    assert text is None or text in texts(found)


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({"prometheus": {"enabled": False}, "prometheusUrl": "http://own:9090"}, "success"),
        ({"prometheus": {"enabled": True}}, "warning"),
        ({}, "warning"),
    ],
)
def test_a_chart_s_server_for_a_part_that_is_turned_off_selects_nothing_rightly(
    values: dict[str, Any], outcome: str
) -> None:
    found = server("admin")
    found["metadata"] = {
        "name": "prometheus-admin",
        "namespace": "linkerd-viz",
        "labels": {"linkerd.io/extension": "viz"},
    }
    found["spec"]["podSelector"]["matchLabels"] = {"component": "prometheus"}
    release = Release(
        "other-name", "linkerd-viz", "linkerd-viz", "1", "", 1, "deployed", NOW, values
    )
    viz = {"metadata": {"labels": {"linkerd.io/extension": "viz"}}}
    snapshot = with_policies("policy.linkerd.io", "Server", found).changed(
        releases=(release,), namespaces={"linkerd-viz": viz}
    )
    assert judge(snapshot, "pl-server-selects").outcome == outcome
    # The same label on a Server outside viz excuses nothing.
    found["metadata"]["namespace"] = "app"
    assert judge(snapshot, "pl-server-selects").outcome == "warning"


@pytest.mark.parametrize("is_annotated", [True, False])
def test_a_prometheus_elsewhere_is_known_by_the_values_or_the_namespace(
    is_annotated: bool,
) -> None:
    url = {"viz.linkerd.io/external-prometheus": "http://own:9090"} if is_annotated else {}
    metadata = {"labels": {"linkerd.io/extension": "viz"}, "annotations": url}
    values = {"prometheus": {"enabled": False}, "prometheusUrl": "http://own:9090"}
    release = Release("viz", "linkerd-viz", "linkerd-viz", "1", "", 1, "deployed", NOW, values)
    snapshot = empty_snapshot(
        namespaces={"linkerd-viz": {"metadata": metadata}},
        releases=() if is_annotated else (release,),
        prometheus=Prometheus("silent", "404"),
    )
    for id in ("l5d-viz-prometheus", "l5d-viz-metrics-api", "l5d-data-plane-prom"):  # noqa: A001
        assert judge(snapshot, id).outcome == "skipped"


def test_routes_of_gateways_are_none_of_the_mesh_s() -> None:
    route = obj("HTTPRoute", {"parentRefs": [{"name": "gateway"}], "rules": []})
    snapshot = with_policies("gateway.networking.k8s.io", "HTTPRoute", route)
    assert judge(snapshot, "pl-route-parent").outcome == "success"
    route["spec"]["parentRefs"] = [{"group": "", "kind": "Service", "name": "gone"}]
    assert "Service/app/gone does not exist" in texts(judge(snapshot, "pl-route-parent"))


# Metrics


def metrics(left: timedelta | None = YEAR, succeeded: float = 0, failed: float = 0) -> ProxyMetrics:
    return ProxyMetrics(Responses(succeeded, failed), None if left is None else NOW + left)


def sample(**answers: ProxyMetrics) -> ProxySample:
    keys = {f"app/{name}": one for name, one in answers.items()}
    return ProxySample(answers=keys, workloads=dict.fromkeys(keys, "Deployment/app/web"))


@pytest.mark.parametrize(
    ("left", "valid", "renewed"),
    [
        (20 * HOUR, "success", "success"),
        (4 * HOUR, "success", "warning"),
        (-HOUR, "error", "success"),
        (None, "error", "success"),
    ],
)
def test_identities_are_judged_by_what_they_have_left(
    left: timedelta | None, valid: str, renewed: str
) -> None:
    snapshot = empty_snapshot(proxy_sample=sample(a=metrics(left)))
    assert judge(snapshot, "pl-proxy-identity-valid").outcome == valid
    assert judge(snapshot, "pl-proxy-identity-renewed").outcome == renewed


def test_success_rates_come_from_prometheus_where_it_answers() -> None:
    bad = {"Deployment/app/web": Responses(80.0, 20.0), "Deployment/app/few": Responses(0.0, 5.0)}
    snapshot = empty_snapshot(
        proxy_sample=sample(a=metrics(succeeded=1000)),
        prometheus=Prometheus("answers", responses=bad),
    )
    found = judge(snapshot, "pl-proxy-success-rate")
    assert texts(found).startswith("Deployment/app/web: 80.0% of 100 responses were successes in")
    assert len(found.problems) == 1
    without = snapshot.changed(prometheus=Prometheus("refuses"))
    assert judge(without, "pl-proxy-success-rate").outcome == "success"


def test_where_pods_do_not_run_nothing_is_asked_of_them() -> None:
    node = {
        "metadata": {"name": "n", "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "status": {},
    }
    silent = ProxySample(silent={"app/a": "503"})
    simulated = empty_snapshot(nodes=(node,), proxy_sample=silent)
    assert judge(simulated, "pl-proxy-identity-valid").reason == "pods do not run here"
    real = simulated.changed(nodes=(NODE, node))
    assert "no proxy's admin port answers" in judge(real, "pl-proxy-identity-valid").reason


NODE = {
    "metadata": {"name": "n"},
    "status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": {"containerRuntimeVersion": "containerd://2.1.4"},
    },
}
VIZ = {"viz": {"metadata": {"name": "viz", "labels": {"linkerd.io/extension": "viz"}}}}


@pytest.mark.parametrize(
    ("prometheus", "outcome"),
    [
        (Prometheus("answers", pods=frozenset({"web-1"})), "success"),
        (Prometheus("answers"), "warning"),
        (Prometheus("silent", "503"), "warning"),
        (Prometheus("refuses"), "skipped"),
        (Prometheus("external", "https://prometheus.example.com"), "skipped"),
        (None, "skipped"),
    ],
)
def test_metrics_of_the_data_plane_are_those_in_prometheus(
    prometheus: Prometheus | None, outcome: str
) -> None:
    snapshot = empty_snapshot(namespaces=VIZ, nodes=(NODE,), pods=(pod(),), prometheus=prometheus)
    assert judge(snapshot, "l5d-data-plane-prom").outcome == outcome


def test_a_prometheus_that_does_not_answer_is_linkerd_s_own_error() -> None:
    snapshot = empty_snapshot(namespaces=VIZ, nodes=(NODE,), prometheus=Prometheus("silent", "503"))
    assert judge(snapshot, "l5d-viz-metrics-api").outcome == "error"


def test_an_extension_that_nobody_wants_is_skipped() -> None:
    config = MeshConfig.model_validate({"viz": {"enabled": False}})
    assert judge(empty_snapshot(config=config), "l5d-viz-ns-exists").outcome == "skipped"
    assert judge(empty_snapshot(config=config), "l5d-jaeger-ns-exists").outcome == "skipped"
    assert judge(empty_snapshot(), "l5d-viz-ns-exists").outcome == "error"


def test_a_part_that_cannot_be_read_is_an_error_and_no_pass() -> None:
    denied = ApiError("Secret list", expected="an answer", found="403", remedy="Grant it.")
    snapshot = empty_snapshot(unread={"secrets": denied, "certificates": denied, "pods": denied})
    for id in (  # noqa: A001
        "pl-issuer-days-left",
        "pl-certificate-ready",
        "pl-workload-meshed",
        "pl-pod-ready",
        "pl-proxy-skew",
    ):
        result = judge(snapshot, id)
        assert result.outcome == "error"
        assert result.is_broken
