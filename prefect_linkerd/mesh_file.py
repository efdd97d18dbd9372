"""Loads a mesh's configuration from a file and from `--set` flags."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput

Key = Literal["given", "asked", "read", "unused", "place"]
"""Where the passphrase of a key file comes from.

`given`: from the mesh's file. `asked`: from there, else the environment or a prompt. `read`: like
`asked`, but only if the key file exists, as a plan writes none. `unused`: not needed; the key file
is left out of the configuration. `place`: not needed, but the key file stays in the configuration.
"""


def load_mesh(
    path: Path | None,
    kubeconfig: Path | None = None,
    context: str | None = None,
    settings: Sequence[str] = (),
    key: Key = "given",
) -> MeshConfig:
    """Returns the configuration of a mesh, from a file or from the defaults for a cluster.

    Args:
        path: a YAML or JSON file with the fields of docs/options.md; None: their defaults.
        kubeconfig: overrides the file's, as does `context`; None keeps the file's.
        settings: fields that override the file's, each as `a.b=value`; the value is YAML.
        key: see `Key`.

    Raises:
        InvalidInput: the file cannot be read, or one of its fields is wrong; names the field.
    """
    subject = f"mesh {path}" if path else "mesh"
    try:
        content: Any = yaml.safe_load(path.read_text()) if path else {}
        if not isinstance(content, dict):
            raise TypeError("no fields")
    except (OSError, TypeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(
            subject,
            expected="a readable YAML or JSON file with the mesh's fields",
            found=_cause(error),
            remedy="Name an existing file with lines such as `version: edge-26.8.3`.",
        ) from None
    fields = cast("dict[str, Any]", content)
    given = {"kubeconfig": kubeconfig, "context": context}
    if flags := {name: value for name, value in given.items() if value}:
        own: Any = fields.get("access") or {}
        # A named kubeconfig or context means that we are not in the cluster.
        fields["access"] = {**own, **flags, "in_cluster": False} if isinstance(own, dict) else own
    for setting in settings:
        _set(fields, setting)
    _find_passphrase(fields, key)
    try:
        return MeshConfig.model_validate(fields)
    except ValidationError as error:
        raise wrong_fields(subject, error, "fields of docs/options.md") from None


def _cause(error: Exception) -> str:
    """Says what is wrong with a file, and where; never quotes it, as it may hold a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark) is not None:
        return f"invalid YAML at line {mark.line + 1}, column {mark.column + 1}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) if isinstance(error, TypeError) else "content that is not UTF-8 text"


def _find_passphrase(fields: dict[str, Any], key: Key) -> None:
    anchor: Any = fields.get("trust_anchor")
    if key == "given" or not isinstance(anchor, dict):
        return
    given = cast("dict[str, Any]", anchor)
    if not (path := given.get("key_file")) or given.get("passphrase"):
        return
    from prefect_linkerd.passphrase import SHORTEST, find_passphrase

    is_there = Path(str(path)).expanduser().exists()
    if key == "place" or (key == "read" and not is_there):
        # A placeholder: a configuration with a key file is invalid without a passphrase.
        fields["trust_anchor"] = {**given, "passphrase": "-" * SHORTEST}
    elif key == "unused":
        fields["trust_anchor"] = {k: v for k, v in given.items() if k != "key_file"}
    elif (found := find_passphrase(Path(str(path)))) is not None:
        fields["trust_anchor"] = {**given, "passphrase": found}


def load_fleet(paths: Sequence[Path], key: Key = "given") -> dict[str, MeshConfig]:
    """Loads mesh files and returns the meshes by name.

    Raises:
        InvalidInput: a file cannot be read, a field is wrong, or two meshes have the same name.
    """
    found: dict[str, MeshConfig] = {}
    for path in paths:
        config = load_mesh(path, key=key)
        if config.name in found:
            raise InvalidInput(
                f"mesh {path}",
                expected="a name that no other mesh has",
                found=f"name {config.name} a second time",
                remedy="Give each mesh a name of its own.",
            )
        found[config.name] = config
    return found


def wrong_fields(
    subject: str,
    error: ValidationError,
    expected: str,
    model: type[BaseModel] | None = MeshConfig,
) -> InvalidInput:
    """Names every wrong field and what is wrong with it; no values, as one may be a secret."""
    wrong = "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {_wrong(item, model)}".removeprefix(": ")
        for item in error.errors()
    )
    return InvalidInput(subject, expected=expected, found=wrong, remedy="Correct these fields.")


def _wrong(item: ErrorDetails, model: type[BaseModel] | None) -> str:
    if item["type"] != "extra_forbidden":
        # Drop the prefix that pydantic adds to the messages of our validators.
        return item["msg"].removeprefix("Value error, ").removesuffix(".")
    *parents, name = map(str, item["loc"])
    section: type[BaseModel] | None = model
    for parent in parents:
        field = section.model_fields.get(parent) if section is not None else None
        kind: Any = field.annotation if field is not None else None
        section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    near = get_close_matches(name, section.model_fields, 1) if section is not None else []
    if not near:
        return "there is no such field"
    return f"there is no such field; the nearest is {near[0]}"


def fields_of(settings: Sequence[str]) -> dict[str, Any]:
    """Returns nested fields from settings of the form `a.b=value`.

    Raises:
        InvalidInput: a setting has another form.
    """
    fields: dict[str, Any] = {}
    for setting in settings:
        _set(fields, setting)
    return fields


def _set(fields: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    *parents, last = path.split(".")
    place = fields
    try:
        value = yaml.safe_load(text)
        for name in parents:
            inner: Any = place.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ValueError(name)
            place = cast("dict[str, Any]", inner)
        if not equals or not all((*parents, last)):
            raise ValueError(path)
    except (ValueError, yaml.YAMLError):
        # The text may hold a password.
        raise InvalidInput(
            f"field {path}",
            expected="field=value or section.field=value, the value as in YAML",
            found="something else",
            remedy="Write it like --set access.context=production.",
        ) from None
    place[last] = value
