"""Meshes that users created by `helm install`, managed with the configuration from `adopt`.

The configuration is `adopt`'s YAML, plus only what it says is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.adoption import Adoption, adoption_yaml, describe, read_adoption
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput, OwnershipConflict
from prefect_linkerd.mesh.identity.certificate_anchor import TRUST_MANAGER
from prefect_linkerd.mesh.identity.trust_anchor import TRUST_ROOTS
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.rotation.issuer_renewal import await_issued, renew
from prefect_linkerd.mesh.rotation.trust_bundle import read_trust_bundle
from prefect_linkerd.mesh.rotation.webhooks import inspect_webhooks
from prefect_linkerd.mesh.snapshot.expiry import expiring, read_expiries
from sandbox.cluster import Sandbox
from tests.support.cluster_state import every_object, resource_versions, settled_versions
from tests.support.flows import Flows
from tests.support.invariant import Invariant
from tests.support.meshes import PASSPHRASE, add_workloads
from tests.support.plain import (
    Names,
    Plain,
    failing,
    issuer_never_missing,
    issuer_of,
    new_issuer,
)
from tests.support.ready_meshes import ReadyMeshes
from tests.support.rotations import plan, rotate
from tests.support.trust_manager import (
    CURRENT,
    SERVERS,
    documented_mesh,
    trusted,
    webhook_ca,
)
from tests.support.upgrades import proxies
from tests.support.waiting import eventually

pytestmark = [pytest.mark.real_charts, pytest.mark.timeout(600)]

EVERY_FLOW = {
    "verify_mesh",
    "check_certificates",
    "smoke_test",
    "bootstrap",
    "upgrade",
    "rotate_issuer",
    "rotate_anchor",
    "rotate_webhooks",
}
NEEDS_KEY = "private key of the trust anchor"
WORKLOADS = 2
MADE_AGAIN = {"Pod", "ReplicaSet", "EndpointSlice", "Endpoints", "CertificateRequest"}
"""Kinds that controllers replace whenever a workload restarts or a certificate is renewed."""


DOCUMENTED = Names()


LAYOUT = {
    "issuer": "cert-manager",
    "cert_manager": {
        "install": False,
        "issuer_kind": "ClusterIssuer",
        "webhook_certificates": False,
    },
    "trust_anchor": {"custody": "in-cluster"},
    "values": {"inline": {"identity": {"externalCA": True}}},
}
WEBHOOKS = {
    value: {"externalSecret": True, "injectCaFrom": f"linkerd/{name}"}
    for value, name in SERVERS.items()
}


@dataclass(frozen=True)
class Made:
    """How a user installed a mesh, and the version that they upgrade it to.

    `linkerd` is the control plane's namespace, which 2.11's single chart creates itself.
    """

    version: str
    target: str
    names: Names = DOCUMENTED
    linkerd: str = "linkerd"
    scheme: str = "linkerd.io/tls"


PLAIN = [
    Made("stable-2.11.5", "stable-2.12.6", Names(control_plane="linkerd2", namespace="default")),
    Made("stable-2.13.0", "stable-2.13.7", scheme="kubernetes.io/tls"),
    Made("stable-2.14.5", "stable-2.14.10"),
    Made("stable-2.12.2", "stable-2.12.6", Names("crds", "default", "l5d", "mesh"), "mesh"),
]


def adopted(sandbox: Sandbox, charts: Path) -> Adoption:
    access = {"kubeconfig": str(sandbox.kubeconfig)}
    base = {"name": "adopted", "access": access, "charts": {"mirror": str(charts)}}
    return describe(read_adoption(sandbox.cluster(), MeshConfig.model_validate(base)))


def working(found: Adoption) -> set[str]:
    return {outlook.flow for outlook in found.outlook if outlook.works}


def objects(cluster: Cluster) -> dict[str, str]:
    """Every lasting object, with its UID; not Helm's records, which come and go."""
    return {
        f"{obj['kind']}/" + "/".join(part for part in key.split("/")[-2:] if part): obj["metadata"][
            "uid"
        ]
        for key, obj in every_object(cluster)
        if obj["kind"] not in MADE_AGAIN
        and not obj["metadata"]["name"].startswith("sh.helm.release")
    }


