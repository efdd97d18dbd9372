"""Access to a cluster as kubectl has it: real plugins, and an API server that names its user."""

from __future__ import annotations

import json
import os
import pty
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.config.model import ClusterAccess
from prefect_linkerd.mesh.errors import ApiError, InvalidInput
from prefect_linkerd.mesh.kubernetes.client import HEAD, Cluster
from prefect_linkerd.mesh.kubernetes.connection import authorization, impersonation
from prefect_linkerd.mesh.kubernetes.exec_plugin import cluster_info
from prefect_linkerd.mesh.kubernetes.kubeconfig import KubeCluster, KubeUser
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from tests.support.api_server import ApiServer
from tests.support.repository import ROOT

V1 = "client.authentication.k8s.io/v1"
V1BETA1 = "client.authentication.k8s.io/v1beta1"

Kubeconfig = Callable[..., Path]


def who(cluster: Cluster) -> dict[str, Any]:
    """The user that the API server authenticates this access as."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    answer, _ = cluster.request("POST", path, body=review)
    return json.loads(answer)["status"]["userInfo"]


@pytest.fixture
def kubeconfig(sandbox: Sandbox, tmp_path: Path) -> Kubeconfig:
    """Writes a kubeconfig of the sandbox for a user; `cluster` fields override its own."""

    def write(user: dict[str, Any], cluster: dict[str, Any] | None = None) -> Path:
        content = yaml.safe_load(sandbox.kubeconfig.read_text())
        content["users"][0]["user"] = user
        content["clusters"][0]["cluster"] |= cluster or {}
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def token(cluster: Cluster, namespace: str) -> Callable[[str], str]:
    """Creates a service account of this name and returns a token for it."""

    def make(name: str) -> str:
        metadata = {"name": name, "namespace": namespace}
        cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        answer, _ = cluster.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        )
        return json.loads(answer)["status"]["token"]

    return make


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def plugin(program: object, **fields: Any) -> dict[str, Any]:
    config = {"apiVersion": V1, "command": str(program), "interactiveMode": "Never"}
    return {"exec": config | fields}


def credential(**status: Any) -> str:
    return json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": status})


# Files


def test_the_cluster_is_that_of_the_last_entry_where_the_first_is_empty(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kubeconfig in the home directory leads to another cluster.
    home = tmp_path / ".kube"
    home.mkdir()
    other = yaml.safe_load(sandbox.kubeconfig.read_text())
    other["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (home / "config").write_text(yaml.safe_dump(other))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", f":{sandbox.kubeconfig}")
    assert Cluster.from_access(ClusterAccess()).host == sandbox.server
    monkeypatch.setenv("KUBECONFIG", "")
    assert Cluster.from_access(ClusterAccess()).host == "https://127.0.0.1:1"


def test_files_beside_one_of_several_kubeconfigs_are_found_by_us_and_by_helm(
    sandbox: Sandbox,
    binaries: Binaries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = yaml.safe_load(sandbox.kubeconfig.read_text())
    for folder, section, files in (
        ("clusters", "cluster", {"certificate-authority": "ca.crt"}),
        ("users", "user", {"client-certificate": "admin.crt", "client-key": "admin.key"}),
    ):
        (tmp_path / folder).mkdir()
        for file in files.values():
            shutil.copy(sandbox.data / "pki" / file, tmp_path / folder)
        entry = content[folder][0]
        entry[section] = {"server": sandbox.server, **files} if section == "cluster" else files
        part = {"apiVersion": "v1", "kind": "Config", folder: [entry]}
        if section == "user":
            # A name that not every YAML writer quotes: it could be read as a boolean.
            context = content["contexts"][0] | {"name": "y"}
            part |= {"contexts": [context], "current-context": "y"}
        (tmp_path / folder / "config").write_text(json.dumps(part))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", f"clusters/config:{tmp_path}/users/config")
    cluster = Cluster.from_access(ClusterAccess())
    assert who(cluster)["username"] == "sandbox-admin"
    with cluster.kubeconfig_file() as path:
        done = subprocess.run(
            [binaries.helm, "list", "--kubeconfig", path, "--namespace", "default"],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr


# Plugins


def test_a_plugin_that_fails_is_quoted_and_nobody_goes_on_anonymously(
    kubeconfig: Kubeconfig, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    failing = script(
        tmp_path / "exec-fails.sh",
        f'echo x >> {runs}; echo "Unable to locate credentials." >&2; exit 255',
    )
    cluster = Cluster.from_file(kubeconfig(plugin("./exec-fails.sh")))
    with pytest.raises(ApiError) as failed:
        who(cluster)
    assert str(failed.value) == (
        "kubeconfig user admin: expected its credential plugin to give a credential, found exec: "
        f"executable {failing} failed with exit code 255: Unable to locate credentials. "
        "Do what it says, such as log in again, then run this again."
    )
    assert (failed.value.status, failed.value.transient) == (401, False)
    assert runs.read_text() == "x\n"
    # After the user has logged in, the same Cluster runs the plugin again.
    script(failing, "echo '" + credential(token="wrong") + "'")
    with pytest.raises(ApiError, match="401 Unauthorized"):
        who(cluster)


@pytest.mark.parametrize(
    ("text", "fields", "says"),
    [
        ("echo hush", {}, "exec: {path} printed no ExecCredential: Invalid JSON"),
        ("echo '{}'", {}, "apiVersion: Field required"),
        (
            f"echo '{credential(token='hush')}'",
            {"apiVersion": V1BETA1},
            f"configured to use API version {V1BETA1}, plugin returned version {V1}",
        ),
        (f"echo '{credential()}'", {}, "exec plugin didn't return a token or cert/key pair"),
        (
            f"echo '{credential(clientCertificateData='x')}'",
            {},
            "exec plugin returned only certificate or key, not both",
        ),
        ("", {"interactiveMode": "Always"}, "standard input is not a terminal"),
        ("kill -9 $$", {}, "failed with exit code -9"),
        ("", {"command": "no-such-plugin"}, "exec: executable no-such-plugin not found"),
        (
            "",
            {"command": "no-such-plugin", "installHint": "Get it at example.com."},
            "exec: executable no-such-plugin not found. Get it at example.com.",
        ),
        ("", {"command": "/no/such/plugin"}, "exec: executable /no/such/plugin not found"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said(
    text: str, fields: dict[str, Any], says: str, kubeconfig: Kubeconfig, tmp_path: Path
) -> None:
    path = script(tmp_path / "plugin", text)
    cluster = Cluster.from_file(kubeconfig(plugin(path, **fields)))
    with pytest.raises(ApiError) as failed:
        who(cluster)
    assert says.format(path=path) in str(failed.value)
    assert "hush" not in str(failed.value)
    assert failed.value.status == 401


def test_a_plugin_is_run_once_and_again_when_its_token_is_no_longer_good(
    kubeconfig: Kubeconfig, token: Callable[[str], str], namespace: str, tmp_path: Path
) -> None:
    path = script(
        tmp_path / "plugin", f'echo "$WHO $1" >> {tmp_path}/runs; cat {tmp_path}/credential'
    )
    given = tmp_path / "credential"
    given.write_text(credential(token=token("one")))
    env = [{"name": "WHO", "value": "me"}]
    file = kubeconfig(plugin(path, args=["log-in"], env=env))
    # Every step of a flow has its own Cluster.
    for _ in range(3):
        name = f"system:serviceaccount:{namespace}:one"
        assert who(Cluster.from_file(file))["username"] == name
    assert (tmp_path / "runs").read_text() == "me log-in\n"

    cluster = Cluster.from_file(file)
    given.write_text(credential(token="refused", expirationTimestamp="2020-01-01T00:00:00Z"))
    script(tmp_path / "other", "")
    other = Cluster.from_file(kubeconfig(plugin(path, args=["again"], env=env)))
    with pytest.raises(ApiError, match="401"):
        who(other)
    # An expired or refused credential is replaced without a failure.
    given.write_text(credential(token=token("two")))
    assert who(other)["username"] == f"system:serviceaccount:{namespace}:two"
    assert who(cluster)["username"] == f"system:serviceaccount:{namespace}:one"


def test_a_refused_token_is_replaced_within_the_request(
    kubeconfig: Kubeconfig, token: Callable[[str], str], namespace: str, tmp_path: Path
) -> None:
    good = tmp_path / "good"
    good.write_text(credential(token=token("good")))
    path = script(
        tmp_path / "plugin",
        f"[ -e {tmp_path}/ran ] && cat {good} || echo '{credential(token='revoked')}'; "
        f"touch {tmp_path}/ran",
    )
    found = who(Cluster.from_file(kubeconfig(plugin(path))))
    assert found["username"] == f"system:serviceaccount:{namespace}:good"


def test_a_plugin_may_give_a_certificate(
    kubeconfig: Kubeconfig, sandbox: Sandbox, tmp_path: Path
) -> None:
    pki = sandbox.data / "pki"
    given = credential(
        clientCertificateData=(pki / "admin.crt").read_text(),
        clientKeyData=(pki / "admin.key").read_text(),
    )
    (tmp_path / "credential").write_text(given)
    path = script(tmp_path / "plugin", f"cat {tmp_path}/credential")
    cluster = Cluster.from_file(kubeconfig(plugin(path)))
    assert who(cluster)["username"] == "sandbox-admin"


def test_a_plugin_is_not_run_where_the_user_has_something_of_its_own(
    kubeconfig: Kubeconfig, token: Callable[[str], str], tmp_path: Path
) -> None:
    path = script(tmp_path / "plugin", "exit 1")
    user = {"token": token("own"), **plugin(path)}
    assert who(Cluster.from_file(kubeconfig(user)))["username"].endswith(":own")


def test_a_plugin_is_told_of_the_cluster_where_it_asks(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("PEM")
    cluster = KubeCluster.model_validate(
        {
            "server": "https://x.example",
            "certificate-authority": f"{tmp_path}/ca.crt",
            "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"a": 1}}],
        }
    )
    assert cluster_info(cluster) == {
        "server": "https://x.example",
        "certificate-authority-data": "UEVN",
        "config": {"a": 1},
    }


AT_A_TERMINAL = """
import sys
from pathlib import Path
from prefect_linkerd.mesh.kubernetes.client import Cluster

