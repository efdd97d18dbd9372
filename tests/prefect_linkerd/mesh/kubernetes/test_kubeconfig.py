"""Kubeconfigs are read as kubectl reads them, compared with the real kubectl."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.kubernetes.kubeconfig import (
    Kubeconfig,
    choose,
    default_paths,
    read_kubeconfig,
)
from sandbox.binaries import Binaries


def config(*names: str, current: str = "", **user: Any) -> dict[str, Any]:
    """A kubeconfig with a cluster, a user and a context for each name."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current,
        "clusters": [{"name": n, "cluster": {"server": f"https://{n}.example"}} for n in names],
        "users": [{"name": n, "user": {"token": f"token-{n}", **user}} for n in names],
        "contexts": [{"name": n, "context": {"cluster": n, "user": n}} for n in names],
    }


def plugin(command: str) -> dict[str, Any]:
    api = "client.authentication.k8s.io/v1beta1"
    return {"token": None, "exec": {"apiVersion": api, "command": command, "args": ["login"]}}


def changed(content: dict[str, Any], section: str, **fields: Any) -> dict[str, Any]:
    key = section.removesuffix("s")
    [entry] = content[section]
    return content | {section: [{"name": entry["name"], key: {**entry[key], **fields}}]}


HUSH = "hush"
X = config("x", current="x")
V1 = {"apiVersion": "client.authentication.k8s.io/v1", "command": "log-in"}


SPLIT: dict[str, Any] = {"apiVersion": "v1", "kind": "Config"}
FILES: dict[str, dict[str, dict[str, Any]]] = {
    "the first current context wins": {"a": config("one", current="one"), "b": config("two")},
    "a current context of a later file": {"a": config("one"), "b": config("two", current="two")},
    "two current contexts": {
        "a": config("one", current="one"),
        "b": config("two", current="two"),
    },
    "a context of one file, its cluster of another": {
        "a": SPLIT | {"clusters": config("x")["clusters"], "current-context": "x"},
        "b": SPLIT | {"contexts": config("x")["contexts"]},
        "c": SPLIT | {"users": config("x")["users"]},
    },
    "entries of the same name are not mixed": {
        "a": config("x", current="x", **{"as": "me"}),
        "b": config("x", **{"as-uid": "7", "client-key": "/key"}),
    },
    "a plugin on PATH": {"a": config("x", current="x", **plugin("log-in"))},
    "nothing but null": {
        "a": {"clusters": None, "users": None, "contexts": None},
        "b": config("x", current="x"),
    },
}


@pytest.mark.parametrize(
    ("case", "style"),
    [
        *((case, "{}") for case in FILES),
        *(("two current contexts", style) for style in (":{}", "{}::", "missing:{}")),
    ],
)
def test_files_are_merged_as_kubectl_does(
    case: str, style: str, binaries: Binaries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in FILES[case].items():
        (tmp_path / name).write_text(yaml.safe_dump(content))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # The first by a relative path, as some users have it.
    first, *others = FILES[case]
    names = [f"../{first}", *(str(tmp_path / name) for name in others)]
    monkeypatch.setenv("KUBECONFIG", style.format(":".join(names)))
    # A cluster that must not be chosen.
    home = tmp_path / "home/.kube"
    home.mkdir(parents=True)
    (home / "config").write_text(yaml.safe_dump(config("default", current="default")))
    monkeypatch.setenv("HOME", str(home.parent))

    done = subprocess.run(
        [binaries.kubectl, "config", "view", "--raw", "--minify", "--output", "json"],
        capture_output=True,
        check=True,
    )
    kubectls = json.loads(done.stdout)
    ours = choose(read_kubeconfig())
    assert ours.name == kubectls["current-context"]
    assert kubectls["contexts"][0]["context"] == {
        "cluster": ours.cluster_name,
        "user": ours.user_name,
    }
    found = ours.as_kubeconfig()
    assert found["clusters"] == kubectls["clusters"]
    user = kubectls["users"][0]["user"]
    if "exec" in user:
        # kubectl adds its defaults.
        for name in ("env", "provideClusterInfo", "interactiveMode"):
            del user["exec"][name]
    assert found["users"][0]["user"] == user


def test_paths_are_taken_from_the_folder_of_their_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"client-certificate": "c/../crt", "client-key": "../key", "tokenFile": "/t"}
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    cluster = changed(X, "clusters", **{"certificate-authority": "ca.crt"})
    (tmp_path / "here/a").write_text(yaml.safe_dump(cluster | {"users": []}))
    (tmp_path / "there/b").write_text(yaml.safe_dump(changed(X, "users", **files)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", f"here/a:{tmp_path}/there/b")
    found = choose(read_kubeconfig())
    assert found.cluster.certificate_authority == f"{tmp_path}/here/ca.crt"
    assert found.user.client_certificate == f"{tmp_path}/there/crt"
    assert (found.user.client_key, found.user.token_file) == (f"{tmp_path}/key", "/t")


@pytest.mark.parametrize(
    ("command", "run"),
    [
        ("./log-in", "{folder}/log-in"),
        ("bin/log-in", "{folder}/bin/log-in"),
        ("../log-in", "{parent}/log-in"),
        ("/usr/bin/log-in", "/usr/bin/log-in"),
        ("log-in", "log-in"),
    ],
)
def test_a_plugin_with_a_slash_is_beside_its_file(command: str, run: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config("x", current="x", **plugin(command))))
    found = choose(read_kubeconfig(path)).user.exec
    assert found is not None
    assert found.command == run.format(folder=tmp_path, parent=tmp_path.parent)


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("a:b", ["a", "b"]),
        (":/x", ["/x"]),
        ("/x:", ["/x"]),
        ("a:b:a", ["a", "b"]),
        (":", []),
        ("~/a", ["~/a"]),
    ],
)
def test_which_files_kubectl_reads(value: str, paths: list[str]) -> None:
    assert default_paths({"KUBECONFIG": value}) == tuple(map(Path, paths))


