"""Every object of a cluster with its resourceVersion, to see what a run changed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from tests.support.waiting import eventually

# What the cluster itself writes all the time, with or without a bootstrap.
WRITTEN_BY_CLUSTER = {"Event", "Lease", "Node", "ComponentStatus"}


def settled_versions(cluster: Cluster) -> dict[str, str]:
    """`resource_versions`, once the cluster's own controllers have stopped writing and deleting."""

    def look() -> dict[str, str] | None:
        before = resource_versions(cluster)
        time.sleep(1)
        after = [*every_object(cluster)]
        is_going = any(obj["metadata"].get("deletionTimestamp") for _, obj in after)
        return None if is_going or before != _versions(after) else before

    return eventually(look)


def resource_versions(cluster: Cluster) -> dict[str, str]:
    """`group/version/Kind/namespace/name` of every object to its resourceVersion.

    CronJobs have their generation instead, and CRDs their generation, labels and annotations.
    """
    return _versions(every_object(cluster))


def _versions(objects: Iterable[tuple[str, Object]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, obj in objects:
        metadata = obj["metadata"]
        found[key] = metadata.get("resourceVersion", "")
        if obj["kind"] == "CronJob":
            # Its status changes whenever it runs on schedule.
            found[key] = str(metadata.get("generation"))
        if obj["kind"] == "CustomResourceDefinition":
            # The API server keeps updating its status for a while after each change.
            theirs = ("generation", "labels", "annotations")
            found[key] = json.dumps([metadata.get(name) for name in theirs])
    return found


def every_object(cluster: Cluster) -> Iterator[tuple[str, Object]]:
    """Each object of a cluster by `group/version/Kind/namespace/name`, with its metadata only."""
    preferred = {
        group["preferredVersion"]["groupVersion"] for group in cluster.read("/apis")["groups"]
    }
    for api_version in sorted({"v1"} | preferred):
        prefix = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
        for resource in cluster.read(prefix)["resources"]:
            kind = resource["kind"]
            if "list" not in resource["verbs"] or "/" in resource["name"]:
                continue
            if kind in WRITTEN_BY_CLUSTER:
                continue
            for obj in cluster.list(api_version, kind, metadata_only=True):
                metadata = obj["metadata"]
                if _is_run_of_cron_job(metadata):
                    continue
                name = f"{metadata.get('namespace', '')}/{metadata['name']}"
                yield f"{api_version}/{kind}/{name}", obj


def _is_run_of_cron_job(metadata: dict[str, Any]) -> bool:
    """Whether the object is a Job that a CronJob started, or a pod of such a Job."""
    return any(
        owner["kind"] == "CronJob"
        or (owner["kind"] == "Job" and re.search(r"-\d{8,}$", owner["name"]))
        for owner in metadata.get("ownerReferences") or ()
    )
