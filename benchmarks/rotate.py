"""A whole rotation against restarting everything by `kubectl rollout restart`, three times over.

    python -m benchmarks.rotate [--workloads 300 3000] [--batch 50]

A rotation needs every workload restarted three times: to trust the new anchor, to get a certificate
of it, and to forget the old one. By hand that is three times `kubectl rollout restart` of all
Deployments at once and a wait until all are ready, with nothing proven in between; the Helm
upgrades and the new issuer that go with it are left out. For each size both run on the same mesh,
one after the other, and the ratios of their wall time and of their API requests are printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from mesh.cluster import Cluster
from mesh.restarts import RestartPolicy, read_data_plane
from sandbox.cluster import Sandbox
from tests.rotation.meshes import FAST, add_workloads, configuration, install, rotate

SHARED = Path(os.environ.get("SHARED_DIR", Path(__file__).parents[2] / "shared"))
ROUNDS = 3


def by_kubectl(sandbox: Sandbox) -> tuple[float, int]:
    """Seconds, and requests as kubectl itself logs them."""
    cluster, requests = sandbox.cluster(), 0
    kubectl = [str(sandbox.binaries.kubectl), f"--kubeconfig={sandbox.kubeconfig}", "-v=6"]
    begin = time.monotonic()
    for number in range(ROUNDS):
        if number:
            # The annotation has a resolution of a second.
            time.sleep(1)
        for namespace in ("linkerd", "apps"):
            done = subprocess.run(
                [*kubectl, "-n", namespace, "rollout", "restart", "deployment"],
                check=True,
                capture_output=True,
                text=True,
            )
            requests += sum(" GET " in f" {x}" or "PATCH" in x for x in done.stderr.splitlines())
        while True:
            requests += 1
            plane = read_data_plane(cluster, "linkerd")
            if all(target.is_complete for target in plane.targets.values()):
                break
            time.sleep(1)
    return time.monotonic() - begin, requests


class Counted:
    """Counts the requests of every cluster access of this process while it is open."""

    def __enter__(self) -> Counted:
        self.requests = 0
        self._request, lock = Cluster.request, threading.Lock()
        counted, request = self, self._request

        def count(cluster: Cluster, method: str, path: str, **options: Any) -> Any:
            with lock:
                counted.requests += 1
            return request(cluster, method, path, **options)

        Cluster.request = count  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Cluster.request = self._request  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", type=int, nargs="+", default=[300, 3000])
    parser.add_argument("--batch", type=int, default=50, help="workloads restarted at once")
    arguments = parser.parse_args()
    policy = RestartPolicy(batch_size=arguments.batch)
    options = FAST.model_copy(update={"restarts": policy, "lease_seconds": 60.0})
    for workloads in arguments.workloads:
        with tempfile.TemporaryDirectory() as folder, Sandbox(f"rotate-{workloads}") as sandbox:
            cluster, helm = sandbox.cluster(), str(sandbox.binaries.helm)
            config = configuration(
                "edge-26.8.3", SHARED, Path(folder), timeout_seconds=1800, name="benchmark"
            )
            install(cluster, config, helm)
            add_workloads(cluster, workloads)
            naive, asked = by_kubectl(sandbox)
            with Counted() as counted:
                begin = time.monotonic()
                rotate(cluster, config, helm, options=options)
                flow = time.monotonic() - begin
        print(
            f"{workloads} workloads: kubectl {naive:.0f} s, {asked} requests; "
            f"rotation {flow:.0f} s, {counted.requests} requests; "
            f"ratio of time {flow / naive:.2f}, of requests {counted.requests / asked:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
