"""The user's settings for restarts; kept apart from the code that restarts, so forms load fast."""

from __future__ import annotations

from pydantic import Field

from prefect_linkerd.mesh.config.model import Section


class RestartPolicy(Section):
    """How fast, and in which order, meshed workloads are restarted."""

    batch_size: int = Field(
        default=10,
        ge=1,
        le=1000,
        title="Batch size",
        description="How many workloads are restarted at once. The next batch begins when all of "
        "them are rolled out. The control plane's are always restarted one by one.",
    )
    max_unavailable: int | None = Field(
        default=None,
        ge=1,
        title="Unavailable pods",
        description="How many pods the update strategies of one batch may take down in total; a "
        "workload that takes down more by itself gets its own batch. Empty: no limit.",
    )
    namespaces: tuple[str, ...] = Field(
        default=(),
        title="Namespaces first",
        description="Namespaces that are restarted first, one after the other; then all others.",
    )
    pause_seconds: float = Field(
        default=0,
        ge=0,
        le=86400,
        title="Pause (seconds)",
        description="Time between two batches, for example to look at dashboards.",
    )
    max_success_drop: float | None = Field(
        default=1.0,
        gt=0,
        le=100,
        title="Success may drop by (percentage points)",
        description="How far the success rate of a restarted workload, or of one that calls it, "
        "may drop. A larger drop stops a rotation before its next batch and rolls an upgrade "
        "back. Proxies count the requests; too few are ignored. Empty: requests are not watched.",
    )
    traffic_seconds: float = Field(
        default=5.0,
        ge=1,
        le=600,
        title="Count requests for (seconds)",
        description="How long requests are counted after a batch, and before the next one. Batches "
        "without traffic are not waited for.",
    )
