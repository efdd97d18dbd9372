"""Objects of a chart that have to exist (linkerd2's `checkResources`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prefect_linkerd.mesh.checks.check import Problem, Problems
from prefect_linkerd.mesh.install.injection import CONTROL_PLANE_NS
from prefect_linkerd.mesh.kubernetes.client import Object

CNI_RESOURCE = "linkerd.io/cni-resource"

Labels = Mapping[str, str]


def of_control_plane(labels: Labels) -> bool:
    """Whether linkerd counts an object as the control plane's: `control-plane-ns,!cni-resource`."""
    return CONTROL_PLANE_NS in labels and CNI_RESOURCE not in labels


def labels_of(objects: Mapping[str, Object]) -> Mapping[str, Labels]:
    """The labels of objects, by their names."""
    return {name: obj["metadata"].get("labels") or {} for name, obj in objects.items()}


def missing(
    kind: str, wanted: Iterable[str], found: Mapping[str, Labels], *, remedy: str
) -> Problems:
    """A problem for every wanted object that is missing or not labelled as the control plane's.

    Args:
        found: labels by name; names of namespaced objects are `namespace/name`.
    """
    for name in sorted(wanted):
        labels = found.get(name)
        if labels is None:
            yield Problem(f"{kind}/{name}", "it does not exist", remedy)
        elif not of_control_plane(labels):
            text = f"it has no label {CONTROL_PLANE_NS}, or has the CNI plugin's"
            yield Problem(f"{kind}/{name}", text, remedy)
