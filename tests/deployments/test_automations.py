"""Which automation reacts to which event, without a server."""

from __future__ import annotations

from typing import Any, cast
from uuid import uuid4

from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import EventTrigger

from prefect_linkerd.deployments.automations import ROTATIONS, rotations
from prefect_linkerd.mesh.report.events import OVERDUE
from prefect_linkerd.tasks.names import deployment_name


def test_a_gentle_rotation_is_ended_once_its_date_is_over() -> None:
    ids = {deployment_name(flow): uuid4() for flow, _ in ROTATIONS.values()}
    block = uuid4()
    made = rotations("north", block, ids)
    assert len({automation.name for automation in made}) == len(made) == len(ROTATIONS) + 1
    [drop] = [each for each in made if OVERDUE in cast("EventTrigger", each.trigger).expect]
    match: Any = cast("EventTrigger", drop.trigger).match
    assert match.root == {"prefect.resource.id": "linkerd.mesh.north"}
    [action] = drop.actions
    assert isinstance(action, RunDeployment)
    assert action.deployment_id == ids[deployment_name("rotate_anchor")]
    assert action.parameters == {
        "mesh": {"$ref": {"block_document_id": str(block)}},
        "action": "drop",
    }
