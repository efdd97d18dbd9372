"""Every flow as a worker runs it: loaded by its entrypoint, with the mesh as a block reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError

from prefect_linkerd.flows.verify_mesh import verify_mesh
from prefect_linkerd.mesh.config.model import ChartSources, ClusterAccess
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from tests.support.prefect_servers import Server, on_server
from tests.support.repository import ROOT

pytestmark = pytest.mark.xdist_group("deployments")

PARAMETERS: dict[str, dict[str, Any]] = {
    "verify_meshes": {"meshes": ["nowhere"]},
    "fleet": {"meshes": ["nobody"]},
    "watch_charts": {"repositories": ["no/such/folder"]},
}
MESH = {"mesh": {"$ref": {"block_document_slug": "linkerd-mesh/nowhere"}}}
SAYS = {
    "verify_meshes": "1 of 1 meshes: expected every check to pass, found nowhere: ",
    "fleet": "found nobody. Save the blocks",
    "watch_charts": "chart source no/such/folder: expected a folder with charts",
}

# Does what a worker's run does, for many runs in one process.
EXECUTE = """
import json, sys
from uuid import UUID
from prefect.flow_engine import load_flow_and_flow_run, run_flow
for run in json.loads(sys.argv[1]):
    flow_run, flow = load_flow_and_flow_run(UUID(run))
    run_flow(flow, flow_run=flow_run, return_type="state")
"""


def test_a_run_whose_block_is_not_there_names_it(server: Server) -> None:
    mesh = {"mesh": {"$ref": {"block_document_slug": "linkerd-mesh/nobody"}}}
    with (
        on_server(server.api),
        pytest.raises(ParameterTypeError, match=r"named nobody for .* linkerd-mesh\. Save "),
    ):
        verify_mesh.validate_parameters(mesh)


def test_every_flow_is_loaded_by_its_entrypoint_and_takes_a_block(
    server: Server, charts_dir: Path, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "no-kubeconfig"
    access = ClusterAccess(kubeconfig=kubeconfig)
    with on_server(server.api):
        LinkerdMesh(name="nowhere", access=access, charts=ChartSources(mirror=charts_dir)).save(
            "nowhere", overwrite=True
        )
    runs: dict[str, str] = {}
    for name, deployment in server.deployments().items():
        parameters = PARAMETERS.get(name, MESH)
        made = server.ask(f"deployments/{deployment['id']}/create_flow_run", parameters=parameters)
        runs[name] = made["id"]
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, json.dumps(list(runs.values()))],
        cwd=ROOT,
        env=os.environ | server.running.environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Each flow got as far as connecting to the cluster, and reports itself that it cannot.
    for name, run in runs.items():
        message = server.get(f"flow_runs/{run}")["state"]["message"] or ""
        said = f"kubeconfig {kubeconfig}: expected a readable kubeconfig file"
        assert SAYS.get(name, said) in message, (name, message)
    with on_server(server.api):
        LinkerdMesh.delete("nowhere")
