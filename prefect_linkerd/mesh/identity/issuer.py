"""The issuer of a mesh's identities: signed here, or by cert-manager with the trust anchor."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import (
    ApiError,
    CertificateError,
    InvalidInput,
    NotReady,
    OwnershipConflict,
)
from prefect_linkerd.mesh.helm.cert_manager import CERT_MANAGER, certificate_for, is_theirs
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.own_objects import Advice, OwnObject, differences, ensure_own, find
from prefect_linkerd.mesh.helm.ownership import owner_of
from prefect_linkerd.mesh.helm.values import ClusterFacts, Values, merge
from prefect_linkerd.mesh.identity.trust_anchor import (
    ANCHOR_SECRET,
    ISSUER_SECRET,
    LINKERD_TLS,
    PROVIDE_KEY,
    TLS,
    KeyStore,
    TlsSecret,
    TrustAnchor,
    Unshown,
    is_same,
    read_tls_secret,
    secret_text,
    tls_secret,
)
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Cluster, Object, name_of
from prefect_linkerd.mesh.kubernetes.kubelet import refresh_mounts
from prefect_linkerd.mesh.kubernetes.objects import condition_of
from prefect_linkerd.mesh.kubernetes.waiting import polls
from prefect_linkerd.mesh.linkerd.facts import CONTROL_PLANE_CHARTS
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import (
    CertificateInfo,
    KeyPair,
    check_issuer,
    is_key_of,
    issuer_name,
    sign_issuer,
)

IDENTITY_PODS = "linkerd.io/control-plane-component=identity"
WEBHOOK_ISSUER = "webhook-issuer"


@dataclass(frozen=True)
class Issuer:
    """The public part of the issuer, and whether it already existed."""

    info: CertificateInfo
    origin: Literal["adopted", "made"]


def ensure_issuer(mesh: Mesh, anchor: TrustAnchor, store: KeyStore, now: datetime) -> Issuer:
    """Ensures the mesh's issuer, signed here or by cert-manager as configured.

    Raises:
        MeshError: see the two functions that it calls.
    """
    if mesh.config.issuer == "cert-manager":
        return ensure_cert_manager_issuer(mesh, anchor, store, now, mesh.config.timeout_seconds)
    return ensure_self_signed_issuer(mesh, anchor, store, now)


# Self-signed


def ensure_self_signed_issuer(
    mesh: Mesh, anchor: TrustAnchor, store: KeyStore, now: datetime
) -> Issuer:
    """Ensures Secret `linkerd-identity-issuer` with an issuer that the anchor signed.

    An existing issuer is adopted.

    Raises:
        CertificateError: the existing issuer does not work with this anchor.
        InvalidInput: there is no issuer, and no key of the anchor to sign one.
        OwnershipConflict: the Secret has the format that the linkerd CLI creates.
    """
    namespace = mesh.config.namespaces.linkerd
    subject = f"Secret/{namespace}/{ISSUER_SECRET}"
    existing = read_tls_secret(mesh.cluster, ISSUER_SECRET, namespace)
    if existing is not None:
        return Issuer(_check(existing, subject, mesh.config, anchor.bundle, now), "adopted")
    pair = _signing_pair(
        store,
        anchor,
        remedy=PROVIDE_KEY,
    )
    issuer = sign_issuer(pair, mesh.config.trust_domain, mesh.config.lifetimes.issuer, now)
    info = check_issuer(
        issuer.certificate,
        anchor.bundle,
        mesh.config.trust_domain,
        now,
        subject,
        version=mesh.config.linkerd,
    )
    secret = tls_secret(
        ISSUER_SECRET, namespace, issuer.certificate, issuer.private_key, anchor.certificate
    )
    try:
        mesh.cluster.create(secret)
    except ApiError as error:
        if error.status != 409:
            raise
        # Another run was faster; check and adopt its issuer.
        return ensure_self_signed_issuer(mesh, anchor, store, now)
    # A control plane that lost its issuer waits for this one.
    refresh_mounts(mesh.cluster, namespace, IDENTITY_PODS)
    return Issuer(info, "made")


def _signing_pair(store: KeyStore, anchor: TrustAnchor, *, remedy: str) -> KeyPair:
    """Returns the anchor with its key from the key store."""
    pair = store.load()
    if pair is None or not is_same(pair.certificate, anchor.certificate):
        raise InvalidInput(
            store.where,
            expected=f"the private key of trust anchor {anchor.info.subject}, to sign an issuer",
            found="none" if pair is None else "another trust anchor's",
            remedy=remedy,
        )
    return pair


def check_issuer_secret(
    secret: Object, config: MeshConfig, bundle: str, now: datetime
) -> CertificateInfo:
    """Returns the issuer in a Secret after checking that it works with a trust bundle.

    Raises:
        CertificateError, OwnershipConflict: what is wrong with it.
    """
    return _check(TlsSecret.of(secret), name_of(secret), config, bundle, now)


def _check(
    secret: TlsSecret, subject: str, config: MeshConfig, bundle: str, now: datetime
) -> CertificateInfo:
    is_usable = secret.scheme == TLS or secret.is_chart_made
    if not is_usable or not secret.certificate or secret.private_key is None:
        raise OwnershipConflict(
            subject,
            expected="tls.crt and tls.key, or crt.pem and key.pem of the control plane's chart",
            found=f"{secret.found}, which belongs to {secret.owner}",
            remedy="Add the issuer's certificate and key to it as tls.crt and tls.key, and leave "
            "its other keys: identity needs them until the mesh has scheme kubernetes.io/tls.",
        )
    info = check_issuer(
        secret.certificate, bundle, config.trust_domain, now, subject, version=config.linkerd
    )
    if not is_key_of(secret.certificate, secret.private_key, subject):
        raise CertificateError(
            subject,
            expected="tls.key to be the key of tls.crt (key.pem that of crt.pem), in PEM as Go "
            "reads it",
            found="another key, or one that Go cannot read",
            remedy="Run rotate_issuer, which writes both.",
        )
    return info


def chart_issuer(secret: Object | None) -> Values:
    """Returns values that make the control plane's chart render the issuer's Secret unchanged.

    Empty if the Secret is not the chart's. The live Secret is the source of truth: each upgrade of
    the release passes its content on, so none ever changes or removes the issuer. This is the only
    private key in Helm values, and the release's own values already contain it.
    """
    found = TlsSecret.of(secret) if secret is not None else None
    if found is None or not found.is_chart_made or found.private_key is None:
        return {}
    pair = {
        "crtPEM": found.certificate.strip(),
        "keyPEM": Unshown(found.private_key.get_secret_value().strip()),
    }
    return {"identity": {"issuer": {"scheme": LINKERD_TLS, "tls": pair}}}


def with_kept(mesh: Mesh, chart: Chart, values: Values) -> Values:
    """Adds to a chart's values what its release must keep: the issuer and the namespace.

    Up to 2.11 a chart may create its own namespace. If a later revision did not, Helm would delete
    the namespace with everything in it.
    """
    names = mesh.config.namespaces
    kept: Values = {}
    if "installNamespace" in chart.defaults:
        namespace = mesh.cluster.get("v1", "Namespace", names.of_chart(chart.name))
        if namespace is not None and owner_of(namespace).release is not None:
            kept["installNamespace"] = True
    if chart.name in CONTROL_PLANE_CHARTS:
        secret = mesh.cluster.get("v1", "Secret", ISSUER_SECRET, names.linkerd)
        kept = merge(kept, chart_issuer(secret))
    return merge(values, kept)


# cert-manager


def cert_manager_objects(config: MeshConfig) -> list[Object]:
    """Returns the issuers and Certificates that cert-manager keeps for the mesh, in order.

    The first two are the cert-manager issuer that signs the mesh's issuer, and its Certificate.

    Sources: https://linkerd.io/2/tasks/automatically-rotating-control-plane-tls-credentials/ and
    https://linkerd.io/2/tasks/automatically-rotating-webhook-tls-credentials/
    """
    namespaces = config.namespaces
    kind = config.cert_manager.issuer_kind
    own = namespaces.linkerd if kind == "Issuer" else None
    name = issuer_name(config.trust_domain)
    objects = [
        _object(kind, ANCHOR_SECRET, own, {"ca": {"secretName": ANCHOR_SECRET}}),
        _object(
            "Certificate",
            ISSUER_SECRET,
            namespaces.linkerd,
            {
                "secretName": ISSUER_SECRET,
                "duration": f"{config.lifetimes.issuer_hours}h0m0s",
                "renewBefore": f"{config.lifetimes.issuer_renew_before_hours}h0m0s",
                "issuerRef": {"name": ANCHOR_SECRET, "kind": kind, "group": "cert-manager.io"},
                "commonName": name,
                "dnsNames": [name],
                "isCA": True,
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
                "usages": ["cert sign", "crl sign", "server auth", "client auth"],
            },
        ),
    ]
    if config.cert_manager.webhook_certificates:
        for namespace, servers in webhook_servers(config).items():
            objects += _webhook_objects(config, namespace, servers)
    return objects


def webhook_servers(config: MeshConfig) -> dict[str, dict[str, str]]:
    """Returns by namespace the name of each webhook's Certificate and its Service.

    Each one's Secret is `<Service>-k8s-tls`, which every chart since 2.11 mounts.
    """
    namespaces = config.namespaces
    servers = {
        namespaces.linkerd: {
            "linkerd-proxy-injector": "linkerd-proxy-injector",
            "linkerd-sp-validator": "linkerd-sp-validator",
            "linkerd-policy-validator": "linkerd-policy-validator",
        }
    }
    if config.viz.enabled:
        servers[namespaces.viz] = {"tap": "tap", "linkerd-tap-injector": "tap-injector"}
    if config.jaeger.enabled:
        servers[namespaces.jaeger] = {"jaeger-injector": "jaeger-injector"}
    return servers


def webhook_authorities(mesh: Mesh) -> dict[str, str]:
    """Returns the webhooks' CA certificates (PEM) that cert-manager has created, by namespace."""
    found: dict[str, str] = {}
    for namespace in webhook_servers(mesh.config):
        secret = mesh.cluster.get("v1", "Secret", f"{WEBHOOK_ISSUER}-tls", namespace)
        if secret is not None:
            found[namespace] = secret_text(secret).get("tls.crt", "")
    return found


