"""A whole mesh read once: the immutable snapshot that every check evaluates.

Each part is one paged list (or a few objects by name). Parts are read concurrently, and only what
checks look at is kept of large objects. A part that cannot be read, because a permission is missing
or there is no response, does not stop the others: accessing it raises its error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import yaml
from pydantic import SecretStr

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.helm.client import DesiredRelease
from prefect_linkerd.mesh.helm.installed import MeshReleases, read_mesh_releases
from prefect_linkerd.mesh.helm.ownership import owner_of
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.helm.rehearsal import made_by_rehearsal
from prefect_linkerd.mesh.identity.certificate_anchor import AnchorOwner, read_anchor_owner
from prefect_linkerd.mesh.identity.trust_anchor import (
    ISSUER_SECRET,
    TRUST_ROOTS,
    bundle_of,
    read_roots,
    secret_text,
)
from prefect_linkerd.mesh.install.injection import CONTROL_PLANE_NS, PROXY
from prefect_linkerd.mesh.install.namespaces import EXTERNAL_PROMETHEUS
from prefect_linkerd.mesh.kubernetes.client import PAGE, Cluster, Object
from prefect_linkerd.mesh.kubernetes.collector import paused_collector
from prefect_linkerd.mesh.kubernetes.manifests import read_yaml
from prefect_linkerd.mesh.kubernetes.nodes import is_ready, runs_containers
from prefect_linkerd.mesh.kubernetes.objects import Workload, owner_of_pod
from prefect_linkerd.mesh.kubernetes.permissions import Permission
from prefect_linkerd.mesh.kubernetes.rollout import KINDS, LONG_RUNNING, rollout_status
from prefect_linkerd.mesh.kubernetes.stall import FAILED_CREATE, refusal_of, refusals
from prefect_linkerd.mesh.linkerd.facts import GATEWAY_API
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import is_key_of
from prefect_linkerd.mesh.planning.desired import wanted_releases
from prefect_linkerd.mesh.planning.preflight import denied_permissions
from prefect_linkerd.mesh.records.rotation import RECORD as ROTATION
from prefect_linkerd.mesh.records.upgrade import NAME as UPGRADE
from prefect_linkerd.mesh.snapshot.part import Read
from prefect_linkerd.mesh.snapshot.proxy_metrics import (
    Prometheus,
    ProxySample,
    choose_sample,
    read_prometheus,
    read_proxy_metrics,
)
from prefect_linkerd.mesh.snapshot.webhooks import WebhookSigner, read_webhook_signers, webhooks_of

READERS = 6
"""Parts that are read at the same time."""

TRUST_ANCHORS = "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS"
INBOUND_POLICY = "LINKERD2_PROXY_INBOUND_DEFAULT_POLICY"
CNI_NAMESPACE = "linkerd-cni"
"""Where the CNI plugin's chart is installed, and where `linkerd check` looks for it by default."""
EXTENSION = "linkerd.io/extension"

POLICY_KINDS: tuple[tuple[str, str], ...] = (
    ("policy.linkerd.io", "Server"),
    ("policy.linkerd.io", "ServerAuthorization"),
    ("policy.linkerd.io", "AuthorizationPolicy"),
    ("policy.linkerd.io", "MeshTLSAuthentication"),
    ("policy.linkerd.io", "NetworkAuthentication"),
    ("policy.linkerd.io", "HTTPRoute"),
    (GATEWAY_API, "HTTPRoute"),
    (GATEWAY_API, "GRPCRoute"),
)
INGRESS_KINDS: tuple[tuple[str, str], ...] = (
    ("networking.k8s.io", "Ingress"),
    ("traefik.io", "IngressRoute"),
    ("traefik.io", "Middleware"),
    ("traefik.containo.us", "IngressRoute"),
    ("traefik.containo.us", "Middleware"),
)