cluster = Cluster.from_file(Path(sys.argv[1]))
cluster.version()
print("helm has", sorted(cluster._as_kubeconfig()["users"][0]["user"]))
"""


def test_at_a_terminal_a_plugin_may_ask_and_helm_does_not_ask_again(
    kubeconfig: Kubeconfig, token: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "credential").write_text(credential(token=token("asked")))
    path = script(
        tmp_path / "plugin",
        f'printf "Code: " >&2; read code; [ "$code" = 42 ] && cat {tmp_path}/credential',
    )
    file = kubeconfig(plugin(path, interactiveMode="Always"))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, str(file)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=ROOT,
    ) as process:
        seen = b""
        while b"Code: " not in seen:
            seen += os.read(ours, 1024)
        os.write(ours, b"42\n")
        printed, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert printed == b"helm has ['token']\n", seen


# Users and clusters


def test_a_token_file_is_read_without_its_line_end_and_again_when_it_changes(
    kubeconfig: Kubeconfig, token: Callable[[str], str], namespace: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(token("one") + "\n")
    cluster = Cluster.from_file(kubeconfig({"tokenFile": "token", "token": "older"}))
    assert who(cluster)["username"] == f"system:serviceaccount:{namespace}:one"
    file.write_text(token("two") + "\n")
    assert who(cluster)["username"] == f"system:serviceaccount:{namespace}:two"
    lost = Cluster.from_file(kubeconfig({"tokenFile": "lost"}))
    with pytest.raises(InvalidInput, match=f"token file {tmp_path}/lost: expected a token"):
        who(lost)


def test_a_password_is_sent_as_it_is() -> None:
    user = KubeUser.model_validate({"username": "me", "password": "schlüssel"})
    assert authorization(user, None) == {"Authorization": "Basic bWU6c2NobMO8c3NlbA=="}


def test_who_impersonates_is_the_other(
    kubeconfig: Kubeconfig, sandbox: Sandbox, binaries: Binaries
) -> None:
    admin = yaml.safe_load(sandbox.certificate_kubeconfig.read_text())["users"][0]["user"]
    other = {"as": "jane", "as-uid": "7", "as-groups": ["a", "b"]}
    other["as-user-extra"] = {"example.com/scopes": ["one", "two"]}
    file = kubeconfig(admin | other)
    found = who(Cluster.from_file(file))
    done = subprocess.run(
        [binaries.kubectl, "--kubeconfig", file, "auth", "whoami", "--output", "json"],
        capture_output=True,
        check=True,
    )
    assert found == json.loads(done.stdout)["status"]["userInfo"]
    assert (found["username"], found["uid"]) == ("jane", "7")
    assert found["extra"] == {"example.com/scopes": ["one", "two"]}
    assert impersonation(KubeUser()) == []


@pytest.mark.parametrize("user", [{}, {"auth-provider": {"name": "azure"}}, {"username": ""}])
def test_without_credentials_nothing_is_asked_anonymously(
    user: dict[str, Any], kubeconfig: Kubeconfig
) -> None:
    with pytest.raises(InvalidInput, match="kubeconfig user admin: expected credentials"):
        Cluster.from_file(kubeconfig(user)).version()


def test_names_and_authorities_of_the_server_are_the_kubeconfigs(
    sandbox: Sandbox, kubeconfig: Kubeconfig
) -> None:
    admin = yaml.safe_load(sandbox.certificate_kubeconfig.read_text())["users"][0]["user"]

    def version(**cluster: Any) -> str:
        return Cluster.from_file(kubeconfig(admin, cluster), patience=0).version()

    assert version(**{"tls-server-name": "kubernetes.default.svc"})
    with pytest.raises(ApiError, match="SSLError"):
        version(**{"tls-server-name": "elsewhere.example"})
    unknown = {"certificate-authority-data": "", "certificate-authority": ""}
    with pytest.raises(ApiError, match="SSLError"):
        version(**unknown)
    assert version(**unknown, **{"insecure-skip-tls-verify": True})
    with pytest.raises(InvalidInput, match="lost"):
        version(**{"certificate-authority-data": "", "certificate-authority": "lost.crt"})


@pytest.mark.parametrize(("scheme", "greeting"), [("http", b"CONNECT "), ("socks5", b"\x05")])
def test_a_proxy_of_the_kubeconfig_is_used_whatever_the_environment_says(
    scheme: str,
    greeting: bytes,
    sandbox: Sandbox,
    kubeconfig: Kubeconfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    admin = yaml.safe_load(sandbox.certificate_kubeconfig.read_text())["users"][0]["user"]
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"{scheme}://127.0.0.1:{proxy.getsockname()[1]}"

        def listen() -> None:
            connection, _ = proxy.accept()
            with connection:
                heard.append(connection.recv(1024))

        thread = threading.Thread(target=listen)
        thread.start()
        cluster = Cluster.from_file(kubeconfig(admin, {"proxy-url": address}), patience=0)
        with pytest.raises(ApiError, match="expected an answer"):
            cluster.version()
        thread.join(timeout=10)
    assert heard[0].startswith(greeting)


def test_helm_uses_the_plugin_too(
    cluster: Cluster,
    sandbox: Sandbox,
    kubeconfig: Kubeconfig,
    binaries: Binaries,
    tmp_path: Path,
) -> None:
    pki = sandbox.data / "pki"
    given = credential(
        clientCertificateData=(pki / "admin.crt").read_text(),
        clientKeyData=(pki / "admin.key").read_text(),
    )
    (tmp_path / "credential").write_text(given)
    script(tmp_path / "plugin", f"cat {tmp_path}/credential")
    found = Cluster.from_file(kubeconfig(plugin("./plugin")))
    with found.kubeconfig_file() as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        done = subprocess.run(
            [binaries.helm, "list", "--kubeconfig", path, "--namespace", "default"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert found.version() == cluster.version()


@pytest.mark.parametrize("is_first", [True, False], ids=["token first", "token last"])
def test_the_next_page_is_asked_for_before_one_is_used(is_first: bool) -> None:
    server = ApiServer()
    kinds = {"name": "pods", "kind": "Pod", "namespaced": True, "verbs": ["list"]}
    server.answers["/api/v1"] = lambda _query: (200, json.dumps({"resources": [kinds]}))
    asked: list[str] = []
    following = {"": "a", "a": "b", "b": ""}

    def page(query: dict[str, list[str]]) -> tuple[int, str]:
        token = query.get("continue", [""])[0]
        asked.append(token)
        names = [{"metadata": {"name": f"{token}{n}"}, "spec": "x" * HEAD} for n in range(2)]
        parts = {"metadata": {"continue": following[token]}, "items": names}
        order = sorted(parts, reverse=is_first)
        return 200, json.dumps({key: parts[key] for key in order}, separators=(",", ":"))

    server.answers["/api/v1/pods"] = page
    found = server.cluster.list("v1", "Pod")
    assert [obj["metadata"]["name"] for obj in found] == ["0", "1", "a0", "a1", "b0", "b1"]
    assert asked == ["", "a", "b"]
