"""Whether a mesh can be installed on a cluster, checked before anything is changed.

Covers what `linkerd check --pre` checks, under its ids, and what bootstrap and upgrade need.
Source: linkerd2 `pkg/healthcheck`, category pre-kubernetes-setup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.chart_changes import has_newer_crds
from prefect_linkerd.mesh.helm.charts import Chart, allows_kubernetes
from prefect_linkerd.mesh.helm.ownership import Owner
from prefect_linkerd.mesh.helm.records import Release, ReleaseRef
from prefect_linkerd.mesh.helm.values import check_combination
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET
from prefect_linkerd.mesh.install.dependencies import own_release
from prefect_linkerd.mesh.kubernetes.permissions import GRANT, in_words
from prefect_linkerd.mesh.linkerd.facts import CONTROL_PLANE_CHARTS
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.planning.preflight import Finding, PreflightSnapshot

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""Linkerd's own bound. Source: linkerd2 `pkg/healthcheck`, `AllowedClockSkew`."""


@dataclass(frozen=True)
class Installation:
    """What would be installed, what the cluster already has, and what of that is upgraded."""

    there: PreflightSnapshot
    config: MeshConfig
    charts: Sequence[Chart]
    upgraded: frozenset[ReleaseRef] = frozenset()

    @property
    def version(self) -> LinkerdVersion:
        return self.config.linkerd

    def is_own(self, release: Release) -> bool:
        """Whether a release belongs to this mesh."""
        own = {each.ref for each in self.there.installed.releases.values()}
        for name in ("cert-manager", "traefik"):
            if (found := own_release(name, self.config, self.there.releases)) is not None:
                own.add(found.ref)
        return release.ref in own

    def installed(self) -> Iterator[tuple[Release, Chart]]:
        """The cluster's releases of the charts to install, each with its chart."""
        for release in self.there.releases:
            for chart in self.charts:
                if chart.name == release.chart:
                    yield release, chart


preflight_cluster = Category[Installation]("prefect-linkerd-cluster", "pre")
preflight_owners = Category[Installation]("prefect-linkerd-owners", "pre")
PREFLIGHT = (preflight_cluster, preflight_owners)


def preflight(
    there: PreflightSnapshot,
    config: MeshConfig,
    charts: Sequence[Chart],
    upgraded: Iterable[ReleaseRef] = (),
) -> list[Finding]:
    """Returns what blocks installing these charts on this cluster, and the warnings about it.

    Args:
        upgraded: the releases that an upgrade moves to these charts; neither their version nor
            what they own, such as the CRDs of 2.11's single release, blocks it.
    """
    found = Installation(there, config, charts, frozenset(upgraded))
    results = (result for category in PREFLIGHT for result in category.run(found).results)
    return [
        Finding(
            result.check.id,
            "error" if result.is_broken else result.check.severity,
            each.subject,
            each.message,
            each.remedy,
        )
        for result in results
        for each in result.problems
    ]


# The cluster


@preflight_cluster.check("k8s-version", "the charts support this Kubernetes")
def charts_support_kubernetes(found: Installation) -> Problems:
    version = found.there.facts.version
    for chart in found.charts:
        if allows_kubernetes(chart.kube_version, version) is False:
            yield Problem(
                f"chart {chart.name} {chart.version}",
                f"it needs Kubernetes {chart.kube_version}, and this is {version}",
                "Choose a Linkerd version for this Kubernetes, or upgrade Kubernetes.",
            )


@preflight_cluster.check("pre-k8s-clock-skew", "the API server's clock and this machine's agree")
def clocks_agree(found: Installation) -> Problems:
    skew = abs(found.there.server_clock - found.there.local_clock)
    if skew > MAX_CLOCK_SKEW:
        yield Problem(
            "clock",
            f"the API server's clock and this machine's differ by {skew.total_seconds():.0f} s",
            "Set the clocks (NTP): certificates made here would not be valid there.",
        )


@preflight_cluster.check("k8s-api", "there is a node that is Ready")
def a_node_is_ready(found: Installation) -> Problems:
    if found.there.unready_nodes == found.there.nodes:
        text = "no node is Ready" if found.there.nodes else "the cluster has none"
        yield Problem("nodes", text, "Fix the nodes first: no pod could run.")


@preflight_cluster.check("k8s-api", "all nodes are Ready", "warning")
def all_nodes_are_ready(found: Installation) -> Problems:
    unready, nodes = found.there.unready_nodes, found.there.nodes
    if 0 < unready < nodes:
        text = f"{unready} of {nodes} are not Ready"
        yield Problem("nodes", text, "Look at them: rollouts may have to wait for them.")


@preflight_cluster.check("pre-k8s-cluster-k8s", "this identity has the required permissions")
def permissions_are_granted(found: Installation) -> Problems:
    if found.there.denied:
        yield Problem("permissions", in_words(found.there.denied), GRANT)


@preflight_cluster.check("pre-ns", "no namespace of the mesh is being deleted")
def no_namespace_is_terminating(found: Installation) -> Problems:
    for subject in found.there.terminating:
        yield Problem(subject, "it is being deleted", "Wait until it is gone, then run again.")


