"""Faults that `linkerd check` misses, and those of viz and jaeger, each found by its checks."""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.helm.client import Helm, desired_release
from prefect_linkerd.mesh.helm.records import decode_record
from prefect_linkerd.mesh.helm.values import ClusterFacts, values_for
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TRUST_ROOTS
from prefect_linkerd.mesh.install.injection import ensure_meshed, restart
from prefect_linkerd.mesh.kubernetes.client import MERGE_PATCH, Cluster, Object
from prefect_linkerd.mesh.pki.certificates import (
    KeyPair,
    create_trust_anchor,
    join_bundle,
    sign_issuer,
)
from prefect_linkerd.mesh.records.upgrade import KEY as UPGRADE_KEY
from prefect_linkerd.mesh.records.upgrade import NAME as UPGRADE
from prefect_linkerd.mesh.records.upgrade import UpgradeRecord
from sandbox.binaries import ensure_binaries
from tests.prefect_linkerd.mesh.checks.faults import (
    Cause,
    Fault,
    changed,
    created,
    each_of,
    fault,
    removed,
)
from tests.prefect_linkerd.mesh.checks.healthy import allowed
from tests.support.certificates import NOW, Made, make, parsed
from tests.support.installed import InstalledMesh, on
from tests.support.workloads import deployment

APP = "emojivoto"
RBAC = "rbac.authorization.k8s.io/v1"
ADMISSION = "admissionregistration.k8s.io/v1"
POLICY = "policy.linkerd.io"
TRAEFIK = "traefik.io/v1alpha1"
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


# Certificates


def _data(secret: Object, **texts: str) -> None:
    for key, text in texts.items():
        secret["data"][key.replace("_", ".")] = base64.b64encode(text.encode()).decode()


def another_issuer(lived: timedelta, left: timedelta) -> Cause:
    """The issuer is replaced by one signed by the same anchor, with this age and time left."""

    def cause(mesh: InstalledMesh) -> AbstractContextManager[object]:
        now = datetime.now(UTC)
        signer, start = parsed(mesh.anchor), now - NOW
        pair = make(
            "identity.linkerd.cluster.local", signer=signer, starts=start - lived, ends=start + left
        ).pair
        return changed(
            mesh.cluster,
            "v1",
            "Secret",
            ISSUER_SECRET,
            "linkerd",
            lambda secret: _data(
                secret, tls_crt=pair.certificate, tls_key=pair.private_key.get_secret_value()
            ),
        )

    return cause


def _bundle(mesh: InstalledMesh, *anchors: KeyPair) -> AbstractContextManager[object]:
    text = join_bundle([anchor.certificate for anchor in anchors])
    return changed(
        mesh.cluster,
        "v1",
        "ConfigMap",
        TRUST_ROOTS,
        "linkerd",
        lambda obj: obj["data"].update({"ca-bundle.crt": text}),
    )


def expiring_anchor(mesh: InstalledMesh) -> AbstractContextManager[object]:
    now = datetime.now(UTC)
    return _bundle(
        mesh, mesh.anchor, create_trust_anchor("cluster.local", 100 * DAY, now - 90 * DAY)
    )


def another_bundle(mesh: InstalledMesh) -> AbstractContextManager[object]:
    """The trust bundle holds only another anchor, as if somebody had pasted it."""
    return _bundle(mesh, create_trust_anchor("cluster.local", 3650 * DAY, datetime.now(UTC)))


@contextmanager
def another_root(mesh: InstalledMesh) -> Generator[None]:
    """Anchor and issuer are replaced together without restarting any proxy."""
    now = datetime.now(UTC)
    anchor = create_trust_anchor("cluster.local", 3650 * DAY, now)
    pair = sign_issuer(anchor, "cluster.local", 365 * DAY, now)
    with (
        _bundle(mesh, anchor),
        changed(
            mesh.cluster,
            "v1",
            "Secret",
            ISSUER_SECRET,
            "linkerd",
            lambda secret: _data(
                secret,
                tls_crt=pair.certificate,
                tls_key=pair.private_key.get_secret_value(),
                ca_crt=anchor.certificate,
            ),
        ),
    ):
        yield


