"""A new issuer for a running mesh: signed here or by cert-manager, and loaded by identity.

The identity service reloads its issuer when the mounted Secret changes, and emits an event. A
kubelet takes up to a minute or two to update the mount, or about a second if the pods are
annotated. Proxies need no restart: they trust the anchor, and get a certificate from the new issuer
when they renew.
Source: linkerd2 `pkg/identity` (Run) and `controller/cmd/identity`.
"""

from __future__ import annotations

import base64
import time
from datetime import datetime
from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import NotReady
from prefect_linkerd.mesh.helm.cert_manager import CERT_MANAGER, certificate_for
from prefect_linkerd.mesh.helm.ownership import decide, owner_of, refuse_theirs
from prefect_linkerd.mesh.identity.issuer import IDENTITY_PODS
from prefect_linkerd.mesh.identity.trust_anchor import (
    ISSUER_SECRET,
    TlsSecret,
    Unshown,
    read_tls_secret,
    tls_secret,
)
from prefect_linkerd.mesh.install.injection import restart
from prefect_linkerd.mesh.kubernetes.client import MERGE_PATCH, Cluster, Object, last_change
from prefect_linkerd.mesh.kubernetes.kubelet import refresh_mounts
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.rollout import OnProgress, await_rollouts
from prefect_linkerd.mesh.kubernetes.waiting import poll, polls
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import KeyPair, check_issuer, sign_issuer
from prefect_linkerd.mesh.rotation.leaves import IssuerLoad, issuer_load
from prefect_linkerd.mesh.snapshot.mesh import read_pods

PREVIOUS_ISSUER = f"{ISSUER_SECRET}-previous"
"""The Secret that keeps the previous issuer for as long as a rotation can be rolled back."""

IDENTITY = "linkerd-identity"

REFRESH = 10.0
"""Seconds until the kubelet is asked again: the last time it may not have seen the change yet."""


def write_issuer(mesh: Mesh, anchor: KeyPair, bundle: str) -> None:
    """Signs a new issuer and replaces the current one in a single write.

    Raises:
        CertificateError: identity would not load it.
        OwnershipConflict: the issuer belongs to somebody else.
    """
    namespace = mesh.config.namespaces.linkerd
    now = mesh.cluster.clock()
    issuer = sign_issuer(anchor, mesh.config.trust_domain, mesh.config.lifetimes.issuer, now)
    subject = f"Secret/{namespace}/{ISSUER_SECRET}"
    check_issuer(
        issuer.certificate,
        bundle,
        mesh.config.trust_domain,
        now,
        subject,
        version=mesh.config.linkerd,
    )
    put_issuer(mesh, issuer, anchor.certificate)


def put_issuer(mesh: Mesh, issuer: KeyPair, authority: str) -> None:
    """Writes an issuer into its Secret in one write, keeping the Secret's scheme and type.

    A Secret that the control plane's chart made stays the chart's; `write_release` then updates the
    release's values to match.

    Raises:
        OwnershipConflict: the issuer belongs to somebody else.
    """
    namespace = mesh.config.namespaces.linkerd
    there = mesh.cluster.get("v1", "Secret", ISSUER_SECRET, namespace)
    require_writable(there, mesh.config)
    if there is not None and TlsSecret.of(there).is_chart_made:
        texts = {"crt.pem": issuer.certificate, "key.pem": issuer.private_key.get_secret_value()}
        data = {k: Unshown(base64.b64encode(v.strip().encode()).decode()) for k, v in texts.items()}
        mesh.cluster.merge("v1", "Secret", ISSUER_SECRET, namespace, {"data": data})
        return
    secret = tls_secret(ISSUER_SECRET, namespace, issuer.certificate, issuer.private_key, authority)
    # A Secret's type is immutable.
    mesh.cluster.apply({**secret, "type": there["type"]} if there is not None else secret)


def require_writable(secret: Object | None, config: MeshConfig) -> None:
    """Checks that these flows may write the issuer's Secret; changes nothing.

    Raises:
        OwnershipConflict: the issuer belongs to somebody else.
    """
    owner = owner_of(secret) if secret is not None else None
    if owner is None or decide(owner, "mesh") != "theirs":
        return
    remedy = (
        "Set the mesh's issuer to cert-manager, so that it is renewed there."
        if owner.by == "cert-manager"
        else "Renew the issuer there."
    )
    raise refuse_theirs(f"Secret/{config.namespaces.linkerd}/{ISSUER_SECRET}", owner, remedy)


def reissue(mesh: Mesh, name: str = ISSUER_SECRET) -> None:
    """Asks cert-manager for a new issuer.

    Args:
        name: the issuer's Certificate.
    """
    renew(mesh.cluster, mesh.config.namespaces.linkerd, name)


