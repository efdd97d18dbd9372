"""Options of a verification: which checks, which thresholds, where its output goes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from prefect_linkerd.mesh.config.model import Section

Scope = Literal["pre", "crds", "control-plane", "proxy", "cni", "viz", "jaeger", "beyond"]
"""Which command of the linkerd CLI runs a check: `check --pre`, `check --crds`, `check`,
`check --proxy`, `check --linkerd-cni-enabled`, `viz check` or `jaeger check`; `beyond` are our
own."""

DEFAULT_SCOPES: tuple[Scope, ...] = ("control-plane", "cni", "proxy", "viz", "jaeger", "beyond")


class ExpiryThresholds(Section):
    """How many days before a certificate's expiry an event is sent."""

    days: list[int] = Field(
        default=[60, 30, 7],
        title="Thresholds (days)",
        description="An event is sent for a certificate with fewer days left than one of these; it "
        "names the smallest such threshold.",
    )

    @field_validator("days")
    @classmethod
    def _days(cls, value: list[int]) -> list[int]:
        if not value or min(value) < 1:
            raise ValueError("give at least one threshold, each of one day or more")
        return sorted(set(value), reverse=True)


class VerifyOptions(Section):
    """Which checks run, and where their results go."""

    scopes: list[Scope] = Field(
        default=list(DEFAULT_SCOPES),
        title="Checks",
        description="Named after the linkerd command that runs them: control-plane (linkerd "
        "check), proxy (check --proxy), cni, viz, jaeger, pre (check --pre, before an "
        "installation), crds (check --crds, between the two charts), and our own (beyond).",
    )
    ignore: list[str] = Field(
        default_factory=list[str],
        title="Ignored checks",
        description="Ids of checks that run and are shown, but do not count, such as "
        "l5d-version-control.",
    )
    thresholds: ExpiryThresholds = Field(
        default_factory=ExpiryThresholds,
        title="Certificate expiry",
        description="When an event is sent for a certificate that is about to expire.",
    )
    json_file: Path | None = Field(
        default=None,
        title="JSON file",
        description="Where to write the report, in the format of `linkerd check --output json`, on "
        "the machine where the flow runs.",
    )
    metrics_file: Path | None = Field(
        default=None,
        title="Metrics file",
        description="Where to write metrics in Prometheus's text format, for a textfile collector.",
    )

    metrics_gateway: str | None = Field(
        default=None,
        title="Pushgateway",
        description="The address of a Prometheus Pushgateway that gets the metrics of every run, "
        "such as http://pushgateway.monitoring:9091. An unreachable gateway does not fail the run.",
    )

    metrics_otlp: str | None = Field(
        default=None,
        title="OTLP endpoint",
        description="The OTLP/HTTP address of an OpenTelemetry Collector that gets the same "
        "metrics, such as http://collector.monitoring:4318/v1/metrics. Needs the extra `otlp`. An "
        "unreachable collector does not fail the run.",
    )

    @field_validator("metrics_gateway", "metrics_otlp")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if not value:
            return None
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"{value!r} is not an address: write http://HOST:PORT")
        if url.username or url.password:
            raise ValueError(
                "an address with a password would be shown in logs: let the network or a proxy "
                "decide who may push, and leave user and password out"
            )
        return value

    @field_validator("scopes")
    @classmethod
    def _scopes(cls, value: list[Scope]) -> list[Scope]:
        if not value:
            raise ValueError("no checks are selected: name at least one, such as control-plane")
        return list(dict.fromkeys(value))
