"""Whether a release that is being installed is up, before helm itself notices.

Helm polls what it waits for every two seconds, and then writes its record. The next steps need not
wait for that: the control plane only needs served CRDs, and what runs on top of it an injector.
"""

from __future__ import annotations

from collections.abc import Iterable

from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.helm.charts import ChartName
from prefect_linkerd.mesh.helm.records import RELEASE_NAME
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.kubernetes.objects import is_true
from prefect_linkerd.mesh.kubernetes.rollout import LONG_RUNNING, rollout_status

CRD = "CustomResourceDefinition"
EARLY: tuple[ChartName, ...] = ("linkerd-crds", "linkerd-control-plane")
"""The charts whose releases others wait for, and whose installation does not end with a hook."""

LAST = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
"""What helm creates last of a control plane. Source: helm `pkg/releaseutil/kind_sorter.go`."""


class FirstInstall:
    """A release that is being installed for the first time, so that it creates all its objects.

    Args:
        objects: its CRDs, workloads and webhooks, with their namespaces.
    """

    def __init__(self, cluster: Cluster, objects: Iterable[Object]) -> None:
        self._cluster = cluster
        self._waiting = list(objects)

    def is_up(self) -> bool:
        """Whether every object exists, was created by Helm, and is ready; False if unknown.

        Ready is what helm waits for in these charts: CRDs are established, and here also served,
        and workloads are rolled out.
        """
        try:
            for wanted in [*self._waiting]:
                if not _is_ready(self._cluster, wanted):
                    return False
                if wanted["kind"] == CRD:
                    # An established CRD stays so; some are too large to read repeatedly.
                    self._waiting.remove(wanted)
        except ApiError:
            return False
        return True


def first_install(
    cluster: Cluster, namespace: str, rendered: Iterable[Object]
) -> FirstInstall | None:
    """A release whose objects show when it is up; None if only helm can tell.

    That is the case if any of the objects exists already, because its being ready says nothing
    about what helm is about to write, and if there is nothing to look at.

    Args:
        namespace: the release's; charts may leave it out of their objects.
        rendered: the objects that its chart makes.
    """
    kinds = (CRD, *LONG_RUNNING, *LAST)
    objects = [_placed(obj, namespace) for obj in rendered if obj["kind"] in kinds]
    try:
        is_new = bool(objects) and all(_find(cluster, obj) is None for obj in objects)
    except ApiError:
        return None
    return FirstInstall(cluster, objects) if is_new else None


def _placed(obj: Object, namespace: str) -> Object:
    if obj["kind"] not in LONG_RUNNING or obj["metadata"].get("namespace"):
        return obj
    return {**obj, "metadata": {**obj["metadata"], "namespace": namespace}}


def _find(cluster: Cluster, obj: Object) -> Object | None:
    metadata = obj["metadata"]
    return cluster.get(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace"))


def _is_ready(cluster: Cluster, wanted: Object) -> bool:
    found = _find(cluster, wanted)
    if found is None or RELEASE_NAME not in (found["metadata"].get("annotations") or {}):
        return False
    if found["kind"] in LONG_RUNNING:
        return rollout_status(found).is_complete
    if found["kind"] == CRD:
        group, kind = wanted["spec"]["group"], wanted["spec"]["names"]["kind"]
        versions = [each["name"] for each in wanted["spec"]["versions"] if each["served"]]
        return is_true(found, "Established") and all(
            cluster.serves(f"{group}/{version}", kind) for version in versions
        )
    return True