def renew(cluster: Cluster, namespace: str, name: str) -> None:
    """Asks cert-manager to renew a Certificate, as `cmctl renew` does, unless it already is.

    Source: https://cert-manager.io/docs/reference/cmctl/#renew
    """
    certificate = cluster.get(CERT_MANAGER, "Certificate", name, namespace)
    if certificate is None:
        raise NotReady(
            f"Certificate/{namespace}/{name}",
            expected="a Certificate that cert-manager manages",
            found="none",
            remedy="Create it again, or run bootstrap if that created it.",
        )
    conditions = _conditions(certificate)
    if any(c["type"] == "Issuing" and c["status"] == "True" for c in conditions):
        return
    issuing = {
        "type": "Issuing",
        "status": "True",
        "reason": "ManuallyTriggered",
        "message": "Certificate re-issuance manually triggered",
        "lastTransitionTime": f"{cluster.clock():%Y-%m-%dT%H:%M:%SZ}",
        "observedGeneration": certificate["metadata"]["generation"],
    }
    kept = [c for c in conditions if c["type"] != "Issuing"]
    cluster.request(
        "PATCH",
        cluster.path(CERT_MANAGER, "Certificate", namespace, name) + "/status",
        body={
            # The patch replaces the whole list, so it must fail if cert-manager wrote meanwhile.
            "metadata": {"resourceVersion": certificate["metadata"]["resourceVersion"]},
            "status": {"conditions": [*kept, issuing]},
        },
        content_type=MERGE_PATCH,
        subject=f"Certificate/{namespace}/{name}",
    )


def issuer_certificate(mesh: Mesh) -> str:
    """The name of the issuer's Certificate, which users may choose freely."""
    found = mesh.cluster.list(CERT_MANAGER, "Certificate", mesh.config.namespaces.linkerd)
    certificate = certificate_for(found, ISSUER_SECRET)
    return str(certificate["metadata"]["name"]) if certificate is not None else ISSUER_SECRET


def await_reissued(mesh: Mesh, timeout: float, name: str = ISSUER_SECRET) -> TlsSecret:
    """Waits until cert-manager has issued the issuer, and reads its Secret.

    Args:
        name: the issuer's Certificate.

    Raises:
        NotReady: with cert-manager's own conditions.
    """
    return await_issued(mesh.cluster, mesh.config.namespaces.linkerd, name, ISSUER_SECRET, timeout)


def await_issued(
    cluster: Cluster, namespace: str, name: str, secret_name: str, timeout: float
) -> TlsSecret:
    """Waits until cert-manager has finished issuing a Certificate, and reads its Secret.

    Raises:
        NotReady: with cert-manager's own conditions.
    """
    for is_last in polls(timeout, every=0.3):
        certificate = cluster.get(CERT_MANAGER, "Certificate", name, namespace) or {}
        states = {c["type"]: c for c in _conditions(certificate)}
        is_issuing = states.get("Issuing", {}).get("status") == "True"
        is_ready = states.get("Ready", {}).get("status") == "True"
        secret = read_tls_secret(cluster, secret_name, namespace)
        if not is_issuing and is_ready and secret is not None:
            return secret
        if is_last:
            texts = [f"{c['type']} {c['status']}: {c.get('message', '')}" for c in states.values()]
            raise NotReady(
                f"Certificate/{namespace}/{name}",
                expected=f"cert-manager to issue within {timeout:.0f} s",
                found="; ".join(texts) or "no condition",
                remedy="Fix what cert-manager names, then run again.",
            )
    raise AssertionError("unreachable")


def _conditions(certificate: Object) -> list[dict[str, Any]]:
    return certificate.get("status", {}).get("conditions") or []


def read_load(mesh: Mesh) -> IssuerLoad:
    """Whether every identity pod signs with the issuer in the Secret; changes nothing."""
    namespace = mesh.config.namespaces.linkerd
    secret = mesh.cluster.get("v1", "Secret", ISSUER_SECRET, namespace)
    if secret is None:
        return IssuerLoad(None)
    pods = [
        pod
        for pod in read_pods(mesh.cluster, namespace, labels=IDENTITY_PODS)
        if pod.phase not in ("Succeeded", "Failed")
    ]
    return issuer_load(pods, last_change(secret), identity_events(mesh.cluster, namespace))


def identity_events(cluster: Cluster, namespace: str) -> list[Object]:
    return list(cluster.list("v1", "Event", namespace, fields=f"involvedObject.name={IDENTITY}"))


def ensure_loaded(mesh: Mesh, patience: float, on_progress: OnProgress) -> datetime:
    """The time after which every identity pod signs with the issuer in the Secret.

    Args:
        patience: seconds they have to load it by themselves; after that they are restarted.

    Raises:
        NotReady: they do not load it; quotes the reason that they gave.
    """
    load = _await_load(mesh, patience, on_progress)
    if load.since is None:
        if load.readable is not None:
            mesh.cluster.wait_until(load.readable)
        identity = Workload("Deployment", mesh.config.namespaces.linkerd, IDENTITY)
        restart(mesh.cluster, identity, mesh.cluster.clock())
        await_rollouts(mesh.cluster, [identity], mesh.config.timeout_seconds, on_progress)
        load = _await_load(mesh, mesh.config.timeout_seconds, on_progress)
    if load.since is None:
        raise NotReady(
            f"Deployment/{mesh.config.namespaces.linkerd}/{IDENTITY}",
            expected="it to load the new issuer",
            found=load.skipped or "no sign that it did, even after a restart",
            remedy="Look at its log and events.",
        )
    return load.since


def _await_load(mesh: Mesh, patience: float, on_progress: OnProgress) -> IssuerLoad:
    refreshed = -REFRESH

    def is_known(load: IssuerLoad) -> bool:
        return load.since is not None or bool(load.skipped)

    def read() -> IssuerLoad:
        nonlocal refreshed
        load = read_load(mesh)
        if not is_known(load):
            on_progress(0, 1, "waiting for identity to load the issuer that its Secret has")
            if time.monotonic() > refreshed + REFRESH:
                refresh_mounts(mesh.cluster, mesh.config.namespaces.linkerd, IDENTITY_PODS)
                refreshed = time.monotonic()
        return load

    return poll(read, is_known, patience, every=1.0)