def stale_authority(name: str) -> Cause:
    """A webhook's caBundle holds another CA."""
    other = create_trust_anchor("cluster.local", 365 * DAY, datetime.now(UTC)).certificate

    def change(obj: Object) -> None:
        obj["webhooks"][0]["clientConfig"]["caBundle"] = base64.b64encode(other.encode()).decode()

    return lambda mesh: changed(
        mesh.cluster, ADMISSION, "MutatingWebhookConfiguration", name, None, change
    )


def stale_tap_authority(mesh: InstalledMesh) -> AbstractContextManager[object]:
    other = create_trust_anchor("cluster.local", 365 * DAY, datetime.now(UTC)).certificate

    def change(obj: Object) -> None:
        obj["spec"]["caBundle"] = base64.b64encode(other.encode()).decode()

    name = "v1alpha1.tap.linkerd.io"
    return changed(mesh.cluster, "apiregistration.k8s.io/v1", "APIService", name, None, change)


TAP_INJECTOR = "tap-injector.linkerd-viz.svc"


@contextmanager
def expiring_webhook(mesh: InstalledMesh) -> Generator[None]:
    """The tap injector's certificate expires soon; its caBundle matches it."""
    start = datetime.now(UTC) - NOW
    names = (TAP_INJECTOR,)
    own = make(TAP_INJECTOR, starts=start - 355 * DAY, ends=start + 10 * DAY, dns_names=names)
    with served(mesh, own, own):
        yield


@contextmanager
def expiring_ca(mesh: InstalledMesh) -> Generator[None]:
    """The tap injector's certificate outlives the CA that signed it."""
    start = datetime.now(UTC) - NOW
    authority = make("webhook", starts=start - 345 * DAY, ends=start + 20 * DAY)
    names, ends = (TAP_INJECTOR,), start + 300 * DAY
    own = make(TAP_INJECTOR, starts=start, ends=ends, dns_names=names, signer=authority)
    with served(mesh, own, authority):
        yield


@contextmanager
def served(mesh: InstalledMesh, own: Made, authority: Made) -> Generator[None]:
    """The tap injector serves `own`, and the API server trusts `authority` for it."""
    bundle = base64.b64encode(authority.pem.encode()).decode()
    with (
        changed(
            mesh.cluster,
            "v1",
            "Secret",
            "tap-injector-k8s-tls",
            "linkerd-viz",
            lambda secret: _data(
                secret, tls_crt=own.pem, tls_key=own.pair.private_key.get_secret_value()
            ),
        ),
        changed(
            mesh.cluster,
            ADMISSION,
            "MutatingWebhookConfiguration",
            "linkerd-tap-injector-webhook-config",
            None,
            lambda obj: obj["webhooks"][0]["clientConfig"].update(caBundle=bundle),
        ),
    ):
        yield


def certificate(state: dict[str, Any]) -> Cause:
    """A Certificate with this status and the real CRD, without a running cert-manager."""

    @contextmanager
    def cause(mesh: InstalledMesh) -> Generator[None]:
        spec = {"secretName": "odd", "issuerRef": {"name": "odd"}, "dnsNames": ["odd"]}
        odd = obj("cert-manager.io/v1", "Certificate", spec, "linkerd")
        with created(mesh.cluster, _certificate_crd(mesh)):
            _until(lambda: mesh.cluster.serves("cert-manager.io/v1", "Certificate"))
            with created(mesh.cluster, odd):
                path = mesh.cluster.path("cert-manager.io/v1", "Certificate", "linkerd", "odd")
                mesh.cluster.request(
                    "PATCH", f"{path}/status", body={"status": state}, content_type=MERGE_PATCH
                )
                yield

    return cause


def _certificate_crd(mesh: InstalledMesh) -> Object:
    chart = ChartCatalog(mesh.config).find("cert-manager")
    facts = ClusterFacts(mesh.cluster.version(), mesh.cluster.api_versions())
    objects = Helm(mesh.cluster, str(ensure_binaries().helm)).render(
        chart, "cert-manager", "cert-manager", {"crds": {"enabled": True}}, facts
    )
    return next(
        one
        for one in objects
        if one["kind"] == "CustomResourceDefinition"
        and one["metadata"]["name"] == "certificates.cert-manager.io"
    )


# Workloads


