"""What each flow needs in a mesh's cluster, as grants for roles.

What Helm needs is derived from the charts themselves: their objects, and the rules of the roles
among them. In Kubernetes an identity can create a role only with permissions that it has itself. So
installing a chart needs the rules of its roles, or the verb `escalate`, with which a flow could
grant itself everything: here it gets the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import ChartCatalog, ChartName, charts_of
from prefect_linkerd.mesh.helm.client import Helm, desired_release
from prefect_linkerd.mesh.helm.values import ClusterFacts, values_for
from prefect_linkerd.mesh.identity.issuer import webhook_servers
from prefect_linkerd.mesh.identity.trust_anchor import ANCHOR_SECRET, TRUST_ROOTS
from prefect_linkerd.mesh.install.namespaces import namespaces
from prefect_linkerd.mesh.install.registry import pull_secret, pull_secrets
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.kubernetes.permissions import Permission
from prefect_linkerd.mesh.linkerd.facts import CONTROL_PLANE_CHARTS, SPLIT_KINDS
from prefect_linkerd.mesh.probe.options import NAMESPACE as PROBE
from prefect_linkerd.mesh.probe.workloads import probe_permissions
from prefect_linkerd.mesh.records.rotation import RECORD as ROTATION
from prefect_linkerd.mesh.records.upgrade import NAME as UPGRADE
from prefect_linkerd.mesh.rotation.key_ring import SECRETS_BESIDE
from prefect_linkerd.mesh.snapshot.mesh import INGRESS_KINDS, POLICY_KINDS, secret_names
from prefect_linkerd.mesh.snapshot.webhooks import WEBHOOKS, webhooks_of

RBAC = "rbac.authorization.k8s.io"
ROLES = ("ClusterRole", "Role")
COPY = "linkerd-previous-anchor"
"""The Secret of the previous anchor, named as in Linkerd's documentation."""
KUBERNETES = "v1.34.0"
"""The version that charts are rendered for; none of their roles depends on it."""


@dataclass(frozen=True)
class Grant:
    """Verbs on resources of a group, in a namespace or (empty) the cluster; `names` narrows it.

    `sometimes` marks what only some runs need: for an object that only one chart version has, a
    release that fails and is rolled back, an error to explain.
    """

    verbs: tuple[str, ...]
    group: str
    resources: tuple[str, ...]
    namespace: str = ""
    names: tuple[str, ...] = ()
    sometimes: bool = False


@dataclass(frozen=True)
class Held:
    """A rule of a chart's role, needed to create that role; in a namespace or the cluster."""

    rule: Object
    namespace: str = ""


Objects = Mapping[ChartName, Sequence[Object]]
"""What each chart installs."""


def always(granted: Iterable[Held | Grant]) -> list[Permission]:
    """The permissions that every run needs, one for each verb and resource."""
    return [
        Permission(verb, resource, grant.group, grant.namespace, name)
        for grant in granted
        if isinstance(grant, Grant) and not grant.sometimes
        for resource in grant.resources
        for verb in grant.verbs
        for name in grant.names or ("",)
    ]


def plural(kind: str) -> str:
    """The resource of a kind, such as `networkauthentications`."""
    lower = kind.lower()
    return f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}{'e' * lower.endswith('s')}s"


# Charts


def render(config: MeshConfig, helm: str = "helm") -> dict[ChartName, list[Object]]:
    """Every object of a mesh's charts, including its dependencies; needs no cluster.

    Args:
        helm: the helm binary.

    Raises:
        ChartError: a chart cannot be found.
    """
    names: list[ChartName] = list(charts_of(config))
    if config.issuer == "cert-manager" and config.cert_manager.install:
        names.append("cert-manager")
    if config.traefik.enabled and config.traefik.install:
        names.append("traefik")
    catalog = ChartCatalog(config)
    # Charts require values and bundles, but their roles do not depend on them.
    facts = ClusterFacts(
        KUBERNETES,
        frozenset(),
        webhook_authorities=dict.fromkeys(webhook_servers(config), "PEM"),
    )
    found: dict[ChartName, list[Object]] = {}
    for name in names:
        chart = catalog.find(name)
        release = desired_release(
            config, chart, values_for(chart, config, facts, trust_bundle="PEM")
        )
        objects = Helm(_no_cluster(), helm).render(
            chart, release.name, release.namespace, release.values, facts
        )
        is_run = release.hooks
        found[name] = [obj for obj in objects if is_run or not _hook(obj)]
    return found


