"""Meshes that upgrade when their channel has a new release: the automation of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from uuid import UUID

from prefect.automations import Automation
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from tasks.chart_releases import RELEASED, resource_of
from tasks.linkerd_mesh import LinkerdMesh


def subscription(mesh: LinkerdMesh, block: UUID, deployment: UUID) -> Automation:
    """Runs an upgrade of a mesh for each release of its channel, to that release's version.

    The mesh's version constraint and maintenance window are looked at by the run.

    Args:
        block: the id of the mesh's saved block.
        deployment: the id of a deployment of `upgrade`.
    """
    channel = mesh.upgrade.channel or mesh.linkerd.channel
    return Automation(
        name=f"upgrade {mesh.name} on {channel} releases",
        description=f"prefect-linkerd: mesh {mesh.name} is subscribed to Linkerd's {channel}.",
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


async def subscribe(names: Sequence[str], deployment: UUID) -> None:
    """Makes or mends the automation of each mesh, by the name of its block."""
    for name in names:
        mesh = cast("LinkerdMesh", await LinkerdMesh.aload(name))
        block = mesh._block_document_id  # pyright: ignore[reportPrivateUsage]
        wanted = subscription(mesh, cast("UUID", block), deployment)
        try:
            found = await Automation.aread(name=wanted.name)
        except ValueError:
            await wanted.acreate()
        else:
            wanted.id = found.id
            await wanted.aupdate()
