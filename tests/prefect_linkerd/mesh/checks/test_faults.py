"""Faults that `linkerd check` finds, each found by exactly its checks."""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.pki.certificates import KeyPair, create_trust_anchor, sign_issuer
from tests.prefect_linkerd.mesh.checks.faults import (
    Cause,
    Fault,
    changed,
    created,
    each_of,
    fault,
    removed,
    status,
)
from tests.prefect_linkerd.mesh.checks.healthy import allowed
from tests.support.certificates import DOMAIN, NOW, YEAR, Made, make, parsed
from tests.support.installed import InstalledMesh

RBAC = "rbac.authorization.k8s.io/v1"
ADMISSION = "admissionregistration.k8s.io/v1"
CRDS = "apiextensions.k8s.io/v1"
INJECTOR = "linkerd-proxy-injector-webhook-config"
UNREADY = "sandbox.prefect-linkerd/ready"
CNI = "linkerd-cni"

Edit = Callable[[Object], object]


def now() -> datetime:
    return datetime.now(UTC)


# Objects that are missing, or not as the chart made them


def without(api_version: str, kind: str, name: str, namespace: str | None = None) -> Cause:
    return lambda mesh: removed(mesh.cluster, api_version, kind, name, namespace)


def edited(api_version: str, kind: str, name: str, namespace: str | None, edit: Edit) -> Cause:
    return lambda mesh: changed(mesh.cluster, api_version, kind, name, namespace, edit)


def with_value(name: str, value: object) -> Cause:
    """The control plane as if installed with another value."""

    def edit(obj: Object) -> None:
        values: dict[str, Any] = yaml.safe_load(obj["data"]["values"])
        values[name] = value
        obj["data"]["values"] = yaml.safe_dump(values)

    return edited("v1", "ConfigMap", "linkerd-config", "linkerd", edit)


def all_of(*causes: Cause) -> Cause:
    @contextmanager
    def cause(mesh: InstalledMesh) -> Generator[None]:
        with ExitStack() as stack:
            for each in causes:
                stack.enter_context(each(mesh))
            yield

    return cause


def there(*objects: Object) -> Cause:
    return lambda mesh: created(mesh.cluster, *objects)


def annotated(annotations: dict[str, str]) -> Edit:
    return lambda obj: obj["metadata"].setdefault("annotations", {}).update(annotations)


def fails_closed(obj: Object) -> None:
    obj["webhooks"][0]["failurePolicy"] = "Fail"


def trusts_another_ca(obj: Object) -> None:
    other = create_trust_anchor(DOMAIN, YEAR, now()).certificate
    obj["webhooks"][0]["clientConfig"]["caBundle"] = encoded(other)


def runs_docker(node_status: Object) -> None:
    node_status["nodeInfo"]["containerRuntimeVersion"] = "docker://20.10.7"


# Pods


def a_pod(app: str, namespace: str, edit: Edit) -> Cause:
    """Changes one pod of an application until exit."""

    @contextmanager
    def cause(mesh: InstalledMesh) -> Generator[None]:
        name = pod_name(mesh, app, namespace)
        with changed(mesh.cluster, "v1", "Pod", name, namespace, edit):
            yield

    return cause


def pod_name(mesh: InstalledMesh, app: str, namespace: str) -> str:
    pods = mesh.cluster.list("v1", "Pod", namespace)
    return next(p["metadata"]["name"] for p in pods if p["metadata"]["name"].startswith(f"{app}-"))


def proxy_of_another_version(pod: Object) -> None:
    for container in pod["spec"]["containers"]:
        if container["name"] == "linkerd-proxy":
            container["image"] = container["image"].rpartition(":")[0] + ":stable-2.14.9"


def labelled_for_injection(obj: Object) -> None:
    obj["metadata"]["labels"]["linkerd.io/inject"] = "enabled"


def unready(obj: Object) -> None:
    obj["metadata"].setdefault("annotations", {})[UNREADY] = "false"