def _no_cluster() -> Cluster:
    cluster = {"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}
    context = {"name": "none", "context": {"cluster": "none", "user": "none"}}
    return Cluster(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "none",
            "clusters": [cluster],
            "contexts": [context],
            "users": [{"name": "none", "user": {}}],
        }
    )


def _hook(obj: Object) -> str:
    """When Helm runs an object that is a hook, such as `post-install`; empty if it is not one."""
    annotations: dict[str, str] = obj["metadata"].get("annotations") or {}
    return annotations.get("helm.sh/hook", "")


def held(objects: Iterable[Object]) -> list[Held | Grant]:
    """The rules of the roles that charts create, and `bind` on roles that they only bind to."""
    listed = list(objects)
    made = {(o["kind"], o["metadata"]["name"]) for o in listed if o["kind"] in ROLES}
    found: list[Held | Grant] = [
        Held(rule, obj["metadata"].get("namespace", ""))
        for obj in listed
        if obj["kind"] in ROLES
        for rule in obj.get("rules") or ()
    ]
    for obj in listed:
        if not obj["kind"].endswith("RoleBinding"):
            continue
        kind, name = obj["roleRef"]["kind"], obj["roleRef"]["name"]
        if (kind, name) not in made:
            place = obj["metadata"].get("namespace", "") if kind == "Role" else ""
            found.append(Grant(("bind",), RBAC, (plural(kind),), place, (name,), sometimes=True))
    return found


def releases(
    config: MeshConfig, objects: Iterable[Object], verbs: tuple[str, ...]
) -> list[Held | Grant]:
    """What Helm does with objects (`verbs` always, others sometimes), and what their roles hold.

    In the mesh's own namespaces a grant covers the whole kind, elsewhere it names the objects. CRDs
    are never deleted.
    """
    own = {namespace["metadata"]["name"] for namespace in namespaces(config)}
    listed = list(objects)
    found: list[Held | Grant] = []
    elsewhere: dict[tuple[str, str, str], set[str]] = {}
    for obj in listed:
        group = obj["apiVersion"].rpartition("/")[0]
        resource, place = plural(obj["kind"]), obj["metadata"].get("namespace", "")
        if place not in own:
            elsewhere.setdefault((group, resource, place), set()).add(obj["metadata"]["name"])
            continue
        is_hook = bool(_hook(obj))
        # Even if Helm only upgrades, a chart that is not yet installed is installed with its hooks.
        always = verbs if not is_hook else ("create", "get", "delete") * ("create" in verbs)
        found += _writes(group, resource, place, (), always)
        if is_hook and obj["kind"] == "Job":
            found.append(
                Grant(("list", "watch"), group, (resource,), place, sometimes="create" not in verbs)
            )
    for (group, resource, place), names in sorted(elsewhere.items()):
        found += _writes(group, resource, place, tuple(sorted(names)), verbs)
    return [*found, *held(listed)]


def _writes(
    group: str, resource: str, place: str, names: tuple[str, ...], always: tuple[str, ...]
) -> Iterator[Grant]:
    for verb in ("create", "get", "patch", "delete"):
        if verb == "delete" and resource == "customresourcedefinitions":
            continue
        # RBAC cannot restrict `create` by name.
        narrow = () if verb == "create" else names
        yield Grant((verb,), group, (resource,), place, narrow, sometimes=verb not in always)


def records(place: str, *, history: bool) -> list[Grant]:
    """Helm's release records, which are Secrets."""
    return [
        Grant(("create", "list", "update"), "", ("secrets",), place),
        # To delete records beyond the tenth or one left pending by a dead run; to look up a value.
        Grant(("get", "delete"), "", ("secrets",), place, sometimes=not history),
    ]


def waits(place: str, *, sometimes: bool = False) -> list[Grant]:
    """What is read while workloads come up; events and pods if they do not."""
    return [
        Grant(
            ("list",), "apps", ("daemonsets", "deployments", "statefulsets"), place, (), sometimes
        ),
        Grant(("list",), "apps", ("replicasets",), place, sometimes=sometimes),
        Grant(("get",), "apps", ("deployments",), place, sometimes=sometimes),
        Grant(("list",), "", ("events", "pods", "services"), place, sometimes=True),
        Grant(("get",), "apps", ("daemonsets", "statefulsets"), place, sometimes=True),
    ]


