"""The package installed from its wheel, its sdist and a checkout, under one name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.repository import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("install")]

OURS = "prefect_linkerd"
NOT_BUILT = shutil.ignore_patterns(".venv", ".git", ".uv", "uv.lock", "go", "__pycache__")


def uv(*arguments: str | Path) -> None:
    program = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    subprocess.run([program, *arguments], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    # A build in the source tree would leave files there.
    shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=NOT_BUILT)
    uv("build", "--quiet", "--out-dir", folder, folder / "source")
    return folder


def environment(folder: Path, package: Path, *options: str) -> Path:
    """The Python of a clean environment with only the package and its dependencies."""
    uv("venv", "--quiet", "--python", sys.executable, folder / "venv")
    python = folder / "venv/bin/python"
    uv("pip", "install", "--quiet", "--python", python, *options, package)
    return python


def said(python: Path, code: str, cwd: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if name == "PATH"}
    answer = subprocess.run(
        [python, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**kept, "HOME": str(cwd), "PREFECT_HOME": str(cwd / "prefect")},
    )
    return answer.stdout.strip()


def test_a_wheel_has_one_name_and_every_file_of_the_package(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in files} == {OURS}
    tracked = subprocess.run(
        ["git", "ls-files", OURS, "flows", "tasks", "deployments"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    wanted = {name if name.startswith(OURS) else f"{OURS}/{name}" for name in tracked}
    links = {f"{OURS}/{name}" for name in ("flows", "tasks", "deployments")}
    assert files == wanted - links


def test_a_wheel_works_beside_a_project_with_flows_and_tasks_of_its_own(
    built: Path, tmp_path: Path
) -> None:
    for name in ("flows", "tasks", "deployments", "mesh", "sandbox"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    [wheel] = built.glob("*.whl")
    python = environment(tmp_path, wheel)
    code = (
        "import flows, tasks, deployments, mesh; "
        "assert flows.MINE and tasks.MINE and deployments.MINE and mesh.MINE; "
        "import prefect_linkerd.cli.app; "
        "assert prefect_linkerd.__version__; "
        "from prefect_linkerd.deployments.register import PREFECT_YAML; "
        "from prefect_linkerd.deployments.schedules import read_pattern; "
        "from prefect.flows import load_flow_from_entrypoint as load; "
        "import yaml; "
        "made = yaml.safe_load(PREFECT_YAML.read_text())['deployments']; "
        "assert read_pattern(PREFECT_YAML); "
        "assert [load(d['entrypoint']).name for d in made] == [d['name'] for d in made]; "
        "from prefect.plugins import load_prefect_collections; "
        "print(load_prefect_collections()['prefect_linkerd'].LinkerdMesh._block_type_slug)"
    )
    assert said(python, code, tmp_path) == "linkerd-mesh"


def test_an_editable_install_has_the_files_of_the_checkout(built: Path, tmp_path: Path) -> None:
    source = built / "source"
    python = environment(tmp_path, source, "--no-deps", "--editable")
    code = "import prefect_linkerd.deployments as found; print(found.__file__)"
    assert said(python, code, tmp_path) == str(source / OURS / "deployments/__init__.py")