def foreign_proxy(mesh: InstalledMesh) -> AbstractContextManager[object]:
    """A pod whose proxy was injected with another trust anchor, as if before a rotation."""
    anchor = create_trust_anchor(DOMAIN, YEAR, now()).certificate
    proxy = {
        "name": "linkerd-proxy",
        "image": f"cr.l5d.io/linkerd/proxy:{mesh.config.version}",
        "env": [{"name": "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "value": anchor}],
    }
    metadata = {
        "name": "left-behind",
        "namespace": "default",
        "labels": {"linkerd.io/control-plane-ns": "linkerd"},
    }
    spec = {"containers": [{"name": "app", "image": "example.com/app:1"}, proxy]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return created(mesh.cluster, pod)


NOWHERE: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "nowhere", "namespace": "linkerd"},
    "spec": {
        "nodeSelector": {"there": "is-none"},
        "containers": [{"name": "app", "image": "example.com/app:1"}],
    },
}

QUOTA: Object = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "no-more-pods", "namespace": "linkerd"},
    "spec": {"hard": {"pods": "0"}},
}
REFUSED: Object = {
    "apiVersion": "apps/v1",
    "kind": "ReplicaSet",
    "metadata": {"name": "refused", "namespace": "linkerd"},
    "spec": {
        "selector": {"matchLabels": {"app": "refused"}},
        "template": {
            "metadata": {"labels": {"app": "refused"}},
            "spec": {"containers": [{"name": "app", "image": "example.com/app:1"}]},
        },
    },
}


# CNI


def cni_object(api_version: str, kind: str, name: str, **rest: Any) -> Object:
    metadata = {"name": name} if kind.startswith("Cluster") else {"name": name, "namespace": CNI}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


CNI_OBJECTS: list[Object] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CNI}},
    cni_object("v1", "ConfigMap", "linkerd-cni-config"),
    cni_object(RBAC, "ClusterRole", CNI, rules=[]),
    cni_object(
        RBAC,
        "ClusterRoleBinding",
        CNI,
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": CNI},
    ),
    cni_object("v1", "ServiceAccount", CNI),
]
CNI_DAEMON_SET = cni_object(
    "apps/v1",
    "DaemonSet",
    CNI,
    spec={
        "selector": {"matchLabels": {"app": CNI}},
        "template": {
            "metadata": {"labels": {"app": CNI}, "annotations": {UNREADY: "false"}},
            "spec": {"containers": [{"name": "install-cni", "image": "example.com/cni:1"}]},
        },
    },
)


# Certificates


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secret_with(name: str, make_data: Callable[[InstalledMesh], dict[str, str]]) -> Cause:
    """A Secret of the control plane with these data changed."""

    def cause(mesh: InstalledMesh) -> AbstractContextManager[object]:
        data = {key: encoded(text) for key, text in make_data(mesh).items()}
        edit: Edit = lambda obj: obj["data"].update(data)  # noqa: E731
        return changed(mesh.cluster, "v1", "Secret", name, "linkerd", edit)

    return cause


def issuer(make_data: Callable[[InstalledMesh], dict[str, str]]) -> Cause:
    return secret_with("linkerd-identity-issuer", make_data)


def pair_data(pair: KeyPair) -> dict[str, str]:
    return {"tls.crt": pair.certificate, "tls.key": pair.private_key.get_secret_value()}


def expired_issuer(mesh: InstalledMesh) -> dict[str, str]:
    signer = parsed(mesh.anchor)
    return pair_data(certificate(signer=signer, path_length=0, starts=-9, ends=-1).pair)


def ending_issuer(mesh: InstalledMesh) -> dict[str, str]:
    return pair_data(sign_issuer(mesh.anchor, DOMAIN, timedelta(days=59), now()))


def issuer_of_another_anchor(_: InstalledMesh) -> dict[str, str]:
    other = create_trust_anchor(DOMAIN, YEAR, now())
    return pair_data(sign_issuer(other, DOMAIN, YEAR, now()))


def issuer_with_another_key(mesh: InstalledMesh) -> dict[str, str]:
    return {"tls.key": pair_data(sign_issuer(mesh.anchor, DOMAIN, YEAR, now()))["tls.key"]}


def issuer_of_p384(mesh: InstalledMesh) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP384R1())
    return pair_data(certificate(key=key, signer=parsed(mesh.anchor)).pair)


def whole_chain(anchor: Made) -> dict[str, str]:
    """The data of an issuer's Secret, with the anchor that signed it."""
    signed = certificate(signer=anchor, path_length=0)
    return {**pair_data(signed.pair), "ca.crt": anchor.pem}


def certificate(*, starts: float = -1, ends: float = 300, **options: Any) -> Made:
    """A certificate that is valid from `starts` until `ends`, in days from now."""
    shift = now() - NOW
    return make(starts=shift + timedelta(days=starts), ends=shift + timedelta(days=ends), **options)


def webhook_certificate(server: str, certificate_of: Callable[[str], Made]) -> Cause:
    """A validator's certificate is replaced, together with the CA that the API server trusts."""

    @contextmanager
    def cause(mesh: InstalledMesh) -> Generator[None]:
        made = certificate_of(f"{server}.linkerd.svc")

        def trust(obj: Object) -> None:
            obj["webhooks"][0]["clientConfig"]["caBundle"] = encoded(made.pem)

        secret = secret_with(f"{server}-k8s-tls", lambda _: pair_data(made.pair))
        kind, name = "ValidatingWebhookConfiguration", f"{server}-webhook-config"
        with all_of(secret, edited(ADMISSION, kind, name, None, trust))(mesh):
            yield

    return cause