def with_webhooks(facts: ClusterFacts, mesh: Mesh) -> ClusterFacts:
    """Adds the webhooks' CAs and Certificates to the facts, if cert-manager is to keep them."""
    if mesh.config.issuer != "cert-manager" or not mesh.config.cert_manager.webhook_certificates:
        return facts
    keepers: dict[str, str] = {}
    for namespace, servers in webhook_servers(mesh.config).items():
        certificates = list(mesh.cluster.list(CERT_MANAGER, "Certificate", namespace))
        for certificate, service in servers.items():
            keeper = certificate_for(certificates, f"{service}-k8s-tls")
            if keeper is not None and is_theirs(keeper):
                keepers[f"{namespace}/{certificate}"] = keeper["metadata"]["name"]
    return replace(
        facts,
        webhook_authorities=webhook_authorities(mesh),
        webhook_keepers=keepers,
    )


def _webhook_objects(config: MeshConfig, namespace: str, servers: dict[str, str]) -> list[Object]:
    """Returns a CA for the namespace, and a certificate that it signs for each webhook server."""
    ca_days = config.lifetimes.anchor_days
    objects = [
        _object("Issuer", "webhook-selfsigned", namespace, {"selfSigned": {}}),
        _object(
            "Certificate",
            WEBHOOK_ISSUER,
            namespace,
            {
                "secretName": f"{WEBHOOK_ISSUER}-tls",
                "duration": f"{ca_days * 24}h0m0s",
                "issuerRef": {"name": "webhook-selfsigned", "kind": "Issuer"},
                "commonName": f"webhook.linkerd.{config.cluster_domain}",
                "isCA": True,
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            },
        ),
        _object(
            "Issuer", WEBHOOK_ISSUER, namespace, {"ca": {"secretName": f"{WEBHOOK_ISSUER}-tls"}}
        ),
    ]
    for certificate, service in servers.items():
        host = f"{service}.{namespace}.svc"
        objects.append(
            _object(
                "Certificate",
                certificate,
                namespace,
                {
                    "secretName": f"{service}-k8s-tls",
                    "duration": "24h0m0s",
                    "renewBefore": "1h0m0s",
                    "issuerRef": {"name": WEBHOOK_ISSUER, "kind": "Issuer"},
                    "commonName": host,
                    "dnsNames": [host],
                    "isCA": False,
                    "privateKey": {
                        "algorithm": "ECDSA",
                        "encoding": "PKCS8",
                        "rotationPolicy": "Always",
                    },
                    "usages": ["server auth"],
                },
            )
        )
    return objects


