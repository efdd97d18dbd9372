"""Announces new Linkerd releases as Prefect events."""

from prefect_linkerd.mesh.errors import ChartError
from prefect_linkerd.tasks.chart_releases import alert, find_releases, find_repositories
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.step import submit

OF_MESHES: list[str] = []
"""The repositories of the saved meshes. Not None: forms have no field for a list or null."""


@flow(
    run_name="watch charts",
    changes=False,
    page="upgrade.md",
    command="new-releases",
    needs_server=True,
    skips_overlap=True,
    schedules={"hourly": {"minutes": 60, "at": "00:20"}},
)
def watch_charts(repositories: list[str] = OF_MESHES, dry_run: bool = False) -> list[str]:
    """Announce each new Linkerd release once, as an event that can start upgrades.

    The event is `linkerd.chart.released`, about resource `linkerd.charts.<channel>`; it triggers
    the automations that start upgrades. The first poll of a repository only records its releases.
    A broken index sends an event `linkerd.chart.index-broken`, fails the run and starts no upgrade.

    Args:
        repositories: https repositories, oci:// registry paths or folders. Empty: those with the
            Linkerd charts of the saved meshes, or upstream's two if no mesh is saved.
        dry_run: Only list what is new: announce nothing, and record nothing.

    Raises:
        ChartError: a repository could not be read or is broken; the others were still read.

    Example:
        >>> watch_charts(["https://helm.linkerd.io/edge"])
        ['edge-26.8.3']
    """
    looks = [
        (source, submit(find_releases, source, dry_run))
        for source in repositories or find_repositories()
    ]
    new: list[str] = []
    broken: list[ChartError] = []
    for source, seen in looks:
        try:
            new += seen.result()
        except ChartError as error:
            if not dry_run:
                alert(source, error)
            broken.append(error)
    if broken:
        raise broken[0]
    return new