# Flows that only read


def certificate_reads(config: MeshConfig) -> list[Grant]:
    """What `check_certificates` reads: the trust bundle and a handful of objects, by name."""
    return [*_named_certificates(config), *_webhook_signers(config)]


def _named_certificates(config: MeshConfig) -> list[Grant]:
    linkerd = config.namespaces.linkerd
    return [
        _trust_bundle(config),
        Grant(("get",), "", ("secrets",), linkerd, _secrets(config, in_linkerd=True)),
        _extension_secrets(config),
    ]


def _trust_bundle(config: MeshConfig) -> Grant:
    """Tells what a mesh trusts, and whether it is a rehearsal."""
    return Grant(("get",), "", ("configmaps",), config.namespaces.linkerd, (TRUST_ROOTS,))


def _webhook_signers(config: MeshConfig) -> list[Grant]:
    """Tells which CA the API server trusts for each webhook, and cert-manager's issuer for it."""
    names: dict[tuple[str, str], list[str]] = {}
    for _, webhook in webhooks_of(config):
        group, kind, name = webhook.trusted_by
        names.setdefault((group, f"{kind.lower()}s"), []).append(name)
    return [
        *(
            Grant(("list",), group, (resource,), "", tuple(each))
            for (group, resource), each in names.items()
        ),
        *_issuer_reads(),
    ]


def _issuer_reads() -> list[Grant]:
    """Any issuer of a webhook's certificate; the API group exists only with cert-manager."""
    return [
        Grant(("list",), "cert-manager.io", ("certificates",), sometimes=True),
        Grant(("get",), "cert-manager.io", ("clusterissuers", "issuers"), sometimes=True),
    ]


def status_reads(config: MeshConfig) -> list[Grant]:
    """What `status` reads: certificates, Helm's records, and whether work is unfinished.

    The role of `verify_mesh` includes all of it.
    """
    linkerd = config.namespaces.linkerd
    places = sorted(namespace["metadata"]["name"] for namespace in namespaces(config))
    return [
        *certificate_reads(config),
        Grant(("list",), "", ("namespaces",)),
        Grant(("get",), "", ("configmaps",), linkerd, (ROTATION, UPGRADE)),
        *(Grant(("list",), "", ("secrets",), place) for place in places),
        Grant(("list",), "apps", ("deployments",), linkerd),
        Grant(
            ("list",),
            "apiextensions.k8s.io",
            ("customresourcedefinitions",),
            "",
            ("serviceprofiles.linkerd.io",),
        ),
    ]


def adoption_reads(_config: MeshConfig) -> list[Grant]:
    """What `adopt` reads: it does not yet know the namespaces of the mesh and its releases."""
    return [
        # Helm's records and the issuer, in any namespace.
        Grant(("get", "list"), "", ("secrets",)),
        Grant(("get",), "", ("configmaps",), "", (TRUST_ROOTS,)),
        Grant(("list",), "", ("namespaces",)),
        Grant(("list",), "apps", ("deployments",)),
        Grant(("list",), "apiextensions.k8s.io", ("customresourcedefinitions",)),
        Grant(("list",), "cert-manager.io", ("certificates",), sometimes=True),
        # What signs the issuer, and where the trust bundle comes from.
        Grant(("get",), "cert-manager.io", ("clusterissuers", "issuers"), sometimes=True),
        Grant(("get",), "trust.cert-manager.io", ("bundles",), "", (TRUST_ROOTS,), sometimes=True),
    ]


def _secrets(config: MeshConfig, *, in_linkerd: bool) -> tuple[str, ...]:
    linkerd = config.namespaces.linkerd
    return tuple(name for place, name in secret_names(config) if (place == linkerd) == in_linkerd)


def _extension_secrets(config: MeshConfig) -> Grant:
    # By name in every namespace, because an extension may not be installed.
    return Grant(("get",), "", ("secrets",), "", _secrets(config, in_linkerd=False))


