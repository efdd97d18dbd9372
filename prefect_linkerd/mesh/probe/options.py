"""The user's options for the probe."""

from __future__ import annotations

from pydantic import Field, field_validator

from prefect_linkerd.mesh.config.model import Namespace, Section
from prefect_linkerd.mesh.load.image import IMAGE, valid_image

NAMESPACE = "linkerd-probe"
"""The probe's own namespace."""


class ProbeOptions(Section):
    """The probe's requests while a mesh changes: how many are sent, and how many may fail."""

    enabled: bool = Field(
        default=True,
        title="Probe",
        description="Run meshed clients and servers that send each other requests while the mesh "
        "changes, and stop the change when requests fail.",
    )
    allowed_failures: int = Field(
        default=0,
        ge=0,
        title="Allowed failures",
        description="How many requests may fail in a whole run. One more stops a rotation before "
        "its next batch, and rolls an upgrade back.",
    )
    namespace: Namespace | None = Field(
        default=None,
        title="Namespace",
        description="An existing namespace that the probe's pods run in. Empty: "
        f"{NAMESPACE}, created and deleted by the run.",
    )
    image: str = Field(
        default=IMAGE,
        title="Image",
        description="Any image with python3 (3.9 or newer). A private registry replaces the "
        "image's own, as for every image.",
    )
    replicas: int = Field(
        default=2,
        ge=1,
        le=20,
        title="Replicas",
        description="Pods per generation, spread over nodes. Each sends and answers requests.",
    )
    requests_per_second: float = Field(
        default=5,
        gt=0,
        le=100,
        title="Requests per second",
        description="Requests that each pod sends to each generation.",
    )
    request_timeout_seconds: float = Field(
        default=5,
        gt=0,
        le=60,
        title="Request timeout (seconds)",
        description="How long one request may take before it counts as failed.",
    )
    warm_up_seconds: float = Field(
        default=30,
        ge=0,
        le=600,
        title="Warm-up (seconds)",
        description="How long a new generation may take to answer for the first time. Until then "
        "failures do not count.",
    )
    timeout_seconds: int = Field(
        default=180,
        ge=10,
        le=3600,
        title="Timeout (seconds)",
        description="How long the pods of a generation may take to come up.",
    )

    _image = field_validator("image")(valid_image)
