"""The step that proves the mesh works, and shows it."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect_linkerd.mesh.bootstrap.proof import (
    Proof,
    proof_markdown,
    proof_table,
    prove,
    read_proof,
)
from prefect_linkerd.mesh.helm.records import read_releases
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import (
    create_markdown_artifact,
    create_table_artifact,
    get_run_logger,
)
from prefect_linkerd.tasks.preflight import Charts
from prefect_linkerd.tasks.step import step


@step("proof", description="Reads the mesh back: control plane, chain, proxies, ingress.")
def proof(mesh: Mesh, charts: Charts) -> Proof:
    """What is installed and whether it works; also as a markdown and a table artifact."""
    is_rehearsal = any(chart.is_rehearsal for chart in charts.values())
    snapshot = read_proof(mesh, read_releases(mesh.cluster), rehearsal=is_rehearsal)
    proven = prove(snapshot, datetime.now(UTC))
    for text in proven.unchecked:
        get_run_logger().warning("Not checked: %s", text)
    create_markdown_artifact(
        proof_markdown(proven),
        key=mesh_key(mesh.name, "bootstrap"),
        description=f"Mesh {mesh.name}",
    )
    create_table_artifact(
        proof_table(proven), key=mesh_key(mesh.name, "installed"), description=f"Mesh {mesh.name}"
    )
    return proven
