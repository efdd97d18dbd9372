"""Reads YAML, with libyaml if PyYAML has it, because CRDs and chart indices are megabytes."""

from __future__ import annotations

import pickle
from functools import lru_cache
from typing import Any, cast

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str | bytes) -> object:
    """Parses one YAML document.

    Raises:
        yaml.YAMLError: it is not valid.
    """
    return yaml.load(text, _LOADER)  # noqa: S506


def read_kept_yaml(text: str | bytes) -> object:
    """Parses one YAML document that is read several times, such as a chart's values.

    The latest results are cached, so this is not for secrets.

    Raises:
        yaml.YAMLError: it is not valid.
    """
    return pickle.loads(_pickled_document(text))  # noqa: S301


def read_objects(text: str | bytes) -> list[dict[str, Any]]:
    """The Kubernetes objects of a YAML stream; empty documents are left out.

    A plan reads the same manifests several times, so the latest results are cached.

    Raises:
        yaml.YAMLError: it is not valid.
    """
    return cast("list[dict[str, Any]]", pickle.loads(_pickled(text)))  # noqa: S301


# Cached as bytes, so that no caller can change what another one gets. Unpickling takes a thirtieth
# of the time that parsing the YAML takes.


@lru_cache(maxsize=64)
def _pickled_document(text: str | bytes) -> bytes:
    return pickle.dumps(read_yaml(text))


@lru_cache(maxsize=512)
def _pickled(text: str | bytes) -> bytes:
    return pickle.dumps([found for found in yaml.load_all(text, _LOADER) if found])
