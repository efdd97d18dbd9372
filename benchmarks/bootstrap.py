"""Compares the time of `bootstrap` with that of a shell script running the same Helm commands.

    python -m benchmarks.bootstrap [--rounds 3]

Each round runs both, one after the other, each on a fresh sandbox, and prints the ratio of the
flow's wall time to the script's. The flow also checks the cluster, creates and verifies
certificates, sets up the ingress and reads everything back; the script does none of that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prefect_linkerd.server.prefect_server import PrefectServer
from sandbox.cluster import Sandbox

SHARED = Path(os.environ.get("SHARED_DIR", Path(__file__).parents[2] / "shared"))
CHARTS = SHARED / "charts"
MANIFEST = SHARED / "manifests/emojivoto.yml"


FLOW = """
import sys, time
from prefect_linkerd.flows.bootstrap import bootstrap
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
mesh = LinkerdMesh.model_validate_json(sys.argv[1])
begin = time.monotonic()
bootstrap(mesh)
print(time.monotonic() - begin)
"""


def by_flow(sandbox: Sandbox, server: PrefectServer) -> float:
    """Returns the flow's seconds, without importing Prefect: a worker has already done that."""
    config = {
        "access": {"kubeconfig": str(sandbox.kubeconfig)},
        "charts": {"mirror": str(CHARTS)},
        "profile": "demo",
        "emojivoto": {"manifest": str(MANIFEST)},
        # Each round has a new cluster, hence a new trust anchor.
        "trust_anchor": {"secret_block": sandbox.name},
    }
    done = subprocess.run(
        [sys.executable, "-c", FLOW, json.dumps(config)],
        env=os.environ | server.environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return float(done.stdout.splitlines()[-1])


def by_plain_helm(sandbox: Sandbox) -> float:
    environment = os.environ | {
        "KUBECONFIG": str(sandbox.kubeconfig),
        "CHARTS": str(CHARTS),
        "MANIFEST": str(MANIFEST),
    }
    begin = time.monotonic()
    subprocess.run([Path(__file__).with_name("helm_by_hand.sh")], env=environment, check=True)
    return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often to run both")
    rounds: int = parser.parse_args().rounds
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder, PrefectServer(Path(folder)) as server:
        for number in range(rounds):
            with Sandbox(name=f"bench-hand-{number}") as sandbox:
                os.environ["PATH"] = f"{sandbox.binaries.helm.parent}:{os.environ['PATH']}"
                hand = by_plain_helm(sandbox)
            with Sandbox(name=f"bench-flow-{number}") as sandbox:
                flow = by_flow(sandbox, server)
            ratios.append(flow / hand)
            print(
                f"script {hand:6.1f} s   flow {flow:6.1f} s   ratio {flow / hand:.2f}", flush=True
            )
    print(f"median ratio {statistics.median(ratios):.2f} over {rounds} rounds (bar: 1.0)")


if __name__ == "__main__":
    main()
