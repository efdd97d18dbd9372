"""Helm releases: what is decided, and the step on a real API server."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput, ReleaseError
from prefect_linkerd.mesh.helm.charts import Chart, ChartName, read_chart
from prefect_linkerd.mesh.helm.client import (
    PENDING,
    DesiredRelease,
    Helm,
    decide_release,
    desired_release,
)
from prefect_linkerd.mesh.helm.records import Release, read_release, read_releases
from prefect_linkerd.mesh.kubernetes.client import Cluster
from sandbox.cluster import Sandbox
from tests.support.advice import follows

NOW = datetime(2026, 11, 24, tzinfo=UTC)
CHART = Chart("linkerd-viz", "1.0.0", "", "", "here", Path("x"))
STATUSES = ["deployed", "failed", "superseded", "uninstalled", "uninstalling", *PENDING]


def current(status: str, *, age: float = 0, version: str = "1.0.0", **values: Any) -> Release:
    updated = NOW - timedelta(seconds=age)
    return Release("r", "n", "linkerd-viz", version, "", 1, status, updated, values)


def desired(**values: Any) -> DesiredRelease:
    return DesiredRelease("r", "n", CHART, values)


@pytest.mark.parametrize(
    ("name", "is_run"),
    [
        ("linkerd-viz", False),
        ("linkerd-jaeger", False),
        ("linkerd-control-plane", True),
        # Its hook checks that its webhook answers.
        ("cert-manager", True),
    ],
)
@pytest.mark.parametrize("version", ["stable-2.12.6", "stable-2.14.10", "edge-26.8.3"])
def test_the_job_that_labels_an_extensions_namespace_is_not_run(
    version: str, name: ChartName, is_run: bool
) -> None:
    config = MeshConfig.model_validate({"version": version})
    assert desired_release(config, replace(CHART, name=name), {}).hooks == is_run


@pytest.mark.parametrize(
    ("found", "action"),
    [
        (None, "install"),
        (current("uninstalled"), "install"),
        (current("deployed", a=1), "unchanged"),
        (current("deployed", a=2), "upgrade"),
        (current("deployed", version="0.9.0", a=1), "upgrade"),
        (current("failed", a=1), "upgrade"),
        (current("pending-install", a=1), "wait"),
        (current("pending-install", age=601, a=1), "recover"),
        (current("pending-upgrade", age=601, a=1), "recover"),
        (current("uninstalling", age=601, a=1), "recover"),
    ],
)
def test_the_next_step_of_a_release(found: Release | None, action: str) -> None:
    assert decide_release(desired(a=1), found, NOW, grace=600) == action


@given(
    st.sampled_from(STATUSES),
    st.floats(0, 10_000),
    st.floats(0, 10_000),
    st.booleans(),
)
def test_only_a_stale_pending_release_is_recovered(
    status: str, age: float, grace: float, is_same: bool
) -> None:
    found = current(status, age=age, a=1 if is_same else 2)
    action = decide_release(desired(a=1), found, NOW, grace)
    in_flight = status in PENDING or status == "uninstalling"
    assert (action in ("wait", "recover")) == in_flight
    if action == "recover":
        assert age >= grace - 0.001
    if action == "unchanged":
        assert status == "deployed"
        assert is_same


# On a real API server


def make_chart(
    folder: Path, *, ready: bool = True, waits: str = "", data: str = "{{ .Values.text }}"
) -> Chart:
    """A small chart with a ConfigMap and a Deployment."""
    templates = folder / "templates"
    templates.mkdir(parents=True, exist_ok=True)
    metadata = {"apiVersion": "v2", "name": "linkerd-viz", "version": "1.0.0"}
    (folder / "Chart.yaml").write_text(yaml.safe_dump(metadata))
    (folder / "values.yaml").write_text("text: x\n")
    (templates / "all.yaml").write_text(
        f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: content, namespace: {{{{ .Release.Namespace }}}}}}
data: {{text: "{data}"}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: app, namespace: {{{{ .Release.Namespace }}}}}}
spec:
  selector: {{matchLabels: {{app: app}}}}
  template:
    metadata:
      labels: {{app: app}}
      annotations:
        sandbox.prefect-linkerd/ready: "{str(ready and not waits).lower()}"
        sandbox.prefect-linkerd/waits: "{waits}"
    spec: {{containers: [{{name: app, image: example.com/app}}]}}
"""
    )
    return read_chart("linkerd-viz", folder, "here")


