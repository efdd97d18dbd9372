"""Proof that a bootstrapped mesh works: what is installed, read back and judged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError, MeshError, NotReady
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.helm.values import proxy_version
from prefect_linkerd.mesh.identity.issuer import check_issuer_secret
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TRUST_ROOTS, TlsSecret
from prefect_linkerd.mesh.install.ingress import API_VERSIONS, ingress_objects
from prefect_linkerd.mesh.install.injection import PROXY, proxy_of, should_be_meshed
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object, name_of
from prefect_linkerd.mesh.kubernetes.rollout import (
    is_pod_ready,
    pod_reason,
    read_workloads,
    rollout_status,
)
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import CertificateInfo, fingerprints, read_certificates
from prefect_linkerd.mesh.snapshot.mesh import read_pods
from prefect_linkerd.mesh.snapshot.proxy_metrics import (
    ProxySample,
    choose_sample,
    read_proxy_metrics,
    without_identity,
)

CERTIFIED = 15.0
"""Seconds that proxies have to get their first certificate once their pods are ready."""

CONTROL_PLANE = ("linkerd-destination", "linkerd-identity", "linkerd-proxy-injector")


@dataclass(frozen=True)
class ProofSnapshot:
    """What the proof looks at, read once.

    `ingress` are the objects found, by name; `sample` is what proxies say of their certificates.
    """

    config: MeshConfig
    server_version: str
    workloads: tuple[Object, ...]
    trust_roots: Object | None
    issuer: Object | None = field(repr=False)
    webhooks: tuple[Object, ...]
    pods: tuple[Object, ...]
    ingress: frozenset[str]
    ingress_api: str
    services: frozenset[str]
    releases: tuple[Release, ...]
    rehearsal: bool
    proxy_version: str
    sample: ProxySample


@dataclass(frozen=True)
class CertificateRow:
    """One certificate of the mesh, for a table."""

    name: str
    info: CertificateInfo
    days_left: float


@dataclass(frozen=True)
class Proof:
    """What is installed, what is wrong with it, and what could not be checked and why."""

    mesh: str
    linkerd: str
    kubernetes: str
    certificates: tuple[CertificateRow, ...]
    releases: tuple[Release, ...]
    proxies: int
    checked: tuple[str, ...]
    failures: tuple[str, ...]
    unchecked: tuple[str, ...]
    rehearsal: bool

    @property
    def ok(self) -> bool:
        return not self.failures


def meshed_namespaces(config: MeshConfig) -> list[str]:
    """The namespaces in which bootstrap expects every pod to have a proxy."""
    names = config.namespaces
    found = [names.linkerd]
    found += [names.viz] if config.viz.enabled else []
    found += [names.jaeger] if config.jaeger.enabled else []
    found += [names.emojivoto] if config.emojivoto.enabled else []
    return found


def read_proof(
    mesh: Mesh, releases: Sequence[Release], *, rehearsal: bool = False
) -> ProofSnapshot:
    """Reads the mesh back."""
    names = mesh.config.namespaces
    meshed = meshed_namespaces(mesh.config)
    served = mesh.cluster.api_versions()
    api = next((candidate for candidate in API_VERSIONS if candidate in served), "")
    found = {
        name_of(obj)
        for namespace in (names.viz, names.emojivoto)
        for kind in ("Middleware", "IngressRoute")
        if api
        for obj in mesh.cluster.list(api, kind, namespace)
    }
    hooks = "admissionregistration.k8s.io/v1"
    return ProofSnapshot(
        config=mesh.config,
        server_version=mesh.cluster.version(),
        workloads=tuple(obj for name in meshed for obj in read_workloads(mesh.cluster, name)),
        trust_roots=mesh.cluster.get("v1", "ConfigMap", TRUST_ROOTS, names.linkerd),
        issuer=mesh.cluster.get("v1", "Secret", ISSUER_SECRET, names.linkerd),
        webhooks=tuple(
            obj
            for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
            for obj in mesh.cluster.list(
                hooks, kind, labels=f"linkerd.io/control-plane-ns={names.linkerd}"
            )
        ),
        pods=tuple(pod for name in meshed for pod in mesh.cluster.list("v1", "Pod", name)),
        ingress=frozenset(found),
        ingress_api=api,
        services=frozenset(
            name_of(obj) for name in meshed for obj in mesh.cluster.list("v1", "Service", name)
        ),
        releases=tuple(releases),
        rehearsal=rehearsal,
        proxy_version=proxy_version(mesh.config),
        sample=ProxySample() if rehearsal else _ask_proxies(mesh.cluster, meshed),
    )


def _ask_proxies(cluster: Cluster, namespaces: Sequence[str]) -> ProxySample:
    """What a proxy of each workload says, once all of them have a certificate or after a while."""
    pods = [pod for name in namespaces for pod in read_pods(cluster, name) if pod.proxy is not None]
    deadline = time.monotonic() + CERTIFIED
    while True:
        try:
            sample = read_proxy_metrics(cluster, choose_sample(pods))
        except ApiError as error:
            return ProxySample(silent={"": f"{error.found}. {error.remedy}"})
        waiting = any(said.identity_ends is None for said in sample.answers.values())
        if not waiting or time.monotonic() > deadline:
            return sample
        time.sleep(0.5)


def prove(snapshot: ProofSnapshot, now: datetime) -> Proof:
    """Judges what was read: control plane, identity, proxies, webhooks, ingress, releases.

    Whether proxies have certificates is asked of their admin ports through the API server; where
    none answers, the proof says so.
    """
    config = snapshot.config
    checks = {
        "workloads are rolled out": _workloads(snapshot),
        "the issuer chains to the trust bundle": _identity(snapshot, now),
        "webhooks have a CA": _webhooks(snapshot),
        "pods are ready and carry the mesh's proxy": _proxies(snapshot),
        "ingress routes lead to Services": _ingress(snapshot),
        "Helm releases are deployed": _releases(snapshot),
    }
    unchecked: tuple[str, ...] = ()
    if snapshot.sample.answers:
        checks["proxies have certificates"] = _certified(snapshot, now)
    else:
        why = next(iter(snapshot.sample.silent.values()), "there is none to ask")
        unchecked = (f"proxies have certificates: no proxy's admin port answers ({why})",)
    return Proof(
        mesh=config.name,
        linkerd=str(config.linkerd),
        kubernetes=snapshot.server_version,
        certificates=tuple(_certificates(snapshot, now)),
        releases=_own_releases(snapshot),
        proxies=sum(proxy_of(pod) is not None for pod in snapshot.pods),
        checked=tuple(checks),
        failures=tuple(failure for failures in checks.values() for failure in failures),
        unchecked=unchecked,
        rehearsal=snapshot.rehearsal,
    )


def _workloads(snapshot: ProofSnapshot) -> list[str]:
    names = snapshot.config.namespaces
    there = {name_of(obj) for obj in snapshot.workloads}
    wanted = [f"Deployment/{names.linkerd}/{name}" for name in CONTROL_PLANE]
    failures = [f"{name}: it does not exist" for name in wanted if name not in there]
    for obj in snapshot.workloads:
        status = rollout_status(obj)
        if not status.is_complete:
            failures.append(f"{name_of(obj)}: {status.ready} of {status.wanted} pods are ready")
    return failures


def _identity(snapshot: ProofSnapshot, now: datetime) -> list[str]:
    bundle = _bundle(snapshot)
    if not bundle:
        return [f"ConfigMap/{snapshot.config.namespaces.linkerd}/{TRUST_ROOTS}: it is not there"]
    if snapshot.issuer is None:
        return [f"Secret/{snapshot.config.namespaces.linkerd}/{ISSUER_SECRET}: it is not there"]
    try:
        check_issuer_secret(snapshot.issuer, snapshot.config, bundle, now)
    except MeshError as error:
        return [str(error)]
    return []


def _bundle(snapshot: ProofSnapshot) -> str:
    return str((snapshot.trust_roots or {}).get("data", {}).get("ca-bundle.crt", ""))


def _webhooks(snapshot: ProofSnapshot) -> list[str]:
    names = [obj["metadata"]["name"] for obj in snapshot.webhooks]
    failures = [
        f"{name}: the webhook configuration is not there"
        for name in ("linkerd-proxy-injector-webhook-config", "linkerd-sp-validator-webhook-config")
        if name not in names
    ]
    return failures + [
        f"{name_of(obj)}: webhook {hook['name']} has no caBundle"
        for obj in snapshot.webhooks
        for hook in obj.get("webhooks", [])
        if not hook["clientConfig"].get("caBundle")
    ]


def _proxies(snapshot: ProofSnapshot) -> list[str]:
    failures: list[str] = []
    bundle = _bundle(snapshot)
    trusted = fingerprints(bundle, TRUST_ROOTS) if bundle else frozenset[str]()
    for pod in snapshot.pods:
        if pod["status"].get("phase") == "Succeeded" or pod["metadata"].get("deletionTimestamp"):
            continue
        subject = name_of(pod)
        if not is_pod_ready(pod):
            failures.append(f"{subject}: {pod_reason(pod)}")
        proxy = proxy_of(pod)
        if proxy is None:
            if should_be_meshed(pod):
                failures.append(f"{subject}: it has no container {PROXY}")
            continue
        version = snapshot.proxy_version
        if not proxy["image"].endswith(f":{version}"):
            failures.append(f"{subject}: its proxy is {proxy['image']}, not of {version}")
        environment = {item["name"]: item.get("value") for item in proxy.get("env", [])}
        anchors = environment.get("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS")
        # The control plane's own pods read the ConfigMap itself.
        if anchors and fingerprints(anchors, subject) != trusted:
            failures.append(f"{subject}: its trust bundle is not the mesh's; restart it")
    return failures


def _certified(snapshot: ProofSnapshot, now: datetime) -> list[str]:
    identity = f"Deployment/{snapshot.config.namespaces.linkerd}/linkerd-identity"
    return [
        f"Pod/{pod}: {text}; see the log of {identity}"
        for pod, text in without_identity(snapshot.sample, now)
    ]


def _ingress(snapshot: ProofSnapshot) -> list[str]:
    config = snapshot.config
    if not config.traefik.enabled:
        return []
    failures: list[str] = []
    for obj in ingress_objects(config, snapshot.ingress_api or API_VERSIONS[0]):
        if name_of(obj) not in snapshot.ingress:
            failures.append(f"{name_of(obj)}: it is not there")
        for route in obj["spec"].get("routes", []):
            for service in route["services"]:
                name = f"Service/{obj['metadata']['namespace']}/{service['name']}"
                if name not in snapshot.services:
                    failures.append(f"{name_of(obj)}: its {name} does not exist")
    return failures


def _own_releases(snapshot: ProofSnapshot) -> tuple[Release, ...]:
    namespaces = set(snapshot.config.namespaces.model_dump().values())
    return tuple(release for release in snapshot.releases if release.namespace in namespaces)


def _releases(snapshot: ProofSnapshot) -> list[str]:
    return [
        f"Helm release {release.namespace}/{release.name}: its status is {release.status}"
        for release in _own_releases(snapshot)
        if release.status != "deployed"
    ]


def _certificates(snapshot: ProofSnapshot, now: datetime) -> list[CertificateRow]:
    rows: list[CertificateRow] = []
    texts = [("trust anchor", _bundle(snapshot))]
    if snapshot.issuer is not None:
        texts.append(("issuer", TlsSecret.of(snapshot.issuer).certificate))
    for name, pem in texts:
        if pem:
            infos = read_certificates(pem, name)[: None if name == "trust anchor" else 1]
            rows += [CertificateRow(name, info, info.days_left(now)) for info in infos]
    return rows


def require_proof(proof: Proof) -> Proof:
    """Returns a proof that holds.

    Raises:
        NotReady: naming everything that does not.
    """
    if not proof.ok:
        raise NotReady(
            f"mesh {proof.mesh}",
            expected="everything installed to work",
            found=" | ".join(proof.failures[:20]),
            remedy="Fix what is named, then run bootstrap again.",
        )
    return proof


def proof_table(proof: Proof) -> list[dict[str, str]]:
    """One row for each thing that is installed: part, name, version, state."""
    rows = [
        {"part": "Linkerd", "name": proof.mesh, "version": proof.linkerd, "state": _verdict(proof)},
        {"part": "Kubernetes", "name": "", "version": proof.kubernetes, "state": "served"},
    ]
    rows += [
        {
            "part": "Helm release",
            "name": f"{release.namespace}/{release.name}",
            "version": release.chart_version,
            "state": f"{release.status}, revision {release.revision}",
        }
        for release in proof.releases
    ]
    rows += [
        {
            "part": "certificate",
            "name": f"{row.name}: {row.info.common_name}",
            "version": row.info.fingerprint[:16],
            "state": f"{row.days_left:.1f} days left",
        }
        for row in proof.certificates
    ]
    rows.append(
        {"part": "proxies", "name": "", "version": "", "state": f"{proof.proxies} pods are meshed"}
    )
    rows += [
        {"part": "not checked", "name": "", "version": "", "state": text}
        for text in proof.unchecked
    ]
    return rows


def _verdict(proof: Proof) -> str:
    verdict = "works" if proof.ok else f"{len(proof.failures)} failures"
    return f"REHEARSAL, not Linkerd: {verdict}" if proof.rehearsal else verdict


def proof_markdown(proof: Proof) -> str:
    """The whole proof as a page."""
    lines = [f"# Mesh {proof.mesh}: {_verdict(proof)}", ""]
    if proof.rehearsal:
        lines += ["**Rehearsal charts: this is not Linkerd.**", ""]
    lines += [f"{proof.linkerd} on Kubernetes {proof.kubernetes}, {proof.proxies} meshed pods.", ""]
    lines += ["| part | name | version | state |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row.values())} |" for row in proof_table(proof)]
    lines += ["", "## Certificates", "", "| certificate | subject | ends | days left | SHA-256 |"]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | `{row.info.subject}` | {row.info.not_after:%Y-%m-%d %H:%M} UTC "
        f"| {row.days_left:.1f} | `{row.info.fingerprint}` |"
        for row in proof.certificates
    ]
    lines += ["", "## Checked", "", *(f"- {name}" for name in proof.checked)]
    if proof.unchecked:
        lines += ["", "## Not checked", "", *(f"- {text}" for text in proof.unchecked)]
    if proof.failures:
        lines += ["", "## Failures", "", *(f"- {failure}" for failure in proof.failures)]
    return "\n".join(lines) + "\n"