def mesh_reads(config: MeshConfig) -> list[Grant]:
    """What `verify_mesh` reads.

    It may list Secrets, which hold Helm's releases, but only in the mesh's namespaces. Through the
    `proxy` subresources it queries viz's Prometheus and a sample of the proxies.
    """
    linkerd = config.namespaces.linkerd
    read = ("list",)
    plurals: dict[str, set[str]] = {}
    for group, kind in (*POLICY_KINDS, *INGRESS_KINDS):
        plurals.setdefault(group, set()).add(plural(kind))
    policies = {group for group, _ in POLICY_KINDS}
    made = [namespace["metadata"]["name"] for namespace in namespaces(config)]
    named = (
        TRUST_ROOTS,
        ROTATION,
        UPGRADE,
        "linkerd-config",
        "linkerd-cni-config",
        "prometheus-config",
    )
    return [
        Grant(read, "", ("namespaces", "nodes", "pods", "serviceaccounts", "services")),
        Grant(read, "apps", ("daemonsets", "deployments", "statefulsets")),
        # To explain why pods are rejected.
        Grant(read, "", ("events",)),
        Grant(read, "discovery.k8s.io", ("endpointslices",)),
        Grant(read, "apiextensions.k8s.io", ("customresourcedefinitions",)),
        Grant(read, "apiregistration.k8s.io", ("apiservices",)),
        Grant(
            read,
            "admissionregistration.k8s.io",
            ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
        ),
        Grant(read, RBAC, ("clusterrolebindings", "clusterroles")),
        *(
            # For any ingress controller, under the old or the new name of its API group.
            Grant(read, group, tuple(sorted(names)), sometimes=group not in policies)
            for group, names in sorted(plurals.items())
        ),
        *_issuer_reads(),
        *_anchor_owner_reads(config),
        _extension_secrets(config),
        # In any namespace, because some are those of viz and the CNI plugin.
        Grant(("get",), "", ("configmaps",), "", named),
        Grant(
            ("get",),
            "",
            ("services/proxy",),
            "",
            ("http:prometheus:9090",),
            sometimes=not config.viz.enabled,
        ),
        Grant(("get",), "", ("pods/proxy",)),
        Grant(read, "apps", ("replicasets",), linkerd),
        Grant(read, RBAC, ("rolebindings",), "kube-system"),
        Grant(
            ("get",), "", ("configmaps",), "kube-system", ("extension-apiserver-authentication",)
        ),
        *(Grant(read, "", ("secrets",), place) for place in sorted(made)),
        Grant(("get",), "", ("secrets",), linkerd),
    ]


def _anchor_owner_reads(config: MeshConfig) -> list[Grant]:
    """Tells whether a Certificate owns the trust anchor; only in issuer mode cert-manager."""
    if config.issuer != "cert-manager":
        return []
    is_cluster = config.cert_manager.issuer_kind == "ClusterIssuer"
    kind, place = ("clusterissuers", "") if is_cluster else ("issuers", config.namespaces.linkerd)
    places = sorted({config.namespaces.linkerd, config.anchor_namespace})
    return [
        *(Grant(("list",), "cert-manager.io", ("certificates",), each) for each in places),
        Grant(("get",), "cert-manager.io", (kind,), place),
    ]


def data_plane_reads() -> list[Grant]:
    """Every meshed pod, its workload and PodDisruptionBudgets, in every namespace."""
    return [
        Grant(("list",), "", ("namespaces", "pods")),
        Grant(("list",), "apps", ("daemonsets", "deployments", "statefulsets")),
        Grant(("list",), "policy", ("poddisruptionbudgets",)),
    ]


def restarts() -> list[Grant]:
    """Restarts of the data plane: any meshed workload, in any namespace."""
    return [
        Grant(("get", "patch"), "apps", ("deployments",)),
        Grant(("get", "patch"), "apps", ("daemonsets", "statefulsets"), sometimes=True),
        # To notice at once when a batch is rolled out; without it, workloads are polled.
        Grant(("watch",), "apps", ("daemonsets", "deployments", "statefulsets"), sometimes=True),
        # The proxies' request counts around a batch; if there are none, whether pods run at all.
        Grant(("get",), "", ("pods/proxy",), sometimes=True),
        Grant(("list",), "", ("nodes",), sometimes=True),
        # To explain why a rollout does not finish.
        Grant(("list",), "", ("events",), sometimes=True),
        Grant(("list",), "apps", ("replicasets",), sometimes=True),
    ]


