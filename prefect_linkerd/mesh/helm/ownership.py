"""Who owns an object or a Helm release, and whether these flows may write it.

Owners are recognized by what they leave on their objects: owner references, labels, annotations and
field managers. A decision is one of three: `ours`, made by these flows; `adopted`, a part of the
mesh that a person or plain Helm made and that these flows manage from then on; `theirs`, which is
never written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefect_linkerd.mesh.errors import OwnershipConflict
from prefect_linkerd.mesh.helm.records import (
    RELEASE_NAME,
    RELEASE_NAMESPACE,
    Release,
    ReleaseRef,
)
from prefect_linkerd.mesh.kubernetes.client import FIELD_MANAGER, MADE_HERE, MANAGED_BY

By = Literal[
    "prefect-linkerd",
    "Helm",
    "Flux",
    "Argo CD",
    "Terraform",
    "cert-manager",
    "trust-manager",
    "controller",
    "linkerd CLI",
    "kubectl",
    "unknown",
]

Role = Literal["mesh", "shared"]
"""What an object is to the mesh: a part of it, or something that others may use as well."""

Ownership = Literal["ours", "adopted", "theirs"]

RECONCILERS: tuple[By, ...] = (
    "Flux",
    "Argo CD",
    "Terraform",
    "cert-manager",
    "trust-manager",
    "controller",
)
"""Owners that revert whatever others change in their objects."""

_HELM = "helm"
_HELM_CONTROLLER = "helm-controller"
_TERRAFORM = ("terraform", "hashicorp")
_ARGO_CD = ("argocd", "argo-cd")
_INSTANCE = "app.kubernetes.io/instance"
_NO_RECORD = ("ancient-changes", "before-first-apply")
"""What the API server calls writers that it no longer tracks separately.

Source: apimachinery `pkg/util/managedfields/internal` (capmanagers.go, skipnonapplied.go).
"""


@dataclass(frozen=True)
class Owner:
    """Who owns something. `name` is their name in messages, such as `Helm release infra/linkerd`.

    `release` is the Helm release that contains the object, even if something else drives that
    release.
    """

    by: By
    name: str
    release: ReleaseRef | None = None

    @property
    def reconciles(self) -> bool:
        """Whether they revert what others write."""
        return self.by in RECONCILERS

    @property
    def may_be_copied(self) -> bool:
        """Whether an object may name them only because kubectl copied it from one of theirs."""
        return self.by in ("cert-manager", "trust-manager")

    def __str__(self) -> str:
        return self.name


OURS = Owner("prefect-linkerd", "prefect-linkerd")


def decide(owner: Owner | None, role: Role) -> Ownership:
    """Whether these flows may write what an owner has.

    Args:
        owner: None if the object does not exist yet.
        role: a part of the mesh is adopted from people and plain Helm; a shared object is not.

    >>> decide(Owner("kubectl", "kubectl"), "mesh")
    'adopted'
    >>> decide(Owner("Helm", "Helm release infra/traefik"), "shared")
    'theirs'
    """
    if owner is None or owner.by == "prefect-linkerd":
        return "ours"
    if owner.reconciles or role == "shared":
        return "theirs"
    return "adopted"


def owner_of(obj: Mapping[str, Any]) -> Owner:
    """Who owns an object, by its metadata alone.

    Argo CD's label `app.kubernetes.io/instance` counts if Argo CD's field manager set it, or if no
    field manager is recorded for it and the object comes from a chart but from no Helm release.

    Sources: https://fluxcd.io/flux/components/helm/helmreleases/ and
    https://fluxcd.io/flux/components/kustomize/kustomizations/ (labels),
    https://argo-cd.readthedocs.io/en/stable/user-guide/resource_tracking/,
    https://cert-manager.io/docs/reference/annotations/#cert-manageriocertificate-name and
    trust-manager `pkg/bundle` (label `trust.cert-manager.io/bundle`).
    """
    metadata: Mapping[str, Any] = obj["metadata"]
    annotations: Mapping[str, str] = metadata.get("annotations") or {}
    labels: Mapping[str, str] = metadata.get("labels") or {}
    release = release_of(annotations)
    if (found := _by_reference(metadata, annotations, labels)) is not None:
        return found
    if (found := _by_gitops(annotations, labels, release)) is not None:
        return found
    setters = _setters_of_instance(metadata)
    application = Owner("Argo CD", f"Argo CD's Application {labels.get(_INSTANCE)}", release)
    if any(name.lower().startswith(_ARGO_CD) for name in setters):
        return application
    managers = _managers(metadata)
    if (found := _by_manager(managers, release)) is not None:
        return found
    if release is not None:
        return Owner("Helm", f"Helm release {release}", release)
    if labels.get(MANAGED_BY) == FIELD_MANAGER or ((FIELD_MANAGER, "Apply") in managers):
        return OURS
    if _INSTANCE in labels and not setters and _is_rendered(annotations, labels):
        return application
    if annotations.get("linkerd.io/created-by", "").startswith("linkerd/cli"):
        return Owner("linkerd CLI", "the linkerd CLI")
    for manager, _ in managers:
        if manager.startswith("kubectl"):
            return Owner("kubectl", "a kubectl user")
    writer = next((manager for manager, _ in managers), "")
    return Owner("unknown", f"field manager {writer}" if writer else "an unknown owner")


def release_of(annotations: Mapping[str, str]) -> ReleaseRef | None:
    """The Helm release that an object's annotations name."""
    if name := annotations.get(RELEASE_NAME):
        return ReleaseRef(name, annotations.get(RELEASE_NAMESPACE, ""))
    return None


