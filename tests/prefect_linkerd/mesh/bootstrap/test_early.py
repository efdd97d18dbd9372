"""When a release that is being installed counts as up, on a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefect_linkerd.mesh.bootstrap.early import FirstInstall, first_install
from prefect_linkerd.mesh.helm.records import RELEASE_NAME
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.kubernetes.waiting import poll
from tests.support.crds import crd
from tests.support.workloads import deployment

ADMISSION = "admissionregistration.k8s.io/v1"
CRDS = "apiextensions.k8s.io/v1", "CustomResourceDefinition"


def by_helm(obj: Object) -> Object:
    """The object with helm's annotation."""
    annotations = {**(obj["metadata"].get("annotations") or {}), RELEASE_NAME: "r"}
    return {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}


def webhook(name: str) -> Object:
    kind = "MutatingWebhookConfiguration"
    return {"apiVersion": ADMISSION, "kind": kind, "metadata": {"name": name}, "webhooks": []}


def placeless(obj: Object) -> Object:
    """The object without a namespace, as charts write it."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "namespace"}
    return {**obj, "metadata": metadata}


def unready(name: str, namespace: str) -> Object:
    return deployment(name, namespace, annotations={"sandbox.prefect-linkerd/ready": "false"})


def seen(cluster: Cluster, namespace: str, *rendered: Object) -> FirstInstall:
    found = first_install(cluster, namespace, rendered)
    assert found is not None
    return found


def is_available(cluster: Cluster, obj: Object) -> bool:
    place, name = obj["metadata"]["namespace"], obj["metadata"]["name"]

    def replicas() -> object:
        found = cluster.get("apps/v1", "Deployment", name, place) or {}
        return (found.get("status") or {}).get("availableReplicas")

    return poll(replicas, lambda count: count == 1, 30, every=0.1) == 1


def becomes_up(release: FirstInstall) -> bool:
    return poll(release.is_up, bool, 30, every=0.1)


@pytest.fixture
def definition(cluster: Cluster, namespace: str) -> Iterator[dict[str, Any]]:
    made = crd(f"{namespace}.example.com", "Thing")
    yield made
    cluster.delete(*CRDS, made["metadata"]["name"])


@pytest.fixture
def configuration(cluster: Cluster, namespace: str) -> Iterator[Object]:
    made = webhook(namespace)
    yield made
    cluster.delete(ADMISSION, made["kind"], namespace)


def test_crds_are_up_once_they_are_served(
    cluster: Cluster, namespace: str, definition: dict[str, Any]
) -> None:
    release = seen(cluster, namespace, definition)
    assert not release.is_up()
    cluster.apply(by_helm(definition))
    assert becomes_up(release)
    assert cluster.serves(f"{definition['spec']['group']}/v1alpha1", "Thing")


def test_a_control_plane_is_up_once_its_workloads_and_its_webhooks_are(
    cluster: Cluster, namespace: str, configuration: Object
) -> None:
    first, second = (deployment(name, namespace) for name in ("first", "second"))
    rendered = [placeless(first), placeless(second), configuration]
    release = seen(cluster, namespace, *rendered)
    cluster.apply(by_helm(first))
    assert is_available(cluster, first)
    assert not release.is_up()
    cluster.apply(by_helm(second))
    assert is_available(cluster, second)
    # Helm has not finished: it has yet to create the webhook.
    assert not release.is_up()
    cluster.apply(by_helm(configuration))
    assert release.is_up()


def test_a_workload_that_is_not_rolled_out_is_not_up(cluster: Cluster, namespace: str) -> None:
    late = unready("late", namespace)
    release = seen(cluster, namespace, placeless(late))
    cluster.apply(by_helm(late))
    poll(
        lambda: cluster.get("apps/v1", "Deployment", "late", namespace) or {},
        lambda found: (found.get("status") or {}).get("unavailableReplicas") == 1,
        30,
        every=0.1,
    )
    assert not release.is_up()
    cluster.apply(by_helm(deployment("late", namespace, annotations={"other": "pods"})))
    assert becomes_up(release)


def test_what_helm_did_not_make_is_not_up(cluster: Cluster, namespace: str) -> None:
    obj = deployment("theirs", namespace)
    release = seen(cluster, namespace, placeless(obj))
    cluster.apply(obj)
    assert is_available(cluster, obj)
    assert not release.is_up()


def test_helm_has_the_word_where_an_object_is_there_already(
    cluster: Cluster, namespace: str
) -> None:
    there, new = deployment("there", namespace), deployment("new", namespace)
    cluster.apply(by_helm(there))
    assert first_install(cluster, namespace, [placeless(new), placeless(there)]) is None


def test_helm_has_the_word_where_there_is_nothing_to_look_at(
    cluster: Cluster, namespace: str
) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}}
    assert first_install(cluster, namespace, [account]) is None
