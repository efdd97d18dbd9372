"""Snapshots built without a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.helm.installed import MeshReleases
from prefect_linkerd.mesh.pki.certificates import read_certificates
from prefect_linkerd.mesh.snapshot.expiry import Expiry, Role
from prefect_linkerd.mesh.snapshot.mesh import Snapshot
from prefect_linkerd.mesh.snapshot.proxy_metrics import ProxySample
from tests.support.certificates import NOW, ONE_ANCHOR

_EMPTY: dict[str, Any] = {
    "config": MeshConfig(profile="demo"),
    "now": NOW,
    "local_now": NOW,
    "kubernetes": "v1.34.4",
    "trust_bundle": "",
    "control_plane_values": None,
    "proxy_sample": ProxySample(),
    "installed": MeshReleases({}, {}),
}


def empty_snapshot(*, unread: Mapping[str, MeshError] | None = None, **parts: Any) -> Snapshot:
    """The snapshot of an empty cluster, apart from the given parts."""
    errors = unread or {}
    kinds: dict[str, str] = Snapshot.__annotations__
    found = {name: _EMPTY.get(name, _nothing(kinds[name])) for name in Snapshot.parts()}
    kept = {name: value for name, value in (found | parts).items() if name not in errors}
    return Snapshot(kept, errors)


def _nothing(kind: str) -> Any:
    kind = kind.removeprefix("Read[")
    if kind.startswith("tuple"):
        return ()
    if kind.startswith("frozenset"):
        return frozenset()
    return {} if kind.startswith("Mapping") else None


_INFO = read_certificates(ONE_ANCHOR, "anchor")[0]


def expiry(days_left: float, role: Role = "issuer", **options: Any) -> Expiry:
    return Expiry(role, role, f"Secret/linkerd/{role}", _INFO, days_left, **options)
