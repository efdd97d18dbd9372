"""Charts rendered without a cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.manifests import read_objects

# Values without which chart linkerd2 does not render.
NEEDED = [
    *("--set", "identityTrustAnchorsPEM=x,identity.issuer.tls.crtPEM=x"),
    *("--set", "identity.issuer.tls.keyPEM=x,installGatewayAPI=true"),
]


def crds(helm: str, chart: Path) -> list[dict[str, Any]]:
    rendered = subprocess.run(
        [helm, "template", "x", str(chart), "--kube-version", "1.34.4", *NEEDED],
        check=True,
        capture_output=True,
        text=True,
    )
    return [
        doc for doc in read_objects(rendered.stdout) if doc["kind"] == "CustomResourceDefinition"
    ]


def rendering_helm(helm_path: str) -> Helm:
    """Helm for charts that are only rendered: its cluster does not exist."""
    nowhere = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    return Helm(Cluster(nowhere), helm_path)