def _object(kind: str, name: str, namespace: str | None, spec: Object) -> Object:
    metadata: Object = {"name": name, "labels": MADE_HERE}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": CERT_MANAGER, "kind": kind, "metadata": metadata, "spec": spec}


def own_cert_manager_objects(config: MeshConfig) -> list[OwnObject]:
    """Returns the same objects, each with what the mesh requires of a foreign one in its place.

    A Certificate must create the right Secret for the right names; its lifetime and its issuer are
    up to its owner. The signed certificate is checked once it is ready.
    """
    return [OwnObject(obj, _needs(obj)) for obj in cert_manager_objects(config)]


def _needs(wanted: Object) -> Advice:
    spec: Object = wanted["spec"]
    names: list[str] = []
    if wanted["kind"] == "Certificate":
        if not spec["isCA"]:
            names = spec["dnsNames"]
        # An absent isCA means false.
        spec = {"secretName": spec["secretName"], **({"isCA": True} if spec["isCA"] else {})}

    def advice(found: Object) -> str:
        have: Object = found.get("spec") or {}
        lacking = [*differences({"spec": spec}, {"spec": have})]
        lacking += [
            f"spec.dnsNames: {name}" for name in names if name not in (have.get("dnsNames") or ())
        ]
        return f"Set there what Linkerd needs: {', '.join(lacking)}." if lacking else ""

    return advice


