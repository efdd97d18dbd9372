"""Objects that flows make outside Helm releases: only our own are ever written."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.bootstrap.snapshot import (
    foreign_findings,
    own_objects,
    read_foreign_workloads,
)
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import OwnershipConflict
from prefect_linkerd.mesh.helm.cert_manager import certificate_for, is_theirs
from prefect_linkerd.mesh.helm.chart_changes import own_folder_crds
from prefect_linkerd.mesh.helm.charts import read_chart
from prefect_linkerd.mesh.helm.client import DesiredRelease, Helm
from prefect_linkerd.mesh.helm.own_objects import OwnObject, differences, foreign, read_foreign
from prefect_linkerd.mesh.helm.ownership import may_upgrade_crd
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.identity.issuer import (
    cert_manager_objects,
    needed,
    own_cert_manager_objects,
)
from prefect_linkerd.mesh.install.emojivoto import ensure_emojivoto, own_emojivoto
from prefect_linkerd.mesh.install.ingress import AUTH_SECRET, ensure_ingress, ingress_objects
from prefect_linkerd.mesh.install.registry import ensure_pull_secrets, own_pull_secrets
from prefect_linkerd.mesh.kubernetes.client import (
    FIELD_MANAGER,
    MADE_HERE,
    Cluster,
    Object,
    name_of,
)
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.preflight import Finding
from tests.support.advice import follows
from tests.support.crds import crd
from tests.support.people import applied, by_kubectl, content, live
from tests.support.waiting import eventually

HELM = {"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "apps"}
TRAEFIK = "traefik.io/v1alpha1"


def found(*managers: tuple[str, str], **metadata: Any) -> Object:
    fields = [{"manager": name, "operation": operation} for name, operation in managers]
    metadata = {"name": "web", "namespace": "emojivoto", "managedFields": fields, **metadata}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata}


OWN = OwnObject(found(), lambda _: "Leave it.")
OURS: dict[str, Object | None] = {
    "nothing": None,
    "labelled": found(("kubectl-edit", "Update"), labels=MADE_HERE),
    "applied before there were labels": found((FIELD_MANAGER, "Apply")),
    "edited since": found((FIELD_MANAGER, "Apply"), ("kubectl-edit", "Update")),
    "taken over by an earlier version": found(
        ("kubectl-client-side-apply", "Update"), (FIELD_MANAGER, "Apply")
    ),
}
THEIRS: dict[str, tuple[Object, str]] = {
    "kubectl": (found(("kubectl-client-side-apply", "Update")), "a kubectl user"),
    "kubectl, restarted by us": (
        found(("kubectl-create", "Update"), (FIELD_MANAGER, "Update")),
        "a kubectl user",
    ),
    "a chart": (found(("helm", "Update"), annotations=HELM), "Helm release apps/shop"),
    "a pipeline": (found(("deploy-bot", "Apply")), "field manager deploy-bot"),
    "an unknown owner": (found(), "an unknown owner"),
    "Flux, of what was ours": (
        found(
            (FIELD_MANAGER, "Apply"),
            labels={**MADE_HERE, "kustomize.toolkit.fluxcd.io/name": "apps"},
        ),
        "Flux's Kustomization/apps",
    ),
}


@pytest.mark.parametrize("case", OURS)
def test_ours_is_known_by_label_or_field_manager(case: str) -> None:
    assert foreign(OWN, OURS[case]) is None


@pytest.mark.parametrize("case", THEIRS)
def test_theirs_is_named(case: str) -> None:
    there, owner = THEIRS[case]
    theirs = foreign(OWN, there)
    assert theirs is not None
    assert (theirs.subject, str(theirs.owner)) == ("Service/emojivoto/web", owner)


def test_differences_are_those_of_what_is_wanted_alone() -> None:
    wanted = {"a": 1, "b": [{"c": 2}, {"d": True}], "e": {}}
    assert not list(differences(wanted, {"a": 1, "b": [{"c": 2, "x": 1}, {"d": True}], "e": {}}))
    other = {"a": 1, "b": [{"c": 2}, {"d": False}]}
    assert list(differences(wanted, other)) == ["b[1].d: true", "e: {}"]
    assert list(differences({"b": [1]}, {"b": [1, 2]})) == ["b: [1]"]


# emojivoto


@pytest.fixture
def application(shared_dir: Path, namespace: str) -> MeshConfig:
    return MeshConfig.model_validate(
        {
            "namespaces": {"emojivoto": namespace},
            "profile": "demo",
            "emojivoto": {"manifest": str(shared_dir / "manifests/emojivoto.yml")},
            "traefik": {"enabled": False},
        }
    )


def without_emojivoto(config: MeshConfig) -> MeshConfig:
    off = config.emojivoto.model_copy(update={"enabled": False})
    return config.model_copy(update={"emojivoto": off})


def findings(cluster: Cluster, config: MeshConfig) -> list[Finding]:
    """The findings of bootstrap's plan about objects outside Helm releases."""
    facts = ClusterFacts(cluster.version(), cluster.api_versions())
    return [*foreign_findings(read_foreign(cluster, own_objects(Mesh(cluster, config), facts)))]


