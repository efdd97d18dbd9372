"""The Helm releases that a configuration asks for on a given cluster, with all their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from prefect_linkerd.mesh.config.model import Dependency, MeshConfig
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.helm.charts import Chart, charts_of
from prefect_linkerd.mesh.helm.client import DesiredRelease, desired_release
from prefect_linkerd.mesh.helm.installed import MeshReleases
from prefect_linkerd.mesh.helm.ownership import owner_of
from prefect_linkerd.mesh.helm.records import Release, ReleaseRef, read_release
from prefect_linkerd.mesh.helm.safety_values import unsafe_values
from prefect_linkerd.mesh.helm.values import ClusterFacts, Values, values_for
from prefect_linkerd.mesh.identity.issuer import with_kept, with_webhooks
from prefect_linkerd.mesh.identity.trust_anchor import read_roots
from prefect_linkerd.mesh.install.dependencies import own_release, wanted_version
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.linkerd.facts import CONTROL_PLANE_CHARTS
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.preflight import gateway_api_owner

BUNDLE_VALUE = "identityTrustAnchorsPEM"
"""The control plane's value that declares the trust bundle."""


def wanted_releases(
    mesh: Mesh,
    *,
    kubernetes: str,
    api_versions: frozenset[str],
    crds: Mapping[str, Object],
    releases: Sequence[Release],
    installed: MeshReleases,
    trust_bundle: str,
) -> tuple[DesiredRelease, ...]:
    """The releases as bootstrap would make them; cert-manager and Traefik only if they are ours.

    Reads charts from their source, and the CAs of webhooks that cert-manager manages from the
    cluster. What bootstrap leaves unchanged, such as an installed dependency's chart version, is
    unchanged here.

    Raises:
        ChartError: a chart source cannot be read or lacks a chart.
    """
    owner = gateway_api_owner(crds.values(), mesh.config, installed)
    facts = ClusterFacts(kubernetes, api_versions, owner)
    return wanted_on(mesh, facts, releases, installed, trust_bundle)


def wanted_on(
    mesh: Mesh,
    facts: ClusterFacts,
    releases: Sequence[Release],
    installed: MeshReleases,
    trust_bundle: str,
    new: Iterable[Dependency] = (),
) -> tuple[DesiredRelease, ...]:
    """Like `wanted_releases`, but from facts that were already read.

    Args:
        new: the dependencies that would be newly installed.
    """
    facts = with_webhooks(facts, mesh)
    charts = [
        (mesh.charts.find(name), trust_bundle, installed.ref(name))
        for name in charts_of(mesh.config)
    ]
    for name in dependencies_of(mesh.config):
        own = own_release(name, mesh.config, releases)
        if own is not None:
            chart = mesh.charts.find(name, version=wanted_version(name, mesh.config, own))
            charts.append((chart, "", own.ref))
        elif name in new:
            chart = mesh.charts.find(name, version=wanted_version(name, mesh.config, None))
            charts.append((chart, "", None))
    return tuple(wanted_release(mesh, chart, facts, bundle, at) for chart, bundle, at in charts)


def wanted_release(
    mesh: Mesh, chart: Chart, facts: ClusterFacts, trust_bundle: str, at: ReleaseRef | None
) -> DesiredRelease:
    """The desired release of one chart, with the values it has to keep and its unsafe values.

    Args:
        at: the chart's installed release, if any.

    Raises:
        InvalidInput: a values file cannot be read.
    """
    values = values_for(chart, mesh.config, facts, trust_bundle=trust_bundle)
    values = with_kept(mesh, chart, values)
    if at is not None and _is_undeclared(mesh, chart, values, at):
        values = {key: value for key, value in values.items() if key != BUNDLE_VALUE}
    unsafe = unsafe_values(chart.name, mesh.config, values)
    return replace(desired_release(mesh.config, chart, values, at), unsafe=tuple(unsafe))


def _is_undeclared(mesh: Mesh, chart: Chart, values: Values, at: ReleaseRef) -> bool:
    """Whether trust-manager writes the trust bundle, and the release does not declare it.

    Linkerd's documentation installs such a release without the value. Once declared, the value
    would be out of date whenever cert-manager renews the anchor.
    """
    identity: object = values.get("identity")
    if chart.name not in CONTROL_PLANE_CHARTS or not (
        isinstance(identity, dict) and cast("Values", identity).get("externalCA")
    ):
        return False
    roots = read_roots(mesh)
    if roots is None or owner_of(roots).by != "trust-manager":
        return False
    try:
        release = read_release(mesh.cluster, at.name, at.namespace)
    except ApiError as error:
        # This identity may not read the records there, so the release is somebody else's.
        if error.status != 403:
            raise
        return False
    return release is not None and not str((release.values or {}).get(BUNDLE_VALUE) or "").strip()


def dependencies_of(config: MeshConfig) -> list[Dependency]:
    """The mesh's dependencies besides Linkerd, whether these flows install them or not."""
    found: list[Dependency] = ["cert-manager"] if config.issuer == "cert-manager" else []
    return [*found, "traefik"] if config.traefik.enabled else found


def differing_keys(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
    """The dotted keys of the values that differ, without the values."""
    found: list[str] = []
    for key in sorted(have.keys() | want.keys()):
        before, after = have.get(key), want.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            below = differing_keys(cast("Values", before), cast("Values", after))
            found += [f"{key}.{name}" for name in below]
        elif (key in have) != (key in want) or before != after:
            found.append(key)
    return found