def probe(config: MeshConfig) -> list[Held | Grant]:
    """The probe's objects in its own namespace; only if nodes run containers."""
    found: list[Held | Grant] = [
        Grant(("list",), "", ("nodes",)),
        Grant(("get",), "", ("namespaces",), "", (PROBE,), sometimes=True),
        # To explain why it does not come up.
        Grant(("list",), "", ("events",), PROBE, sometimes=True),
    ]
    pulls = pull_secret(config, PROBE) is not None
    asked: dict[tuple[str, str], list[str]] = {}
    for each in probe_permissions(PROBE, creates=False, pulls=pulls):
        asked.setdefault((each.group, each.resource), []).append(each.verb)
    for (group, resource), verbs in asked.items():
        found.append(Grant(tuple(verbs), group, (resource,), PROBE, sometimes=True))
    return found


def _preflight_reads(config: MeshConfig) -> list[Grant]:
    names = tuple(namespace["metadata"]["name"] for namespace in namespaces(config))
    admission = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")
    return [
        Grant(("list",), "", ("namespaces", "nodes")),
        # Helm keeps the releases of each namespace in its Secrets.
        Grant(("list",), "", ("secrets",)),
        Grant(("list",), RBAC, ("clusterroles",)),
        Grant(("list",), "apiextensions.k8s.io", ("customresourcedefinitions",)),
        Grant(("list",), "admissionregistration.k8s.io", admission),
        Grant(("get", "patch"), "", ("namespaces",), "", names),
    ]


# Flows that change a mesh


def bootstrap(config: MeshConfig, objects: Objects) -> list[Held | Grant]:
    """The charts, the identity, the demo application and its routes."""
    names = config.namespaces
    found: list[Held | Grant] = [*_preflight_reads(config)]
    for content in objects.values():
        found += releases(config, content, ("create", "get"))
    for place in _release_places(config, objects):
        found += [*records(place, history=False), *waits(place)]
    # Each object is read first, to find its owner.
    apply = ("create", "get", "patch")
    # It ends with verify_mesh's checks.
    found += mesh_reads(config)
    found += [
        _trust_bundle(config),
        # If the issuer is recreated under running pods.
        Grant(("patch",), "", ("pods",), names.linkerd, sometimes=True),
        # The issuer, the anchor's key if it is kept in the cluster, and pull secrets.
        Grant(("create", "get"), "", ("secrets",), names.linkerd),
        Grant(("patch",), "", ("secrets",), names.linkerd, sometimes=True),
    ]
    for place in {names.viz} if config.viz.enabled else set[str]():
        # To restart a pod that came up before the injector; the dashboard's password.
        found.append(Grant(("patch",), "apps", ("deployments",), place, sometimes=True))
        found.append(Grant(("create", "get"), "", ("secrets",), place, sometimes=True))
    if config.emojivoto.enabled:
        found += [
            Grant(apply, "", ("serviceaccounts", "services"), names.emojivoto),
            Grant(apply, "apps", ("deployments",), names.emojivoto),
            *waits(names.emojivoto, sometimes=True),
            Grant(("list",), "", ("pods",), names.emojivoto),
        ]
    for secret in pull_secrets(config):
        found.append(Grant(apply, "", ("secrets",), secret["metadata"]["namespace"]))
    if config.traefik.enabled:
        routed = [names.emojivoto] if config.emojivoto.enabled else []
        routed += [names.viz] if config.viz.enabled and config.viz.dashboard.host else []
        found += [
            Grant(apply, "traefik.io", ("ingressroutes", "middlewares"), place) for place in routed
        ]
    if config.issuer == "cert-manager":
        kinds = ("certificates", "issuers")
        for place in (names.linkerd, *webhook_servers(config)):
            found.append(Grant(apply, "cert-manager.io", kinds, place))
            # To find out whether somebody else's Certificate owns a Secret.
            found.append(Grant(("list",), "cert-manager.io", ("certificates",), place))
            found.append(
                Grant(("list",), "cert-manager.io", ("certificaterequests",), place, sometimes=True)
            )
            found.append(Grant(("get",), "", ("secrets",), place, sometimes=True))
        if config.cert_manager.issuer_kind == "ClusterIssuer":
            found.append(Grant(apply, "cert-manager.io", ("clusterissuers",)))
            found.append(Grant(("create", "get"), "", ("secrets",), names.cert_manager))
    return found


