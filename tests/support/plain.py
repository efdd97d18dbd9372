"""Meshes installed as Linkerd's documentation says: by helm alone, with certificates in files.

Source: https://linkerd.io/2/tasks/install-helm/
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.helm.charts import ChartCatalog, ChartName
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.installed import read_mesh_releases
from prefect_linkerd.mesh.identity.issuer import chart_issuer
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TlsSecret
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import KeyPair, create_trust_anchor, sign_issuer
from prefect_linkerd.mesh.records.rotation import RotationClaim
from prefect_linkerd.mesh.report.report import verify
from prefect_linkerd.mesh.rotation.issuer import (
    IssuerRotation,
    inspect_issuer,
    rotate_issuer,
)
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot
from sandbox.cluster import Sandbox
from tests.support.installed import SCOPES
from tests.support.meshes import PASSPHRASE, quiet
from tests.support.rotations import FAST, ring_of
from tests.support.shared import require_version

DOMAIN = "cluster.local"
FILES = {"ca.crt": "ca.crt", "tls.crt": "issuer.crt", "tls.key": "issuer.key"}
"""The keys of an issuer's Secret of type kubernetes.io/tls, and the files with their content."""


@dataclass(frozen=True)
class Names:
    """The names and namespaces of a user's releases."""

    crds: str = "linkerd-crds"
    crds_namespace: str = "linkerd"
    control_plane: str = "linkerd-control-plane"
    namespace: str = "linkerd"


@dataclass
class Plain:
    """A user with helm, and a trust anchor and an issuer in files."""

    sandbox: Sandbox
    helm: str
    charts: Path
    folder: Path
    cluster: Cluster = field(init=False)
    anchor: KeyPair = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = self.sandbox.cluster()
        kept, key = self.folder / "ca.crt", self.folder / "ca.key"
        if kept.exists():
            # A copy of a mesh that was installed once.
            self.anchor = KeyPair(kept.read_text(), SecretStr(key.read_text()))
            return
        now = datetime.now(UTC)
        self.anchor = create_trust_anchor(DOMAIN, timedelta(days=365), now)
        issuer = sign_issuer(self.anchor, DOMAIN, timedelta(days=300), now)
        for name, text in (
            ("ca.crt", self.anchor.certificate),
            ("ca.key", self.anchor.private_key.get_secret_value()),
            ("issuer.crt", issuer.certificate),
            ("issuer.key", issuer.private_key.get_secret_value()),
        ):
            (self.folder / name).write_text(text)

    def run_helm(self, *arguments: str, values: dict[str, Any] | None = None) -> None:
        command = [self.helm, *arguments, "--kubeconfig", str(self.sandbox.kubeconfig)]
        if values is not None:
            file = self.folder / "values.yaml"
            file.write_text(yaml.safe_dump(values))
            command += ["--values", str(file)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)

    def run_kubectl(self, *arguments: str) -> None:
        command = [str(self.sandbox.binaries.kubectl), *arguments]
        command += ["--kubeconfig", str(self.sandbox.kubeconfig)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)

    def config(self, version: str, **more: Any) -> MeshConfig:
        """The mesh as this user would configure it, with the anchor's key."""
        require_version(version)
        return MeshConfig.model_validate(
            {
                "name": version.replace(".", "-"),
                "access": {"kubeconfig": str(self.sandbox.kubeconfig)},
                "version": version,
                "charts": {"mirror": str(self.charts)},
                "viz": {"enabled": False},
                "traefik": {"enabled": False},
                "emojivoto": {"enabled": False},
                "trust_anchor": {
                    "certificate_file": str(self.folder / "ca.crt"),
                    "private_key_file": str(self.folder / "ca.key"),
                    "key_file": str(self.folder / "kept.key"),
                    "passphrase": PASSPHRASE,
                },
                "timeout_seconds": 240,
                **more,
            }
        )

    def chart(self, name: ChartName, version: str) -> str:
        return str(ChartCatalog(self.config(version)).find(name).path)

    def install(
        self,
        version: str,
        names: Names = Names(),
        values: dict[str, Any] | None = None,
        *,
        scheme: str = "linkerd.io/tls",
    ) -> None:
        """Runs `helm install` for each chart, as the documentation does."""
        settings = ["--set-file", f"identityTrustAnchorsPEM={self.folder / 'ca.crt'}"]
        if scheme == "linkerd.io/tls":
            for key, file in (("crtPEM", "issuer.crt"), ("keyPEM", "issuer.key")):
                settings += ["--set-file", f"identity.issuer.tls.{key}={self.folder / file}"]
        else:
            settings += ["--set", f"identity.issuer.scheme={scheme}"]
            self.run_kubectl("create", "namespace", names.namespace)
            content = [f"--from-file={key}={self.folder / file}" for key, file in FILES.items()]
            place = ("--namespace", names.namespace, f"--type={scheme}")
            self.run_kubectl("create", "secret", "generic", ISSUER_SECRET, *place, *content)
        settings += ["--wait", "--timeout", "4m"]
        if release_facts(self.config(version).linkerd).has_one_chart:
            # The heartbeat's CronJob uses an API version that this Kubernetes lacks.
            settings += ["--set", "disableHeartBeat=true"]
            chart = self.chart("linkerd2", version)
            place = ["--namespace", names.namespace, "--create-namespace"]
            self.run_helm("install", names.control_plane, chart, *place, *settings, values=values)
            return
        crds = ["--namespace", names.crds_namespace, "--create-namespace"]
        self.run_helm("install", names.crds, self.chart("linkerd-crds", version), *crds)
        place = ["--namespace", names.namespace, "--create-namespace"]
        chart = self.chart("linkerd-control-plane", version)
        self.run_helm("install", names.control_plane, chart, *place, *settings, values=values)


