"""The automation that upgrades a mesh when its channel has a new release."""

from __future__ import annotations

from uuid import UUID

from prefect.automations import Automation
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from prefect_linkerd.tasks.chart_releases import RELEASED, resource_of
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh


def subscription(mesh: LinkerdMesh, block: UUID, deployment: UUID) -> Automation:
    """An automation that upgrades a mesh to each new release of its channel.

    The run itself follows the mesh's policy: version constraint, maintenance window, approval.

    Args:
        block: the id of the mesh's saved block.
        deployment: the id of a deployment of `upgrade`.
    """
    channel = mesh.upgrade.channel or mesh.linkerd.channel
    return Automation(
        name=f"linkerd: upgrade {mesh.name} on {channel} releases",
        description=f"prefect-linkerd: mesh {mesh.name} follows Linkerd's {channel} releases.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": resource_of(channel)}),
            expect={RELEASED},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment,
                job_variables=None,
                parameters={
                    "mesh": {"$ref": {"block_document_id": str(block)}},
                    "to": {"__prefect_kind": "jinja", "template": "{{ event.payload.version }}"},
                },
            )
        ],
    )