@dataclass(frozen=True, slots=True)
class Container:
    """A container or init container of a pod, with its status.

    `trouble` says why it waits or how it failed, and is empty otherwise; `ports` are pairs of name
    and number; `has_udp` says whether one of them is UDP, which keeps the pod from being injected.
    """

    name: str
    image: str
    ready: bool
    is_init: bool
    restarts: int = 0
    trouble: str = ""
    ports: tuple[tuple[str, int], ...] = ()
    has_udp: bool = False


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy of a meshed pod. `trust_bundle` is the PEM that it was injected with.

    The control plane's own proxies read ConfigMap `linkerd-identity-trust-roots` instead, so theirs
    is empty. `version` is the image's tag. `inbound_policy` is what it does with a connection that
    no policy covers, empty if that is not set.
    """

    image: str
    version: str
    trust_bundle: str
    ready: bool
    is_native: bool
    inbound_policy: str


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Pod:
    """What checks look at in a pod. `owner` is the workload that created it, None for a bare pod.

    `annotations` are only those of Linkerd and its extensions; `status` is what kubectl shows as
    STATUS; `reason` is the status's own, such as Evicted; `created` and `started` are None if
    unknown.
    """

    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    owner: Workload | None
    node: str
    service_account: str
    phase: str
    status: str
    reason: str
    ip: str
    host_network: bool
    is_ready: bool
    is_deleting: bool
    created: datetime | None
    started: datetime | None
    conditions: tuple[Condition, ...]
    containers: tuple[Container, ...]
    proxy: Proxy | None

    @property
    def subject(self) -> str:
        """How messages name it."""
        return f"Pod/{self.namespace}/{self.name}"

    @property
    def control_plane(self) -> str:
        """The namespace of the control plane that it is meshed with; empty if it is not meshed."""
        return self.labels.get(CONTROL_PLANE_NS, "")

    @property
    def is_over(self) -> bool:
        """Whether it has finished or is being deleted, so that nothing more is expected of it."""
        return self.is_deleting or self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class WorkloadState:
    """A Deployment, StatefulSet or DaemonSet: what its pod template asks for, and how far it is.

    `refusal` is why the API server refuses the pods of a Deployment; for the other kinds, only
    events say so, see `Snapshot.refusals`.
    """

    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    pod_annotations: Mapping[str, str]
    selector: Mapping[str, str]
    wanted: int
    ready: int
    is_complete: bool
    failure: str
    host_network: bool
    refusal: str = ""

    @property
    def subject(self) -> str:
        """How messages name it."""
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service; `target` is a number, a name, or None if it is the port itself."""

    name: str
    port: int
    target: int | str | None


@dataclass(frozen=True, slots=True)
class Service:
    """What checks look at in a Service; `Snapshot.endpoints` has the names of its ready pods."""

    namespace: str
    name: str
    type: str
    cluster_ip: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    selector: Mapping[str, str]
    ports: tuple[ServicePort, ...]
    has_address: bool

    @property
    def subject(self) -> str:
        """How messages name it."""
        return f"Service/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Certificates:
    """The public part of a Secret with a certificate; its private key is only compared.

    `has_matching_key` is None if there is no key, or if it cannot be read.
    """

    type: str
    keys: frozenset[str]
    certificate: str
    authority: str
    has_matching_key: bool | None
    is_cert_managers: bool = False
    """Whether cert-manager wrote it."""


