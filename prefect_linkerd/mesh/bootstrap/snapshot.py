"""Reads what the plan of bootstrap is made from; changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from prefect_linkerd.mesh.bootstrap.plan import BootstrapSnapshot, next_action
from prefect_linkerd.mesh.checks.preflight import preflight
from prefect_linkerd.mesh.config.model import Dependency
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.client import DesiredRelease
from prefect_linkerd.mesh.helm.own_objects import Foreign, OwnObject, always, foreign, read_foreign
from prefect_linkerd.mesh.helm.ownership import owner_of_release
from prefect_linkerd.mesh.helm.records import Release, deployed, read_release, read_releases
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.identity.issuer import read_needed
from prefect_linkerd.mesh.identity.trust_anchor import KeyStore, decide_trust_anchor, read_snapshot
from prefect_linkerd.mesh.install.dependencies import decide_dependency, is_served
from prefect_linkerd.mesh.install.emojivoto import own_emojivoto
from prefect_linkerd.mesh.install.ingress import own_routes
from prefect_linkerd.mesh.install.namespaces import lacks, namespaces
from prefect_linkerd.mesh.install.registry import own_pull_secrets
from prefect_linkerd.mesh.kubernetes.client import Cluster, name_of
from prefect_linkerd.mesh.kubernetes.rollout import KINDS, LONG_RUNNING
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import join_bundle
from prefect_linkerd.mesh.planning.desired import dependencies_of, wanted_on
from prefect_linkerd.mesh.planning.losses import some
from prefect_linkerd.mesh.planning.preflight import (
    Finding,
    PreflightSnapshot,
    read_preflight,
)
from prefect_linkerd.mesh.planning.release_changes import Comparison, installed_crds, read_changes

NEW_ANCHOR = "a trust anchor that is yet to be made"
"""Stands for the new anchor's PEM in a plan, because charts cannot be rendered without one."""


def read_bootstrap(
    mesh: Mesh, charts: Sequence[Chart], store: KeyStore, accepted: frozenset[str] = frozenset()
) -> BootstrapSnapshot:
    """Everything that the plan of bootstrap depends on.

    If preflight finds an error, nothing else is read: a permission to read may be missing.

    Args:
        charts: Linkerd's, as the configuration wants them.
        store: where the trust anchor's key is kept.

    Raises:
        InvalidInput: the provided or kept trust anchor is unfit, or a dependency is missing and may
            not be installed.
        ChartError: a chart, or emojivoto's manifest, cannot be found.
    """
    releases = read_releases(mesh.cluster)
    found = read_preflight(mesh, releases)
    findings = preflight(found, mesh.config, charts)
    now = datetime.now(UTC)
    if any(finding.severity == "error" for finding in findings):
        return BootstrapSnapshot(
            mesh.config, found.facts, now, (), {}, {}, (), findings, "", "made"
        )
    objects = own_objects(mesh, found.facts)
    findings += foreign_findings(
        [*read_foreign(mesh.cluster, objects), *read_foreign_workloads(mesh)]
    )
    anchors = read_snapshot(mesh, store)
    origin, certificate = decide_trust_anchor(anchors, mesh.config, now, store.where)
    bundle = NEW_ANCHOR
    if certificate is not None:
        bundle = join_bundle([*([anchors.trusted] if anchors.trusted else []), certificate])
    wanted = _wanted(mesh, found, bundle)
    current = _current(mesh.cluster, wanted)
    installed = {
        each.chart.name: revision
        for each in wanted
        if (revision := deployed(mesh.cluster, each.name, each.namespace)) is not None
    }
    ours = {r.ref for r in releases if owner_of_release(r).by == "prefect-linkerd"}
    comparisons = [
        Comparison(
            each,
            installed.get(each.chart.name),
            is_ours=(r := current.get(f"{each.namespace}/{each.name}")) is not None
            and r.ref in ours,
            is_settled=next_action(each, r, now) in ("unchanged", "kept"),
        )
        for each in wanted
    ]
    return BootstrapSnapshot(
        config=mesh.config,
        facts=found.facts,
        now=now,
        wanted=wanted,
        current=current,
        installed=installed,
        changes=read_changes(mesh, mesh.config, comparisons, found.facts),
        findings=findings,
        trusted=anchors.trusted,
        anchor=origin,
        new_namespaces=[
            name
            for each in namespaces(mesh.config)
            if mesh.cluster.get("v1", "Namespace", name := each["metadata"]["name"]) is None
        ],
        accepted=accepted,
        crds=installed_crds(
            mesh.cluster, installed, [c.desired.chart for c in comparisons if not c.is_settled]
        ),
    )


def own_objects(mesh: Mesh, facts: ClusterFacts) -> list[OwnObject]:
    """Everything that bootstrap makes outside of Helm releases, except namespaces.

    Left out is what it creates and never overwrites: the Secrets of the issuer and trust anchor.

    Raises:
        ChartError: emojivoto's manifest cannot be read.
    """
    found = [*own_pull_secrets(mesh.config), *own_routes(mesh.config, facts.api_versions)]
    if mesh.config.issuer == "cert-manager" and is_served("cert-manager", mesh.cluster.serves):
        found += read_needed(mesh)
    return [*found, *own_emojivoto(mesh.config)] if mesh.config.emojivoto.enabled else found


def read_foreign_workloads(mesh: Mesh) -> Iterator[Foreign]:
    """Somebody else's workloads that would be meshed once emojivoto's namespace is changed.

    Nothing if the namespace is as it should be, or does not exist yet.
    """
    name = mesh.config.namespaces.emojivoto
    wanted = next((o for o in namespaces(mesh.config) if o["metadata"]["name"] == name), None)
    found = mesh.cluster.get("v1", "Namespace", name) if wanted is not None else None
    if wanted is None or found is None or not lacks(wanted, found):
        return
    advice = always(
        "To leave that namespace as it is, set emojivoto.enabled to false; or name another one for "
        "the application (namespaces.emojivoto)."
    )
    # The application's own workloads are checked by name (`own_objects`).
    own = {name_of(each.wanted) for each in own_emojivoto(mesh.config)}
    for kind in LONG_RUNNING:
        for obj in mesh.cluster.list(KINDS[kind], kind, name, metadata_only=True):
            theirs = foreign(OwnObject(obj, advice), obj)
            if theirs is not None and theirs.subject not in own:
                yield theirs


def foreign_findings(theirs: Iterable[Foreign]) -> Iterator[Finding]:
    """Findings for somebody else's objects that are in the way, one per owner and remedy."""
    by_advice: dict[tuple[str, str], list[str]] = {}
    for each in theirs:
        by_advice.setdefault((str(each.owner), each.remedy), []).append(each.subject)
    for (owner, remedy), subjects in by_advice.items():
        text = f"bootstrap would change it, but it belongs to {owner}"
        yield Finding("pl-owner", "error", some(subjects), text, remedy)


def _wanted(mesh: Mesh, found: PreflightSnapshot, bundle: str) -> tuple[DesiredRelease, ...]:
    new: list[Dependency] = [
        name
        for name in dependencies_of(mesh.config)
        if decide_dependency(
            name, mesh.config, found.releases, served=is_served(name, mesh.cluster.serves)
        )
        == "release"
    ]
    return wanted_on(mesh, found.facts, found.releases, found.installed, bundle, new)


def _current(cluster: Cluster, wanted: Sequence[DesiredRelease]) -> dict[str, Release]:
    """The existing releases, with their values."""
    return {
        f"{each.namespace}/{each.name}": release
        for each in wanted
        if (release := read_release(cluster, each.name, each.namespace)) is not None
    }
