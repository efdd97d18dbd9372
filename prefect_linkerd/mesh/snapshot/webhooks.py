"""Linkerd's webhooks: what makes and signs their certificates, and which CA their clients trust."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.cert_manager import CERT_MANAGER, certificate_for
from prefect_linkerd.mesh.helm.installed import Part
from prefect_linkerd.mesh.helm.ownership import Owner
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.identity.certificate_anchor import signing_secret
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.mesh import Mesh


@dataclass(frozen=True)
class Webhook:
    """A webhook of a chart: the value that configures it, its Secret, and what holds its CA."""

    value: str
    secret: str
    trusted_by: tuple[str, str, str]
    """Group, kind and name of the object with its CA."""


_MUTATING = ("admissionregistration.k8s.io", "MutatingWebhookConfiguration")
_VALIDATING = ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration")

_CONTROL_PLANE = (
    Webhook(
        "proxyInjector",
        "linkerd-proxy-injector-k8s-tls",
        (*_MUTATING, "linkerd-proxy-injector-webhook-config"),
    ),
    Webhook(
        "profileValidator",
        "linkerd-sp-validator-k8s-tls",
        (*_VALIDATING, "linkerd-sp-validator-webhook-config"),
    ),
    Webhook(
        "policyValidator",
        "linkerd-policy-validator-k8s-tls",
        (*_VALIDATING, "linkerd-policy-validator-webhook-config"),
    ),
)
WEBHOOKS: dict[Part, tuple[Webhook, ...]] = {
    "linkerd2": _CONTROL_PLANE,
    "linkerd-control-plane": _CONTROL_PLANE,
    "linkerd-viz": (
        Webhook(
            "tap",
            "tap-k8s-tls",
            ("apiregistration.k8s.io", "APIService", "v1alpha1.tap.linkerd.io"),
        ),
        Webhook(
            "tapInjector",
            "tap-injector-k8s-tls",
            (*_MUTATING, "linkerd-tap-injector-webhook-config"),
        ),
    ),
    "linkerd-jaeger": (
        Webhook(
            "webhook",
            "jaeger-injector-k8s-tls",
            (*_MUTATING, "linkerd-jaeger-injector-webhook-config"),
        ),
    ),
}
"""The webhooks of each part of the mesh, in the order in which the parts are upgraded.

Source: linkerd2 `templates/*-rbac.yaml` of each chart.
"""


def webhooks_of(config: MeshConfig) -> list[tuple[str, Webhook]]:
    """Every webhook that a mesh may have, each once, with its namespace."""
    return [
        (config.namespaces.of_chart(part), webhook)
        for part, webhooks in WEBHOOKS.items()
        if part != "linkerd2"
        for webhook in webhooks
    ]


@dataclass(frozen=True)
class WebhookSigner:
    """What signs a webhook's certificate.

    `bundle` is the CA (PEM) with which the API server verifies the webhook. `certificate` names the
    cert-manager Certificate that keeps its Secret, if one does; `signing` is the Secret
    (`namespace/name`) that its issuer signs with, empty if that is outside this cluster; and
    `keeper` names the Certificate that keeps the signing Secret.
    """

    namespace: str
    webhook: Webhook
    bundle: str
    certificate: str = ""
    signing: str = ""
    keeper: str = ""

    @property
    def key(self) -> str:
        """The webhook's Secret, as `namespace/name`."""
        return f"{self.namespace}/{self.webhook.secret}"

    @property
    def trusted_by(self) -> str:
        """The object that holds the CA, as messages name it."""
        _, kind, name = self.webhook.trusted_by
        return f"{kind}/{name}"


def read_webhook_signers(mesh: Mesh) -> tuple[WebhookSigner, ...]:
    """What signs each webhook's certificate; changes nothing and reads no Secret.

    Webhooks that are not installed are left out.
    """
    certificates: dict[str, list[Object]] = {}

    def keeper(namespace: str, secret: str) -> Object | None:
        if namespace not in certificates:
            found = mesh.cluster.list(CERT_MANAGER, "Certificate", namespace)
            certificates[namespace] = list(found)
        return certificate_for(certificates[namespace], secret)

    def read() -> Iterator[WebhookSigner]:
        for namespace, webhook in webhooks_of(mesh.config):
            group, kind, name = webhook.trusted_by
            # A list of one, because an identity that may list a kind may lack permission to get it.
            found = mesh.cluster.list(f"{group}/v1", kind, fields=f"metadata.name={name}")
            trusting = next(iter(found), None)
            if trusting is None:
                continue
            certificate = keeper(namespace, webhook.secret)
            place = signing_secret(mesh, certificate) if certificate else None
            own = keeper(*place) if place is not None else None
            yield WebhookSigner(
                namespace,
                webhook,
                bundle_of(trusting),
                certificate["metadata"]["name"] if certificate is not None else "",
                "/".join(place) if place is not None else "",
                own["metadata"]["name"] if own is not None else "",
            )

    return tuple(read())


