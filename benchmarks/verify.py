"""Measures the time, API calls and memory of a verification as a mesh grows.

    python -m benchmarks.verify [--pods 200 2000 5000] [--linkerd PATH]

One sandbox with a real mesh grows to each number of meshed pods (Deployments, injected by the
webhook). At each size the library alone and the flow on a Prefect server verify the mesh, each in
its own process. The table shows seconds, API calls and peak memory, and the ratios of pods, seconds
and memory to the smallest mesh; a line shows what Prefect adds.

Then it measures the command `verify` as a whole process, including Python's start-up, and, if there
is a `linkerd` binary on PATH or from `--linkerd`, compares it with `linkerd check --proxy`. The two
alternate on the same mesh and the medians of the pairs are compared, so that other work on the
machine affects both. CPU time, which depends less on other work, is compared as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.server.prefect_server import PrefectServer
from sandbox.cluster import Sandbox

SHARED = Path(os.environ.get("SHARED_DIR", Path(__file__).parents[2] / "shared"))
NAMESPACE = "load"
REPLICAS = 50
PAIRS = 3

BOOTSTRAP = """
import sys
from prefect_linkerd.flows.bootstrap import bootstrap
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
bootstrap(LinkerdMesh.model_validate_json(sys.argv[1]))
"""

# Runs in its own process, as under a worker. The imports are not measured: they cost a worker the
# same in every run.
MEASURE = """
import json, resource, sys, time
from prefect_linkerd.mesh.kubernetes.client import Cluster
calls = 0
request = Cluster.request
def counted(self, *args, **options):
    global calls
    calls += 1
    return request(self, *args, **options)
Cluster.request = counted
if sys.argv[2] == "flow":
    from prefect_linkerd.flows.verify_mesh import verify_mesh
    from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
    mesh = LinkerdMesh.model_validate_json(sys.argv[1])
    run = lambda: verify_mesh(mesh, return_state=True).result(raise_on_failure=False)
else:
    from prefect_linkerd.mesh.checks.categories import CATEGORIES
    from prefect_linkerd.mesh.kubernetes.client import Cluster
    from prefect_linkerd.mesh.config.model import MeshConfig
    from prefect_linkerd.mesh.report.report import verify
    from prefect_linkerd.mesh.snapshot.mesh import read_snapshot
    from prefect_linkerd.mesh.checks.options import DEFAULT_SCOPES
    from prefect_linkerd.mesh.mesh import Mesh
    mesh = MeshConfig.model_validate_json(sys.argv[1])
    cluster = Cluster.from_file(mesh.access.kubeconfig)
    run = lambda: verify(read_snapshot(Mesh(cluster, mesh)), CATEGORIES, DEFAULT_SCOPES)
begin = time.monotonic()
report = run()
seconds = time.monotonic() - begin
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "calls": calls, "MiB": memory,
                  "proxies": report.proxies, "verdict": report.verdict}))
"""


def grow(cluster: Cluster, pods: int, timeout: float = 900.0) -> None:
    """Grows the namespace to `pods` meshed pods and waits until all are ready."""
    for number in range(pods // REPLICAS):
        name = f"load-{number:03}"
        labels = {"app": name}
        container = {
            "name": "app",
            "image": "registry.example.com/app:1",
            "ports": [{"name": "http", "containerPort": 8080}],
        }
        cluster.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {
                    "replicas": REPLICAS,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {"containers": [container]},
                    },
                },
            }
        )
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": "http"}]},
            }
        )
    deadline = time.monotonic() + timeout
    while True:
        ready = sum(
            obj.get("status", {}).get("readyReplicas", 0)
            for obj in cluster.list("apps/v1", "Deployment", NAMESPACE)
        )
        if ready >= pods:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{ready} of {pods} pods are ready")
        time.sleep(2)


def measure(config: dict[str, Any], how: str, server: PrefectServer) -> dict[str, Any]:
    """Verifies the mesh once in a separate process."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(config), how],
        env=os.environ | server.environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def process(command: list[str]) -> dict[str, float]:
    """Returns a command's wall and CPU seconds, peak memory in MiB and exit code."""
    begin = time.monotonic()
    with tempfile.TemporaryFile() as nowhere:
        child = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return {
        "seconds": time.monotonic() - begin,
        "cpu": usage.ru_utime + usage.ru_stime,
        "MiB": usage.ru_maxrss / 1024,
        "code": child.returncode,
    }


