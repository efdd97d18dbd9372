"""Every flow on a cluster with other people's releases: none writes to what is theirs.

Like the test of exact roles, this checks flows against the API server's audit log.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.deployments.grants import plural
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.records import read_release, revisions
from prefect_linkerd.mesh.install.emojivoto import load_manifest
from prefect_linkerd.mesh.install.ingress import APP_ROUTE, ingress_objects
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.rollout import await_rollouts, read_workloads
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from tests.support.flows import ConfigFactory, Flows
from tests.support.identities import RBAC, as_account
from tests.support.meshes import add_workloads, quiet
from tests.support.people import by_kubectl

SOURCE, TARGET = "edge-25.4.4", "edge-26.8.3"
WRITES = {"create", "update", "patch", "delete", "deletecollection"}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    # Charts, and their owner's values.
    "cert-manager": (
        "jetstack/cert-manager-v1.21.2.tgz",
        {"crds": {"enabled": True}, "replicaCount": 2, "extraArgs": ["--v=3"]},
    ),
    "traefik": (
        "traefik/traefik-41.3.0.tgz",
        {"deployment": {"replicas": 2}, "additionalArguments": ["--accesslog=true"]},
    ),
}
FLUX = {
    "helm.toolkit.fluxcd.io/name": "linkerd",
    "helm.toolkit.fluxcd.io/namespace": "flux-system",
}

Ref = tuple[str, str, str]
"""An object by its resource, namespace and name."""


@pytest.fixture
def audited(binaries: Binaries) -> Iterator[Sandbox]:
    with Sandbox("theirs", audited=True, binaries=binaries) as sandbox:
        yield sandbox


def account(cluster: Cluster, folder: Path) -> Path:
    """The kubeconfig of an identity that may do everything, and whose requests are audited."""
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prefect"}})
    who = {"name": "anything", "namespace": "prefect"}
    cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": who})
    cluster.create(
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "anything"},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", **who}],
        }
    )
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(as_account(cluster, "prefect", "anything")._as_kubeconfig()))
    return path


def install_theirs(sandbox: Sandbox, helm: str, charts: Path, folder: Path) -> None:
    for name, (chart, values) in THEIRS.items():
        file = folder / f"{name}.yaml"
        file.write_text(json.dumps(values))
        command = [helm, "install", name, str(charts / chart), "--namespace", name]
        command += ["--create-namespace", "--values", str(file)]
        command += ["--kubeconfig", str(sandbox.kubeconfig)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    cluster = sandbox.cluster()
    workloads = [
        (obj["kind"], name, obj["metadata"]["name"])
        for name in THEIRS
        for obj in read_workloads(cluster, name)
    ]
    await_rollouts(cluster, workloads, 120, quiet)


def install_application(cluster: Cluster, config: MeshConfig) -> set[Ref]:
    """Installs a user's emojivoto and its route by kubectl, as in Linkerd's documentation."""
    objects = load_manifest(config.emojivoto.manifest)
    for obj in ingress_objects(config, "traefik.io/v1alpha1"):
        metadata = {key: obj["metadata"][key] for key in ("name", "namespace")}
        # Their route is for a host of their own; ours would match every host.
        text = json.dumps({**obj, "metadata": metadata}).replace(
            "PathPrefix(`/`)", "Host(`vote.example.com`)"
        )
        objects.append(json.loads(text))
    for obj in objects:
        by_kubectl(cluster, obj)
    assert ("IngressRoute", APP_ROUTE) in {(o["kind"], o["metadata"]["name"]) for o in objects}
    return {
        (
            plural(o["kind"]),
            o["metadata"].get("namespace", o["metadata"]["name"]),
            o["metadata"]["name"],
        )
        for o in objects
    } | {("namespaces", "", "emojivoto")}


def objects_of(cluster: Cluster, name: str) -> set[Ref]:
    """A release's objects, its namespace and its records."""
    found: set[Ref] = {("namespaces", name, name)}
    for revision in revisions(cluster, name, name):
        found.add(("secrets", name, f"sh.helm.release.v1.{name}.v{revision.number}"))
        for obj in revision.manifest:
            resource = cluster.resource(obj["apiVersion"], obj["kind"])
            assert resource is not None
            metadata = obj["metadata"]
            place = metadata.get("namespace", name) if resource.namespaced else ""
            found.add((plural(obj["kind"]), place, metadata["name"]))
    return found


def written(sandbox: Sandbox, since: int) -> set[Ref]:
    """What flows have written, according to the audit log; dry runs do not count."""
    return {
        (ref["resource"], ref.get("namespace", ""), ref.get("name", ""))
        for event in sandbox.audit_log()[since:]
        if event["verb"] in WRITES and "dryRun" not in event["requestURI"]
        if (ref := event.get("objectRef")) is not None
        if ref.get("apiGroup") != "authorization.k8s.io"
    }