def unmeshed(mesh: InstalledMesh) -> AbstractContextManager[object]:
    """A pod that started before its namespace requested injection."""

    @contextmanager
    def cause() -> Generator[None]:
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "late", "labels": {"for": "test"}},
        }
        with created(mesh.cluster, namespace, deployment("late", "late")):
            _until(lambda: bool(list(mesh.cluster.list("v1", "Pod", "late"))))
            annotations = {"annotations": {"linkerd.io/inject": "enabled"}}
            mesh.cluster.merge("v1", "Namespace", "late", None, {"metadata": annotations})
            yield

    return cause()


def workload(annotations: dict[str, str]) -> Cause:
    """A Deployment in the application's namespace, with these annotations on its pods."""

    @contextmanager
    def cause(mesh: InstalledMesh) -> Generator[None]:
        with created(mesh.cluster, deployment("odd", APP, annotations=annotations)):
            yield
        _until(lambda: not list(mesh.cluster.list("v1", "Pod", APP, labels="app=odd")))

    return cause


@contextmanager
def expired_issuer(mesh: InstalledMesh) -> Generator[None]:
    """The issuer expires, and with it the certificate of a proxy that it had signed."""

    def loaded() -> int:
        events = mesh.cluster.list("v1", "Event", "linkerd", fields="reason=IssuerUpdated")
        return len(list(events))

    before = loaded()
    with another_issuer(DAY, 15 * SECOND)(mesh):
        _until(lambda: loaded() > before)
        with workload({})(mesh):
            yield


def pods_refused(mesh: InstalledMesh) -> AbstractContextManager[object]:
    """A quota keeps a viz Deployment from scaling up."""

    @contextmanager
    def cause() -> Generator[None]:
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "none", "namespace": "linkerd-viz"},
            "spec": {"hard": {"pods": "1"}},
        }
        with (
            created(mesh.cluster, quota),
            changed(
                mesh.cluster,
                "apps/v1",
                "Deployment",
                "web",
                "linkerd-viz",
                lambda obj: obj["spec"].update(replicas=2),
            ),
        ):
            yield

    return cause()


def injected_pods_refused(kind: str, *, had_pods: bool) -> Cause:
    """An application that passes PodSecurity's restricted level, but not with linkerd-init.

    Args:
        had_pods: whether its pods from before it was meshed keep running.
    """
    compliant = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "strict",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            "annotations": {} if had_pods else {"linkerd.io/inject": "enabled"},
        },
    }
    obj = {**deployment("web", "strict"), "kind": kind}
    obj["spec"]["template"]["spec"]["containers"][0]["securityContext"] = compliant
    if kind == "StatefulSet":
        obj["spec"]["serviceName"] = "web"

    @contextmanager
    def cause(mesh: InstalledMesh) -> Generator[None]:
        with created(mesh.cluster, namespace, obj):
            if had_pods:
                _until(lambda: bool(list(mesh.cluster.list("v1", "Pod", "strict"))))
                meshed = {"annotations": {"linkerd.io/inject": "enabled"}}
                mesh.cluster.merge("v1", "Namespace", "strict", None, {"metadata": meshed})
                restart(mesh.cluster, (kind, "strict", "web"), datetime.now(UTC))
            _until(
                lambda: any(
                    'container "linkerd-init"' in event["message"]
                    for event in mesh.cluster.list(
                        "v1", "Event", "strict", fields="reason=FailedCreate"
                    )
                )
            )
            yield

    return cause


def scaled_away(namespace: str, name: str) -> Cause:
    return lambda mesh: changed(
        mesh.cluster,
        "apps/v1",
        "Deployment",
        name,
        namespace,
        lambda obj: obj["spec"].update(replicas=0),
    )


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# Releases


def _record(cluster: Cluster, name: str, namespace: str) -> Object:
    labels = f"owner=helm,name={name},status=deployed"
    (secret,) = cluster.list("v1", "Secret", namespace, labels=labels)
    return secret


