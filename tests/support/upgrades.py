"""What tests of upgrades share: the hops, what has to survive them, and how to inspect a mesh."""

from __future__ import annotations

from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.records import read_releases
from prefect_linkerd.mesh.install.emojivoto import ensure_emojivoto
from prefect_linkerd.mesh.install.namespaces import ensure_namespaces
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.rollout import await_rollouts
from prefect_linkerd.mesh.linkerd.releases import chart_version
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import fingerprints
from sandbox.cluster import Sandbox
from tests.support.flows import ConfigFactory
from tests.support.meshes import PASSPHRASE, quiet
from tests.support.ready_meshes import ReadyMesh

HOPS = [
    ("stable-2.11.5", "stable-2.12.6"),
    ("stable-2.12.6", "stable-2.13.7"),
    ("stable-2.13.7", "stable-2.14.10"),
    ("stable-2.14.10", "edge-25.4.4"),
    ("edge-25.4.4", "edge-26.8.3"),
]

APP = "emojivoto"
CUSTOM_RESOURCES: list[dict[str, Any]] = [
    {
        "apiVersion": "linkerd.io/v1alpha2",
        "kind": "ServiceProfile",
        "metadata": {"name": f"web-svc.{APP}.svc.cluster.local", "namespace": APP},
        "spec": {
            "routes": [{"name": "root", "condition": {"method": "GET", "pathRegex": "/"}}],
        },
    },
    {
        "apiVersion": "policy.linkerd.io/v1beta1",
        "kind": "Server",
        "metadata": {"name": "web-http", "namespace": APP},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web-svc"}},
            "port": "http",
            "proxyProtocol": "HTTP/1",
        },
    },
    {
        "apiVersion": "policy.linkerd.io/v1beta1",
        "kind": "ServerAuthorization",
        "metadata": {"name": "web-all", "namespace": APP},
        "spec": {"server": {"name": "web-http"}, "client": {"unauthenticated": True}},
    },
]
TRAFFIC_SPLIT: dict[str, Any] = {
    "apiVersion": "split.smi-spec.io/v1alpha1",
    "kind": "TrafficSplit",
    "metadata": {"name": "web", "namespace": APP},
    "spec": {
        "service": "web-svc",
        "backends": [{"service": "web-svc", "weight": "500m"}],
    },
}


def installed_alone(
    ready_mesh: ReadyMesh, configure: ConfigFactory, *, version: str, **config: Any
) -> tuple[Sandbox, dict[str, Any]]:
    """Self-signed Linkerd without extensions, with its anchor's key in a file; its config."""
    sandbox, installed = ready_mesh(version)
    # How long the next run waits for one that was killed.
    config["upgrade"] = {"lease_seconds": 3} | config.get("upgrade", {})
    content = configure(
        sandbox,
        version=version,
        viz={"enabled": False},
        traefik={"enabled": False},
        trust_anchor={
            "key_file": str(installed.trust_anchor.key_file),
            "passphrase": PASSPHRASE.get_secret_value(),
        },
        **config,
    )
    return sandbox, content


def give_application(cluster: Cluster, config: dict[str, Any]) -> dict[str, str]:
    """Adds emojivoto and the version's custom resources; returns what has to survive."""
    mesh = MeshConfig.model_validate(config)
    ensure_namespaces(Mesh(cluster, mesh))
    workloads = ensure_emojivoto(Mesh(cluster, mesh))
    await_rollouts(cluster, workloads, 240, quiet, every=0.3)
    make_custom_resources(cluster, config["version"])
    return that_must_survive(cluster)


def make_custom_resources(cluster: Cluster, version: str) -> None:
    """Creates the custom resources that have to survive; only 2.11 has TrafficSplits."""
    for obj in CUSTOM_RESOURCES:
        cluster.create(obj)
    if version.startswith("stable-2.11"):
        cluster.create(TRAFFIC_SPLIT)


def that_must_survive(cluster: Cluster) -> dict[str, str]:
    """Every CRD, custom resource, workload and identity by name, with its UID."""
    kinds = [
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", None),
        *((obj["apiVersion"], obj["kind"], APP) for obj in (*CUSTOM_RESOURCES, TRAFFIC_SPLIT)),
        ("apps/v1", "Deployment", APP),
        ("v1", "Service", APP),
    ]
    found = {
        f"{kind}/{obj['metadata']['name']}": obj["metadata"]["uid"]
        for api_version, kind, namespace in kinds
        for obj in cluster.list(api_version, kind, namespace, metadata_only=True)
    }
    issuer = cluster.get("v1", "Secret", "linkerd-identity-issuer", "linkerd")
    roots = cluster.get("v1", "ConfigMap", "linkerd-identity-trust-roots", "linkerd")
    assert issuer is not None
    assert roots is not None
    # Neither may be recreated or changed.
    found["issuer"] = issuer["data"]["tls.crt"]
    found["trust bundle"] = " ".join(sorted(fingerprints(roots["data"]["ca-bundle.crt"], "bundle")))
    found["trust bundle's object"] = roots["metadata"]["uid"]
    return found


def proxies(cluster: Cluster, control_plane: str = "linkerd") -> set[str]:
    """The versions of the mesh's proxies."""
    return {
        container["image"].rsplit(":", 1)[-1]
        for pod in cluster.list("v1", "Pod", labels=f"linkerd.io/control-plane-ns={control_plane}")
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
        if container["name"] == "linkerd-proxy" and not pod["metadata"].get("deletionTimestamp")
    }


def releases(cluster: Cluster) -> dict[str, tuple[str, str, str]]:
    return {
        release.name: (release.chart, release.chart_version, release.status)
        for release in read_releases(cluster)
    }


def are_at(cluster: Cluster, version: str) -> bool:
    """Whether the cluster's releases are exactly Linkerd's of a version, all deployed."""
    release = LinkerdVersion.parse(version)
    return releases(cluster) == {
        name: (name, chart_version(name, release), "deployed")
        for name in ("linkerd-crds", "linkerd-control-plane")
    }