@pytest.mark.real_charts
@pytest.mark.timeout(600)
def test_not_one_write_is_to_what_is_theirs(
    audited: Sandbox,
    mesh_config: ConfigFactory,
    flows: Flows,
    helm_path: str,
    charts_dir: Path,
    tmp_path: Path,
) -> None:
    cluster = audited.cluster()
    install_theirs(audited, helm_path, charts_dir, tmp_path)
    # Traefik's CRDs are in its chart's crds folder, and so in no manifest.
    crds = {
        ("customresourcedefinitions", "", obj["metadata"]["name"])
        for obj in cluster.list("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    }
    theirs = crds.union(*(objects_of(cluster, name) for name in THEIRS))
    before = {name: read_release(cluster, name, name) for name in THEIRS}
    config = mesh_config(
        audited,
        name="theirs",
        version=SOURCE,
        access={"kubeconfig": str(account(cluster, tmp_path))},
        viz={"enabled": False},
        issuer="cert-manager",
        trust_anchor={"custody": "in-cluster"},
        upgrade={"dependencies": ["cert-manager", "traefik"], "settle_seconds": 3},
    )
    options = {"load_seconds": 20, "lease_seconds": 5, "restarts": {"batch_size": 100}}

    def run(flow: str, **options: Any) -> str:
        done = flows(flow, config, **options)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout.splitlines()[-1]

    theirs |= install_application(cluster, MeshConfig.model_validate(config))
    refused = flows("bootstrap", config)
    assert refused.returncode != 0
    for subject in ("Service/emojivoto/web-svc", f"IngressRoute/emojivoto/{APP_ROUTE}"):
        assert subject in refused.stderr
    assert "it belongs to a kubectl user" in refused.stderr
    assert "set emojivoto.enabled to false" in refused.stderr
    assert written(audited, 0) == set()

    # As advised.
    config["emojivoto"]["enabled"] = False
    run("bootstrap")
    add_workloads(cluster, 1)
    run("adopt")
    assert "error" not in run("verify_mesh")
    run("check_certificates")
    run("watch_charts", repositories=[str(charts_dir / "edge")], on_server=True)
    # Next to the user's emojivoto, in its namespace.
    run("smoke_test", options={"tests": ["load-balancing", "ingress"], "settle_seconds": 1})
    for flow in ("rotate_issuer", "rotate_anchor"):
        assert json.loads(run(flow, options=options)) == {"done": True}
    done = flows.upgrade(config, to=TARGET)
    assert (done.get("source"), done.get("target")) == (SOURCE, TARGET), done
    assert "dependency" in done["findings"]
    made = written(audited, 0)
    assert ("deployments", "linkerd", "linkerd-destination") in made
    assert not made & theirs
    assert {name: read_release(cluster, name, name) for name in THEIRS} == before

    # Now Flux drives the control plane, so the flows may not write to the mesh any more.
    config["version"] = TARGET
    patch = {"metadata": {"labels": FLUX}}
    cluster.merge("apps/v1", "Deployment", "linkerd-destination", "linkerd", patch)
    since = len(audited.audit_log())
    owner = "Flux's HelmRelease/flux-system/linkerd"
    refused = flows("bootstrap", config)
    assert refused.returncode != 0
    assert owner in refused.stderr
    assert owner in json.loads(run("rotate_anchor", options=options))["message"]
    # It is already at the target, so there is nothing to refuse.
    at_target = json.loads(run("upgrade", to=TARGET))
    assert at_target["done"]
    assert "pl-owner" in at_target["findings"]
    assert owner in json.loads(run("rotate_webhooks"))["message"]
    assert "error" not in run("verify_mesh")
    unasked = {"approval": False, "dependencies": ["cert-manager", "traefik"], "namespaces": True}
    assert owner in json.loads(run("uninstall", options=unasked))["message"]
    assert written(audited, since) == set()

    # Without Flux, the mesh can be uninstalled, and nothing of theirs is removed with it.
    labels = {"metadata": {"labels": dict.fromkeys(FLUX)}}
    cluster.merge("apps/v1", "Deployment", "linkerd-destination", "linkerd", labels)
    assert json.loads(run("uninstall", options=unasked, accept=["injected"])) == {"done": True}
    assert ("deployments", "linkerd", "linkerd-destination") in written(audited, since)
    assert not written(audited, since) & theirs
    assert {name: read_release(cluster, name, name) for name in THEIRS} == before
