"""New certificates for Linkerd's webhooks, made by the charts that made the old ones.

Whenever a chart is rendered, it generates each webhook's certificate (`genSelfSignedCert`, for 365
days) and writes it to the Secret, to the CA bundle that the API server trusts, and as a checksum to
the pods that serve it. So a Helm upgrade to the same chart and values renews them all and changes
nothing else. Certificates that do not come from a chart are left to their owners.

Sources: `templates/*-rbac.yaml` of the charts, and
https://linkerd.io/2/tasks/automatically-rotating-webhook-tls-credentials/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput, MeshError, NotReady
from prefect_linkerd.mesh.helm.cert_manager import CERT_MANAGER
from prefect_linkerd.mesh.helm.client import desired_release
from prefect_linkerd.mesh.helm.installed import Part, parts_of, read_mesh_releases
from prefect_linkerd.mesh.helm.values import merge
from prefect_linkerd.mesh.identity.issuer import chart_issuer
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TRUST_ROOTS
from prefect_linkerd.mesh.install.injection import ensure_meshed
from prefect_linkerd.mesh.kubernetes.permissions import Permission
from prefect_linkerd.mesh.kubernetes.rollout import OnProgress
from prefect_linkerd.mesh.linkerd.facts import CONTROL_PLANE_CHARTS
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import CertificateInfo, read_certificates
from prefect_linkerd.mesh.records.rotation import RECORD, RotationClaim, read_record
from prefect_linkerd.mesh.report.events import Notice
from prefect_linkerd.mesh.rotation.permissions import lacking, require
from prefect_linkerd.mesh.rotation.trust_bundle import read_trust_bundle
from prefect_linkerd.mesh.snapshot.mesh import Certificates, read_secrets
from prefect_linkerd.mesh.snapshot.webhooks import WEBHOOKS, RenewalPlan, plan_renewal


@dataclass(frozen=True)
class Renewed:
    """A Secret, and its certificate before (None if there was none) and after."""

    secret: str
    before: CertificateInfo | None
    after: CertificateInfo


@dataclass(frozen=True)
class WebhookRenewal:
    """The result of a renewal; `left` as in `RenewalPlan`."""

    renewed: tuple[Renewed, ...]
    left: tuple[str, ...]


# Reading


def inspect_webhooks(mesh: Mesh) -> dict[str, Certificates]:
    """Checks that the charts can renew the webhooks' certificates; returns the current ones.

    Raises:
        InvalidInput: no chart makes any (names who does), or an upgrade would change more than
            them.
        PreflightFailed: this identity lacks permissions that the renewal needs.
    """
    plan = read_renewal(mesh)
    has_record = read_record(mesh.cluster, mesh.config.namespaces.linkerd) is not None
    require(lacking(mesh.cluster, renewal_permissions(mesh.config, plan, has_record=has_record)))
    return read_secrets(mesh)


def read_renewal(mesh: Mesh) -> RenewalPlan:
    """The renewal plan for the current mesh.

    Raises:
        InvalidInput: see `inspect_webhooks`.
    """
    places = _places(mesh.config)
    parts: list[Part] = [part for part in parts_of(mesh.config) if part in WEBHOOKS]
    installed = read_mesh_releases(
        mesh.cluster, mesh.config, parts=parts, namespaces=places, values=True
    )
    certificates = [
        obj for place in places for obj in mesh.cluster.list(CERT_MANAGER, "Certificate", place)
    ]
    plan = plan_renewal(installed.releases, installed.owners, certificates)
    if not plan.releases:
        raise InvalidInput(
            f"webhooks of mesh {mesh.config.name}",
            expected="a certificate that the chart of a Helm release made",
            found="; ".join(plan.left) or "no Helm release of Linkerd",
            remedy=plan.elsewhere if plan.left else "Run bootstrap, or reinstall the mesh by Helm.",
        )
    for each in plan.releases:
        if each.release.status != "deployed":
            raise InvalidInput(
                f"Helm release {each.release.ref}",
                expected="status deployed",
                found=each.release.status,
                remedy="Finish what was interrupted first: run bootstrap, upgrade or rotate_anchor "
                "again, whichever it was.",
            )
    _require_same(mesh, plan)
    return plan


def _places(config: MeshConfig) -> list[str]:
    names = config.namespaces
    found = [names.linkerd]
    found += [names.viz] if config.viz.enabled else []
    return found + ([names.jaeger] if config.jaeger.enabled else [])


def _require_same(mesh: Mesh, plan: RenewalPlan) -> None:
    """Checks that the control plane's release has the mesh's own trust bundle and issuer.

    If an interrupted rotation or a manual edit has changed them outside the release, an
    upgrade to its values would restore the old ones.
    """
    linkerd = mesh.config.namespaces.linkerd
    plane = next(
        (each.release for each in plan.releases if each.part in CONTROL_PLANE_CHARTS), None
    )
    if plane is None:
        return
    bundle = read_trust_bundle(mesh)
    if bundle.owner == "release" and bundle.anchors != bundle.declared_anchors:
        raise InvalidInput(
            f"ConfigMap/{linkerd}/{TRUST_ROOTS}",
            expected="the anchors that the release's values have, which an upgrade writes there",
            found="others",
            remedy="Finish the rotation with rotate_anchor, or put the release's anchors back.",
        )
    values = plane.values or {}
    issuer = chart_issuer(mesh.cluster.get("v1", "Secret", ISSUER_SECRET, linkerd))
    if merge(values, issuer) != values:
        raise InvalidInput(
            f"Secret/{linkerd}/{ISSUER_SECRET}",
            expected="the issuer that the release's values have, which an upgrade writes there",
            found="another one",
            remedy="Run rotate_issuer, which writes both.",
        )


def renewal_permissions(
    config: MeshConfig, plan: RenewalPlan, *, has_record: bool
) -> list[Permission]:
    """What `rotate_webhooks` writes.

    Args:
        has_record: whether the rotations' record, which is also their lease, exists.
    """
    linkerd = config.namespaces.linkerd
    found = [Permission("update", "configmaps", namespace=linkerd, name=RECORD)]
    if not has_record:
        found.append(Permission("create", "configmaps", namespace=linkerd))
    for each in plan.releases:
        # Helm's records, the certificates, and the pods that serve them.
        for verb in ("create", "list", "update"):
            found.append(Permission(verb, "secrets", namespace=each.release.namespace))
        found.append(Permission("patch", "secrets", namespace=each.release.place))
        found.append(Permission("patch", "deployments", "apps", each.release.place))
        for webhook in each.webhooks:
            group, kind, name = webhook.trusted_by
            found.append(Permission("patch", f"{kind.lower()}s", group, name=name))
    return found


# Doing it


def renew_webhooks(
    mesh: Mesh, claim: RotationClaim, before: Mapping[str, Certificates], on_progress: OnProgress
) -> WebhookRenewal:
    """Upgrades each release to its own chart and values, and proves that its certificates changed.

    Can be killed at any point: a new run renews all certificates once more, which is harmless.

    Args:
        claim: the held right to rotate, so no rotation changes the release's values meanwhile.
        before: the Secrets when the mesh was inspected. A release whose certificates have changed
            since, in an earlier try of this step, is skipped.

    Raises:
        InvalidInput: see `inspect_webhooks`.
        ChartError: the installed chart cannot be found.
        ReleaseError: Helm failed; the release is what it was.
        NotReady: a certificate has not changed.
    """
    plan = read_renewal(mesh)
    old = {key: _certificate(key, before) for each in plan.releases for key in each.secrets}
    for each in plan.releases:
        now = read_secrets(mesh)
        if all(_is_other(old[key], _certificate(key, now)) for key in each.secrets):
            continue
        claim.check()
        release = each.release
        chart = mesh.charts.find(each.part, version=release.chart_version)
        mesh.helm.upgrade_again(
            desired_release(mesh.config, chart, release.values or {}, release.ref), on_progress
        )
        if each.part not in CONTROL_PLANE_CHARTS:
            # Its pods may have come up while no injector answered.
            ensure_meshed(mesh.cluster, release.place, mesh.config.timeout_seconds, on_progress)
    now = read_secrets(mesh)
    renewed: list[Renewed] = []
    for key, info in old.items():
        after = _certificate(key, now)
        if after is None or not _is_other(info, after):
            raise NotReady(
                f"Secret/{key}",
                expected="a new certificate after an upgrade of its release",
                found="the old one" if after else "none",
                remedy="Look at `helm get manifest` of the release: its chart may not generate it.",
            )
        renewed.append(Renewed(f"Secret/{key}", info, after))
    return WebhookRenewal(tuple(renewed), plan.left)


def _certificate(key: str, secrets: Mapping[str, Certificates]) -> CertificateInfo | None:
    """The certificate of a Secret; None if there is none or it cannot be read."""
    found = secrets.get(key)
    try:
        return read_certificates(found.certificate, key)[0] if found is not None else None
    except MeshError:
        return None


def _is_other(before: CertificateInfo | None, after: CertificateInfo | None) -> bool:
    return after is not None and (before is None or before.fingerprint != after.fingerprint)


# Telling


def renewal_markdown(mesh: str, done: WebhookRenewal) -> str:
    """The renewed certificates, as a page."""
    lines = [f"# Webhook certificates of {mesh}: renewed", ""]
    lines += ["| Secret | would have expired on | expires on |", "|---|---|---|"]
    for each in done.renewed:
        before = f"{each.before.not_after:%Y-%m-%d}" if each.before else "none"
        lines.append(f"| {each.secret} | {before} | {each.after.not_after:%Y-%m-%d} |")
    if done.left:
        lines += ["", "## Not made by a chart", "", *(f"- {text}" for text in done.left)]
    return "\n".join(lines) + "\n"


def renewal_notice(mesh: str, done: WebhookRenewal) -> Notice:
    """`linkerd.webhooks.rotated`."""
    return Notice(
        "linkerd.webhooks.rotated",
        mesh,
        {
            "secrets": [each.secret for each in done.renewed],
            "not_after": min(each.after.not_after for each in done.renewed).isoformat(),
            "left": list(done.left),
        },
    )
