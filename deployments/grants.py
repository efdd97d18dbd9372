"""What each flow asks of a mesh's cluster, as grants of roles.

What Helm does is taken from the charts themselves: their objects, and the rules of the roles among
them. Kubernetes lets nobody make a role with more than they have, so installing a chart needs
its roles' rules, or the verb `escalate`, by which they could give themselves everything: here it is
the rules.
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
"""The previous anchor's Secret, named as in Linkerd's documentation."""
KUBERNETES = "v1.34.0"
"""What charts are rendered for; no role of theirs depends on it."""


@dataclass(frozen=True)
class Grant:
    """Verbs on resources of a group, in a namespace or (empty) the cluster; `names` narrows.

    `sometimes` marks what a run asks for only where there is something to do: an object that one
    chart version has and the other lacks, a release that fails and goes back, an error to explain.
    """

    verbs: tuple[str, ...]
    group: str
    resources: tuple[str, ...]
    namespace: str = ""
    names: tuple[str, ...] = ()
    sometimes: bool = False


@dataclass(frozen=True)
class Held:
    """A rule that is needed to grant it, by a chart's role; in a namespace or the cluster."""

    rule: Object
    namespace: str = ""


Objects = Mapping[ChartName, Sequence[Object]]
"""What each chart installs."""


def always(granted: Iterable[Held | Grant]) -> list[Permission]:
    """What of it every run asks for, each verb on each resource."""
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


# What charts need


def render(config: MeshConfig, helm: str = "helm") -> dict[ChartName, list[Object]]:
    """Every object of the charts of a mesh, its dependencies among them; no cluster is asked.

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
    # Values and bundles make no difference to roles; charts refuse to be rendered without.
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
    """When Helm makes an object that is a hook, such as `post-install`; empty for others."""
    annotations: dict[str, str] = obj["metadata"].get("annotations") or {}
    return annotations.get("helm.sh/hook", "")


def held(objects: Iterable[Object]) -> list[Held | Grant]:
    """The rules of the roles that charts make, and `bind` of the ones that they only bind to."""
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
    """What Helm does with objects, `verbs` always and the others sometimes; and what they grant.

    In the mesh's own namespaces all of a kind; elsewhere by name. CRDs are never deleted.
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
        # Where Helm only upgrades, a chart that is not there yet is installed with its hooks.
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
        # Kubernetes does not know the name of what is yet to be made.
        narrow = () if verb == "create" else names
        yield Grant((verb,), group, (resource,), place, narrow, sometimes=verb not in always)


def records(place: str, *, history: bool) -> list[Grant]:
    """Helm's records of its releases, which it keeps in Secrets."""
    return [
        Grant(("create", "list", "update"), "", ("secrets",), place),
        # Records beyond the tenth; one left pending by a run that died; a value to look at.
        Grant(("get", "delete"), "", ("secrets",), place, sometimes=not history),
    ]


def waits(place: str, *, sometimes: bool = False) -> list[Grant]:
    """What is looked at while workloads come up; events and pods where they do not."""
    return [
        Grant(
            ("list",), "apps", ("daemonsets", "deployments", "statefulsets"), place, (), sometimes
        ),
        Grant(("list",), "apps", ("replicasets",), place, sometimes=sometimes),
        Grant(("get",), "apps", ("deployments",), place, sometimes=sometimes),
        Grant(("list",), "", ("events", "pods", "services"), place, sometimes=True),
        Grant(("get",), "apps", ("daemonsets", "statefulsets"), place, sometimes=True),
    ]


# What flows read


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
    """What a mesh trusts, and whether it is a rehearsal."""
    return Grant(("get",), "", ("configmaps",), config.namespaces.linkerd, (TRUST_ROOTS,))


def _webhook_signers(config: MeshConfig) -> list[Grant]:
    """Which CA the API server trusts for each webhook, and what cert-manager signs it with."""
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
    """Any issuer that signs a webhook's certificate; the API group is there with cert-manager."""
    return [
        Grant(("list",), "cert-manager.io", ("certificates",), sometimes=True),
        Grant(("get",), "cert-manager.io", ("clusterissuers", "issuers"), sometimes=True),
    ]


