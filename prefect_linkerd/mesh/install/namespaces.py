"""The namespaces of a mesh, created outside Helm and before anything in them."""

from __future__ import annotations

import json

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import OwnershipConflict
from prefect_linkerd.mesh.helm.ownership import Owner, Role, decide, owner_of, refuse_theirs
from prefect_linkerd.mesh.helm.records import RESOURCE_POLICY
from prefect_linkerd.mesh.helm.values import load_extra_values, merge
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Object
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.mesh import Mesh

EXTERNAL_PROMETHEUS = "viz.linkerd.io/external-prometheus"


def namespaces(config: MeshConfig) -> list[Object]:
    """Every namespace that a configuration needs, labelled as Linkerd's own charts would.

    Sources: `templates/namespace.yaml` of linkerd2, linkerd-viz and linkerd-jaeger 2.11, and from
    2.12 on of linkerd-control-plane; and what the extensions' namespace-metadata job writes.
    """
    names = config.namespaces
    facts = release_facts(config.linkerd)
    # linkerd-init needs capabilities that only the privileged standard grants.
    privileged = (
        {"pod-security.kubernetes.io/enforce": "privileged"} if facts.labels_pod_security else {}
    )
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
    injected = (
        {"linkerd.io/inject": "enabled", "config.linkerd.io/proxy-await": "enabled"}
        if facts.injects_extensions_by_namespace
        else {}
    )
    if config.viz.enabled:
        labels = {"linkerd.io/extension": "viz", **privileged}
        found.append(_namespace(names.viz, labels, injected | _external_prometheus(config)))
    if config.jaeger.enabled:
        labels = {"linkerd.io/extension": "jaeger", **privileged}
        found.append(_namespace(names.jaeger, labels, injected))
    # The namespace of a dependency that these flows do not install exists, and is somebody else's.
    if config.issuer == "cert-manager" and config.cert_manager.install:
        found.append(_namespace(names.cert_manager, {}, {}))
    if config.traefik.enabled and config.traefik.install:
        found.append(_namespace(names.traefik, {}, {}))
    if config.emojivoto.enabled:
        found.append(_namespace(names.emojivoto, {}, {"linkerd.io/inject": "enabled"}))
    return found


def _external_prometheus(config: MeshConfig) -> dict[str, str]:
    """The annotation that tells `linkerd viz check` that viz has no Prometheus of its own.

    The chart's job writes it only at the first installation, and not at all if hooks are off.
    """
    url = merge(*load_extra_values(config.viz.values)).get("prometheusUrl")
    return {EXTERNAL_PROMETHEUS: str(url)} if url else {}


def _namespace(name: str, labels: dict[str, str], annotations: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": MADE_HERE | labels, "annotations": dict(annotations)},
    }


def foreign_owner(wanted: Object, found: Object | None, config: MeshConfig) -> Owner | None:
    """Who owns a namespace that these flows must not write; None if they may write it."""
    if found is None:
        return None
    names = config.namespaces
    is_shared = wanted["metadata"]["name"] in (names.cert_manager, names.traefik)
    role: Role = "shared" if is_shared else "mesh"
    owner = owner_of(found)
    return owner if decide(owner, role) == "theirs" else None


def lacks(wanted: Object, found: Object) -> list[str]:
    """The wanted labels and annotations that a namespace lacks, as `label key: value` in YAML."""
    lacking: list[str] = []
    for part in ("labels", "annotations"):
        asked: dict[str, str] = wanted["metadata"].get(part) or {}
        there: dict[str, str] = found["metadata"].get(part) or {}
        lacking += [
            # In YAML a bare `true` is not a string, and the API server rejects it.
            f"{part[:-1]} {key}: {json.dumps(value) if value in ('true', 'false') else value}"
            for key, value in asked.items()
            if MADE_HERE.get(key) != value and there.get(key) != value
        ]
    return lacking


def refuse_namespace(wanted: Object, found: Object, owner: Owner) -> OwnershipConflict:
    """The error that says what somebody else's namespace lacks before the mesh can use it."""
    return refuse_theirs(
        f"Namespace/{wanted['metadata']['name']}",
        owner,
        f"Set there what Linkerd needs: {', '.join(lacks(wanted, found))}.",
    )


def ensure_namespaces(mesh: Mesh) -> list[str]:
    """Creates or fixes every namespace, and returns the names of those that it changed.

    Raises:
        OwnershipConflict: one belongs to somebody else and lacks what Linkerd needs.
    """
    changed: list[str] = []
    for wanted in namespaces(mesh.config):
        name: str = wanted["metadata"]["name"]
        before = mesh.cluster.get("v1", "Namespace", name)
        owner = foreign_owner(wanted, before, mesh.config)
        if before is not None and owner is not None:
            if lacks(wanted, before):
                raise refuse_namespace(wanted, before, owner)
            continue
        if before is not None and owner_of(before).release is not None:
            # Helm deletes a namespace that a later revision lacks, and everything in it.
            wanted["metadata"]["annotations"][RESOURCE_POLICY] = "keep"
        after = mesh.cluster.apply(wanted)
        if before is None or _version(before) != _version(after):
            changed.append(name)
    return changed


def _version(obj: Object) -> str:
    return str(obj["metadata"]["resourceVersion"])
