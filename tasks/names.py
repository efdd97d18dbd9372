"""Names of our objects on a Prefect server, which other projects may share."""

from __future__ import annotations

TAG = "linkerd"
CHANGES, READS = f"{TAG}:changes", f"{TAG}:reads"
"""The tags that automations match: of flows that change meshes, and of flows that only read."""


def deployment_name(flow: str) -> str:
    """The name of a flow and of its deployment, such as linkerd-verify-mesh.

    Args:
        flow: the flow's function, such as verify_mesh.
    """
    return f"{TAG}-{flow.replace('_', '-')}"


def full_name(flow: str) -> str:
    """A deployment's full name in Prefect: flow/deployment."""
    return f"{deployment_name(flow)}/{deployment_name(flow)}"


def mesh_key(mesh: str, content: str) -> str:
    """The key of an artifact or the name of a block, such as linkerd-production-upgrade-plan."""
    return f"{TAG}-{mesh}-{content}"
