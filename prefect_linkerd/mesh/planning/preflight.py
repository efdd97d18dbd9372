"""Whether a cluster can take a mesh, found out before anything is touched.

What `linkerd check --pre` looks at, by its own ids, and what bootstrap itself needs.
Source: linkerd2 `pkg/healthcheck`, category pre-kubernetes-setup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.helm.chart_changes import has_newer_crds
from prefect_linkerd.mesh.helm.charts import Chart, allows_kubernetes
from prefect_linkerd.mesh.helm.installed import MeshReleases, read_mesh_releases
from prefect_linkerd.mesh.helm.ownership import Owner, owner_of
from prefect_linkerd.mesh.helm.records import Release, ReleaseRef
from prefect_linkerd.mesh.helm.values import ClusterFacts, check_combination
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET
from prefect_linkerd.mesh.install.dependencies import own_release
from prefect_linkerd.mesh.install.namespaces import foreign_owner, lacks, namespaces
from prefect_linkerd.mesh.install.registry import pull_secrets
from prefect_linkerd.mesh.kubernetes.client import Object, name_of
from prefect_linkerd.mesh.kubernetes.nodes import is_ready
from prefect_linkerd.mesh.kubernetes.permissions import GRANT, Permission, denied, in_words
from prefect_linkerd.mesh.linkerd.facts import CONTROL_PLANE_CHARTS, CRDS_CHARTS, release_facts
from prefect_linkerd.mesh.mesh import Mesh

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""Linkerd's own bound. Source: linkerd2 `pkg/healthcheck`, `AllowedClockSkew`."""


@dataclass(frozen=True)
class Owned:
    """An object of the cluster that a chart would write, and who owns it."""

    subject: str
    owner: Owner
    charts: frozenset[str]


@dataclass(frozen=True)
class ForeignNamespace:
    """A namespace of somebody else that lacks labels or annotations that Linkerd needs."""

    subject: str
    owner: Owner
    lacking: tuple[str, ...]


NOTHING = MeshReleases({}, {})


@dataclass(frozen=True)
class PreflightSnapshot:
    """What preflight looks at. `denied` are the permissions that the identity lacks.

    `releases` are those of the whole cluster, `installed` the mesh's own among them; `issuer_owner`
    is who owns the issuer's Secret.
    """

    facts: ClusterFacts
    server_clock: datetime
    local_clock: datetime
    denied: tuple[Permission, ...]
    owned: tuple[Owned, ...]
    releases: tuple[Release, ...]
    terminating: tuple[str, ...]
    unready_nodes: int
    nodes: int
    installed: MeshReleases = NOTHING
    foreign_namespaces: tuple[ForeignNamespace, ...] = ()
    issuer_owner: Owner | None = None


@dataclass(frozen=True)
class Finding:
    """Something that preflight or a plan found. `id` is linkerd's own where it has one.

    `acceptable` says whether a person may accept it, by the flow's parameter `accept`.
    """

    id: str
    severity: Literal["error", "warning"]
    subject: str
    message: str
    remedy: str
    acceptable: bool = False

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}. {self.remedy}"


_RBAC = "rbac.authorization.k8s.io"
_ADMISSION = "admissionregistration.k8s.io"
_WRITES = ("create", "get", "patch", "delete")


def permissions(config: MeshConfig) -> list[Permission]:
    """What bootstrap does to a cluster with this configuration, whatever the charts' versions.

    Of objects outside the mesh's namespaces one stands for all of its kind, by a name that every
    Linkerd version has: a role may name them (`deployments.roles`), and then nothing is allowed
    without a name. What the roles of charts grant is left to the API server.
    """
    found = [
        Permission(verb, "namespaces", name=namespace["metadata"]["name"])
        for namespace in namespaces(config)
        for verb in ("get", "patch")
    ]
    found.append(Permission("create", "namespaces"))
    for resource, group, name in _cluster_wide(config):
        # A CRD is never deleted.
        named = ("get", "patch") if resource.startswith("custom") else ("get", "patch", "delete")
        found.append(Permission("create", resource, group))
        found += [Permission(verb, resource, group, name=name) for verb in named]
    found += [
        Permission(verb, resource, group, place)
        for place, resources in _namespaced(config).items()
        for resource, group, verbs in resources
        for verb in verbs
    ]
    found += [
        Permission("list", resource, group)
        for resource, group in (
            ("namespaces", ""),
            ("nodes", ""),
            # Helm lists the records of every namespace, so that a foreign release is seen.
            ("secrets", ""),
            ("clusterroles", _RBAC),
            ("customresourcedefinitions", "apiextensions.k8s.io"),
            ("mutatingwebhookconfigurations", _ADMISSION),
            ("validatingwebhookconfigurations", _ADMISSION),
        )
    ]
    return found


