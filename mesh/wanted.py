"""The Helm releases that a configuration asks for on a cluster as it is, with all their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mesh.charts import ChartCatalog, charts_of
from mesh.cluster import Cluster, Object
from mesh.config import MeshConfig
from mesh.dependencies import Dependency, own_release, wanted_version
from mesh.helm import DesiredRelease, desired_release
from mesh.helm_record import Release
from mesh.installed import MeshReleases
from mesh.issuer import webhook_authorities, with_kept
from mesh.preflight import gateway_api_owner
from mesh.values import ClusterFacts, Values, values_for


def wanted_releases(
    cluster: Cluster,
    config: MeshConfig,
    catalog: ChartCatalog,
    *,
    kubernetes: str,
    api_versions: frozenset[str],
    crds: Mapping[str, Object],
    releases: Sequence[Release],
    mesh: MeshReleases,
    trust_bundle: str,
) -> tuple[DesiredRelease, ...]:
    """What bootstrap would bring each release to; cert-manager and Traefik where they are ours.

    Reads charts from their source, and from the cluster the authorities of webhooks that
    cert-manager keeps. What bootstrap would leave as it is, such as the chart version of a
    dependency that is there, is left so.

    Raises:
        ChartError: a chart source cannot be read or lacks a chart.
    """
    authorities = webhook_authorities(cluster, config) if config.issuer == "cert-manager" else {}
    owner = gateway_api_owner(crds.values(), config, mesh)
    facts = ClusterFacts(kubernetes, api_versions, owner, authorities)
    charts = [(catalog.find(name), trust_bundle, mesh.ref(name)) for name in charts_of(config)]
    for name in _dependencies(config):
        own = own_release(name, config, releases)
        if own is not None:
            chart = catalog.find(name, version=wanted_version(name, config, own))
            charts.append((chart, "", own.ref))
    found: list[DesiredRelease] = []
    for chart, bundle, at in charts:
        values = values_for(chart, config, facts, trust_bundle=bundle)
        values = with_kept(cluster, config, chart, values)
        found.append(desired_release(config, chart, values, at))
    return tuple(found)


def _dependencies(config: MeshConfig) -> list[Dependency]:
    found: list[Dependency] = ["cert-manager"] if config.issuer == "cert-manager" else []
    return [*found, "traefik"] if config.traefik.enabled else found


def differing_keys(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
    """The values that are not the same, as dotted keys; never a value."""
    found: list[str] = []
    for key in sorted(have.keys() | want.keys()):
        before, after = have.get(key), want.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            below = differing_keys(cast("Values", before), cast("Values", after))
            found += [f"{key}.{name}" for name in below]
        elif (key in have) != (key in want) or before != after:
            found.append(key)
    return found
