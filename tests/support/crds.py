"""CustomResourceDefinitions, some to apply and some only to compare."""

from __future__ import annotations

from typing import Any

from prefect_linkerd.mesh.kubernetes.client import Object


def crd(group: str, kind: str) -> dict[str, Any]:
    plural = kind.lower() + "s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": "v1alpha1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def versioned_crd(name: str, *versions: str, unserved: tuple[str, ...] = ()) -> Object:
    return {
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {
            "versions": [
                {"name": v, "served": v not in unserved, "storage": v == versions[-1]}
                for v in versions
            ]
        },
    }
