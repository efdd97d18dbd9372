"""A report's metrics for an OpenTelemetry Collector, sent over OTLP/HTTP.

The same gauges and labels as for Prometheus. The exporter comes with this package's extra `otlp`.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import logging

from prefect_linkerd.mesh.errors import OutputError
from prefect_linkerd.mesh.report.metrics import JOB, PUSH_SECONDS, registry_of
from prefect_linkerd.mesh.report.report import Report


def push_otlp(report: Report, endpoint: str) -> None:
    """Sends the metrics of a mesh to a collector.

    Args:
        endpoint: its http(s) address with the path, such as http://collector:4318/v1/metrics.

    Raises:
        OutputError: the exporter is not installed, or the collector does not accept them.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import (
            Gauge,
            Metric,
            MetricExportResult,
            MetricsData,
            NumberDataPoint,
            ResourceMetrics,
            ScopeMetrics,
        )
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    except ImportError:
        raise OutputError(
            endpoint,
            expected="the OpenTelemetry exporter",
            found="that it is not installed",
            remedy="Install it: pip install 'prefect-linkerd[otlp]'.",
        ) from None
    taken = int(report.taken.timestamp() * 1e9)
    metrics = [
        Metric(
            family.name,
            family.documentation,
            "",
            Gauge([NumberDataPoint(s.labels, taken, taken, s.value) for s in family.samples]),
        )
        for family in registry_of(report).collect()
    ]
    scope = ScopeMetrics(InstrumentationScope(JOB), metrics, "")
    data = MetricsData([ResourceMetrics(Resource({"service.name": JOB}), [scope], "")])
    exporter = OTLPMetricExporter(endpoint=endpoint, timeout=PUSH_SECONDS)
    said = _Said()
    log = logging.getLogger("opentelemetry.exporter.otlp.proto.http.metric_exporter")
    log.addHandler(said)
    try:
        done = exporter.export(data)  # pyright: ignore[reportUnknownMemberType]
    finally:
        log.removeHandler(said)
        exporter.shutdown()  # pyright: ignore[reportUnknownMemberType]
    if done is not MetricExportResult.SUCCESS:
        raise OutputError(
            endpoint,
            expected="a collector that accepts the metrics",
            found=said.last or "that it does not",
            remedy="Correct metrics_otlp in the options, or start the collector.",
        )


class _Said(logging.Handler):
    """Keeps the exporter's last log message: only its log says why it failed."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()
