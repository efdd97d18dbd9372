"""Compares a whole rotation with running `kubectl rollout restart` on everything three times.

    python -m benchmarks.rotate [--workloads 300 3000] [--batch 50] [--paces quick gentle]
        [--rounds 1] [--leaf-minutes 0.25] [--kinds 99]

A quick rotation restarts every workload three times: to trust the new anchor, to get a certificate
issued under it, and to drop the old one. A gentle rotation restarts it once and waits until proxies
renew. Done manually, that is three times `kubectl rollout restart` of all Deployments at once and a
wait until all are ready, with nothing verified in between; the Helm upgrades and the new issuer
that this also takes are left out. For each size both run on the same mesh, one after the other,
with a hundred workloads per namespace. The table shows the ratios of their wall time and API
requests, and the most frequent requests. Requests are counted from the API server's audit log and
include Helm's. In the gentle rotation certificates live for 15 seconds, as in Linkerd's own tests:
with the clock skew that identity allows, its wait is 25 seconds instead of 15 minutes. The probe
sends requests throughout and reads proxies' metrics; its pods are processes of this machine.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.rollout import read_workloads, rollout_status
from prefect_linkerd.mesh.restarts import RestartPolicy
from prefect_linkerd.mesh.rotation.options import RotationOptions
from sandbox.cluster import Sandbox
from tests.support.identities import bound_account
from tests.support.loopback import probe_on_simulated_nodes
from tests.support.meshes import add_workloads, configuration, install
from tests.support.rotations import FAST, rotate

SHARED = Path(os.environ.get("SHARED_DIR", Path(__file__).parents[2] / "shared"))
ROUNDS = 3
PER_NAMESPACE = 100
LEAF_MINUTES = 0.25
"""The minimum of `leaf_minutes`."""


@dataclass
class Cost:
    """The cost of restarting everything; `asked` counts requests by verb and resource."""

    seconds: float = 0.0
    asked: Counter[str] = field(default_factory=Counter[str])

    def times(self, factor: float) -> Cost:
        asked = Counter({what: round(count * factor) for what, count in self.asked.items()})
        return Cost(self.seconds * factor, asked)

    @property
    def requests(self) -> int:
        return self.asked.total()

    def most(self, kinds: int) -> str:
        return ", ".join(f"{count} {what}" for what, count in self.asked.most_common(kinds))


@contextmanager
def measured(sandbox: Sandbox) -> Iterator[Cost]:
    """Measures the block's seconds, and its requests from the API server's audit log."""
    cost = Cost()
    before, begin = len(sandbox.audit_log()), time.monotonic()
    yield cost
    cost.seconds = time.monotonic() - begin
    for event in sandbox.audit_log()[before:]:
        ref = event.get("objectRef") or {}
        names = (ref.get("resource", event["requestURI"].partition("?")[0]), ref.get("subresource"))
        cost.asked[f"{event['verb']} {'/'.join(filter(None, names))}"] += 1


def by_kubectl(cluster: Cluster, kubectl: list[str], namespaces: list[str], rounds: int) -> None:
    for number in range(rounds):
        if number:
            # The restart annotation has a resolution of one second.
            time.sleep(1)
        for namespace in namespaces:
            subprocess.run(
                [*kubectl, "-n", namespace, "rollout", "restart", "deployment"],
                check=True,
                capture_output=True,
            )
        while not all(
            rollout_status(obj).is_complete
            for namespace in namespaces
            for obj in read_workloads(cluster, namespace, ("Deployment",))
        ):
            time.sleep(1)


def audited_account(admin: Cluster) -> Cluster:
    """Returns the cluster as seen by an administrator whose requests are audited."""
    admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prefect"}})
    account = bound_account(admin, "prefect", "benchmark", "cluster-admin")
    while not account.allowed("*", "*"):
        time.sleep(0.1)
    return account


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", type=int, nargs="+", default=[300, 3000])
    parser.add_argument("--batch", type=int, default=50, help="workloads restarted at once")
    parser.add_argument("--paces", nargs="+", choices=("quick", "gentle"), default=["gentle"])
    text = f"rounds of kubectl to measure; their cost is scaled to {ROUNDS} rounds"
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=text)
    text = "lifetime of certificates in a gentle rotation, which waits until all have renewed"
    parser.add_argument("--leaf-minutes", type=float, default=LEAF_MINUTES, help=text)
    parser.add_argument("--kinds", type=int, default=5, help="kinds of requests to show")
    arguments = parser.parse_args()
    options = RotationOptions(
        restarts=RestartPolicy(batch_size=arguments.batch),
        load_seconds=FAST.load_seconds,
        lease_seconds=60,
        leaf_minutes=arguments.leaf_minutes,
    )
    console = Console(width=160)
    table = Table("workloads", "by", "seconds", "ratio", "requests", "ratio", "most of them")
    for workloads in arguments.workloads:
        with (
            tempfile.TemporaryDirectory() as folder,
            Sandbox(f"rotate-{workloads}", audited=True) as sandbox,
        ):
            cluster, helm = audited_account(sandbox.cluster()), str(sandbox.binaries.helm)
            kubeconfig = Path(folder) / "kubeconfig"
            kubeconfig.write_text(yaml.safe_dump(cluster._as_kubeconfig()))
            kubectl = [str(sandbox.binaries.kubectl), f"--kubeconfig={kubeconfig}"]
            config = configuration(
                "edge-26.8.3", SHARED, Path(folder), timeout_seconds=1800, name="benchmark"
            )
            install(cluster, config, helm)
            applications = [f"apps-{n:03}" for n in range(math.ceil(workloads / PER_NAMESPACE))]
            for number, namespace in enumerate(applications):
                left = workloads - number * PER_NAMESPACE
                add_workloads(cluster, min(left, PER_NAMESPACE), namespace)
            with measured(sandbox) as naive:
                by_kubectl(cluster, kubectl, ["linkerd", *applications], arguments.rounds)
            naive = naive.times(ROUNDS / arguments.rounds)
            row = cells(naive, naive, arguments.kinds)
            table.add_row(str(workloads), "kubectl", *row)
            console.print(table)
            for pace in arguments.paces:
                own = options.model_copy(update={"pace": pace})
                with (
                    measured(sandbox) as flow,
                    probe_on_simulated_nodes(sandbox, cluster, config, Path(folder) / pace) as (
                        client,
                        probe,
                    ),
                ):
                    rotate(client, config, helm, options=own, probe=probe)
                count = probe.outcome.all
                if count.failed or not count.sent:
                    raise SystemExit(f"The probe: {probe.outcome.sentence}")
                table.add_row(str(workloads), pace, *cells(flow, naive, arguments.kinds))
                console.print(table)


def cells(cost: Cost, naive: Cost, kinds: int) -> tuple[str, ...]:
    return (
        f"{cost.seconds:.0f}",
        f"{cost.seconds / naive.seconds:.2f}",
        str(cost.requests),
        f"{cost.requests / naive.requests:.2f}",
        cost.most(kinds),
    )


if __name__ == "__main__":
    main()
