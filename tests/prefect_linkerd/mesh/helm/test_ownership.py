"""Who owns an object, decided from the metadata that each owner leaves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.helm.installed import mesh_releases
from prefect_linkerd.mesh.helm.ownership import Owner, Ownership, decide, owner_of, owner_of_release
from prefect_linkerd.mesh.helm.records import Release, ReleaseRef
from prefect_linkerd.mesh.install.dependencies import decide_dependency, own_release
from prefect_linkerd.mesh.install.namespaces import foreign_owner, lacks, namespaces
from prefect_linkerd.mesh.kubernetes.client import FIELD_MANAGER, MADE_HERE

NOW = datetime(2026, 11, 24, tzinfo=UTC)
HELM = {"meta.helm.sh/release-name": "mesh", "meta.helm.sh/release-namespace": "infra"}


def obj(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x", "namespace": "linkerd", **metadata}}


def by(manager: str, operation: str = "Update", **more: Any) -> dict[str, Any]:
    return obj(managedFields=[{"manager": manager, "operation": operation}], **more)


def reference(api_version: str, kind: str, **more: Any) -> dict[str, Any]:
    return obj(ownerReferences=[{"apiVersion": api_version, "kind": kind, "name": "o", **more}])


INSTANCE = {"app.kubernetes.io/instance": "mesh"}


def instance(*managers: str, **metadata: Any) -> dict[str, Any]:
    """An object with the instance label, which managedFields say these managers have set."""
    fields = {"f:metadata": {"f:labels": {"f:app.kubernetes.io/instance": {}}}}
    labels = {**INSTANCE, **metadata.pop("labels", {})}
    entries = [{"manager": m, "operation": "Update", "fieldsV1": fields} for m in managers]
    return obj(managedFields=entries, labels=labels, **metadata)


LINKERDS = {"linkerd.io/created-by": "linkerd/helm stable-2.14.10"}


OBJECTS: list[tuple[dict[str, Any], str, Ownership, Ownership]] = [
    # The object; its owner's name; the decision for a part of the mesh, and for a shared object.
    (obj(labels=MADE_HERE), "prefect-linkerd", "ours", "ours"),
    (by("prefect-linkerd", "Apply"), "prefect-linkerd", "ours", "ours"),
    # A restart does not claim ownership.
    (
        obj(
            managedFields=[{"manager": m, "operation": "Update"} for m in ("prefect-linkerd", "k")]
        ),
        "field manager prefect-linkerd",
        "adopted",
        "theirs",
    ),
    (by("helm", annotations=HELM), "Helm release infra/mesh", "adopted", "theirs"),
    (by("kubectl-create"), "a kubectl user", "adopted", "theirs"),
    (by("kubectl-client-side-apply"), "a kubectl user", "adopted", "theirs"),
    (obj(), "an unknown owner", "adopted", "theirs"),
    (
        obj(annotations={"linkerd.io/created-by": "linkerd/cli stable-2.14.10"}),
        "the linkerd CLI",
        "adopted",
        "theirs",
    ),
    (
        obj(
            annotations=HELM,
            labels={
                "helm.toolkit.fluxcd.io/name": "linkerd",
                "helm.toolkit.fluxcd.io/namespace": "flux-system",
            },
        ),
        "Flux's HelmRelease/flux-system/linkerd",
        "theirs",
        "theirs",
    ),
    (
        obj(labels={"kustomize.toolkit.fluxcd.io/name": "infra"}),
        "Flux's Kustomization/infra",
        "theirs",
        "theirs",
    ),
    (by("helm-controller", annotations=HELM), "Flux's helm-controller", "theirs", "theirs"),
    (
        obj(annotations={"argocd.argoproj.io/tracking-id": "mesh:apps/Deployment:linkerd/x"}),
        "Argo CD's Application mesh",
        "theirs",
        "theirs",
    ),
    (
        obj(labels={"argocd.argoproj.io/instance": "mesh"}),
        "Argo CD's Application mesh",
        "theirs",
        "theirs",
    ),
    (by("argocd-controller"), "Argo CD", "theirs", "theirs"),
    # Argo CD's default label before 3.0 counts if Argo CD has set it, under either manager name.
    (instance("argocd-controller"), "Argo CD's Application mesh", "theirs", "theirs"),
    (instance("argocd-application-controller"), "Argo CD's Application mesh", "theirs", "theirs"),
    (
        instance("helm", "argocd-controller", annotations=HELM),
        "Argo CD's Application mesh",
        "theirs",
        "theirs",
    ),
    # No manager is recorded for the label, and the object is of a chart that no release has.
    (instance(annotations=LINKERDS), "Argo CD's Application mesh", "theirs", "theirs"),
    (
        instance("ancient-changes", labels={"app.kubernetes.io/managed-by": "Helm"}),
        "Argo CD's Application mesh",
        "theirs",
        "theirs",
    ),
    (
        instance("before-first-apply", labels={"helm.sh/chart": "traefik-37.0.0"}),
        "Argo CD's Application mesh",
        "theirs",
        "theirs",
    ),
    # Charts also set this label to their release's name, and users set their own with kustomize.
    (obj(labels=INSTANCE), "an unknown owner", "adopted", "theirs"),
    (instance("helm", annotations=HELM), "Helm release infra/mesh", "adopted", "theirs"),
    (
        obj(labels=INSTANCE, annotations={**HELM, **LINKERDS}),
        "Helm release infra/mesh",
        "adopted",
        "theirs",
    ),
    (
        instance("kubectl-client-side-apply", annotations=LINKERDS),
        "a kubectl user",
        "adopted",
        "theirs",
    ),
    (instance(FIELD_MANAGER, labels=MADE_HERE), "prefect-linkerd", "ours", "ours"),
    (instance("Terraform"), "Terraform", "theirs", "theirs"),
    (by("Terraform", "Apply"), "Terraform", "theirs", "theirs"),
    (by("HashiCorp"), "Terraform", "theirs", "theirs"),
    (by("terraform-provider-helm_v3", annotations=HELM), "Terraform", "theirs", "theirs"),
    (
        obj(annotations={"cert-manager.io/certificate-name": "linkerd-identity-issuer"}),
        "cert-manager's Certificate/linkerd/linkerd-identity-issuer",
        "theirs",
        "theirs",
    ),
    (
        reference("cert-manager.io/v1", "Certificate"),
        "cert-manager's Certificate/linkerd/o",
        "theirs",
        "theirs",
    ),
    (
        reference("trust.cert-manager.io/v1alpha1", "Bundle", controller=True),
        "trust-manager's Bundle/o",
        "theirs",
        "theirs",
    ),
    (
        obj(labels={"trust.cert-manager.io/bundle": "roots"}),
        "trust-manager's Bundle/roots",
        "theirs",
        "theirs",
    ),
    (
        reference("example.com/v1", "Mesh", controller=True),
        "Mesh/linkerd/o",
        "theirs",
        "theirs",
    ),
]


@pytest.mark.parametrize(("found", "name", "part", "shared"), OBJECTS, ids=lambda v: str(v)[:40])
def test_an_owner_is_known_by_what_it_leaves(
    found: dict[str, Any], name: str, part: Ownership, shared: Ownership
) -> None:
    owner = owner_of(found)
    assert str(owner) == name
    assert (decide(owner, "mesh"), decide(owner, "shared")) == (part, shared)


def test_what_is_not_there_may_be_made() -> None:
    assert decide(None, "shared") == "ours"


def release(chart: str, name: str = "", namespace: str = "linkerd", **more: Any) -> Release:
    more = {"status": "deployed", **more}
    return Release(name or chart, namespace, chart, "1", "edge-26.8.3", 1, updated=NOW, **more)


FLUX = {"helm.toolkit.fluxcd.io/name": "linkerd", "helm.toolkit.fluxcd.io/namespace": "flux-system"}


@pytest.mark.parametrize(
    ("found", "objects", "by", "text"),
    [
        (release("traefik"), [], "Helm", "Helm release linkerd/traefik"),
        (release("traefik", labels=MADE_HERE), [], "prefect-linkerd", "prefect-linkerd"),
        (release("traefik", labels=FLUX), [], "Flux", "HelmRelease/flux-system/linkerd"),
        (release("traefik", labels=MADE_HERE), [obj(labels=FLUX)], "Flux", "HelmRelease"),
        (release("traefik", writer="helm-controller"), [], "Flux", "helm-controller"),
        (
            release("traefik", writer="terraform-provider-helm_v2.17.0"),
            [],
            "Terraform",
            "Terraform",
        ),
        (release("traefik", target="mesh"), [], "controller", "its records in namespace linkerd"),
    ],
)
def test_a_release_is_whose_that_drives_it(
    found: Release, objects: list[dict[str, Any]], by: str, text: str
) -> None:
    owner = owner_of_release(found, objects)
    assert owner.by == by
    assert text in str(owner)
    assert owner.release == found.ref


# Dependencies

MINE = MeshConfig.model_validate(
    {
        "profile": "demo",
        "issuer": "cert-manager",
        "trust_anchor": {"custody": "in-cluster"},
    }
)


@pytest.mark.parametrize("name", ["cert-manager", "traefik"])
@pytest.mark.parametrize(
    ("there", "install", "adopt", "decision"),
    [
        (None, True, False, "release"),
        ({"labels": MADE_HERE}, True, False, "release"),
        ({"labels": MADE_HERE, "status": "pending-install"}, True, False, "release"),
        ({"labels": MADE_HERE}, False, False, "use"),
        ({}, True, False, "use"),
        ({}, False, False, "use"),
        ({"name": "ingress", "namespace": "edge"}, True, False, "use"),
        ({}, True, True, "release"),
        ({"name": "ingress", "namespace": "edge"}, True, True, "release"),
        ({"labels": FLUX}, True, True, "use"),
        ({"writer": "terraform-provider-helm"}, True, True, "use"),
    ],
)
def test_a_dependency_of_somebody_else_is_used_and_never_written(
    name: Any, there: dict[str, Any] | None, install: bool, adopt: bool, decision: str
) -> None:
    key = name.replace("-", "_")
    config = MINE.model_copy(
        update={key: getattr(MINE, key).model_copy(update={"install": install, "adopt": adopt})}
    )
    releases = [] if there is None else [release(name, **{"namespace": name, **there})]
    served = there is not None
    assert decide_dependency(name, config, releases, served=served) == decision
    own = own_release(name, config, releases)
    assert (own is not None) == (decision == "release" and there is not None)


def test_a_dependency_of_somebody_else_that_does_not_work_is_named() -> None:
    broken = release("cert-manager", "cm", "infra", status="pending-install")
    with pytest.raises(
        InvalidInput, match=r"infra/cm to serve .* pending-install\. Have its owner"
    ):
        decide_dependency("cert-manager", MINE, [broken], served=False)


# Linkerd's own


def test_releases_are_known_by_their_charts() -> None:
    found = mesh_releases(
        MeshConfig.model_validate({"namespaces": {"linkerd": "mesh"}}),
        [
            release("linkerd-crds", "crds", "infra"),
            release("linkerd-control-plane", "l5d", "mesh"),
            release("linkerd-viz", "dash", "linkerd-viz"),
            release("linkerd-jaeger", "j", "elsewhere"),
        ],
        {},
    )
    assert {part: r.ref for part, r in found.releases.items()} == {
        "linkerd-crds": ReleaseRef("crds", "infra"),
        "linkerd-control-plane": ReleaseRef("l5d", "mesh"),
        "linkerd-viz": ReleaseRef("dash", "linkerd-viz"),
    }
    assert {owner.by for owner in found.owners.values()} == {"Helm"}


def test_a_release_of_2_11_is_where_its_value_says() -> None:
    old = release("linkerd2", "mesh", "default", place="linkerd")
    assert mesh_releases(MeshConfig(), [old], {}).ref("linkerd2") == ReleaseRef("mesh", "default")


def test_a_control_plane_without_a_release_has_an_owner() -> None:
    mark = obj(annotations={"argocd.argoproj.io/tracking-id": "mesh:apps/Deployment:linkerd/x"})
    found = mesh_releases(MeshConfig(), [], {"linkerd-control-plane": mark, "linkerd2": mark})
    assert found.control_plane is None
    assert str(found.driver) == "Argo CD's Application mesh"


def test_a_foreign_namespace_is_left_alone() -> None:
    config = MINE
    wanted = {o["metadata"]["name"]: o for o in namespaces(config)}
    person = {"metadata": {"name": "n", "managedFields": [{"manager": "kubectl-create"}]}}
    flux = {"metadata": {"name": "n", "labels": {"kustomize.toolkit.fluxcd.io/name": "k"}}}
    assert foreign_owner(wanted["cert-manager"], person, config) is not None
    assert foreign_owner(wanted["linkerd"], person, config) is None
    owner = foreign_owner(wanted["linkerd"], flux, config)
    assert isinstance(owner, Owner)
    assert "annotation linkerd.io/inject: disabled" in lacks(wanted["linkerd"], flux)
    off = config.model_copy(
        update={"traefik": config.traefik.model_copy(update={"install": False})}
    )
    assert "traefik" not in {o["metadata"]["name"] for o in namespaces(off)}