class Snapshot:
    """A mesh and its cluster at one moment.

    `now` is the API server's clock and `local_now` this machine's. Objects are keyed by name,
    namespaced ones by `namespace/name`; custom resources of several groups by `(group, kind)`.
    `control_plane_values` is the content of ConfigMap `linkerd-config`: the values with which the
    chart is installed; None if there are none. `cluster_roles` and the like hold labels, by name.
    `releases` are the Helm releases in the mesh's namespaces, and wherever else its own may be;
    `installed` are the mesh's own among them, and their owners.
    `refusals` has the last reason for which a StatefulSet's or DaemonSet's pods were refused.
    `newest` is the newest Linkerd release of the mesh's channel in its chart source. `denied` are
    the permissions for an installation that this identity lacks; None if they were not checked.
    `anchor_owner` has the Certificate of the trust anchor, if cert-manager makes that.
    `webhook_signers` says what signs the webhooks' certificates.

    `unread` says why a part could not be read.

    Raises:
        MeshError: from any attribute whose part could not be read.
    """

    config: Read[MeshConfig] = Read()
    now: Read[datetime] = Read()
    local_now: Read[datetime] = Read()
    kubernetes: Read[str] = Read()
    api_versions: Read[frozenset[str]] = Read()
    namespaces: Read[Mapping[str, Object]] = Read()
    nodes: Read[tuple[Object, ...]] = Read()
    pods: Read[tuple[Pod, ...]] = Read()
    workloads: Read[tuple[WorkloadState, ...]] = Read()
    refusals: Read[Mapping[Workload, str]] = Read()
    replica_sets: Read[tuple[Object, ...]] = Read()
    services: Read[tuple[Service, ...]] = Read()
    endpoints: Read[Mapping[str, frozenset[str]]] = Read()
    config_maps: Read[Mapping[str, Object]] = Read()
    control_plane_values: Read[Mapping[str, Any] | None] = Read()
    trust_bundle: Read[str] = Read()
    service_accounts: Read[Mapping[str, Mapping[str, str]]] = Read()
    cluster_roles: Read[Mapping[str, Mapping[str, str]]] = Read()
    cluster_role_bindings: Read[Mapping[str, Mapping[str, str]]] = Read()
    role_bindings: Read[frozenset[str]] = Read()
    crds: Read[Mapping[str, Object]] = Read()
    mutating_webhooks: Read[Mapping[str, Object]] = Read()
    validating_webhooks: Read[Mapping[str, Object]] = Read()
    api_services: Read[Mapping[str, Object]] = Read()
    secrets: Read[Mapping[str, Certificates]] = Read()
    installed: Read[MeshReleases] = Read()
    releases: Read[tuple[Release, ...]] = Read()
    newest: Read[LinkerdVersion] = Read()
    denied: Read[tuple[Permission, ...] | None] = Read()
    policies: Read[Mapping[tuple[str, str], tuple[Object, ...]]] = Read()
    ingresses: Read[Mapping[tuple[str, str], tuple[Object, ...]]] = Read()
    certificates: Read[tuple[Object, ...]] = Read()
    anchor_owner: Read[AnchorOwner | None] = Read()
    webhook_signers: Read[tuple[WebhookSigner, ...]] = Read()
    wanted: Read[tuple[DesiredRelease, ...]] = Read()
    prometheus: Read[Prometheus | None] = Read()
    proxy_sample: Read[ProxySample] = Read()

    def __init__(self, parts: Mapping[str, object], unread: Mapping[str, MeshError]) -> None:
        """A snapshot of the parts that were read, with the errors of those that were not."""
        if missing := self.parts() - parts.keys() - unread.keys():
            raise TypeError(f"neither read nor failed: {', '.join(sorted(missing))}")
        self.unread = dict(unread)
        self._read = dict(parts)
        self.__dict__.update(parts)

    @classmethod
    def parts(cls) -> frozenset[str]:
        """The names of all parts."""
        return frozenset(name for name, part in vars(cls).items() if isinstance(part, Read))

    def why_unread(self, part: str) -> MeshError:
        return self.unread[part]

    def changed(self, **parts: object) -> Snapshot:
        """The same snapshot with some parts replaced."""
        unread = {k: v for k, v in self.unread.items() if k not in parts}
        return Snapshot(self._read | parts, unread)

    def narrowed(self, namespace: str) -> Snapshot:
        """The same snapshot with the applications of one namespace only, besides the mesh's own."""
        names = self.config.namespaces
        kept = {*names.of_linkerd, CNI_NAMESPACE, "kube-system", namespace}
        parts: dict[str, object] = {}
        if "pods" not in self.unread:
            parts["pods"] = tuple(pod for pod in self.pods if pod.namespace in kept)
        if "workloads" not in self.unread:
            parts["workloads"] = tuple(w for w in self.workloads if w.namespace in kept)
        return self.changed(**parts)

    @property
    def version(self) -> LinkerdVersion:
        """The version that the control plane runs; if unknown, the configured one."""
        is_known = "control_plane_values" not in self.unread
        values = (self.control_plane_values if is_known else None) or {}
        text = str(values.get("linkerdVersion") or values.get("controllerImageVersion") or "")
        return LinkerdVersion.find(text) or self.config.linkerd

    @property
    def is_rehearsal(self) -> bool:
        """Whether stand-ins for Linkerd's charts made the mesh, according to its own ConfigMaps."""
        if "config_maps" in self.unread:
            return False
        place = self.config.namespaces.linkerd
        own = (f"{place}/linkerd-config", f"{place}/{TRUST_ROOTS}")
        return made_by_rehearsal(*map(self.config_maps.get, own))

    @property
    def meshed(self) -> tuple[Pod, ...]:
        """The pods with a proxy of this mesh, including the control plane's own."""
        namespace = self.config.namespaces.linkerd
        return tuple(p for p in self.pods if p.proxy is not None and p.control_plane == namespace)

    @property
    def labelled(self) -> tuple[Pod, ...]:
        """The pods labelled as part of this mesh, with or without a proxy."""
        namespace = self.config.namespaces.linkerd
        return tuple(pod for pod in self.pods if pod.control_plane == namespace)

    def workload(self, kind: str, namespace: str, name: str) -> WorkloadState | None:
        wanted = (kind, namespace, name)
        return next((w for w in self.workloads if (w.kind, w.namespace, w.name) == wanted), None)

    @property
    def pods_run(self) -> bool:
        """Whether containers run on some ready node; False if all nodes are simulated."""
        return any(is_ready(node) and runs_containers(node) for node in self.nodes)

    def extension_namespace(self, extension: str) -> str | None:
        """The namespace of an extension, such as `viz`, by the label that linkerd finds it by."""
        for name, obj in sorted(self.namespaces.items()):
            if _mapping(obj["metadata"], "labels").get(EXTENSION) == extension:
                return name
        return None

    def release_values(self, chart: str, namespace: str) -> Mapping[str, Any]:
        """The values given to a chart's release in a namespace; empty if there is no release."""
        releases = () if "releases" in self.unread else self.releases
        for release in releases:
            if (release.chart, release.namespace) == (chart, namespace):
                return release.values or {}
        return {}

    def pods_in(self, namespace: str) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods if pod.namespace == namespace)


