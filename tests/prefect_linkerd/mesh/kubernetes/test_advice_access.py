"""Following the advice of refusals about a kubeconfig: the cluster is reached."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.config.model import ClusterAccess
from prefect_linkerd.mesh.errors import ApiError, InvalidInput
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.exec_plugin import ExecPlugin
from prefect_linkerd.mesh.kubernetes.kubeconfig import Kubeconfig, choose
from tests.support.advice import advice, follows, follows_each

V1 = "client.authentication.k8s.io/v1"


def config(user: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "https://a.example"}}],
        "users": [{"name": "a", "user": user or {"token": "t"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    } | more


def write(path: Path, content: object = None) -> Path:
    path.write_text(yaml.safe_dump(content or config()))
    return path


@follows(
    "Name one with access.kubeconfig or --kubeconfig, or set KUBECONFIG.",
    "Correct that file, or name another one with access.kubeconfig or --kubeconfig.",
)
def test_advice_about_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    good = write(tmp_path / "good")

    def reach(path: Path | None = None) -> Cluster:
        return Cluster.from_access(ClusterAccess(kubeconfig=path))

    advice(InvalidInput, reach)
    reach(good)
    monkeypatch.setenv("KUBECONFIG", str(good))
    reach()
    # A file that is named explicitly is the only one read.
    broken = tmp_path / "broken"
    for text in (None, "a: ["):
        if text:
            broken.write_text(text)
        assert "KUBECONFIG" not in advice(InvalidInput, lambda: reach(broken))
        reach(good)
    reach(write(broken))


@follows(
    "In a pod, set access.in_cluster", "Run in a pod of the cluster, or turn access.in_cluster off."
)
def test_advice_about_a_pods_service_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write(tmp_path / "good")))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    advice(InvalidInput, lambda: Cluster.from_access(ClusterAccess(in_cluster=True)))
    Cluster.from_access(ClusterAccess(in_cluster=False))
    # As the kubelet mounts them into a pod.
    account = {"TOKEN": tmp_path / "token", "CERT": tmp_path / "ca.crt"}
    for kind, file in account.items():
        file.write_text("x")
        monkeypatch.setattr(
            f"kubernetes.config.incluster_config.SERVICE_{kind}_FILENAME", str(file)
        )
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    advice(InvalidInput, lambda: Cluster.from_access(ClusterAccess()))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert Cluster.from_access(ClusterAccess(in_cluster=True)).host == "https://10.0.0.1:443"


CONTEXTS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    # Kubeconfig and chosen context; the advice; the same after it was followed.
    "none is current: named": (
        {"current-context": ""},
        "Name one with access.context or --context, or choose it",
        {"current-context": "", "name": "a"},
    ),
    "none is current: chosen": (
        {"current-context": ""},
        "or choose it with `kubectl config use-context`",
        {"current-context": "a"},
    ),
    "another": (
        {"name": "b"},
        "Name one of these with access.context or --context, or another kubeconfig.",
        {"name": "a"},
    ),
    "no cluster": ({"clusters": []}, "Correct this in the kubeconfig; `kubectl config view`", {}),
    "a certificate without its key": (
        {"users": [{"name": "a", "user": {"client-certificate": "c"}}]},
        "Correct this in the kubeconfig; `kubectl config view`",
        {"users": [{"name": "a", "user": {"client-certificate": "c", "client-key": "k"}}]},
    ),
    "a number": (
        {"users": [{"name": "a", "user": {"username": 7}}]},
        "Correct these fields; put numbers and dates in quotes.",
        {"users": [{"name": "a", "user": {"username": "7", "password": "x"}}]},
    ),
}


@follows_each(CONTEXTS)
def test_advice_about_a_context(case: str) -> None:
    def use(name: str | None = None, **fields: Any) -> object:
        return choose(Kubeconfig.parse(config(**fields)), name)

    before, words, after = CONTEXTS[case]
    assert words in advice(InvalidInput, lambda: use(**before))
    assert use(**after)


@follows(
    "Correct this in the kubeconfig, or log in to the cluster again.",
    "Log in to the cluster again, to store them in the kubeconfig.",
    "Write the token to that file, or correct tokenFile in the kubeconfig.",
)
def test_advice_about_credentials(tmp_path: Path) -> None:
    def connect(user: dict[str, Any], cluster: dict[str, Any] | None = None) -> None:
        content = config(user)
        content["clusters"][0]["cluster"] |= {"server": "https://127.0.0.1:1", **(cluster or {})}
        path = write(tmp_path / "config", content)
        # Nothing listens there; only with valid credentials does it get that far.
        Cluster.from_file(path, patience=0).version()

    good, authority = {"token": "t"}, {"certificate-authority": "ca.crt"}
    assert "log in" in advice(InvalidInput, lambda: connect(good, authority))
    advice(InvalidInput, lambda: connect({"username": ""}))
    advice(InvalidInput, lambda: connect({"tokenFile": "token"}))
    advice(ApiError, lambda: connect(good))
    (tmp_path / "token").write_text("t")
    advice(ApiError, lambda: connect({"tokenFile": "token"}))
    (tmp_path / "token").rename(tmp_path / "renamed")
    advice(ApiError, lambda: connect({"tokenFile": "renamed"}))


def plugin(program: object, **fields: Any) -> Callable[[], object]:
    """Runs a plugin. A process runs each configuration only once, so each call makes a new one."""
    run = {"apiVersion": V1, "command": str(program), "interactiveMode": "Never"}
    user = {"exec": run | {"args": [secrets.token_hex(8)]} | fields}
    context = choose(Kubeconfig.parse(config(user)))
    assert context.user.exec is not None
    return ExecPlugin.of(context, context.user.exec).credential


def credential(version: str = V1, **status: str) -> str:
    printed = {"apiVersion": version, "kind": "ExecCredential", "status": status}
    return f"#!/bin/sh\necho '{json.dumps(printed)}'\n"


GOOD = credential(token="t")


@follows(
    "Install it, or put its folder on PATH.",
    "Check that it is a program for this machine.",
    "Do what it says, such as log in again, then run this again.",
    "or correct the user's exec section.",
    "Run in a terminal, or use credentials that need no input.",
)
def test_advice_about_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a-plugin"

    def program(text: str) -> Path:
        path.write_text(text)
        path.chmod(0o700)
        return path

    assert advice(ApiError, plugin("a-plugin")) == "Install it, or put its folder on PATH."
    program(GOOD)
    advice(ApiError, plugin("a-plugin"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert plugin("a-plugin")()

    advice(ApiError, plugin(program("\x7fELF of another machine")))
    assert plugin(program(GOOD))()

    said = "echo please log in >&2; exit 1"
    assert advice(ApiError, plugin(program(f"#!/bin/sh\n{said}"))).startswith("Do what it says")
    assert plugin(program(GOOD))()

    beta = "client.authentication.k8s.io/v1beta1"
    for text in ("#!/bin/sh\necho x", credential(), credential(beta, token="t")):
        words = advice(ApiError, plugin(program(text)))
        assert words == "Update a-plugin, or correct the user's exec section."
        assert plugin(program(GOOD))()
    assert plugin(program(credential(beta, token="t")), apiVersion=beta)()

    if not os.isatty(0):
        advice(ApiError, plugin(program(GOOD), interactiveMode="Always"))
    assert plugin(program(GOOD), interactiveMode="IfAvailable")()