def next_revision(
    name: str, namespace: str, status: str, edit: Callable[[dict[str, Any]], object]
) -> Cause:
    """One more revision of a release, as helm records it."""

    def cause(mesh: InstalledMesh) -> AbstractContextManager[object]:
        secret = _record(mesh.cluster, name, namespace)
        content = decode_record(secret)
        number = int(content["version"]) + 1
        content["version"] = number
        content["info"]["status"] = status
        edit(content)
        packed = base64.b64encode(gzip.compress(json.dumps(content).encode()))
        labels = dict(secret["metadata"]["labels"], version=str(number), status=status)
        stamp = str(int(datetime.now(UTC).timestamp()))
        return created(
            mesh.cluster,
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": secret["type"],
                "metadata": {
                    "name": f"sh.helm.release.v1.{name}.v{number}",
                    "namespace": namespace,
                    "labels": labels | {"modifiedAt": stamp},
                },
                "data": {"release": base64.b64encode(packed).decode()},
            },
        )

    return cause


def _nothing(_content: dict[str, Any]) -> None:
    """Leaves the revision as the one before it."""


def _other_values(content: dict[str, Any]) -> None:
    content["config"]["defaultLogLevel"] = "debug"


def _other_chart(content: dict[str, Any]) -> None:
    content["chart"]["metadata"]["version"] = "30.12.1"


def no_record(mesh: InstalledMesh) -> AbstractContextManager[object]:
    """All of viz's release records are deleted."""
    found = mesh.cluster.list("v1", "Secret", "linkerd-viz", labels="owner=helm,name=linkerd-viz")
    records = list(found)
    assert records

    @contextmanager
    def cause() -> Generator[None]:
        for secret in records:
            mesh.cluster.delete("v1", "Secret", secret["metadata"]["name"], "linkerd-viz")
        try:
            yield
        finally:
            for secret in records:
                metadata = {key: secret["metadata"][key] for key in ("name", "namespace", "labels")}
                mesh.cluster.create(
                    {"apiVersion": "v1", "kind": "Secret"}
                    | {key: secret[key] for key in ("type", "data")}
                    | {"metadata": metadata}
                )

    return cause()


# Policies, routes and ingresses


def obj(api_version: str, kind: str, spec: dict[str, Any], namespace: str = APP) -> Object:
    metadata = {"name": "odd", "namespace": namespace}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def there(*objects: Object) -> Cause:
    return lambda mesh: created(mesh.cluster, *objects)


def server(port: int | str, **labels: str) -> Object:
    spec = {"podSelector": {"matchLabels": labels}, "port": port, "proxyProtocol": "HTTP/1"}
    return obj(f"{POLICY}/v1beta1", "Server", spec)


def authorization_policy(target: dict[str, str], *required: dict[str, str]) -> Object:
    spec = {"targetRef": target, "requiredAuthenticationRefs": list(required)}
    return obj(f"{POLICY}/v1alpha1", "AuthorizationPolicy", spec)


def route(parent: str, backend: str) -> Object:
    return obj(
        f"{POLICY}/v1beta3",
        "HTTPRoute",
        {
            "parentRefs": [{"group": "core", "kind": "Service", "name": parent, "port": 80}],
            "rules": [{"backendRefs": [{"name": backend, "port": 80}]}],
        },
    )


def ingress_route(service: str, *middlewares: str) -> Object:
    rule = {
        "kind": "Rule",
        "match": "Host(`odd.example.com`)",
        "middlewares": [{"name": name} for name in middlewares],
        "services": [{"kind": "Service", "name": service, "port": 80}],
    }
    return obj(TRAEFIK, "IngressRoute", {"routes": [rule]})