@paused_collector()
def read_snapshot(
    mesh: Mesh,
    *,
    permissions: bool = False,
) -> Snapshot:
    """Reads a mesh: some thirty lists, concurrently, in pages of 500 objects.

    Args:
        permissions: whether to check the permissions that an installation needs: some hundreds
            of small requests, used only by the checks before an installation.

    Raises:
        ApiError: the API server does not respond at all.
    """
    kubernetes = mesh.cluster.version()
    readers = _readers(mesh)
    readers["newest"] = mesh.charts.newest_linkerd
    readers["denied"] = lambda: denied_permissions(mesh) if permissions else None
    parts: dict[str, object] = {
        "config": mesh.config,
        "kubernetes": kubernetes,
        "now": mesh.cluster.clock(),
        "local_now": datetime.now(UTC),
    }
    unread: dict[str, MeshError] = {}
    with ThreadPoolExecutor(READERS) as pool:
        running = {name: pool.submit(read) for name, read in readers.items()}
        for name, future in running.items():
            try:
                parts[name] = future.result()
            except MeshError as error:
                unread[name] = error
    for part, (source, derive) in _DERIVED.items():
        if source in unread:
            unread[part] = unread[source]
            continue
        try:
            parts[part] = derive(parts[source], mesh.config)
        except MeshError as error:
            unread[part] = error
    with ThreadPoolExecutor(READERS) as pool:
        pending: dict[str, Future[object]] = {}
        for name, (needs, read) in _later(mesh).items():
            if missing := next((need for need in needs if need in unread), None):
                unread[name] = unread[missing]
            else:
                pending[name] = pool.submit(read, *(parts[need] for need in needs))
        for name, future in pending.items():
            try:
                parts[name] = future.result()
            except MeshError as error:
                unread[name] = error
    return Snapshot(parts, unread)


def _readers(mesh: Mesh) -> dict[str, Callable[[], object]]:
    """How to read each part; the largest first, so that the others are read alongside it."""
    names = mesh.config.namespaces
    rbac, admission = "rbac.authorization.k8s.io/v1", "admissionregistration.k8s.io/v1"
    labels = partial(_labels, mesh.cluster, rbac)
    by_name = partial(_by_name, mesh.cluster)
    return {
        "pods": lambda: read_pods(mesh.cluster),
        "workloads": lambda: _workloads(mesh.cluster),
        "refusals": lambda: _refusals(mesh.cluster),
        "services": lambda: tuple(map(_service, mesh.cluster.list("v1", "Service"))),
        "endpoints": lambda: _endpoints(mesh.cluster),
        "secrets": lambda: read_secrets(mesh),
        "installed": lambda: read_mesh_releases(
            mesh.cluster, mesh.config, namespaces=release_namespaces(mesh), values=True
        ),
        "crds": lambda: _crds(mesh.cluster),
        "config_maps": lambda: _config_maps(mesh),
        "api_versions": mesh.cluster.api_versions,
        "namespaces": lambda: by_name("v1", "Namespace"),
        "nodes": lambda: tuple(map(_node, mesh.cluster.list("v1", "Node"))),
        "replica_sets": lambda: tuple(mesh.cluster.list("apps/v1", "ReplicaSet", names.linkerd)),
        "service_accounts": lambda: _service_accounts(mesh),
        "cluster_roles": lambda: labels("ClusterRole"),
        "cluster_role_bindings": lambda: labels("ClusterRoleBinding"),
        "role_bindings": lambda: frozenset(labels("RoleBinding", "kube-system")),
        "mutating_webhooks": lambda: by_name(admission, "MutatingWebhookConfiguration"),
        "validating_webhooks": lambda: by_name(admission, "ValidatingWebhookConfiguration"),
        "api_services": lambda: by_name("apiregistration.k8s.io/v1", "APIService"),
        "policies": lambda: _custom(mesh.cluster, POLICY_KINDS),
        "ingresses": lambda: _custom(mesh.cluster, INGRESS_KINDS),
        "certificates": lambda: _certificates(mesh),
        "anchor_owner": lambda: (
            read_anchor_owner(mesh) if mesh.config.issuer == "cert-manager" else None
        ),
        "webhook_signers": lambda: read_webhook_signers(mesh),
    }


def _trust_bundle(maps: Any, config: MeshConfig) -> str:
    return bundle_of(maps.get(f"{config.namespaces.linkerd}/{TRUST_ROOTS}"))


