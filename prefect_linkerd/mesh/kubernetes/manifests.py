"""YAML texts, read by libyaml where PyYAML has it: CRDs and indices are megabytes."""

from __future__ import annotations

from typing import Any, cast

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str | bytes) -> object:
    """One YAML document.

    Raises:
        yaml.YAMLError: it is not valid.
    """
    return yaml.load(text, _LOADER)  # noqa: S506


def read_objects(text: str | bytes) -> list[dict[str, Any]]:
    """The Kubernetes objects of a YAML stream; empty documents are left out.

    Raises:
        yaml.YAMLError: it is not valid.
    """
    return [cast("dict[str, Any]", found) for found in yaml.load_all(text, _LOADER) if found]
