"""The sandbox itself: it is real, several run at once, and it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.rollout import await_rollouts
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from sandbox.errors import SandboxError
from tests.support import meshes
from tests.support.cluster_state import settled_versions
from tests.support.pages import of
from tests.support.processes import processes_with
from tests.support.ready_meshes import ReadyMesh
from tests.support.repository import ROOT
from tests.support.waiting import eventually
from tests.support.workloads import deployment, job


def quiet(_ready: int, _wanted: int, _text: str) -> None:
    pass


def test_workloads_run_and_jobs_complete(cluster: Cluster, namespace: str) -> None:
    cluster.create(deployment("web", namespace, replicas=2))
    cluster.create(job("once", namespace))
    await_rollouts(
        cluster,
        [Workload("Deployment", namespace, "web"), Workload("Job", namespace, "once")],
        30,
        quiet,
    )
    pods = list(cluster.list("v1", "Pod", namespace, labels="app=web"))
    assert len(pods) == 2
    assert all(pod["status"]["podIP"] for pod in pods)


def test_a_pod_can_be_kept_from_getting_ready(cluster: Cluster, namespace: str) -> None:
    annotations = {"sandbox.prefect-linkerd/ready": "false"}
    cluster.create(deployment("bad", namespace, annotations=annotations))
    assert eventually(
        lambda: any(
            pod["status"].get("phase") == "Running"
            for pod in cluster.list("v1", "Pod", namespace, labels="app=bad")
        )
    )
    found = cluster.get("apps/v1", "Deployment", "bad", namespace)
    assert found is not None
    assert found["status"].get("readyReplicas", 0) == 0


def test_the_api_server_never_dials_a_service(cluster: Cluster, namespace: str) -> None:
    """A webhook whose Service points at a live local port is not reached, but refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.5)
        port = listener.getsockname()[1]
        cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "hook", "namespace": namespace},
                "spec": {"ports": [{"port": port}]},
            }
        )
        cluster.create(
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingWebhookConfiguration",
                "metadata": {"name": namespace},
                "webhooks": [
                    {
                        "name": "hook.example.com",
                        "namespaceSelector": {
                            "matchLabels": {"kubernetes.io/metadata.name": namespace}
                        },
                        "clientConfig": {
                            "service": {"name": "hook", "namespace": namespace, "port": port}
                        },
                        "failurePolicy": "Fail",
                        "sideEffects": "None",
                        "admissionReviewVersions": ["v1"],
                        "rules": [
                            {
                                "operations": ["CREATE"],
                                "apiGroups": [""],
                                "apiVersions": ["v1"],
                                "resources": ["configmaps"],
                            }
                        ],
                    }
                ],
            }
        )
        said: list[str] = []

        def is_refused() -> bool:
            name = f"x-{time.monotonic_ns()}"
            metadata = {"name": name, "namespace": namespace}
            try:
                cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
            except ApiError as error:
                said.append(error.found)
            return "failed calling webhook" in "".join(said)

        try:
            assert eventually(is_refused)
            assert "nothing stands in for Service" in said[-1] or "502" in said[-1]
            with pytest.raises(TimeoutError):
                listener.accept()
        finally:
            cluster.delete(
                "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", namespace
            )


def test_every_port_is_on_loopback(sandbox: Sandbox) -> None:
    pids = {str(pid) for pid in sandbox._pids.values()}
    inodes = {
        target
        for pid in pids
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if (target := str(link.readlink())).startswith("socket:")
    }
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            is_listening, inode = fields[3] == "0A", f"socket:[{fields[9]}]"
            if is_listening and inode in inodes:
                assert fields[1].startswith("0100007F:"), line


def test_two_at_once_and_nothing_is_left(sandbox: Sandbox, binaries: Binaries) -> None:
    with Sandbox("second", binaries=binaries) as second:
        data = str(second.data)
        assert second.server != sandbox.server
        assert len(list(second.cluster().list("v1", "Node"))) == 4
        assert len(processes_with(data)) >= 6
    assert processes_with(data) == []
    assert not Path(data).exists()
    assert sandbox.is_running


