"""Meshes as Linkerd's documentation has people install them: by helm alone, with files of theirs.

Source: https://linkerd.io/2/tasks/install-helm/
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from mesh.charts import ChartCatalog, ChartName
from mesh.checks import CATEGORIES
from mesh.cluster import Cluster
from mesh.config import MeshConfig
from mesh.helm import Helm
from mesh.installed import read_mesh_releases
from mesh.issuer import chart_issuer
from mesh.pki import KeyPair, create_trust_anchor, sign_issuer
from mesh.report import verify
from mesh.rotation.issuer import IssuerRotation, ReleaseWriter, look_at_issuer, rotate_issuer
from mesh.rotation.key_ring import KeyRing
from mesh.rotation.record import RotationClaim
from mesh.snapshot import read_snapshot
from mesh.trust_anchor import ISSUER_SECRET, TlsSecret
from sandbox.cluster import Sandbox
from tests.checks.installed import SCOPES
from tests.rotation.meshes import FAST, PASSPHRASE, chart_of, quiet, store_of

DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Names:
    """What somebody calls their releases, and where they install them."""

    crds: str = "linkerd-crds"
    crds_namespace: str = "linkerd"
    control_plane: str = "linkerd-control-plane"
    namespace: str = "linkerd"


@dataclass
class Plain:
    """A person with helm, a trust anchor and an issuer in files."""

    sandbox: Sandbox
    helm: str
    charts: Path
    folder: Path
    cluster: Cluster = field(init=False)
    anchor: KeyPair = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = self.sandbox.cluster()
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

    def config(self, version: str, **more: Any) -> MeshConfig:
        """The mesh as this person would describe it, with the key of the anchor."""
        return MeshConfig.model_validate(
            {
                "name": version.replace(".", "-"),
                "access": {"kubeconfig": str(self.sandbox.kubeconfig)},
                "version": version,
                "charts": {"mirror": str(self.charts)},
                "viz": {"enabled": False},
                "traefik": {"enabled": False},
                "smoke_test": False,
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
        """`helm install` of each chart, as the documentation has it."""
        settings = ["--set-file", f"identityTrustAnchorsPEM={self.folder / 'ca.crt'}"]
        if scheme == "linkerd.io/tls":
            for key, file in (("crtPEM", "issuer.crt"), ("keyPEM", "issuer.key")):
                settings += ["--set-file", f"identity.issuer.tls.{key}={self.folder / file}"]
        else:
            settings += ["--set", f"identity.issuer.scheme={scheme}"]
        settings += ["--wait", "--timeout", "4m"]
        if self.config(version).linkerd.layout == "one-chart":
            # Its CronJob is of an API that this Kubernetes lacks.
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
    """Looks at the issuer's Secret throughout: it is always there, and always the same object."""
    over, seen = threading.Event(), list[str]()

    def watch() -> None:
        while not over.is_set():
            found = cluster.get("v1", "Secret", ISSUER_SECRET, namespace)
            uid = str(found["metadata"]["uid"]) if found is not None else "missing"
            if not seen or seen[-1] != uid:
                seen.append(uid)
            over.wait(0.05)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)
    assert len(seen) == 1, seen
    assert seen[0] != "missing"


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
    """The checks that do not hold, but for those that say that a newer Linkerd is out."""
    report = verify(read_snapshot(plain.cluster, config), CATEGORIES, SCOPES)
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
    """The release's values have the issuer that the Secret has."""
    found = read_mesh_releases(plain.cluster, config, values=True).control_plane
    secret = plain.cluster.get("v1", "Secret", ISSUER_SECRET, config.namespaces.linkerd)
    assert found is not None
    assert found.values is not None
    wanted = chart_issuer(secret)["identity"]["issuer"]
    have = found.values["identity"]["issuer"]
    assert {key: text.strip() for key, text in have["tls"].items()} == wanted["tls"]
    assert have.get("scheme", wanted["scheme"]) == wanted["scheme"]


def new_issuer(plain: Plain, config: MeshConfig) -> IssuerRotation:
    ring = KeyRing(store_of(plain.cluster, config))
    writer = ReleaseWriter(Helm(plain.cluster, plain.helm), lambda: chart_of(config))
    before = look_at_issuer(plain.cluster, config, ring, FAST, writer).issuer
    with RotationClaim(plain.cluster, config.namespaces.linkerd, "issuer", 30) as claim:
        return rotate_issuer(plain.cluster, config, ring, claim, FAST, before, writer, quiet)
