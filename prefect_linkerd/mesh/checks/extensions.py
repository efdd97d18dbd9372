"""Finds an extension's namespace."""

from __future__ import annotations

from prefect_linkerd.mesh.checks.check import Problem, Problems, Skip
from prefect_linkerd.mesh.snapshot.mesh import EXTENSION, Snapshot


def missing_namespace(
    snapshot: Snapshot, extension: str, namespace: str, *, is_wanted: bool
) -> Problems:
    """A problem if a wanted extension is not installed.

    Args:
        namespace: where the configuration puts the extension.

    Raises:
        Skip: the extension is neither installed nor wanted.
    """
    if snapshot.extension_namespace(extension) is not None:
        return
    if not is_wanted:
        raise Skip(f"{extension} is not installed")
    yield Problem(
        f"Namespace/{namespace}",
        f"no namespace has the label {EXTENSION}: {extension}",
        "Run bootstrap, which installs what is missing.",
    )


def namespace_of(snapshot: Snapshot, extension: str) -> str:
    """The namespace where an extension is installed.

    Raises:
        Skip: the extension is not installed.
    """
    if (namespace := snapshot.extension_namespace(extension)) is None:
        raise Skip(f"{extension} is not installed")
    return namespace
