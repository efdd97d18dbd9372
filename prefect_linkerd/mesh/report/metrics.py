"""A report as metrics, in Prometheus's text form.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from prefect_linkerd.mesh.report.report import Report

_OUTCOMES = ("success", "warning", "error", "skipped", "ignored")
_VERDICTS = ("healthy", "degraded", "failed")


def as_metrics(report: Report) -> str:
    """The metrics of one mesh, each with the label `mesh`."""
    registry = CollectorRegistry()

    def gauge(name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"linkerd_mesh_{name}", words, ("mesh", *labels), registry=registry)

    state = gauge("verdict", "1 for the verdict that holds", "verdict")
    for verdict in _VERDICTS:
        state.labels(report.mesh, verdict).set(verdict == report.verdict)
    checks = gauge("checks", "Checks by their outcome", "outcome")
    for outcome in _OUTCOMES:
        checks.labels(report.mesh, outcome).set(report.counts[outcome])
    problems = gauge("problems", "Problems that a failing check found", "check", "severity")
    for result in report.failing:
        # The same id may stand for several checks.
        problems.labels(report.mesh, result.check.id, result.outcome).inc(len(result.problems))
    gauge("pods", "Pods of the cluster").labels(report.mesh).set(report.pods)
    gauge("proxies", "Pods with a proxy of the mesh").labels(report.mesh).set(report.proxies)
    gauge("verified_timestamp_seconds", "When the mesh was read").labels(report.mesh).set(
        report.taken.timestamp()
    )
    ends = gauge(
        "certificate_not_after_timestamp_seconds",
        "When a certificate expires",
        "role",
        "certificate",
        "serial",
    )
    for expiry in report.expiries:
        serial = f"{expiry.info.serial:x}"
        ends.labels(report.mesh, expiry.role, expiry.name, serial).set(
            expiry.info.not_after.timestamp()
        )
    return generate_latest(registry).decode()
