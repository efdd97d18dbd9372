"""Steps of prefect.yaml, which `prefect deploy` runs."""

from __future__ import annotations

from prefect import get_client

from deployments import register


async def look_after() -> None:
    """The schedules and automations of every mesh; the last step, as it needs the deployments."""
    async with get_client() as client:
        left = await register.look_after(client)
    print("\n".join(left))
