"""The cluster itself: its API, its version, and the Gateway API's CRDs.

Source: linkerd2 `pkg/healthcheck`, categories kubernetes-api, kubernetes-version and
gateway-api-crd; `pkg/k8s` (minAPIVersion).
"""

from __future__ import annotations

import re

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems
from prefect_linkerd.mesh.linkerd.facts import GATEWAY_API, release_facts
from prefect_linkerd.mesh.linkerd.spans import versions_where
from prefect_linkerd.mesh.snapshot.mesh import Snapshot

kubernetes_api = Category[Snapshot]("kubernetes-api", "control-plane", also=("pre", "crds"))
kubernetes_version = Category[Snapshot]("kubernetes-version", "control-plane", also=("pre", "crds"))
gateway_api_crd = Category[Snapshot]("gateway-api-crd", "control-plane", also=("pre", "crds"))


@kubernetes_api.check("k8s-api", "can initialize the client", fatal=True)
def can_initialize_the_client(snapshot: Snapshot) -> Problems:
    # Without a client, reading the snapshot has already failed with an ApiError.
    if not snapshot.kubernetes:
        text = "the API server reports no version"
        yield Problem("Kubernetes", text, "Check the kubeconfig and its context.")


@kubernetes_api.check("k8s-api", "can query the Kubernetes API", fatal=True)
def can_query_the_kubernetes_api(snapshot: Snapshot) -> Problems:
    if "v1" not in snapshot.api_versions:
        text = "the API server does not serve v1"
        yield Problem("Kubernetes", text, "Check that the address is that of an API server.")


@kubernetes_version.check("k8s-version", "is running the minimum Kubernetes API version")
def k8s_version(snapshot: Snapshot) -> Problems:
    major, minor = release_facts(snapshot.version).minimum_kubernetes
    found = re.match(r"v?(\d+)\.(\d+)", snapshot.kubernetes)
    if found is None:
        text = f"the version {snapshot.kubernetes!r} has an unknown format"
        yield Problem("Kubernetes", text, "Check that the address is that of an API server.")
    elif (int(found[1]), int(found[2])) < (major, minor):
        text = f"it is {snapshot.kubernetes}, and {snapshot.version} needs {major}.{minor} or newer"
        yield Problem("Kubernetes", text, "Upgrade Kubernetes, or use an older Linkerd.")


@gateway_api_crd.check(
    "gateway-api-crd",
    "Gateway API CRDs are installed",
    fatal=True,
    versions=versions_where(lambda facts: facts.checks_gateway_api),
)
def gateway_api_crds_are_installed(snapshot: Snapshot) -> Problems:
    names = [f"{plural}.{GATEWAY_API}" for plural in ("httproutes", "grpcroutes")]
    found = [snapshot.crds[name] for name in names if name in snapshot.crds]
    if not found:
        release = release_facts(snapshot.version).gateway_api_release
        yield Problem(
            "CustomResourceDefinition/" + names[0],
            "the Gateway API's CRDs are not installed",
            "Let linkerd-crds install them (installGatewayAPI), or apply standard-install.yaml of "
            f"https://github.com/kubernetes-sigs/gateway-api/releases/tag/{release}.",
        )
    if any(crd["metadata"]["annotations"].get("linkerd.io/created-by") for crd in found):
        return
    for crd in found:
        if all(version["name"] != "v1" for version in crd["spec"]["versions"]):
            yield Problem(
                f"CustomResourceDefinition/{crd['metadata']['name']}",
                "it has no version v1",
                "Upgrade the Gateway API to v1.1.1 or newer.",
            )
