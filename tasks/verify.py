"""The steps that verify a mesh: run the checks, then report to people, scripts and automations."""

from __future__ import annotations

import json
from collections.abc import Sequence

from prefect_linkerd.mesh.atomic_file import write_whole
from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.checks.options import ExpiryThresholds, VerifyOptions
from prefect_linkerd.mesh.errors import OutputError
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.report.events import (
    certificate_notices,
    overdue_notices,
    verdict_notice,
)
from prefect_linkerd.mesh.report.metrics import as_metrics, push_metrics
from prefect_linkerd.mesh.report.otlp import push_otlp
from prefect_linkerd.mesh.report.report import (
    Report,
    as_linkerd_json,
    checks_markdown,
    failing_ids,
    report_markdown,
    report_rows,
    verify,
)
from prefect_linkerd.mesh.report.timeline import timeline_markdown
from prefect_linkerd.mesh.snapshot.expiry import Expiring, Expiry, expiring, read_expiries
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot
from prefect_linkerd.tasks.events import failures_in_a_row, send
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import (
    create_markdown_artifact,
    create_table_artifact,
    get_run_logger,
    headed,
    outside,
)
from prefect_linkerd.tasks.step import step


@step("checks", description="Reads the mesh once and runs every check.")
def checks(mesh: Mesh, options: VerifyOptions) -> Report:
    """The checks' results. The snapshot is not returned: it is large, and stale at once."""
    snapshot = read_snapshot(mesh, permissions="pre" in options.scopes)
    log = get_run_logger()
    for part, error in snapshot.unread.items():
        log.warning("Not read: %s: %s", part, error)
    report = verify(snapshot, CATEGORIES, options.scopes, options.ignore)
    for result in report.failing:
        for problem in result.problems[:5]:
            log.warning("%s: %s: %s", result.outcome, result.check.id, problem)
    return report


@step("publish", description="Publishes the report as artifacts, files, metrics and events.")
def publish(mesh: Mesh, report: Report, options: VerifyOptions) -> None:
    key = mesh_key(mesh.name, "verify")
    before = _failing_before(f"{key}-checks")
    page = report_markdown(report, before) + "\n" + checks_markdown(report)
    create_markdown_artifact(page, key=key, description=f"Mesh {mesh.name}: {report.verdict}")
    create_table_artifact(
        report_rows(report), key=f"{key}-checks", description=f"Checks of mesh {mesh.name}"
    )
    _timeline(mesh, report.expiries)
    if options.json_file is not None:
        write_whole(options.json_file, json.dumps(as_linkerd_json(report), indent=2) + "\n")
    if options.metrics_file is not None:
        write_whole(options.metrics_file, as_metrics(report))
    if options.metrics_gateway is not None:
        try:
            push_metrics(report, options.metrics_gateway)
        except OutputError as error:
            get_run_logger().warning("Metrics not pushed: %s", error)
    if options.metrics_otlp is not None:
        try:
            push_otlp(report, options.metrics_otlp)
        except OutputError as error:
            get_run_logger().warning("Metrics not pushed: %s", error)
    due = expiring(report.expiries, mesh.config, options.thresholds.days)
    verdict = verdict_notice(report, failures_in_a_row(mesh.name))
    send([verdict, *overdue_notices(report), *certificate_notices(mesh.name, due)])


@step("certificates", description="Reads the mesh's certificates and reports which expire soon.")
def certificates(mesh: Mesh, thresholds: ExpiryThresholds) -> tuple[Expiring, ...]:
    """The certificates with fewer days left than a threshold; also as a picture and as events."""
    found = read_expiries(mesh)
    due = expiring(found, mesh.config, thresholds.days)
    log = get_run_logger()
    for expiry in found:
        log.info("%s (%s): %.1f days left", expiry.name, expiry.subject, expiry.days_left)
    _timeline(mesh, found)
    send(certificate_notices(mesh.name, due))
    return due


def _timeline(mesh: Mesh, found: Sequence[Expiry]) -> None:
    # Not an image artifact: its page shows the image's URL, which here holds the whole image.
    create_markdown_artifact(
        timeline_markdown(found, headed(f"Certificates of mesh {mesh.name}")),
        key=mesh_key(mesh.name, "certificates"),
        description=f"When the certificates of mesh {mesh.name} expire",
    )


def _failing_before(key: str) -> frozenset[str] | None:
    """The checks that failed in the last run; None for the first run."""
    before = outside().last(key)
    return None if before is None else failing_ids(json.loads(before))