def upgrade(config: MeshConfig, objects: Objects) -> list[Held | Grant]:
    """Both versions' charts, the data plane, and the record for a rollback."""
    linkerd = config.namespaces.linkerd
    found: list[Held | Grant] = [
        *_preflight_reads(config),
        *data_plane_reads(),
        *restarts(),
        # The gate before and after runs verify_mesh's checks.
        *mesh_reads(config),
        Grant(("list",), "split.smi-spec.io", ("trafficsplits",), sometimes=True),
        Grant(("create",), "", ("configmaps",), linkerd),
        Grant(("get", "patch", "delete"), "", ("configmaps",), linkerd, (UPGRADE,)),
        *_lease(config),
        _trust_bundle(config),
        Grant(("get",), "", ("secrets",), linkerd),
        *probe(config),
    ]
    changed: Objects = {name: each for name, each in objects.items() if name not in _kept(config)}
    for content in changed.values():
        # A dry run of each shows what would change.
        found += releases(config, content, ("get", "patch"))
    for place in _release_places(config, changed):
        found += [*records(place, history=False), *waits(place, sometimes=True)]
    if config.traefik.enabled:
        found.append(
            Grant(("list",), "traefik.io", ("ingressroutes", "middlewares"), sometimes=True)
        )
    if "traefik" in config.upgrade.dependencies:
        # Its CRDs are not part of its release.
        crds = ("customresourcedefinitions",)
        found.append(Grant(("create", "get", "patch"), "apiextensions.k8s.io", crds))
    return found


def _kept(config: MeshConfig) -> set[str]:
    return {"cert-manager", "traefik"} - set(config.upgrade.dependencies)


def rotate_anchor(config: MeshConfig, objects: Objects) -> list[Held | Grant]:
    """The bundle through the control plane's release, the keys, and restarts of all workloads."""
    linkerd = config.namespaces.linkerd
    plane = [obj for name in CONTROL_PLANE_CHARTS for obj in objects.get(name, ())]
    found: list[Held | Grant] = [
        *_rotation(config),
        *restarts(),
        *releases(config, plane, ("get",)),
        *records(linkerd, history=True),
        *waits(linkerd),
        Grant(("get", "patch"), "", ("configmaps",), linkerd, (TRUST_ROOTS,)),
        Grant(
            ("update",), "trust.cert-manager.io", ("bundles",), "", (TRUST_ROOTS,), sometimes=True
        ),
    ]
    keys = config.anchor_namespace
    if config.issuer == "self-signed" or keys == linkerd:
        # The old issuer and both keys, for a rollback.
        found.append(Grant(("patch",), "", ("secrets",), linkerd))
    if keys != linkerd:
        found += [
            Grant(("create",), "", ("secrets",), keys),
            Grant(("patch",), "", ("secrets",), keys, (ANCHOR_SECRET,)),
            Grant(("patch", "delete"), "", ("secrets",), keys, SECRETS_BESIDE),
            # If a Certificate owns the anchor: the request to renew it, and the copy.
            Grant(("get",), "cert-manager.io", ("certificates",), keys, sometimes=True),
            Grant(("patch",), "cert-manager.io", ("certificates/status",), keys, sometimes=True),
            Grant(("patch",), "", ("secrets",), keys, (COPY,), sometimes=True),
        ]
    return found


def rotate_issuer(config: MeshConfig, objects: Objects) -> list[Held | Grant]:  # noqa: ARG001
    """The issuer's Secret or Certificate, and whether identity has loaded the new one."""
    linkerd = config.namespaces.linkerd
    found: list[Held | Grant] = [
        *_rotation(config),
        Grant(("list",), "", ("secrets",), linkerd),
        # To restart identity if it does not load the new issuer.
        Grant(("get", "patch"), "apps", ("deployments",), linkerd, sometimes=True),
        Grant(("list",), "apps", ("replicasets",), linkerd, sometimes=True),
    ]
    if config.issuer == "self-signed":
        found.append(Grant(("patch",), "", ("secrets",), linkerd, ("linkerd-identity-issuer",)))
    return found


def rotate_webhooks(config: MeshConfig, objects: Objects) -> list[Held | Grant]:
    """The releases whose charts create webhook certificates, upgraded to their own version."""
    linkerd = config.namespaces.linkerd
    charts: Objects = {name: objects[name] for name in WEBHOOKS if name in objects}
    found: list[Held | Grant] = [
        *_named_certificates(config),
        *_lease(config),
        Grant(("list",), "cert-manager.io", ("certificates",), sometimes=True),
        Grant(("get",), "trust.cert-manager.io", ("bundles",), "", (TRUST_ROOTS,), sometimes=True),
    ]
    for content in charts.values():
        found += releases(config, content, ("get",))
    for place in _release_places(config, charts):
        found += [
            *records(place, history=False),
            *waits(place),
            Grant(("get",), "", ("secrets",), place),
        ]
        if place != linkerd:
            # To check that its pods came up with a proxy.
            found.append(Grant(("list",), "", ("pods",), place))
    return found