def _control_plane_values(maps: Any, config: MeshConfig) -> Mapping[str, Any] | None:
    subject = f"{config.namespaces.linkerd}/linkerd-config"
    found: Object | None = maps.get(subject)
    if found is None:
        return None
    try:
        values = read_yaml(found.get("data", {}).get("values", ""))
    except yaml.YAMLError:
        values = None
    return cast("Mapping[str, Any]", values) if isinstance(values, dict) else None


def _releases(installed: Any, _config: MeshConfig) -> tuple[Release, ...]:
    return tuple(sorted(installed.all, key=lambda r: (r.namespace, r.name)))


_DERIVED: dict[str, tuple[str, Callable[[Any, MeshConfig], object]]] = {
    "trust_bundle": ("config_maps", _trust_bundle),
    "control_plane_values": ("config_maps", _control_plane_values),
    "releases": ("installed", _releases),
}


def _wanted(
    mesh: Mesh,
    kubernetes: str,
    api_versions: frozenset[str],
    crds: Mapping[str, Object],
    installed: MeshReleases,
    trust_bundle: str,
) -> tuple[DesiredRelease, ...]:
    return wanted_releases(
        mesh,
        kubernetes=kubernetes,
        api_versions=api_versions,
        crds=crds,
        releases=installed.all,
        installed=installed,
        trust_bundle=trust_bundle,
    )


def _prometheus(cluster: Cluster, namespaces: Mapping[str, Object]) -> Prometheus | None:
    """viz's Prometheus, if the cluster has viz."""
    for name, obj in sorted(namespaces.items()):
        if _mapping(obj["metadata"], "labels").get(EXTENSION) == "viz":
            external = _mapping(obj["metadata"], "annotations").get(EXTERNAL_PROMETHEUS, "")
            return read_prometheus(cluster, name, external)
    return None


def _proxy_sample(mesh: Mesh, pods: tuple[Pod, ...]) -> ProxySample:
    namespace = mesh.config.namespaces.linkerd
    meshed = (pod for pod in pods if pod.proxy is not None and pod.control_plane == namespace)
    return read_proxy_metrics(mesh.cluster, choose_sample(meshed))


def _later(
    mesh: Mesh,
) -> dict[str, tuple[tuple[str, ...], Callable[..., object]]]:
    """How to read the parts that depend on others, with the parts that they need."""
    wanted = partial(_wanted, mesh)
    return {
        "wanted": (("kubernetes", "api_versions", "crds", "installed", "trust_bundle"), wanted),
        "prometheus": (("namespaces",), partial(_prometheus, mesh.cluster)),
        "proxy_sample": (("pods",), partial(_proxy_sample, mesh)),
    }


# Parts


def read_pods(
    cluster: Cluster, namespace: str | None = None, *, labels: str = "", page: int = PAGE
) -> tuple[Pod, ...]:
    """The pods of a namespace or of the whole cluster, each reduced to what checks look at."""
    bundles: dict[str, str] = {}
    return tuple(
        pod_of(obj, bundles)
        for obj in cluster.list("v1", "Pod", namespace, labels=labels, page=page)
    )


def pod_of(obj: Object, bundles: dict[str, str] | None = None) -> Pod:
    """A pod, reduced. `bundles` keeps one copy of each trust bundle for all pods that carry it."""
    metadata, spec = obj["metadata"], obj["spec"]
    status: dict[str, Any] = _mapping(obj, "status")
    statuses = {
        item["name"]: item
        for key in ("initContainerStatuses", "containerStatuses")
        for item in _items(status, key)
    }
    inits: list[dict[str, Any]] = _items(spec, "initContainers")
    conditions = tuple(
        Condition(
            sys.intern(item["type"]),
            sys.intern(item["status"]),
            item.get("reason", ""),
            item.get("message", ""),
        )
        for item in _items(status, "conditions")
    )
    containers = tuple(
        _container(item, statuses.get(item["name"], {}), is_init=is_init)
        for group, is_init in ((spec["containers"], False), (inits, True))
        for item in group
    )
    return Pod(
        namespace=sys.intern(metadata["namespace"]),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        labels=_interned(metadata.get("labels")),
        annotations=_of_linkerd(metadata.get("annotations")),
        owner=owner_of_pod(metadata),
        node=sys.intern(spec.get("nodeName", "")),
        service_account=sys.intern(spec.get("serviceAccountName", "")),
        phase=sys.intern(status.get("phase", "Unknown")),
        status=sys.intern(pod_status(obj)),
        reason=status.get("reason", ""),
        ip=status.get("podIP", ""),
        host_network=bool(spec.get("hostNetwork")),
        is_ready=any(c.type == "Ready" and c.status == "True" for c in conditions),
        is_deleting="deletionTimestamp" in metadata,
        created=timestamp(metadata.get("creationTimestamp")),
        started=timestamp(status.get("startTime")),
        conditions=conditions,
        containers=containers,
        proxy=_proxy(spec["containers"], inits, statuses, {} if bundles is None else bundles),
    )