def _cluster_wide(config: MeshConfig) -> list[tuple[str, str, str]]:
    identity = f"linkerd-{config.namespaces.linkerd}-identity"
    found = [
        ("clusterroles", _RBAC, identity),
        ("clusterrolebindings", _RBAC, identity),
        ("customresourcedefinitions", "apiextensions.k8s.io", "servers.policy.linkerd.io"),
        ("mutatingwebhookconfigurations", _ADMISSION, "linkerd-proxy-injector-webhook-config"),
        ("validatingwebhookconfigurations", _ADMISSION, "linkerd-sp-validator-webhook-config"),
    ]
    if config.viz.enabled:
        found.append(("apiservices", "apiregistration.k8s.io", "v1alpha1.tap.linkerd.io"))
    return found


_Verbs = tuple[str, str, tuple[str, ...]]
"""Verbs on a resource (first) of a group (second)."""


def _namespaced(config: MeshConfig) -> dict[str, list[_Verbs]]:
    names, facts = config.namespaces, release_facts(config.linkerd)
    # Kubernetes no longer serves batch/v1beta1, and `mesh.helm.values` turns such a heartbeat off.
    has_heartbeat = not facts.has_beta_heartbeat
    released: list[_Verbs] = [
        ("serviceaccounts", "", _WRITES),
        ("services", "", _WRITES),
        ("deployments", "apps", _WRITES),
        # Helm's records.
        ("secrets", "", ("create", "get", "update", "delete")),
        # What is listed while a release comes up.
        ("deployments", "apps", ("list",)),
        ("replicasets", "apps", ("list",)),
    ]
    config_maps: list[_Verbs] = [("configmaps", "", _WRITES)]
    roles: list[_Verbs] = [("roles", _RBAC, _WRITES), ("rolebindings", _RBAC, _WRITES)]
    jobs: list[_Verbs] = [("jobs", "batch", _WRITES)]
    found: dict[str, list[_Verbs]] = {names.linkerd: [*released, *config_maps]}
    if has_heartbeat or config.viz.enabled:
        found[names.linkerd] += roles
    if has_heartbeat:
        found[names.linkerd] += [("cronjobs", "batch", _WRITES)]
    for extension, is_on in (
        (names.viz, config.viz.enabled),
        (names.jaeger, config.jaeger.enabled),
    ):
        if is_on:
            found[extension] = [
                *released,
                *config_maps,
                *(roles + jobs if facts.labels_extensions_by_job else []),
            ]
    if config.issuer == "cert-manager" and config.cert_manager.install:
        found[names.cert_manager] = [*released, *roles, *jobs]
    if config.traefik.enabled and config.traefik.install:
        found[names.traefik] = list(released)
    if config.emojivoto.enabled:
        found[names.emojivoto] = [
            ("serviceaccounts", "", ("create", "get", "patch")),
            ("services", "", ("create", "get", "patch", "list")),
            ("deployments", "apps", ("create", "get", "patch", "list")),
            ("daemonsets", "apps", ("list",)),
            ("statefulsets", "apps", ("list",)),
            ("pods", "", ("list",)),
        ]
    for secret in pull_secrets(config):
        place = found.setdefault(secret["metadata"]["namespace"], [])
        place.append(("secrets", "", ("create", "get", "patch")))
    return found


