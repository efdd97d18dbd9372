"""The steps of `watch_charts`: polls chart repositories, and sends events for new releases."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import cast
from uuid import NAMESPACE_URL, uuid5

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import BlockDocument
from prefect.events import Event
from prefect.events.clients import get_events_client
from prefect.events.schemas.events import Resource
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from pydantic import Field

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ChartError
from prefect_linkerd.mesh.helm.chart_releases import (
    ChartRelease,
    Known,
    new_releases,
    read_repository,
)
from prefect_linkerd.mesh.helm.charts import UPSTREAM, linkerd_source
from prefect_linkerd.tasks.block_fields import ungrouped
from prefect_linkerd.tasks.step import step

RELEASED = "linkerd.chart.released"
BROKEN = "linkerd.chart.index-broken"


class KnownCharts(Block):
    """What `watch_charts` found in one chart repository at the last poll."""

    _block_type_name = "Linkerd Known Charts"
    _block_type_slug = "linkerd-known-charts"
    _description = "The Linkerd releases that a chart repository had at the last poll."

    source: str = Field(title="Repository", description="Its address.")
    etag: str = Field(default="", title="ETag", description="The index's ETag at the last poll.")
    versions: list[str] = Field(
        default_factory=list[str],
        title="Versions",
        description="The Linkerd versions seen so far; none of them is announced again.",
    )


def resource_of(channel: str) -> str:
    """The id of the Prefect resource of events about a channel's releases."""
    return f"linkerd.charts.{channel}"


@step(
    "find repositories",
    run_name="find repositories",
    description="Finds the chart repositories of the saved meshes.",
)
def find_repositories() -> list[str]:
    """The Linkerd chart repositories of all saved meshes, each once.

    If no mesh is saved: upstream's stable and edge repositories.
    """
    documents: list[BlockDocument] = []
    # Prefect ignores offset and limit here, and returns all of them.
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
        documents = client.read_block_documents_by_type("linkerd-mesh", include_secrets=False)
    found = dict.fromkeys(linkerd_source(_charts_of(document)) for document in documents)
    return list(found) or [UPSTREAM["stable"], UPSTREAM["edge"]]


def _charts_of(document: BlockDocument) -> MeshConfig:
    """The fields that say where a mesh's charts come from; none of them is secret."""
    fields = ungrouped(document.data)
    return MeshConfig.model_validate(
        {key: fields[key] for key in ("version", "charts") if key in fields}
    )


@step("look", run_name="look at {source}", description="Announces a repository's new releases.")
def find_releases(source: str, dry_run: bool = False) -> list[str]:
    """The Linkerd versions that are new since the last poll.

    Sends each event before it records the version: if the run dies in between, the next one sends
    the event again with the same id, instead of never. A dry run sends and records nothing.

    Raises:
        ChartError: the repository cannot be read, or its index is broken.
    """
    known = _load(source)
    answer = read_repository(source, known)
    new, after = new_releases(known, answer, source)
    log = get_run_logger()
    if known is None and not dry_run:
        log.info("First poll of %s: %d releases recorded", source, len(after.versions))
    if new and not dry_run:
        asyncio.run(_send([_released(release, source) for release in new]))
    if after != known and not dry_run:
        _save(source, after)
    for release in new:
        log.info("%s is new in %s", release.version, source)
    return [str(release.version) for release in new]


@step("alert", run_name="alert of {source}", description="Reports that a repository is broken.")
def alert(source: str, error: ChartError) -> None:
    event = Event(
        event=BROKEN,
        resource=Resource(
            {
                "prefect.resource.id": f"linkerd.chart-repository.{_name(source)}",
                "prefect.resource.name": source,
            }
        ),
        payload={"source": source, "expected": error.expected, "found": error.found},
    )
    asyncio.run(_send([event]))


def _released(release: ChartRelease, source: str) -> Event:
    return Event(
        id=uuid5(NAMESPACE_URL, f"{source} {release.version}"),
        event=RELEASED,
        resource=Resource(
            {
                "prefect.resource.id": resource_of(release.channel),
                "prefect.resource.name": f"Linkerd {release.channel} charts",
            }
        ),
        payload={
            "channel": release.channel,
            "version": str(release.version),
            "charts": dict(release.charts),
            "source": source,
        },
    )


async def _send(events: list[Event]) -> None:
    # Unlike `emit_event`, this returns only once the server has the events.
    async with get_events_client(checkpoint_every=1) as client:
        for event in events:
            await client.emit(event)


def _name(source: str) -> str:
    return f"charts-{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def _load(source: str) -> Known | None:
    try:
        block = cast("KnownCharts", KnownCharts.load(_name(source)))  # pyright: ignore[reportUnknownMemberType]
    except ValueError as error:
        if "Unable to find block document" not in str(error):
            raise
        return None
    return Known(block.etag, frozenset(block.versions))


def _save(source: str, known: Known) -> None:
    block = KnownCharts(source=source, etag=known.etag, versions=sorted(known.versions))
    block.save(_name(source), overwrite=True)  # pyright: ignore[reportUnknownMemberType,reportUnusedCoroutine]
