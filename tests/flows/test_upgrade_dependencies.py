"""An upgrade that also upgrades cert-manager and Traefik and removes an extension; and its undo."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.kubernetes.client import Cluster
from tests.support.flows import Flows, ReadyWholeMesh
from tests.support.upgrades import proxies, releases, that_must_survive

SOURCE, TARGET = "edge-25.4.4", "edge-26.8.3"
MIDDLEWARES = "middlewares.traefik.io"


def older(package: Path, version: str, folder: Path, crd: str = "") -> None:
    """Puts an older release of a real chart into a folder; one CRD of it lacks `spec.errors`."""
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    chart = folder / package.name.rsplit("-", 1)[0]
    metadata = chart / "Chart.yaml"
    lines = [
        f"version: {version}" if line.startswith("version:") else line
        for line in metadata.read_text().splitlines()
    ]
    metadata.write_text("\n".join(lines) + "\n")
    if crd:
        content = yaml.safe_load((chart / crd).read_text())
        schema = content["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        del schema["properties"]["spec"]["properties"]["errors"]
        (chart / crd).write_text(yaml.safe_dump(content))


@pytest.fixture
def mirror(charts_dir: Path, tmp_path: Path) -> Path:
    """A mirror whose cert-manager and Traefik are one release behind."""
    folder = tmp_path / "charts"
    folder.mkdir()
    for name in ("stable", "edge"):
        (folder / name).symlink_to(charts_dir / name)
    older(charts_dir / "jetstack/cert-manager-v1.21.2.tgz", "v1.21.1", folder / "jetstack")
    older(
        charts_dir / "traefik/traefik-41.3.0.tgz",
        "41.2.0",
        folder / "traefik",
        "crds/traefik.io_middlewares.yaml",
    )
    return folder


def has_errors_middleware(cluster: Cluster) -> bool:
    crd = cluster.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", MIDDLEWARES)
    assert crd is not None
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return "errors" in schema["properties"]["spec"]["properties"]


@pytest.mark.timeout(1500)
def test_dependencies_go_along_and_jaeger_goes_away(
    ready_whole_mesh: ReadyWholeMesh,
    flows: Flows,
    charts_dir: Path,
    mirror: Path,
) -> None:
    sandbox, config = ready_whole_mesh(
        name="along",
        version=SOURCE,
        charts={"mirror": str(mirror)},
        viz={"enabled": False},
        jaeger={"enabled": True},
        issuer="cert-manager",
        trust_anchor={"custody": "in-cluster"},
        upgrade={"dependencies": ["cert-manager", "traefik"], "settle_seconds": 3},
    )
    cluster = sandbox.cluster()
    before, installed = that_must_survive(cluster), releases(cluster)
    assert not has_errors_middleware(cluster)

    # Newer charts are published.
    for name in ("jetstack/cert-manager-v1.21.2.tgz", "traefik/traefik-41.3.0.tgz"):
        shutil.copy(charts_dir / name, mirror / name)
    unaccepted = flows.upgrade(config, to=TARGET)
    assert unaccepted["error"] == "PreflightFailed"
    assert "has no linkerd-jaeger, so it would be uninstalled" in unaccepted["message"]
    plan = flows.report("linkerd-along-upgrade-plan")
    for line in (
        "| linkerd-jaeger | uninstall |",
        "| cert-manager | upgrade | v1.21.1 | v1.21.2 |",
        "| traefik | upgrade | 41.2.0 | 41.3.0 |",
        f"| CustomResourceDefinition/{MIDDLEWARES} | update |",
    ):
        assert line in plan, line

    undone: dict[str, Any] = flows.upgrade(
        config, to=TARGET, accept=["jaeger"], ill=("verify", 2, "linkerd")
    )
    assert undone["error"] == "UpgradeUndone", undone
    assert "linkerd-destination" in undone["message"]
    assert proxies(cluster) == {SOURCE}
    # jaeger and the older cert-manager and Traefik are back.
    assert {**releases(cluster), "linkerd-crds": None} == {**installed, "linkerd-crds": None}
    assert before.items() <= that_must_survive(cluster).items()

    done = flows.upgrade(config, to=TARGET, accept=["jaeger"])
    assert (done.get("source"), done.get("target")) == (SOURCE, TARGET), done
    assert proxies(cluster) == {TARGET}
    assert before.items() <= that_must_survive(cluster).items()
    found = releases(cluster)
    assert "linkerd-jaeger" not in found
    assert found["cert-manager"] == ("cert-manager", "v1.21.2", "deployed")
    assert found["traefik"] == ("traefik", "41.3.0", "deployed")
    assert has_errors_middleware(cluster)
    assert flows.upgrade({**config, "version": TARGET, "jaeger": {}}, to=TARGET)["done"]
