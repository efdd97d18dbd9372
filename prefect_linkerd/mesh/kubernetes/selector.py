"""Kubernetes label selectors, evaluated here instead of by the API server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector matches these labels; an empty one matches everything.

    Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
    """
    selector = selector or {}
    exact: dict[str, str] = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in exact.items()):
        return False
    expressions: list[dict[str, Any]] = selector.get("matchExpressions") or []
    return all(_holds(expression, labels) for expression in expressions)


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key: str = expression["key"]
    values: list[str] = expression.get("values") or []
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels
