"""Automations: which event starts which flow, and what sends a notification.

Pure: says what a server should have; `deployments.register` creates it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from prefect_linkerd.mesh.report.events import (
    EXPIRING,
    FAILURES,
    FAILURES_IN_A_ROW,
    OVERDUE,
    RECOVERED,
    RENEWED_BY,
    ROLE,
    VERDICTS,
)
from prefect_linkerd.tasks.names import CHANGES, READS, deployment_name

OURS = "prefect-linkerd: "
"""Prefix of the descriptions of our automations; others are never touched."""

SILENCE = timedelta(hours=1)
"""Time without a verdict. A server checks once per period, so it notifies within two periods."""
ONCE_IN = timedelta(days=1)
"""Every check reports an expiring certificate again; at most one rotation a day responds."""

HEARTBEAT = "prefect.flow-run.heartbeat"
"""Sent by each run every 30 s, as prefect.yaml sets for each deployment."""
LOST_AFTER = timedelta(minutes=2)
"""Four heartbeats."""
BEGINS_WITHIN = timedelta(minutes=15)
"""From submission to start of a run: a node may have to be created, and an image pulled."""
ENDINGS = {
    f"prefect.flow-run.{state}"
    for state in (
        *("Completed", "Degraded", "Expiring", "Skipped", "WentBack", "Failed"),
        *("TimedOut", "Crashed"),
        *("Cancelling", "Cancelled", "Suspended", "Scheduled", "Late", "AwaitingRetry"),
        "AwaitingConcurrencySlot",
    )
}
"""Events after which a run rightly sends no more heartbeats.

They include Cancelling: a run that is being cancelled must not be mistaken for one to resume.
"""
STARTED = {"prefect.flow-run.Running", *ENDINGS}
TAKEN = {f"prefect.flow-run.{s}" for s in ("Pending", "Submitting", "InfrastructurePending")}

ROTATIONS = {
    "issuer": ("rotate_issuer", {"options": {"approvals": ["switch"]}}),
    "trust anchor": ("rotate_anchor", {"options": {"approvals": ["bundle"]}}),
    "webhook": ("rotate_webhooks", {"options": {"approval": True}}),
}
"""By a certificate's role: the deployment that replaces it, and its parameters.