def status_reads(config: MeshConfig) -> list[Grant]:
    """What `status` reads: certificates, Helm's records, and whether work is unfinished.

    The role of `verify_mesh` has all of it.
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
    """What `adopt` reads: where a mesh and its releases are is not known before."""
    return [
        # Helm's records and the issuer, in whatever namespace.
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
    # By name in every namespace: an extension's is there or not.
    return Grant(("get",), "", ("secrets",), "", _secrets(config, in_linkerd=False))


def mesh_reads(config: MeshConfig) -> list[Grant]:
    """What `verify_mesh` reads.

    Secrets by list, too, as Helm keeps its releases in them: only in the mesh's namespaces. By the
    subresources `proxy` the API server asks viz's Prometheus and a sample of the proxies.
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
        # Why pods are refused.
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
            # Whichever ingress controller there is, under the old name of its group or the new one.
            Grant(read, group, tuple(sorted(names)), sometimes=group not in policies)
            for group, names in sorted(plurals.items())
        ),
        *_issuer_reads(),
        *_anchor_owner_reads(config),
        _extension_secrets(config),
        # As those of viz and of the CNI plugin.
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
    """Whether a Certificate owns the trust anchor; only where cert-manager keeps the issuer."""
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
    """Every meshed pod, and what makes and guards it: in every namespace."""
    return [
        Grant(("list",), "", ("namespaces", "pods")),
        Grant(("list",), "apps", ("daemonsets", "deployments", "statefulsets")),
        Grant(("list",), "policy", ("poddisruptionbudgets",)),
    ]


def restarts() -> list[Grant]:
    """Restarts of the data plane: whatever is meshed, in whichever namespace."""
    return [
        Grant(("get", "patch"), "apps", ("deployments",)),
        Grant(("get", "patch"), "apps", ("daemonsets", "statefulsets"), sometimes=True),
        # To see at once when a batch is rolled out; without it they are listed again.
        Grant(("watch",), "apps", ("daemonsets", "deployments", "statefulsets"), sometimes=True),
        # What proxies have counted around a batch; where nothing, whether pods run at all.
        Grant(("get",), "", ("pods/proxy",), sometimes=True),
        Grant(("list",), "", ("nodes",), sometimes=True),
        # Why a rollout does not come to its end.
        Grant(("list",), "", ("events",), sometimes=True),
        Grant(("list",), "apps", ("replicasets",), sometimes=True),
    ]


def probe(config: MeshConfig) -> list[Held | Grant]:
    """The probe's objects in its own namespace; only where nodes run containers."""
    found: list[Held | Grant] = [
        Grant(("list",), "", ("nodes",)),
        Grant(("get",), "", ("namespaces",), "", (PROBE,), sometimes=True),
        # How it comes up, and why it does not.
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
        # Helm keeps the releases of each namespace there.
        Grant(("list",), "", ("secrets",)),
        Grant(("list",), RBAC, ("clusterroles",)),
        Grant(("list",), "apiextensions.k8s.io", ("customresourcedefinitions",)),
        Grant(("list",), "admissionregistration.k8s.io", admission),
        Grant(("get", "patch"), "", ("namespaces",), "", names),
    ]


# What flows that change a mesh do