def read_needed(mesh: Mesh) -> list[OwnObject]:
    """Returns the objects that cert-manager needs on this cluster, in order.

    Our issuers are left out where the mesh's Certificates belong to somebody else. So is the
    Certificate of a webhooks' CA whose Secret somebody else created, as cert-manager would
    overwrite that Secret.
    """
    own = {name_of(each.wanted): each for each in own_cert_manager_objects(mesh.config)}
    there = {name: find(mesh.cluster, each.wanted) for name, each in own.items()}
    theirs = {name for name, found in there.items() if found is not None and is_theirs(found)}
    authorities = {
        f"Certificate/{namespace}/{WEBHOOK_ISSUER}"
        for namespace in webhook_servers(mesh.config)
        if _is_given(mesh.cluster.get("v1", "Secret", f"{WEBHOOK_ISSUER}-tls", namespace))
    }
    return needed(list(own.values()), theirs, authorities)


def _is_given(authority: Object | None) -> bool:
    """Whether the Secret of a webhooks' CA exists without having been made by a Certificate."""
    return authority is not None and owner_of(authority).by != "cert-manager"


def needed(
    own: Sequence[OwnObject], theirs: Collection[str], given: Collection[str] = ()
) -> list[OwnObject]:
    """Leaves out the objects that somebody else's objects make unnecessary.

    Args:
        theirs: the objects that somebody else keeps, as `Kind/namespace/name`.
        given: the Certificates whose Secret exists without them.
    """
    used: set[str] = set()
    found: list[OwnObject] = []
    # Reversed, as an issuer precedes the objects that refer to it.
    for each in reversed(own):
        name, spec = name_of(each.wanted), each.wanted["spec"]
        namespace = each.wanted["metadata"].get("namespace")
        if each.wanted["kind"] != "Certificate":
            if name not in used:
                continue
            if name not in theirs and (secret := spec.get("ca", {}).get("secretName")):
                used.add(f"{namespace}/{secret}")
        else:
            is_authority = each.wanted["metadata"]["name"] == WEBHOOK_ISSUER
            is_used = not is_authority or f"{namespace}/{spec['secretName']}" in used
            if name in given or not is_used:
                continue
            if name not in theirs:
                reference = each.wanted["spec"]["issuerRef"]
                place = f"{namespace}/" if reference["kind"] == "Issuer" else ""
                used.add(f"{reference['kind']}/{place}{reference['name']}")
        found.append(each)
    return found[::-1]


