"""What the mesh needs beside Linkerd: cert-manager and Traefik, installed here or found there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from mesh.config import MeshConfig
from mesh.errors import InvalidInput
from mesh.helm_record import Release

Dependency = Literal["cert-manager", "traefik"]

KINDS: dict[Dependency, tuple[tuple[str, str], ...]] = {
    "cert-manager": (("cert-manager.io/v1", "Certificate"),),
    "traefik": (
        ("traefik.io/v1alpha1", "IngressRoute"),
        ("traefik.containo.us/v1alpha1", "IngressRoute"),
    ),
}
"""The kinds by which an installed dependency is known, whoever installed it."""


def namespace_of(name: Dependency, config: MeshConfig) -> str:
    namespaces = config.namespaces
    return namespaces.cert_manager if name == "cert-manager" else namespaces.traefik


def own_release(
    name: Dependency, config: MeshConfig, releases: Sequence[Release]
) -> Release | None:
    """The dependency's release that bootstrap made, in whatever state it is."""
    namespace = namespace_of(name, config)
    return next((r for r in releases if (r.namespace, r.name) == (namespace, name)), None)


def is_served(name: Dependency, serves: Callable[[str, str], bool]) -> bool:
    return any(serves(api_version, kind) for api_version, kind in KINDS[name])


def decide_dependency(
    name: Dependency, config: MeshConfig, own: Release | None, *, served: bool
) -> Literal["release", "use"]:
    """Whether bootstrap keeps the dependency as a release of its own, or uses what is there.

    Raises:
        InvalidInput: the cluster has none and the configuration says not to install it.
    """
    if own is not None:
        return "release"
    if served:
        return "use"
    wanted = config.cert_manager if name == "cert-manager" else config.traefik
    if not wanted.install:
        api_version, kind = KINDS[name][0]
        raise InvalidInput(
            name,
            expected=f"a cluster that serves {kind} ({api_version}), as install is off",
            found="that it does not",
            remedy=f"Install {name}, or turn its install setting on.",
        )
    return "release"


def wanted_version(name: Dependency, config: MeshConfig, own: Release | None) -> str | None:
    """The chart version to bring the dependency to; None is the newest.

    A release that is there stays at its version unless another one is asked for, so that
    running bootstrap again never upgrades by the way.
    """
    asked = config.cert_manager.version if name == "cert-manager" else config.traefik.version
    return asked or (own.chart_version if own is not None else None)
