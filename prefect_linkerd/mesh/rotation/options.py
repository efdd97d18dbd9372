"""The options of a rotation: the new anchor, the pace, and which phases need approval."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, SecretStr, model_validator

from prefect_linkerd.mesh.config.model import (
    ApprovalHours,
    LeaseSeconds,
    Section,
    TrustAnchorConfig,
)
from prefect_linkerd.mesh.config.restart_policy import RestartPolicy
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.probe.options import ProbeOptions

FlowAction = Literal["rotate", "abort", "recover", "drop"]
Action = FlowAction | Literal["dry_run"]
ApprovedPhase = Literal["renew", "bundle", "spread", "switch", "drop"]


def dry_action(action: FlowAction) -> Action:
    """The action to plan in a dry run.

    Raises:
        InvalidInput: the action is not rotate; other actions have no plan of their own.
    """
    if action != "rotate":
        raise InvalidInput(
            "options",
            expected="a dry run, or an action other than rotate",
            found=f"a dry run of {action}",
            remedy="Give only one of them. A dry run shows the plan of a rotation.",
        )
    return "dry_run"


class NewAnchor(Section):
    """The new trust anchor; created if none is given.

    The private key is not a parameter, because Prefect stores parameters: a file or a Secret block
    holds it.
    """

    certificate: str | None = Field(
        default=None,
        title="Certificate (PEM)",
        description="Use this as the new trust anchor instead of creating one.",
    )
    certificate_file: Path | None = Field(
        default=None, title="Certificate file", description="The same, as a PEM file."
    )
    private_key_file: Path | None = Field(
        default=None,
        title="Private key file",
        description="The provided anchor's key, on the machine where the flow runs; encrypted with "
        "the mesh's passphrase (trust_anchor.passphrase) or not.",
    )
    private_key_block: str | None = Field(
        default=None,
        title="Private key block",
        description="The Prefect Secret block with the provided anchor's key (PEM), encrypted "
        "with the mesh's passphrase or not. It may be deleted once the rotation has begun.",
    )
    _private_key: SecretStr | None = PrivateAttr(default=None)

    @property
    def is_provided(self) -> bool:
        return bool(self.certificate or self.certificate_file)

    @model_validator(mode="after")
    def _combination(self) -> NewAnchor:
        if self.certificate and self.certificate_file:
            raise ValueError(
                "the new trust anchor is given twice: give certificate or certificate_file"
            )
        keys = [key for key in (self.private_key_file, self.private_key_block) if key is not None]
        if self.is_provided and not keys:
            raise ValueError(
                "a new trust anchor has to sign a new issuer: give private_key_file or "
                "private_key_block as well"
            )
        if len(keys) > 1:
            raise ValueError(
                "the new anchor's key is given twice: give private_key_file or private_key_block"
            )
        if keys and not self.is_provided:
            raise ValueError("a private key without its certificate: give the certificate too")
        if self.certificate and "PRIVATE KEY-----" in self.certificate:
            raise ValueError(
                "certificate contains a private key: give it as private_key_file or "
                "private_key_block instead"
            )
        return self

    def with_key(self, key: SecretStr) -> NewAnchor:
        """A copy with the key from its block, held outside the fields so it is never stored."""
        copy = self.model_copy()
        copy._private_key = key
        return copy

    def as_config(self, custody: TrustAnchorConfig) -> TrustAnchorConfig:
        """The same in the form of a trust anchor provided to bootstrap."""
        return TrustAnchorConfig(
            certificate=self.certificate,
            certificate_file=self.certificate_file,
            private_key=self._private_key,
            private_key_file=self.private_key_file,
            passphrase=custody.passphrase,
        )


class RotationOptions(Section):
    """How a rotation proceeds."""

    restarts: RestartPolicy = Field(
        default_factory=RestartPolicy, title="Restarts", description="How workloads are restarted."
    )
    probe: ProbeOptions = Field(
        default_factory=ProbeOptions,
        title="Probe",
        description="Requests sent and counted while the mesh changes.",
    )
    pace: Literal["auto", "gentle", "quick"] = Field(
        default="auto",
        title="Pace",
        description="gentle: workloads are restarted once; then their proxies renew short-lived "
        "certificates by themselves, and drop the old anchor when they next restart. quick: "
        "three rounds of restarts. auto: gentle above 300 meshed workloads.",
    )
    leaf_minutes: float = Field(
        default=20,
        ge=0.25,
        le=12 * 60,
        title="Gentle: certificate lifetime (minutes)",
        description="Lifetime of proxies' certificates during a gentle rotation. They renew at "
        "70 % of it: with 20 minutes a gentle rotation waits for 15. Shorter-lived ones mean more "
        "work for identity, and expire sooner while it is down.",
    )
    drop_by_hours: float | None = Field(
        default=None,
        ge=0,
        le=24 * 365,
        title="Gentle: drop the old anchor by (hours)",
        description="How long after a gentle rotation proxies may still trust the old anchor. "
        "After that verify_mesh fails, and an automation restarts those that still do. 0: they "
        "are restarted before the rotation ends. Empty: no limit.",
    )
    renewal: Literal["restart", "wait"] = Field(
        default="restart",
        title="New certificates",
        description="restart: workloads are restarted once the new issuer signs. wait: proxies "
        "renew by themselves at 70 % of their certificate's lifetime, after about 17 of 24 hours; "
        "their metrics, read through the API server, have to prove it.",
    )
    approvals: tuple[ApprovedPhase, ...] = Field(
        default=(),
        title="Ask before",
        description="Phases before which the run pauses until somebody resumes it; renew exists "
        "only if a cert-manager Certificate owns the anchor.",
    )
    approval_hours: ApprovalHours = 24
    allow_unhealthy: bool = Field(
        default=False,
        title="Unhealthy mesh",
        description="Start even if workloads are unhealthy: restart them without waiting for them.",
    )
    accept_downtime: bool = Field(
        default=False,
        title="Accept downtime",
        description="Needed to recover a mesh whose certificates have expired: until the recovery "
        "is over, meshed workloads cannot reach each other. With an issuer that is still valid, "
        "rotate_issuer restarts every meshed workload instead of none.",
    )
    load_seconds: float = Field(
        default=150,
        ge=1,
        le=3600,
        title="Loading (seconds)",
        description="How long the identity service may take to load a new issuer before it is "
        "restarted. Kubelets are asked to refresh the mounted Secret at once; otherwise it takes "
        "up to two minutes.",
    )
    lease_seconds: LeaseSeconds = 60


class WebhookOptions(Section):
    """How the webhooks' certificates are rotated."""

    approval: bool = Field(
        default=False,
        title="Ask first",
        description="The run pauses before its first change until somebody resumes it.",
    )
    approval_hours: ApprovalHours = 24
    lease_seconds: LeaseSeconds = 60
