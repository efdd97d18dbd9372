"""What happens by itself: which event starts which flow, and of what people are told.

Pure: what a server should have, for `deployments.register` to bring about.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from prefect.events.actions import RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from mesh.notice import EXPIRING, FAILURES, RENEWED_BY, ROLE, VERDICTS

OURS = "prefect-linkerd: "
"""How the description of each of our automations begins; others are never touched."""

FAILURES_IN_A_ROW = 3
SILENCE = timedelta(hours=1)
"""Without a verdict. A server looks for that once in as long: it is told within twice that time."""
ONCE_IN = timedelta(days=1)
"""An ending certificate is announced by every run of a check; one rotation a day answers."""

ROTATIONS = {
    "issuer": ("rotate_issuer", {"options": {"approvals": ["switch"]}}),
    "trust anchor": ("rotate_anchor", {"options": {"approvals": ["bundle"]}}),
}
"""By a certificate's role: the deployment that replaces it, and its parameters.

The run waits for a person's approval before its first change.
"""


def rotations(name: str, block: UUID, deployments: Mapping[str, UUID]) -> list[AutomationCore]:
    """Replaces a mesh's ending certificates that nobody else renews.

    Args:
        name: the mesh's, as events have it.
        block: the id of its saved block.
        deployments: ids by deployment names.
    """
    return [
        AutomationCore(
            name=f"{deployment} of mesh {name}",
            description=f"{OURS}the {role} of mesh {name} ends soon.",
            trigger=EventTrigger(
                match=ResourceSpecification(
                    {
                        "prefect.resource.id": f"linkerd.mesh.{name}",
                        ROLE: role,
                        RENEWED_BY: "nobody",
                    }
                ),
                expect={EXPIRING},
                posture=Posture.Reactive,
                threshold=1,
                within=ONCE_IN,
            ),
            actions=[
                RunDeployment(
                    source="selected",
                    deployment_id=deployments[deployment],
                    job_variables=None,
                    parameters={"mesh": {"$ref": {"block_document_id": str(block)}}, **parameters},
                )
            ],
        )
        for role, (deployment, parameters) in ROTATIONS.items()
    ]


def alerts(block: UUID) -> list[AutomationCore]:
    """Tells people what needs them.

    Args:
        block: the id of a notification block, such as a Slack Webhook.
    """

    def tell(name: str, why: str, trigger: EventTrigger, subject: str, body: str) -> AutomationCore:
        action = SendNotification(block_document_id=block, subject=subject, body=body)
        return AutomationCore(
            name=name, description=f"{OURS}{why}", trigger=trigger, actions=[action]
        )

    return [
        tell(
            "a mesh failed again and again",
            f"a mesh failed {FAILURES_IN_A_ROW} times in a row.",
            EventTrigger(
                match=ResourceSpecification(
                    {"prefect.resource.id": "linkerd.mesh.*", FAILURES: str(FAILURES_IN_A_ROW)}
                ),
                expect={"linkerd.mesh.failed"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            "Mesh {{ event.resource.name }} is not healthy",
            f"It failed {FAILURES_IN_A_ROW} times in a row: {{{{ event.payload.summary }}}}\n"
            "{{ event.payload.errors | join(', ') }}",
        ),
        tell(
            "a mesh is not verified any more",
            f"no verdict of a mesh for {_hours(SILENCE)} after its last one.",
            EventTrigger(
                match=ResourceSpecification({"prefect.resource.id": "linkerd.mesh.*"}),
                for_each={"prefect.resource.id"},
                after=set(VERDICTS),
                expect=set(VERDICTS),
                posture=Posture.Proactive,
                threshold=1,
                within=SILENCE,
            ),
            "Mesh {{ event.resource.name }} is not verified any more",
            f"There was no verdict for {_hours(SILENCE)}: its cluster may be out of reach, or no "
            "worker may run. Look at the runs of verify_mesh.",
        ),
        tell(
            "a run waits for approval",
            "a flow waits for a person.",
            EventTrigger(
                match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
                match_related=_TAGGED,
                expect={"prefect.flow-run.Paused", "prefect.flow-run.Suspended"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            "{{ flow_run.name }} waits for approval",
            "Look at its plan, then resume or cancel it: {{ flow_run|ui_url }}",
        ),
        tell(
            "a change of a mesh failed",
            "a flow that changes meshes failed or crashed.",
            EventTrigger(
                match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
                match_related=_TAGGED,
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            "{{ flow_run.name }} failed",
            "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
        ),
    ]


_TAGGED = ResourceSpecification(
    {"prefect.resource.id": "prefect.tag.changes", "prefect.resource.role": "tag"}
)


def _hours(length: timedelta) -> str:
    return f"{length.total_seconds() / 3600:g} h"
