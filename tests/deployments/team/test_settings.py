"""What a team copies from deployments/team/ are real settings of the pinned Prefect."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from prefect.settings.legacy import _get_valid_setting_names
from prefect.settings.models.root import Settings
from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings
from prefect_redis.client import RedisMessagingSettings

from sandbox.team import SETTINGS
from tests.support.repository import ROOT

TEAM = SETTINGS.parent


def names() -> set[str]:
    """Every Prefect setting, by the names of its environment variable."""
    found = set(_get_valid_setting_names(Settings))
    for model, prefix in (
        (RedisMessagingSettings, "PREFECT_REDIS_MESSAGING_"),
        (RedisWorkerCleanupQueueSettings, "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_"),
    ):
        found |= {prefix + field.upper() for field in model.model_fields}
    return found | {"DO_NOT_TRACK"}


def test_every_setting_of_a_team_exists() -> None:
    lines = SETTINGS.read_text().splitlines()
    own = {line.split("=")[0] for line in lines if line and not line.startswith("#")}
    assert own <= names()
    values = yaml.safe_load((TEAM / "prefect-server.yaml").read_text())
    assert {item["name"] for item in values["global"]["prefect"]["env"]} <= own


@pytest.mark.parametrize("chart", ["server", "worker"])
def test_a_teams_servers_and_workers_have_the_prefect_that_is_pinned(chart: str) -> None:
    values: dict[str, Any] = yaml.safe_load((TEAM / f"prefect-{chart}.yaml").read_text())
    owner = values["worker"] if chart == "worker" else values["global"]["prefect"]
    pinned = re.search(r"prefect-version: (\S+)", (ROOT / "prefect.yaml").read_text())
    assert pinned is not None
    assert owner["image"]["prefectTag"].startswith(f"{pinned[1]}-")
