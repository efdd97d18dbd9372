"""Every category of checks, in the order in which they run and are shown."""

from __future__ import annotations

from prefect_linkerd.mesh.checks.certificates import certificates
from prefect_linkerd.mesh.checks.check import Category
from prefect_linkerd.mesh.checks.cni import cni_plugin
from prefect_linkerd.mesh.checks.config import config, crd
from prefect_linkerd.mesh.checks.control_plane import control_plane_proxy
from prefect_linkerd.mesh.checks.data_plane import data_plane
from prefect_linkerd.mesh.checks.existence import existence
from prefect_linkerd.mesh.checks.extension_webhooks import extension_webhooks
from prefect_linkerd.mesh.checks.high_availability import extension, ha
from prefect_linkerd.mesh.checks.identity import identity, identity_data_plane
from prefect_linkerd.mesh.checks.ingress import ingress
from prefect_linkerd.mesh.checks.jaeger import jaeger
from prefect_linkerd.mesh.checks.kubernetes import (
    gateway_api_crd,
    kubernetes_api,
    kubernetes_version,
)
from prefect_linkerd.mesh.checks.policies import policies
from prefect_linkerd.mesh.checks.preinstall import (
    pre_kubernetes_setup,
    pre_linkerd_global_resources,
)
from prefect_linkerd.mesh.checks.proxies import proxies
from prefect_linkerd.mesh.checks.proxy_metrics import proxy_metrics
from prefect_linkerd.mesh.checks.releases import releases
from prefect_linkerd.mesh.checks.unfinished import unfinished
from prefect_linkerd.mesh.checks.versions import control_plane_version, linkerd_version
from prefect_linkerd.mesh.checks.viz import viz, viz_data_plane
from prefect_linkerd.mesh.checks.webhooks import webhooks
from prefect_linkerd.mesh.checks.workloads import workloads
from prefect_linkerd.mesh.snapshot.mesh import Snapshot

CATEGORIES: tuple[Category[Snapshot], ...] = (
    kubernetes_api,
    kubernetes_version,
    gateway_api_crd,
    pre_kubernetes_setup,
    pre_linkerd_global_resources,
    crd,
    existence,
    config,
    cni_plugin,
    identity,
    webhooks,
    identity_data_plane,
    linkerd_version,
    control_plane_version,
    control_plane_proxy,
    data_plane,
    ha,
    extension,
    viz,
    viz_data_plane,
    jaeger,
    # Ours, not linkerd's.
    certificates,
    proxies,
    workloads,
    releases,
    unfinished,
    policies,
    ingress,
    extension_webhooks,
    proxy_metrics,
)
