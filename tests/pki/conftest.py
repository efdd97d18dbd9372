"""Namespaces for parametrized tests, whose long names would otherwise be cut to the same one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from mesh.cluster import Cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    name = f"pki-{uuid.uuid4().hex[:12]}"
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    cluster.delete("v1", "Namespace", name)
