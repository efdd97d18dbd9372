"""Makes a mesh's certificates expire at once."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.identity.trust_anchor import KeyStore, read_tls_secret, tls_secret
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import (
    KeyPair,
    create_trust_anchor,
    join_bundle,
    sign_issuer,
)
from prefect_linkerd.mesh.restarts import RestartPolicy, read_data_plane, restart_data_plane
from prefect_linkerd.mesh.rotation.trust_bundle import write_trust_bundle
from sandbox.cluster import Sandbox
from tests.support.invariant import Invariant
from tests.support.meshes import quiet


def end_issuer(sandbox: Sandbox, anchor: KeyPair) -> None:
    """Leaves a valid anchor, an expired issuer, and no proxy with a certificate."""
    past = datetime.now(UTC) - timedelta(minutes=4)
    ended = sign_issuer(anchor, "cluster.local", timedelta(minutes=1), past)
    _put_issuer(sandbox.cluster(), ended.certificate, ended.private_key, anchor.certificate)
    _no_certificate_is_left(sandbox)


def end_anchor(sandbox: Sandbox, config: MeshConfig, helm_path: str, store: KeyStore) -> KeyPair:
    """Leaves an expired anchor, an expired issuer, and no proxy with a certificate."""
    cluster, past = sandbox.cluster(), datetime.now(UTC) - timedelta(hours=1)
    ended = create_trust_anchor("cluster.local", timedelta(minutes=30), past)
    issuer = sign_issuer(ended, "cluster.local", timedelta(minutes=20), past)
    store.replace(ended)
    _put_issuer(cluster, issuer.certificate, issuer.private_key, ended.certificate)
    helm, bundle = Helm(cluster, helm_path), join_bundle([ended.certificate])
    write_trust_bundle(Mesh(cluster, config, helm), bundle)
    _no_certificate_is_left(sandbox)
    return ended


def everything_verifies(sandbox: Sandbox) -> None:
    with Invariant(sandbox, every=0.1):
        time.sleep(2)
    assert all(proxy.chain for proxy in sandbox.proxies())


def _put_issuer(cluster: Cluster, certificate: str, key: Any, anchor: str) -> None:
    assert read_tls_secret(cluster, "linkerd-identity-issuer", "linkerd") is not None
    cluster.apply(tls_secret("linkerd-identity-issuer", "linkerd", certificate, key, anchor))


def _restart_every_proxy(cluster: Cluster) -> None:
    """Restarts every proxy, as if its certificate had expired long ago."""
    before = {pod.uid for pod in read_data_plane(cluster, "linkerd").pods}
    restart_data_plane(
        cluster,
        lambda: read_data_plane(cluster, "linkerd"),
        lambda _: lambda pod: pod.uid in before,
        RestartPolicy(batch_size=100),
        timeout=120,
        on_progress=quiet,
    )
    time.sleep(1)


def _no_certificate_is_left(sandbox: Sandbox) -> None:
    # The old identity pod may keep signing until it is gone.
    for _ in range(3):
        _restart_every_proxy(sandbox.cluster())
        if not any(proxy.chain for proxy in sandbox.proxies()):
            return
    raise AssertionError("a proxy still gets a certificate")
