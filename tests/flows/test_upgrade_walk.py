"""`upgrade` from 2.11 to the newest edge, hop by hop: each first fails a gate and goes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh.cluster import Cluster
from mesh.helm import Helm
from mesh.pki import fingerprints
from mesh.upgrade_record import NAME as RECORD
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from sandbox.prefect_server import PrefectServer
from tests.flows.conftest import ConfigFactory, FlowRunner

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
    {
        "apiVersion": "split.smi-spec.io/v1alpha1",
        "kind": "TrafficSplit",
        "metadata": {"name": "web", "namespace": APP},
        "spec": {
            "service": "web-svc",
            "backends": [{"service": "web-svc", "weight": "500m"}],
        },
    },
]


class Upgrades:
    """The flow, run again and again in one process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, version: str, **parameters: Any) -> dict[str, Any]:
        """One run, on a mesh whose block says a version; how it ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"version": version, **parameters}) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())


@contextmanager
def upgrades(
    config: dict[str, Any], server: PrefectServer, binaries: Binaries, folder: Path
) -> Iterator[Upgrades]:
    path = folder / "mesh.json"
    path.write_text(json.dumps(config))
    environment = os.environ | server.environment
    environment["PATH"] = os.pathsep.join([str(binaries.helm.parent), environment["PATH"]])
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.flows.run_upgrades", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            yield Upgrades(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)


def that_must_survive(cluster: Cluster) -> dict[str, str]:
    """Every CRD, custom resource, workload and identity by name, with its UID."""
    kinds = [
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", None),
        *((obj["apiVersion"], obj["kind"], APP) for obj in CUSTOM_RESOURCES),
        ("apps/v1", "Deployment", APP),
        ("v1", "Service", APP),
    ]
    found = {
        f"{kind}/{obj['metadata']['name']}": obj["metadata"]["uid"]
        for api_version, kind, namespace in kinds
        for obj in cluster.list(api_version, kind, namespace)
    }
    issuer = cluster.get("v1", "Secret", "linkerd-identity-issuer", "linkerd")
    roots = cluster.get("v1", "ConfigMap", "linkerd-identity-trust-roots", "linkerd")
    assert issuer is not None
    assert roots is not None
    # Neither is made anew, nor changed.
    found["issuer"] = issuer["data"]["tls.crt"]
    found["trust bundle"] = " ".join(sorted(fingerprints(roots["data"]["ca-bundle.crt"], "bundle")))
    found["trust bundle's object"] = roots["metadata"]["uid"]
    return found


def proxies(cluster: Cluster) -> set[str]:
    """The versions of every proxy of the mesh."""
    return {
        container["image"].rsplit(":", 1)[-1]
        for pod in cluster.list("v1", "Pod", labels="linkerd.io/control-plane-ns=linkerd")
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
        if container["name"] == "linkerd-proxy" and not pod["metadata"].get("deletionTimestamp")
    }


def releases(helm: Helm) -> dict[str, tuple[str, str, str]]:
    return {
        release.name: (release.chart, release.chart_version, release.status)
        for release in helm.releases()
    }


def pin_proxies(cluster: Cluster, version: str | None) -> None:
    """What makes the gate fail: the namespace's pods are to keep the proxy that they have."""
    annotations = {"config.linkerd.io/proxy-version": version}
    cluster.merge("v1", "Namespace", APP, None, {"metadata": {"annotations": annotations}})


@pytest.mark.timeout(1500)
def test_from_2_11_to_the_newest_edge_and_back_at_every_hop(
    fresh_sandbox: Callable[..., Sandbox],
    mesh_config: ConfigFactory,
    run_bootstrap: FlowRunner,
    prefect_server: PrefectServer,
    binaries: Binaries,
    tmp_path: Path,
) -> None:
    sandbox = fresh_sandbox()
    cluster, helm = sandbox.cluster(), Helm(sandbox.cluster(), str(binaries.helm))
    first = HOPS[0][0]
    config = mesh_config(
        sandbox,
        name="walk",
        version=first,
        trust_anchor={
            "key_file": str(tmp_path / "anchor.pem"),
            "passphrase": "correct horse battery staple",
        },
    )
    assert run_bootstrap(config).returncode == 0
    for obj in CUSTOM_RESOURCES:
        cluster.create(obj)
    before = that_must_survive(cluster)

    with upgrades(config, prefect_server, binaries, tmp_path) as upgrade:
        skipping = upgrade(first, to="stable-2.14.10")
        assert (skipping["error"], "skips stable-2.12" in skipping["message"]) == (
            "InvalidInput",
            True,
        )
        unaccepted = upgrade(first, to="stable-2.12.6")
        assert unaccepted["error"] == "PreflightFailed"
        assert "TrafficSplit/emojivoto/web" in unaccepted["message"]

        dry = upgrade(first, to="stable-2.12.6", dry_run=True, accept=["smi"])
        assert (dry["source"], dry["target"]) == HOPS[0]
        assert "linkerd2" in releases(helm)

        for source, target in HOPS:
            installed = releases(helm)
            pin_proxies(cluster, source)
            undone = upgrade(source, to=target, accept=["smi"])
            assert undone["error"] == "UpgradeUndone", undone
            assert f"It is at {source} again" in undone["message"]
            assert "emojivoto" in undone["message"]
            assert proxies(cluster) == {source}
            # CRDs alone stay newer, as all custom resources live by them.
            assert {**releases(helm), "linkerd-crds": None} == {**installed, "linkerd-crds": None}
            assert before.items() <= that_must_survive(cluster).items()
            assert cluster.get("v1", "ConfigMap", RECORD, "linkerd") is None
            pin_proxies(cluster, None)

            done = upgrade(source, to=target, accept=["smi"])
            assert (done.get("source"), done.get("target")) == (source, target), done
            assert proxies(cluster) == {target}
            assert before.items() <= that_must_survive(cluster).items()
            assert {status for _, _, status in releases(helm).values()} == {"deployed"}
            assert "linkerd2" not in releases(helm)

        assert upgrade(target, to=target)["done"]
        assert upgrade(target, to="edge-25.4.4")["error"] == "InvalidInput"