@follows(
    "To leave it to its owner, set emojivoto.enabled to false; or name another namespace",
)
def test_a_persons_emojivoto_is_never_written(cluster: Cluster, application: MeshConfig) -> None:
    theirs = [
        by_kubectl(cluster, own.wanted | _unlabelled(own.wanted))
        for own in own_emojivoto(application)
    ]
    before = content(cluster, theirs)
    [finding] = findings(cluster, application)
    assert (finding.id, finding.severity, finding.acceptable) == ("pl-owner", "error", False)
    assert "a kubectl user" in finding.message
    assert "emoji-svc" in finding.subject
    with pytest.raises(OwnershipConflict, match="belongs to a kubectl user"):
        ensure_emojivoto(Mesh(cluster, application))
    assert content(cluster, theirs) == before

    # As advised: leave it to its owner, or use another namespace.
    assert "set emojivoto.enabled to false" in finding.remedy
    assert findings(cluster, without_emojivoto(application)) == []
    assert "namespaces.emojivoto" in finding.remedy
    place = f"{application.namespaces.emojivoto}-b"
    elsewhere = application.model_copy(
        update={"namespaces": application.namespaces.model_copy(update={"emojivoto": place})}
    )
    try:
        assert findings(cluster, elsewhere) == []
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place}})
        assert len(ensure_emojivoto(Mesh(cluster, elsewhere))) == 4
    finally:
        cluster.delete("v1", "Namespace", place)
    assert content(cluster, theirs) == before


def test_one_object_of_a_pipelines_is_enough(cluster: Cluster, application: MeshConfig) -> None:
    own = own_emojivoto(application)
    theirs = applied(cluster, own[-1].wanted | _unlabelled(own[-1].wanted), "deploy-bot")
    with pytest.raises(OwnershipConflict, match="field manager deploy-bot"):
        ensure_emojivoto(Mesh(cluster, application))
    # All are checked before the first is written.
    for each in own[:-1]:
        metadata = each.wanted["metadata"]
        where = each.wanted["apiVersion"], each.wanted["kind"], metadata["name"]
        assert cluster.get(*where, metadata["namespace"]) is None
    assert content(cluster, [theirs])[0][3] == {"deploy-bot"}


def test_an_earlier_versions_emojivoto_is_ours(cluster: Cluster, application: MeshConfig) -> None:
    for own in own_emojivoto(application):
        made = applied(cluster, own.wanted | _unlabelled(own.wanted), FIELD_MANAGER)
        assert MADE_HERE.items().isdisjoint((made["metadata"].get("labels") or {}).items())
    assert findings(cluster, application) == []
    ensure_emojivoto(Mesh(cluster, application))
    for own in own_emojivoto(application):
        there = live(cluster, own.wanted)["metadata"]
        assert there["labels"].items() >= MADE_HERE.items()
        assert there.get("generation", 1) == 1


@follows(
    "To leave that namespace as it is, set emojivoto.enabled to false",
)
def test_a_persons_workloads_are_not_meshed_by_the_namespace(
    cluster: Cluster, application: MeshConfig
) -> None:
    own = own_emojivoto(application)[-1].wanted
    assert own["kind"] == "Deployment"
    assert [*read_foreign_workloads(Mesh(cluster, application))] == []
    metadata = {"name": "shop", "namespace": application.namespaces.emojivoto}
    by_kubectl(cluster, {**own, "metadata": metadata})
    [theirs] = read_foreign_workloads(Mesh(cluster, application))
    assert theirs.subject.endswith("/shop")
    assert str(theirs.owner) == "a kubectl user"
    # As advised; or the namespace already has the annotation, so its owner wants injection.
    assert "set emojivoto.enabled to false" in theirs.remedy
    off = without_emojivoto(application)
    assert [*read_foreign_workloads(Mesh(cluster, off))] == []
    patch = {"metadata": {"annotations": {"linkerd.io/inject": "enabled"}}}
    cluster.merge("v1", "Namespace", application.namespaces.emojivoto, None, patch)
    assert [*read_foreign_workloads(Mesh(cluster, application))] == []


