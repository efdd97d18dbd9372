"""The steps that give Linkerd's webhooks new certificates."""

from __future__ import annotations

from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.dry_run import DryRun
from prefect_linkerd.mesh.records.rotation import RotationClaim
from prefect_linkerd.mesh.rotation import webhooks
from prefect_linkerd.mesh.rotation.options import WebhookOptions
from prefect_linkerd.mesh.rotation.webhooks import WebhookRenewal, renewal_markdown, renewal_notice
from prefect_linkerd.mesh.snapshot.mesh import Certificates
from prefect_linkerd.tasks.approval import await_approval
from prefect_linkerd.tasks.events import send
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact, get_run_logger
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.step import step


@step("look", description="Checks that the charts can make new certificates; changes nothing.")
def inspect_webhooks(mesh: Mesh) -> dict[str, Certificates]:
    mesh.helm.require()
    return webhooks.inspect_webhooks(mesh)


@step("plan", description="Reports which certificates would be renewed; changes nothing.")
def webhooks_outlook(mesh: Mesh) -> DryRun:
    plan = webhooks.read_renewal(mesh)
    return DryRun(
        f"New webhook certificates of mesh {mesh.name}",
        (
            *(
                f"Helm release {each.release.ref} is upgraded to its own version, which renews "
                f"{', '.join(sorted(each.secrets))}"
                for each in plan.releases
            ),
            *(f"not renewed: {text}" for text in plan.left),
        ),
    )


def approve_webhooks(options: WebhookOptions) -> None:
    """Waits for approval if the options require it.

    Raises:
        NotApproved: the approval times out.
    """
    if options.approval:
        await_approval(
            "new webhook certificates, by upgrading each release", options.approval_hours
        )


@step(
    "webhooks",
    description="Upgrades each release to its own version, which renews its certificates.",
)
def renew_webhooks(
    mesh: Mesh, claim: RotationClaim, before: dict[str, Certificates]
) -> WebhookRenewal:
    with RolloutProgress(mesh.name, "webhooks") as progress:
        done = webhooks.renew_webhooks(mesh, claim, before, progress)
    for text in done.left:
        get_run_logger().warning("Not renewed: %s", text)
    create_markdown_artifact(
        renewal_markdown(mesh.name, done),
        key=mesh_key(mesh.name, "webhook-certificates"),
        description=f"Webhook certificates of mesh {mesh.name}",
    )
    send([renewal_notice(mesh.name, done)])
    return done
