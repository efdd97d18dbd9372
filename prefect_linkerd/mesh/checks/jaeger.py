"""The jaeger extension: every check of `linkerd jaeger check`.

Source: linkerd2 `jaeger/cmd/check.go`; the extension was discontinued in 2025.
"""

from __future__ import annotations

from prefect_linkerd.mesh.checks import pods
from prefect_linkerd.mesh.checks.check import Category, Problems
from prefect_linkerd.mesh.checks.extensions import missing_namespace, namespace_of
from prefect_linkerd.mesh.checks.versions import proxies_differ, proxies_outdated
from prefect_linkerd.mesh.linkerd.spans import versions_where
from prefect_linkerd.mesh.snapshot.mesh import Snapshot

jaeger = Category[Snapshot]("linkerd-jaeger", "jaeger")

WITH_JAEGER = versions_where(lambda facts: "linkerd-jaeger" in facts.extensions)


@jaeger.check(
    "l5d-jaeger-ns-exists",
    "linkerd-jaeger extension Namespace exists",
    fatal=True,
    versions=WITH_JAEGER,
)
def jaeger_ns_exists(snapshot: Snapshot) -> Problems:
    config = snapshot.config
    namespace, is_wanted = config.namespaces.jaeger, config.jaeger.enabled
    return missing_namespace(snapshot, "jaeger", namespace, is_wanted=is_wanted)


@jaeger.check(
    "l5d-jaeger-pods-injection",
    "jaeger extension pods are injected",
    "warning",
    versions=WITH_JAEGER,
)
def jaeger_pods_injection(snapshot: Snapshot) -> Problems:
    return pods.not_injected(snapshot.pods_in(namespace_of(snapshot, "jaeger")))


@jaeger.check(
    "l5d-jaeger-pods-running", "jaeger injector pods are running", "warning", versions=WITH_JAEGER
)
def jaeger_pods_running(snapshot: Snapshot) -> Problems:
    namespace = namespace_of(snapshot, "jaeger")
    return pods.components_not_running(snapshot, "jaeger", namespace, ["jaeger-injector"])


@jaeger.check(
    "l5d-jaeger-proxy-healthy",
    "jaeger extension proxies are healthy",
    "warning",
    versions=WITH_JAEGER,
)
def jaeger_proxy_healthy(snapshot: Snapshot) -> Problems:
    return pods.unhealthy_proxies(snapshot, namespace_of(snapshot, "jaeger"))


@jaeger.check(
    "l5d-jaeger-proxy-cp-version",
    "jaeger extension proxies are up-to-date",
    "warning",
    versions=WITH_JAEGER,
)
def jaeger_proxy_cp_version(snapshot: Snapshot) -> Problems:
    return proxies_outdated(snapshot, snapshot.pods_in(namespace_of(snapshot, "jaeger")))


@jaeger.check(
    "l5d-jaeger-proxy-cli-version",
    "jaeger extension proxies and cli versions match",
    "warning",
    versions=WITH_JAEGER,
)
def jaeger_proxy_cli_version(snapshot: Snapshot) -> Problems:
    return proxies_differ(snapshot, snapshot.pods_in(namespace_of(snapshot, "jaeger")))
