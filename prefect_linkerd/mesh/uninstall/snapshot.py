"""Reads everything that the plan of an uninstall depends on; changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import PreflightFailed
from prefect_linkerd.mesh.helm.cert_manager import CERT_MANAGER
from prefect_linkerd.mesh.helm.installed import PARTS, MeshReleases, read_mesh_releases
from prefect_linkerd.mesh.helm.ownership import (
    OURS,
    Owner,
    decide,
    owner_of,
    owner_of_release,
    release_of,
)
from prefect_linkerd.mesh.helm.records import (
    RESOURCE_POLICY,
    Release,
    ReleaseRef,
    read_releases,
    revisions,
)
from prefect_linkerd.mesh.identity.issuer import cert_manager_objects
from prefect_linkerd.mesh.identity.trust_anchor import ANCHOR_SECRET, ISSUER_SECRET
from prefect_linkerd.mesh.install.dependencies import KINDS as DEPENDENCIES
from prefect_linkerd.mesh.install.dependencies import releases_of
from prefect_linkerd.mesh.install.ingress import API_VERSIONS, AUTH_SECRET
from prefect_linkerd.mesh.install.namespaces import namespaces
from prefect_linkerd.mesh.install.registry import pull_secrets
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object, name_of
from prefect_linkerd.mesh.kubernetes.permissions import GRANT, Permission, denied, in_words
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import RECORD as ROTATION
from prefect_linkerd.mesh.records.rotation import record_of as rotation_of
from prefect_linkerd.mesh.records.upgrade import NAME as UPGRADE
from prefect_linkerd.mesh.records.upgrade import record_of as upgrade_of
from prefect_linkerd.mesh.restarts import read_proxies
from prefect_linkerd.mesh.uninstall.options import UninstallOptions
from prefect_linkerd.mesh.uninstall.plan import CRD, Member, UninstallPlan, UninstallSnapshot

CRDS = "apiextensions.k8s.io/v1"
HELM = "helm.sh/release.v1"
APPLICATION = (("v1", "ServiceAccount"), ("v1", "Service"), ("apps/v1", "Deployment"))
"""The kinds of the demo application's objects."""

