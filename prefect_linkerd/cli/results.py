"""A flow's result as text for a terminal."""

from __future__ import annotations

from typing import cast

import yaml
from pydantic_core import to_jsonable_python

from prefect_linkerd.cli.paint import table
from prefect_linkerd.mesh.adoption import Adoption, adoption_yaml
from prefect_linkerd.mesh.bootstrap.installed import Installed, installed_rows
from prefect_linkerd.mesh.bootstrap.plan import BootstrapPlan, bootstrap_markdown
from prefect_linkerd.mesh.fleet import FleetPlan
from prefect_linkerd.mesh.planning.dry_run import DryRun, dry_run_markdown
from prefect_linkerd.mesh.records.rotation import RotationRecord
from prefect_linkerd.mesh.rotation.issuer import IssuerRotation
from prefect_linkerd.mesh.rotation.plan import RotationPlan
from prefect_linkerd.mesh.rotation.story import issuer_markdown, plan_markdown
from prefect_linkerd.mesh.rotation.webhooks import WebhookRenewal, renewal_markdown
from prefect_linkerd.mesh.smoke.report import SmokeReport, smoke_table
from prefect_linkerd.mesh.uninstall.plan import UninstallPlan, uninstall_markdown
from prefect_linkerd.mesh.upgrade.going_back import BackPlan, back_markdown
from prefect_linkerd.mesh.upgrade.plan import UpgradePlan
from prefect_linkerd.mesh.upgrade.plan import plan_markdown as upgrade_markdown


def result_text(
    mesh: str,
    state: str,
    message: str,
    result: object,
    *,
    dry: bool = True,
    width: int | None = None,
) -> str:
    """Returns a result as plain text, with aligned tables.

    Args:
        mesh: the mesh's name.
        state: the name of the run's final state, such as Completed or Skipped.
        message: what that state says.
        result: what the flow returned.
        dry: whether it is only a plan; a plan that was carried out takes one line, as it was shown
            before.
        width: how wide a table may be, in characters; None: no limit.
    """
    match result:
        case Adoption():
            text = adoption_yaml(result)
        case Installed():
            text = f"{table(installed_rows(result), width)}\nverified: {result.verified}\n"
        case SmokeReport():
            text = table(smoke_table(result.results), width)
        case BootstrapPlan():
            text = bootstrap_markdown(result)
        case UpgradePlan() if not dry and not result.is_done:
            text = f"mesh {mesh} is upgraded: {result.source} to {result.target}\n"
        case UpgradePlan():
            text = upgrade_markdown(result)
        case DryRun():
            text = dry_run_markdown(result)
        case BackPlan():
            text = back_markdown(result)
        case UninstallPlan() if not dry and not result.is_done:
            text = (
                f"mesh {mesh} is uninstalled: {len(result.goes)} things are gone, "
                f"{len(result.stays)} stay\nThe trust anchor's private key stays: {result.key}\n"
            )
        case UninstallPlan():
            text = uninstall_markdown(result)
        case RotationPlan():
            text = plan_markdown(mesh, result)
        case RotationRecord():
            chapters = [{"at": c.at, "phase": c.phase, "what": c.text} for c in result.story]
            text = f"{table(chapters, width)}\ntrust anchor sha256 {result.goal}: {result.phase}\n"
        case IssuerRotation():
            text = issuer_markdown(mesh, result)
        case WebhookRenewal():
            text = renewal_markdown(mesh, result)
        case FleetPlan():
            waves = enumerate(result.waves, start=1)
            text = table([{"wave": str(n), "mesh": mesh} for n, wave in waves for mesh in wave])
        case dict():
            meshes = cast("dict[str, str]", result).items()
            text = table([{"mesh": name, "outcome": outcome} for name, outcome in meshes])
        case list():
            lines = [f"{item}\n" for item in cast("list[str]", result)]
            text = "".join(lines) or "nothing new\n"
        case None:
            text = ""
        case str():
            text = f"{result}\n"
        case _:
            # Results without a text of their own.
            text = yaml.safe_dump(to_jsonable_python(result, fallback=str), sort_keys=False)
    return text if state == "Completed" else f"{text}{state}: {message}\n"


_NEXT: dict[str, str] = {
    "bootstrap": "prefect-linkerd verify{mesh}",
    "upgrade": "set the version in the mesh's file, then prefect-linkerd smoke-test{mesh}",
    "rotate_anchor": "back up the new key, then prefect-linkerd certificates{mesh}",
    "rotate_issuer": "prefect-linkerd certificates{mesh}",
    "rotate_webhooks": "prefect-linkerd certificates{mesh}",
    "adopt": "save this as the mesh's file, then prefect-linkerd bootstrap --dry-run with it",
}
"""What to do after a flow, by the flow's name."""


def next_step(flow: str, mesh_file: str, *, dry: bool) -> str:
    """Returns a line with the user's next step; empty if there is none.

    Args:
        mesh_file: the path as given; empty without one.
        dry: whether the flow only showed its plan.
    """
    mesh = f" {mesh_file}" if mesh_file else ""
    if dry:
        return "Nothing was changed. Next: the same command without --dry-run"
    return f"Next: {_NEXT[flow].format(mesh=mesh)}" if flow in _NEXT else ""