def _lease(config: MeshConfig) -> list[Grant]:
    """The record of rotations, also the lease of rotations and upgrades; the first creates it."""
    linkerd = config.namespaces.linkerd
    return [
        Grant(("create",), "", ("configmaps",), linkerd, sometimes=True),
        Grant(("get", "update"), "", ("configmaps",), linkerd, (ROTATION,)),
    ]


def _rotation(config: MeshConfig) -> list[Held | Grant]:
    linkerd = config.namespaces.linkerd
    found: list[Held | Grant] = [
        *data_plane_reads(),
        Grant(("list",), "", ("events",), linkerd),
        # Annotates pods, so that the kubelet shows identity its new issuer at once.
        Grant(("patch",), "", ("pods",), linkerd),
        Grant(("get",), "", ("secrets",), linkerd),
        _trust_bundle(config),
        *_lease(config),
        Grant(("get",), "trust.cert-manager.io", ("bundles",), "", (TRUST_ROOTS,), sometimes=True),
        *probe(config),
    ]
    if config.issuer == "cert-manager":
        found += [
            Grant(("get",), "cert-manager.io", ("certificates",), linkerd),
            Grant(("patch",), "cert-manager.io", ("certificates/status",), linkerd),
            *_anchor_owner_reads(config),
        ]
    if (keys := config.anchor_namespace) != linkerd:
        found += [
            Grant(("get",), "", ("secrets",), keys, (ANCHOR_SECRET,)),
            # Read if the first does not hold the wanted key.
            Grant(("get",), "", ("secrets",), keys, (*SECRETS_BESIDE, COPY), sometimes=True),
        ]
    return found


def uninstall(config: MeshConfig, objects: Objects) -> list[Held | Grant]:
    """What charts and bootstrap created; CRDs, namespaces and dependencies if requested."""
    names = config.namespaces
    linkerd, application = names.linkerd, names.emojivoto
    crds = ("customresourcedefinitions",)
    found: list[Held | Grant] = [
        # Helm's records of releases, in any namespace.
        Grant(("list",), "", ("secrets",)),
        Grant(("list",), "", ("namespaces", "pods")),
        Grant(("list",), "apiextensions.k8s.io", crds),
        Grant(("list",), "apps", ("deployments",)),
        Grant(("get", "delete"), "", ("configmaps",), linkerd, (ROTATION,)),
        Grant(("get",), "", ("configmaps",), linkerd, (UPGRADE,)),
        _trust_bundle(config),
        Grant(("delete",), "", ("configmaps",), linkerd, (UPGRADE,), sometimes=True),
        *_lease(config),
    ]
    own = {namespace["metadata"]["name"] for namespace in namespaces(config)} | {linkerd}
    for place in sorted(own):
        found += [
            Grant(("get", "update", "patch", "delete"), "", ("secrets",), place, sometimes=True),
            # What others created in a namespace to be deleted.
            Grant(("list",), "apps", ("daemonsets", "statefulsets"), place, sometimes=True),
            Grant(("list",), "batch", ("cronjobs", "jobs"), place, sometimes=True),
            Grant(
                ("list",),
                "",
                ("configmaps", "persistentvolumeclaims", "services"),
                place,
                sometimes=True,
            ),
            Grant(("get", "delete"), "", ("namespaces",), "", (place,), sometimes=True),
        ]
    for place in sorted({application, names.viz} & own):
        kinds = ("ingressroutes", "middlewares")
        found.append(Grant(("list", "delete"), "traefik.io", kinds, place, sometimes=True))
    if config.emojivoto.enabled:
        found += [
            Grant(("list",), "", ("serviceaccounts", "services"), application),
            Grant(("delete",), "", ("serviceaccounts", "services"), application, sometimes=True),
            Grant(("delete",), "apps", ("deployments",), application, sometimes=True),
        ]
    found += _uses()
    if config.issuer == "cert-manager":
        kinds = ("certificates", "issuers")
        found += [
            Grant(("get", "delete"), "cert-manager.io", kinds, place, sometimes=True)
            for place in (linkerd, *webhook_servers(config))
        ]
        issuers = ("clusterissuers",)
        found.append(Grant(("get", "delete"), "cert-manager.io", issuers, sometimes=True))
    for name, content in objects.items():
        found += _removals(content, own, sometimes=name not in CONTROL_PLANE_CHARTS)
        # To list what would be deleted with a CRD.
        found += [
            Grant(
                ("list",), obj["spec"]["group"], (obj["spec"]["names"]["plural"],), sometimes=True
            )
            for obj in content
            if obj["kind"] == "CustomResourceDefinition"
        ]
    return found


