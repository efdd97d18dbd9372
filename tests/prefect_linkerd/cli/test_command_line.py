"""The command line: the flows' own options, its words, completion and exit codes."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.__main__ import main as started
from prefect_linkerd.cli import flow_command
from prefect_linkerd.cli.app import commands, loaded, main
from prefect_linkerd.cli.flags import Parameter, arguments_of, flags_of, parameters_of
from prefect_linkerd.cli.lines import Steps
from prefect_linkerd.cli.target import cluster_words, confirm_target, installed_words
from prefect_linkerd.mesh.config.model import ClusterAccess, MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh_file import load_mesh
from prefect_linkerd.tasks.declared import declared_flows

HEAVY = "{'prefect', 'prefect_kubernetes', 'kubernetes', 'cryptography', 'httpx', 'rich'}"
LIST = "from prefect_linkerd.cli.app import main; assert not main([sys.argv[1]])"
LOAD = "from prefect_linkerd.cli import app; [app.loaded(name) for name in app.commands()]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "argument", "heavy"),
    [
        (LIST, "--help", f"{HEAVY} | {{'pydantic', 'yaml'}}"),
        (LIST, "--version", f"{HEAVY} | {{'pydantic', 'yaml'}}"),
        (LOAD, "each command's own help", HEAVY),
    ],
)
def test_help_and_completion_import_little(program: str, argument: str, heavy: str) -> None:
    """A user waits for them."""
    code = f"import sys; {program}; found = ({heavy}) & sys.modules.keys(); assert not found, found"
    done = subprocess.run(
        [sys.executable, "-c", code, argument],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_interrupt_while_the_commands_load_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("prefect_linkerd.cli.app.main", interrupted)
    assert started() == 130
    assert capsys.readouterr().err == "\nprefect-linkerd: interrupted.\n"


def test_flags_become_the_models_that_flows_take() -> None:
    parameters = parameters_of(declared_flows()["rotate_anchor"])
    flags = flags_of(parameters)
    given = dict.fromkeys((flag.name.replace("-", "_") for flag in flags), None)
    assert arguments_of(parameters, flags, given) == {}
    found = arguments_of(
        parameters,
        flags,
        {**given, "restarts_batch_size": 7, "approvals": ["switch"], "action": "abort"},
    )
    assert found["options"].restarts.batch_size == 7
    assert found["options"].approvals == ("switch",)
    assert found["action"] == "abort"
    with pytest.raises(InvalidInput, match=r"restarts.batch_size: .*greater than or equal to 1"):
        arguments_of(parameters, flags, {**given, "restarts_batch_size": 0})
    # A typo is not replaced by the default, which would rotate.
    with pytest.raises(InvalidInput, match=r"flag --action: .*'rotate', 'abort'"):
        arguments_of(parameters, flags, {**given, "action": "abrot"})
    assert Parameter("to", str).model is None


def test_fields_are_set_over_those_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("name: north\nprofile: demo\nviz: {dashboard: {host: viz.example.com}}\n")
    mesh = load_mesh(path, settings=["viz.dashboard.username=me", "ha=true", "timeout_seconds=60"])
    assert (mesh.name, mesh.viz.dashboard.host) == ("north", "viz.example.com")
    assert (mesh.viz.dashboard.username, mesh.ha, mesh.timeout_seconds) == ("me", True, 60)
    for wrong in ("ha", "=1", "name.x=1", "ha=[", "x..y=2"):
        with pytest.raises(InvalidInput, match=r"section\.field=value"):
            load_mesh(path, settings=[wrong])
    secret = "trust_anchor.passphrase=hush"
    with pytest.raises(InvalidInput, match=r"at least|shorter") as caught:
        load_mesh(path, settings=["trust_anchor.key_file=/x", secret])
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("access", "flags", "found"),
    [
        (None, {"context": "b"}, (None, "b", False)),
        (None, {"kubeconfig": "/k", "context": "b"}, ("/k", "b", False)),
        ("{kubeconfig: /file, context: a}", {"context": "b"}, ("/file", "b", False)),
        ("{kubeconfig: /file, context: a}", {"kubeconfig": "/k"}, ("/k", "a", False)),
        ("{kubeconfig: /file, context: a}", {}, ("/file", "a", False)),
        ("{context: a}", {"kubeconfig": "/k"}, ("/k", "a", False)),
        ("{in_cluster: true}", {}, (None, None, True)),
        ("{in_cluster: true}", {"context": "b"}, (None, "b", False)),
        ("null", {"context": "b"}, (None, "b", False)),
    ],
)
def test_each_flag_of_the_access_wins_over_its_own_field(
    access: str | None, flags: dict[str, str], found: tuple[Any, ...], tmp_path: Path
) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(f"name: north\naccess: {access}\n" if access else "name: north\n")
    kubeconfig = Path(flags["kubeconfig"]) if "kubeconfig" in flags else None
    given = load_mesh(path, kubeconfig, flags.get("context")).access
    wanted = Path(found[0]) if found[0] else None
    assert (given.kubeconfig, given.context, given.in_cluster) == (wanted, *found[1:])
    if access is None:
        assert load_mesh(None, kubeconfig, flags.get("context")).access == given


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("viz: {enabeld: true}", "viz.enabeld: there is no such field; the nearest is enabled"),
        ("issuerr: cert-manager", "issuerr: there is no such field; the nearest is issuer"),
        ("quite: different", "quite: there is no such field. Correct"),
        ("name: x\nviz: {a: b\n  c: d", "found invalid YAML at line 3, column 4. Name"),
        ("- name", "found no fields. Name"),
    ],
)
def test_a_wrong_file_says_what_is_wrong_and_where(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mesh.yaml").write_text(text)
    assert main(["certificates", str(tmp_path / "mesh.yaml")]) == 2
    assert said in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_fails_at_once_in_the_systems_words(
    context_only: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = time.monotonic()
    for command in ("verify", "certificates", "status", "adopt"):
        assert main([command]) == 1
        said = capsys.readouterr().err
        assert f"an answer to GET from {context_only}, found connection refused." in said
        # Said only once, and not by a step, which would be retried.
        assert len(said.splitlines()) == 1
    # The client library retries a request for 20 s.
    assert time.monotonic() - begin < 15


CHANGES = {f.declaration.command: f.declaration.changes for f in declared_flows().values()}


@pytest.mark.usefixtures("context_only")
@pytest.mark.parametrize("command", sorted({*CHANGES} - {"", "verify", "certificates"}))
def test_every_flow_has_a_dry_run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --dry-run the command does not ask where to keep a key, and the flow only plans."""
    asked: list[dict[str, Any]] = []

    def record(_flow: Any, _config: Any, arguments: dict[str, Any], *_: Any) -> None:
        asked.append(arguments)

    if command == "fleet":
        assert "--dry-run" in {flag for p in loaded("fleet").params for flag in p.opts}
        return
    monkeypatch.setattr(flow_command, "run_flow", record)
    assert main([command, "--dry-run"]) == 0
    is_read = not CHANGES[command] and command != "new-releases"
    assert asked == [{} if is_read else {"dry_run": True}]
    assert flow_command.is_dry(asked[0]) != is_read


