"""`verify_mesh` and `check_certificates` as a user runs them: flows on a real Prefect server."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.cli.app import main
from prefect_linkerd.cli.last_verification import last_verification
from prefect_linkerd.flows.check_certificates import check_certificates
from prefect_linkerd.flows.verify_mesh import verify_mesh
from prefect_linkerd.flows.verify_meshes import verify_meshes
from prefect_linkerd.mesh.checks.options import ExpiryThresholds, VerifyOptions
from prefect_linkerd.mesh.errors import CertificateExpired, MeshUnhealthy
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor
from prefect_linkerd.mesh.report.report import Report
from prefect_linkerd.server.prefect_server import PrefectServer
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.names import READS, TAG, deployment_name
from tests.prefect_linkerd.mesh.checks.faults import changed, removed
from tests.support.installed import DEFAULT, InstalledMesh, on
from tests.support.prefect_servers import artifact, ask, events, on_server

on_a_mesh = pytest.mark.parametrize("mesh", [on(DEFAULT)], indirect=True, scope="package")


@pytest.fixture
def server(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    with on_server(f"{prefect_server.url}/api"):
        yield prefect_server


def block(mesh: InstalledMesh, name: str, **changes: Any) -> LinkerdMesh:
    content = mesh.config.model_dump() | {"name": name} | changes
    return LinkerdMesh.model_validate(content)


@on_a_mesh
def test_a_healthy_mesh_then_a_failing_one(
    mesh: InstalledMesh, server: PrefectServer, tmp_path: Path
) -> None:
    linkerd = block(mesh, "told")
    options = VerifyOptions(
        json_file=tmp_path / "check.json",
        metrics_file=tmp_path / "linkerd.prom",
        ignore=[],
    )

    state = verify_mesh(linkerd, options, return_state=True)

    assert state.is_completed(), state.message
    report = state.result()
    assert isinstance(report, Report)
    assert report.counts["error"] == 0
    assert (state.name == "Degraded") == (report.verdict == "degraded")
    assert json.loads((tmp_path / "check.json").read_text())["success"] is True
    assert (
        'linkerd_mesh_verdict{mesh="told",verdict="failed"} 0.0'
        in (tmp_path / "linkerd.prom").read_text()
    )
    assert artifact(server, "linkerd-told-verify").startswith(f"# Mesh told: {report.verdict}")
    page = artifact(server, "linkerd-told-certificates")
    [picture] = re.findall(r"\(data:image/svg\+xml;base64,(\S+)\)", page)
    assert "issuer: identity.linkerd.cluster.local" in base64.b64decode(picture).decode()
    assert "| issuer | Secret/linkerd/linkerd-identity-issuer |" in page

    with removed(
        mesh.cluster,
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        "linkerd-linkerd-proxy-injector",
    ):
        failed = verify_mesh(linkerd, options, return_state=True)
        with pytest.raises(MeshUnhealthy, match="linkerd-linkerd-proxy-injector"):
            failed.result()
        kubeconfig = ["--kubeconfig", str(mesh.config.access.kubeconfig)]
        assert main(["verify", *kubeconfig, "--output", "json", "--scopes", "control-plane"]) == 1

    assert failed.is_failed()
    assert last_verification("told", has_server=True).endswith(" UTC: failed")
    rows = json.loads(artifact(server, "linkerd-told-verify-checks"))
    assert {"result": "error", "check": "l5d-existence-cr"}.items() <= rows[0].items()
    assert "- new: `l5d-existence-cr`" in artifact(server, "linkerd-told-verify")
    assert json.loads((tmp_path / "check.json").read_text())["success"] is False
    found = events(server, "told", "linkerd.mesh.failed")
    assert found[0]["payload"]["errors"] == ["l5d-existence-cr"]
    assert events(server, "told", f"linkerd.mesh.{report.verdict}")


@on_a_mesh
def test_one_broken_mesh_does_not_stop_the_others(
    mesh: InstalledMesh, server: PrefectServer, tmp_path: Path
) -> None:
    access = mesh.config.access.kubeconfig
    assert access is not None
    # A rejected token, because with an unreachable API server the run would retry for minutes.
    kubeconfig = yaml.safe_load(access.read_text())
    kubeconfig["users"][0]["user"] = {"token": "expired"}
    locked_out = tmp_path / "kubeconfig"
    locked_out.write_text(yaml.safe_dump(kubeconfig))
    LinkerdMesh.register_type_and_schema()
    block(mesh, "lost", access={"kubeconfig": str(locked_out)}).save("lost", overwrite=True)
    block(mesh, "sound").save("sound", overwrite=True)

    with pytest.raises(MeshUnhealthy, match=r"1 of 2 meshes: .*lost"):
        verify_meshes(["lost", "sound"])

    # The next mesh was still verified.
    assert artifact(server, "linkerd-sound-verify").startswith("# Mesh sound: ")
    assert verify_meshes(["sound"])["sound"] in ("Completed", "Degraded")

    # The automation that marks lost runs as crashed matches these tags.
    subflows = ask(
        server,
        "flow_runs/filter",
        flow_runs={"parent_task_run_id": {"is_null_": False}},
        flows={"name": {"any_": [deployment_name("verify_mesh")]}},
    )
    assert len(subflows) >= 3
    assert all({TAG, READS} <= {*run["tags"]} for run in subflows)


@on_a_mesh
def test_certificates_that_end_soon_are_events(mesh: InstalledMesh, server: PrefectServer) -> None:
    linkerd = block(mesh, "ending")
    calm = check_certificates(linkerd, return_state=True)
    assert (calm.name, calm.result()) == ("Completed", ())

    state = check_certificates(linkerd, ExpiryThresholds(days=[400, 60]), return_state=True)
    assert (state.is_completed(), state.name) == (True, "Expiring")
    found = events(server, "ending", "linkerd.certificate.expiring", len(state.result()))
    by_role = {event["payload"]["role"]: event["payload"] for event in found}
    # The trust anchor, valid for ten years, is not among them.
    assert set(by_role) == {"issuer", "webhook"}
    assert by_role["issuer"]["threshold_days"] == 400
    assert 360 < by_role["issuer"]["days_left"] <= 365


@on_a_mesh
def test_an_ended_certificate_fails_the_run(mesh: InstalledMesh, server: PrefectServer) -> None:
    past = datetime.now(UTC) - timedelta(days=900)
    old = create_trust_anchor("cluster.local", timedelta(days=365), past).certificate

    def end(secret: Any) -> None:
        secret["data"]["tls.crt"] = base64.b64encode(old.encode()).decode()

    with changed(mesh.cluster, "v1", "Secret", "linkerd-sp-validator-k8s-tls", "linkerd", end):
        state = check_certificates(block(mesh, "ended"), return_state=True)
    assert state.is_failed()
    with pytest.raises(CertificateExpired, match="Secret/linkerd/linkerd-sp-validator-k8s-tls"):
        state.result()
    assert events(server, "ended", "linkerd.certificate.expiring")[0]["payload"]["is_expired"]


@on_a_mesh
def test_the_command_line_needs_no_server(
    mesh: InstalledMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mesh.json"
    path.write_text(mesh.config.model_dump_json(exclude={"trust_anchor"}))

    assert main(["verify", str(path)]) == 0
    text = capsys.readouterr().out
    assert "linkerd-config\n--------------\n√ control plane Namespace exists\n" in text
    assert text.endswith("Status check results are √\n")

    assert main(["verify", str(path), "--output", "prometheus"]) == 0
    assert "linkerd_mesh_proxies" in capsys.readouterr().out

    assert main(["certificates", str(path), "--output", "json", "--days", "400"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["certificate"] for row in rows} >= {"trust anchor", "issuer"}

    assert main(["verify", str(tmp_path / "none.yaml")]) == 2
    assert "Name an existing file" in capsys.readouterr().err
    path.write_text("version: 2.14\n")
    assert main(["verify", str(path)]) == 2
    assert "version" in capsys.readouterr().err
