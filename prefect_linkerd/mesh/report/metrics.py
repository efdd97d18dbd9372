"""A report as metrics: in Prometheus's text format, and pushed to a Pushgateway.

No label's value changes with a renewal or a run, so series last for years.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client import push_to_gateway as push  # pyright: ignore[reportUnknownVariableType]

from prefect_linkerd.mesh.errors import OutputError
from prefect_linkerd.mesh.helm.rehearsal import HEAD
from prefect_linkerd.mesh.report.report import Report
from prefect_linkerd.mesh.snapshot.expiry import Expiry

_OUTCOMES = ("success", "warning", "error", "skipped", "ignored")
_VERDICTS = ("healthy", "degraded", "failed")


JOB = "prefect_linkerd"
"""The label `job` of pushed metrics."""
PUSH_SECONDS = 10.0


def as_metrics(report: Report) -> str:
    """The metrics of one mesh, each with the label `mesh`.

    Example:
        >>> print(as_metrics(report))  # doctest: +SKIP
        # HELP linkerd_mesh_verdict 1 for the current verdict
        # TYPE linkerd_mesh_verdict gauge
        linkerd_mesh_verdict{mesh="shop",verdict="healthy"} 1.0
    """
    head = f"# {HEAD}\n" if report.is_rehearsal else ""
    return head + generate_latest(registry_of(report)).decode()


def push_metrics(report: Report, gateway: str) -> None:
    """Replaces the metrics of a mesh at a Pushgateway with those of a report.

    Args:
        gateway: its http(s) address.

    Raises:
        OutputError: the gateway is unreachable or refuses them.
    """
    try:
        push(
            gateway,
            JOB,
            registry_of(report),
            grouping_key={"mesh": report.mesh},
            timeout=PUSH_SECONDS,
        )
    except OSError as error:
        raise OutputError(
            gateway,
            expected="a Pushgateway that accepts the metrics",
            found=str(getattr(error, "reason", "") or error),
            remedy="Correct metrics_gateway in the options, or start the gateway.",
        ) from None


def registry_of(report: Report) -> CollectorRegistry:
    """The metrics of a mesh, ready to be written or sent."""
    registry = CollectorRegistry()

    def gauge(name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"linkerd_mesh_{name}", words, ("mesh", *labels), registry=registry)

    state = gauge("verdict", "1 for the current verdict", "verdict")
    for verdict in _VERDICTS:
        state.labels(report.mesh, verdict).set(verdict == report.verdict)
    checks = gauge("checks", "Checks by their outcome", "outcome")
    for outcome in _OUTCOMES:
        checks.labels(report.mesh, outcome).set(report.counts[outcome])
    problems = gauge("problems", "Problems that a failing check found", "check", "severity")
    for result in report.failing:
        # Several checks may share an id.
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
        "renewed_by",
    )
    # If several share a name, as anchors do during a rotation, the first to expire counts.
    for expiry in sorted(report.expiries, key=_end, reverse=True):
        ends.labels(report.mesh, expiry.role, expiry.name, expiry.renewed_by).set(_end(expiry))
    return registry


def _end(expiry: Expiry) -> float:
    return expiry.info.not_after.timestamp()
