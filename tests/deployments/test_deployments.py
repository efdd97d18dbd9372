"""`prefect deploy --all` and `deployments.register` on a fresh server, as seen through its API."""

from __future__ import annotations

import asyncio
import inspect
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import Flow, get_client
from prefect.blocks.core import Block
from prefect.events import Event, Resource
from prefect.events.clients import get_events_client

from prefect_linkerd.deployments.automations import ENDINGS, LOST_AFTER, ROTATIONS, lost_runs
from prefect_linkerd.deployments.plugin import is_deploy
from prefect_linkerd.deployments.register import sync_automations
from prefect_linkerd.flows.check_certificates import check_certificates
from prefect_linkerd.flows.verify_mesh import verify_mesh
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TRUST_ROOTS, tls_secret
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.pki.certificates import (
    create_trust_anchor,
    read_certificates,
    sign_issuer,
)
from prefect_linkerd.mesh.report.events import Notice, certificate_notices, verdict_notice
from prefect_linkerd.mesh.report.report import verify
from prefect_linkerd.mesh.snapshot.expiry import Expiry, expiring
from prefect_linkerd.tasks.chart_releases import RELEASED, resource_of
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.names import CHANGES, READS, TAG, deployment_name
from tests.support.prefect_servers import Inbox, Server, on_server
from tests.support.repository import ROOT
from tests.support.schema import undescribed_fields
from tests.support.snapshots import empty_snapshot
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("deployments")

ONLY_PREFECTS_OWN = ["KubernetesCredentials.cluster_config"]


def flows() -> dict[str, Flow[..., Any]]:
    """Every flow of the project, by the name of its function."""
    names = [path.stem for path in (ROOT / "flows").glob("[a-z]*.py")]
    modules = [import_module(f"prefect_linkerd.flows.{name}") for name in names]
    return {
        value.fn.__name__: value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Flow) and inspect.getmodule(value.fn) is module
    }


def test_deploying_alone_sets_up_a_fresh_server(server: Server) -> None:
    assert server.deployed["deployments"] == {flow.name for flow in flows().values()}
    assert server.deployed["schedules"] == {"mesh-quick", "mesh-deep", "mesh-daily", "hourly"}
    # Those that need neither a mesh nor a place to notify.
    assert server.deployed["automations"] == {a.name for a in lost_runs()}
    assert server.deployed["pools"] == {"linkerd"}
    assert {"linkerd-mesh", "kubernetes-credentials"} <= server.deployed["block types"]
    # What users have to enable is off, and deploying again does not enable it.
    assert [n for n, a in server.automations().items() if not a["enabled"]] == [
        "linkerd: resume crashed changes"
    ]


def test_automations_match_nobody_elses_runs(server: Server) -> None:
    for name, automation in server.automations().items():
        assert name.startswith("linkerd: ")
        trigger = automation["trigger"]
        resource = trigger["match"]["prefect.resource.id"]
        if not str(resource).startswith("linkerd."):
            [related] = [trigger["match_related"]]
            matched = related["prefect.resource.id"]
            tags = [matched] if isinstance(matched, str) else matched
            assert set(tags) <= {f"prefect.tag.{CHANGES}", f"prefect.tag.{READS}"}, name


def test_other_commands_of_prefect_prepare_nothing() -> None:
    assert is_deploy(["prefect", "--no-prompt", "deploy", "--all"])
    assert not is_deploy(["prefect", "deployment", "run", "deploy"])
    assert not is_deploy(["-m", "worker", "start"])


def test_a_run_that_ended_by_a_name_of_ours_is_not_taken_for_lost() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "flows").glob("*.py"))
    names = set(re.findall(r"ompleted\([^)]*?name=\"(\w+)\"", sources))
    assert {"Degraded", "Expiring", "Skipped"} <= names
    assert {f"prefect.flow-run.{name}" for name in names} <= ENDINGS