@contextmanager
def none_lost(cluster: Cluster, namespace: str) -> Iterator[set[str]]:
    """Asserts that only objects in the set are lost, and that the issuer is never missing."""
    before, gone = objects(cluster), set[str]()
    with issuer_never_missing(cluster, namespace):
        yield gone
    after = objects(cluster)
    lost = {key for key, uid in before.items() if after.get(key) != uid}
    assert lost <= gone, lost - gone


@pytest.fixture
def plain(
    ready_meshes: ReadyMeshes, helm_path: str, charts_dir: Path, tmp_path: Path
) -> Iterator[Callable[[Made], Plain]]:
    """A copy of a mesh that a user installed, with some workloads."""
    with ExitStack() as stack:

        def copy(made: Made) -> Plain:
            def install(sandbox: Sandbox, folder: Path) -> None:
                new = Plain(sandbox, helm_path, charts_dir, folder)
                new.install(made.version, made.names, scheme=made.scheme)
                add_workloads(new.cluster, WORKLOADS, control_plane=made.linkerd)

            sandbox = stack.enter_context(ready_meshes.copy(f"plain {made}", tmp_path, install))
            return Plain(sandbox, helm_path, charts_dir, tmp_path)

        yield copy


def keyless(found: Adoption, folder: Path) -> MeshConfig:
    """`adopt`'s configuration with a place for a new anchor's key, without the old one's."""
    place = {"key_file": str(folder / "new.key"), "passphrase": PASSPHRASE}
    fields = yaml.safe_load(adoption_yaml(found))
    return MeshConfig.model_validate({**fields, "trust_anchor": place})


def with_key(found: Adoption, folder: Path) -> dict[str, Any]:
    """`adopt`'s configuration with the trust anchor's key that it asks for."""
    fields: dict[str, Any] = yaml.safe_load(adoption_yaml(found))
    fields["trust_anchor"] = {
        "certificate_file": str(folder / "ca.crt"),
        "private_key_file": str(folder / "ca.key"),
        "key_file": str(folder / "kept.key"),
        "passphrase": PASSPHRASE.get_secret_value(),
    }
    return fields


@pytest.mark.parametrize("made", PLAIN, ids=lambda made: f"{made.version} {made.linkerd}")
def test_a_plain_mesh_is_looked_after(
    made: Made, plain: Callable[[Made], Plain], charts_dir: Path, tmp_path: Path, flows: Flows
) -> None:
    mesh = plain(made)
    cluster, namespace = mesh.cluster, made.linkerd
    found = adopted(mesh.sandbox, charts_dir)
    assert working(found) == EVERY_FLOW - {"rotate_issuer"}
    (missing,) = found.missing
    assert NEEDS_KEY in missing
    with pytest.raises(InvalidInput, match=NEEDS_KEY):
        new_issuer(mesh, keyless(found, tmp_path))

    fields = with_key(found, tmp_path)
    config = MeshConfig.model_validate(fields)
    assert failing(mesh, config) == {}
    with none_lost(cluster, namespace) as gone, Invariant(mesh.sandbox):
        renewed = new_issuer(mesh, config)
        assert renewed.before != renewed.after
        assert rotate(cluster, config, mesh.helm)[-1] == "done"
        done = flows.upgrade(fields, to=made.target)
        assert (done.get("source"), done.get("target")) == (made.version, made.target), done
        gone |= set(done["deleted"])
    assert failing(mesh, config.model_copy(update={"version": made.target})) == {}
    assert proxies(cluster, namespace) == {made.target}