@pytest.mark.parametrize("environment", [{}, {"KUBECONFIG": ""}])
def test_without_a_variable_the_file_is_that_of_the_home(environment: dict[str, str]) -> None:
    assert default_paths(environment) == (Path.home() / ".kube/config",)


def test_a_named_file_has_to_exist_and_others_have_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    with pytest.raises(InvalidInput, match=f"kubeconfig {path}: expected a readable kubeconfig"):
        read_kubeconfig(path)
    for value in (f"{path}:{tmp_path}/other", ":"):
        monkeypatch.setenv("KUBECONFIG", value)
        with pytest.raises(InvalidInput, match=r"expected a kubeconfig, found none at .+"):
            read_kubeconfig()
    path.write_text(yaml.safe_dump(config("x", current="x")))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/other:{path}")
    assert choose(read_kubeconfig()).name == "x"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (config("x", "y"), "expected a current context, found none set; contexts: x, y"),
        (X | {"current-context": "z"}, "expected the context z, found contexts: x"),
        (X | {"users": []}, "no user x"),
        (X | {"clusters": []}, "no cluster x"),
        (changed(X, "contexts", user=""), "no user named"),
        (changed(X, "clusters", server=""), "no server for cluster x"),
        (changed(X, "users", username="me", password=HUSH), "only one is allowed"),
        (changed(X, "users", **{"client-certificate": "/crt"}), "without its key"),
        (changed(X, "users", **{"as-groups": ["system:masters"]}), "without a user"),
        (changed(X, "users", exec=V1), "exec without interactiveMode"),
        (changed(X, "users", exec={"apiVersion": "v1", "interactiveMode": "Never"}), "command"),
    ],
)
def test_what_kubectl_refuses_is_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        choose(Kubeconfig.parse(content))
    assert says in str(refused.value)
    assert HUSH not in str(refused.value)
    assert "token-x" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a", "valid dictionary"),
        ("users: {a: b}", "users: Input should be a valid list"),
        ("users: [{name: a, user: {token: 123456}}]", "users.0.user.token: Input should be a"),
        ("users: [{name: a}, {name: a}]", "a is listed twice"),
        ("contexts: [{context: {}}]", "contexts.0.name: Field required"),
        ("users: [{name: hush", "invalid YAML"),
    ],
)
def test_a_broken_file_is_named_without_what_it_holds(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_kubeconfig(path)
    assert f"kubeconfig {path}" in str(refused.value)
    assert says in str(refused.value)
    assert "123456" not in str(refused.value)
    assert HUSH not in str(refused.value)


def test_a_server_without_a_scheme_is_http_as_for_kubectl() -> None:
    context = choose(Kubeconfig.parse(changed(X, "clusters", server="127.0.0.1:8080/")))
    assert (context.server, context.is_tls) == ("http://127.0.0.1:8080", False)
    assert "token-x" not in repr(context) + repr(Kubeconfig.parse(X))
