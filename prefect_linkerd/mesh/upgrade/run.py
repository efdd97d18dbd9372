"""The steps of an upgrade and of its way back. A run can be killed at any point and run again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from prefect_linkerd.mesh.helm.charts import Chart, ChartName
from prefect_linkerd.mesh.helm.installed import mesh_releases
from prefect_linkerd.mesh.helm.records import Revision, forget, read_releases
from prefect_linkerd.mesh.helm.values import ClusterFacts, proxy_version
from prefect_linkerd.mesh.install.injection import ensure_meshed
from prefect_linkerd.mesh.install.namespaces import ensure_namespaces
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.rollout import (
    OnProgress,
    await_rollouts,
    read_workloads,
)
from prefect_linkerd.mesh.kubernetes.waiting import polls
from prefect_linkerd.mesh.linkerd.facts import EXTENSION_CHARTS
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning import chart_split
from prefect_linkerd.mesh.planning.chart_split import CONTROL_PLANE, CRDS, OLD
from prefect_linkerd.mesh.probe.restarting import restart_with_probe
from prefect_linkerd.mesh.probe.run import Probe
from prefect_linkerd.mesh.records.rotation import RotationClaim
from prefect_linkerd.mesh.records.upgrade import (
    RecordedRelease,
    UpgradeRecord,
    another_target,
    begin,
    changed_meanwhile,
    end,
    read_record,
    write_record,
)
from prefect_linkerd.mesh.restarts import Restarted, RestartPolicy, read_data_plane
from prefect_linkerd.mesh.traffic.watch import BatchTraffic, TrafficWatch
from prefect_linkerd.mesh.upgrade.plan import PlanSnapshot, UpgradePlan, at_version, plan_upgrade
from prefect_linkerd.mesh.upgrade.snapshot import installed_releases, is_behind, pins_of, read_plan
from prefect_linkerd.mesh.upgrade.way_back import BackStep, way_back

SOAK_POLL_SECONDS = 10.0
"""Seconds between two checks of the control plane while it soaks."""

REASON = 4000
"""The most characters that are recorded of the reason for going back."""


@dataclass(frozen=True)
class PlannedUpgrade:
    """A plan, its input, and the mesh before and after.

    `record` is the upgrade that was already in progress when planning started.
    """

    plan: UpgradePlan
    snapshot: PlanSnapshot
    before: Mesh
    after: Mesh
    record: UpgradeRecord | None


@dataclass(frozen=True)
class RolledBack:
    """The parts of the mesh that were rolled back.

    `remeshed` are workloads that came up without a proxy and were restarted.
    """

    parts: tuple[str, ...]
    remeshed: tuple[Workload, ...]


def inspect_upgrade(mesh: Mesh, target: LinkerdVersion, accepted: frozenset[str]) -> PlannedUpgrade:
    """Plans an upgrade; changes nothing.

    Args:
        accepted: ids of findings that a person has reviewed.

    Raises:
        InvalidInput: a downgrade, or a version that skips minors.
        MeshBusy: an upgrade to another version is in progress.
        OwnershipConflict: the mesh is not a Helm release, but belongs to Argo CD, say.
    """
    record = read_record(mesh)
    if record is not None and record.target != str(target):
        raise another_target(mesh.config, record)
    snapshot = read_plan(mesh, target, record=record, accepted=accepted)
    return PlannedUpgrade(
        plan_upgrade(snapshot),
        snapshot,
        before=mesh.configured(at_version(mesh.config, snapshot.source)),
        after=mesh.configured(at_version(mesh.config, target)),
        record=record,
    )


class Upgrade:
    """One run of an upgrade, forward or back.

    Args:
        claim: the run's claim on the mesh.
        probe: sends requests while workloads restart.
    """

    def __init__(
        self, planned: PlannedUpgrade, claim: RotationClaim, restarts: RestartPolicy, probe: Probe
    ) -> None:
        self.plan = planned.plan
        self.before, self.after = planned.before, planned.after
        self.claim = claim
        self.probe = probe
        self._snapshot = planned.snapshot
        self._resumed = planned.record
        self._restarts = restarts
        self._record: UpgradeRecord | None = None
        self._watches: list[TrafficWatch] = []

    @property
    def record(self) -> UpgradeRecord:
        if self._record is None:
            raise RuntimeError("the upgrade has not begun")
        return self._record

    @property
    def is_going_back(self) -> bool:
        return self.record.direction == "back"

    @property
    def goal(self) -> Mesh:
        """The mesh at the version to reach: the new one or, on the way back, the former one."""
        return self.before if self.is_going_back else self.after

    @property
    def charts(self) -> Mapping[ChartName, Chart]:
        """The new version's charts."""
        return self._snapshot.charts

    @property
    def facts(self) -> ClusterFacts:
        return self._snapshot.facts

    @property
    def trust_bundle(self) -> str:
        """The PEM of every trust anchor that the mesh trusts."""
        return self._snapshot.trusted

    @property
    def traffic(self) -> tuple[BatchTraffic, ...]:
        """The traffic of each batch that this run has restarted."""
        return tuple(row for watch in self._watches for row in watch.rows)

    # Record

    def begin(self) -> UpgradeRecord:
        """Records every release's revision for the way back, or resumes an earlier run's record.

        Raises:
            MeshBusy: another run has changed the mesh since the plan was made.
        """
        planned = {part: found.number for part, found in self._snapshot.installed.items()}
        installed = self._installed()
        now = {part: revision.number for part, revision in installed.items()}
        found = read_record(self.before)
        is_resumed = self._resumed is not None
        if is_resumed != (found is not None) or (not is_resumed and now != planned):
            raise changed_meanwhile(self.before.config, planned, now)
        self._record = found or begin(
            self.before,
            UpgradeRecord(
                source=self.plan.source,
                target=self.plan.target,
                started=datetime.now(UTC),
                releases=tuple(
                    RecordedRelease.of(part, found) for part, found in installed.items()
                ),
            ),
        )
        return self._record

    def record_rollback(self, reason: str) -> None:
        """Records that the upgrade goes back, and why."""
        self._save({"direction": "back", "reason": reason[:REASON]})

    def end(self) -> None:
        """Deletes the record and, unless going back, the history of uninstalled extensions."""
        for gone in () if self.is_going_back else self.plan.steps:
            if gone.action == "uninstall":
                place = self.after.config.namespaces.of_chart(gone.name)
                forget(self.after.cluster, gone.name, place)
        end(self.after)

    def _save(self, changed: Mapping[str, object]) -> None:
        self._record = write_record(self.before, self.record.model_copy(update=changed))

    def _installed(self) -> dict[str, Revision]:
        return installed_releases(self.before, read_releases(self.before.cluster))

    # Forward

    def split_chart(self) -> list[str]:
        """Gives the objects of 2.11's single release to the two new ones; returns their names.

        Only their owner changes.
        """
        cluster, old = self.after.cluster, self._installed()[OLD]
        split = chart_split.decide_split(old, self._new_crds(), cluster.api_versions())
        namespace = self.after.config.namespaces.linkerd
        return chart_split.take_over(cluster, old, split, namespace, datetime.now(UTC))

    def finish_split(self) -> None:
        """Deletes the record of 2.11's release."""
        cluster, old = self.after.cluster, self._installed().get(OLD)
        if old is None:
            return
        split = chart_split.decide_split(old, self._new_crds(), cluster.api_versions())
        # Saved first: the way back needs it once the old release's record is gone.
        self._save({"left_crds": tuple(obj["metadata"]["name"] for obj in split.left)})
        chart_split.finish(cluster, old, split)

    def _new_crds(self) -> list[str]:
        return [obj["metadata"]["name"] for obj in self._snapshot.rendered[CRDS]]

    def keep_crds(self) -> list[str]:
        """Marks CRDs that the new charts lack, so that Helm keeps them; returns their names."""
        if any(step.name == CRDS and step.action == "kept" for step in self.plan.steps):
            return []
        installed = self._installed()
        olds = (installed[name].manifest for name in (OLD, CRDS) if name in installed)
        objects = [obj for manifest in olds for obj in manifest]
        return chart_split.keep_crds(self.after.cluster, objects, self._snapshot.rendered[CRDS])

    def uninstall(self, part: str) -> None:
        """Uninstalls a release that the new version no longer has, but keeps its history."""
        found = self._installed().get(part)
        if found is not None:
            timeout = self.after.config.timeout_seconds
            self.after.helm.uninstall(found.name, found.namespace, timeout)

    def begin_soak(self) -> datetime:
        """Returns when the new control plane's soak ends, counted from when it became ready.

        The start is recorded, so an interruption does not restart the soak.
        """
        if self.record.control_plane_since is None:
            self._save({"control_plane_since": datetime.now(UTC)})
        since = self.record.control_plane_since or datetime.now(UTC)
        return since + timedelta(minutes=self.after.config.upgrade.soak_minutes)

    def soak(self, until: datetime, on_progress: OnProgress) -> None:
        """Lets the new control plane run for a while before the data plane follows.

        Raises:
            NotReady: the control plane became unready during the soak and did not recover.
        """
        cluster, namespace = self.after.cluster, self.after.config.namespaces.linkerd
        patience = self.after.config.upgrade.settle_seconds
        workloads = [Workload.of(obj) for obj in read_workloads(cluster, namespace)]
        left = (until - datetime.now(UTC)).total_seconds()
        for _ in polls(left, every=SOAK_POLL_SECONDS):
            await_rollouts(cluster, workloads, patience, on_progress)

    # Back

    def roll_back(self, on_progress: OnProgress) -> RolledBack:
        """Rolls every release back to its recorded revision."""
        mesh = self.before
        found = mesh_releases(mesh.config, read_releases(mesh.cluster), {}).releases
        present = {part for part, release in found.items() if release.status != "uninstalled"}
        done: list[str] = []
        remeshed: list[Workload] = []
        self.claim.check()
        for back in way_back(self.record, present):
            if self._go_back(back, on_progress):
                done.append(back.part)
            if back.part in EXTENSION_CHARTS:
                place, timeout = back.release.namespace, mesh.config.timeout_seconds
                remeshed += ensure_meshed(mesh.cluster, place, timeout, on_progress)
        return RolledBack(tuple(done), tuple(remeshed))

    def _go_back(self, back: BackStep, on_progress: OnProgress) -> bool:
        """Takes one step of the way back; returns whether it rolled a release back."""
        cluster, helm, kept = self.before.cluster, self.before.helm, back.release
        namespace, timeout = (
            self.before.config.namespaces.linkerd,
            self.before.config.timeout_seconds,
        )
        owner = (kept.name, kept.namespace)
        match back.action:
            case "restore":
                now = datetime.now(UTC)
                chart_split.restore(cluster, owner, self.record.left_crds, namespace, now)
                return False
            case "unsplit":
                helm.roll_back(CONTROL_PLANE, namespace, 1, timeout, on_progress)
                return True
            case "give back":
                chart_split.give_back(cluster, owner, namespace)
                return False
            case "roll back":
                return helm.roll_back(*owner, kept.revision, timeout, on_progress)

    # In both directions

    def fix_namespaces(self) -> list[str]:
        """Sets the namespaces' labels and annotations for the goal's version; returns the changed.

        Up to 2.11 the annotation of an extension's namespace decides whether its pods are injected.
        """
        return ensure_namespaces(self.goal)

    def move_data_plane(self, on_progress: OnProgress) -> Restarted:
        """Restarts workloads until every proxy has the goal's version.

        Skips workloads that have to be restarted manually and those whose proxies are kept at
        another version. On the way back a drop in success rates is shown but does not stop the run:
        there is no alternative.

        Raises:
            NotReady: a restarted workload does not become ready.
            RequestsFailed: more of the probe's requests failed than allowed.
            TrafficDropped: a workload's success rate dropped after its restart.
        """
        self.claim.check()
        cluster, config = self.goal.cluster, self.goal.config
        watch = TrafficWatch(
            cluster,
            max_drop=self._restarts.max_success_drop,
            seconds=self._restarts.traffic_seconds,
            stops=not self.is_going_back,
            remedy="Look at its log and its proxy's, or allow a further drop with the option "
            "restarts.max_success_drop.",
            census=self.probe.census,
        )
        watch.phase = "way back" if self.is_going_back else "upgrade"
        self._watches.append(watch)
        version = proxy_version(config)
        return restart_with_probe(
            self.probe,
            "data plane",
            cluster,
            lambda: read_data_plane(cluster, config.namespaces.linkerd),
            lambda data_plane: is_behind(data_plane, version),
            self._restarts,
            timeout=config.timeout_seconds,
            on_progress=on_progress,
            watch=watch,
        )

    def left_alone(self) -> list[str]:
        """The workloads and namespaces that keep proxies at another version, and which version."""
        version = proxy_version(self.goal.config)
        plane = read_data_plane(self.goal.cluster, self.goal.config.namespaces.linkerd)
        return [
            f"{pin.subject} keeps its proxies at {pin.version}"
            for pin in pins_of(plane)
            if pin.version != version
        ]