def test_bootstrap_of_a_documented_install_leaves_its_issuer_with_the_chart(
    plain: Callable[[Made], Plain], charts_dir: Path, tmp_path: Path, flows: Flows
) -> None:
    """Once the anchor's key is provided, one run is enough, and Helm deletes nothing."""
    (made,) = (made for made in PLAIN if made.version == "stable-2.14.5")
    mesh = plain(made)
    fields = with_key(adopted(mesh.sandbox, charts_dir), tmp_path)
    with none_lost(mesh.cluster, made.linkerd):
        done = flows("bootstrap", fields)
        assert done.returncode == 0, done.stderr[-4000:]
    config = MeshConfig.model_validate(fields)
    assert issuer_of(mesh, made.linkerd).is_chart_made
    assert failing(mesh, config) == {}
    seen = settled_versions(mesh.cluster)
    assert flows("bootstrap", fields).returncode == 0
    assert resource_versions(mesh.cluster) == seen


def test_a_mesh_whose_anchors_key_is_lost_gets_another_anchor(
    plain: Callable[[Made], Plain], charts_dir: Path, tmp_path: Path
) -> None:
    mesh = plain(PLAIN[-1])
    config = keyless(adopted(mesh.sandbox, charts_dir), tmp_path)
    with none_lost(mesh.cluster, PLAIN[-1].linkerd), Invariant(mesh.sandbox):
        assert rotate(mesh.cluster, config, mesh.helm)[-1] == "done"
        renewed = new_issuer(mesh, config)
    assert renewed.before != renewed.after
    assert failing(mesh, config) == {}


@contextmanager
def without_copy(cluster: Cluster) -> Iterator[None]:
    """Removes the previous anchor from the Bundle's sources meanwhile."""
    bundle = cluster.get(TRUST_MANAGER, "Bundle", TRUST_ROOTS)
    assert bundle is not None
    sources = bundle["spec"]["sources"]
    alone = [source for source in sources if source["secret"]["name"] == CURRENT]
    for changed in (alone, sources):
        cluster.merge(TRUST_MANAGER, "Bundle", TRUST_ROOTS, None, {"spec": {"sources": changed}})
        if changed is alone:
            yield


def managers(cluster: Cluster) -> dict[str, Any]:
    """The specs and labels for cert-manager and trust-manager, which must not change here."""
    kinds = ("Certificate", "Issuer", "ClusterIssuer")
    told = [obj for kind in kinds for obj in cluster.list("cert-manager.io/v1", kind)]
    told += cluster.list(TRUST_MANAGER, "Bundle")
    return {
        f"{obj['kind']}/{obj['metadata']['name']}": (obj["spec"], obj["metadata"].get("labels"))
        for obj in told
    }


def cmctl_renew(cluster: Cluster, advice: str) -> list[str]:
    """Follows advice to run `cmctl renew`, waits, and returns the Certificates that it names."""
    command = re.search(r"cmctl renew --namespace (\S+) ([\w -]+)", advice)
    assert command is not None, advice
    names = command[2].split()
    for name in names:
        renew(cluster, command[1], name)
    for name in names:
        await_issued(cluster, command[1], name, f"{name}-k8s-tls", 60)
    return names


def gets_another_webhook_ca(mesh: Plain, config: MeshConfig) -> None:
    """Its expiry is announced, and prevented as advised; rotate_webhooks refuses to change it."""
    cluster = mesh.cluster
    found = {e.name: e for e in read_expiries(Mesh(cluster, config)) if e.role == "webhook CA"}
    assert found.keys() == {"webhook CA of linkerd"}
    (due,) = (e for e in expiring(found.values(), config, [30]) if not e.expiry.renewed_by)
    assert due.expiry.subject == "Secret/linkerd/webhook-issuer-tls"
    said = failing(mesh, config)
    assert "pl-webhook-ca-days-left" in said
    assert due.remedy in said["pl-webhook-ca-days-left"]
    with pytest.raises(InvalidInput, match="cert-manager renews it by Certificate") as refused:
        inspect_webhooks(Mesh(cluster, config))

    before = trusted(cluster)
    assert "Put another CA into Secret/linkerd/webhook-issuer-tls" in due.remedy
    webhook_ca(cluster, 300)
    renewed = cmctl_renew(cluster, due.remedy)
    assert renewed == cmctl_renew(cluster, refused.value.remedy) == list(SERVERS.values())
    eventually(lambda: len(trusted(cluster)) == 1 and not trusted(cluster) & before, every=0.2)
    eventually(lambda: "pl-webhook-ca-days-left" not in failing(mesh, config), every=1)


