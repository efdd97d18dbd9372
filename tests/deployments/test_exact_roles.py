"""Each flow that changes a mesh, run from a terminal with exactly its role."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.deployments.grants import Grant, Held, render
from prefect_linkerd.deployments.roles import HOME, RBAC, both, files, grants_of, manifests, rules
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.preflight import denied_permissions
from prefect_linkerd.mesh.records.rotation import read_record
from prefect_linkerd.mesh.rotation.trust_bundle import read_trust_bundle
from prefect_linkerd.server.prefect_server import PrefectServer
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from tests.support.identities import as_account
from tests.support.processes import terminal_environment

pytestmark = [
    # Roles as the real charts need them.
    pytest.mark.real_charts,
    pytest.mark.xdist_group("exact roles"),
    pytest.mark.timeout(1200),
]

BEFORE, AFTER = "edge-25.4.4", "edge-26.8.3"
ROTATION = [
    *("--restarts-batch-size", "100", "--load-seconds", "20", "--lease-seconds", "5"),
]
NOT_FOR_ROLES = {"authorization.k8s.io"}
"""API groups that need no role: every identity may query its own permissions."""


@dataclass
class Terminal:
    """A user at a terminal with a mesh's file, on a cluster with an audit log."""

    sandbox: Sandbox
    cluster: Cluster
    fields: dict[str, Any]
    folder: Path
    environment: dict[str, str]
    objects: dict[Any, Any] = field(default_factory=dict)
    said: str = ""

    @property
    def config(self) -> MeshConfig:
        return MeshConfig.model_validate(self.fields)

    def role(self, flow: str) -> Cluster:
        """The cluster as a flow's ServiceAccount sees it, once its role is in force."""
        for obj in manifests(flow, self.config, self.objects):
            self.cluster.apply(obj)
        cluster = as_account(self.cluster, HOME, f"prefect-linkerd-{flow.replace('_', '-')}")
        (self.folder / f"{flow}.kubeconfig").write_text(yaml.safe_dump(cluster._as_kubeconfig()))
        return cluster

    def command(self, flow: str, *arguments: str) -> list[str]:
        """The command that a user with the flow's role types."""
        mesh = self.folder / "mesh.yaml"
        mesh.write_text(yaml.safe_dump(self.fields))
        return [
            *(sys.executable, "-m", "prefect_linkerd", flow.replace("_", "-"), str(mesh)),
            *("--kubeconfig", str(self.folder / f"{flow}.kubeconfig"), *arguments),
        ]

    def answered(self, answer: str, flow: str, *arguments: str, **environment: str) -> str:
        """Runs a command at a real terminal, answers its question, and returns what was shown."""
        leader, follower = pty.openpty()
        with subprocess.Popen(
            self.command(flow, *arguments),
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=self.environment | environment,
        ) as process:
            os.close(follower)
            shown = ""
            while (now := _shown(leader)) or process.poll() is None:
                shown += now
                if shown.rstrip().endswith("[y/N]:"):
                    os.write(leader, f"{answer}\n".encode())
        os.close(leader)
        assert process.returncode == 2, shown[-4000:]
        return " ".join(shown.split())

    def run(self, flow: str, *arguments: str, **environment: str) -> Any:
        """Runs a command with its flow's role, and returns the JSON that it prints."""
        done = subprocess.run(
            self.command(flow, "--output", "json", *arguments),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            stdin=subprocess.DEVNULL,
            env=self.environment | environment,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        self.said = done.stderr
        return json.loads(done.stdout)

    def asked(self, flow: str) -> list[dict[str, Any]]:
        name = f"prefect-linkerd-{flow.replace('_', '-')}"
        found = [
            event
            for event in self.sandbox.audit_log()
            if event["user"]["username"].endswith(f":{name}") and "objectRef" in event
        ]
        return [e for e in found if e["objectRef"].get("apiGroup", "") not in NOT_FOR_ROLES]

    def was_exact(self, flow: str) -> None:
        """Asserts that no request was refused, and that every grant always needed was used."""
        asked = self.asked(flow)
        assert asked
        refused = {
            f"{event['verb']} {event['requestURI']}"
            for event in asked
            if event["responseStatus"]["code"] == 403
        }
        assert not refused, "\n".join(sorted(refused))
        granted = grants_of(flow, self.config, self.objects)
        idle = [
            (verb, resource, grant)
            for grant in granted
            if isinstance(grant, Grant) and not grant.sometimes
            for verb in grant.verbs
            for resource in grant.resources
            if not _is_asked(asked, verb, resource, grant)
        ]
        assert not idle, "\n".join(map(str, idle))


def _shown(terminal: int) -> str:
    """What a terminal shows next; empty if that is nothing or its program has exited."""
    if not select.select([terminal], [], [], 1.0)[0]:
        return ""
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:
        return ""


def _is_asked(asked: Sequence[dict[str, Any]], verb: str, resource: str, grant: Grant) -> bool:
    names: set[str] = set()
    for event in asked:
        ref = event["objectRef"]
        full = "/".join(part for part in (ref["resource"], ref.get("subresource")) if part)
        place = "" if ref["resource"] == "namespaces" else ref.get("namespace", "")
        # An apply that created its object needed `create` as well.
        is_verb = event["verb"] == verb or (
            (verb, event["verb"], event["responseStatus"]["code"]) == ("create", "patch", 201)
        )
        if (
            is_verb
            and (ref.get("apiGroup", ""), full) == (grant.group, resource)
            and grant.namespace in ("", place)
        ):
            names.add(ref.get("name", ""))
    return bool(names) and names >= set(grant.names)


@contextmanager
def at_terminal(binaries: Binaries, folder: Path, fields: dict[str, Any]) -> Iterator[Terminal]:
    path = os.pathsep.join([str(binaries.helm.parent), os.environ["PATH"]])
    environment = terminal_environment(folder) | {"PATH": path}
    with Sandbox("exact-roles", audited=True, binaries=binaries) as sandbox:
        cluster = sandbox.cluster()
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}})
        fields = {"name": "exact", "version": BEFORE, "timeout_seconds": 240, **fields}
        found = Terminal(sandbox, cluster, fields, folder, environment)
        found.objects = render(found.config, str(binaries.helm))
        yield found


