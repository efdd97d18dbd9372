"""A fleet's meshes on one cluster: each is a namespace with a mesh's certificates, no more."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TRUST_ROOTS, tls_secret
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor, sign_issuer
from sandbox.cluster import Sandbox


@contextmanager
def stand_ins(
    sandbox: Sandbox, names: Sequence[str], ended: Sequence[str] = ()
) -> Iterator[dict[str, dict[str, Any]]]:
    """The configurations of the named meshes, by name.

    Args:
        ended: those whose certificates have expired.
    """
    cluster = sandbox.cluster()
    spaces = {name: f"t-fleet-{name}-{secrets.token_hex(4)}" for name in names}
    for name, space in spaces.items():
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
        give_certificates(cluster, space, days=-1 if name in ended else 300)
    yield {
        name: {
            "name": name,
            "access": {"kubeconfig": str(sandbox.kubeconfig)},
            "namespaces": {"linkerd": space},
        }
        for name, space in spaces.items()
    }
    for space in spaces.values():
        cluster.delete("v1", "Namespace", space)


def give_certificates(cluster: Cluster, namespace: str, days: int) -> None:
    """Creates a trust anchor, and an issuer that expires in `days`."""
    begin = datetime.now(UTC) - timedelta(days=400)
    anchor = create_trust_anchor("cluster.local", timedelta(days=1000), begin)
    issuer = sign_issuer(anchor, "cluster.local", timedelta(days=400 + days), begin)
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": TRUST_ROOTS, "namespace": namespace},
            "data": {"ca-bundle.crt": anchor.certificate},
        }
    )
    keys = (issuer.certificate, issuer.private_key, anchor.certificate)
    cluster.apply(tls_secret(ISSUER_SECRET, namespace, *keys))