def reasons(found: Adoption) -> dict[str, str]:
    return {outlook.flow: "; ".join(outlook.reasons) for outlook in found.outlook}


def test_the_documented_cert_manager_layout_is_looked_after(
    ready_meshes: ReadyMeshes,
    shared_dir: Path,
    helm_path: str,
    charts_dir: Path,
    tmp_path: Path,
    flows: Flows,
) -> None:
    source, target = "edge-25.4.4", "edge-26.8.3"
    install = documented_mesh(source, shared_dir, helm_path)
    with ready_meshes.copy(f"documented {source}", tmp_path, install) as sandbox:
        mesh = Plain(sandbox, helm_path, charts_dir, tmp_path)
        cluster = mesh.cluster
        add_workloads(cluster, WORKLOADS)
        found = adopted(sandbox, charts_dir)
        assert (working(found), found.missing) == (EVERY_FLOW, ())
        fields: dict[str, Any] = yaml.safe_load(adoption_yaml(found))
        assert {key: fields[key] for key in LAYOUT} == LAYOUT
        owners = dict(found.owners)
        assert owners["trust anchor"] == "cert-manager's Certificate/cert-manager/" + CURRENT
        assert owners["trust bundle"] == f"trust-manager's Bundle/{TRUST_ROOTS}"
        assert owners["trust-manager"] == "Helm release cert-manager/trust-manager"
        with without_copy(cluster):
            reason = reasons(adopted(sandbox, charts_dir))["rotate_anchor"]
            with pytest.raises(OwnershipConflict) as refused:
                plan(cluster, MeshConfig.model_validate(fields))
            assert reason == str(refused.value)

        before = managers(cluster)
        with none_lost(cluster, "linkerd") as gone, Invariant(sandbox):
            done = flows.upgrade(fields, to=target)
            assert (done.get("source"), done.get("target")) == (source, target), done
            gone |= set(done["deleted"])
            newer = yaml.safe_load(adoption_yaml(adopted(sandbox, charts_dir)))
            assert newer == {**fields, "version": target}
            config = MeshConfig.model_validate(newer)
            assert not failing(mesh, config)
            renewed = new_issuer(mesh, config)
            assert renewed.before != renewed.after
            assert rotate(cluster, config, helm_path)[-1] == "done"
            kept = flows("bootstrap", newer)
            assert kept.returncode == 0, kept.stderr[-4000:]
            assert not read_trust_bundle(Mesh(cluster, config)).declared
            assert flows.upgrade(newer, to=target)["done"]
        assert managers(cluster) == before
        assert not failing(mesh, config)
        assert proxies(cluster) == {target}


def test_the_documented_webhook_certificates_are_left_to_their_owner(
    ready_meshes: ReadyMeshes, shared_dir: Path, helm_path: str, charts_dir: Path, tmp_path: Path
) -> None:
    version = "edge-25.4.4"
    install = documented_mesh(version, shared_dir, helm_path, webhook_ca_days=20)
    with ready_meshes.copy(f"documented webhooks {version}", tmp_path, install) as sandbox:
        found = adopted(sandbox, charts_dir)
        assert (working(found), found.missing) == (EVERY_FLOW - {"rotate_webhooks"}, ())
        assert "by Certificate linkerd-proxy-injector" in reasons(found)["rotate_webhooks"]
        fields: dict[str, Any] = yaml.safe_load(adoption_yaml(found))
        assert fields["values"]["inline"] == {"identity": {"externalCA": True}, **WEBHOOKS}
        mesh = Plain(sandbox, helm_path, charts_dir, tmp_path)
        gets_another_webhook_ca(mesh, MeshConfig.model_validate(fields))
