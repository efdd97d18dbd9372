"""The configured version, the control plane's and the proxies', and the newest.

`config.version` takes the place of the linkerd CLI's version, and the newest release comes from
the chart source instead of linkerd's online version check.

Source: linkerd2 `pkg/healthcheck`, categories linkerd-version and control-plane-version, and
`pkg/version` (Channels).
"""

from __future__ import annotations

from collections.abc import Iterable

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.checks.config import AGAIN
from prefect_linkerd.mesh.checks.existence import installed_values
from prefect_linkerd.mesh.install.injection import PROXY_VERSION
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.snapshot.mesh import Pod, Snapshot

linkerd_version = Category[Snapshot]("linkerd-version", "control-plane", also=("pre", "crds"))
control_plane_version = Category[Snapshot]("control-plane-version", "control-plane")

UPGRADE = "Set version to that release, and run the upgrade flow."


def outdated(snapshot: Snapshot, version: str) -> str:
    """How a version differs from the chart source's newest; empty if it does not.

    Raises:
        Skip: the newest is not known; `l5d-version-latest` reports it.
    """
    if "newest" in snapshot.unread:
        raise Skip("the newest version is not known (l5d-version-latest)")
    newest = snapshot.newest
    if version == str(newest):
        return ""
    if not version.startswith(f"{newest.channel}-"):
        return f"{version} is from another channel than {newest}, the newest in the chart source"
    return f"it is {version}, and the newest is {newest}"


@linkerd_version.check("l5d-version-latest", "can determine the latest version", "warning")
def version_latest(snapshot: Snapshot) -> Problems:
    if error := snapshot.unread.get("newest"):
        yield Problem(
            error.subject, f"expected {error.expected}, found {error.found}", error.remedy
        )


@linkerd_version.check("l5d-version-cli", "cli is up-to-date", "warning")
def version_cli(snapshot: Snapshot) -> Problems:
    if text := outdated(snapshot, snapshot.config.version):
        yield Problem("configured version", text, UPGRADE)


def _control_plane(snapshot: Snapshot) -> str:
    version = str(installed_values(snapshot).get("linkerdVersion", ""))
    if not version:
        raise Skip("the control plane's version is not known")
    return version


@control_plane_version.check(
    "l5d-version-control", "can retrieve the control plane version", fatal=True
)
def can_retrieve_the_control_plane_version(snapshot: Snapshot) -> Problems:
    if not installed_values(snapshot).get("linkerdVersion"):
        yield Problem(
            f"ConfigMap/{snapshot.config.namespaces.linkerd}/linkerd-config",
            "its values have no linkerdVersion",
            AGAIN,
        )


@control_plane_version.check("l5d-version-control", "control plane is up-to-date", "warning")
def control_plane_is_up_to_date(snapshot: Snapshot) -> Problems:
    if text := outdated(snapshot, _control_plane(snapshot)):
        yield Problem("control plane", text, UPGRADE)


@control_plane_version.check(
    "l5d-version-control", "control plane and cli versions match", "warning"
)
def control_plane_and_cli_versions_match(snapshot: Snapshot) -> Problems:
    running, wanted = _control_plane(snapshot), snapshot.config.version
    if running != wanted:
        text = f"it runs {running}, and the configuration says {wanted}"
        yield Problem("control plane", text, "Run the upgrade flow, or correct version.")


# Versions of proxies, for every category that checks them


def proxies_outdated(snapshot: Snapshot, pods: Iterable[Pod]) -> Problems:
    """The running pods whose proxy does not have the chart source's newest version.

    Raises:
        Skip: as `outdated`.
    """
    for pod in pods:
        if pod.proxy is None or pod.status != "Running" or not _known(pod):
            continue
        if text := outdated(snapshot, pod.proxy.version):
            yield Problem(pod.subject, f"its proxy is outdated: {text}", UPGRADE)


def proxies_differ(snapshot: Snapshot, pods: Iterable[Pod]) -> Problems:
    """The pods whose proxy does not have the configured version."""
    wanted = snapshot.config.version
    everywhere = not release_facts(snapshot.version).compares_running_proxies_only
    for pod in pods:
        if pod.proxy is None or not (everywhere or pod.status == "Running") or not _known(pod):
            continue
        if pod.proxy.version != wanted:
            text = f"its proxy is {pod.proxy.version}, and the configuration says {wanted}"
            pinned = PROXY_VERSION in pod.annotations
            remedy = (
                f"It is pinned by annotation {PROXY_VERSION}: remove that from the workload or "
                "its namespace, and restart it."
                if pinned
                else "Restart its workload."
            )
            yield Problem(pod.subject, text, remedy)


def _known(pod: Pod) -> bool:
    """Whether the proxy's image tag says its version; an image pinned by digest has no tag."""
    return pod.proxy is not None and bool(pod.proxy.version) and "@" not in pod.proxy.image
