"""Whether proxies have the mesh's trust anchors and a version that the control plane supports.

Linkerd's own check compares the text of each pod's trust bundle with the cluster's. These compare
certificates, so order and white space do not matter, name the missing and the extra ones, and
report workloads instead of pods.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET
from prefect_linkerd.mesh.linkerd.skew import skew_problem
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.pki.certificates import CertificateInfo, read_certificates, signed_by
from prefect_linkerd.mesh.snapshot.mesh import Pod, Snapshot

proxies = Category[Snapshot]("pl-proxies", "beyond")


@proxies.check("pl-proxy-trusts-issuer", "proxies trust the anchor that signed the issuer")
def proxy_trusts_issuer(snapshot: Snapshot) -> Problems:
    namespace = snapshot.config.namespaces.linkerd
    issuer = snapshot.secrets.get(f"{namespace}/{ISSUER_SECRET}")
    bundle = snapshot.trust_bundle
    if issuer is None or not issuer.certificate or not bundle:
        raise Skip("there is no issuer or no trust bundle")
    try:
        anchor = signed_by(issuer.certificate, bundle, f"Secret/{namespace}/{ISSUER_SECRET}")
    except MeshError as error:
        raise Skip(str(error)) from None
    if anchor is None:
        raise Skip("no anchor of the trust bundle signed the issuer")
    for text, pods in _by_bundle(snapshot).items():
        if anchor.fingerprint in _certificates(text):
            continue
        for subject, count in _by_workload(pods):
            yield Problem(
                subject,
                f"{count} without trust anchor {anchor.common_name} ({anchor.fingerprint[:12]}), "
                "so every certificate that is issued now is refused",
                "Restart it: its pods are then injected with the current trust bundle.",
            )


@proxies.check("pl-proxy-trust-bundle", "proxies have the cluster's trust anchors", "warning")
def proxy_trust_bundle(snapshot: Snapshot) -> Problems:
    cluster = _certificates(snapshot.trust_bundle)
    if not cluster:
        raise Skip("there is no trust bundle that can be read")
    for text, pods in _by_bundle(snapshot).items():
        own = _certificates(text)
        missing = [info for key, info in cluster.items() if key not in own]
        extra = [info for key, info in own.items() if key not in cluster]
        if not missing and not extra:
            continue
        differences = [f"without {_names(missing)}"] if missing else []
        differences += [f"with {_names(extra)}, which the cluster does not trust"] if extra else []
        for subject, count in _by_workload(pods):
            yield Problem(
                subject,
                f"{count} {' and '.join(differences)}",
                "Restart it: its pods are then injected with the current trust bundle.",
            )


@proxies.check("pl-proxy-skew", "the control plane supports the proxies' versions", "warning")
def proxy_skew(snapshot: Snapshot) -> Problems:
    control_plane = snapshot.version
    by_version: dict[str, list[Pod]] = defaultdict(list)
    for pod in _living(snapshot):
        if pod.proxy is not None:
            by_version[pod.proxy.version].append(pod)
    for text, pods in sorted(by_version.items()):
        try:
            problem = skew_problem(control_plane, LinkerdVersion.parse(text))
        except MeshError:
            # A version that is not a Linkerd release says nothing about its age.
            continue
        for subject, count in _by_workload(pods) if problem else ():
            yield Problem(
                subject,
                f"{count} of version {text}: {problem}",
                "Restart it once the control plane has the configured version.",
            )


def _living(snapshot: Snapshot) -> Iterable[Pod]:
    return (pod for pod in snapshot.meshed if not pod.is_over)


def _by_bundle(snapshot: Snapshot) -> Mapping[str, list[Pod]]:
    """Pods by the trust bundle that their proxies carry; the control plane's proxies carry none."""
    found: dict[str, list[Pod]] = defaultdict(list)
    for pod in _living(snapshot):
        if pod.proxy is not None and pod.proxy.trust_bundle:
            found[pod.proxy.trust_bundle].append(pod)
    return found


def _certificates(bundle: str) -> dict[str, CertificateInfo]:
    try:
        return {info.fingerprint: info for info in read_certificates(bundle, "trust bundle")}
    except MeshError:
        return {}


def _by_workload(pods: Iterable[Pod]) -> list[tuple[str, str]]:
    """The workloads of the pods, each with the number of its proxies in words."""
    counts: dict[str, int] = defaultdict(int)
    for pod in pods:
        counts[str(pod.owner) if pod.owner else pod.subject] += 1
    return [
        (subject, "1 proxy is" if count == 1 else f"{count} proxies are")
        for subject, count in sorted(counts.items())
    ]


def _names(found: Iterable[CertificateInfo]) -> str:
    return ", ".join(
        f"{info.common_name or info.subject} ({info.fingerprint[:12]})" for info in found
    )