The run waits for approval before its first change.
"""


def rotations(name: str, block: UUID, deployments: Mapping[str, UUID]) -> list[AutomationCore]:
    """Automations that replace a mesh's expiring certificates, and complete gentle rotations.

    Certificates that something else renews are left alone.

    Args:
        name: the mesh's name, as in events.
        block: the id of its saved block.
        deployments: ids by deployment names.
    """

    def answer(
        title: str,
        why: str,
        event: str,
        labels: Mapping[str, str],
        deployment: str,
        parameters: Mapping[str, Any],
    ) -> AutomationCore:
        return AutomationCore(
            name=f"linkerd: {title} of mesh {name}",
            description=f"{OURS}{why}",
            trigger=EventTrigger(
                match=ResourceSpecification(
                    {"prefect.resource.id": f"linkerd.mesh.{name}", **labels}
                ),
                expect={event},
                posture=Posture.Reactive,
                threshold=1,
                within=ONCE_IN,
            ),
            actions=[
                RunDeployment(
                    source="selected",
                    deployment_id=deployments[deployment_name(deployment)],
                    job_variables=None,
                    parameters={"mesh": {"$ref": {"block_document_id": str(block)}}, **parameters},
                )
            ],
        )

    ending = [
        answer(
            deployment,
            f"the {role} of mesh {name} expires soon.",
            EXPIRING,
            {ROLE: role, RENEWED_BY: "nobody"},
            deployment,
            parameters,
        )
        for role, (deployment, parameters) in ROTATIONS.items()
    ]
    overdue = answer(
        "drop the old anchor",
        f"proxies of mesh {name} trust a dropped anchor for longer than the rotation allowed.",
        OVERDUE,
        {},
        "rotate_anchor",
        # No approval: the rotation's options set the deadline.
        {"action": "drop"},
    )
    return [*ending, overdue]


def lost_runs(lost_after: timedelta = LOST_AFTER) -> list[AutomationCore]:
    """Automations that mark runs of lost workers as crashed and, if enabled, resume them.

    The first one follows Prefect's documentation
    (https://docs.prefect.io/v3/advanced/detect-zombie-flows).

    Args:
        lost_after: time without a heartbeat.
    """

    def crash(name: str, why: str, trigger: EventTrigger, message: str) -> AutomationCore:
        action = ChangeFlowRunState(
            name=None, state=StateType.CRASHED, message=message, force=False
        )
        return AutomationCore(
            name=name, description=f"{OURS}{why}", trigger=trigger, actions=[action]
        )

    return [
        crash(
            "linkerd: mark lost runs as crashed",
            "a run stopped sending heartbeats.",
            EventTrigger(
                match=_RUNS,
                match_related=_tagged(CHANGES, READS),
                for_each={"prefect.resource.id"},
                after={HEARTBEAT},
                expect={HEARTBEAT, *ENDINGS},
                posture=Posture.Proactive,
                threshold=1,
                within=lost_after,
            ),
            f"No heartbeat for {lost_after.total_seconds():.0f} s: its worker is lost. "
            "It is safe to run it again.",
        ),
        crash(
            "linkerd: mark stuck runs as crashed",
            "a worker picked up a run and never started it.",
            EventTrigger(
                match=_RUNS,
                match_related=_tagged(CHANGES, READS),
                for_each={"prefect.resource.id"},
                after=TAKEN,
                expect=STARTED,
                posture=Posture.Proactive,
                threshold=1,
                within=BEGINS_WITHIN,
            ),
            f"It did not start within {BEGINS_WITHIN.total_seconds() / 60:.0f} minutes after a "
            "worker picked it up.",
        ),
        AutomationCore(
            name="linkerd: resume crashed changes",
            description=f"{OURS}another worker resumes a change, once a day at most.",
            # Off: a worker that only lost its connection may still be working, and for some
            # minutes two would change one mesh. Enable it where machines fail as a whole.
            enabled=False,
            trigger=EventTrigger(
                match=_RUNS,
                match_related=_tagged(CHANGES),
                for_each={"prefect.resource.id"},
                expect={"prefect.flow-run.Crashed"},
                posture=Posture.Reactive,
                threshold=1,
                within=ONCE_IN,
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.SCHEDULED,
                    name="AwaitingRetry",
                    message="It crashed: another worker resumes it.",
                    force=False,
                )
            ],
        ),
    ]


def alerts(block: UUID) -> list[AutomationCore]:
    """Automations that notify people of what needs their attention.

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
            "linkerd: a mesh keeps failing",
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
            "linkerd: a mesh has recovered",
            "a mesh that kept failing has recovered.",
            EventTrigger(
                match=ResourceSpecification(
                    {"prefect.resource.id": "linkerd.mesh.*", RECOVERED: "true"}
                ),
                expect=set(VERDICTS),
                posture=Posture.Reactive,
                threshold=1,
            ),
            "Mesh {{ event.resource.name }} has recovered",
            "{{ event.payload.summary }}",
        ),
        tell(
            "linkerd: a mesh is no longer verified",
            f"a mesh has had no verdict for {_hours(SILENCE)} since its last one.",
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
            f"There was no verdict for {_hours(SILENCE)}: its cluster may be unreachable, or no "
            "worker may be running. Look at the runs of verify_mesh.",
        ),
        tell(
            "linkerd: a certificate expires soon",
            "a certificate of a mesh expires soon, and nothing renews it automatically.",
            EventTrigger(
                match=ResourceSpecification(
                    {
                        "prefect.resource.id": "linkerd.mesh.*",
                        RENEWED_BY: "nobody",
                    }
                ),
                expect={EXPIRING},
                for_each={"prefect.resource.id", ROLE},
                posture=Posture.Reactive,
                threshold=1,
                within=ONCE_IN,
            ),
            "The {{ event.payload.role }} of mesh {{ event.resource.name }} expires soon",
            "{{ event.payload.object }}: {{ event.payload.days_left }} days are left.\n"
            "{{ event.payload.remedy }}",
        ),
        tell(
            "linkerd: a run waits for approval",
            "a flow waits for approval.",
            EventTrigger(
                match=_RUNS,
                match_related=_tagged(CHANGES),
                expect={"prefect.flow-run.Paused", "prefect.flow-run.Suspended"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            "{{ flow_run.name }} waits for approval",
            "Look at its plan, then resume or cancel it: {{ flow_run|ui_url }}",
        ),
        tell(
            "linkerd: a change of a mesh failed",
            "a flow that changes meshes failed or crashed.",
            EventTrigger(
                match=_RUNS,
                match_related=_tagged(CHANGES),
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            "{{ flow_run.name }} failed",
            "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
        ),
    ]


_RUNS = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})


def _tagged(*tags: str) -> ResourceSpecification:
    return ResourceSpecification(
        {
            "prefect.resource.id": [f"prefect.tag.{tag}" for tag in tags],
            "prefect.resource.role": "tag",
        }
    )


def _hours(length: timedelta) -> str:
    return f"{length.total_seconds() / 3600:g} h"
