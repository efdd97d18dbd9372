"""A mesh as a Prefect Block, on a real server: its form, its secrets, its credentials."""

from __future__ import annotations

import os
import subprocess
import sys
from uuid import uuid4

import pytest
import yaml
from pydantic import ValidationError

from prefect_linkerd.flows.bootstrap import bootstrap
from prefect_linkerd.server.prefect_server import PrefectServer
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from sandbox.cluster import Sandbox
from tests.support.schema import undescribed_fields

SAVE_AND_LOAD = """
import asyncio, json, sys
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect_kubernetes.credentials import KubernetesClusterConfig, KubernetesCredentials
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect

kubeconfig = yaml.safe_load(open(sys.argv[1]))
cluster = KubernetesClusterConfig(config=kubeconfig, context_name=kubeconfig["current-context"])
credentials = KubernetesCredentials(cluster_config=cluster)
credentials.save("cluster", overwrite=True)
LinkerdMesh(
    name="saved",
    credentials=KubernetesCredentials.load("cluster"),
    registry={"host": "r.example", "username": "u", "password": "s3cret"},
    trust_anchor={"passphrase": "correct horse battery"},
).save("saved", overwrite=True)

loaded = LinkerdMesh.load("saved")
assert loaded.registry.password.get_secret_value() == "s3cret"
assert loaded.trust_anchor.passphrase.get_secret_value() == "correct horse battery"
assert loaded.upgrade.window is None and loaded.lifetimes.issuer_days == 365
shown = loaded.model_dump_json()
token = kubeconfig["users"][0]["user"]["token"]
assert "s3cret" not in shown and "horse" not in shown and token not in shown, shown
print(connect(loaded).cluster.version())

# As the older UI saves it: without the fields that nobody touched.
def data_of(block):
    with get_client(sync_client=True) as client:
        return client.read_block_document(block).data

block = LinkerdMesh(
    access={"kubeconfig": sys.argv[1]},
    registry={"host": "r.example", "username": "u", "password": "s3cret"},
).save("untouched")
data = data_of(block)
del data["version"]
with get_client(sync_client=True) as client:
    without = BlockDocumentUpdate(data=data, merge_existing_data=False)
    client.update_block_document(block, without)
assert "version" not in data_of(block)
untouched = LinkerdMesh.load("untouched")
connect(untouched)
assert data_of(block) == {**data, "version": LinkerdMesh().version}, data_of(block)
assert LinkerdMesh.load("untouched").registry.password.get_secret_value() == "s3cret"
"""


TWO_CLUSTERS = """
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor
from prefect_linkerd.mesh.identity.trust_anchor import decide_trust_anchor, read_snapshot
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.trust_anchor import key_store

cluster, mesh, now = Cluster.from_file(Path(sys.argv[1])), LinkerdMesh(), datetime.now(UTC)
store = key_store(Mesh(cluster, mesh))

def decide(config):
    try:
        found = read_snapshot(Mesh(cluster, config), store)
        return decide_trust_anchor(found, config, now, store.where)
    except InvalidInput as error:
        return str(error)

pair = create_trust_anchor("cluster.local", timedelta(days=9), now)
store.store_once(replace(pair, cluster="elsewhere"))
assert store.load().cluster == "elsewhere"
assert "the one of cluster elsewhere" in decide(mesh), decide(mesh)
assert "share_anchor" in decide(mesh)
shared = MeshConfig(trust_anchor={"share_anchor": True})
assert decide(shared) == ("adopted", pair.certificate)
# As it was stored before clusters were noted.
store.replace(pair)
assert "one of an unknown cluster" in decide(mesh), decide(mesh)
store.replace(replace(pair, cluster=read_snapshot(Mesh(cluster, mesh), store).cluster))
assert decide(mesh) == ("adopted", pair.certificate)
print(store.where)
store.remove()
"""


def test_a_second_cluster_does_not_take_the_anchor_of_the_default_block(
    sandbox: Sandbox, prefect_server: PrefectServer
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_CLUSTERS, str(sandbox.kubeconfig)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | prefect_server.environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "Prefect Secret block linkerd-mesh-trust-anchor"


def test_every_option_explains_itself_in_the_form() -> None:
    # The one exception is a model of prefect-kubernetes.
    assert undescribed_fields(LinkerdMesh.model_json_schema()) == [
        "KubernetesCredentials.cluster_config"
    ]


def test_the_form_of_a_block_begins_with_credentials_and_hides_what_is_rare() -> None:
    form = LinkerdMesh._to_block_schema().fields
    at_once = [name for name, field in form["properties"].items() if "$ref" in field]
    closed = [
        name for name, field in form["properties"].items() if field.get("default", ...) is None
    ]
    assert next(iter(form["properties"])) == "credentials"
    assert at_once == ["access"]
    assert closed == ["credentials", "trust_anchor", "upgrade", "viz", "traefik", "advanced"]
    # Every option is still there, once.
    everything = {*form["properties"], *form["definitions"]["Advanced"]["properties"]}
    assert everything - {"advanced"} == {*LinkerdMesh.model_fields}
    assert len(form["properties"]) == 12
    assert "advanced.registry.password" in form["secret_fields"]


def test_a_block_is_loaded_as_whichever_form_saved_it() -> None:
    registry = {"host": "r.example", "username": "u", "password": "s3cret"}
    before = {"name": "north", "lifetimes": {"issuer_days": 30}, "registry": registry}
    # As today's form saves it: unopened sections are null.
    today = {
        "name": "north",
        "trust_anchor": None,
        "upgrade": None,
        "viz": None,
        "advanced": {"lifetimes": {"issuer_days": 30}, "registry": registry},
    }
    meshes = [LinkerdMesh.model_validate(data) for data in (before, today)]
    assert meshes[0].model_dump() == meshes[1].model_dump()
    assert meshes[0].lifetimes.issuer_days == 30
    with pytest.raises(ValidationError, match=r"lifetimes\.issuer_day\b"):
        LinkerdMesh.model_validate({"advanced": {"lifetimes": {"issuer_day": 30}}})


def test_a_block_stores_what_is_not_as_usual() -> None:
    mesh = LinkerdMesh.model_validate({"profile": "demo", "lifetimes": {"issuer_days": 30}})
    data = mesh._to_block_document("north", uuid4(), uuid4(), include_secrets=True).data
    assert data["advanced"].keys() == {"lifetimes"}
    assert (data["viz"], data["upgrade"], data["version"]) == (None, None, mesh.version)
    assert LinkerdMesh.model_validate(data).model_dump() == mesh.model_dump()


def test_the_flow_is_started_by_choosing_a_mesh() -> None:
    schema = bootstrap.parameters.model_dump()
    assert list(schema["properties"]) == ["mesh", "dry_run", "accept"]
    assert schema["required"] == ["mesh"]
    assert "The mesh to install" in schema["properties"]["mesh"]["description"]
    definition = schema["definitions"]["LinkerdMesh"]
    assert definition["block_type_slug"] == "linkerd-mesh"


def test_a_saved_mesh_keeps_its_secrets_and_finds_its_cluster(
    sandbox: Sandbox, prefect_server: PrefectServer
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAVE_AND_LOAD, str(sandbox.kubeconfig)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | prefect_server.environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == sandbox.cluster().version()
    assert yaml.safe_load(sandbox.kubeconfig.read_text())["current-context"] == "shared"
