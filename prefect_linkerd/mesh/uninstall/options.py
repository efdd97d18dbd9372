"""The options of an uninstall: how much of a mesh is removed, and whether to ask first."""

from __future__ import annotations

from pydantic import Field

from prefect_linkerd.mesh.config.model import ApprovalHours, Dependency, LeaseSeconds, Section


class UninstallOptions(Section):
    """How much of a mesh is uninstalled. By default, whatever others may still use stays."""

    crds: bool = Field(
        default=False,
        title="CRDs",
        description="Uninstall Linkerd's CRDs too. Kubernetes then deletes every object of their "
        "kinds, such as ServiceProfiles and HTTPRoutes, in every namespace.",
    )
    namespaces: bool = Field(
        default=False,
        title="Namespaces",
        description="Delete the namespaces that bootstrap created, too. The one that holds the "
        "trust anchor's key stays.",
    )
    dependencies: list[Dependency] = Field(
        default_factory=list[Dependency],
        title="Dependencies",
        description="Uninstall these too, if bootstrap installed them.",
    )
    approval: bool = Field(
        default=True,
        title="Ask first",
        description="The run pauses before its first change until somebody approves the plan.",
    )
    approval_hours: ApprovalHours = 24
    lease_seconds: LeaseSeconds = 60
