"""Measures how long verifying a fleet takes with more and more workers.

    python -m benchmarks.fleet [--meshes 50] [--sandboxes 5] [--workers 1 2 4]

A few sandboxes, each with a real mesh, stand for many: several Linkerd Mesh blocks point to each.
For each number of workers, each running one process at a time, the `fleet` flow verifies every mesh
in a run of its own. The table shows the time of the whole fleet, the time per mesh, and the median
time of a mesh's run without Prefect's start of its process. The last row is one run of
`verify_meshes`, which verifies every mesh in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.verify import BOOTSTRAP, SHARED
from prefect_linkerd.server.prefect_server import PrefectServer
from prefect_linkerd.tasks.names import deployment_name
from sandbox.cluster import Sandbox

PREFECT = (sys.executable, "-m", "prefect")
SAVE = """
import json, sys
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
for config in json.loads(sys.argv[1]):
    LinkerdMesh.model_validate(config).save(config["name"], overwrite=True)
"""
VERIFY_MESHES = "import sys; from flows.verify_meshes import verify_meshes as f; f(sys.argv[1:])"


def ask(server: PrefectServer, path: str, **body: Any) -> Any:
    answer = httpx.post(f"{server.url}/api/{path}", json=body, timeout=120)
    return answer.raise_for_status().json()


def command(server: PrefectServer, *arguments: str) -> None:
    subprocess.run(arguments, env=os.environ | server.environment, check=True, capture_output=True)


def verify_fleet(server: PrefectServer, workers: int, names: list[str]) -> dict[str, float]:
    """Runs the fleet with `workers` workers; returns its seconds and the median of its runs'."""
    start = (*PREFECT, "worker", "start", "--pool", "linkerd", "--limit", "1", "--name")
    processes = [
        subprocess.Popen(
            [*start, f"worker-{number}"],
            env=os.environ | server.environment | {"PREFECT_WORKER_QUERY_SECONDS": "2"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number in range(workers)
    ]
    try:
        while sum(w["status"] == "ONLINE" for w in _workers(server)) < workers:
            time.sleep(0.5)
        # Not as a run of its deployment, which would occupy a worker.
        fleet = ("-m", "prefect_linkerd", "fleet", *names, "--at-once", str(workers))
        command(server, sys.executable, *fleet, "--output", "json")
    finally:
        # All runs have finished, so SIGKILL is safe. On SIGTERM a worker sends itself SIGINT, which
        # processes that a shell started in the background ignore.
        for process in processes:
            process.kill()
            process.wait()
        for worker in _workers(server):
            httpx.delete(f"{server.url}/api/work_pools/linkerd/workers/{worker['name']}")
    return _found(server, "fleet", len(names))


def verify_in_one_process(server: PrefectServer, names: list[str]) -> dict[str, float]:
    """Runs `verify_meshes` once; returns the same numbers as `verify_fleet`."""
    command(server, sys.executable, "-c", VERIFY_MESHES, *names)
    return _found(server, "verify_meshes", len(names))


def _found(server: PrefectServer, flow: str, meshes: int) -> dict[str, float]:
    """Returns the seconds of a flow's last run and the median of its meshes' runs."""
    [done] = ask(
        server,
        "flow_runs/filter",
        flows={"name": {"any_": [deployment_name(flow)]}},
        sort="START_TIME_DESC",
        limit=1,
    )
    if done["state"]["type"] != "COMPLETED":
        raise RuntimeError(done["state"]["message"])
    runs: list[dict[str, Any]] = []
    while len(runs) < meshes:
        runs += ask(
            server,
            "flow_runs/filter",
            flow_runs={"parent_flow_run_id": {"any_": [done["id"]]}},
            offset=len(runs),
        )
    return {
        "seconds": done["total_run_time"],
        "run": median(one["total_run_time"] for one in runs),
    }


def _workers(server: PrefectServer) -> list[dict[str, Any]]:
    return ask(server, "work_pools/linkerd/workers/filter")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--meshes", type=int, default=50)
    parser.add_argument("--sandboxes", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    options = parser.parse_args()
    console = Console()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(PrefectServer(folder))
        sandboxes = [
            stack.enter_context(Sandbox(f"fleet-{number}", nodes=2))
            for number in range(options.sandboxes)
        ]
        os.environ["PATH"] = f"{sandboxes[0].binaries.helm.parent}:{os.environ['PATH']}"
        configs = [
            {
                "name": f"mesh-{number:02}",
                "access": {"kubeconfig": str(sandboxes[number % len(sandboxes)].kubeconfig)},
                "charts": {"mirror": str(SHARED / "charts")},
                "viz": {"enabled": False},
                "traefik": {"enabled": False},
                "emojivoto": {"enabled": False},
            }
            for number in range(options.meshes)
        ]
        begin = time.monotonic()
        for config in configs[: len(sandboxes)]:
            command(server, sys.executable, "-c", BOOTSTRAP, json.dumps(config))
        console.print(f"{len(sandboxes)} meshes installed in {time.monotonic() - begin:.0f} s")
        command(
            server, *PREFECT, "--no-prompt", "deploy", "--name", "verify_mesh", "--name", "fleet"
        )
        [verify] = ask(
            server,
            "deployments/filter",
            deployments={"name": {"any_": [deployment_name("verify_mesh")]}},
        )
        for schedule in verify["schedules"]:
            path = f"deployments/{verify['id']}/schedules/{schedule['id']}"
            httpx.patch(f"{server.url}/api/{path}", json={"active": False}).raise_for_status()
        command(server, sys.executable, "-c", SAVE, json.dumps(configs))

        table = Table("workers", "meshes", "whole fleet, s", "for each mesh, s", "its run, s")
        names = [config["name"] for config in configs]
        for workers in (*options.workers, None):
            found = (
                verify_in_one_process(server, names)
                if workers is None
                else verify_fleet(server, workers, names)
            )
            table.add_row(
                "one process" if workers is None else str(workers),
                str(options.meshes),
                f"{found['seconds']:.0f}",
                f"{found['seconds'] / options.meshes:.1f}",
                f"{found['run']:.1f}",
            )
            console.print(table)


if __name__ == "__main__":
    main()