def denied_permissions(mesh: Mesh, more: Iterable[Permission] = ()) -> tuple[Permission, ...]:
    """What of it this identity may not do.

    Args:
        more: permissions that are asked for as well.
    """
    found = denied(mesh.cluster, [*permissions(mesh.config), *more])
    create = Permission("create", "namespaces")
    if create in found and _all_there(mesh):
        found.remove(create)
    return tuple(found)


def _all_there(mesh: Mesh) -> bool:
    """Whether a narrow role's namespaces were made before, as its bindings need them."""
    try:
        return all(
            mesh.cluster.get("v1", "Namespace", namespace["metadata"]["name"])
            for namespace in namespaces(mesh.config)
        )
    except ApiError:
        return False


# What Linkerd's charts own outside their namespaces, by name.
_LINKERD_GROUPS = ("linkerd.io", "policy.linkerd.io", "multicluster.linkerd.io")
_GATEWAY_GROUP = "gateway.networking.k8s.io"


def read_preflight(
    mesh: Mesh, releases: Sequence[Release], more: Iterable[Permission] = ()
) -> PreflightSnapshot:
    """Reads what preflight looks at.

    Args:
        more: permissions that are needed beside those of the mesh's releases.
    """
    server_clock, local_clock = mesh.cluster.clock(), datetime.now(UTC)
    lacking = denied_permissions(mesh, more)
    crds = list(mesh.cluster.list("apiextensions.k8s.io/v1", "CustomResourceDefinition"))
    owned = [
        Owned(name_of(crd), owner_of(crd), frozenset[str](CRDS_CHARTS))
        for crd in crds
        if crd["spec"]["group"] in _LINKERD_GROUPS[:2]
    ]
    for api_version, kind in (
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
        ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ):
        for obj in mesh.cluster.list(api_version, kind, labels="linkerd.io/control-plane-ns"):
            charts_of_it = frozenset[str](CONTROL_PLANE_CHARTS)
            owned.append(Owned(name_of(obj), owner_of(obj), charts_of_it))
    nodes = list(mesh.cluster.list("v1", "Node"))
    wanted = {str(name) for name in mesh.config.namespaces.model_dump().values()}
    there = {obj["metadata"]["name"]: obj for obj in mesh.cluster.list("v1", "Namespace")}
    installed = read_mesh_releases(mesh.cluster, mesh.config, releases)
    issuer = mesh.cluster.get("v1", "Secret", ISSUER_SECRET, mesh.config.namespaces.linkerd)
    return PreflightSnapshot(
        facts=ClusterFacts(
            mesh.cluster.version(),
            mesh.cluster.api_versions(),
            gateway_api_owner(crds, mesh.config, installed),
        ),
        server_clock=server_clock,
        local_clock=local_clock,
        denied=lacking,
        owned=tuple(owned),
        releases=tuple(releases),
        terminating=tuple(
            name_of(obj)
            for obj in there.values()
            if obj["metadata"]["name"] in wanted and obj["metadata"].get("deletionTimestamp")
        ),
        unready_nodes=sum(not is_ready(node) for node in nodes),
        nodes=len(nodes),
        installed=installed,
        foreign_namespaces=tuple(_foreign_namespaces(mesh.config, there)),
        issuer_owner=owner_of(issuer) if issuer is not None else None,
    )


def _foreign_namespaces(
    config: MeshConfig, there: Mapping[str, Object]
) -> Iterator[ForeignNamespace]:
    for wanted in namespaces(config):
        found = there.get(wanted["metadata"]["name"])
        owner = foreign_owner(wanted, found, config)
        if found is not None and owner is not None and (lacking := lacks(wanted, found)):
            yield ForeignNamespace(name_of(wanted), owner, tuple(lacking))


def gateway_api_owner(crds: Iterable[Object], config: MeshConfig, installed: MeshReleases) -> str:
    """Who owns the Gateway API's CRDs, as `ClusterFacts` has it; the mesh's own by its chart."""
    # Somebody else's first: a mixture must not be overwritten.
    own = f"{config.namespaces.linkerd}/linkerd-crds"
    owners = [owner_of(crd) for crd in crds if crd["spec"]["group"] == _GATEWAY_GROUP]
    ref = installed.ref("linkerd-crds")
    names = [
        own if ref is not None and owner.release == ref else str(owner.release or owner)
        for owner in owners
    ]
    return next((name for name in names if name != own), next(iter(names), ""))


