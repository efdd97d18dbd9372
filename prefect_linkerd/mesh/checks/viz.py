"""The viz extension: every check of `linkerd viz check --proxy`.

Linkerd queries Prometheus through viz's metrics API; these checks query Prometheus directly.
`l5d-data-plane-exists` is left out: it does nothing if all namespaces are checked, as here.
Source: linkerd2 `viz/pkg/healthcheck/healthcheck.go`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from prefect_linkerd.mesh.checks import pods
from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.checks.config import AGAIN
from prefect_linkerd.mesh.checks.extensions import missing_namespace, namespace_of
from prefect_linkerd.mesh.checks.versions import proxies_differ, proxies_outdated
from prefect_linkerd.mesh.checks.webhooks import ending, not_served
from prefect_linkerd.mesh.install.namespaces import EXTERNAL_PROMETHEUS
from prefect_linkerd.mesh.kubernetes.objects import Workload, condition_of
from prefect_linkerd.mesh.linkerd.spans import versions_where
from prefect_linkerd.mesh.snapshot.mesh import Snapshot
from prefect_linkerd.mesh.snapshot.proxy_metrics import Prometheus
from prefect_linkerd.mesh.snapshot.webhooks import decoded

TAP_API = "v1alpha1.tap.linkerd.io"
COMPONENTS = ("web", "tap", "metrics-api", "tap-injector")
TAP_SECRET = "tap-k8s-tls"  # noqa: S105 the name of an object

ROLES_ARE_WARNINGS = versions_where(lambda facts: not facts.viz_roles_are_errors)
ROLES_ARE_ERRORS = versions_where(lambda facts: facts.viz_roles_are_errors)
CLIENT_FIRST = versions_where(lambda facts: facts.viz_client_comes_first)
CLIENT_LATER = versions_where(lambda facts: not facts.viz_client_comes_first)

viz = Category[Snapshot]("linkerd-viz", "viz")
viz_data_plane = Category[Snapshot]("linkerd-viz-data-plane", "viz")


@viz.check("l5d-viz-ns-exists", "linkerd-viz Namespace exists", fatal=True)
def viz_ns_exists(snapshot: Snapshot) -> Problems:
    config = snapshot.config
    namespace, is_wanted = config.namespaces.viz, bool(config.viz.enabled)
    return missing_namespace(snapshot, "viz", namespace, is_wanted=is_wanted)


def _client(snapshot: Snapshot) -> Problems:
    namespace = namespace_of(snapshot, "viz")
    owner = Workload("Deployment", namespace, "metrics-api")
    if not any(p.owner == owner and p.phase == "Running" for p in snapshot.pods_in(namespace)):
        yield Problem(str(owner), "none of its pods is running", "Look at its pods' events.")


viz.check(
    "l5d-viz-existence-client", "can initialize the client", fatal=True, versions=CLIENT_FIRST
)(_client)


def _cluster_roles(snapshot: Snapshot) -> Problems:
    namespace = namespace_of(snapshot, "viz")
    names = [f"linkerd-{namespace}-{part}" for part in ("tap", "metrics-api", "tap-admin")]
    yield from _missing("ClusterRole", [*names, "linkerd-tap-injector"], snapshot.cluster_roles)


def _cluster_role_bindings(snapshot: Snapshot) -> Problems:
    namespace = namespace_of(snapshot, "viz")
    names = [f"linkerd-{namespace}-{part}" for part in ("tap", "metrics-api", "tap-auth-delegator")]
    yield from _missing(
        "ClusterRoleBinding", [*names, "linkerd-tap-injector"], snapshot.cluster_role_bindings
    )


# Fatal even as warnings.
viz.check(
    "l5d-viz-cr-exists",
    "linkerd-viz ClusterRoles exist",
    "warning",
    fatal=True,
    versions=ROLES_ARE_WARNINGS,
)(_cluster_roles)
viz.check(
    "l5d-viz-cr-exists", "linkerd-viz ClusterRoles exist", fatal=True, versions=ROLES_ARE_ERRORS
)(_cluster_roles)
viz.check(
    "l5d-viz-crb-exists",
    "linkerd-viz ClusterRoleBindings exist",
    "warning",
    fatal=True,
    versions=ROLES_ARE_WARNINGS,
)(_cluster_role_bindings)
viz.check(
    "l5d-viz-crb-exists",
    "linkerd-viz ClusterRoleBindings exist",
    fatal=True,
    versions=ROLES_ARE_ERRORS,
)(_cluster_role_bindings)


@viz.check("l5d-tap-cert-valid", "tap API server has valid cert", fatal=True)
def tap_cert_valid(snapshot: Snapshot) -> Problems:
    namespace = namespace_of(snapshot, "viz")
    service = snapshot.api_services.get(TAP_API)
    if service is None:
        yield Problem(f"APIService/{TAP_API}", "it does not exist", AGAIN)
        return
    _read_secrets(snapshot, namespace)
    authority = decoded(service["spec"].get("caBundle", ""))
    yield from not_served(snapshot, namespace, TAP_SECRET, authority, f"tap.{namespace}.svc")


@viz.check(
    "l5d-tap-cert-not-expiring-soon",
    "tap API server cert is valid for at least 60 days",
    "warning",
)
def tap_cert_not_expiring_soon(snapshot: Snapshot) -> Problems:
    namespace = namespace_of(snapshot, "viz")
    _read_secrets(snapshot, namespace)
    return ending(snapshot, namespace, TAP_SECRET)


@viz.check("l5d-tap-api", "tap API service is running", "warning")
def tap_api(snapshot: Snapshot) -> Problems:
    namespace_of(snapshot, "viz")
    subject = f"APIService/{TAP_API}"
    service = snapshot.api_services.get(TAP_API)
    if service is None:
        yield Problem(subject, "it does not exist", AGAIN)
        return
    if (condition := condition_of(service, "Available")) is not None:
        if condition["status"] != "True":
            text = f"{condition.get('reason')}: {condition.get('message')}"
            yield Problem(subject, text, "Look at the pods of Deployment tap.")
        return
    yield Problem(
        subject, "its status does not say whether it is available", "Look at Deployment tap."
    )


@viz.check("l5d-viz-pods-injection", "linkerd-viz pods are injected", "warning")
def viz_pods_injection(snapshot: Snapshot) -> Problems:
    return pods.not_injected(snapshot.pods_in(namespace_of(snapshot, "viz")))


@viz.check("l5d-viz-pods-running", "viz extension pods are running", "warning")
def viz_pods_running(snapshot: Snapshot) -> Problems:
    return pods.components_not_running(snapshot, "viz", namespace_of(snapshot, "viz"), COMPONENTS)


@viz.check("l5d-viz-proxy-healthy", "viz extension proxies are healthy", "warning")
def viz_proxy_healthy(snapshot: Snapshot) -> Problems:
    return pods.unhealthy_proxies(snapshot, namespace_of(snapshot, "viz"))


@viz.check("l5d-viz-proxy-cp-version", "viz extension proxies are up-to-date", "warning")
def viz_proxy_cp_version(snapshot: Snapshot) -> Problems:
    return proxies_outdated(snapshot, snapshot.pods_in(namespace_of(snapshot, "viz")))


@viz.check("l5d-viz-proxy-cli-version", "viz extension proxies and cli versions match", "warning")
def viz_proxy_cli_version(snapshot: Snapshot) -> Problems:
    return proxies_differ(snapshot, snapshot.pods_in(namespace_of(snapshot, "viz")))


@viz.check("l5d-viz-prometheus", "prometheus is installed and configured correctly", "warning")
def viz_prometheus(snapshot: Snapshot) -> Problems:
    namespace = namespace_of(snapshot, "viz")
    if _external(snapshot, namespace):
        raise Skip("prometheus is disabled")
    name = f"linkerd-{namespace}-prometheus"
    found = [
        *_missing("ClusterRole", [name], snapshot.cluster_roles),
        *_missing("ClusterRoleBinding", [name], snapshot.cluster_role_bindings),
        *_missing("ConfigMap", [f"{namespace}/prometheus-config"], snapshot.config_maps),
    ]
    own = pods.of_extension(snapshot, "viz", namespace)
    yield from found or pods.absent(own, ["prometheus"], namespace)


viz.check(
    "l5d-viz-existence-client", "can initialize the client", fatal=True, versions=CLIENT_LATER
)(_client)


@viz.check("l5d-viz-metrics-api", "viz extension self-check", fatal=True)
def viz_metrics_api(snapshot: Snapshot) -> Problems:
    namespace = namespace_of(snapshot, "viz")
    prometheus = _prometheus(snapshot)
    if prometheus.state == "silent":
        yield Problem(
            f"Service/{namespace}/prometheus",
            f"Error calling Prometheus from the control plane: {prometheus.detail}",
            "Look at the pod of Deployment prometheus and at its log.",
        )


@viz_data_plane.check(
    "l5d-viz-data-plane-prom-authz",
    "prometheus is authorized to scrape data plane pods",
    "warning",
    versions=versions_where(lambda facts: facts.checks_prometheus_authorization),
)
def viz_data_plane_prom_authz(snapshot: Snapshot) -> Problems:
    namespace_of(snapshot, "viz")
    allowed = {
        obj["metadata"]["namespace"]
        for obj in snapshot.policies.get(("policy.linkerd.io", "AuthorizationPolicy"), ())
        if obj["metadata"]["name"] == "prometheus-scrape"
    }
    for pod in snapshot.pods:
        is_denied = pod.proxy is not None and pod.proxy.inbound_policy == "deny"
        if is_denied and pod.namespace not in allowed:
            yield Problem(
                pod.subject,
                "prometheus may not be authorized to scrape it",
                f"Apply what `linkerd viz allow-scrapes -n {pod.namespace}` prints.",
            )


@viz_data_plane.check(
    "l5d-data-plane-prom", "data plane proxy metrics are present in Prometheus", "warning"
)
def data_plane_prom(snapshot: Snapshot) -> Problems:
    namespace = namespace_of(snapshot, "viz")
    prometheus = _prometheus(snapshot)
    if prometheus.state == "silent":
        text = f"it does not answer: {prometheus.detail}"
        yield Problem(f"Service/{namespace}/prometheus", text, "Look at its pod and its log.")
        return
    control_plane = snapshot.config.namespaces.linkerd
    for pod in snapshot.pods:
        if pod.control_plane == control_plane and pod.name not in prometheus.pods:
            text = "Prometheus has no metrics from its proxy"
            yield Problem(pod.subject, text, "Wait for a scrape; else check its inbound policy.")


def _read_secrets(snapshot: Snapshot, namespace: str) -> None:
    if namespace != snapshot.config.namespaces.viz:
        raise Skip(f"viz is in {namespace}, and only the configured namespace's Secrets are read")


def _external(snapshot: Snapshot, namespace: str) -> str:
    """Where the external Prometheus is; empty if viz has its own.

    linkerd reads only the namespace's annotation. The chart sets that in a hook of its first
    installation, so it is missing if hooks are off or Prometheus was turned off later.
    """
    values = snapshot.release_values("linkerd-viz", namespace)
    own: object = values.get("prometheus")
    if isinstance(own, dict) and cast("dict[str, Any]", own).get("enabled") is False:
        return str(values.get("prometheusUrl") or "elsewhere")
    metadata = snapshot.namespaces[namespace]["metadata"]
    annotations: dict[str, str] = metadata.get("annotations") or {}
    return annotations.get(EXTERNAL_PROMETHEUS, "")


def _prometheus(snapshot: Snapshot) -> Prometheus:
    found = snapshot.prometheus
    if found is None:
        raise Skip("viz is not installed")
    if found.state == "external":
        raise Skip(f"Prometheus is elsewhere: {found.detail}")
    if external := _external(snapshot, namespace_of(snapshot, "viz")):
        raise Skip(f"Prometheus is elsewhere: {external}")
    if found.state == "refuses":
        raise Skip("Linkerd's own policy lets only viz's metrics API query Prometheus")
    if found.state == "silent" and not snapshot.pods_run:
        raise Skip("pods do not run here")
    return found


def _missing(kind: str, wanted: Iterable[str], found: Iterable[str]) -> Problems:
    there = frozenset(found)
    for name in wanted:
        if name not in there:
            yield Problem(f"{kind}/{name}", "it does not exist", AGAIN)