SCRIPT = """
import time
from sandbox.cluster import Sandbox
sandbox = Sandbox("child")
sandbox._prepare()
print(sandbox.data, flush=True)
sandbox._prepare = lambda: None
sandbox.stop = (lambda stop: lambda: None if not sandbox._pids else stop())(sandbox.stop)
with sandbox:
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "wait_for"),
    [(signal.SIGINT, ""), (signal.SIGINT, "up"), (signal.SIGKILL, "up")],
    ids=["SIGINT while it starts", "SIGINT", "SIGKILL"],
)
def test_no_process_outlives_its_parent(number: int, wait_for: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        data = child.stdout.readline().strip()
        if wait_for:
            assert child.stdout.readline().strip() == wait_for
        else:
            assert eventually(lambda: len(processes_with(data)) >= 2)
        child.send_signal(number)
        child.wait(timeout=120)
    assert eventually(lambda: processes_with(data) == [])


def test_a_lost_api_server_comes_back_with_its_data(
    fresh_sandbox: Callable[..., Sandbox],
) -> None:
    sandbox = fresh_sandbox()
    cluster = sandbox.cluster()
    metadata = {"name": "kept", "namespace": "default"}
    cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    sandbox.stop_apiserver()
    with pytest.raises(ApiError) as lost:
        sandbox.cluster(patience=0).get("v1", "ConfigMap", "kept", "default")
    assert lost.value.transient
    sandbox.start_apiserver()
    # The client retries until the API server is back.
    assert cluster.get("v1", "ConfigMap", "kept", "default") is not None


def test_a_restored_sandbox_is_the_one_that_was_saved(
    ready_mesh: ReadyMesh, binaries: Binaries, tmp_path: Path
) -> None:
    """Two run at once from one save: they have the same objects, and everything keeps working."""
    saved = tmp_path / "saved"
    first, _ = ready_mesh("edge-26.8.3", "cert-manager")
    # It may be newly made, with pods that still terminate.
    settled_versions(first.cluster())
    before = uids(first.cluster())
    first.save(saved)
    # It has kept running, and later changes to it do not affect the save.
    first.cluster().create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "later"}})
    assert first.is_running
    first.stop()

    with (
        Sandbox("one", saved=saved, binaries=binaries) as one,
        Sandbox("other", saved=saved, binaries=binaries) as other,
    ):
        for restored in (one, other):
            now = uids(restored.cluster())
            assert before.items() <= now.items()
            assert "Namespace /later" not in now
        one.cluster().delete("v1", "Namespace", "linkerd")

        cluster = other.cluster()
        # cert-manager's controllers issue again, Linkerd's injector is called with the chart's own
        # certificate, and the controllers and the scheduler create and place a pod.
        cluster.delete("v1", "Secret", "linkerd-identity-issuer", "linkerd")
        meshes.add_workloads(cluster, 1)
        assert eventually(
            lambda: cluster.get("v1", "Secret", "linkerd-identity-issuer", "linkerd"), every=0.1
        )
        assert eventually(
            lambda: any(p.namespace == "apps" and p.chain for p in other.proxies()), every=0.1
        )
        # No two pods share an address, whether they were saved or are new.
        meshes.add_workloads(cluster, 20)
        addresses = [pod["status"]["podIP"] for pod in cluster.list("v1", "Pod")]
        assert len(addresses) == len(set(addresses))


def uids(cluster: Cluster) -> dict[str, str]:
    """The lasting objects, with their UIDs."""
    kinds = (
        ("v1", "Namespace"),
        ("v1", "Secret"),
        ("v1", "ConfigMap"),
        ("v1", "Service"),
        ("v1", "ServiceAccount"),
        ("v1", "Pod"),
        ("v1", "Node"),
        ("apps/v1", "Deployment"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
        ("cert-manager.io/v1", "Certificate"),
    )
    return {
        f"{kind} {obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}": obj["metadata"][
            "uid"
        ]
        for api_version, kind in kinds
        for obj in cluster.list(api_version, kind, metadata_only=True)
    }


def test_what_cannot_be_saved_or_restored_is_named(
    sandbox: Sandbox, binaries: Binaries, tmp_path: Path
) -> None:
    with pytest.raises(SandboxError, match="exists already"):
        sandbox.save(tmp_path)
    with pytest.raises(SandboxError, match="is not running"):
        Sandbox("none", binaries=binaries).save(tmp_path / "new")
    with pytest.raises(SandboxError, match="holds no saved sandbox"):
        Sandbox("none", saved=tmp_path, binaries=binaries).start()
    (tmp_path / "saved.json").write_text('{"kubernetes": "1.2.3", "nodes": 1}')
    with pytest.raises(SandboxError, match=r"saved with Kubernetes 1\.2\.3"):
        Sandbox("none", saved=tmp_path, binaries=binaries).start()
    assert sandbox.is_running


def test_up_and_down(tmp_path: Path, binaries: Binaries) -> None:
    environment = os.environ | {
        "XDG_STATE_HOME": str(tmp_path),
        "KUBEBUILDER_ASSETS": str(binaries.etcd.parent),
        "PYTHONPATH": str(ROOT),
    }
    ran: set[str] = set()

    def sandbox(command: str) -> subprocess.CompletedProcess[str]:
        ran.add(command)
        return subprocess.run(
            [sys.executable, "-m", "sandbox", *command.split()],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=120,
            check=False,
        )

    up = sandbox("up --name one")
    try:
        assert up.returncode == 0, up.stderr
        kubeconfig = Path(up.stdout.strip())
        assert len(list(Cluster.from_file(kubeconfig).list("v1", "Node"))) == 4
        status = sandbox("status")
        assert re.search(r"one +│ running", status.stdout), status.stdout
        saved = sandbox("save --name one --to ./before-the-upgrade")
        assert saved.returncode == 0, saved.stderr
        again = sandbox("up --name two --from ./before-the-upgrade")
        assert again.returncode == 0, again.stderr
        nodes = [
            {node["metadata"]["uid"] for node in Cluster.from_file(path).list("v1", "Node")}
            for path in (kubeconfig, Path(again.stdout.strip()))
        ]
        assert nodes[0] == nodes[1]
    finally:
        sandbox("down --name two")
        down = sandbox("down --name one")
    assert down.returncode == 0, down.stderr
    assert processes_with(str(tmp_path)) == []
    assert sandbox("status --output json").stdout.strip() == "[]"
    # Those of the page; `team` and a third `up` run elsewhere.
    page = {" ".join(c.words[3:]) for c in of("python") if c.page == "docs/sandbox.md"}
    assert page <= ran
