"""The namespaces of a mesh, made outside Helm and before anything that lives in them."""

from __future__ import annotations

from mesh.cluster import Cluster, Object
from mesh.config import MeshConfig

LABELS = {"app.kubernetes.io/managed-by": "prefect-linkerd"}


def namespaces(config: MeshConfig) -> list[Object]:
    """Every namespace that a configuration needs, labelled as Linkerd's own charts would.

    Sources: `templates/namespace.yaml` of linkerd2, linkerd-viz and linkerd-jaeger 2.11, and from
    2.12 on of linkerd-control-plane and what the extensions' namespace-metadata job writes.
    """
    names = config.namespaces
    has_pod_security = config.linkerd.at_least((2, 12))
    # linkerd-init needs capabilities that only the privileged standard grants.
    privileged = {"pod-security.kubernetes.io/enforce": "privileged"} if has_pod_security else {}
    found = [
        _namespace(
            names.linkerd,
            {
                "linkerd.io/is-control-plane": "true",
                "linkerd.io/control-plane-ns": names.linkerd,
                "config.linkerd.io/admission-webhooks": "disabled",
                **privileged,
            },
            {"linkerd.io/inject": "disabled"},
        )
    ]
    # Until 2.11 the extensions' pods are injected by their namespace, later by themselves.
    injected = (
        {"linkerd.io/inject": "enabled", "config.linkerd.io/proxy-await": "enabled"}
        if config.linkerd.layout == "one-chart"
        else {}
    )
    if config.viz.enabled:
        found.append(_namespace(names.viz, {"linkerd.io/extension": "viz", **privileged}, injected))
    if config.jaeger.enabled:
        labels = {"linkerd.io/extension": "jaeger", **privileged}
        found.append(_namespace(names.jaeger, labels, injected))
    if config.issuer == "cert-manager":
        found.append(_namespace(names.cert_manager, {}, {}))
    if config.traefik.enabled:
        found.append(_namespace(names.traefik, {}, {}))
    if config.smoke_test:
        found.append(_namespace(names.emojivoto, {}, {"linkerd.io/inject": "enabled"}))
    return found


def _namespace(name: str, labels: dict[str, str], annotations: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": LABELS | labels, "annotations": annotations},
    }


def ensure_namespaces(cluster: Cluster, config: MeshConfig) -> list[str]:
    """Makes or mends every namespace; the names of those that were not as they should be."""
    changed: list[str] = []
    for wanted in namespaces(config):
        name: str = wanted["metadata"]["name"]
        before = cluster.get("v1", "Namespace", name)
        after = cluster.apply(wanted)
        if before is None or _version(before) != _version(after):
            changed.append(name)
    return changed


def _version(obj: Object) -> str:
    return str(obj["metadata"]["resourceVersion"])
