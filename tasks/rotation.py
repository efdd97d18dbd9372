"""The steps of a rotation: planning, claiming the mesh, then one phase after the other."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from uuid import uuid4

from pydantic import SecretStr

from prefect_linkerd.mesh.config.model import UpgradePolicy
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.kubernetes.permissions import naming_all_missing
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import RotationClaim, RotationRecord
from prefect_linkerd.mesh.rotation.options import Action, NewAnchor, RotationOptions, WebhookOptions
from prefect_linkerd.mesh.rotation.permissions import issuer_permissions, rotation_reads
from prefect_linkerd.mesh.rotation.phases import CERTIFICATE_PHASES, PHASES, PhaseName
from prefect_linkerd.mesh.rotation.plan import RotationPlan, inspect_rotation
from prefect_linkerd.mesh.rotation.run import Rotation
from prefect_linkerd.mesh.rotation.story import plan_markdown, rotation_notice, story_markdown
from prefect_linkerd.mesh.uninstall.options import UninstallOptions
from prefect_linkerd.tasks.approval import await_approval
from prefect_linkerd.tasks.events import send
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact, get_run_logger, outside
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.step import step
from prefect_linkerd.tasks.traffic import told
from prefect_linkerd.tasks.trust_anchor import key_ring, load_secret


@step("plan", description="Checks the input against the cluster, and plans the rotation.")
def plan_rotation(
    mesh: Mesh, new_anchor: NewAnchor, options: RotationOptions, action: Action
) -> RotationPlan:
    """The plan, also as an artifact; changes nothing."""
    if action != "drop":
        # `drop` only restarts workloads, which needs no helm.
        mesh.helm.require()
    new = with_key(new_anchor)
    with naming_all_missing(
        mesh.cluster,
        f"rotation of mesh {mesh.name}",
        lambda: rotation_reads(mesh.config) + issuer_permissions(mesh.config, (), has_record=False),
    ):
        plan = inspect_rotation(mesh, key_ring(mesh), new, options, action, mesh.cluster.clock())
    log = get_run_logger()
    for trouble in plan.troubles:
        log.warning("Unhealthy: %s", trouble)
    for warning in plan.warnings:
        log.warning("%s", warning)
    for item in plan.manual:
        log.warning("To be done manually: %s", item)
    create_markdown_artifact(
        plan_markdown(mesh.name, plan),
        key=mesh_key(mesh.name, "rotation-plan"),
        description="The plan",
    )
    return plan


def with_key(new: NewAnchor) -> NewAnchor:
    """The new anchor, with its key if a Prefect Secret block holds it.

    Raises:
        InvalidInput: the block does not exist, or holds no text.
    """
    name = new.private_key_block
    if name is None:
        return new
    content = load_secret(name)
    if not isinstance(content, str):
        raise InvalidInput(
            f"Prefect Secret block {name}",
            expected="the new trust anchor's private key (PEM)",
            found="no block of that name" if content is None else "something that is not text",
            remedy="Save the key there. To resume a rotation, leave new_anchor empty.",
        )
    return new.with_key(SecretStr(content))


def claim_of(
    mesh: Mesh,
    options: RotationOptions | WebhookOptions | UpgradePolicy | UninstallOptions,
) -> RotationClaim:
    """The right to change a mesh: a lease in the cluster, which holds across Prefect servers."""
    return RotationClaim(
        mesh.cluster,
        mesh.config.namespaces.linkerd,
        _owner(),
        options.lease_seconds,
        on_wait=get_run_logger().warning,
    )


@contextmanager
def claimed_mesh(
    mesh: Mesh, options: RotationOptions | WebhookOptions | UninstallOptions
) -> Generator[RotationClaim]:
    """Holds the claim to a mesh.

    Runs on the same Prefect server first queue at its global concurrency limit
    `linkerd-rotation-<mesh>`.
    """
    claim = claim_of(mesh, options)
    with outside().alone(f"linkerd-rotation-{mesh.name}", options.lease_seconds), claim:
        yield claim


@contextmanager
def claimed_rotation(mesh: Mesh, options: RotationOptions) -> Generator[Rotation]:
    """A rotation of a mesh's anchor, holding the claim to the mesh."""
    with claimed_mesh(mesh, options) as claim:
        ring = key_ring(mesh)
        yield Rotation(mesh, ring, claim, options)


def _owner() -> str:
    return f"{outside().owner} {uuid4()}".strip()


@step("prepare", description="Stores the new anchor's key, and records the rotation's goal.")
def begin(rotation: Rotation, new_anchor: NewAnchor, action: Action) -> RotationRecord:
    record = rotation.begin(with_key(new_anchor), action)
    get_run_logger().info("Goal: trust anchor sha256 %s", record.goal)
    return record


def was_done_meanwhile(rotation: Rotation, plan: RotationPlan) -> bool:
    """Whether another run has completed the rotation since this one made its plan."""
    is_done = rotation.is_done_since(plan.record)
    if is_done:
        get_run_logger().info("Another run has completed the rotation meanwhile")
    return is_done


@step(
    "next phase",
    description="Finds the first incomplete phase from the state of the cluster.",
)
def upcoming(rotation: Rotation, action: Action) -> PhaseName:
    return rotation.next_phase(recover=action == "recover")


def approve(phase: PhaseName, options: RotationOptions) -> None:
    """Waits for approval if the options require it for this phase.

    Raises:
        NotApproved: the approval times out.
    """
    if phase not in options.approvals:
        return
    words = next(each for each in (*CERTIFICATE_PHASES, *PHASES) if each.name == phase)
    await_approval(f"phase {phase}: {words.does}", options.approval_hours)


@step("phase", run_name="{phase}", description="Carries out one phase and verifies it.")
def advance(mesh: Mesh, rotation: Rotation, phase: PhaseName, action: Action) -> None:
    with RolloutProgress(mesh.name, phase) as progress, told(mesh.name, lambda: rotation.traffic):
        rotation.advance(phase, progress, recover=action == "recover")


@step("done", description="Verifies the mesh, deletes the other keys and reports what was done.")
def finish(mesh: Mesh, rotation: Rotation, plan: RotationPlan) -> RotationRecord:
    rotation.finish()
    record, requests = rotation.record, rotation.probe.outcome
    create_markdown_artifact(
        story_markdown(mesh.name, record, plan, requests, rotation.traffic),
        key=mesh_key(mesh.name, "rotation"),
        description=f"Trust anchor of mesh {mesh.name}",
    )
    send([rotation_notice(mesh.name, record, requests)])
    get_run_logger().info("Probe: %s", requests.sentence)
    if mesh.config.trust_anchor.provided:
        get_run_logger().warning(
            "The mesh's configuration still provides the old trust anchor: remove "
            "trust_anchor.certificate and private_key, or provide the new one"
        )
    return record
