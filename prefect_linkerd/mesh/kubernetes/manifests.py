"""YAML texts, read by libyaml where PyYAML has it: CRDs and indices are megabytes."""

from __future__ import annotations

import pickle
from functools import lru_cache
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

    A plan reads the same manifests several times, so those of the last texts are kept.

    Raises:
        yaml.YAMLError: it is not valid.
    """
    return cast("list[dict[str, Any]]", pickle.loads(_pickled(text)))  # noqa: S301


@lru_cache(maxsize=512)
def _pickled(text: str | bytes) -> bytes:
    # As bytes, so that nobody changes what another caller gets: to load them takes a thirtieth
    # of the time that the YAML takes.
    return pickle.dumps([found for found in yaml.load_all(text, _LOADER) if found])