def _unlabelled(obj: Object) -> Object:
    labels = {
        key: value for key, value in obj["metadata"]["labels"].items() if key not in MADE_HERE
    }
    return {"metadata": {**obj["metadata"], "labels": labels}}


# Routes


@pytest.fixture
def routed(cluster: Cluster, namespace: str) -> Iterator[MeshConfig]:
    for kind in ("IngressRoute", "Middleware"):
        cluster.apply(crd("traefik.io", kind))
    kinds = ("IngressRoute", "Middleware")
    eventually(lambda: all(cluster.serves(TRAEFIK, kind) for kind in kinds), every=0.1)
    viz = f"{namespace}-viz"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": viz}})
    yield MeshConfig.model_validate(
        {
            "namespaces": {"emojivoto": namespace, "viz": viz},
            "profile": "demo",
            "viz": {"dashboard": {"host": "viz.example.com"}},
        }
    )
    cluster.delete("v1", "Namespace", viz)
    for kind in ("ingressroutes", "middlewares"):
        name = f"{kind}.traefik.io"
        cluster.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)


def users(namespace: str, key: str = "users") -> Object:
    data = {key: base64.b64encode(b"me:hash").decode()}
    metadata = {"name": AUTH_SECRET, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def routes(cluster: Cluster, config: MeshConfig) -> list[Finding]:
    return findings(cluster, without_emojivoto(config))


@follows(
    "To leave the dashboard's route to its owner, leave viz.dashboard.host empty.",
    "To leave the route to its owner, set traefik.enabled to false",
)
def test_a_persons_routes_are_never_written(cluster: Cluster, routed: MeshConfig) -> None:
    """They have the names that Linkerd's documentation gives them, as ours have."""
    app, viz = routed.namespaces.emojivoto, routed.namespaces.viz
    wanted = {name_of(obj): obj for obj in ingress_objects(routed, TRAEFIK)}
    same = wanted.pop(f"Middleware/{viz}/l5d-header-middleware")
    other = [
        {**wanted[name], "spec": {"routes": []}, **_unlabelled(wanted[name])}
        for name in (
            f"IngressRoute/{app}/emojivoto-web-ingress-route",
            f"IngressRoute/{viz}/web-ingress-route",
        )
    ]
    theirs = [by_kubectl(cluster, obj) for obj in (*other, same | _unlabelled(same))]
    theirs.append(by_kubectl(cluster, users(viz)))
    before = content(cluster, theirs)

    [dashboard] = routes(cluster, routed)
    assert f"IngressRoute/{viz}/web-ingress-route" in dashboard.subject
    assert "a kubectl user" in str(dashboard)
    with pytest.raises(OwnershipConflict, match="belongs to a kubectl user"):
        ensure_ingress(Mesh(cluster, routed))
    assert content(cluster, theirs) == before
    metadata = next(iter(wanted.values()))["metadata"]
    assert cluster.get(TRAEFIK, "Middleware", metadata["name"], app) is None

    # As advised.
    assert "leave viz.dashboard.host empty" in dashboard.remedy
    no_dashboard = routed.model_copy(update={"viz": MeshConfig().viz})
    assert routes(cluster, no_dashboard) == []
    with pytest.raises(OwnershipConflict, match=r"set traefik\.enabled to false") as caught:
        ensure_ingress(Mesh(cluster, no_dashboard))
    assert "namespaces.emojivoto" in caught.value.remedy
    off = no_dashboard.traefik.model_copy(update={"enabled": False})
    assert routes(cluster, no_dashboard.model_copy(update={"traefik": off})) == []
    assert content(cluster, theirs) == before

    # Objects with the same content are used as they are, including a password of theirs.
    for obj in other:
        cluster.delete(
            TRAEFIK, "IngressRoute", obj["metadata"]["name"], obj["metadata"]["namespace"]
        )
    assert routes(cluster, routed) == []
    ensure_ingress(Mesh(cluster, routed))
    assert content(cluster, theirs[2:]) == before[2:]


@follows(
    " To use the owner's password, ",
)
def test_a_password_of_somebody_else_is_used_or_left(cluster: Cluster, routed: MeshConfig) -> None:
    viz = routed.namespaces.viz
    theirs = by_kubectl(cluster, users(viz, "auth"))
    [finding] = routes(cluster, routed)
    assert "add a key users to that Secret" in finding.remedy
    patch = {"data": users(viz)["data"]}
    path = cluster.path("v1", "Secret", viz, AUTH_SECRET)
    kind = "application/merge-patch+json"
    cluster.request(
        "PATCH", path, query={"fieldManager": "kubectl-patch"}, body=patch, content_type=kind
    )
    assert routes(cluster, routed) == []
    set_one = routed.viz.dashboard.model_copy(update={"password": "another"})
    with_one = routed.viz.model_copy(update={"dashboard": set_one})
    [finding] = routes(cluster, routed.model_copy(update={"viz": with_one}))
    assert "set no viz.dashboard.password" in finding.remedy
    assert FIELD_MANAGER not in content(cluster, [theirs])[0][3]


# Pull secrets


@follows(
    "Name another registry.pull_secret",
)
def test_a_persons_pull_secret_is_never_written(cluster: Cluster, namespace: str) -> None:
    config = MeshConfig.model_validate(
        {
            "namespaces": {"linkerd": namespace},
            "viz": {"enabled": False},
            "traefik": {"enabled": False},
            "registry": {"host": "r.example", "username": "u", "password": "one"},
        }
    )
    assert config.registry is not None
    [own] = own_pull_secrets(config)
    theirs = by_kubectl(cluster, own.wanted | _unlabelled(own.wanted))
    ensure_pull_secrets(Mesh(cluster, config))
    assert FIELD_MANAGER not in content(cluster, [theirs])[0][3]

    other = config.registry.model_copy(update={"username": "another"})
    changed = config.model_copy(update={"registry": other})
    [finding] = findings(cluster, changed)
    assert finding.subject == f"Secret/{namespace}/prefect-linkerd-registry"
    assert "another registry.pull_secret" in finding.remedy
    with pytest.raises(OwnershipConflict, match="belongs to a kubectl user"):
        ensure_pull_secrets(Mesh(cluster, changed))
    renamed = changed.model_copy(update={"registry": other.model_copy(update={"pull_secret": "m"})})
    assert findings(cluster, renamed) == []
    ensure_pull_secrets(Mesh(cluster, renamed))
    assert FIELD_MANAGER not in content(cluster, [theirs])[0][3]


# cert-manager's


MANAGED = MeshConfig.model_validate(
    {
        "issuer": "cert-manager",
        "trust_anchor": {"custody": "in-cluster"},
        "viz": {"enabled": False},
    }
)


def certificates() -> dict[str, OwnObject]:
    return {name_of(each.wanted): each for each in own_cert_manager_objects(MANAGED)}


@pytest.mark.parametrize("name", certificates())
def test_what_is_advised_of_a_certificate_or_issuer_makes_it_do(name: str) -> None:
    own = certificates()[name]
    bare: Object = {**own.wanted, "metadata": {**own.wanted["metadata"], "labels": {}}, "spec": {}}
    theirs = foreign(own, bare)
    assert theirs is not None
    prefix = "Set there what Linkerd needs: "
    assert theirs.remedy.startswith(prefix)
    for line in theirs.remedy.removeprefix(prefix).rstrip(".").split(", "):
        key, _, value = line.partition(": ")
        *above, last = key.split(".")
        place = bare
        for part in above:
            place = place.setdefault(part, {})
        given = yaml.safe_load(value)
        place[last] = [*place.get(last, []), given] if last == "dnsNames" else given
    assert foreign(own, bare) is not None
    assert own.advice(bare) == ""


def test_how_long_a_certificate_lasts_is_its_owners() -> None:
    own = certificates()["Certificate/linkerd/linkerd-identity-issuer"]
    # The spec in Linkerd's documentation.
    spec = {
        "issuerRef": {"name": "linkerd-identity-issuer", "kind": "ClusterIssuer"},
        "secretName": "linkerd-identity-issuer",
        "isCA": True,
        "commonName": "identity.linkerd.cluster.local",
        "duration": "48h0m0s",
        "privateKey": {"algorithm": "ECDSA", "rotationPolicy": "Always"},
    }
    theirs = found(("kubectl-create", "Update")) | {"spec": spec}
    assert own.advice(theirs) == ""
    assert "spec.isCA: true" in own.advice(theirs | {"spec": {**spec, "isCA": False}})


def keeper(name: str, *managers: tuple[str, str], **metadata: Any) -> Object:
    obj = found(*managers, **metadata)
    return {**obj, "metadata": {**obj["metadata"], "name": name}, "spec": {"secretName": "s"}}


def test_of_two_certificates_of_one_secret_somebody_elses_counts() -> None:
    ours = keeper("a", labels=MADE_HERE)
    unlabelled = keeper("b", (FIELD_MANAGER, "Apply"))
    theirs = keeper("c", ("kubectl-create", "Update"))
    other = {**theirs, "spec": {}}
    assert certificate_for([ours, other, theirs], "s") == theirs
    assert certificate_for([other, unlabelled], "s") == unlabelled
    assert certificate_for([other], "s") is None
    # `unlabelled` is as an earlier version applied it.
    assert [is_theirs(each) for each in (ours, unlabelled, theirs)] == [False, False, True]


ALL = [name_of(obj) for obj in cert_manager_objects(MANAGED)]
SERVERS = [
    f"Certificate/linkerd/linkerd-{name}"
    for name in ("proxy-injector", "sp-validator", "policy-validator")
]


@pytest.mark.parametrize(
    ("theirs", "given", "left_out"),
    [
        ([], [], []),
        # Which issuer signs it is then up to its owner.
        (
            ["Certificate/linkerd/linkerd-identity-issuer"],
            [],
            ["Issuer/linkerd/linkerd-trust-anchor"],
        ),
        # Linkerd's documentation makes the webhooks' CA with `step` and kubectl.
        (
            ["Issuer/linkerd/webhook-issuer"],
            ["Certificate/linkerd/webhook-issuer"],
            ["Certificate/linkerd/webhook-issuer", "Issuer/linkerd/webhook-selfsigned"],
        ),
        (
            SERVERS,
            [],
            [
                "Certificate/linkerd/webhook-issuer",
                "Issuer/linkerd/webhook-issuer",
                "Issuer/linkerd/webhook-selfsigned",
            ],
        ),
        (SERVERS[:1], [], []),
    ],
)
def test_nothing_is_made_that_only_somebody_elses_would_need(
    theirs: list[str], given: list[str], left_out: list[str]
) -> None:
    found = needed(own_cert_manager_objects(MANAGED), theirs, given)
    assert [name_of(each.wanted) for each in found] == [n for n in ALL if n not in left_out]


# CRDs of a chart's folder


@pytest.mark.parametrize(
    ("managers", "metadata", "may"),
    [
        ([("helm", "Update")], {}, True),
        ([("prefect-linkerd", "Apply")], {}, True),
        # As upgraded by Traefik's documentation.
        ([("helm", "Update"), ("kubectl", "Apply")], {}, True),
        ([("kubectl-client-side-apply", "Update")], {}, False),
        ([("helm", "Update")], {"annotations": HELM}, False),
        ([("helm", "Update")], {"labels": {"kustomize.toolkit.fluxcd.io/name": "a"}}, False),
        ([("deploy-bot", "Apply")], {}, False),
        ([], {}, False),
    ],
)
def test_whose_crds_are_upgraded_with_a_chart(
    managers: list[tuple[str, str]], metadata: dict[str, Any], may: bool
) -> None:
    assert may_upgrade_crd(found(*managers, **metadata)) == may


def test_a_persons_crds_stay_where_a_chart_has_them_too(
    cluster: Cluster,
    namespace: str,
    helm_path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = f"{namespace}.example.com"
    theirs, ours = crd(group, "Theirs"), crd(group, "Ours")
    names = [obj["metadata"]["name"] for obj in (theirs, ours)]

    def chart(version: str) -> DesiredRelease:
        (tmp_path / "crds").mkdir(exist_ok=True)
        (tmp_path / "templates").mkdir(exist_ok=True)
        for obj in (theirs, ours):
            labelled = {**obj, "metadata": {**obj["metadata"], "labels": {"chart": version}}}
            (tmp_path / f"crds/{obj['metadata']['name']}.yaml").write_text(yaml.safe_dump(labelled))
        text = yaml.safe_dump({"apiVersion": "v2", "name": "traefik", "version": version})
        (tmp_path / "Chart.yaml").write_text(text)
        return DesiredRelease("t", namespace, read_chart("traefik", tmp_path, "here"), {}, 60)

    def labels() -> list[Any]:
        kind = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
        found = [cluster.get(*kind, name) for name in names]
        return [obj and (obj["metadata"].get("labels") or {}).get("chart") for obj in found]

    helm = Helm(cluster, helm_path)
    by_kubectl(cluster, theirs)
    try:
        helm.reconcile(chart("1.0.0"))
        assert labels() == [None, "1.0.0"]
        helm.reconcile(chart("1.1.0"))
        assert labels() == [None, "1.1.0"]
        asked: list[str] = []
        request = Cluster.request

        def counted(self: Cluster, method: str, path: str, **options: Any) -> Any:
            asked.append(path)
            return request(self, method, path, **options)

        monkeypatch.setattr(Cluster, "request", counted)
        found = own_folder_crds(cluster, chart("1.2.0").chart)
        assert [crd["metadata"]["name"] for crd in found] == names[1:]
        # One list, no matter how many CRDs the chart has.
        assert len([path for path in asked if "customresourcedefinitions" in path]) == 1
    finally:
        for name in names:
            cluster.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