def ingress(service: str, port: int) -> Object:
    backend = {"service": {"name": service, "port": {"number": port}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    return obj("networking.k8s.io/v1", "Ingress", {"rules": [{"http": {"paths": [path]}}]})


EMPTY_SERVICE = obj("v1", "Service", {"selector": {"app": "nobody"}, "ports": [{"port": 80}]})
MESHTLS = {"group": POLICY, "kind": "MeshTLSAuthentication", "name": "nobody"}
SERVER = {"group": POLICY, "kind": "Server", "name": "nobody"}
IN_NAMESPACE = {"kind": "Namespace", "name": APP}


# Extensions


def without(api_version: str, kind: str, name: str, namespace: str | None = None) -> Cause:
    return lambda mesh: removed(mesh.cluster, api_version, kind, name, namespace)


def no_extension_label(namespace: str) -> Cause:
    return lambda mesh: changed(
        mesh.cluster,
        "v1",
        "Namespace",
        namespace,
        None,
        lambda obj: obj["metadata"]["labels"].pop("linkerd.io/extension"),
    )


OPEN_UPGRADE: Object = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": UPGRADE, "namespace": "linkerd"},
    "data": {
        UPGRADE_KEY: UpgradeRecord(
            source="edge-25.4.4", target="edge-26.8.3", started=NOW, releases=()
        ).model_dump_json()
    },
}

FAULTS = [
    fault(
        "the issuer ends before a leaf would",
        another_issuer(DAY / 2, DAY / 2),
        warnings="pl-leaf-lifetime l5d-identity-issuer-cert-not-expiring-soon",
    ),
    fault(
        "the issuer is at the end of its life",
        another_issuer(355 * DAY, 10 * DAY),
        warnings="pl-issuer-days-left l5d-identity-issuer-cert-not-expiring-soon",
    ),
    fault(
        "an anchor of the bundle is about to end",
        expiring_anchor,
        warnings="pl-anchor-days-left pl-proxy-trust-bundle pl-release-values "
        "l5d-identity-data-plane-proxies-certs-match-ca "
        "l5d-viz-proxy-healthy l5d-jaeger-proxy-healthy",
    ),
    fault(
        "the root of trust was replaced without restarts",
        another_root,
        errors="pl-proxy-trusts-issuer",
        warnings="pl-proxy-trust-bundle pl-release-values "
        "l5d-identity-data-plane-proxies-certs-match-ca "
        "l5d-viz-proxy-healthy l5d-jaeger-proxy-healthy",
    ),
    fault(
        "the trust bundle has lost the issuer's anchor",
        another_bundle,
        errors="pl-trust-bundle",
        warnings="pl-proxy-trust-bundle pl-release-values "
        "l5d-identity-data-plane-proxies-certs-match-ca "
        "l5d-viz-proxy-healthy l5d-jaeger-proxy-healthy",
    ),
    fault(
        "the tap injector's caBundle is stale",
        stale_authority("linkerd-tap-injector-webhook-config"),
        errors="pl-extension-webhook-authority",
    ),
    fault(
        "the jaeger injector's caBundle is stale",
        stale_authority("linkerd-jaeger-injector-webhook-config"),
        errors="pl-extension-webhook-authority",
    ),
    fault("a workload came up without a proxy", unmeshed, warnings="pl-workload-meshed"),
    fault(
        "a proxy is two versions older than the control plane",
        workload({"config.linkerd.io/proxy-version": "stable-2.12.6"}),
        warnings="pl-proxy-skew l5d-data-plane-version l5d-data-plane-cli-version",
    ),
    fault(
        "a proxy is newer than the control plane",
        workload({"config.linkerd.io/proxy-version": "edge-26.8.3"}),
        warnings="pl-proxy-skew l5d-data-plane-version l5d-data-plane-cli-version",
    ),
    fault("a quota refuses pods", pods_refused, warnings="pl-workload-pods"),
    fault(
        "admission refuses the pods of a workload that is to be meshed",
        injected_pods_refused("StatefulSet", had_pods=False),
        warnings="pl-workload-pods",
    ),
    fault(
        "admission refuses a workload's new pods, and its old ones have no proxy",
        injected_pods_refused("Deployment", had_pods=True),
        warnings="pl-workload-pods pl-workload-meshed",
    ),
    fault(
        "a pod is not ready",
        workload({"sandbox.prefect-linkerd/ready": "false"}),
        errors="l5d-data-plane-ready",
        warnings="pl-pod-ready",
    ),
    fault(
        "the issuer ended, and a proxy's certificate with it",
        expired_issuer,
        errors="l5d-identity-issuer-cert-is-time-valid pl-proxy-identity-valid",
        warnings="pl-issuer-days-left pl-leaf-lifetime",
    ),
    fault(
        "an extension's webhook certificate is about to end",
        expiring_webhook,
        warnings="pl-webhook-days-left",
    ),
    fault(
        "the CA of an extension's webhook is about to end",
        expiring_ca,
        warnings="pl-webhook-ca-days-left",
    ),
    fault(
        "a Certificate is not issued",
        certificate({}),
        errors="pl-certificate-ready",
    ),
    fault(
        "a Certificate is not renewed",
        certificate(
            {
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True",
                        "reason": "Ready",
                        "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z",
                    }
                ],
                "renewalTime": "2026-01-01T00:00:00Z",
            }
        ),
        warnings="pl-certificate-renewal",
    ),
    fault(
        "a release is left pending",
        next_revision("linkerd-viz", "linkerd-viz", "pending-upgrade", _nothing),
        errors="pl-release-pending",
    ),
    fault(
        "a release has failed",
        next_revision("linkerd-viz", "linkerd-viz", "failed", _nothing),
        errors="pl-release-failed",
    ),
    fault(
        "a release has other values",
        next_revision("linkerd-viz", "linkerd-viz", "deployed", _other_values),
        warnings="pl-release-values",
    ),
    fault(
        "a release is of another chart",
        next_revision("linkerd-viz", "linkerd-viz", "deployed", _other_chart),
        warnings="pl-release-chart",
    ),
    fault("a release's record is gone", no_record, warnings="pl-release-exists"),
    fault("an upgrade was left open", there(OPEN_UPGRADE), warnings="pl-upgrade-open"),
    fault("a Server selects no pod", there(server(80, app="no")), warnings="pl-server-selects"),
    fault(
        "a Server selects no port",
        there(server("nope", app="web-svc")),
        warnings="pl-server-selects",
    ),
    fault(
        "a ServerAuthorization has no Server",
        there(
            obj(
                f"{POLICY}/v1beta1",
                "ServerAuthorization",
                {"server": {"name": "nobody"}, "client": {"unauthenticated": True}},
            )
        ),
        warnings="pl-server-authorization-selects",
    ),
    fault(
        "an AuthorizationPolicy has no target",
        there(authorization_policy(SERVER)),
        warnings="pl-authorization-policy-target",
    ),
    fault(
        "an AuthorizationPolicy requires nobody",
        there(authorization_policy(IN_NAMESPACE, MESHTLS)),
        warnings="pl-authorization-policy-authentication",
    ),
    fault(
        "a route has no parent",
        there(route("nobody", "web-svc")),
        warnings="pl-route-parent",
    ),
    fault(
        "a route has no backend",
        there(route("web-svc", "nobody")),
        warnings="pl-route-backend",
    ),
    fault(
        "an IngressRoute leads to no Service",
        there(ingress_route("nobody")),
        warnings="pl-ingress-backend",
    ),
    fault(
        "an Ingress leads to no port",
        there(ingress("web-svc", 81)),
        warnings="pl-ingress-backend",
    ),
    fault(
        "an IngressRoute leads to no pod",
        there(EMPTY_SERVICE, ingress_route("odd")),
        warnings="pl-ingress-endpoints",
    ),
    fault(
        "an IngressRoute uses no Middleware",
        there(ingress_route("web-svc", "nobody")),
        warnings="pl-ingress-middleware",
    ),
    fault(
        "viz lacks a ClusterRole",
        without(RBAC, "ClusterRole", "linkerd-linkerd-viz-metrics-api"),
        errors="l5d-viz-cr-exists",
    ),
    fault(
        "viz lacks a ClusterRoleBinding",
        without(RBAC, "ClusterRoleBinding", "linkerd-tap-injector"),
        errors="l5d-viz-crb-exists",
    ),
    fault("tap's caBundle is stale", stale_tap_authority, errors="l5d-tap-cert-valid"),
    fault(
        "tap is away",
        scaled_away("linkerd-viz", "tap"),
        warnings="l5d-tap-api l5d-viz-pods-running pl-server-selects",
    ),
    fault(
        "Prometheus has no configuration",
        without("v1", "ConfigMap", "prometheus-config", "linkerd-viz"),
        warnings="l5d-viz-prometheus",
    ),
    fault(
        "viz's namespace is not known as such",
        no_extension_label("linkerd-viz"),
        errors="l5d-viz-ns-exists",
    ),
    fault(
        "jaeger's namespace is not known as such",
        no_extension_label("linkerd-jaeger"),
        errors="l5d-jaeger-ns-exists",
    ),
    fault(
        "the jaeger injector is away",
        scaled_away("linkerd-jaeger", "jaeger-injector"),
        warnings="l5d-jaeger-pods-running pl-server-selects",
    ),
    fault(
        "the metrics API is away",
        scaled_away("linkerd-viz", "metrics-api"),
        errors="l5d-viz-existence-client",
        warnings="pl-server-selects",
    ),
    fault(
        "Prometheus may not scrape a workload",
        workload({"config.linkerd.io/default-inbound-policy": "deny"}),
        warnings="l5d-viz-data-plane-prom-authz",
    ),
]


