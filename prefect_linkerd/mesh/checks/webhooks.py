"""Checks the certificates of Linkerd's webhooks against the CA that the API server trusts.

Source: linkerd2 `pkg/healthcheck`, category linkerd-webhooks-and-apisvc-tls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.checks.identity import chains, expires_soon, not_valid_now
from prefect_linkerd.mesh.checks.renewal import is_renewed
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.pki.certificates import CertificateInfo, read_certificates
from prefect_linkerd.mesh.snapshot.expiry import expiries
from prefect_linkerd.mesh.snapshot.mesh import Snapshot
from prefect_linkerd.mesh.snapshot.webhooks import decoded

webhooks = Category[Snapshot]("linkerd-webhooks-and-apisvc-tls", "control-plane")

RENEW = (
    "Run rotate_webhooks, which has the chart make a new one; if cert-manager manages it, look at "
    "its Certificate."
)


def serving_chain(snapshot: Snapshot, namespace: str, secret: str) -> list[CertificateInfo]:
    """A server's certificate, and the intermediates that follow it in its Secret.

    Raises:
        Skip: it cannot be read; the check of its validity reports it.
    """
    found = snapshot.secrets.get(f"{namespace}/{secret}")
    try:
        return read_certificates(found.certificate if found else "", f"Secret/{namespace}/{secret}")
    except MeshError as error:
        raise Skip(f"Secret/{namespace}/{secret} has no certificate: {error.found}") from None


def not_served(
    snapshot: Snapshot, namespace: str, secret: str, authority: str, host: str
) -> Problems:
    """Why a client that trusts a CA rejects a server's certificate; linkerd's own test.

    Args:
        secret: the name of the Secret with the server's certificate and key.
        authority: the CA that the client trusts, PEM.
        host: the DNS name that the client uses for the server.
    """
    subject = f"Secret/{namespace}/{secret}"
    found = snapshot.secrets.get(f"{namespace}/{secret}")
    if found is None:
        yield Problem(subject, "it does not exist", RENEW)
        return
    if lacking := [key for key in ("tls.crt", "tls.key") if key not in found.keys]:
        yield Problem(subject, f"it has no {' and no '.join(lacking)}", RENEW)
        return
    try:
        chain = read_certificates(found.certificate, subject)
        roots = read_certificates(authority, f"CA of {host}")
    except MeshError as error:
        text = f"expected {error.expected}, found {error.found}"
        yield Problem(error.subject, text, RENEW)
        return
    if not found.has_matching_key:
        yield Problem(subject, "its key does not match its certificate", RENEW)
        return
    ended = [(root, text) for root in roots if (text := not_valid_now(root, snapshot.now))]
    for root, text in ended:
        subject_of_root = f"CA {root.common_name} ({root.serial}) of {host}"
        yield Problem(subject_of_root, text, _new_root(snapshot, root))
    if text := not_valid_now(chain[0], snapshot.now):
        yield Problem(subject, text, RENEW)
    elif not ended and not chains(chain, roots, snapshot.now, subject):
        text = "the CA that its clients trust (caBundle) did not sign it"
        yield Problem(subject, text, RENEW)
    elif host not in chain[0].dns_names:
        names = ", ".join(chain[0].dns_names) or "none"
        yield Problem(subject, f"it is not valid for {host}; its DNS names are: {names}", RENEW)


def _new_root(snapshot: Snapshot, root: CertificateInfo) -> str:
    """How to replace a CA; a chart creates a new one with each certificate."""
    found = (e for e in expiries(snapshot) if e.info.fingerprint == root.fingerprint)
    return next((e.remedy for e in found if e.role == "webhook CA" and not e.renewed_by), RENEW)


def ending(snapshot: Snapshot, namespace: str, secret: str) -> Problems:
    """The certificates in a server's Secret that expire soon, unless cert-manager renews them."""
    if is_renewed(snapshot, namespace, secret):
        return
    for info in serving_chain(snapshot, namespace, secret):
        if text := expires_soon(info, snapshot.now):
            yield Problem(f"Secret/{namespace}/{secret} ({info.common_name})", text, RENEW)


def _mutating(snapshot: Snapshot) -> Mapping[str, Object]:
    return snapshot.mutating_webhooks


def _validating(snapshot: Snapshot) -> Mapping[str, Object]:
    return snapshot.validating_webhooks


def _judge(snapshot: Snapshot, server: str, kind: str, found: Mapping[str, Object]) -> Problems:
    namespace, name = snapshot.config.namespaces.linkerd, f"{server}-webhook-config"
    if name not in found:
        raise Skip(f"{kind}/{name} does not exist")
    hooks: list[Object] = found[name].get("webhooks") or []
    if len(hooks) != 1:
        yield Problem(f"{kind}/{name}", f"it has {len(hooks)} webhooks instead of one", RENEW)
        return
    authority = decoded(hooks[0].get("clientConfig", {}).get("caBundle", ""))
    host = f"{server}.{namespace}.svc"
    yield from not_served(snapshot, namespace, f"{server}-k8s-tls", authority, host)


def _declare(
    server: str,
    kind: str,
    configurations: Callable[[Snapshot], Mapping[str, Object]],
    *,
    is_optional: bool = False,
) -> None:
    secret = f"linkerd-{server}-k8s-tls"

    @webhooks.check(
        f"l5d-{server}-webhook-cert-valid", f"{server} webhook has valid cert", fatal=True
    )
    def webhook_cert_valid(snapshot: Snapshot) -> Problems:
        namespace = snapshot.config.namespaces.linkerd
        if is_optional and f"{namespace}/{secret}" not in snapshot.secrets:
            raise Skip(f"{server} is not installed")
        return _judge(snapshot, f"linkerd-{server}", kind, configurations(snapshot))

    @webhooks.check(
        f"l5d-{server}-webhook-cert-not-expiring-soon",
        f"{server} cert is valid for at least 60 days",
        "warning",
    )
    def webhook_cert_not_expiring_soon(snapshot: Snapshot) -> Problems:
        return ending(snapshot, snapshot.config.namespaces.linkerd, secret)


_declare("proxy-injector", "MutatingWebhookConfiguration", _mutating)
_declare("sp-validator", "ValidatingWebhookConfiguration", _validating)
_declare("policy-validator", "ValidatingWebhookConfiguration", _validating, is_optional=True)
