"""The control plane's own proxies.

Source: linkerd2 `pkg/healthcheck`, category linkerd-control-plane-proxy.
"""

from __future__ import annotations

from prefect_linkerd.mesh.checks.check import Category, Problems
from prefect_linkerd.mesh.checks.data_plane import not_running
from prefect_linkerd.mesh.checks.versions import proxies_differ, proxies_outdated
from prefect_linkerd.mesh.snapshot.mesh import Pod, Snapshot

control_plane_proxy = Category[Snapshot]("linkerd-control-plane-proxy", "control-plane")


def _pods(snapshot: Snapshot) -> list[Pod]:
    namespace = snapshot.config.namespaces.linkerd
    return [pod for pod in snapshot.pods_in(namespace) if pod.control_plane]


@control_plane_proxy.check("l5d-cp-proxy-healthy", "control plane proxies are healthy", fatal=True)
def cp_proxy_healthy(snapshot: Snapshot) -> Problems:
    # Linkerd also compares trust bundles here, but control plane proxies carry none: they read
    # the mesh's.
    return not_running(snapshot, _pods(snapshot), snapshot.config.namespaces.linkerd)


@control_plane_proxy.check(
    "l5d-cp-proxy-version", "control plane proxies are up-to-date", "warning"
)
def cp_proxy_version(snapshot: Snapshot) -> Problems:
    return proxies_outdated(snapshot, _pods(snapshot))


@control_plane_proxy.check(
    "l5d-cp-proxy-cli-version", "control plane proxies and cli versions match", "warning"
)
def cp_proxy_cli_version(snapshot: Snapshot) -> Problems:
    return proxies_differ(snapshot, _pods(snapshot))