CONTENT = (
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("batch/v1", "CronJob"),
    ("batch/v1", "Job"),
    ("v1", "Service"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
)
"""Kinds that are looked for in a namespace before it is deleted with everything in it."""

_CLUSTERS_OWN = ("kube-root-ca.crt",)
_PARALLEL = 8


def uninstall_reads(config: MeshConfig, options: UninstallOptions) -> list[Permission]:
    """The permissions that reading the input of a plan needs."""
    names = config.namespaces
    found = [
        Permission("list", "secrets"),
        Permission("list", "pods"),
        Permission("list", "namespaces"),
        *(
            Permission("list", "deployments", "apps", place)
            for place in config.namespaces.of_linkerd
        ),
        Permission("list", "customresourcedefinitions", "apiextensions.k8s.io"),
        Permission("get", "configmaps", namespace=names.linkerd, name=ROTATION),
    ]
    if config.emojivoto.enabled:
        found += [
            Permission("list", "services", namespace=names.emojivoto),
            Permission("list", "serviceaccounts", namespace=names.emojivoto),
            Permission("list", "deployments", "apps", names.emojivoto),
        ]
    if options.namespaces:
        found += [
            Permission("list", resource, namespace=place)
            for resource in ("configmaps", "services")
            for place in _places(config)
        ]
    return found


def _places(config: MeshConfig) -> list[str]:
    """The configuration's namespaces, including the control plane's."""
    made = [namespace["metadata"]["name"] for namespace in namespaces(config)]
    return list(dict.fromkeys([*made, config.namespaces.linkerd]))


def read_uninstall(mesh: Mesh, options: UninstallOptions, key: str) -> UninstallSnapshot:
    """Reads what the plan of an uninstall needs.

    Args:
        key: where the trust anchor's private key is, in words.

    Raises:
        PreflightFailed: reading is not allowed; names every missing permission.
    """
    cluster, config = mesh.cluster, mesh.config
    if denied(cluster, uninstall_reads(config, options)):
        # The releases' objects are unknown, but the writes of every uninstall are known.
        linkerd = config.namespaces.linkerd
        writes = [
            Permission("create", "configmaps", namespace=linkerd),
            *(
                Permission(verb, "configmaps", namespace=linkerd, name=ROTATION)
                for verb in ("update", "delete")
            ),
            *(
                Permission(verb, "secrets", namespace=linkerd)
                for verb in ("get", "update", "patch", "delete")
            ),
            Permission("delete", "deployments", "apps", linkerd),
        ]
        lacking = denied(cluster, [*uninstall_reads(config, options), *writes])
        raise PreflightFailed(
            f"uninstall of mesh {config.name}",
            expected="the permissions to read and uninstall it",
            found=in_words(lacking),
            remedy=GRANT,
        )
    names = config.namespaces
    releases = read_releases(cluster)
    installed = read_mesh_releases(cluster, config, releases, parts=PARTS)
    dependencies = tuple(r for name in DEPENDENCIES for r in releases_of(name, releases))
    members = {
        release.ref: _members(cluster, release)
        for release in _removable(installed, dependencies, options)
    }
    own = _own(mesh)
    crds = list(cluster.list(CRDS, CRD))
    left = _left_crds(crds, releases, names.linkerd)
    records = [cluster.get("v1", "ConfigMap", name, names.linkerd) for name in (ROTATION, UPGRADE)]
    there = _namespaces(mesh)
    return UninstallSnapshot(
        config=config,
        installed=installed,
        members=members,
        dependencies=dependencies,
        own=own,
        left_crds=left,
        certified=_certified(cluster, own),
        records=tuple(obj for obj in records if obj is not None and owner_of(obj) == OURS),
        namespaces=there,
        injected=_injected(cluster, names.linkerd),
        resources=_resources(cluster, crds, members, left) if options.crds else {},
        users=_users(cluster) if options.dependencies else {},
        content=_content(cluster, there, installed, members, own) if options.namespaces else {},
        keys=_keys(mesh),
        key=key,
        rotation=rotation_of(records[0]),
        upgrade=upgrade_of(records[1]),
    )


def _removable(
    installed: MeshReleases, dependencies: Iterable[Release], options: UninstallOptions
) -> Iterator[Release]:
    """The releases whose objects are read: those that these flows may uninstall."""
    for part, release in installed.releases.items():
        if decide(installed.owners[part], "mesh") != "theirs":
            yield release
    for release in dependencies:
        if release.chart in options.dependencies and (
            decide(owner_of_release(release), "shared") != "theirs"
        ):
            yield release


def _members(cluster: Cluster, release: Release) -> tuple[Member, ...]:
    """The objects of a release's newest revision, with the owners of those that exist."""
    found = revisions(cluster, release.name, release.namespace)
    if not found:
        return ()
    newest = max(found, key=lambda revision: revision.number)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        return tuple(pool.map(partial(_member, cluster, release), newest.manifest))


def _member(cluster: Cluster, release: Release, obj: Object) -> Member:
    metadata: dict[str, Any] = obj["metadata"]
    api_version, kind, name = obj["apiVersion"], obj["kind"], metadata["name"]
    resource = cluster.resource(api_version, kind)
    if resource is None:
        return Member(f"{kind}/{name}", kind, name, None)
    place = metadata.get("namespace", release.target) if resource.namespaced else None
    subject = "/".join(part for part in (kind, place, name) if part)
    live = cluster.get(api_version, kind, name, place)
    annotations: Mapping[str, str] = metadata.get("annotations") or {}
    owner: Owner | None = owner_of(live) if live is not None else None
    return Member(
        subject,
        kind,
        name,
        owner,
        is_kept=annotations.get(RESOURCE_POLICY) == "keep",
        permission=Permission(
            "delete", resource.plural, api_version.rpartition("/")[0], place or "", name
        ),
    )


def _own(mesh: Mesh) -> tuple[Object, ...]:
    """Live objects of the kinds and names that bootstrap makes outside Helm's releases."""
    cluster, config = mesh.cluster, mesh.config
    names = config.namespaces
    found: list[Object] = []
    for api_version in API_VERSIONS:
        for kind in ("IngressRoute", "Middleware"):
            for place in {names.emojivoto, names.viz} & {*_places(config)}:
                found += _ours(cluster.list(api_version, kind, place))
    if config.emojivoto.enabled:
        for api_version, kind in APPLICATION:
            found += _ours(cluster.list(api_version, kind, names.emojivoto))
    wanted: list[Object] = []
    if config.issuer == "cert-manager":
        # Certificates before their issuers.
        wanted = sorted(cert_manager_objects(config), key=lambda obj: obj["kind"])
    wanted += pull_secrets(config)
    wanted += [_secret(AUTH_SECRET, names.viz)] if config.viz.enabled else []
    wanted.append(_secret(ISSUER_SECRET, names.linkerd))
    for obj in wanted:
        metadata = obj["metadata"]
        live = cluster.get(
            obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace")
        )
        # A release's objects are deleted with it; a Certificate's Secret is left to `_certified`.
        if live is not None and owner_of(live).by not in ("Helm", "cert-manager"):
            found.append(live)
    return tuple(found)


def _ours(objects: Iterable[Object]) -> Iterator[Object]:
    return (obj for obj in objects if owner_of(obj) == OURS)


def _secret(name: str, namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
    }


def _certified(cluster: Cluster, own: Sequence[Object]) -> tuple[Object, ...]:
    """Secrets that cert-manager made for our Certificates; never one with a trust anchor's key."""
    found: list[Object] = []
    for obj in own:
        if (obj["apiVersion"], obj["kind"]) != (CERT_MANAGER, "Certificate"):
            continue
        name = str(obj["spec"].get("secretName", ""))
        if owner_of(obj) != OURS or not name or name.startswith(ANCHOR_SECRET):
            continue
        secret = cluster.get("v1", "Secret", name, obj["metadata"]["namespace"])
        if secret is not None and owner_of(secret).by == "cert-manager":
            found.append(secret)
    return tuple(found)


def _keys(mesh: Mesh) -> tuple[str, ...]:
    """Secrets with keys of trust anchors: the current anchor's, and those of a rotation."""
    config = mesh.config
    return tuple(
        f"Secret/{obj['metadata']['namespace']}/{obj['metadata']['name']}"
        for place in sorted({config.anchor_namespace, config.namespaces.linkerd})
        for obj in mesh.cluster.list("v1", "Secret", place, metadata_only=True)
        if obj["metadata"]["name"].startswith(ANCHOR_SECRET)
    )


def _namespaces(mesh: Mesh) -> dict[str, Object]:
    """The mesh's namespaces that exist; the control plane's last, because it has the lease."""
    names = mesh.config.namespaces
    order = [
        names.emojivoto,
        names.jaeger,
        names.viz,
        names.traefik,
        names.cert_manager,
        names.linkerd,
    ]
    there = {obj["metadata"]["name"]: obj for obj in mesh.cluster.list("v1", "Namespace")}
    known = there.keys() & {*_places(mesh.config)}
    return {name: there[name] for name in dict.fromkeys(order) if name in known}


def _injected(cluster: Cluster, control_plane: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for pod in read_proxies(cluster, control_plane):
        subject = "/".join(pod.owner) if pod.owner is not None else pod.subject
        found.setdefault(pod.namespace, set()).add(subject)
    return {namespace: tuple(sorted(subjects)) for namespace, subjects in found.items()}


def _left_crds(
    crds: Iterable[Object], releases: Iterable[Release], namespace: str
) -> tuple[Object, ...]:
    """CRDs of Linkerd's charts whose release in the mesh's namespace is gone."""
    there = {(release.name, release.target) for release in releases}
    found: list[Object] = []
    for obj in crds:
        annotations: Mapping[str, str] = obj["metadata"].get("annotations") or {}
        ref = release_of(annotations)
        if ref is None or ref.namespace != namespace or (ref.name, ref.namespace) in there:
            continue
        if annotations.get(RESOURCE_POLICY) == "keep":
            # The chart marks the Gateway API's CRDs so, because others may use them.
            continue
        # One that is being deleted stays until its objects are gone.
        if "linkerd.io/created-by" in annotations and "deletionTimestamp" not in obj["metadata"]:
            found.append(obj)
    return tuple(found)


def _resources(
    cluster: Cluster,
    crds: Iterable[Object],
    members: Mapping[ReleaseRef, Sequence[Member]],
    left: Iterable[Object],
) -> dict[str, tuple[str, ...]]:
    """Custom resources of the CRDs that may be deleted, except those that a release contains."""
    ours = {m.name for each in members.values() for m in each if m.kind == CRD and m.owner}
    ours |= {obj["metadata"]["name"] for obj in left}
    own = {m.subject for each in members.values() for m in each}
    found: dict[str, tuple[str, ...]] = {}
    for obj in crds:
        name = obj["metadata"]["name"]
        if name not in ours:
            continue
        spec = obj["spec"]
        served = next(v["name"] for v in spec["versions"] if v["served"])
        objects = cluster.list(
            f"{spec['group']}/{served}", spec["names"]["kind"], metadata_only=True
        )
        subjects = (name_of(each) for each in objects)
        found[name] = tuple(subject for subject in subjects if subject not in own)
    return found


def _users(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    """Objects that use cert-manager or Traefik and are not ours."""
    return {
        name: tuple(
            name_of(obj)
            for api_version, kind in kinds
            for obj in cluster.list(api_version, kind)
            if owner_of(obj) != OURS
        )
        for name, kinds in DEPENDENCIES.items()
    }


def _content(
    cluster: Cluster,
    there: Mapping[str, Object],
    installed: MeshReleases,
    members: Iterable[ReleaseRef],
    own: Sequence[Object],
) -> dict[str, tuple[str, ...]]:
    # Objects of releases do not count: `plan` keeps a namespace whose release stays.
    refs = {(r.name, r.target) for r in installed.releases.values()}
    refs |= {(ref.name, ref.namespace) for ref in members}
    known = {name_of(obj) for obj in own}

    def is_known(obj: Object) -> bool:
        owner = owner_of(obj)
        if owner == OURS or owner.by == "controller" or name_of(obj) in known:
            return True
        if owner.by == "cert-manager" or obj["metadata"]["name"] in _CLUSTERS_OWN:
            return True
        return owner.release is not None and (owner.release.name, owner.release.namespace) in refs

    def read(name: str) -> tuple[str, ...]:
        return tuple(
            name_of(obj)
            for api_version, kind in CONTENT
            for obj in cluster.list(api_version, kind, name)
            if obj.get("type") not in (HELM, "kubernetes.io/service-account-token")
            and not is_known(obj)
        )

    return {name: read(name) for name, obj in there.items() if owner_of(obj) == OURS}


def uninstall_permissions(
    cluster: Cluster, plan: UninstallPlan, snapshot: UninstallSnapshot
) -> list[Permission]:
    """The permissions that are checked before the first change."""
    linkerd = snapshot.config.namespaces.linkerd
    found = [
        Permission(verb, "configmaps", namespace=linkerd, name=ROTATION)
        for verb in ("update", "delete")
        if plan.goes
    ]
    if plan.goes and plan.has_lease and not snapshot.records:
        found.append(Permission("create", "configmaps", namespace=linkerd))
    for gone in plan.goes:
        if gone.release is not None:
            place = gone.release.namespace
            verbs = ("get", "list", "update", "delete", *(["patch"] if gone.keeps else []))
            found += [Permission(verb, "secrets", namespace=place) for verb in verbs]
            found += [
                member.permission
                for member in snapshot.members.get(gone.release, ())
                if member.permission is not None
                and member.owner is not None
                and (member.kind, member.name) not in gone.keeps
            ]
            continue
        resource = cluster.resource(gone.api_version, gone.obj_kind)
        if resource is not None:
            group = gone.api_version.rpartition("/")[0]
            found.append(
                Permission("delete", resource.plural, group, gone.namespace or "", gone.name)
            )
    return found