def of_another_host(_: str) -> Made:
    return certificate(name="elsewhere", dns_names=("elsewhere.linkerd.svc",))


FAULTS = [
    # linkerd-existence
    fault(
        "there is no linkerd-config",
        without("v1", "ConfigMap", "linkerd-config", "linkerd"),
        errors="l5d-existence-linkerd-config",
    ),
    fault(
        "linkerd-config is no YAML",
        edited(
            "v1",
            "ConfigMap",
            "linkerd-config",
            "linkerd",
            lambda obj: obj["data"].update(values="[: not yaml"),
        ),
        errors="l5d-existence-linkerd-config",
    ),
    fault(
        "the heartbeat's ServiceAccount is missing",
        without("v1", "ServiceAccount", "linkerd-heartbeat", "linkerd"),
        errors="l5d-existence-sa",
    ),
    fault(
        "a quota refuses the control plane's pods",
        there(QUOTA, REFUSED),
        errors="l5d-existence-replicasets",
    ),
    fault(
        "no node takes a pod",
        there(NOWHERE),
        warnings="l5d-existence-unschedulable-pods pl-pod-ready",
    ),
    fault(
        "the identity service is not ready",
        a_pod("linkerd-identity", "linkerd", unready),
        errors="l5d-api-control-ready l5d-cp-proxy-healthy l5d-data-plane-ready",
        warnings="pl-pod-ready",
    ),
    fault(
        "clusterNetworks is too small",
        with_value("clusterNetworks", "192.0.2.0/24"),
        errors="l5d-cluster-networks-cidr l5d-cluster-networks-pods",
    ),
    # linkerd-config
    fault(
        "a ClusterRole is missing",
        without(RBAC, "ClusterRole", "linkerd-linkerd-identity"),
        errors="l5d-existence-cr",
    ),
    fault(
        "a ClusterRoleBinding is missing",
        without(RBAC, "ClusterRoleBinding", "linkerd-linkerd-proxy-injector"),
        errors="l5d-existence-crb",
    ),
    fault(
        "a ServiceAccount is missing",
        without("v1", "ServiceAccount", "linkerd-destination", "linkerd"),
        errors="l5d-existence-sa",
    ),
    fault(
        "a CRD is missing",
        without(CRDS, "CustomResourceDefinition", "serviceprofiles.linkerd.io"),
        errors="l5d-existence-crd",
    ),
    fault(
        "the injector's webhook is missing",
        without(ADMISSION, "MutatingWebhookConfiguration", INJECTOR),
        errors="l5d-existence-mwc",
    ),
    fault(
        "a validator's webhook is missing",
        without(ADMISSION, "ValidatingWebhookConfiguration", "linkerd-sp-validator-webhook-config"),
        errors="l5d-existence-vwc",
    ),
    fault(
        "a node runs docker",
        lambda mesh: status(mesh.cluster, "v1", "Node", "node-1", None, runs_docker),
        errors="l5d-proxy-init-run-as-root",
    ),
    # linkerd-cni-plugin
    fault(
        "CNI is enabled and not installed",
        with_value("cniEnabled", True),
        errors="cni-plugin-cm-exists",
    ),
    fault(
        "the CNI plugin has no DaemonSet",
        all_of(with_value("cniEnabled", True), there(*CNI_OBJECTS)),
        errors="cni-plugin-ds-exists",
    ),
    fault(
        "the CNI plugin is not ready",
        all_of(with_value("cniEnabled", True), there(*CNI_OBJECTS, CNI_DAEMON_SET)),
        errors="cni-plugin-ready",
    ),
    # linkerd-identity
    fault(
        "the issuer is missing",
        without("v1", "Secret", "linkerd-identity-issuer", "linkerd"),
        errors="l5d-identity-cert-config-valid",
    ),
    fault(
        "the issuer's key is another one",
        issuer(issuer_with_another_key),
        errors="l5d-identity-cert-config-valid",
    ),
    fault(
        "the trust anchor is of P-384",
        issuer(lambda _: whole_chain(certificate(key=ec.generate_private_key(ec.SECP384R1())))),
        errors="l5d-identity-trustAnchors-use-supported-crypto pl-trust-bundle",
    ),
    fault(
        "the trust anchor has ended",
        issuer(lambda _: whole_chain(certificate(starts=-9, ends=-1))),
        errors="l5d-identity-trustAnchors-are-time-valid pl-trust-bundle",
    ),
    fault(
        "the trust anchor ends soon",
        issuer(lambda _: whole_chain(certificate(ends=59))),
        errors="pl-trust-bundle",
        warnings="l5d-identity-trustAnchors-not-expiring-soon",
    ),
    fault(
        "the issuer is of P-384",
        issuer(issuer_of_p384),
        errors="l5d-identity-issuer-cert-uses-supported-crypto",
    ),
    fault(
        "the issuer has ended",
        issuer(expired_issuer),
        errors="l5d-identity-issuer-cert-is-time-valid",
        warnings="pl-issuer-days-left pl-leaf-lifetime",
    ),
    fault(
        "the issuer ends soon",
        issuer(ending_issuer),
        warnings="l5d-identity-issuer-cert-not-expiring-soon",
    ),
    fault(
        "another anchor signed the issuer",
        issuer(issuer_of_another_anchor),
        errors="l5d-identity-issuer-cert-issued-by-trust-anchor pl-trust-bundle",
    ),
    # linkerd-webhooks-and-apisvc-tls
    fault(
        "the injector's caBundle is stale",
        edited(ADMISSION, "MutatingWebhookConfiguration", INJECTOR, None, trusts_another_ca),
        errors="l5d-proxy-injector-webhook-cert-valid",
    ),
    fault(
        "a validator's certificate ends soon",
        webhook_certificate(
            "linkerd-sp-validator", lambda host: certificate(dns_names=(host,), ends=59)
        ),
        warnings="l5d-sp-validator-webhook-cert-not-expiring-soon",
    ),
    fault(
        "a validator's certificate has ended",
        webhook_certificate(
            "linkerd-sp-validator",
            lambda host: certificate(dns_names=(host,), starts=-9, ends=-1),
        ),
        errors="l5d-sp-validator-webhook-cert-valid",
        warnings="pl-webhook-days-left",
    ),
    fault(
        "a validator's certificate is another host's",
        webhook_certificate("linkerd-policy-validator", of_another_host),
        errors="l5d-policy-validator-webhook-cert-valid",
    ),
    # Proxies
    fault(
        "a proxy has another trust anchor",
        foreign_proxy,
        errors="pl-proxy-trusts-issuer pl-proxy-identity-valid",
        warnings="l5d-identity-data-plane-proxies-certs-match-ca pl-proxy-trust-bundle",
    ),
    fault(
        "a pod of the data plane is not ready",
        a_pod("voting", "emojivoto", unready),
        errors="l5d-data-plane-ready",
        warnings="pl-pod-ready",
    ),
    fault(
        "a proxy is of another version",
        a_pod("voting", "emojivoto", proxy_of_another_version),
        warnings="l5d-data-plane-version l5d-data-plane-cli-version",
    ),
    fault(
        "a proxy of the control plane is of another version",
        a_pod("linkerd-identity", "linkerd", proxy_of_another_version),
        warnings="l5d-cp-proxy-version l5d-cp-proxy-cli-version "
        "l5d-data-plane-version l5d-data-plane-cli-version",
    ),
    fault(
        "the control plane is of another version",
        with_value("linkerdVersion", "stable-2.14.9"),
        warnings="l5d-version-control",
    ),
    # Labels and annotations
    fault(
        "a pod is labelled where it should be annotated",
        a_pod("voting", "emojivoto", labelled_for_injection),
        warnings="l5d-data-plane-pod-labels",
    ),
    fault(
        "a Service is labelled where it should be annotated",
        edited(
            "v1",
            "Service",
            "web-svc",
            "emojivoto",
            lambda obj: obj["metadata"].update(labels={"config.linkerd.io/opaque-ports": "80"}),
        ),
        warnings="l5d-data-plane-services-labels",
    ),
    fault(
        "a Service is annotated where it should be labelled",
        edited(
            "v1", "Service", "web-svc", "emojivoto", annotated({"mirror.linkerd.io/exported": "y"})
        ),
        warnings="l5d-data-plane-services-annotations",
    ),
    fault(
        "a port is opaque on the Service alone",
        edited(
            "v1",
            "Service",
            "web-svc",
            "emojivoto",
            annotated({"config.linkerd.io/opaque-ports": "80"}),
        ),
        warnings="linkerd-opaque-ports-definition",
    ),
    # linkerd-ha-checks and linkerd-extension-checks
    fault(
        "high availability with one replica",
        with_value("highAvailability", True),
        warnings="l5d-control-plane-replicas",
    ),
    fault(
        "the injector fails closed for kube-system too",
        edited(ADMISSION, "MutatingWebhookConfiguration", INJECTOR, None, fails_closed),
        warnings="l5d-injection-disabled",
    ),
    fault(
        "two namespaces are the same extension's",
        there(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": "viz-again", "labels": {"linkerd.io/extension": "viz"}},
            }
        ),
        warnings="l5d-extension-namespaces",
        version="edge-26.8.3",
    ),
    fault(
        "the Gateway API is missing",
        all_of(
            without(CRDS, "CustomResourceDefinition", "httproutes.gateway.networking.k8s.io"),
            without(CRDS, "CustomResourceDefinition", "grpcroutes.gateway.networking.k8s.io"),
        ),
        errors="gateway-api-crd",
        version="edge-26.8.3",
    ),
    fault(
        "a CRD of the edge is missing",
        without(CRDS, "CustomResourceDefinition", "egressnetworks.policy.linkerd.io"),
        errors="l5d-existence-crd",
        version="edge-26.8.3",
    ),
    fault(
        "another anchor signed the issuer of the edge",
        issuer(issuer_of_another_anchor),
        errors="l5d-identity-issuer-cert-issued-by-trust-anchor pl-trust-bundle",
        version="edge-26.8.3",
    ),
    # 2.11
    fault(
        "a CRD is not labelled as the control plane's",
        edited(
            CRDS,
            "CustomResourceDefinition",
            "serviceprofiles.linkerd.io",
            None,
            lambda obj: obj["metadata"].update(labels={}),
        ),
        errors="l5d-existence-crd",
        version="stable-2.11.5",
    ),
    fault(
        "a node exposes no podCIDR",
        there({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "without-cidr"}}),
        warnings="l5d-cluster-networks-verified",
        version="stable-2.11.5",
    ),
    fault(
        "the proxies' anchor is not the installed one",
        with_value("identityTrustAnchorsPEM", "another one"),
        warnings="l5d-identity-data-plane-proxies-certs-match-ca "
        "l5d-viz-proxy-healthy l5d-jaeger-proxy-healthy",
        version="stable-2.11.5",
    ),
]


