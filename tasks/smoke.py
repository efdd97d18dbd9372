"""The steps that run a mesh's smoke tests."""

from __future__ import annotations

from typing import Any

from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.load.fuse import clear_leftovers
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.dry_run import DryRun
from prefect_linkerd.mesh.smoke.options import SmokeOptions, SmokeTest
from prefect_linkerd.mesh.smoke.report import (
    SmokeReport,
    SmokeResult,
    Step,
    smoke_markdown,
    smoke_test_markdown,
)
from prefect_linkerd.mesh.smoke.run import SMOKE
from prefect_linkerd.mesh.smoke.smoke_tests import run_smoke_test
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import (
    Ending,
    Future,
    completed,
    create_markdown_artifact,
    failed,
    get_run_logger,
)
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.step import step


def smoke_outlook(mesh: Mesh, options: SmokeOptions) -> DryRun:
    """What `smoke_test` would do."""
    place = options.namespace or mesh.config.namespaces.emojivoto
    return DryRun(
        f"Smoke tests of mesh {mesh.name}",
        (
            *(f"test {name}" for name in options.tests),
            f"objects of its own in namespace {place}, with image {options.image}; all are deleted "
            "at the end",
            f"{options.requests} requests in each measurement",
        ),
    )


@step("leftovers", description="Removes what a killed smoke test left behind.")
def leftovers(mesh: Mesh, options: SmokeOptions) -> list[str]:
    """The ids of the dead runs whose objects were removed; live runs are left alone."""
    namespace = options.namespace or mesh.config.namespaces.emojivoto
    removed = clear_leftovers(mesh.cluster, SMOKE, namespace)
    if removed:
        get_run_logger().warning(
            "Removed what killed smoke tests left behind: %s", ", ".join(removed)
        )
    return removed


@step("smoke test", run_name="{test}", description="Runs one smoke test, and deletes what it made.")
def run_test(mesh: Mesh, options: SmokeOptions, test: SmokeTest) -> Ending:
    """The outcome as a state, with a `SmokeResult` as its data; also as an artifact."""
    log = get_run_logger()

    def show(step: Step) -> None:
        log.info("%s: %s", step.name, ", ".join(filter(None, (step.outcome, step.detail))))

    with RolloutProgress(mesh.name, f"smoke {test}") as progress:
        result = run_smoke_test(test, mesh, options, on_step=show, on_progress=progress)
    create_markdown_artifact(
        smoke_test_markdown(result),
        key=mesh_key(mesh.name, f"smoke-{test}"),
        description=f"Mesh {mesh.name}: {test} {result.outcome}",
    )
    if result.outcome == "failed":
        return failed(result, message=result.reason)
    if result.outcome == "skipped":
        return completed(result, name="Skipped", message=result.reason)
    return completed(result)


def result_of(test: SmokeTest, run: Future[Any]) -> SmokeResult:
    """The result of a submitted test; a test that could not finish counts as failed."""
    found: object = run.result(raise_on_failure=False)
    if isinstance(found, SmokeResult):
        return found
    step = Step("test", "failed", str(found))
    remedy = found.remedy if isinstance(found, MeshError) else "Look at the task run's log."
    return SmokeResult(test, (step,), remedy=remedy)


def show_report(report: SmokeReport) -> None:
    """Publishes the whole report as a Markdown artifact."""
    create_markdown_artifact(
        smoke_markdown(report),
        key=mesh_key(report.mesh, "smoke"),
        description=f"Smoke tests of mesh {report.mesh}",
    )