ADVICE: dict[str, tuple[str, ...]] = {
    "the issuer ends before a leaf would": (
        "Renew the issuer or rotate the trust anchor before then:",
    ),
    "an anchor of the bundle is about to end": (
        "Run rotate_anchor, which also removes anchors that are no longer used.",
    ),
    "a workload came up without a proxy": ("Restart it once the injector responds;",),
    "a proxy is two versions older than the control plane": (
        "Restart it once the control plane has the configured version.",
    ),
    "a release is left pending": ("run bootstrap, which finishes it.",),
    "a release has failed": ("run bootstrap again.",),
    "a release has other values": ("run bootstrap to restore them.",),
    "a release is of another chart": ("run the upgrade.",),
    "a release's record is gone": ("Let this identity list the Secrets of the namespace that has",),
    "an upgrade was left open": ("which finishes it, or with go_back, which gives it up.",),
    "a Server selects no pod": ("Fix its podSelector or port, or delete it.",),
    "a ServerAuthorization has no Server": ("Fix what it names, or delete it.",),
    "an AuthorizationPolicy has no target": ("Fix its targetRef, or delete it.",),
    "an AuthorizationPolicy requires nobody": ("Create what it requires, or fix the reference.",),
    "a route has no parent": ("Fix its parentRefs, or delete it.",),
    "a route has no backend": ("Fix its backendRefs: requests to that backend get errors.",),
    "an IngressRoute leads to no Service": ("Fix its backend, or delete it.",),
    "an IngressRoute uses no Middleware": ("Create the Middleware, or remove it from the route.",),
    "viz's namespace is not known as such": ("Run bootstrap, which installs what is missing.",),
    "Prometheus may not scrape a workload": ("Apply what `linkerd viz allow-scrapes -n ",),
}


