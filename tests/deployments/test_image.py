"""The Job that a Kubernetes work pool creates for a run, and what the image is built from."""

from __future__ import annotations

import asyncio
import re
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.worker import (
    KubernetesWorker,
    KubernetesWorkerJobConfiguration,
    KubernetesWorkerVariables,
)

from prefect_linkerd.deployments.job_template import IMAGE, PLACEMENT, job_template, merged
from prefect_linkerd.mesh.kubernetes.client import Cluster
from tests.support.prefect_servers import Server, on_server
from tests.support.repository import ROOT

pytestmark = pytest.mark.xdist_group("deployments")


@pytest.fixture(scope="module")
def template() -> dict[str, object]:
    return job_template()


def test_a_job_of_the_template_is_valid_in_kubernetes(
    template: dict[str, object], server: Server, cluster: Cluster, namespace: str
) -> None:
    values = {
        "namespace": namespace,
        "service_account_name": "prefect-linkerd-verify-mesh",
        "image_pull_secrets": [{"name": "registry"}],
        "node_selector": {"pool": "ops"},
        "tolerations": [{"key": "ops", "operator": "Exists"}],
    }
    with on_server(server.api):
        configuration = asyncio.run(
            KubernetesWorkerJobConfiguration.from_template_and_values(template, values)
        )
        run = FlowRun(id=uuid4(), name="verify production", flow_id=uuid4())
        configuration.prepare_for_flow_run(run)
    job = configuration.job_manifest
    job["metadata"]["name"] = job["metadata"].pop("generateName") + "1"
    path = cluster.path("batch/v1", "Job", namespace)
    cluster.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", body=job)
    pod = job["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "prefect-linkerd-verify-mesh"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert (pod["nodeSelector"], pod["tolerations"][0]["key"]) == ({"pool": "ops"}, "ops")
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def test_the_template_is_the_installed_prefects_with_valid_defaults(
    template: dict[str, dict[str, dict[str, dict[str, object]]]],
) -> None:
    upstream = KubernetesWorker.get_default_base_job_template()
    properties = template["variables"]["properties"]
    assert properties.keys() == upstream["variables"]["properties"].keys() | PLACEMENT.keys()
    defaults = {
        name: f["default"] for name, f in properties.items() if f.get("default") is not None
    }
    assert defaults["namespace"] == "prefect"
    KubernetesWorkerVariables.model_validate(defaults)


@pytest.mark.parametrize(
    ("target", "patch", "found"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": "foo"}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
    ],
)
def test_a_merge_patch_is_applied_as_the_rfc_has_it(
    target: object, patch: object, found: object
) -> None:
    """Source: RFC 7386, appendix A."""
    assert merged(target, patch) == found


def test_the_image_has_the_pinned_versions() -> None:
    dockerfile = (ROOT / "deployments/Dockerfile").read_text()
    pinned = dict(re.findall(r"ARG (\w+)_VERSION=(\S+)", dockerfile))
    uv = re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())
    helm = re.search(r"helm\.sh/helm/v3 (\S+)", (ROOT / "sandbox/go/kubernetes/go.mod").read_text())
    assert uv is not None
    assert helm is not None
    assert pinned == {"UV": uv[1], "HELM": helm[1]}
    project = (ROOT / "pyproject.toml").read_text()
    assert 'version = "0.1.0"' in project
    assert IMAGE == "prefect-linkerd:0.1.0"
    assert IMAGE in dockerfile
