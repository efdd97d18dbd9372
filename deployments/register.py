"""Sets up a Prefect server for these flows; run it again after anything changes.

    python -m prefect_linkerd.deployments.register [--pool-type kubernetes] [--mesh FILE]...

creates the work pool, the block types, the deployments of prefect.yaml, and for each *Linkerd Mesh*
block its schedules and automations. Existing ones stay, and what was turned off stays off.
`prefect deploy --all` does the same, without the options.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect_kubernetes.credentials import (  # pyright: ignore[reportMissingTypeStubs]
    KubernetesCredentials,
)

from prefect_linkerd.deployments.automations import OURS, alerts, lost_runs, rotations
from prefect_linkerd.deployments.job_template import job_template
from prefect_linkerd.deployments.schedules import PATTERN, read_pattern, schedule_of
from prefect_linkerd.deployments.upgrades import subscription
from prefect_linkerd.mesh.errors import InvalidInput, MeshError
from prefect_linkerd.mesh.helm.charts import failure_of
from prefect_linkerd.mesh_file import load_mesh
from prefect_linkerd.tasks.chart_releases import KnownCharts
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, block_name
from prefect_linkerd.tasks.names import deployment_name

POOL = "linkerd"
SET_ADDRESS = "Set PREFECT_API_URL to your server's address, and run it again."
ALERTS = "linkerd-alerts"
"""The name of the block, of any notification type, that sends notifications."""

PREFECT_YAML = Path(__file__).with_name("prefect.yaml")
BLOCKS = (LinkerdMesh, KubernetesCredentials, KnownCharts)


async def prepare(
    client: PrefectClient, pool_type: str | None, meshes: Sequence[Path]
) -> list[str]:
    """Creates what deployments need: the work pool, the block types, and the given meshes.

    Args:
        pool_type: the type of the work pool if it does not exist yet, `process` or `kubernetes`.
        meshes: configuration files to save as Linkerd Mesh blocks under their mesh names.

    Returns:
        What has to be done manually.
    """
    left = await ensure_pool(client, pool_type)
    for block in BLOCKS:
        await block.aregister_type_and_schema(client=client)
    for path in meshes:
        # The passphrase is asked for, because the block stores it.
        config = load_mesh(path, key="asked")
        mesh = LinkerdMesh.model_validate(config.model_dump())
        await mesh.asave(mesh.name, overwrite=True, client=client)
    return left


async def sync_automations(client: PrefectClient) -> list[str]:
    """Creates what needs deployments: the schedules and automations of every saved mesh.

    Returns:
        What has to be done manually.
    """
    ids = await deployment_ids(client)
    saved = await saved_meshes(client)
    await ensure_schedules(client, ids, [block_name(mesh) or PATTERN for mesh in saved])
    return await ensure_automations(client, ids, saved)


async def ensure_pool(client: PrefectClient, pool_type: str | None) -> list[str]:
    """Creates the work pool of all deployments with this type, unless it exists.

    Returns:
        What has to be done manually, if it exists with another type.
    """
    try:
        found = await client.read_work_pool(POOL)
    except ObjectNotFound:
        template: dict[str, Any] = {}
        if pool_type == "kubernetes":
            template = job_template()
        pool = WorkPoolCreate(
            name=POOL,
            type=pool_type or "process",
            description="Runs the flows of prefect-linkerd.",
            base_job_template=template,
        )
        await client.create_work_pool(pool)
        return []
    if pool_type in (None, found.type):
        return []
    return [
        f"Work pool {POOL} is of type {found.type}, and Prefect cannot change that. For one of "
        f"type {pool_type} run `prefect work-pool delete {POOL}`, then this again."
    ]


def deploy() -> None:
    """Runs `prefect deploy --all` without prompts, on a prepared server.

    Raises:
        InvalidInput: it failed; quotes its output.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"),
            *("--prefect-file", str(PREFECT_YAML)),
        ],
        env=os.environ | {"PREFECT_PLUGINS_ENABLED": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InvalidInput(
            str(PREFECT_YAML),
            expected="prefect deploy --all to succeed",
            found=(done.stdout + done.stderr).strip()[-1000:],
            remedy=SET_ADDRESS,
        )


async def deployment_ids(client: PrefectClient) -> dict[str, UUID]:
    """The ids of prefect.yaml's deployments by name; each has the name of its flow."""
    found = await client.read_deployments(limit=200)
    return {d.name: d.id for d in found if d.work_pool_name == POOL}


async def saved_meshes(client: PrefectClient) -> list[LinkerdMesh]:
    """Every Linkerd Mesh block; saves a version in those that lack one.

    They include their secrets, because they would not be valid without them.
    """
    found: list[LinkerdMesh] = []
    # Prefect ignores offset and limit here, and returns all of them.
    for document in await client.read_block_documents_by_type("linkerd-mesh", include_secrets=True):
        mesh = LinkerdMesh._from_block_document(document)  # pyright: ignore[reportPrivateUsage]
        if mesh.lacks_version:
            await mesh.asave(document.name, overwrite=True, client=client)
        found.append(mesh)
    return found


async def ensure_schedules(
    client: PrefectClient, ids: Mapping[str, UUID], blocks: Collection[str]
) -> None:
    """Creates the schedules of every mesh, and removes those of deleted meshes.

    The schedules of block `mesh` come from prefect.yaml itself.

    Args:
        blocks: the names of the meshes' blocks.
    """
    for deployment, patterns in read_pattern(PREFECT_YAML).items():
        there = {s.slug: s for s in await client.read_deployment_schedules(ids[deployment])}
        wanted = [schedule_of(b, p) for b in blocks if b != PATTERN for p in patterns]
        for schedule in wanted:
            found = there.pop(schedule.slug, None)
            if found is None:
                await client.create_deployment_schedules(ids[deployment], [schedule])
            elif (found.schedule, found.parameters) != (schedule.schedule, schedule.parameters):
                await client.update_deployment_schedule(
                    ids[deployment],
                    found.id,
                    schedule=cast("IntervalSchedule", schedule.schedule),
                    parameters=schedule.parameters,
                )
        for other in there.values():
            if other.slug in {schedule_of(b, p).slug for b in _named(other) for p in patterns}:
                await client.delete_deployment_schedule(ids[deployment], other.id)


def _named(schedule: DeploymentSchedule) -> list[str]:
    """The block that a schedule is for; empty for block `mesh`."""
    reference = schedule.parameters.get("mesh", {}).get("$ref", {})
    _, _, name = str(reference.get("block_document_slug", "")).partition("/")
    return [name] if name and name != PATTERN else []


async def ensure_automations(
    client: PrefectClient, ids: Mapping[str, UUID], meshes: Sequence[LinkerdMesh]
) -> list[str]:
    """Creates the automations of all meshes and the alerts; removes those of deleted meshes."""
    wanted = lost_runs()
    for mesh in meshes:
        block = cast("UUID", mesh._block_document_id)  # pyright: ignore[reportPrivateUsage]
        if mesh.upgrade.automatic != "off":
            upgrades = subscription(mesh, block, ids[deployment_name("upgrade")])
            wanted.append(
                AutomationCore.model_validate(upgrades.model_dump(exclude={"id", "owner_resource"}))
            )
        wanted += rotations(mesh.name, block, ids)
    left: list[str] = []
    if (notification := await notification_block(client)) is not None:
        wanted += alerts(notification)
    else:
        left.append(
            f"No notifications yet: save a notification block (Slack Webhook, Email, "
            f"…) named {ALERTS}, and run this again."
        )
    if not meshes:
        left.append(
            f"There is no mesh yet: save a Linkerd Mesh block named {PATTERN} and run this "
            "again, or run python -m prefect_linkerd.deployments.register --mesh FILE. Until then "
            "its scheduled runs fail."
        )
    left += [
        f"{len(blocks)} Linkerd Mesh blocks have the mesh name {name}: {', '.join(blocks)}. They "
        "share artifacts, events and locks: give each a name of its own."
        for name, blocks in _blocks_by_name(meshes).items()
        if len(blocks) > 1
    ]
    there = {a.name: a for a in await _ours(client)}
    # By name, because two blocks may use the same mesh name.
    for automation in {each.name: each for each in wanted}.values():
        if (found := there.pop(automation.name, None)) is None:
            await client.create_automation(automation)
        else:
            automation.enabled = found.enabled
            await client.update_automation(found.id, automation)
    for gone in there.values():
        await client.delete_automation(gone.id)
    return left


def _blocks_by_name(meshes: Sequence[LinkerdMesh]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for mesh in meshes:
        found.setdefault(mesh.name, []).append(block_name(mesh) or "")
    return found


async def _ours(client: PrefectClient) -> list[Any]:
    found: list[Any] = []
    while page := await client.read_automations(limit=200, offset=len(found)):
        found += page
    return [automation for automation in found if automation.description.startswith(OURS)]


async def notification_block(client: PrefectClient) -> UUID | None:
    """The block that sends alerts, of any notification type."""
    answer = await client.request(
        "POST",
        "/block_documents/filter",
        json={
            "block_documents": {"name": {"any_": [ALERTS]}},
            "block_schemas": {"block_capabilities": {"all_": ["notify"]}},
        },
    )
    found: list[dict[str, Any]] = answer.json()
    return UUID(found[0]["id"]) if found else None


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="python -m prefect_linkerd.deployments.register", description=__doc__
    )
    root.add_argument("--pool-type", choices=("process", "kubernetes"), help="process by default")
    root.add_argument("--prepare", action="store_true", help="create only what deployments need")
    root.add_argument(
        "--mesh",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="a mesh's configuration (YAML or JSON), saved as a block; may be repeated",
    )
    return root


async def main(arguments: Sequence[str] | None = None) -> int:
    """Registers; returns 0 on success, with what is left to do manually on stdout."""
    options = parser().parse_args(arguments)
    url = PREFECT_API_URL.value()
    try:
        if not url:
            raise InvalidInput(
                "PREFECT_API_URL",
                expected="the address of a Prefect server",
                found="none",
                remedy=SET_ADDRESS,
            )
        async with get_client() as client:
            left = await prepare(client, options.pool_type, options.mesh)
            if options.prepare:
                return 0
            deploy()
            left += await sync_automations(client)
    except MeshError as error:
        print(f"register: {error}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        print(
            f"register: Prefect server {url}: expected a response, found {failure_of(error)}. "
            "Check PREFECT_API_URL, its credentials, and that the server runs.",
            file=sys.stderr,
        )
        return 1
    print("\n".join(["Registered.", *left]))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