def ready_condition(obj: Object) -> tuple[bool, str]:
    """Whether cert-manager reports an object's current generation as ready, and its message."""
    found = condition_of(obj, "Ready")
    if found is None:
        return False, "no Ready condition yet: is cert-manager running?"
    generation = found.get("observedGeneration", obj["metadata"].get("generation"))
    is_ready = found["status"] == "True" and generation == obj["metadata"].get("generation")
    return is_ready, f"{found.get('reason', '')}: {found.get('message', '')}"


def ensure_cert_manager_issuer(
    mesh: Mesh, anchor: TrustAnchor, store: KeyStore, now: datetime, timeout: float
) -> Issuer:
    """Has cert-manager sign the issuer and Linkerd's webhook certificates, and waits for them.

    An issuer that somebody else's Certificate keeps is used unchanged.

    Args:
        timeout: seconds until everything has to be ready.

    Raises:
        InvalidInput: the trust anchor's key is not in the cluster, where cert-manager needs it.
        NotReady: an object did not become ready; with cert-manager's message and its last events.
        OwnershipConflict: somebody else's object is in the place of ours and does not suffice.
        CertificateError: what cert-manager signed does not chain to the anchor.
    """
    started = time.monotonic()
    namespace = mesh.config.namespaces.linkerd
    was_there = read_tls_secret(mesh.cluster, ISSUER_SECRET, namespace) is not None
    _, certificate = cert_manager_objects(mesh.config)[:2]
    keeper = find(mesh.cluster, certificate)
    if keeper is None or not is_theirs(keeper):
        _signing_pair(
            store,
            anchor,
            remedy="Provide it (trust_anchor.certificate_file and private_key_file), or set issuer "
            "to self-signed.",
        )
    await_ready(mesh.cluster, ensure_own(mesh.cluster, read_needed(mesh)), timeout)
    subject = f"Secret/{namespace}/{ISSUER_SECRET}"
    secret = read_tls_secret(mesh.cluster, ISSUER_SECRET, namespace)
    if secret is None:
        raise NotReady(
            subject,
            expected="cert-manager to write it",
            found="nothing, though its Certificate is Ready",
            remedy="Look at cert-manager's log.",
        )
    # cert-manager signed it after `now`, and does not backdate certificates.
    after = now + timedelta(seconds=time.monotonic() - started)
    info = _check(secret, subject, mesh.config, anchor.bundle, after)
    if not was_there:
        refresh_mounts(mesh.cluster, namespace, IDENTITY_PODS)
    return Issuer(info, "adopted" if was_there else "made")


def await_ready(cluster: Cluster, objects: Sequence[Object], timeout: float) -> None:
    """Waits until cert-manager reports every object as ready.

    Raises:
        NotReady: names the first that is not, with the messages of its condition and requests and
            its events.
    """
    waiting = list(objects)
    for is_last in polls(timeout, every=0.3):
        late: list[tuple[Object, str]] = []
        for obj in waiting:
            metadata = obj["metadata"]
            current = cluster.get(
                obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace")
            )
            is_ready, message = ready_condition(current) if current else (False, "it is gone")
            if not is_ready:
                late.append((obj, message))
        if not late:
            return
        waiting = [obj for obj, _ in late]
        if is_last:
            obj, message = late[0]
            raise NotReady(
                name_of(obj),
                expected=f"Ready within {timeout:.0f} s",
                found="; ".join([message, *_requests(cluster, obj), *cluster.events(obj)]),
                remedy="Fix what the message names, then run again.",
            )


def _requests(cluster: Cluster, certificate: Object) -> list[str]:
    """Returns the messages of a Certificate's unready requests, which usually name the cause."""
    if certificate["kind"] != "Certificate":
        return []
    name = certificate["metadata"]["name"]
    return [
        f"{name_of(request)}: {ready_condition(request)[1]}"
        for request in cluster.list(
            CERT_MANAGER, "CertificateRequest", certificate["metadata"]["namespace"]
        )
        if request["metadata"].get("annotations", {}).get("cert-manager.io/certificate-name")
        == name
        and not ready_condition(request)[0]
    ]