def bundle_of(trusting: Object) -> str:
    """The CA certificates (PEM) with which the API server verifies what it calls."""
    hooks: list[dict[str, Any]] = trusting.get("webhooks") or []
    clients: list[dict[str, Any]] = [hook.get("clientConfig") or {} for hook in hooks]
    if not hooks:
        clients = [trusting.get("spec") or {}]
    return "\n".join(dict.fromkeys(decoded(client.get("caBundle") or "") for client in clients))


def decoded(bundle: str) -> str:
    """A `caBundle` as PEM; replaces bytes that are not text, as they are no certificate anyway."""
    return base64.b64decode(bundle).decode(errors="replace")


# New certificates


@dataclass(frozen=True)
class RenewedRelease:
    """A release to upgrade again, and the webhooks whose certificates change with it."""

    part: Part
    release: Release
    webhooks: tuple[Webhook, ...]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The Secrets of its webhooks, as `namespace/name`."""
        return tuple(f"{self.release.place}/{webhook.secret}" for webhook in self.webhooks)


@dataclass(frozen=True)
class RenewalPlan:
    """The releases to upgrade again; `left` says what renews the certificates that no chart makes.

    `kept` are the Certificates (namespace, name) with which cert-manager renews some of those.
    """

    releases: tuple[RenewedRelease, ...]
    left: tuple[str, ...]
    kept: tuple[tuple[str, str], ...] = ()

    @property
    def elsewhere(self) -> str:
        """How to renew the certificates that no chart makes."""
        found = [] if len(self.kept) == len(self.left) else ["Renew them where they come from."]
        if self.kept:
            names: dict[str, list[str]] = {}
            for namespace, name in self.kept:
                names.setdefault(namespace, []).append(name)
            commands = " && ".join(
                f"cmctl renew --namespace {place} {' '.join(each)}" for place, each in names.items()
            )
            found.append(f"cert-manager renews its own before they expire; or now with: {commands}")
        return " ".join(found)


def plan_renewal(
    releases: Mapping[Part, Release],
    owners: Mapping[Part, Owner],
    certificates: Iterable[Object] = (),
) -> RenewalPlan:
    """Decides which releases to upgrade again; reads and changes nothing.

    Args:
        releases: those of the mesh, with their values.
        owners: the owner of each part.
        certificates: cert-manager's Certificates in the mesh's namespaces.
    """
    by_namespace: dict[str, list[Object]] = {}
    for obj in certificates:
        by_namespace.setdefault(obj["metadata"]["namespace"], []).append(obj)
    found: list[RenewedRelease] = []
    left: list[str] = []
    kept: list[tuple[str, str]] = []
    for part, webhooks in WEBHOOKS.items():
        release, owner = releases.get(part), owners.get(part)
        if release is None or release.status == "uninstalled":
            if owner is not None:
                left.append(f"{part} is not a Helm release: {owner} makes its certificates")
            continue
        if owner is not None and owner.reconciles:
            left.append(f"Helm release {release.ref} belongs to {owner}: upgrade it there")
            continue
        made: list[Webhook] = []
        for webhook in webhooks:
            keeper = certificate_for(by_namespace.get(release.place, ()), webhook.secret)
            name: str = keeper["metadata"]["name"] if keeper is not None else ""
            text = _made_elsewhere(webhook, release.values or {}, name)
            if not text:
                made.append(webhook)
                continue
            left.append(f"Secret/{release.place}/{webhook.secret}: {text}")
            if text.startswith("cert-manager"):
                kept.append((release.place, name))
        if made:
            found.append(RenewedRelease(part, release, tuple(made)))
    return RenewalPlan(tuple(found), tuple(left), tuple(kept))


def _made_elsewhere(webhook: Webhook, values: Mapping[str, Any], certificate: str) -> str:
    """What makes a webhook's certificate if the chart does not; empty if it does."""
    given: object = values.get(webhook.value)
    own = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    if own.get("externalSecret"):
        if certificate:
            return f"cert-manager renews it by Certificate {certificate}"
        return f"{webhook.value}.externalSecret is set: its owner has to renew it"
    if own.get("crtPEM"):
        return f"it comes from the value {webhook.value}.crtPEM: replace that, keyPEM and caBundle"
    return ""