@each_of(FAULTS, ADVICE)
def test_a_fault_is_found_by_exactly_its_checks(mesh: InstalledMesh, fault: Fault) -> None:
    healthy = allowed(mesh)
    with fault.cause(mesh):
        assert mesh.settles_to(healthy | fault.found) == healthy | fault.found
    assert mesh.settles_to(healthy) == healthy, "it is not as it was before"


@pytest.mark.parametrize("mesh", [on("stable-2.11.5")], indirect=True, scope="package")
def test_in_2_11_a_missing_role_of_viz_is_a_warning_that_stops_what_follows(
    mesh: InstalledMesh,
) -> None:
    later = {("l5d-viz-proxy-cp-version", "warning")}
    expected = (allowed(mesh) - later) | {("l5d-viz-cr-exists", "warning")}
    with without(RBAC, "ClusterRole", "linkerd-linkerd-viz-metrics-api")(mesh):
        assert mesh.settles_to(expected) == expected
    assert mesh.settles_to(allowed(mesh)) == allowed(mesh)


@pytest.mark.parametrize("mesh", [on("stable-2.14.10")], indirect=True, scope="package")
def test_viz_with_a_prometheus_elsewhere_lacks_nothing(mesh: InstalledMesh, helm_path: str) -> None:
    """An upgrade turns it off and runs no hook that would annotate viz's namespace."""
    values = {"prometheus": {"enabled": False}, "prometheusUrl": "http://prometheus.own:9090"}
    config = mesh.config.model_copy(deep=True)
    config.viz.values.inline.update(values)
    chart = ChartCatalog(config).find("linkerd-viz")
    facts = ClusterFacts(mesh.cluster.version(), mesh.cluster.api_versions())
    helm = Helm(mesh.cluster, helm_path)

    def bring(to: MeshConfig) -> InstalledMesh:
        helm.reconcile(desired_release(to, chart, values_for(chart, to, facts)))
        ensure_meshed(mesh.cluster, "linkerd-viz", 60, lambda *_: None)
        return replace(mesh, config=to)

    try:
        own = bring(config)
        assert own.settles_to(allowed(mesh)) == allowed(mesh)
    finally:
        bring(mesh.config)
    assert mesh.settles_to(allowed(mesh)) == allowed(mesh)
