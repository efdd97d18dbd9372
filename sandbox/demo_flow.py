"""Runs `bootstrap` for the demo and prints what it installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import yaml
from rich.console import Console
from rich.table import Table

from prefect_linkerd.flows.bootstrap import bootstrap
from prefect_linkerd.mesh.bootstrap.installed import Installed, installed_rows
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh


def main() -> int:
    mesh = LinkerdMesh.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text()))
    console = Console()
    try:
        done = cast("Installed", bootstrap(mesh))
    except MeshError as error:
        console.print(f"[red]bootstrap failed[/red] {error}", highlight=False)
        return 1
    title = f"Mesh {done.mesh}: installed and verified"
    if "--rehearsal" in sys.argv:
        title += " (REHEARSAL CHARTS: not Linkerd)"
    table = Table("part", "name", "version", "state", title=title)
    for row in installed_rows(done):
        table.add_row(*row.values())
    table.add_row("verified", "", "", done.verified)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
