"""Whether a mesh does, with real requests, what it is installed for."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture

from mesh.smoke.options import Promise, SmokeOptions
from mesh.smoke.report import SmokeReport, require_smoke
from tasks.linkerd_mesh import LinkerdMesh
from tasks.smoke import leftovers, promise, result_of, show_report
from tasks.step import submit


@flow(
    name="smoke_test",
    flow_run_name="smoke_test {mesh.name}",
    persist_result=False,
    validate_parameters=True,
)
def smoke_test(mesh: LinkerdMesh, options: SmokeOptions | None = None) -> SmokeReport:
    """Tests the mesh's promises side by side: load balancing, splits, canaries, faults, ingress.

    Whatever a test makes is gone when it ends. A test that is killed leaves its own objects, which
    the next run removes first, or, without one, Kubernetes itself two minutes later.

    Args:
        mesh: Which mesh is tested.
        options: Which promises, with how much traffic, and what is good enough.

    Raises:
        SmokeTestFailed: the promises that are not kept, and why.
    """
    chosen = options or SmokeOptions()
    leftovers(mesh, chosen)
    tests: dict[Promise, PrefectFuture[Any]] = {
        name: submit(promise, mesh, chosen, name) for name in chosen.promises
    }
    results = tuple(result_of(name, test) for name, test in tests.items())
    report = SmokeReport(mesh.name, str(mesh.linkerd), results)
    show_report(report)
    return require_smoke(report)