@contextmanager
def issuer_never_missing(cluster: Cluster, namespace: str = "linkerd") -> Iterator[None]:
    """Asserts that the issuer's Secret is never deleted and has a certificate at every change."""
    path = cluster.path("v1", "Secret", namespace)
    query = {"fieldSelector": f"metadata.name={ISSUER_SECRET}"}
    listed = cluster.read(path, query)
    (first,) = listed["items"]
    over, found = threading.Event(), list[str]()

    def watch() -> None:
        version = listed["metadata"]["resourceVersion"]
        while not over.is_set():
            # The API server ends each watch; the next one starts after the last event seen.
            asked = {**query, "watch": "1", "resourceVersion": version, "timeoutSeconds": "1"}
            try:
                answer, _ = cluster.request("GET", path, query=asked)
            except ApiError as error:
                found.append(f"no watch: {error}")
                return
            for line in answer.splitlines():
                event = json.loads(line)
                secret = event["object"]
                if event["type"] != "MODIFIED" or not TlsSecret.of(secret).certificate:
                    found.append(f"{event['type']} {secret['metadata']}")
                version = secret["metadata"]["resourceVersion"]

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=30)
    assert not thread.is_alive()
    assert not found, found
    now = cluster.get("v1", "Secret", ISSUER_SECRET, namespace)
    assert now is not None
    assert now["metadata"]["uid"] == first["metadata"]["uid"]


def uids(cluster: Cluster, kinds: Sequence[tuple[str, str]], namespace: str) -> dict[str, str]:
    """The objects of some kinds in a namespace, each with its UID."""
    return {
        f"{kind}/{obj['metadata']['name']}": obj["metadata"]["uid"]
        for api_version, kind in kinds
        for obj in cluster.list(api_version, kind, namespace, metadata_only=True)
        if not obj["metadata"]["name"].startswith("sh.helm.release")
    }


KEPT = (
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("apps/v1", "Deployment"),
)


def failing(plain: Plain, config: MeshConfig) -> dict[str, str]:
    """The failing checks, without those that only report a newer Linkerd."""
    report = verify(read_snapshot(Mesh(plain.cluster, config)), CATEGORIES, SCOPES)
    return {
        found.check.id: " ".join(map(str, found.problems))
        for found in report.failing
        if "and the newest is" not in str(found.problems[0])
    }


def issuer_of(plain: Plain, namespace: str) -> TlsSecret:
    secret = plain.cluster.get("v1", "Secret", ISSUER_SECRET, namespace)
    assert secret is not None
    return TlsSecret.of(secret)


def is_in_step(plain: Plain, config: MeshConfig) -> None:
    """Asserts that the release's values have the issuer that is in the Secret."""
    found = read_mesh_releases(plain.cluster, config, values=True).control_plane
    secret = plain.cluster.get("v1", "Secret", ISSUER_SECRET, config.namespaces.linkerd)
    assert found is not None
    assert found.values is not None
    wanted = chart_issuer(secret)["identity"]["issuer"]
    have = found.values["identity"]["issuer"]
    assert {key: text.strip() for key, text in have["tls"].items()} == wanted["tls"]
    assert have.get("scheme", wanted["scheme"]) == wanted["scheme"]


def new_issuer(plain: Plain, config: MeshConfig) -> IssuerRotation:
    ring = ring_of(plain.cluster, config)
    mesh = Mesh(plain.cluster, config, Helm(plain.cluster, plain.helm))
    before = inspect_issuer(mesh, ring, FAST).issuer
    with RotationClaim(plain.cluster, config.namespaces.linkerd, "issuer", 30) as claim:
        return rotate_issuer(mesh, ring, claim, FAST, before, quiet)