def bootstrap(config: MeshConfig, objects: Objects) -> list[Held | Grant]:
    """The charts, the identity, the application and its routes."""
    names = config.namespaces
    found: list[Held | Grant] = [*_preflight_reads(config)]
    for content in objects.values():
        found += releases(config, content, ("create", "get"))
    for place in _release_places(config, objects):
        found += [*records(place, history=False), *waits(place)]
    # Each is looked at first, for whose it is.
    apply = ("create", "get", "patch")
    # It ends with verify_mesh's checks.
    found += mesh_reads(config)
    found += [
        _trust_bundle(config),
        # An issuer that is recreated under running pods.
        Grant(("patch",), "", ("pods",), names.linkerd, sometimes=True),
        # The issuer; a key that is kept in the cluster; pull secrets.
        Grant(("create", "get"), "", ("secrets",), names.linkerd),
        Grant(("patch",), "", ("secrets",), names.linkerd, sometimes=True),
    ]
    for place in {names.viz} if config.viz.enabled else set[str]():
        # A pod that came up before the injector did; the dashboard's password.
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
            # Whether somebody else's Certificate keeps a Secret.
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
    """Both versions' charts, the data plane, and the record that leads back."""
    linkerd = config.namespaces.linkerd
    found: list[Held | Grant] = [
        *_preflight_reads(config),
        *data_plane_reads(),
        *restarts(),
        # The gate before and after is verify_mesh's.
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
        # A dry run of each tells what would change.
        found += releases(config, content, ("get", "patch"))
    for place in _release_places(config, changed):
        found += [*records(place, history=False), *waits(place, sometimes=True)]
    if config.traefik.enabled:
        found.append(
            Grant(("list",), "traefik.io", ("ingressroutes", "middlewares"), sometimes=True)
        )
    if "traefik" in config.upgrade.dependencies:
        # Its CRDs are no part of its release.
        crds = ("customresourcedefinitions",)
        found.append(Grant(("create", "get", "patch"), "apiextensions.k8s.io", crds))
    return found


def _kept(config: MeshConfig) -> set[str]:
    return {"cert-manager", "traefik"} - set(config.upgrade.dependencies)


def rotate_anchor(config: MeshConfig, objects: Objects) -> list[Held | Grant]:
    """The bundle by the control plane's own release, the keys, and restarts of all meshed."""
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
        # The old issuer and both keys, for the way back.
        found.append(Grant(("patch",), "", ("secrets",), linkerd))
    if keys != linkerd:
        found += [
            Grant(("create",), "", ("secrets",), keys),
            Grant(("patch",), "", ("secrets",), keys, (ANCHOR_SECRET,)),
            Grant(("patch", "delete"), "", ("secrets",), keys, SECRETS_BESIDE),
            # Where a Certificate owns the anchor: the request to renew it, and the copy.
            Grant(("get",), "cert-manager.io", ("certificates",), keys, sometimes=True),
            Grant(("patch",), "cert-manager.io", ("certificates/status",), keys, sometimes=True),
            Grant(("patch",), "", ("secrets",), keys, (COPY,), sometimes=True),
        ]
    return found


def rotate_issuer(config: MeshConfig, objects: Objects) -> list[Held | Grant]:  # noqa: ARG001
    """The issuer's Secret or Certificate, and whether identity has taken the new one up."""
    linkerd = config.namespaces.linkerd
    found: list[Held | Grant] = [
        *_rotation(config),
        Grant(("list",), "", ("secrets",), linkerd),
        # Where identity does not load the new issuer by itself.
        Grant(("get", "patch"), "apps", ("deployments",), linkerd, sometimes=True),
        Grant(("list",), "apps", ("replicasets",), linkerd, sometimes=True),
    ]
    if config.issuer == "self-signed":
        found.append(Grant(("patch",), "", ("secrets",), linkerd, ("linkerd-identity-issuer",)))
    return found


def rotate_webhooks(config: MeshConfig, objects: Objects) -> list[Held | Grant]:
    """The releases whose charts make webhooks' certificates, upgraded to what they are."""
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
            # Whether its pods came up with a proxy.
            found.append(Grant(("list",), "", ("pods",), place))
    return found


def _lease(config: MeshConfig) -> list[Grant]:
    """The record of rotations, which is also their lease and upgrades', created by the first."""
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
        # So that the kubelet shows identity its new issuer at once.
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
            # Looked for where the first is not the one that is wanted.
            Grant(("get",), "", ("secrets",), keys, (*SECRETS_BESIDE, COPY), sometimes=True),
        ]
    return found


def uninstall(config: MeshConfig, objects: Objects) -> list[Held | Grant]:
    """What the charts made and bootstrap did; CRDs, namespaces and dependencies where asked for."""
    names = config.namespaces
    linkerd, application = names.linkerd, names.emojivoto
    crds = ("customresourcedefinitions",)
    found: list[Held | Grant] = [
        # Helm's records of releases, wherever they are.
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
            # What others made in a namespace that is to go.
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
        # What would be deleted with a CRD.
        found += [
            Grant(
                ("list",), obj["spec"]["group"], (obj["spec"]["names"]["plural"],), sometimes=True
            )
            for obj in content
            if obj["kind"] == "CustomResourceDefinition"
        ]
    return found


def _uses() -> list[Grant]:
    """Everything of a kind that goes with its CRD, or that needs cert-manager or Traefik."""
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
    """What Helm looks at and deletes when it uninstalls: in the mesh's namespaces all of a kind."""
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
    """Objects of the tests' own in one namespace, and their removal."""
    place = config.namespaces.emojivoto
    apply = ("create", "patch")
    found: list[Held | Grant] = [
        _trust_bundle(config),
        Grant(("list",), "", ("nodes",)),
        # Traefik's, wherever it is.
        Grant(("list",), "", ("services",)),
        Grant(("get",), "", ("namespaces",), "", (place,)),
        Grant((*apply, "list"), "", ("configmaps", "services"), place),
        Grant((*apply, "list", "get"), "apps", ("deployments",), place),
        Grant((*apply, "list", "delete"), "batch", ("jobs",), place),
        # Real pods: whether they are up, and what a client's last words are.
        Grant(("list",), "", ("pods",), place),
        Grant(("get",), "batch", ("jobs",), place, sometimes=True),
        Grant(("list",), "apps", ("replicasets",), place),
        Grant(("list",), "", ("events",), place, sometimes=True),
        # Left by a run that died.
        Grant(("delete",), "", ("configmaps", "services"), place, sometimes=True),
        Grant(("delete",), "apps", ("deployments",), place, sometimes=True),
    ]
    for group, kind in sorted({(api.partition("/")[0], kind) for api, kind in SPLIT_KINDS}):
        # Which of them splits traffic depends on the version and on what the cluster serves.
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
