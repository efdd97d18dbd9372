"""The steps in prefect.yaml that `prefect deploy` runs."""

from __future__ import annotations

from prefect import get_client

from prefect_linkerd.deployments import register


async def sync_automations() -> None:
    """Creates the schedules and automations of every mesh; last, as they need the deployments."""
    async with get_client() as client:
        left = await register.sync_automations(client)
    print("\n".join(left))