def test_every_run_gives_the_signs_of_life_that_are_waited_for(server: Server) -> None:
    for name, deployment in server.deployments().items():
        beat = int(deployment["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        assert timedelta(seconds=3 * beat) < LOST_AFTER, name


def test_every_flow_is_a_deployment_with_a_form_that_explains_itself(server: Server) -> None:
    found = server.deployments()
    assert found.keys() == flows().keys()
    for name, deployment in found.items():
        assert deployment["description"], name
        assert set(deployment["tags"]) in ({TAG, CHANGES}, {TAG, READS}), name
        assert deployment["name"] == deployment_name(name) == flows()[name].name
        assert deployment["work_pool_name"] == "linkerd", name
        limit = 1 if CHANGES in deployment["tags"] or name == "watch_charts" else 10
        assert deployment["global_concurrency_limit"]["limit"] == limit, name
        assert deployment["enforce_parameter_schema"], name
        # No parameter is preset: a form that shows no mesh must not submit one.
        assert deployment["parameters"] == {}, name
        assert deployment["parameter_openapi_schema"]["properties"], name
        undescribed = undescribed_fields(deployment["parameter_openapi_schema"])
        assert undescribed in ([], ONLY_PREFECTS_OWN), name


def test_every_mesh_has_its_schedules(server: Server) -> None:
    def schedules(deployment: str) -> dict[str, tuple[timedelta, str]]:
        return {
            s["slug"]: (
                timedelta(seconds=s["schedule"]["interval"]),
                s["parameters"]["mesh"]["$ref"]["block_document_slug"],
            )
            for s in server.deployments()[deployment]["schedules"]
            if s["active"] and s["slug"].startswith(("mesh-", "north-"))
        }

    assert schedules("check_certificates") == {
        "mesh-daily": (timedelta(days=1), "linkerd-mesh/mesh"),
        "north-daily": (timedelta(days=1), "linkerd-mesh/north"),
    }
    [hourly] = server.deployments()["watch_charts"]["schedules"]
    assert (hourly["slug"], hourly["schedule"]["interval"]) == ("hourly", 3600)
    assert schedules("verify_mesh") == {
        "mesh-quick": (timedelta(minutes=15), "linkerd-mesh/mesh"),
        "mesh-deep": (timedelta(days=1), "linkerd-mesh/mesh"),
        "north-quick": (timedelta(minutes=15), "linkerd-mesh/north"),
        "north-deep": (timedelta(days=1), "linkerd-mesh/north"),
    }


def test_the_schedules_make_runs(server: Server) -> None:
    def planned() -> set[str]:
        runs = server.ask("flow_runs/filter", sort="EXPECTED_START_TIME_ASC")
        return {run["deployment_id"] for run in runs if run["auto_scheduled"]}

    scheduled = {d["id"] for d in server.deployments().values() if d["schedules"]}
    eventually(lambda: planned() == scheduled)


def test_what_is_there_stays_as_people_have_set_it(server: Server) -> None:
    with on_server(server.api):
        before, automations = server.deployments(), server.automations()
        checks = before["check_certificates"]
        for slug in ("mesh-daily", "north-daily"):
            _switch_schedule(server, checks, slug, on=False)
        off = automations["linkerd: a run waits for approval"]["id"]
        _patch(server, f"automations/{off}", enabled=False)

        server.command("prefect", "--no-prompt", "deploy", "--all")
        assert _sync_automations() == []

        after = server.deployments()
        assert {n: d["id"] for n, d in after.items()} == {n: d["id"] for n, d in before.items()}
        schedules = {s["slug"]: s for s in after["check_certificates"]["schedules"]}
        assert [s["active"] for s in schedules.values()] == [False, False]
        assert {s["id"] for s in schedules.values()} == {s["id"] for s in checks["schedules"]}
        assert server.automations().keys() == automations.keys()
        assert not server.automations()["linkerd: a run waits for approval"]["enabled"]
        _patch(server, f"automations/{off}", enabled=True)


def test_a_deployment_runs_on_a_mesh_that_is_named(server: Server) -> None:
    run = server.ask(
        f"deployments/{server.deployments()['check_certificates']['id']}/create_flow_run",
        parameters={"mesh": {"$ref": {"block_document_slug": "linkerd-mesh/north"}}},
    )
    server.command("prefect", "flow-run", "execute", run["id"])
    done = server.get(f"flow_runs/{run['id']}")
    assert (done["state"]["type"], done["name"]) == ("COMPLETED", "certificates of north")
    # The mesh stays a reference: the run stores none of its secrets.
    assert done["parameters"] == run["parameters"]


def test_a_mesh_that_fails_three_times_in_a_row_is_told(
    server: Server, inbox: Inbox, sandbox_mesh: LinkerdMesh
) -> None:
    with on_server(server.api):
        for times in (1, 2, 3):
            assert verify_mesh(sandbox_mesh, return_state=True).is_failed()
            eventually(lambda times=times: _failures(server) == times)
            if times < 3:
                assert not inbox.about("is not healthy")
    [message] = eventually(lambda: inbox.about("is not healthy"))
    assert message["subject"] == "Mesh lost is not healthy"
    assert "3 times in a row: " in message["body"]
    well = verify(empty_snapshot(config=MeshConfig(name="lost")), (), ())
    _announce(server, verdict_notice(well, failures_before=3))
    [message] = eventually(lambda: inbox.about("has recovered"))
    assert message["subject"] == "Mesh lost has recovered"
    assert message["body"].startswith("lost is healthy")


def test_a_mesh_without_a_verdict_is_told(server: Server, inbox: Inbox) -> None:
    event = Event(
        occurred=datetime.now(UTC) - timedelta(minutes=59, seconds=50),
        event="linkerd.mesh.healthy",
        resource=Resource(
            {"prefect.resource.id": "linkerd.mesh.quiet", "prefect.resource.name": "quiet"}
        ),
    )
    now = {"id": uuid4(), "event": "another", "occurred": datetime.now(UTC)}
    _send(server, event)
    # The server takes the time of the newest event as the current time.
    _send(server, event.model_copy(update=now))
    silence = server.automations()["linkerd: a mesh is no longer verified"]["id"]

    def told() -> list[dict[str, str]]:
        # The server checks for silence once per period, but also whenever a trigger changes.
        _patch(server, f"automations/{silence}", enabled=True)
        return inbox.about("not verified any more")

    [message] = eventually(told)
    assert message["subject"] == "Mesh quiet is not verified any more"


def _announce(server: Server, *notices: Notice) -> None:
    for notice in notices:
        resource = Resource({**notice.resource})
        _send(server, Event(event=notice.event, resource=resource, payload={**notice.payload}))


def test_a_certificate_that_nobody_renews_is_told(server: Server, inbox: Inbox) -> None:
    made = create_trust_anchor("cluster.local", timedelta(days=5), datetime.now(UTC))
    info = read_certificates(made.certificate, "ca")[0]
    found = Expiry("webhook CA", "ca", "Secret/m/ca", info, 5, remedy="Do this.")
    # cert-manager renews the second one, so it is not announced.
    for each in (found, replace(found, renewed_by="cert-manager", days_left=0), found):
        _announce(server, *certificate_notices("lost", expiring([each], MeshConfig(), [7])))
    [message] = eventually(lambda: inbox.about("webhook CA of mesh lost expires soon"))
    assert message["subject"] == "The webhook CA of mesh lost expires soon"
    assert "Secret/m/ca: 5 days are left." in message["body"]
    assert "Do this." in message["body"]


def test_a_run_that_waits_and_a_run_that_fails_are_told(server: Server, inbox: Inbox) -> None:
    path = f"deployments/{server.deployments()['bootstrap']['id']}/create_flow_run"
    mesh = {"$ref": {"block_document_slug": "linkerd-mesh/north"}}
    run = server.ask(path, parameters={"mesh": mesh}, name="told of")
    for state, subject in (
        ("PAUSED", "told of waits for approval"),
        ("FAILED", "told of failed"),
    ):
        server.ask(f"flow_runs/{run['id']}/set_state", state={"type": state}, force=True)
        eventually(lambda subject=subject: inbox.about(subject))


def test_a_release_starts_the_upgrade_of_each_mesh_with_automatic_upgrades(
    server: Server,
) -> None:
    with on_server(server.api):
        LinkerdMesh(name="manual").save("manual")
        _sync_automations()
        LinkerdMesh.delete("manual")
    subscribed = [name for name in server.automations() if name.startswith("linkerd: upgrade ")]
    assert subscribed == ["linkerd: upgrade north on edge releases"]
    event = Event(
        event=RELEASED,
        resource=Resource({"prefect.resource.id": resource_of("edge")}),
        payload={"version": "edge-99.1.1"},
    )
    _send(server, event)
    [run] = eventually(lambda: server.runs("upgrade"))
    assert run["parameters"]["to"] == "edge-99.1.1"
    document = run["parameters"]["mesh"]["$ref"]["block_document_id"]
    assert server.get(f"block_documents/{document}")["name"] == "north"
    assert run["created_by"]["type"] == "AUTOMATION"

    with on_server(server.api):
        north = LinkerdMesh.load("north")
        before = north.upgrade.automatic
        for automatic, found in (("off", []), (before, subscribed)):
            north.upgrade.automatic = automatic
            north.save("north", overwrite=True)
            _sync_automations()
            names = server.automations()
            assert [name for name in names if name.startswith("linkerd: upgrade ")] == found


@pytest.mark.waits
def test_an_ending_certificate_starts_its_rotation_once(
    server: Server, cluster: Cluster, namespace: str, mesh_file: Path
) -> None:
    now = datetime.now(UTC)
    anchor = create_trust_anchor("cluster.local", timedelta(days=20), now)
    issuer = sign_issuer(anchor, "cluster.local", timedelta(days=10), now)
    roots = {"name": TRUST_ROOTS, "namespace": namespace}
    bundle = {"ca-bundle.crt": anchor.certificate}
    cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": roots, "data": bundle})
    cluster.create(
        tls_secret(
            ISSUER_SECRET, namespace, issuer.certificate, issuer.private_key, anchor.certificate
        )
    )
    # A CA of its own, as a chart creates one, would also do.
    cluster.create(
        tls_secret(
            "linkerd-proxy-injector-k8s-tls", namespace, issuer.certificate, issuer.private_key, ""
        )
    )
    with on_server(server.api):
        mesh = LinkerdMesh.model_validate_json(mesh_file.read_text())
        mesh.name, mesh.namespaces.linkerd = "ending", namespace
        block = mesh.save("ending", overwrite=True)
        assert _sync_automations() == []
        for _ in range(2):
            state = check_certificates(mesh, return_state=True)
            assert state.name == "Expiring", state.message
    answers = list(ROTATIONS.values())
    for deployment, parameters in answers:
        [run] = eventually(lambda name=deployment: server.runs(name))
        chosen = {"$ref": {"block_document_id": str(block)}}
        assert run["parameters"] == {"mesh": chosen, **parameters}
    # The second announcement started nothing, and a deleted mesh leaves nothing behind.
    assert [len(server.runs(name)) for name, _ in answers] == [1] * len(answers)
    with on_server(server.api):
        LinkerdMesh.delete("ending")
        _sync_automations()
    assert not [name for name in server.automations() if "ending" in name]
    schedules = [s["slug"] for d in server.deployments().values() for s in d["schedules"]]
    assert "north-daily" in schedules
    assert not [slug for slug in schedules if "ending" in slug]


def test_a_block_names_its_mesh_and_keeps_its_version(server: Server) -> None:
    """Saved by a form with the default name filled in, or by the API with no fields at all."""
    with on_server(server.api):
        LinkerdMesh.load("north")
    ids = {
        "block_type_id": str(LinkerdMesh._block_type_id),
        "block_schema_id": str(LinkerdMesh._block_schema_id),
    }
    saved: dict[str, dict[str, Any]] = {
        "east": {"name": "mesh", "version": "stable-2.14.10"},
        "west": {},
        "twin": {"name": "east", "version": "edge-26.8.3"},
    }
    for name, data in saved.items():
        made = server.ask("block_documents/", name=name, data=data, **ids)
        saved[name] = {**data, "id": made["id"]}
    with on_server(server.api):
        east = LinkerdMesh.load("east")
        assert (east.name, east.version) == ("east", "stable-2.14.10")
        # Load it as a run loads its parameter.
        run = Block.load_from_ref({"block_document_slug": "linkerd-mesh/west"})
        assert run.name == "west"
        [left] = _sync_automations()
        assert left.startswith("2 Linkerd Mesh blocks have the mesh name east: east, twin. ")
        kept = server.get(f"block_documents/{saved['west']['id']}")["data"]
        assert (kept["name"], kept["version"]) == ("west", LinkerdMesh().version)
        made = LinkerdMesh()
        made.save("south-east")
        assert made.name == LinkerdMesh.load("south-east").name == "south-east"
        for name in (*saved, "south-east"):
            LinkerdMesh.delete(name)
        assert _sync_automations() == []


@pytest.fixture
def sandbox_mesh(mesh_file: Path) -> LinkerdMesh:
    """A mesh on a cluster without Linkerd."""
    return LinkerdMesh.model_validate_json(mesh_file.read_text()).model_copy(
        update={"name": "lost"}
    )


def _sync_automations() -> list[str]:
    async def work() -> list[str]:
        async with get_client() as client:
            return await sync_automations(client)

    return asyncio.run(work())


def _failures(server: Server) -> int:
    found = server.ask(
        "events/filter",
        filter={
            "event": {"name": ["linkerd.mesh.failed"]},
            "resource": {"id": ["linkerd.mesh.lost"]},
        },
    )["events"]
    return max((event["payload"]["failures"] for event in found), default=0)


def _send(server: Server, event: Event) -> None:
    async def send() -> None:
        async with get_events_client(checkpoint_every=1) as client:
            await client.emit(event)

    with on_server(server.api):
        asyncio.run(send())


def _switch_schedule(server: Server, deployment: dict[str, Any], slug: str, *, on: bool) -> None:
    [schedule] = [s["id"] for s in deployment["schedules"] if s["slug"] == slug]
    _patch(server, f"deployments/{deployment['id']}/schedules/{schedule}", active=on)


def _patch(server: Server, path: str, **body: Any) -> None:
    server.request("PATCH", path, body)
