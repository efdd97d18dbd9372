"""Steps of prefect.yaml, which `prefect deploy` runs."""

from __future__ import annotations

from prefect import get_client

from prefect_linkerd.deployments import register


async def sync_automations() -> None:
    """The schedules and automations of every mesh; the last step, as it needs the deployments."""
    async with get_client() as client:
        left = await register.sync_automations(client)
    print("\n".join(left))
