"""The user's options for smoke tests."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from prefect_linkerd.mesh.config.model import Namespace, Section
from prefect_linkerd.mesh.load.image import IMAGE, valid_image

SmokeTest = Literal["load-balancing", "traffic-split", "canary", "fault-injection", "ingress"]
SMOKE_TESTS: tuple[SmokeTest, ...] = get_args(SmokeTest)

LEAST_EVIDENCE = 20
"""Requests that the smallest share of a split must get for its measurement to mean anything."""


class SmokeOptions(Section):
    """Which smoke tests run, with how much traffic, and what counts as passed."""

    tests: list[SmokeTest] = Field(
        default_factory=lambda: list(SMOKE_TESTS),
        title="Tests",
        description="Which tests to run; each is a task of its own.",
    )
    namespace: Namespace | None = Field(
        default=None,
        title="Namespace",
        description="An existing namespace that the tests' own pods run in. Empty: emojivoto's.",
    )
    image: str = Field(
        default=IMAGE,
        title="Image",
        description="Any image with python3 (3.9 or newer) for clients and backends. "
        "A private registry replaces the image's own, as for every image.",
    )
    replicas: int = Field(
        default=3,
        ge=2,
        le=10,
        title="Replicas",
        description="Pods behind the load-balanced Service.",
    )
    requests: int = Field(
        default=600,
        ge=50,
        le=20_000,
        title="Requests",
        description="Requests per measurement.",
    )
    connections: int = Field(
        default=6,
        ge=1,
        le=64,
        title="Connections",
        description="Connections that the client keeps open and uses in parallel.",
    )
    request_timeout_seconds: float = Field(
        default=5.0,
        gt=0,
        le=60,
        title="Request timeout (seconds)",
        description="How long one request may take before it counts as failed.",
    )
    traffic_seconds: int = Field(
        default=60,
        ge=5,
        le=900,
        title="Traffic (seconds)",
        description="How long one measurement may last.",
    )
    weights: list[int] = Field(
        default_factory=lambda: [5, 25, 50, 100],
        title="Weights (percent)",
        description="The steps in which traffic is shifted to a canary, rising to 100.",
    )
    success_rate: float = Field(
        default=0.99,
        gt=0.5,
        le=1.0,
        title="Success rate",
        description="The share of requests that must succeed at each step.",
    )
    latency_p99_ms: float | None = Field(
        default=None,
        gt=0,
        title="Latency (p99, milliseconds)",
        description="The highest acceptable 99th percentile at each step. Empty: no limit.",
    )
    fault_percent: int = Field(
        default=20,
        ge=1,
        le=90,
        title="Injected faults (percent)",
        description="The share of requests that fault injection sends to a failing backend.",
    )
    spread: float = Field(
        default=0.3,
        gt=0,
        le=1.0,
        title="Spread",
        description="The least that a replica must get, as a fraction of an even share. Linkerd "
        "prefers replicas that answer sooner, so shares are never quite even.",
    )
    false_alarm: float = Field(
        default=1e-6,
        gt=0,
        le=0.05,
        title="False alarm",
        description="The acceptable probability that a working split fails its test by chance.",
    )
    settle_seconds: float = Field(
        default=3.0,
        ge=0,
        le=120,
        title="Settle (seconds)",
        description="How long to wait for a changed weight to reach the proxies.",
    )
    timeout_seconds: int = Field(
        default=180,
        ge=10,
        le=3600,
        title="Timeout (seconds)",
        description="How long the tests' pods may take to start, and a client to finish after its "
        "traffic.",
    )

    @field_validator("tests")
    @classmethod
    def _tests(cls, value: list[SmokeTest]) -> list[SmokeTest]:
        if not value:
            raise ValueError(f"no test is named: name some of {', '.join(SMOKE_TESTS)}")
        return [test for test in SMOKE_TESTS if test in value]

    _image = field_validator("image")(valid_image)

    @field_validator("weights")
    @classmethod
    def _weights(cls, value: list[int]) -> list[int]:
        is_rising = all(a < b for a, b in pairwise(value))
        if not value or not is_rising or value[0] < 1 or value[-1] != 100:
            raise ValueError(
                f"weights {value} do not rise to 100: write whole percents such as 5, 25, 50, 100"
            )
        return value

    @model_validator(mode="after")
    def _evidence(self) -> SmokeOptions:
        shares = [100]
        if "canary" in self.tests or "traffic-split" in self.tests:
            shares += [share for w in self.weights for share in (w, 100 - w) if share]
        if "fault-injection" in self.tests:
            shares += [self.fault_percent, 100 - self.fault_percent]
        smallest = min(shares)
        needed = -(-LEAST_EVIDENCE * 100 // smallest)
        if self.requests < needed:
            raise ValueError(
                f"of {self.requests} requests a share of {smallest} percent would see "
                f"{self.requests * smallest // 100}, too few to judge: set requests to "
                f"{needed} or more, or raise the smallest weight"
            )
        return self