def _uses() -> list[Grant]:
    """All objects that are deleted with their CRD, or that need cert-manager or Traefik."""
    kinds = (*POLICY_KINDS, *INGRESS_KINDS, ("linkerd.io", "ServiceProfile"))
    more = (("split.smi-spec.io", "TrafficSplit"), ("policy.linkerd.io", "EgressNetwork"))
    plurals: dict[str, set[str]] = {}
    for group, kind in (*kinds, *more, ("cert-manager.io", "Certificate")):
        plurals.setdefault(group, set()).add(plural(kind))
    return [
        Grant(("list",), group, tuple(sorted(names)), sometimes=True)
        for group, names in sorted(plurals.items())
    ]


def _removals(objects: Iterable[Object], own: set[str], *, sometimes: bool) -> Iterator[Grant]:
    """What Helm reads and deletes to uninstall; whole kinds in the mesh's namespaces."""
    elsewhere: dict[tuple[str, str, str, bool], set[str]] = {}
    for obj in objects:
        if _hook(obj):
            continue
        group, resource = obj["apiVersion"].rpartition("/")[0], plural(obj["kind"])
        place = obj["metadata"].get("namespace", "")
        if place in own:
            yield Grant(("get", "delete"), group, (resource,), place, (), sometimes)
        else:
            is_crd = resource == "customresourcedefinitions"
            key = (group, resource, place, sometimes or is_crd)
            elsewhere.setdefault(key, set()).add(obj["metadata"]["name"])
    for (group, resource, place, rare), names in sorted(elsewhere.items()):
        yield Grant(("get",), group, (resource,), place, tuple(sorted(names)), rare)
        yield Grant(("delete",), group, (resource,), place, tuple(sorted(names)), rare)


def smoke_test(config: MeshConfig, objects: Objects) -> list[Held | Grant]:  # noqa: ARG001
    """The tests' own objects in one namespace, and their removal."""
    place = config.namespaces.emojivoto
    apply = ("create", "patch")
    found: list[Held | Grant] = [
        _trust_bundle(config),
        Grant(("list",), "", ("nodes",)),
        # To find Traefik's Service in any namespace.
        Grant(("list",), "", ("services",)),
        Grant(("get",), "", ("namespaces",), "", (place,)),
        Grant((*apply, "list"), "", ("configmaps", "services"), place),
        Grant((*apply, "list", "get"), "apps", ("deployments",), place),
        Grant((*apply, "list", "delete"), "batch", ("jobs",), place),
        # Real pods: whether they are up, and a client's termination message.
        Grant(("list",), "", ("pods",), place),
        Grant(("get",), "batch", ("jobs",), place, sometimes=True),
        Grant(("list",), "apps", ("replicasets",), place),
        Grant(("list",), "", ("events",), place, sometimes=True),
        # Left behind by a dead run.
        Grant(("delete",), "", ("configmaps", "services"), place, sometimes=True),
        Grant(("delete",), "apps", ("deployments",), place, sometimes=True),
    ]
    for group, kind in sorted({(api.partition("/")[0], kind) for api, kind in SPLIT_KINDS}):
        # Which kind splits traffic depends on the version and on what the cluster serves.
        verbs = (*apply, "list", "get", "delete")
        found.append(Grant(verbs, group, (plural(kind),), place, sometimes=True))
    if config.traefik.enabled:
        kinds = ("ingressroutes", "middlewares")
        found.append(Grant((*apply, "list", "delete"), "traefik.io", kinds, place))
        found.append(Grant(("get",), "traefik.io", ("ingressroutes",), place))
    return found


def _release_places(config: MeshConfig, objects: Objects) -> list[str]:
    """The namespaces of the releases of charts."""
    return sorted({config.namespaces.of_chart(name) for name in objects})