def pod_status(obj: Object) -> str:
    """What kubectl shows as a pod's STATUS: its phase, or why it is not what it should be.

    Source: linkerd2 `pkg/k8s` (GetPodStatus), which is the code of kubectl's own printer.
    """
    spec, status = obj["spec"], _mapping(obj, "status")
    reason = str(status.get("reason") or status.get("phase", "Unknown"))
    inits = {item["name"]: item for item in _items(spec, "initContainers")}
    for index, item in enumerate(_items(status, "initContainerStatuses")):
        if (text := _initializing(item, inits.get(item["name"], {}))) is not None:
            return f"Init:{text or f'{index}/{len(inits)}'}"
    is_running = False
    for item in reversed(_items(status, "containerStatuses")):
        state: dict[str, Any] = _mapping(item, "state")
        if waiting := _mapping(state, "waiting").get("reason"):
            reason = str(waiting)
        elif "terminated" in state:
            reason = _ended(state["terminated"])
        elif item.get("ready") and "running" in state:
            is_running = True
    return "Running" if reason == "Completed" and is_running else reason


def _initializing(item: dict[str, Any], container: dict[str, Any]) -> str | None:
    """Why a pod still waits for an init container, empty if that just runs; None if it is done."""
    state: dict[str, Any] = _mapping(item, "state")
    ended: dict[str, Any] | None = state.get("terminated")
    if ended is not None:
        is_done = not ended.get("exitCode") and not ended.get("signal")
        return None if is_done else _ended(ended)
    if container.get("restartPolicy") == "Always" and item.get("started") and item.get("ready"):
        return None
    waiting = _mapping(state, "waiting").get("reason", "")
    return "" if waiting == "PodInitializing" else str(waiting)


def _ended(state: dict[str, Any]) -> str:
    if reason := state.get("reason"):
        return str(reason)
    signal = state.get("signal")
    return f"Signal:{signal}" if signal else f"ExitCode:{state.get('exitCode', 0)}"


