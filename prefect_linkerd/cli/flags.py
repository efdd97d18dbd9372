"""A command's flags, generated from its flow's parameters and models and their descriptions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from prefect_linkerd.mesh_file import fields_of, wrong_fields
from prefect_linkerd.tasks.declared import DeclaredFlow


@dataclass(frozen=True)
class Parameter:
    """A parameter of a flow.

    `prefix` starts the flags of a model's fields; `without` names fields that get no flag.
    """

    name: str
    kind: Any
    default: object = None
    help: str = ""
    prefix: str = ""
    without: tuple[str, ...] = ()

    @property
    def model(self) -> type[BaseModel] | None:
        return _model(self.kind)


def parameters_of(flow: DeclaredFlow) -> tuple[Parameter, ...]:
    """Returns the parameters of a flow, except for its meshes.

    A model's flags start with the parameter's name, unless it is `options` or the only model.
    """
    found = [p for p in flow.parameters if p.name not in ("mesh", "meshes")]
    kinds = {p.name: p.kind for p in found}
    models = [name for name, kind in kinds.items() if _model(kind) is not None]
    bare = {"options", *(models if len(models) == 1 else ())}
    return tuple(
        Parameter(
            p.name,
            kinds[p.name],
            p.default,
            p.help,
            prefix="" if p.name in bare else f"{p.name.replace('_', '-')}-",
        )
        for p in found
    )


@dataclass(frozen=True)
class Flag:
    """A flag: what typer needs to know, and the path of the field that its value sets."""

    path: tuple[str, ...]
    name: str
    kind: Any
    default: object
    help: str

    def as_parameter(self) -> inspect.Parameter:
        """Returns it as a keyword argument, which is None if the flag is not given."""
        offered, base, is_list = _shape(self.kind)
        declared: list[str] = [f"--{self.name}"]
        if base is bool and self.default:
            declared = [f"--{self.name}/--no-{self.name}"]
        text = self.help + (f" One of {', '.join(offered)}." if offered else "")
        text += " May be given several times." if is_list else ""
        text += f" [default: {shown}]" if (shown := _shown(self.default)) else ""
        annotation: Any = list[base] | None if is_list else base | None
        base = dict if get_origin(self.kind) is dict else base
        option = typer.Option(
            *declared,
            help=text,
            show_default=False,
            metavar="CHOICE" if offered else _WORDS.get(base),
            autocompletion=_completion(offered) if offered else None,
        )
        return inspect.Parameter(
            self.name.replace("-", "_"),
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[annotation, option],
        )


_WORDS = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "FILE", dict: "FIELD=VALUE"}


def flags_of(parameters: Sequence[Parameter]) -> list[Flag]:
    """Returns the flags of a flow's parameters; those of nested models are named by their paths."""
    return [flag for parameter in parameters for flag in _flags(parameter)]


def _flags(parameter: Parameter) -> Iterator[Flag]:
    if parameter.model is None:
        name = parameter.name.replace("_", "-")
        yield Flag((parameter.name,), name, parameter.kind, parameter.default, parameter.help)
    else:
        yield from _fields(
            parameter.model, (parameter.name,), parameter.prefix, frozenset(parameter.without)
        )


def _fields(
    model: type[BaseModel], path: tuple[str, ...], prefix: str, without: frozenset[str]
) -> Iterator[Flag]:
    for name, field in model.model_fields.items():
        if name in without:
            continue
        flag = prefix + name.replace("_", "-")
        if (nested := _model(field.annotation)) is not None:
            yield from _fields(nested, (*path, name), f"{flag}-", without)
        else:
            default, text = _default_of(field), field.description or ""
            yield Flag((*path, name), flag, field.annotation, default, text)


def arguments_of(
    parameters: Sequence[Parameter], flags: Sequence[Flag], given: Mapping[str, object]
) -> dict[str, Any]:
    """Returns the flow's arguments from the given flags; models fill in their own defaults.

    Raises:
        InvalidInput: a value is not valid for its model; names the field.
    """
    values: dict[str, Any] = {}
    for flag in flags:
        value = given[flag.name.replace("-", "_")]
        # Typer passes an empty list for a list flag that was not given.
        if value is None or value == []:
            continue
        place = values
        for name in flag.path[:-1]:
            place = place.setdefault(name, {})
        place[flag.path[-1]] = value
    for parameter in parameters:
        if parameter.name in values and get_origin(parameter.kind) is dict:
            values[parameter.name] = fields_of(values[parameter.name])
        if parameter.name not in values:
            continue
        try:
            values[parameter.name] = TypeAdapter[Any](parameter.kind).validate_python(
                values[parameter.name]
            )
        except ValidationError as error:
            # For a model, the errors already name its fields.
            flag = "flags" if parameter.model else f"flag --{parameter.name.replace('_', '-')}"
            raise wrong_fields(
                flag, error, "values as `--help` has them", parameter.model
            ) from None
    return values


def _model(kind: object) -> type[BaseModel] | None:
    is_model = inspect.isclass(kind) and issubclass(kind, BaseModel)
    return cast("type[BaseModel]", kind) if is_model else None


def _default_of(field: FieldInfo) -> object:
    return field.get_default(call_default_factory=True, validated_data={})


def _shown(value: object) -> str:
    """Returns how help shows a default; empty if it does not."""
    match value:
        case None | False | [] | () | "":
            return ""
        case True:
            return "yes"
        case list() | tuple():
            return ", ".join(map(str, cast("Sequence[object]", value)))
        case _:
            return str(value)


def choices(kind: object) -> tuple[str, ...]:
    """Returns the values that a type allows; empty unless they are enumerated."""
    return _shape(kind)[0]


def _shape(kind: Any) -> tuple[tuple[str, ...], Any, bool]:
    """Returns a type's choices if any, the type of one value, and whether it is a list."""
    if get_origin(kind) in (Union, UnionType):
        [kind] = [each for each in get_args(kind) if each is not type(None)]
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is dict:
        return (), str, True
    if get_origin(kind) in (list, tuple):
        offered, base, _ = _shape(get_args(kind)[0])
        return offered, base, True
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind))), str, False
    return (), kind if kind in (bool, int, float, Path) else str, False


def _completion(offered: Sequence[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in offered if choice.startswith(incomplete)]

    return complete