@preflight_cluster.check("pl-combination", "the configuration fits this Linkerd and Kubernetes")
def configuration_fits(found: Installation) -> Problems:
    for unfit in check_combination(found.config, found.there.facts):
        yield Problem(unfit.subject, unfit.message, unfit.remedy)


# Ownership


@preflight_owners.check("pre-l5d-existence", "no other Linkerd owns the objects to install")
def no_other_linkerd_owns_objects(found: Installation) -> Problems:
    """Finds Linkerd's CRDs and cluster-wide objects that this mesh's releases do not own."""
    installing = {chart.name for chart in found.charts}
    installed, linkerd = found.there.installed, found.config.namespaces.linkerd
    own = {ReleaseRef(name, linkerd) for name in installing}
    own |= {ref for name in installing if (ref := installed.ref(name)) is not None}
    own |= found.upgraded
    foreign: dict[tuple[str, str], list[str]] = {}
    for item in found.there.owned:
        # `releases_are_not_driven` reports this mesh's releases that something else reconciles.
        if item.charts & installing and item.owner.release not in own:
            key = _in_words(item.owner), _existing_remedy(item.owner)
            foreign.setdefault(key, []).append(item.subject)
    for (owner, remedy), subjects in sorted(foreign.items()):
        more = f" and {len(subjects) - 1} more" if len(subjects) > 1 else ""
        yield Problem(subjects[0] + more, f"Linkerd is already installed, owned by {owner}", remedy)


def _existing_remedy(owner: Owner) -> str:
    """What to do about a Linkerd that this mesh's releases do not own."""
    if owner.release is not None:
        return (
            "Put its namespaces into the configuration, or uninstall it; "
            "the upgrade flow upgrades a 2.11 release to 2.12."
        )
    if owner.reconciles:
        return "Install and upgrade Linkerd there, or remove it there first."
    return "Uninstall it first: these flows manage only Helm releases, and this is not one."


def _in_words(owner: Owner) -> str:
    """An owner in a message; for plain Helm, the release's reference alone."""
    return str(owner.release) if owner.by == "Helm" else str(owner)


@preflight_owners.check("pl-owner", "nothing else reconciles the mesh's releases")
def releases_are_not_driven(found: Installation) -> Problems:
    """Finds parts of the mesh whose changes Flux, Argo CD, Terraform or the like would revert."""
    planned = {chart.name for chart in found.charts}
    if "linkerd-control-plane" in planned:
        # The release of 2.11, which an upgrade splits in two.
        planned.add("linkerd2")
    driven: dict[str, list[str]] = {}
    for part, owner in found.there.installed.owners.items():
        if part in planned and owner.reconciles:
            driven.setdefault(str(owner), []).append(part)
    for owner, parts in sorted(driven.items()):
        yield Problem(
            ", ".join(parts),
            f"it belongs to {owner}, which reverts changes made elsewhere",
            "Change it there. verify_mesh, check_certificates and smoke_test work on this mesh as "
            "it is.",
        )


@preflight_owners.check("pl-owner", "namespaces that others own have what Linkerd needs")
def foreign_namespaces_lack_nothing(found: Installation) -> Problems:
    for item in found.there.foreign_namespaces:
        yield Problem(
            item.subject,
            f"it belongs to {item.owner} and lacks what Linkerd needs",
            f"Set there: {', '.join(item.lacking)}.",
        )


@preflight_owners.check("pl-owner", "the issuer's Secret has one owner")
def issuer_has_one_owner(found: Installation) -> Problems:
    """Finds an issuer mode that would give the issuer's Secret two owners."""
    owner = found.there.issuer_owner
    if owner is None or owner.by == "cert-manager" or found.config.issuer == "self-signed":
        return
    if owner.release is not None:
        yield Problem(
            f"Secret/{found.config.namespaces.linkerd}/{ISSUER_SECRET}",
            f"it belongs to {owner}, and cert-manager would write it as well",
            "Set issuer to self-signed: the issuer is then renewed through that release.",
        )


@preflight_owners.check("pre-l5d-existence", "there is no other control plane")
def no_other_control_plane(found: Installation) -> Problems:
    for release, chart in found.installed():
        if chart.name in CONTROL_PLANE_CHARTS and not found.is_own(release):
            yield Problem(
                f"Helm release {release.namespace}/{release.name}",
                f"it is a Linkerd in another namespace ({release.chart} in {release.place})",
                f"A cluster can have one control plane: set namespaces.linkerd to {release.place}, "
                "or uninstall that one.",
            )


@preflight_owners.check("pl-version", "installed releases have the configured version")
def releases_are_of_the_version(found: Installation) -> Problems:
    for release, chart in found.installed():
        there, wanted = release.chart_version, chart.version
        if (
            there == wanted
            or release.status != "deployed"
            or not found.is_own(release)
            or release.ref in found.upgraded
            or has_newer_crds((release.chart, there), (chart.name, wanted))
        ):
            continue
        version = f" ({release.app_version})" if release.app_version else ""
        yield Problem(
            f"Helm release {release.namespace}/{release.name}",
            f"chart version {there} is installed, and {found.config.linkerd} is {wanted}",
            f"Set version to the installed release{version}, or use the upgrade flow.",
        )
