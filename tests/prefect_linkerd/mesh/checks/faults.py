"""Faults that are caused on a real API server and then undone."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.client import MERGE_PATCH, Cluster, Object
from tests.support.advice import Test, recorded, register, require
from tests.support.installed import DEFAULT, Failures, InstalledMesh, on

Cause = Callable[[InstalledMesh], AbstractContextManager[object]]


@dataclass(frozen=True)
class Fault:
    """A fault, and exactly the checks that find it besides those that fail on a healthy mesh.

    `cause` causes it and undoes it on exit. `found` are pairs of id and outcome.
    """

    name: str
    cause: Cause
    found: Failures
    version: str = DEFAULT


def fault(
    name: str, cause: Cause, *, errors: str = "", warnings: str = "", version: str = DEFAULT
) -> Fault:
    """A fault that these checks find; `errors` and `warnings` are ids separated by spaces."""
    failures = [(each, "error") for each in errors.split()]
    failures += [(each, "warning") for each in warnings.split()]
    return Fault(name, cause, frozenset(failures), version)


def each_of(faults: Sequence[Fault], advice: Mapping[str, Sequence[str]]) -> Callable[[Test], Test]:
    """Runs a test once for each fault, with the parameters `mesh` and `fault`.

    The test undoes each fault as its remedy says.

    Args:
        advice: words of the remedies, by the fault's name.
    """
    assert advice.keys() <= {each.name for each in faults}
    found = [on(each.version, each, name=f"{each.version}: {each.name}") for each in faults]
    # Without the scope pytest would install the mesh again for each.
    runs = pytest.mark.parametrize(("mesh", "fault"), found, indirect=["mesh"], scope="package")

    def declare(test: Test) -> Test:
        for words in advice.values():
            register(words, test)

        @functools.wraps(test)
        def run(*, fault: Fault, **rest: Any) -> None:
            with recorded() as remedies:
                test(fault=fault, **rest)
            require(tuple(advice.get(fault.name, ())), remedies)

        return runs(run)

    return declare


@contextmanager
def changed(
    cluster: Cluster,
    api_version: str,
    kind: str,
    name: str,
    namespace: str | None,
    change: Callable[[Object], object],
) -> Generator[Object]:
    """Changes an object until exit; `change` edits it in place."""
    before = _replace(cluster, api_version, kind, name, namespace, change)
    try:
        yield before
    finally:
        _replace(cluster, api_version, kind, name, namespace, lambda obj: _restore(obj, before))


def _restore(obj: Object, before: Object) -> None:
    version = obj["metadata"]["resourceVersion"]
    obj.clear()
    obj.update(copy.deepcopy(before))
    obj["metadata"]["resourceVersion"] = version


def _replace(
    cluster: Cluster,
    api_version: str,
    kind: str,
    name: str,
    namespace: str | None,
    change: Callable[[Object], object],
) -> Object:
    """Edits an object; returns it as it was before."""
    while True:
        before = cluster.get(api_version, kind, name, namespace)
        assert before is not None, f"{kind}/{namespace}/{name}"
        after = copy.deepcopy(before)
        change(after)
        try:
            cluster.replace(after)
        except ApiError as error:
            # A controller was faster.
            if error.status != 409:
                raise
            continue
        return before


@contextmanager
def removed(
    cluster: Cluster, api_version: str, kind: str, name: str, namespace: str | None = None
) -> Generator[Object]:
    """Removes an object until exit."""
    before = cluster.get(api_version, kind, name, namespace)
    assert before is not None, f"{kind}/{namespace}/{name}"
    cluster.delete(api_version, kind, name, namespace)
    _await_gone(cluster, before)
    try:
        yield before
    finally:
        cluster.create(_without_history(before))


@contextmanager
def created(cluster: Cluster, *objects: Object) -> Generator[None]:
    """Creates objects and deletes them on exit."""
    made: list[Object] = []
    try:
        for obj in objects:
            made.append(cluster.create(obj))
        yield
    finally:
        for obj in reversed(made):
            metadata = obj["metadata"]
            cluster.delete(
                obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace")
            )
        for obj in made:
            _await_gone(cluster, obj)


@contextmanager
def status(
    cluster: Cluster,
    api_version: str,
    kind: str,
    name: str,
    namespace: str | None,
    change: Callable[[Object], object],
) -> Generator[None]:
    """Changes an object's status until exit; `change` edits the status in place."""
    before = cluster.get(api_version, kind, name, namespace)
    assert before is not None, f"{kind}/{namespace}/{name}"
    after = copy.deepcopy(before["status"])
    change(after)

    def write(content: Object) -> None:
        cluster.request(
            "PATCH",
            cluster.path(api_version, kind, namespace, name) + "/status",
            body={"status": content},
            content_type=MERGE_PATCH,
        )

    write(after)
    try:
        yield
    finally:
        write(before["status"])


def _without_history(obj: Object) -> Object:
    """The object without status and server-set metadata, so that it can be created again."""
    fresh = {key: value for key, value in obj.items() if key != "status"}
    metadata = obj["metadata"]
    fresh["metadata"] = {
        key: metadata[key]
        for key in ("name", "namespace", "labels", "annotations", "ownerReferences")
        if key in metadata
    }
    return fresh


def _await_gone(cluster: Cluster, obj: Object) -> None:
    metadata = obj["metadata"]
    deadline = time.monotonic() + 60
    while (
        found := cluster.get(
            obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace")
        )
    ) is not None and found["metadata"]["uid"] == metadata["uid"]:
        assert time.monotonic() < deadline, f"{obj['kind']} {metadata['name']} does not go"
        time.sleep(0.1)