def preflight(
    snapshot: PreflightSnapshot, config: MeshConfig, charts: Sequence[Chart]
) -> list[Finding]:
    """Everything that blocks installing this mesh on this cluster."""
    return [
        *_kubernetes(snapshot, charts),
        *_permissions(snapshot),
        *_owners(snapshot, config, charts),
        *_driven(snapshot, charts),
        *_namespaces(snapshot),
        *_issuer(snapshot, config),
        *_releases(snapshot, config, charts),
        *(
            Finding("pl-combination", "error", unfit.subject, unfit.message, unfit.remedy)
            for unfit in check_combination(config, snapshot.facts)
        ),
        *(
            Finding(
                "pre-ns",
                "error",
                subject,
                "it is being deleted",
                "Wait until it is gone, then run again.",
            )
            for subject in snapshot.terminating
        ),
    ]


def _kubernetes(snapshot: PreflightSnapshot, charts: Sequence[Chart]) -> list[Finding]:
    found: list[Finding] = []
    version = snapshot.facts.version
    for chart in charts:
        if allows_kubernetes(chart.kube_version, version) is False:
            found.append(
                Finding(
                    "k8s-version",
                    "error",
                    f"chart {chart.name} {chart.version}",
                    f"it needs Kubernetes {chart.kube_version}, and this is {version}",
                    "Choose a Linkerd version for this Kubernetes, or upgrade Kubernetes.",
                )
            )
    skew = abs(snapshot.server_clock - snapshot.local_clock)
    if skew > MAX_CLOCK_SKEW:
        found.append(
            Finding(
                "pre-k8s-clock-skew",
                "error",
                "clock",
                f"the API server's and this machine's differ by {skew.total_seconds():.0f} s",
                "Set the clocks (NTP): certificates made here would not be valid there.",
            )
        )
    if not snapshot.nodes or snapshot.unready_nodes == snapshot.nodes:
        found.append(
            Finding(
                "k8s-api",
                "error",
                "nodes",
                "none is Ready" if snapshot.nodes else "there is none",
                "Fix the nodes first: no pod could run.",
            )
        )
    elif snapshot.unready_nodes:
        found.append(
            Finding(
                "k8s-api",
                "warning",
                "nodes",
                f"{snapshot.unready_nodes} of {snapshot.nodes} are not Ready",
                "Look at them: rollouts may wait for them.",
            )
        )
    return found


def _permissions(snapshot: PreflightSnapshot) -> list[Finding]:
    if not snapshot.denied:
        return []
    return [
        Finding(
            "pre-k8s-cluster-k8s",
            "error",
            "permissions",
            in_words(snapshot.denied),
            GRANT,
        )
    ]


def _owners(
    snapshot: PreflightSnapshot, config: MeshConfig, charts: Sequence[Chart]
) -> list[Finding]:
    """CRDs and cluster-wide objects of Linkerd that are not this mesh's own releases'."""
    installing = {chart.name for chart in charts}
    own = {ReleaseRef(name, config.namespaces.linkerd) for name in installing}
    own |= {ref for name in installing if (ref := snapshot.installed.ref(name)) is not None}
    foreign: dict[tuple[str, str], list[str]] = {}
    for item in snapshot.owned:
        # A release that something else drives is named by `_driven`.
        if item.charts & installing and item.owner.release not in own:
            key = _in_words(item.owner), _existing_remedy(item.owner)
            foreign.setdefault(key, []).append(item.subject)
    return [
        Finding(
            "pre-l5d-existence",
            "error",
            subjects[0] + (f" and {len(subjects) - 1} more" if len(subjects) > 1 else ""),
            f"Linkerd is there already, owned by {owner}",
            remedy,
        )
        for (owner, remedy), subjects in sorted(foreign.items())
    ]