@pytest.fixture(scope="module")
def terminal(
    binaries: Binaries, shared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("terminal")
    fields = {
        "charts": {"mirror": str(shared_dir / "charts")},
        "profile": "demo",
        "emojivoto": {"manifest": str(shared_dir / "manifests/emojivoto.yml")},
        "viz": {"dashboard": {"host": "viz.example.com"}},
        "trust_anchor": {
            "key_file": str(folder / "anchor.key"),
            "passphrase": "correct horse battery staple",
        },
    }
    with at_terminal(binaries, folder, fields) as found:
        yield found


@pytest.fixture(scope="module")
def bootstrapped(terminal: Terminal) -> Terminal:
    """After `prefect-linkerd bootstrap`, without a Prefect server."""
    account = with_bootstraps_role(terminal)
    _grants_roles_only_by_their_rules(terminal, account)
    done = terminal.run("bootstrap")
    assert (done["mesh"], done["failures"]) == ("exact", [])
    return terminal


def with_bootstraps_role(terminal: Terminal) -> Cluster:
    account = terminal.role("bootstrap")
    deadline = time.monotonic() + 60
    while denied := denied_permissions(Mesh(account, terminal.config)):
        assert time.monotonic() < deadline, denied
        time.sleep(0.5)
    return account


def _grants_roles_only_by_their_rules(terminal: Terminal, account: Cluster) -> None:
    """Bootstrap needs what the charts' roles grant: otherwise Kubernetes refuses to create them."""
    granted = grants_of("bootstrap", terminal.config, terminal.objects)
    name = "prefect-linkerd-bare"
    metadata = {"name": name, "namespace": HOME}
    bare = [grant for grant in granted if isinstance(grant, Grant)]
    terminal.cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    for kind, content in (
        ("ClusterRole", {"rules": rules(bare, "")}),
        (
            "ClusterRoleBinding",
            {
                "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
                "subjects": [{"kind": "ServiceAccount", **metadata}],
            },
        ),
    ):
        terminal.cluster.apply(
            {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": {"name": name}, **content}
        )
    without = as_account(terminal.cluster, HOME, name)
    while not without.allowed("create", "clusterroles", group=RBAC):
        time.sleep(0.1)
    roles: list[Object] = [
        obj
        for objects in terminal.objects.values()
        for obj in objects
        if obj["kind"] == "ClusterRole" and obj.get("rules")
    ]
    refused: list[str] = []
    for role in roles:
        path = f"/apis/{RBAC}/v1/clusterroles"
        account.request("POST", path, query={"dryRun": "All"}, body=role)
        try:
            without.request("POST", path, query={"dryRun": "All"}, body=role)
        except ApiError as error:
            if "attempting to grant RBAC permissions" in str(error):
                refused.append(role["metadata"]["name"])
    # Bootstrap's own rules cover what some of them grant.
    assert len(refused) > len(roles) / 2, refused
    assert {"linkerd-linkerd-identity", "linkerd-linkerd-destination"} <= set(refused)


def test_bootstrap(bootstrapped: Terminal) -> None:
    bootstrapped.was_exact("bootstrap")
    kept = bootstrapped.folder / "anchor.key"
    assert f"The trust anchor's private key is in file {kept}. Back it up" in bootstrapped.said
    # The run leaves no state behind.
    for name in ("XDG_STATE_HOME", "PREFECT_HOME"):
        assert not Path(bootstrapped.environment[name]).exists()


def test_the_flows_on_a_mesh_that_runs(
    bootstrapped: Terminal, prefect_server: PrefectServer, binaries: Binaries
) -> None:
    terminal, server = bootstrapped, {"PREFECT_API_URL": f"{prefect_server.url}/api"}
    terminal.role("smoke_test")
    report = terminal.run("smoke_test")
    assert report["mesh"] == "exact"
    terminal.was_exact("smoke_test")

    gets_a_new_issuer(terminal)

    terminal.role("rotate_webhooks")
    done = terminal.run("rotate_webhooks", *ROTATION[-2:])
    assert (len(done["renewed"]), done["left"]) == (5, [])
    terminal.was_exact("rotate_webhooks")

    terminal.role("rotate_anchor")
    before = read_trust_bundle(Mesh(terminal.cluster, terminal.config)).anchors
    # A user refuses; running it again resumes the same rotation.
    said = terminal.answered("n", "rotate_anchor", *ROTATION, "--approvals", "bundle", **server)
    assert "waits for approval. Continue? [y/N]:" in said
    assert "expected to be approved, found that it was not" in said
    # No notice about usage data is shown.
    assert "usage data" not in said
    kept = read_record(terminal.cluster, "linkerd")
    assert kept is not None
    assert kept.is_open
    assert read_trust_bundle(Mesh(terminal.cluster, terminal.config)).anchors == before
    # Without a terminal, `--yes` approves.
    record = terminal.run("rotate_anchor", *ROTATION, "--approvals", "switch", "--yes", **server)
    assert (record["phase"], record["goal"]) == ("done", kept.goal)
    assert (
        read_trust_bundle(Mesh(terminal.cluster, terminal.config)).anchors
        == {record["goal"]}
        != before
    )
    terminal.was_exact("rotate_anchor")

    after = MeshConfig.model_validate({**terminal.fields, "version": AFTER})
    terminal.objects = both(terminal.objects, render(after, str(binaries.helm)))
    terminal.role("upgrade")
    plan = terminal.run("upgrade", "--to", AFTER, "--restarts-batch-size", "100", **server)
    assert (plan["source"], plan["target"]) == (BEFORE, AFTER)
    terminal.was_exact("upgrade")


def gets_a_new_issuer(terminal: Terminal) -> None:
    terminal.role("rotate_issuer")
    done = terminal.run("rotate_issuer", *ROTATION)
    assert done["before"]["fingerprint"] != done["after"]["fingerprint"]
    terminal.was_exact("rotate_issuer")


def test_the_flows_where_cert_manager_keeps_the_issuer(
    binaries: Binaries, shared_dir: Path, tmp_path: Path
) -> None:
    """With a ClusterIssuer, so that the anchor's key is outside the mesh's namespace."""
    fields = {
        "charts": {"mirror": str(shared_dir / "charts")},
        "issuer": "cert-manager",
        "cert_manager": {"issuer_kind": "ClusterIssuer"},
        "trust_anchor": {"custody": "in-cluster"},
        "viz": {"enabled": False},
        "traefik": {"enabled": False},
        "emojivoto": {"enabled": False},
    }
    with at_terminal(binaries, tmp_path, fields) as terminal:
        with_bootstraps_role(terminal)
        terminal.run("bootstrap")
        terminal.was_exact("bootstrap")

        gets_a_new_issuer(terminal)

        terminal.role("rotate_anchor")
        record = terminal.run("rotate_anchor", *ROTATION)
        bundle = read_trust_bundle(Mesh(terminal.cluster, terminal.config))
        assert (record["phase"], bundle.anchors) == ("done", {record["goal"]})
        terminal.was_exact("rotate_anchor")

        terminal.role("uninstall")
        more = ("--crds", "--namespaces", "--dependencies", "cert-manager")
        plan = terminal.run("uninstall", *more, "--yes")
        kept = {each["subject"]: each["reason"] for each in plan["stays"]}
        assert "it holds a trust anchor's private key" in kept.values()
        assert "Namespace/cert-manager" in kept
        terminal.was_exact("uninstall")
        # The role was deleted with the namespace, so the flow cannot check this itself.
        assert terminal.cluster.get("v1", "Namespace", "linkerd") is None


def test_the_watcher(
    terminal: Terminal, prefect_server: PrefectServer, tmp_path: Path, shared_dir: Path
) -> None:
    """Without mesh or cluster: the first look records a repository's releases, the next reports."""
    index = yaml.safe_load((shared_dir / "charts/edge/index.yaml").read_text())
    releases = index["entries"]["linkerd-control-plane"]
    index["entries"]["linkerd-control-plane"] = releases[1:]
    (tmp_path / "index.yaml").write_text(yaml.safe_dump(index))

    def watch() -> Any:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "prefect_linkerd", "new-releases", "--output", "json"),
                *("--repositories", str(tmp_path)),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            env=terminal.environment | {"PREFECT_API_URL": f"{prefect_server.url}/api"},
        )
        return json.loads(done.stdout)

    assert watch() == []
    index["entries"]["linkerd-control-plane"] = releases
    (tmp_path / "index.yaml").write_text(yaml.safe_dump(index))
    assert watch() == [releases[0]["appVersion"]]
    assert watch() == []


def test_the_files_are_up_to_date(charts_dir: Path, helm_path: str) -> None:
    for path, content in files(MeshConfig(charts={"mirror": charts_dir}), helm_path).items():
        assert path.read_text() == content, "run python -m prefect_linkerd.deployments.roles"


def test_held_rules_are_of_roles_alone(terminal: Terminal) -> None:
    """Flows hold only rules that the charts' own roles have."""
    made = [
        rule
        for objects in terminal.objects.values()
        for obj in objects
        if obj["kind"] in ("Role", "ClusterRole")
        for rule in obj.get("rules") or ()
    ]
    for flow in ("bootstrap", "upgrade", "rotate_anchor"):
        granted = grants_of(flow, terminal.config, terminal.objects)
        held = [grant.rule for grant in granted if isinstance(grant, Held)]
        assert held
        assert all(rule in made for rule in held)
