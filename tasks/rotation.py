"""The steps of a rotation: looking, claiming the mesh, and one phase after the other."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from uuid import uuid4

from prefect import pause_flow_run
from prefect.artifacts import create_markdown_artifact
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from mesh.charts import Chart, ChartCatalog
from mesh.helm import Helm
from mesh.rotation.key_ring import KeyRing
from mesh.rotation.options import Action, NewAnchor, RotationOptions
from mesh.rotation.phases import PHASES, PhaseName
from mesh.rotation.plan import RotationPlan, look
from mesh.rotation.record import RotationClaim, RotationRecord
from mesh.rotation.run import Rotation
from mesh.rotation.story import plan_markdown, rotation_notice, story_markdown
from tasks.events import send
from tasks.linkerd_mesh import LinkerdMesh, cluster_of
from tasks.progress import RolloutProgress
from tasks.step import step
from tasks.trust_anchor import key_store


@step("plan", description="Checks what was given against what is there, and plans the rotation.")
def plan_rotation(
    mesh: LinkerdMesh, new_anchor: NewAnchor, options: RotationOptions, action: Action
) -> RotationPlan:
    """The plan, also as an artifact; nothing is changed."""
    cluster = cluster_of(mesh)
    plan = look(
        cluster,
        mesh,
        control_plane_chart(mesh),
        KeyRing(key_store(mesh, cluster)),
        new_anchor,
        options,
        action,
        cluster.clock(),
    )
    log = get_run_logger()
    for trouble in plan.troubles:
        log.warning("Not well: %s", trouble)
    for item in plan.by_hand:
        log.warning("To be done by a person: %s", item)
    create_markdown_artifact(
        plan_markdown(mesh.name, plan), key=f"{mesh.name}-rotation-plan", description="The plan"
    )
    return plan


def control_plane_chart(mesh: LinkerdMesh) -> Chart:
    one = mesh.linkerd.layout == "one-chart"
    return ChartCatalog(mesh).find("linkerd2" if one else "linkerd-control-plane")


@contextmanager
def claimed_mesh(mesh: LinkerdMesh, options: RotationOptions) -> Generator[RotationClaim]:
    """The right to rotate a mesh: by a lease in the cluster, whoever else runs.

    Where the Prefect server has a global concurrency limit `linkerd-rotation-<mesh>`, runs queue
    up there first.
    """
    cluster = cluster_of(mesh)
    claim = RotationClaim(cluster, mesh.namespaces.linkerd, _owner(), options.lease_seconds)
    with concurrency(f"linkerd-rotation-{mesh.name}", strict=False), claim:
        yield claim


@contextmanager
def claimed_rotation(mesh: LinkerdMesh, options: RotationOptions) -> Generator[Rotation]:
    """A rotation of a mesh's anchor, with the right to it."""
    cluster = cluster_of(mesh)
    with claimed_mesh(mesh, options) as claim:
        ring = KeyRing(key_store(mesh, cluster))
        chart = control_plane_chart(mesh)
        yield Rotation(cluster, mesh, Helm(cluster), chart, ring, claim, options)


def _owner() -> str:
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return f"flow run {run.name} {uuid4()}" if run is not None else str(uuid4())


@step("prepare", description="Keeps the new anchor's key, and writes down what is to be done.")
def begin(rotation: Rotation, new_anchor: NewAnchor, action: Action) -> RotationRecord:
    record = rotation.begin(new_anchor, action)
    get_run_logger().info("Goal: trust anchor sha256 %s", record.goal)
    return record


@step("next phase", description="Which phase's proof does not hold yet, by the cluster itself.")
def upcoming(rotation: Rotation, action: Action) -> PhaseName:
    return rotation.next_phase(recover=action == "recover")


def approve(phase: PhaseName, options: RotationOptions) -> None:
    """Pauses the run until somebody resumes it, before the phases that ask for that."""
    if phase not in options.approvals:
        return
    words = next(each for each in PHASES if each.name == phase)
    await_approval(f"phase {phase}: {words.does}", options)


def await_approval(of: str, options: RotationOptions) -> None:
    """Pauses the run until somebody resumes it; fails after the approval's time."""
    get_run_logger().info("Waiting for approval of %s", of)
    pause_flow_run(timeout=int(options.approval_hours * 3600))  # pyright: ignore[reportUnusedCoroutine]


@step("phase", run_name="{phase}", description="One phase, and its proof.")
def advance(mesh: LinkerdMesh, rotation: Rotation, phase: PhaseName, action: Action) -> None:
    with RolloutProgress(mesh.name, phase) as progress:
        if action == "recover":
            match phase:
                case "switch":
                    rotation.issue()
                case "bundle":
                    rotation.bundle_alone(progress)
                case _:
                    rotation.recover(progress)
            return
        match phase:
            case "bundle":
                rotation.bundle(progress)
            case "spread":
                rotation.spread(progress)
            case "switch":
                rotation.switch(progress)
            case _:
                rotation.drop(progress)


@step("done", description="Verifies the mesh, forgets the other keys and tells the story.")
def finish(mesh: LinkerdMesh, rotation: Rotation, plan: RotationPlan) -> RotationRecord:
    rotation.finish()
    record = rotation.record
    create_markdown_artifact(
        story_markdown(mesh.name, record, plan),
        key=f"{mesh.name}-rotation",
        description=f"Trust anchor of mesh {mesh.name}",
    )
    send([rotation_notice(mesh.name, record)])
    if mesh.trust_anchor.brought:
        get_run_logger().warning(
            "The mesh's configuration still brings its old trust anchor: empty "
            "trust_anchor.certificate and private_key, or bring the new one"
        )
    return record