def _existing_remedy(owner: Owner) -> str:
    """What to do about a Linkerd that this mesh's releases do not own."""
    if owner.release is not None:
        return (
            "Name the namespaces of that one in the configuration, or uninstall it; "
            "a 2.11 release becomes 2.12 by the upgrade flow."
        )
    if owner.reconciles:
        return "Install and upgrade Linkerd there, or remove it there first."
    return "Uninstall it first: these flows write Helm releases alone, and this is not one."


def _in_words(owner: Owner) -> str:
    """An owner as upgrade's plan compares it: a plain Helm release by its reference alone."""
    return str(owner.release) if owner.by == "Helm" else str(owner)


def _driven(snapshot: PreflightSnapshot, charts: Sequence[Chart]) -> list[Finding]:
    """Parts of the mesh that Flux, Argo CD, Terraform or the like would bring back."""
    planned = {chart.name for chart in charts}
    if "linkerd-control-plane" in planned:
        # 2.11's release, of which an upgrade makes two.
        planned.add("linkerd2")
    found: dict[str, list[str]] = {}
    for part, owner in snapshot.installed.owners.items():
        if part in planned and owner.reconciles:
            found.setdefault(str(owner), []).append(part)
    return [
        Finding(
            "pl-owner",
            "error",
            ", ".join(parts),
            f"it belongs to {owner}, which undoes what others write",
            "Change it there. verify_mesh, check_certificates and smoke_test work on this mesh as "
            "it is.",
        )
        for owner, parts in sorted(found.items())
    ]


def _namespaces(snapshot: PreflightSnapshot) -> list[Finding]:
    return [
        Finding(
            "pl-owner",
            "error",
            item.subject,
            f"it belongs to {item.owner} and lacks what Linkerd needs",
            f"Set there: {', '.join(item.lacking)}.",
        )
        for item in snapshot.foreign_namespaces
    ]


def _issuer(snapshot: PreflightSnapshot, config: MeshConfig) -> list[Finding]:
    """An issuer mode that would give the issuer's Secret two owners."""
    owner = snapshot.issuer_owner
    subject = f"Secret/{config.namespaces.linkerd}/{ISSUER_SECRET}"
    if owner is None or owner.by == "cert-manager" or config.issuer == "self-signed":
        return []
    if owner.release is None:
        return []
    return [
        Finding(
            "pl-owner",
            "error",
            subject,
            f"it belongs to {owner}, and cert-manager would write it as well",
            "Set issuer to self-signed: the issuer is then renewed through that release.",
        )
    ]


def _releases(
    snapshot: PreflightSnapshot, config: MeshConfig, charts: Sequence[Chart]
) -> list[Finding]:
    """Releases that bootstrap must not touch: of another mesh, or of another Linkerd version."""
    found: list[Finding] = []
    wanted = {chart.name: chart for chart in charts}
    own = {release.ref for release in snapshot.installed.releases.values()}
    for name in ("cert-manager", "traefik"):
        if (dependency := own_release(name, config, snapshot.releases)) is not None:
            own.add(dependency.ref)
    for release in snapshot.releases:
        chart = next((c for name, c in wanted.items() if name == release.chart), None)
        if chart is None:
            continue
        subject = f"Helm release {release.namespace}/{release.name}"
        if chart.name in CONTROL_PLANE_CHARTS and release.ref not in own:
            found.append(
                Finding(
                    "pre-l5d-existence",
                    "error",
                    subject,
                    f"it is a Linkerd of another namespace ({release.chart} in {release.place})",
                    f"A cluster can have one control plane: set namespaces.linkerd to "
                    f"{release.place}, or uninstall that one.",
                )
            )
        elif (
            release.ref in own
            and release.chart_version != chart.version
            and not has_newer_crds(
                (release.chart, release.chart_version), (chart.name, chart.version)
            )
            and release.status == "deployed"
        ):
            found.append(
                Finding(
                    "pl-version",
                    "error",
                    subject,
                    f"chart version {release.chart_version} is installed, "
                    f"and {config.linkerd} is {chart.version}",
                    "Set version to the installed release"
                    + (f" ({release.app_version})" if release.app_version else "")
                    + ", or use the upgrade flow.",
                )
            )
    return found
