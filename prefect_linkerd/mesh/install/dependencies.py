"""The mesh's dependencies: cert-manager and Traefik, installed by these flows or used as found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from prefect_linkerd.mesh.config.model import CertManager, Dependency, MeshConfig, Traefik
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.helm.ownership import decide, owner_of_release
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.kubernetes.objects import Gvk

KINDS: dict[Dependency, tuple[Gvk, ...]] = {
    "cert-manager": (Gvk("cert-manager.io/v1", "Certificate"),),
    "traefik": (
        Gvk("traefik.io/v1alpha1", "IngressRoute"),
        Gvk("traefik.containo.us/v1alpha1", "IngressRoute"),
    ),
}
"""The kinds by which an installed dependency is recognized."""


def namespace_of(name: Dependency, config: MeshConfig) -> str:
    namespaces = config.namespaces
    return namespaces.cert_manager if name == "cert-manager" else namespaces.traefik


def settings_of(name: Dependency, config: MeshConfig) -> CertManager | Traefik:
    return config.cert_manager if name == "cert-manager" else config.traefik


def releases_of(name: str, releases: Sequence[Release]) -> list[Release]:
    """A dependency's releases, found by chart, of any name and namespace; not uninstalled ones."""
    return [r for r in releases if r.chart == name and r.status != "uninstalled"]


def own_release(
    name: Dependency, config: MeshConfig, releases: Sequence[Release]
) -> Release | None:
    """The dependency's release that these flows may write: one they made, or may adopt.

    None also if the configuration says not to install the dependency.
    """
    settings = settings_of(name, config)
    if not settings.install:
        return None
    for release in releases_of(name, releases):
        owner = owner_of_release(release)
        role = "mesh" if settings.adopt else "shared"
        if decide(owner, role) != "theirs":
            return release
    return None


def is_served(name: Dependency, serves: Callable[[str, str], bool]) -> bool:
    return any(serves(api_version, kind) for api_version, kind in KINDS[name])


def decide_dependency(
    name: Dependency, config: MeshConfig, releases: Sequence[Release], *, served: bool
) -> Literal["release", "use"]:
    """Whether bootstrap manages the dependency as its own release, or uses what is installed.

    Raises:
        InvalidInput: the cluster does not serve it, and these flows may not install it: the
            configuration says so, or somebody else's release exists already.
    """
    if own_release(name, config, releases) is not None:
        return "release"
    if served:
        return "use"
    api_version, kind = KINDS[name][0]
    theirs = releases_of(name, releases)
    if theirs:
        owners = ", ".join(str(owner_of_release(release)) for release in theirs)
        raise InvalidInput(
            name,
            expected=f"{owners} to serve {kind} ({api_version})",
            found=f"that it does not, and that the release is {theirs[0].status}",
            remedy="Have its owner finish that installation, or uninstall it.",
        )
    if not settings_of(name, config).install:
        raise InvalidInput(
            name,
            expected=f"a cluster that serves {kind} ({api_version}), as install is off",
            found="one that does not",
            remedy=f"Install {name}, or turn its install setting on.",
        )
    return "release"


def wanted_version(name: Dependency, config: MeshConfig, own: Release | None) -> str | None:
    """The chart version that the dependency should have; None means the newest.

    An existing release stays at its version unless the configuration sets another, so that running
    bootstrap again never upgrades it as a side effect.
    """
    return settings_of(name, config).version or (own.chart_version if own is not None else None)
