"""What does a flow's result say to a person at a terminal?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import yaml
from pydantic_core import to_jsonable_python

from prefect_linkerd.mesh.adoption import Adoption, adoption_yaml
from prefect_linkerd.mesh.bootstrap.installed import Installed, installed_rows
from prefect_linkerd.mesh.bootstrap.plan import BootstrapPlan, bootstrap_markdown
from prefect_linkerd.mesh.fleet import FleetPlan
from prefect_linkerd.mesh.records.rotation import RotationRecord
from prefect_linkerd.mesh.rotation.issuer import IssuerRotation
from prefect_linkerd.mesh.rotation.plan import RotationPlan
from prefect_linkerd.mesh.rotation.story import issuer_markdown, plan_markdown
from prefect_linkerd.mesh.rotation.webhooks import WebhookRenewal, renewal_markdown
from prefect_linkerd.mesh.smoke.report import SmokeReport, smoke_table
from prefect_linkerd.mesh.upgrade.plan import UpgradePlan
from prefect_linkerd.mesh.upgrade.plan import plan_markdown as upgrade_markdown


def as_words(mesh: str, state: str, message: str, result: object) -> str:
    """Plain text; tables with their columns in line.

    Args:
        mesh: the mesh's name.
        state: the name of the run's final state, such as Completed or Skipped.
        message: what that state says.
        result: what the flow returned.
    """
    match result:
        case Adoption():
            text = adoption_yaml(result)
        case Installed():
            text = f"{_table(installed_rows(result))}\nverified: {result.verified}\n"
        case SmokeReport():
            text = _table(smoke_table(result.results))
        case BootstrapPlan():
            text = bootstrap_markdown(result)
        case UpgradePlan():
            text = upgrade_markdown(result)
        case RotationPlan():
            text = plan_markdown(mesh, result)
        case RotationRecord():
            chapters = [{"at": c.at, "phase": c.phase, "what": c.text} for c in result.story]
            text = f"{_table(chapters)}\ntrust anchor sha256 {result.goal}: {result.phase}\n"
        case IssuerRotation():
            text = issuer_markdown(mesh, result)
        case WebhookRenewal():
            text = renewal_markdown(mesh, result)
        case FleetPlan():
            waves = enumerate(result.waves, start=1)
            text = _table([{"wave": str(n), "mesh": mesh} for n, wave in waves for mesh in wave])
        case dict():
            meshes = cast("dict[str, str]", result).items()
            text = _table([{"mesh": name, "outcome": outcome} for name, outcome in meshes])
        case list():
            lines = [f"{item}\n" for item in cast("list[str]", result)]
            text = "".join(lines) or "nothing new\n"
        case None:
            text = ""
        case str():
            text = f"{result}\n"
        case _:
            # A flow whose result has no words yet.
            text = yaml.safe_dump(to_jsonable_python(result, fallback=str), sort_keys=False)
    return text if state == "Completed" else f"{text}{state}: {message}\n"


def _table(rows: Sequence[dict[str, str]]) -> str:
    if not rows:
        return ""
    columns = [[name, *(str(row[name]) for row in rows)] for name in rows[0]]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]
    return "\n".join(lines) + "\n"