PROFILE = 'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:1/api"\n'


@pytest.mark.parametrize(
    ("files", "environment", "has"),
    [
        ({}, {}, False),
        ({}, {"PREFECT_API_URL": "http://127.0.0.1:1/api"}, True),
        ({"prefect.toml": "[plugins]\nenabled = true\n"}, {}, False),
        ({"prefect.toml": '[api]\nurl = "http://127.0.0.1:1/api"\n'}, {}, True),
        ({"home/profiles.toml": PROFILE}, {}, True),
    ],
)
@pytest.mark.slow
def test_a_users_server_is_found_wherever_prefect_finds_it(
    files: dict[str, str], environment: dict[str, str], has: bool, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    code = "from prefect_linkerd.cli.user_server import has_server; print(has_server())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=clean | {"PREFECT_HOME": str(tmp_path / "home")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == [str(has)]


def test_a_plugins_words_come_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "exec-fails.sh"
    plugin.write_text('#!/bin/sh\necho "Unable to locate credentials." >&2\nexit 255\n')
    plugin.chmod(0o755)
    api, command = "client.authentication.k8s.io/v1beta1", "./exec-fails.sh"
    entries = {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"exec": {"apiVersion": api, "command": command}}}],
        "contexts": [{"name": "other", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "config").write_text(json.dumps(entries))
    monkeypatch.setenv("KUBECONFIG", f":{tmp_path}/config")
    for command in ("certificates", "verify"):
        assert main([command, "--context", "other"]) == 1
        said = capsys.readouterr().err
        assert f"{plugin} failed with exit code 255: Unable to locate credentials." in said
        assert "anonymous" not in said
    assert main(["verify", "--context", "none"]) == 2
    assert "expected the context none, found contexts: other" in capsys.readouterr().err


@pytest.fixture
def context_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kubeconfig whose current context leads to a server that does not exist."""
    server = "https://127.0.0.1:1"
    entries = {
        "current-context": "laptop",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "laptop", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "config").write_text(json.dumps(entries))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    return server


def test_bootstrap_without_a_file_is_refused_where_nobody_can_be_asked(
    context_only: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ((), ("--set", "name=x"), ("--context", "laptop")):
        assert main(["bootstrap", *more]) == 2
        said = capsys.readouterr().err
        assert f"--yes to install on context laptop ({context_only})" in said
        assert "add --yes" in said


@pytest.mark.parametrize(("typed", "goes_on"), [("y\n", True), ("n\n", False), ("", False)])
def test_bootstrap_without_a_file_names_what_it_would_install_and_where(
    typed: str,
    goes_on: bool,
    context_only: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.StringIO(typed)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    if goes_on:
        confirm_target(MeshConfig(), yes=False)
    else:
        with pytest.raises(InvalidInput, match="Nothing was changed"):
            confirm_target(MeshConfig(), yes=False)
    said = capsys.readouterr().err
    assert f"install on context laptop ({context_only})" in said
    assert "Linkerd edge-26.8.3 as mesh mesh: linkerd-crds, linkerd-control-plane\n" in said


def test_what_would_be_installed_follows_the_profile() -> None:
    shown = installed_words(MeshConfig(profile="demo"))
    assert shown.endswith("linkerd-control-plane, linkerd-viz, traefik, emojivoto")
    confirm_target(MeshConfig(access={"in_cluster": True}), yes=True)
    assert cluster_words(ClusterAccess(in_cluster=True)) == "the cluster that this pod runs in"


def test_wrong_input_ends_with_2_and_names_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bootstrap", str(tmp_path / "none.yaml"), "--output", "json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["error"] == "InvalidInput"
    assert said["remedy"] == "Name an existing file with lines such as `version: edge-26.8.3`."
    assert main(["upgrade", "--restarts-batch-size", "many"]) == 2
    assert main(["nothing"]) == 2
    assert "No such command" in capsys.readouterr().err


def test_help_has_the_words_of_the_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert [line for line in commands().values() if line not in text] == []
    assert main(["rotate-anchor", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Phases before which the run pauses until somebody resumes it;" in text
    assert "--restarts-batch-size NUMBER" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("prefect-linkerd rot", ["rotate-anchor", "rotate-issuer", "rotate-webhooks"]),
        ("prefect-linkerd rotate-anchor --approvals s", ["spread", "switch"]),
        ("prefect-linkerd verify --json", ["--json-file"]),
    ],
)
def test_a_shell_completes(line: str, offered: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect_linkerd"],
        env=os.environ
        | {
            "_PREFECT_LINKERD_COMPLETE": "complete_bash",
            "_PYTHON _M PREFECT_LINKERD_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == offered, done.stderr


def test_a_failure_is_told_once_in_full_and_by_its_step_in_short(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Prefect logs it once for the task and twice for the flow; the command adds its own line."""
    reason = "Helm release linkerd/app: " + "expected its workloads to come up, found " * 9
    steps = Steps()
    for name, text in (
        ("app", f"Task run failed with exception: {reason!r} - Retries are exhausted"),
        ("app", f'Finished in state Failed("Task run encountered an exception {reason}")'),
        ("", f"Encountered exception during execution: {reason!r}"),
        ("", f'Finished in state Failed("Flow run encountered an exception: {reason}")'),
    ):
        more = {"task_run_name": name} if name else {"flow_name": "linkerd-bootstrap"}
        steps.emit(logging.makeLogRecord({"msg": text, "levelno": logging.ERROR, **more}))
    task, flow = capsys.readouterr().err.splitlines()
    assert task.split("  ")[-1].startswith('failed: "Task run encountered an exception Helm')
    assert len(task) < 220
    assert flow.split() == ["bootstrap", "failed"]
