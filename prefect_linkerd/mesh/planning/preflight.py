"""Reads what decides whether a mesh can be installed; `checks/preflight.py` judges it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.helm.installed import MeshReleases, read_mesh_releases
from prefect_linkerd.mesh.helm.ownership import Owner, owner_of
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET
from prefect_linkerd.mesh.install.namespaces import foreign_owner, lacks, namespaces
from prefect_linkerd.mesh.install.registry import pull_secrets
from prefect_linkerd.mesh.kubernetes.client import Object, name_of
from prefect_linkerd.mesh.kubernetes.nodes import is_ready
from prefect_linkerd.mesh.kubernetes.permissions import Permission, denied
from prefect_linkerd.mesh.linkerd.facts import (
    CONTROL_PLANE_CHARTS,
    CRDS_CHARTS,
    GATEWAY_API,
    release_facts,
)
from prefect_linkerd.mesh.mesh import Mesh


@dataclass(frozen=True)
class Owned:
    """An existing object that one of these charts would write, and who owns it."""

    subject: str
    owner: Owner
    charts: frozenset[str]


@dataclass(frozen=True)
class ForeignNamespace:
    """Somebody else's namespace that lacks labels or annotations that Linkerd needs."""

    subject: str
    owner: Owner
    lacking: tuple[str, ...]


NOTHING = MeshReleases({}, {})
CRD = "CustomResourceDefinition"
READERS = 6
"""The number of concurrent reads."""


@dataclass(frozen=True)
class PreflightSnapshot:
    """What preflight judges. `denied` are the permissions that the run's Kubernetes user lacks.

    `releases` are those of the whole cluster, `installed` the mesh's own among them; `issuer_owner`
    owns the issuer's Secret.
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
    """Something that preflight or a plan found. `id` is `linkerd check`'s where it has one.

    `acceptable` says whether a person may accept it with the flow's parameter `accept`.
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
    """The permissions that bootstrap needs with this configuration, whatever the charts' versions.

    Outside the mesh's namespaces one object stands for all of its kind, with a name that every
    Linkerd version has: a role may list objects by name (`deployments.roles`), and then allows
    nothing without a name. Whether the user may grant what the charts' roles grant is left to the
    API server.
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
            # Helm's records are listed in every namespace, to find foreign releases.
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
"""A resource, its API group, and verbs on it."""


def _namespaced(config: MeshConfig) -> dict[str, list[_Verbs]]:
    names, facts = config.namespaces, release_facts(config.linkerd)
    # Kubernetes no longer serves batch/v1beta1, so `mesh.helm.values` turns such a heartbeat off.
    has_heartbeat = not facts.has_beta_heartbeat
    released: list[_Verbs] = [
        ("serviceaccounts", "", _WRITES),
        ("services", "", _WRITES),
        ("deployments", "apps", _WRITES),
        # Helm's records.
        ("secrets", "", ("create", "get", "update", "delete")),
        # Listed while waiting for a release to become ready.
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
            found[extension] = [*released, *config_maps]
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
    """The permissions that the run's Kubernetes user needs and lacks.

    Args:
        more: further permissions to check.
    """
    found = denied(mesh.cluster, [*permissions(mesh.config), *more])
    create = Permission("create", "namespaces")
    if create in found and _all_there(mesh):
        found.remove(create)
    return tuple(found)


def _all_there(mesh: Mesh) -> bool:
    """Whether all namespaces exist, as they have to before a narrow role's bindings can."""
    try:
        return all(
            mesh.cluster.get("v1", "Namespace", namespace["metadata"]["name"])
            for namespace in namespaces(mesh.config)
        )
    except ApiError:
        return False


def is_in_crds_chart(group: str) -> bool:
    """Whether CRDs of an API group come with chart linkerd-crds: Linkerd's own, now and later.

    Those of multicluster come with its extension's chart.
    """
    is_linkerds = group == "linkerd.io" or group.endswith(".linkerd.io")
    return is_linkerds and group != "multicluster.linkerd.io"


def read_preflight(
    mesh: Mesh, releases: Sequence[Release], more: Iterable[Permission] = ()
) -> PreflightSnapshot:
    """Reads what preflight judges.

    Args:
        more: permissions that are needed besides those for the mesh's releases.
    """
    cluster = mesh.cluster
    server_clock, local_clock = cluster.clock(), datetime.now(UTC)

    def linkerds(api_version: str, kind: str) -> list[Object]:
        return list(cluster.list(api_version, kind, labels="linkerd.io/control-plane-ns"))

    # These reads are independent, and each waits for the API server.
    with ThreadPoolExecutor(READERS) as pool:
        asked = pool.submit(denied_permissions, mesh, more)
        listed = pool.submit(lambda: list(cluster.list("apiextensions.k8s.io/v1", CRD)))
        cluster_wide = [
            pool.submit(linkerds, api_version, kind)
            for api_version, kind in (
                ("rbac.authorization.k8s.io/v1", "ClusterRole"),
                ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
                ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
            )
        ]
        machines = pool.submit(lambda: list(cluster.list("v1", "Node")))
        places = pool.submit(lambda: list(cluster.list("v1", "Namespace")))
        found = pool.submit(read_mesh_releases, cluster, mesh.config, releases)
        secret = pool.submit(
            cluster.get, "v1", "Secret", ISSUER_SECRET, mesh.config.namespaces.linkerd
        )
        version, served = pool.submit(cluster.version), pool.submit(cluster.api_versions)
        lacking, crds, nodes = asked.result(), listed.result(), machines.result()
        of_linkerd = [obj for each in cluster_wide for obj in each.result()]
        there = {obj["metadata"]["name"]: obj for obj in places.result()}
        installed, issuer = found.result(), secret.result()
        facts = ClusterFacts(
            version.result(), served.result(), gateway_api_owner(crds, mesh.config, installed)
        )
    owned = [
        Owned(name_of(crd), owner_of(crd), frozenset[str](CRDS_CHARTS))
        for crd in crds
        if is_in_crds_chart(crd["spec"]["group"])
    ]
    owned += [
        Owned(name_of(obj), owner_of(obj), frozenset[str](CONTROL_PLANE_CHARTS))
        for obj in of_linkerd
    ]
    wanted = {str(name) for name in mesh.config.namespaces.model_dump().values()}
    return PreflightSnapshot(
        facts=facts,
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
    """Who owns the Gateway API's CRDs, as `ClusterFacts` names them; empty if there are none.

    The mesh's own release is named after its chart, whatever the release is called.
    """
    # Other owners come first: CRDs of mixed ownership must not be overwritten.
    own = f"{config.namespaces.linkerd}/linkerd-crds"
    owners = [owner_of(crd) for crd in crds if crd["spec"]["group"] == GATEWAY_API]
    ref = installed.ref("linkerd-crds")
    names = [
        own if ref is not None and owner.release == ref else str(owner.release or owner)
        for owner in owners
    ]
    return next((name for name in names if name != own), next(iter(names), ""))
