"""The namespace that an extension is found by."""

from __future__ import annotations

from prefect_linkerd.mesh.checks.check import Problem, Problems, Skip
from prefect_linkerd.mesh.snapshot.mesh import EXTENSION, Snapshot


def missing_namespace(
    snapshot: Snapshot, extension: str, namespace: str, *, is_wanted: bool
) -> Problems:
    """Whether an extension that the configuration has in `namespace` is not installed.

    Raises:
        Skip: it is neither installed nor wanted.
    """
    if snapshot.extension_namespace(extension) is not None:
        return
    if not is_wanted:
        raise Skip(f"{extension} is not installed")
    yield Problem(
        f"Namespace/{namespace}",
        f"there is none with the label {EXTENSION}: {extension}",
        "Run bootstrap, which installs what is missing.",
    )


def namespace_of(snapshot: Snapshot, extension: str) -> str:
    """Where an extension is installed.

    Raises:
        Skip: it is not.
    """
    if (namespace := snapshot.extension_namespace(extension)) is None:
        raise Skip(f"{extension} is not installed")
    return namespace
