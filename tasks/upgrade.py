"""The steps of an upgrade: plan and record, chart split, data plane, rollback."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import cast

from prefect_linkerd.mesh.kubernetes.permissions import naming_all_missing
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.preflight import permissions
from prefect_linkerd.mesh.records import upgrade as records
from prefect_linkerd.mesh.report.report import Report
from prefect_linkerd.mesh.restarts import Restarted, data_plane_reads
from prefect_linkerd.mesh.upgrade.going_back import BackPlan, back_markdown, inspect_way_back
from prefect_linkerd.mesh.upgrade.plan import at_version, plan_markdown
from prefect_linkerd.mesh.upgrade.run import PlannedUpgrade, Upgrade, inspect_upgrade
from prefect_linkerd.mesh.upgrade.snapshot import newest_target
from prefect_linkerd.mesh.upgrade.story import story_markdown, upgrade_notice
from prefect_linkerd.tasks.events import send
from prefect_linkerd.tasks.injection import log_restarted
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, block_name
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact, get_run_logger
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.step import step
from prefect_linkerd.tasks.traffic import told


@step(
    "choose version",
    description="Chooses the version to upgrade to, by name or by the mesh's policy.",
)
def choose_target(mesh: Mesh, to: str | None) -> LinkerdVersion:
    """The named one; else that of an upgrade in progress; else the newest the policy allows."""
    if to is not None:
        return LinkerdVersion.parse(to)
    with _permitted(mesh):
        return newest_target(mesh)


def _permitted(mesh: Mesh) -> AbstractContextManager[None]:
    """Raises an error that names every missing permission if a read of the plan is denied."""
    return naming_all_missing(
        mesh.cluster,
        f"upgrade of mesh {mesh.name}",
        lambda: [*permissions(mesh.config), *data_plane_reads()],
    )


@step("plan", description="Plans what the upgrade would change, and finds what blocks it.")
def plan(mesh: Mesh, target: LinkerdVersion, accept: frozenset[str]) -> PlannedUpgrade:
    """The plan, also as a Markdown artifact; changes nothing."""
    mesh.helm.require()
    with _permitted(mesh):
        planned = inspect_upgrade(mesh, target, accept)
    create_markdown_artifact(
        plan_markdown(planned.plan, planned.snapshot.traffic_splits),
        key=mesh_key(mesh.name, "upgrade-plan"),
        description=f"Mesh {mesh.name}: {planned.plan.source} to {planned.plan.target}",
    )
    for finding in planned.plan.findings:
        get_run_logger().warning("%s: %s", finding.severity, finding)
    return planned


@step("record", description="Records in one ConfigMap which revisions to roll back to.")
def begin(upgrade: Upgrade) -> None:
    upgrade.begin()


@step(
    "plan", description="Plans which releases roll back to which revision, and finds what cannot."
)
def plan_going_back(mesh: Mesh, accept: frozenset[str]) -> BackPlan | None:
    """The rollback plan of a completed upgrade; None if an upgrade is in progress.

    An upgrade in progress has recorded its own. Also as a Markdown artifact; changes nothing.
    """
    made = inspect_way_back(mesh, accept)
    if made is None:
        return None
    mesh.helm.require()
    create_markdown_artifact(
        back_markdown(made),
        key=mesh_key(mesh.name, "upgrade-plan"),
        description=f"Mesh {mesh.name}: back from {made.target} to {made.source}",
    )
    for finding in made.findings:
        get_run_logger().warning("%s: %s", finding.severity, finding)
    return made


@step("record", description="Records what is rolled back, and to which revision, in one ConfigMap.")
def begin_going_back(mesh: Mesh, made: BackPlan) -> None:
    """Call it while holding the claim; from here on, every run continues the rollback."""
    if made.record is not None:
        records.begin(mesh, made.record)


@step("chart split", description="Moves the objects of release linkerd2 to the two new releases.")
def split_chart(upgrade: Upgrade) -> list[str]:
    """The objects whose owner changed; nothing else about them changes."""
    moved = upgrade.split_chart()
    get_run_logger().info("%d objects of release linkerd2 have new owners", len(moved))
    return moved


@step("end of the split", description="Deletes the record of release linkerd2.")
def finish_split(upgrade: Upgrade) -> None:
    upgrade.finish_split()


@step("keep CRDs", description="Makes sure that Helm deletes no CRD.")
def keep_crds(upgrade: Upgrade) -> list[str]:
    """The CRDs that the new charts no longer contain, and that are kept."""
    return upgrade.keep_crds()


@step(
    "namespaces", description="Sets the namespace labels and annotations that this version needs."
)
def fix_namespaces(upgrade: Upgrade) -> list[str]:
    return upgrade.fix_namespaces()


@step(
    "gone extension", run_name="uninstall {name}", description="Uninstalls, and keeps the history."
)
def uninstall(upgrade: Upgrade, name: str) -> None:
    upgrade.uninstall(name)


@step(
    "soak", description="Lets the new control plane run for a while before the data plane follows."
)
def soak(upgrade: Upgrade) -> None:
    """Counts from when the control plane became ready, even across an interruption."""
    until = upgrade.begin_soak()
    get_run_logger().info("The new control plane soaks until %s", until)
    with RolloutProgress(upgrade.after.name, "soak") as progress:
        upgrade.soak(until, progress)


@step(
    "data plane",
    description="Restarts every workload whose proxy has another version, batch by batch.",
)
def move_data_plane(upgrade: Upgrade) -> Restarted:
    """Runs until every proxy has the wanted version, except those to be restarted manually."""
    name, log = upgrade.goal.name, get_run_logger()
    with RolloutProgress(name, "data plane") as progress, told(name, lambda: upgrade.traffic):
        done = upgrade.move_data_plane(progress)
    for left in done.manual:
        log.warning("To be done manually: %s", left)
    for left in upgrade.left_alone():
        log.warning("%s, and was left alone", left)
    return done


@step("turn back", description="Records that the upgrade rolls back, and why.")
def record_rollback(upgrade: Upgrade, reason: str) -> None:
    get_run_logger().error("The upgrade rolls back: %s", reason)
    upgrade.record_rollback(reason)


@step("way back", description="Rolls every release back to its former revision.")
def roll_back(upgrade: Upgrade) -> tuple[str, ...]:
    """The releases that were rolled back."""
    with RolloutProgress(upgrade.before.name, "way back") as progress:
        done = upgrade.roll_back(progress)
    log_restarted(done.remeshed)
    get_run_logger().info("Rolled back: %s", ", ".join(done.parts) or "nothing")
    return done.parts


@step("end", description="Deletes the record, and the history of uninstalled extensions.")
def end(upgrade: Upgrade) -> None:
    upgrade.end()


@step(
    "arrived", description="Reports that the mesh is upgraded, and saves its version in its block."
)
def report_upgraded(upgrade: Upgrade, verified: Report) -> None:
    _tell(upgrade, verified)
    keep_version(upgrade.after)


@step("went back", description="Reports that the mesh is back at its former version, and why.")
def report_rolled_back(upgrade: Upgrade, verified: Report) -> None:
    _tell(upgrade, verified)


def _tell(upgrade: Upgrade, verified: Report) -> None:
    name, record = upgrade.goal.name, upgrade.record
    create_markdown_artifact(
        story_markdown(upgrade, verified),
        key=mesh_key(name, "upgrade"),
        description=f"Mesh {name}: {record.source} to {record.target}",
    )
    send([upgrade_notice(upgrade)])


def keep_version(mesh: Mesh) -> None:
    """Saves a mesh's version in its block, if it has one.

    Bootstrap and the next upgrade then start from the installed version.
    """
    if (name := block_name(mesh.config)) is None:
        return
    # Loaded again, because the block may have changed meanwhile.
    stored = cast("LinkerdMesh", LinkerdMesh.load(name))  # pyright: ignore[reportUnknownMemberType]
    if stored.version != mesh.config.version:
        at_version(stored, mesh.config.linkerd).save(name, overwrite=True)  # pyright: ignore[reportUnknownMemberType,reportUnusedCoroutine]
