"""Runs the steps on a cluster: commands, kills, third-party charts and clean-up."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError, MeshError
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.helm.values import merge
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.kubernetes.nodes import runs_pods
from prefect_linkerd.mesh.records.rotation import read_record
from tools.e2e.story import (
    MARK,
    Kill,
    Row,
    Run,
    Step,
    added,
    as_json,
    as_markdown,
    from_json,
    next_step,
    refusal,
    requests_in,
    skipped,
    verdict,
    with_row,
)

CHARTS = ("linkerd", "cert-manager", "trust-manager")
"""The prefixes of the names of the charts that a run installs."""

GROUPS = ("linkerd.io", "cert-manager.io", "smi-spec.io")
"""The API groups of these charts' CRDs."""

NAMESPACES = (
    "linkerd-viz",
    "linkerd-probe",
    "linkerd-smoke",
    "emojivoto",
    "linkerd",
    "cert-manager",
)
LAYOUT = Path(__file__).parent / "layout.yaml"
PATIENCE = 600.0
"""Seconds to wait for a namespace, a Certificate or a webhook."""

Say = Callable[[str], None]


class Stopped(Exception):
    """A step did not end as it should."""


@dataclass
class EndToEnd:
    """One run on one cluster.

    Args:
        base: the configuration that every step's settings are merged over.
        folder: where logs, the mesh's file and the table are kept.
        say: called with each line of progress.
    """

    cluster: Cluster
    base: Mapping[str, Any]
    folder: Path
    say: Say
    helm: str = "helm"
    rows: tuple[Row, ...] = field(default=(), init=False)
    lock: int = field(default=-1, init=False)

    def begin(self) -> None:
        """Marks the cluster as this run's, or resumes an earlier run.

        Raises:
            Stopped: it has a mesh that no end-to-end run installed.
        """
        mark = self.cluster.get("v1", "ConfigMap", MARK, MARK)
        if text := refusal(self._foreign(), is_marked=mark is not None):
            raise Stopped(text)
        if mark is None:
            self.cluster.apply(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MARK}}
            )
            self._save()
        else:
            self.rows = from_json(str(mark.get("data", {}).get("rows", "")))

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """Locks the folder for this run and its commands.

        The last command of a killed run continues, and holds the lock until it ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.say("Waiting for the command of an earlier run in this folder to end.")
                fcntl.flock(file, fcntl.LOCK_EX)
            self.lock = file.fileno()
            yield

    def _foreign(self) -> list[str]:
        """Lists what a run would install, and so would uninstall, regardless of its installer."""
        definitions = self.cluster.list(
            "apiextensions.k8s.io/v1", "CustomResourceDefinition", metadata_only=True
        )
        names = [f"CustomResourceDefinition/{obj['metadata']['name']}" for obj in definitions]
        spaces = [
            str(obj["metadata"]["name"])
            for obj in self.cluster.list("v1", "Namespace", metadata_only=True)
            if obj["metadata"]["name"] in NAMESPACES
            or "linkerd.io/is-control-plane" in (obj["metadata"].get("labels") or {})
        ]
        return [
            *(name for name in names if name.endswith(tuple(f".{group}" for group in GROUPS))),
            *(f"Namespace/{name}" for name in spaces),
        ]

    def _save(self) -> None:
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": MARK, "namespace": MARK},
                "data": {"rows": as_json(self.rows)},
            }
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "e2e.md").write_text(as_markdown(self.rows))
        (self.folder / "e2e.json").write_text(as_json(self.rows))

    def tell(self, story: tuple[Step, ...]) -> None:
        """Runs every remaining step, then removes the mark from the cluster.

        Raises:
            Stopped: a step failed; the next run tries it again.
        """
        carries = runs_pods(self.cluster.list("v1", "Node"))
        while (step := next_step(story, self.rows)) is not None:
            begin = time.monotonic()
            if note := skipped(step, carries_traffic=carries):
                self._note(Row(step.name, "skipped", 0, note=note))
                continue
            self.say(f"{step.name}: {step.shows}")
            counts: list[tuple[int, int] | None] = []
            problem = ""
            try:
                self._do(step, counts)
            except (Stopped, MeshError, subprocess.SubprocessError) as error:
                problem = " ".join(str(error).split())[:500]
            total = added(counts)
            asked, failed = total or (None, None)
            seconds = round(time.monotonic() - begin, 1)
            outcome = "failed" if problem else "done"
            self._note(Row(step.name, outcome, seconds, asked, failed, problem))
            if problem:
                raise Stopped(f"{step.name}: {problem}")
        self.cluster.delete("v1", "Namespace", MARK)

    def _note(self, row: Row) -> None:
        self.rows = with_row(self.rows, row)
        self._save()
        self.say(f"{row.step}: {row.outcome} after {row.seconds:.0f} s {row.note}".rstrip())

    def _do(self, step: Step, counts: list[tuple[int, int] | None]) -> None:
        if step.special == "uninstall":
            self._uninstall()
        elif step.special == "install-managers":
            self._install_managers(MeshConfig.model_validate(self._settings({})))
        for number, run in enumerate(step.runs):
            log = (
                self.folder
                / "logs"
                / f"{step.name.replace(' ', '-').replace(',', '')}-{number}.log"
            )
            code = self._run(run, log)
            text = log.read_text(errors="replace")
            counts.append(requests_in(text))
            if problem := verdict(run, code):
                last = " ".join(text.strip().splitlines()[-3:])
                raise Stopped(f"{' '.join(run.arguments)}: {problem}; see {log}: {last}")

    def _settings(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return merge(self.base, more)

    def _run(self, run: Run, log: Path) -> int:
        """Runs a command in its own process, kills it if asked to, and returns its exit code."""
        log.parent.mkdir(parents=True, exist_ok=True)
        mesh = self.folder / "mesh.yaml"
        mesh.write_text(yaml.safe_dump(self._settings(run.settings)))
        name, *arguments = run.arguments
        command = [sys.executable, "-m", "prefect_linkerd", name, str(mesh), *arguments]
        if name != "verify":
            command.append("--yes")
        environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        if found := shutil.which(self.helm):
            environment["PATH"] = f"{Path(found).parent}{os.pathsep}{environment.get('PATH', '')}"
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(self.lock,),
            )
            try:
                if run.kill is not None:
                    self._kill(process, run.kill)
                return process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise

    def _kill(self, process: subprocess.Popen[bytes], kill: Kill) -> None:
        namespace = MeshConfig.model_validate(self._settings({})).namespaces.linkerd
        while process.poll() is None:
            record = read_record(self.cluster, namespace)
            if record is not None and record.phase == kill.phase:
                process.kill()
                return
            time.sleep(0.2)

    # Third-party charts

    def _install_managers(self, config: MeshConfig) -> None:
        """Installs cert-manager, trust-manager and the documented layout of anchor and bundle."""
        catalog = ChartCatalog(config)
        home = "cert-manager"
        chart = catalog.find("cert-manager")
        self._helm("cert-manager", str(chart.path), home, "--set", "crds.enabled=true")
        beside = sorted(chart.path.parent.glob("trust-manager-*.tgz"))
        upstream = ("trust-manager", "--repo", "https://charts.jetstack.io")
        self._helm("trust-manager", *([str(beside[-1])] if beside else upstream), namespace=home)
        for obj in yaml.safe_load_all(LAYOUT.read_text()):
            self._patiently(lambda obj=obj: self.cluster.apply(obj))
            if obj["metadata"]["name"] == "linkerd-trust-anchor" and obj["kind"] == "Certificate":
                self._copy_anchor(home)

    def _copy_anchor(self, home: str) -> None:
        """Creates the previous anchor's Secret as a copy of the current one, as documented."""
        secret = self._await(lambda: self.cluster.get("v1", "Secret", "linkerd-trust-anchor", home))
        metadata = {"name": "linkerd-previous-anchor", "namespace": home}
        self.cluster.apply({**secret, "metadata": metadata})

    def _helm(self, name: str, *chart: str, namespace: str = "cert-manager") -> None:
        arguments = [a for a in chart if a != namespace]
        self._call(
            *("upgrade", "--install", name, *arguments, "--namespace", namespace),
            *("--create-namespace", "--wait", "--timeout", f"{PATIENCE:.0f}s"),
        )

    def _call(self, *arguments: str) -> str:
        access = self.base.get("access") or {}
        flags = [f"--kubeconfig={access['kubeconfig']}"] if access.get("kubeconfig") else []
        flags += [f"--kube-context={access['context']}"] if access.get("context") else []
        done = subprocess.run(
            [self.helm, *flags, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Stopped(f"helm {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    # Clean-up

    def _uninstall(self) -> None:
        """Deletes every release, namespace and CRD that the steps created, if there are any."""
        releases: list[dict[str, str]] = json.loads(
            self._call("list", "--all-namespaces", "--all", "--output", "json")
        )
        ours = [each for each in releases if each["chart"].startswith(CHARTS)]
        # Extensions first, the CRDs last.
        for each in sorted(ours, key=lambda r: (r["namespace"] == "linkerd", "crds" in r["chart"])):
            self._call("uninstall", each["name"], "--namespace", each["namespace"], "--wait")
        for name in NAMESPACES:
            self.cluster.delete("v1", "Namespace", name)
        definitions = self.cluster.list(
            "apiextensions.k8s.io/v1", "CustomResourceDefinition", metadata_only=True
        )
        for obj in list(definitions):
            name = str(obj["metadata"]["name"])
            if name.endswith(tuple(f".{group}" for group in GROUPS)):
                self.cluster.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
        self._await(self._is_clean)

    def _is_clean(self) -> bool:
        return not self._foreign()

    def _await(self, look: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := look()):
            if time.monotonic() > deadline:
                raise Stopped(f"nothing after {PATIENCE:.0f} s")
            time.sleep(0.5)
        return found

    def _patiently(self, work: Callable[[], Object]) -> None:
        """Retries while a webhook is not ready."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                work()
                return
            except ApiError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