def may_upgrade_crd(live: Mapping[str, Any]) -> bool:
    """Whether a live CRD of a chart's `crds/` folder was installed by Helm or by these flows.

    Helm sets no annotation on those, only its field manager, and skips a CRD that already exists.
    So one that others made, or that another release has among its objects, is not ours to upgrade
    with the chart.
    Source: https://helm.sh/docs/chart_best_practices/custom_resource_definitions/
    """
    owner = owner_of(live)
    writers = {manager for manager, _ in _managers(live["metadata"])}
    return owner.release is None and not owner.reconciles and bool(writers & {_HELM, FIELD_MANAGER})


def owner_of_release(release: Release, objects: Iterable[Mapping[str, Any]] = ()) -> Owner:
    """Who owns a Helm release, by its record and by what its drivers leave on its objects.

    Args:
        objects: some of the release's live objects; Flux labels these, but not the records.
    """
    ref = release.ref
    subject = f"Helm release {ref}"
    for found in (
        _by_gitops({}, release.labels, ref),
        _by_manager([(release.writer, "Update")], ref),
        *(owner_of(obj) for obj in objects),
    ):
        if found is not None and found.reconciles:
            return Owner(found.by, f"{found.name} ({subject})", ref)
    if release.target != release.namespace:
        # helm itself keeps a release's records in the release's namespace.
        text = f"an installer that keeps its records in namespace {release.namespace}"
        return Owner("controller", f"{text} ({subject})", ref)
    if MADE_HERE.items() <= release.labels.items():
        return Owner("prefect-linkerd", OURS.name, ref)
    return Owner("Helm", subject, ref)


def refuse_theirs(subject: str, owner: Owner, remedy: str) -> OwnershipConflict:
    """The error that refuses to write somebody else's object, with the owner's name."""
    return OwnershipConflict(
        subject,
        expected="an object that these flows may write",
        found=f"one that belongs to {owner}",
        remedy=remedy,
    )


def _by_reference(
    metadata: Mapping[str, Any], annotations: Mapping[str, str], labels: Mapping[str, str]
) -> Owner | None:
    namespace = metadata.get("namespace", "")
    references: list[Mapping[str, Any]] = metadata.get("ownerReferences") or []
    for reference in references:
        group = str(reference.get("apiVersion", "")).partition("/")[0]
        name = f"{reference['kind']}/{reference['name']}"
        if group == "cert-manager.io":
            placed = f"{reference['kind']}/{namespace}/{reference['name']}"
            return Owner("cert-manager", f"cert-manager's {placed}")
        if group == "trust.cert-manager.io":
            return Owner("trust-manager", f"trust-manager's {name}")
    if certificate := annotations.get("cert-manager.io/certificate-name"):
        return Owner("cert-manager", f"cert-manager's Certificate/{namespace}/{certificate}")
    if bundle := labels.get("trust.cert-manager.io/bundle"):
        return Owner("trust-manager", f"trust-manager's Bundle/{bundle}")
    for reference in references:
        if reference.get("controller"):
            kind, name = reference["kind"], reference["name"]
            return Owner("controller", "/".join(part for part in (kind, namespace, name) if part))
    return None


def _by_gitops(
    annotations: Mapping[str, str], labels: Mapping[str, str], release: ReleaseRef | None
) -> Owner | None:
    for group, kind in (("helm", "HelmRelease"), ("kustomize", "Kustomization")):
        prefix = f"{group}.toolkit.fluxcd.io"
        if name := labels.get(f"{prefix}/name"):
            place = labels.get(f"{prefix}/namespace", "")
            subject = "/".join(part for part in (kind, place, name) if part)
            return Owner("Flux", f"Flux's {subject}", release)
    tracking = annotations.get("argocd.argoproj.io/tracking-id", "").partition(":")[0]
    if application := tracking or labels.get("argocd.argoproj.io/instance"):
        return Owner("Argo CD", f"Argo CD's Application {application}", release)
    return None


def _setters_of_instance(metadata: Mapping[str, Any]) -> list[str]:
    """The recorded setters of the label by which Argo CD before 3.0 tracks objects by default.

    Charts and people set it too, with values of their own, so the label alone proves nothing.
    Source: https://argo-cd.readthedocs.io/en/release-2.14/user-guide/resource_tracking/
    """
    entries: list[Mapping[str, Any]] = metadata.get("managedFields") or []
    return [
        name
        for entry in entries
        if (name := str(entry.get("manager", ""))) not in _NO_RECORD
        and f"f:{_INSTANCE}" in _below(entry, "fieldsV1", "f:metadata", "f:labels")
    ]


def _below(found: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for key in path:
        found = found.get(key) or {}
    return found


def _is_rendered(annotations: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether an object comes from a chart; without a release it was rendered, as Argo CD does."""
    return (
        labels.get(MANAGED_BY) == "Helm"
        or "helm.sh/chart" in labels
        or annotations.get("linkerd.io/created-by", "").startswith("linkerd/helm")
    )


def _managers(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who wrote an object's fields, and by which operation; without subresources such as status."""
    entries: list[Mapping[str, Any]] = metadata.get("managedFields") or []
    return [
        (str(entry.get("manager", "")), str(entry.get("operation", "")))
        for entry in entries
        if not entry.get("subresource")
    ]


def _by_manager(managers: Iterable[tuple[str, str]], release: ReleaseRef | None) -> Owner | None:
    for manager, _ in managers:
        name = manager.lower()
        if name.startswith(_TERRAFORM):
            return Owner("Terraform", "Terraform", release)
        if name.startswith(_ARGO_CD):
            return Owner("Argo CD", "Argo CD", release)
        if name == _HELM_CONTROLLER:
            return Owner("Flux", "Flux's helm-controller", release)
        if name == "kustomize-controller":
            return Owner("Flux", "Flux's kustomize-controller", release)
    return None