ADVICE: dict[str, tuple[str, ...]] = {
    "a quota refuses the control plane's pods": ("Fix what rejects its pods, such as a quota",),
    "no node takes a pod": ("Make room on the nodes, or add one.",),
    "clusterNetworks is too small": ("to clusterNetworks in the control plane's values, and run",),
    "a node runs docker": ("Set proxyInit.runAsRoot to true in the control plane's values.",),
    "CNI is enabled and not installed": ("Install chart linkerd2-cni, or set cniEnabled to false",),
    "the issuer is missing": ("Run bootstrap, which issues one;",),
    "the issuer's key is another one": (
        "Delete the Secret and run bootstrap again, which issues a new one; if cert-manager",
    ),
    "the trust anchor has ended": (
        "Check the clock. If it has expired, run rotate_anchor with recover.",
    ),
    "the trust anchor ends soon": ("Run rotate_anchor.",),
    "the issuer has ended": (
        "Check the clock. If it has expired, run rotate_issuer with accept_downtime.",
    ),
    "the issuer ends soon": ("Run rotate_issuer.",),
    "another anchor signed the issuer": (
        "Put the anchor that signed it back into the trust bundle, or run rotate_anchor with "
        "recover and accept_downtime.",
    ),
    "a proxy has another trust anchor": (
        "Restart its workload.",
        "Restart it: its pods are then injected with the current trust bundle.",
    ),
    "a proxy of the control plane is of another version": (
        "Set version to that release, and run the upgrade flow.",
    ),
    "the control plane is of another version": ("Run the upgrade flow, or correct version.",),
    "a pod is labelled where it should be annotated": ("Make it an annotation.",),
    "a Service is annotated where it should be labelled": ("Make it a label.",),
    "a port is opaque on the Service alone": ("Give both the same ",),
    "high availability with one replica": ("Scale it, or look at the pods that are not ready.",),
    "the injector fails closed for kube-system too": ("Label it ",),
    "two namespaces are the same extension's": (
        "Keep the label on the extension's own namespace.",
    ),
    "the Gateway API is missing": ("Let linkerd-crds install them (installGatewayAPI), or apply",),
}


@pytest.mark.real_charts
@each_of(FAULTS, ADVICE)
def test_a_fault_is_found_by_exactly_its_checks(mesh: InstalledMesh, fault: Fault) -> None:
    healthy = allowed(mesh)
    with fault.cause(mesh):
        assert mesh.settles_to(healthy | fault.found) == healthy | fault.found
    assert mesh.settles_to(healthy) == healthy, "it is not as it was before"
