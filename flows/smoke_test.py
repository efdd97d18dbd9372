"""Tests with real requests whether a mesh does its job."""

from __future__ import annotations

from typing import Any

from prefect_linkerd.mesh.planning.dry_run import DryRun
from prefect_linkerd.mesh.smoke.options import SmokeOptions, SmokeTest
from prefect_linkerd.mesh.smoke.report import SmokeReport, require_smoke
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect
from prefect_linkerd.tasks.outside import Ending, Future, completed
from prefect_linkerd.tasks.smoke import leftovers, result_of, run_test, show_report, smoke_outlook
from prefect_linkerd.tasks.step import submit

DEFAULTS = SmokeOptions()


@flow(
    run_name="smoke_test {mesh.name}",
    changes=True,
    page="smoke-tests.md",
    command="smoke-test",
    grants="smoke_test",
    fleet=True,
)
def smoke_test(
    mesh: LinkerdMesh, options: SmokeOptions = DEFAULTS, dry_run: bool = False
) -> SmokeReport | DryRun | Ending:
    """Test load balancing, splits, canaries, faults and ingress with real requests.

    Each test deletes what it created. If one is killed, the next run removes its objects first;
    without a next run, Kubernetes does so two minutes later. On simulated nodes, objects are
    applied and deleted, traffic is skipped, and the run finishes in state Skipped.

    Args:
        mesh: Which mesh is tested.
        options: Which tests to run, with how much traffic, and what counts as passed.
        dry_run: Only show what would be tested.

    Raises:
        SmokeTestFailed: the tests that failed, and why.

    Example:
        >>> smoke_test(LinkerdMesh.load("production"), options=SmokeOptions(requests=2000))
    """
    live = connect(mesh)
    if dry_run:
        return smoke_outlook(live, options)
    leftovers(live, options)
    tests: dict[SmokeTest, Future[Any]] = {
        name: submit(run_test, live, options, name) for name in options.tests
    }
    results = tuple(result_of(name, test) for name, test in tests.items())
    report = SmokeReport(mesh.name, str(mesh.linkerd), results)
    show_report(report)
    # A test that lost the API server was retried, and could not clean up its first attempt.
    leftovers(live, options)
    require_smoke(report)
    if skipped := report.skipped:
        return completed(report, name="Skipped", message=f"not tested: {skipped}")
    return report