def compare(config: dict[str, Any], folder: Path, linkerd: str | None) -> Iterator[str]:
    """Yields the medians of `PAIRS` runs of the `verify` process and of `linkerd check --proxy`."""
    mesh = folder / "mesh.json"
    mesh.write_text(json.dumps(config))
    kubeconfig = config["access"]["kubeconfig"]
    commands = {"verify": [sys.executable, "-m", "prefect_linkerd", "verify", str(mesh)]}
    if linkerd is not None:
        check = [linkerd, "check", "--proxy", "--wait", "1s", "--kubeconfig", kubeconfig]
        commands["linkerd check"] = check
    pairs = [{name: process(each) for name, each in commands.items()} for _ in range(PAIRS)]
    for name in commands:
        seconds, cpu, memory = (
            [pair[name][key] for pair in pairs] for key in ("seconds", "cpu", "MiB")
        )
        yield (
            f"{name}: {min(seconds):.2f} s at best, median {median(seconds):.2f} s, "
            f"{median(cpu):.2f} s CPU, {max(memory):.0f} MiB, exit code {pairs[-1][name]['code']}"
        )
    if linkerd is not None:
        wall, cpu = (
            median(pair["verify"][key] / pair["linkerd check"][key] for pair in pairs)
            for key in ("seconds", "cpu")
        )
        memory = max(pair["verify"]["MiB"] for pair in pairs)
        yield (
            f"median ratio of wall time {wall:.2f} (bar: 0.4), of CPU time {cpu:.2f}; "
            f"memory {memory:.0f} MiB (bar: 200)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pods", type=int, nargs="+", default=[200, 2000, 5000])
    parser.add_argument("--linkerd", default=shutil.which("linkerd"), help="a linkerd binary")
    arguments = parser.parse_args()
    sizes: list[int] = sorted(arguments.pods)
    console = Console()
    table = Table("pods", "by", "seconds", "API calls", "peak MiB", "pods x", "seconds x", "MiB x")
    with (
        tempfile.TemporaryDirectory() as folder,
        PrefectServer(Path(folder)) as server,
        Sandbox("bench-verify", nodes=20) as sandbox,
    ):
        os.environ["PATH"] = f"{sandbox.binaries.helm.parent}:{os.environ['PATH']}"
        config = {
            "name": "bench",
            "access": {"kubeconfig": str(sandbox.kubeconfig)},
            "charts": {"mirror": str(SHARED / "charts")},
            "profile": "demo",
            "emojivoto": {"manifest": str(SHARED / "manifests/emojivoto.yml")},
        }
        subprocess.run(
            [sys.executable, "-c", BOOTSTRAP, json.dumps(config)],
            env=os.environ | server.environment,
            check=True,
            capture_output=True,
        )
        cluster = sandbox.cluster()
        annotations = {"linkerd.io/inject": "enabled"}
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": NAMESPACE, "annotations": annotations},
            }
        )
        first: dict[str, dict[str, Any]] = {}
        for size in sizes:
            begin = time.monotonic()
            grow(cluster, size)
            console.print(f"grown to {size} pods in {time.monotonic() - begin:.0f} s")
            found = {how: measure(config, how, server) for how in ("library", "flow")}
            for how, one in found.items():
                base = first.setdefault(how, one)
                table.add_row(
                    str(one["proxies"]),
                    how,
                    f"{one['seconds']:.2f}",
                    str(one["calls"]),
                    f"{one['MiB']:.0f}",
                    f"{one['proxies'] / base['proxies']:.1f}",
                    f"{one['seconds'] / base['seconds']:.1f}",
                    f"{one['MiB'] / base['MiB']:.1f}",
                )
            added = found["flow"]["seconds"] - found["library"]["seconds"]
            console.print(f"{found['library']['verdict']}; Prefect adds {added:.2f} s (bar: 2 s)")
            for line in compare(config, Path(folder), arguments.linkerd):
                console.print(line)
    console.print(table)


if __name__ == "__main__":
    main()