@pytest.fixture
def helm(cluster: Cluster, helm_path: str) -> Helm:
    return Helm(cluster, helm_path)


def release_of(chart: Chart, namespace: str, **values: Any) -> DesiredRelease:
    return DesiredRelease("app", namespace, chart, values, timeout=60)


def text_in(cluster: Cluster, namespace: str) -> str:
    found = cluster.get("v1", "ConfigMap", "content", namespace)
    assert found is not None
    return found["data"]["text"]


def helm_list(helm_path: str, sandbox: Sandbox, namespace: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [
            *(helm_path, "list", "--all", "--output", "json", "--namespace", namespace),
            *("--kubeconfig", str(sandbox.kubeconfig)),
        ],
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_install_nothing_and_upgrade(
    sandbox: Sandbox, cluster: Cluster, helm: Helm, helm_path: str, namespace: str, tmp_path: Path
) -> None:
    chart = make_chart(tmp_path / "chart")
    first = helm.reconcile(release_of(chart, namespace, text="one"))
    assert (first.action, first.release.revision, first.release.status) == (
        "install",
        1,
        "deployed",
    )
    before = cluster.get("v1", "ConfigMap", "content", namespace)
    again = helm.reconcile(release_of(chart, namespace, text="one"))
    assert (again.action, again.release.revision) == ("unchanged", 1)
    assert cluster.get("v1", "ConfigMap", "content", namespace) == before
    changed = helm.reconcile(release_of(chart, namespace, text="two"))
    assert (changed.action, changed.release.revision) == ("upgrade", 2)
    assert text_in(cluster, namespace) == "two"
    # Helm's record of the release, and what `helm list` shows.
    [found] = read_releases(cluster, [namespace], values=True)
    assert found == read_release(cluster, "app", namespace)
    assert found == replace(changed.release, updated=found.updated)
    assert 0 <= (changed.release.updated - found.updated).total_seconds() < 60
    # Values may hold secrets, so reading releases leaves them out by default.
    assert replace(found, values=None) in read_releases(cluster)
    [listed] = helm_list(helm_path, sandbox, namespace)
    assert (listed["revision"], listed["status"]) == (str(found.revision), found.status)
    assert listed["chart"] == f"{found.chart}-{found.chart_version}"


@follows("Fix what helm names, then run again.")
def test_a_failure_names_what_is_not_ready_and_the_next_run_fixes_it(
    helm: Helm, namespace: str, tmp_path: Path
) -> None:
    broken = make_chart(tmp_path / "broken", ready=False)
    wanted = DesiredRelease("app", namespace, broken, {"text": "x"}, timeout=12)
    with pytest.raises(ReleaseError) as failed:
        helm.reconcile(wanted)
    assert f"Helm release {namespace}/app" in str(failed.value)
    assert f"Deployment/{namespace}/app: 0 of 1 ready" in str(failed.value)
    assert "ContainersNotReady" in str(failed.value)
    fixed = helm.reconcile(release_of(make_chart(tmp_path / "good"), namespace, text="x"))
    assert fixed.release.status == "deployed"


def test_a_failed_upgrade_goes_back(
    cluster: Cluster, helm: Helm, namespace: str, tmp_path: Path
) -> None:
    helm.reconcile(release_of(make_chart(tmp_path / "good"), namespace, text="one"))
    broken = make_chart(tmp_path / "broken", ready=False)
    with pytest.raises(ReleaseError):
        helm.reconcile(DesiredRelease("app", namespace, broken, {"text": "two"}, timeout=8))
    assert text_in(cluster, namespace) == "one"


HOPELESS: dict[str, Any] = {"waits": "ErrImageNeverPull"}


@pytest.mark.waits
def test_helm_is_stopped_if_its_pods_cannot_come_up_and_the_next_run_fixes_that(
    cluster: Cluster, helm: Helm, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With CRDs, so that a failed install is not removed.
    broken = replace(make_chart(tmp_path / "broken", **HOPELESS), has_crds=True)
    said: list[str] = []
    begin = time.monotonic()
    with pytest.raises(ReleaseError) as failed:
        helm.reconcile(
            DesiredRelease("app", namespace, broken, {"text": "x"}, timeout=120),
            lambda _ready, _wanted, text: said.append(text),
        )
    assert time.monotonic() - begin < 60
    assert "container app ErrImageNeverPull: simulated; helm was stopped" in str(failed.value)
    assert "Fix the image's name" in failed.value.remedy
    assert not failed.value.transient
    assert any("waiting for app; Pod/" in text and "ErrImageNeverPull" in text for text in said)
    # Not pending, so another machine, which knows nothing of this run, need not wait for it.
    left = read_release(cluster, "app", namespace)
    assert left is not None
    assert left.status == "failed"
    # This helm starts slowly; the state that it finds until then is no reason to stop it.
    slow = tmp_path / "helm"
    slow.write_text(f'#!/bin/sh\nsleep 3\nexec {helm._executable} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr("prefect_linkerd.mesh.kubernetes.rollout.SETTLES", 0.1)
    good = make_chart(tmp_path / "good")
    fixed = Helm(cluster, str(slow)).reconcile(release_of(good, namespace, text="x"))
    assert (fixed.action, fixed.release.status) == ("upgrade", "deployed")


def test_an_upgrade_that_cannot_end_well_goes_back_early(
    cluster: Cluster, helm: Helm, namespace: str, tmp_path: Path
) -> None:
    helm.reconcile(release_of(make_chart(tmp_path / "good"), namespace, text="one"))
    broken = make_chart(tmp_path / "broken", **HOPELESS)
    begin = time.monotonic()
    with pytest.raises(ReleaseError, match="ErrImageNeverPull"):
        helm.reconcile(DesiredRelease("app", namespace, broken, {"text": "two"}, timeout=120))
    assert time.monotonic() - begin < 60
    assert text_in(cluster, namespace) == "one"
    back = read_release(cluster, "app", namespace)
    assert back is not None
    assert (back.status, back.values) == ("deployed", {"text": "one"})


@follows("Another run has changed it: let that finish, then run again.")
def test_a_release_is_upgraded_to_what_it_is_and_to_nothing_else(
    helm: Helm, namespace: str, tmp_path: Path, cluster: Cluster
) -> None:
    random = make_chart(tmp_path / "random", data="{{ randAlpha 8 }}")
    with pytest.raises(ReleaseError, match="found none"):
        helm.upgrade_again(release_of(random, namespace))
    helm.reconcile(release_of(random, namespace))
    before = text_in(cluster, namespace)
    again = helm.upgrade_again(release_of(random, namespace))
    assert (again.action, again.release.revision) == ("upgrade", 2)
    assert text_in(cluster, namespace) != before
    with pytest.raises(ReleaseError, match="Another run has changed it"):
        helm.upgrade_again(release_of(random, namespace, text="other"))
    # As the other run leaves it.
    helm.reconcile(release_of(random, namespace, text="other"))
    helm.upgrade_again(release_of(random, namespace, text="other"))


def test_a_release_left_pending_is_recovered_without_deleting_an_object(
    cluster: Cluster, sandbox: Sandbox, helm_path: str, namespace: str, tmp_path: Path
) -> None:
    broken = make_chart(tmp_path / "broken", ready=False)
    with subprocess.Popen(
        [
            *(helm_path, "install", "app", str(broken.path), "--namespace", namespace, "--wait"),
            *("--kubeconfig", str(sandbox.kubeconfig)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 20
        while cluster.get("v1", "ConfigMap", "content", namespace) is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.kill()
    kept = cluster.get("v1", "ConfigMap", "content", namespace)
    assert kept is not None
    left = read_release(cluster, "app", namespace)
    assert left is not None
    assert left.status == "pending-install"

    good = make_chart(tmp_path / "good")
    fixed = Helm(cluster, helm_path, grace=1).reconcile(release_of(good, namespace, text="new"))

    assert fixed.release.status == "deployed"
    after = cluster.get("v1", "ConfigMap", "content", namespace)
    assert after is not None
    assert after["metadata"]["uid"] == kept["metadata"]["uid"]
    assert after["data"]["text"] == "new"


@follows("Another installer owns the named object: uninstall that, or hand it over")
def test_an_object_of_somebody_else_is_not_taken(
    cluster: Cluster, helm: Helm, namespace: str, tmp_path: Path
) -> None:
    metadata = {"name": "content", "namespace": namespace}
    cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}})
    with pytest.raises(ReleaseError) as refused:
        helm.reconcile(release_of(make_chart(tmp_path / "chart"), namespace, text="x"))
    assert "Another installer owns the named object" in str(refused.value)
    assert not refused.value.transient
    found = cluster.get("v1", "ConfigMap", "content", namespace)
    assert found is not None
    assert "data" not in found
    names = {"release-name": "app", "release-namespace": namespace}
    marks = {f"meta.helm.sh/{key}": value for key, value in names.items()}
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    patch = {"metadata": {"annotations": marks, "labels": labels}}
    cluster.merge("v1", "ConfigMap", "content", namespace, patch)
    given = helm.reconcile(release_of(make_chart(tmp_path / "chart"), namespace, text="x"))
    assert given.release.status == "deployed"


def test_values_are_on_no_command_line_and_in_no_message(
    helm: Helm, namespace: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chart = make_chart(tmp_path / "chart", data='{{ fail "no" }}')
    with caplog.at_level("DEBUG"), pytest.raises(ReleaseError) as failed:
        helm.reconcile(release_of(chart, namespace, text="hunter2"))
    assert "hunter2" not in caplog.text + str(failed.value)


def test_without_helm_the_message_says_where_to_get_it(cluster: Cluster, tmp_path: Path) -> None:
    wanted = release_of(make_chart(tmp_path / "chart"), "default")
    with pytest.raises(InvalidInput, match="Install helm"):
        Helm(cluster, "no-such-helm").reconcile(wanted)


@pytest.mark.waits
def test_what_a_lost_api_server_left_pending_is_fixed_at_once(
    fresh_sandbox: Callable[..., Sandbox], helm_path: str, tmp_path: Path
) -> None:
    sandbox = fresh_sandbox()
    cluster = sandbox.cluster()
    broken = make_chart(tmp_path / "broken", ready=False)
    wanted = DesiredRelease("app", "default", broken, {"text": "x"}, timeout=8)

    def lose_it(_ready: int, _wanted: int, _text: str) -> None:
        sandbox.stop_apiserver()

    with pytest.raises(ReleaseError) as lost:
        Helm(cluster, helm_path).reconcile(wanted, lose_it)
    assert lost.value.transient
    sandbox.start_apiserver()
    # The client's patience waits until it serves.
    assert cluster.version()
    begin = time.monotonic()
    good = make_chart(tmp_path / "good")
    fixed = Helm(cluster, helm_path).reconcile(
        DesiredRelease("app", "default", good, {"text": "x"}, timeout=240)
    )
    assert fixed.release.status == "deployed"
    # Sooner than the time for which another run's pending release would be left alone.
    assert time.monotonic() - begin < 240