def _items(obj: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return obj.get(key) or []


def _mapping(obj: Mapping[str, Any], key: str) -> dict[str, Any]:
    return obj.get(key) or {}


def timestamp(text: str | None) -> datetime | None:
    """A time as the Kubernetes API writes it."""
    return datetime.fromisoformat(text) if text else None


def _container(item: dict[str, Any], status: dict[str, Any], *, is_init: bool) -> Container:
    state: dict[str, Any] = _mapping(status, "state")
    waiting: dict[str, Any] = _mapping(state, "waiting")
    ended: dict[str, Any] = _mapping(state, "terminated")
    trouble = waiting.get("reason", "")
    if ended.get("exitCode"):
        trouble = f"exited with {ended['exitCode']} {ended.get('reason', '')}".strip()
    return Container(
        name=sys.intern(item["name"]),
        image=sys.intern(item.get("image", "")),
        ready=bool(status.get("ready")),
        is_init=is_init,
        restarts=int(status.get("restartCount", 0)),
        trouble=trouble,
        ports=tuple(
            (sys.intern(port.get("name", "")), int(port["containerPort"]))
            for port in _items(item, "ports")
        ),
        has_udp=any(port.get("protocol") == "UDP" for port in _items(item, "ports")),
    )


def _proxy(
    containers: list[dict[str, Any]],
    inits: list[dict[str, Any]],
    statuses: dict[str, dict[str, Any]],
    bundles: dict[str, str],
) -> Proxy | None:
    for group in (containers, inits):
        for item in group:
            if item["name"] != PROXY:
                continue
            environment = {v["name"]: v.get("value") or "" for v in _items(item, "env")}
            bundle = environment.get(TRUST_ANCHORS, "")
            image = sys.intern(item.get("image", ""))
            return Proxy(
                image=image,
                version=sys.intern(image_tag(image)),
                trust_bundle=bundles.setdefault(bundle, bundle),
                ready=bool(statuses.get(PROXY, {}).get("ready")),
                is_native=group is inits,
                inbound_policy=sys.intern(environment.get(INBOUND_POLICY, "")),
            )
    return None


def image_tag(image: str) -> str:
    """The tag of an image's name; empty if it has none."""
    last = image.partition("@")[0].rsplit("/", 1)[-1]
    return last.partition(":")[2]


def _interned(labels: dict[str, str] | None) -> Mapping[str, str]:
    return {sys.intern(key): sys.intern(value) for key, value in (labels or {}).items()}


def _of_linkerd(annotations: dict[str, str] | None) -> Mapping[str, str]:
    return _interned({k: v for k, v in (annotations or {}).items() if "linkerd.io/" in k})


def _workloads(cluster: Cluster) -> tuple[WorkloadState, ...]:
    return tuple(_workload(obj) for kind in LONG_RUNNING for obj in cluster.list(KINDS[kind], kind))


def _workload(obj: Object) -> WorkloadState:
    metadata, spec = obj["metadata"], obj["spec"]
    template = spec["template"]
    rollout = rollout_status(obj)
    return WorkloadState(
        kind=obj["kind"],
        namespace=sys.intern(metadata["namespace"]),
        name=metadata["name"],
        labels=_interned(metadata.get("labels")),
        pod_annotations=_of_linkerd(template.get("metadata", {}).get("annotations")),
        selector=_interned(spec.get("selector", {}).get("matchLabels")),
        wanted=rollout.wanted,
        ready=rollout.ready,
        is_complete=rollout.is_complete,
        failure=rollout.failure,
        host_network=bool(template["spec"].get("hostNetwork")),
        # The condition may be that of an earlier revision's ReplicaSet, and outlast the rollout.
        refusal="" if rollout.is_complete else refusal_of(obj),
    )


def _refusals(cluster: Cluster) -> dict[Workload, str]:
    events = cluster.list("v1", "Event", fields=f"reason={FAILED_CREATE}")
    return {
        Workload(*key): said.message
        for key, said in refusals(events).items()
        if key.kind in ("StatefulSet", "DaemonSet")
    }


def _service(obj: Object) -> Service:
    metadata, spec = obj["metadata"], obj["spec"]
    balancer: dict[str, Any] = _mapping(_mapping(obj, "status"), "loadBalancer")
    return Service(
        namespace=sys.intern(metadata["namespace"]),
        name=metadata["name"],
        type=spec.get("type", "ClusterIP"),
        cluster_ip=spec.get("clusterIP", ""),
        labels=_interned(metadata.get("labels")),
        annotations=_of_linkerd(metadata.get("annotations")),
        selector=_interned(spec.get("selector")),
        ports=tuple(
            ServicePort(port.get("name", ""), port["port"], port.get("targetPort"))
            for port in _items(spec, "ports")
        ),
        has_address=bool(balancer.get("ingress")) or spec.get("type") != "LoadBalancer",
    )


def _endpoints(cluster: Cluster) -> dict[str, frozenset[str]]:
    """The ready pods of each Service, by `namespace/service`."""
    found: dict[str, set[str]] = {}
    for piece in cluster.list("discovery.k8s.io/v1", "EndpointSlice"):
        metadata = piece["metadata"]
        service = metadata.get("labels", {}).get("kubernetes.io/service-name")
        if service is None:
            continue
        pods = found.setdefault(f"{metadata['namespace']}/{service}", set())
        for endpoint in _items(piece, "endpoints"):
            target: dict[str, Any] = _mapping(endpoint, "targetRef")
            # Absent means ready, as the EndpointSlice API defines it.
            if target.get("kind") == "Pod" and endpoint.get("conditions", {}).get("ready", True):
                pods.add(target["name"])
    return {key: frozenset(pods) for key, pods in found.items()}


def _node(obj: Object) -> Object:
    status = obj.get("status", {})
    return {
        "kind": "Node",
        "metadata": {
            "name": obj["metadata"]["name"],
            "annotations": obj["metadata"].get("annotations", {}),
        },
        "spec": {
            key: obj["spec"][key] for key in ("podCIDR", "podCIDRs", "taints") if key in obj["spec"]
        },
        "status": {
            "conditions": status.get("conditions", []),
            "nodeInfo": status.get("nodeInfo", {}),
        },
    }


def _crds(cluster: Cluster) -> dict[str, Object]:
    """CRDs without their schemas, which are megabytes."""
    found: dict[str, Object] = {}
    for obj in cluster.list("apiextensions.k8s.io/v1", "CustomResourceDefinition", page=50):
        spec = obj["spec"]
        versions = [
            {"name": v["name"], "served": v["served"], "storage": v["storage"]}
            for v in spec["versions"]
        ]
        metadata = obj["metadata"]
        found[metadata["name"]] = {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "metadata": {
                "name": metadata["name"],
                "labels": metadata.get("labels", {}),
                "annotations": {
                    k: v
                    for k, v in metadata.get("annotations", {}).items()
                    if not k.startswith("kubectl.kubernetes.io/")
                },
            },
            "spec": {"group": spec["group"], "names": spec["names"], "versions": versions},
            "status": {"conditions": obj.get("status", {}).get("conditions", [])},
        }
    return found


def _config_maps(mesh: Mesh) -> dict[str, Object]:
    names = mesh.config.namespaces
    wanted = [
        (names.linkerd, "linkerd-config"),
        (names.linkerd, TRUST_ROOTS),
        (names.linkerd, ROTATION),
        (names.linkerd, UPGRADE),
        (CNI_NAMESPACE, "linkerd-cni-config"),
        (names.viz, "prometheus-config"),
        ("kube-system", "extension-apiserver-authentication"),
    ]
    found: dict[str, Object] = {}
    for namespace, name in wanted:
        if (obj := mesh.cluster.get("v1", "ConfigMap", name, namespace)) is not None:
            found[f"{namespace}/{name}"] = obj
    return found


def _service_accounts(mesh: Mesh) -> dict[str, Mapping[str, str]]:
    names = mesh.config.namespaces
    return {
        f"{namespace}/{name}": labels
        for namespace in (*names.of_linkerd, CNI_NAMESPACE)
        for name, labels in _labels(mesh.cluster, "v1", "ServiceAccount", namespace).items()
    }


def _labels(
    cluster: Cluster, api_version: str, kind: str, namespace: str | None = None
) -> dict[str, Mapping[str, str]]:
    return {
        obj["metadata"]["name"]: _mapping(obj["metadata"], "labels")
        for obj in cluster.list(api_version, kind, namespace, metadata_only=True)
    }


def _by_name(cluster: Cluster, api_version: str, kind: str) -> dict[str, Object]:
    return {obj["metadata"]["name"]: obj for obj in cluster.list(api_version, kind)}


def read_trust_bundle(mesh: Mesh) -> str:
    """The PEM of every anchor that the mesh trusts; empty if there is none."""
    return bundle_of(read_roots(mesh))


def secret_names(config: MeshConfig) -> list[tuple[str, str]]:
    """Namespace and name of the Secrets with the issuer's and the webhooks' certificates."""
    found = [(namespace, webhook.secret) for namespace, webhook in webhooks_of(config)]
    return [(config.namespaces.linkerd, ISSUER_SECRET), *found]


def read_secrets(mesh: Mesh) -> dict[str, Certificates]:
    """The certificates of the issuer and of every webhook, by `namespace/name` of their Secrets."""
    found: dict[str, Certificates] = {}
    for namespace, name in secret_names(mesh.config):
        secret = mesh.cluster.get("v1", "Secret", name, namespace)
        if secret is not None:
            found[f"{namespace}/{name}"] = certificates_of(secret, f"Secret/{namespace}/{name}")
    return found


def certificates_of(secret: Object, subject: str) -> Certificates:
    """The public part of a Secret with a certificate, in either of Linkerd's formats.

    Type `linkerd.io/tls`, which the linkerd CLI creates, has `crt.pem` and `key.pem` instead of
    `tls.crt` and `tls.key`.
    """
    text = secret_text(secret)
    certificate = text.get("tls.crt") or text.get("crt.pem", "")
    key = SecretStr(text.get("tls.key") or text.get("key.pem", ""))
    return Certificates(
        type=str(secret.get("type", "")),
        keys=frozenset(text),
        certificate=certificate,
        authority=text.get("ca.crt", ""),
        has_matching_key=is_key_of(certificate, key, subject),
        is_cert_managers=owner_of(secret).by == "cert-manager",
    )


def release_namespaces(mesh: Mesh) -> set[str]:
    """The mesh's namespaces that exist; a Role to read in any other cannot be granted.

    The demo application's namespace counts only if the demo is enabled.
    """
    there = {
        namespace["metadata"]["name"]
        for namespace in mesh.cluster.list("v1", "Namespace", metadata_only=True)
    }
    names = {str(name) for name in mesh.config.namespaces.model_dump().values()}
    if not mesh.config.emojivoto.enabled:
        names.discard(mesh.config.namespaces.emojivoto)
    return there & names


def _custom(
    cluster: Cluster, kinds: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], tuple[Object, ...]]:
    """Objects of those custom kinds that are served, in the version that the API server prefers."""
    groups: dict[str, list[str]] = {
        group["name"]: [
            group["preferredVersion"]["groupVersion"],
            *(version["groupVersion"] for version in group["versions"]),
        ]
        for group in cluster.read("/apis")["groups"]
    }
    found: dict[tuple[str, str], tuple[Object, ...]] = {}
    for group, kind in kinds:
        for api_version in groups.get(group, []):
            # A group's preferred version need not serve all of its kinds.
            if cluster.serves(api_version, kind):
                found[group, kind] = tuple(cluster.list(api_version, kind))
                break
    return found


def _certificates(mesh: Mesh) -> tuple[Object, ...]:
    """cert-manager's Certificates in the namespaces of the mesh."""
    namespaces = mesh.config.namespaces
    return tuple(
        obj
        for namespace in namespaces.of_linkerd
        for obj in mesh.cluster.list("cert-manager.io/v1", "Certificate", namespace)
    )
