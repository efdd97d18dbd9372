"""What do commands have in common: which arguments, and how do they end?"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from prefect_linkerd.cli.flags import Flag
from prefect_linkerd.cli.paint import painted
from prefect_linkerd.mesh.errors import InvalidInput, MeshError, NotApproved

Result = Literal["text", "json"]

MESH = Annotated[
    Path | None,
    typer.Argument(
        metavar="MESH",
        help="The mesh's configuration, a YAML or JSON file with the fields of docs/options.md. "
        "Without one: the defaults, and the kubeconfig's cluster; bootstrap then asks first.",
    ),
]
SET = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of the mesh that wins over the file's, such as viz.enabled=false. May be "
        "given several times.",
    ),
]
KUBECONFIG = Annotated[
    Path | None,
    typer.Option(
        help="The kubeconfig, instead of the mesh's. Without either: as kubectl, KUBECONFIG, else "
        "~/.kube/config."
    ),
]
CONTEXT = Annotated[
    str | None, typer.Option(help="The kubeconfig's context, instead of the mesh's.")
]
OUTPUT = Annotated[Result, typer.Option("--output", "-o", help="What stdout is for.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors alone.")]
YES = Annotated[bool, typer.Option("--yes", "-y", help="Give every approval without asking.")]


class Failed(Exception):
    """A command did what it says, and the mesh is not well."""


def guarded(work: Callable[[], None], output: str) -> None:
    """Runs a command's work, and ends the process as its end asks for."""
    try:
        work()
    except Failed:
        raise typer.Exit(1) from None
    except MeshError as error:
        if output == "json":
            said = {"error": type(error).__name__, **vars(error), "message": str(error)}
            print(json.dumps(said, default=str, indent=2))
        print(f"{painted('prefect-linkerd:', 'red', sys.stderr)} {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, InvalidInput | NotApproved) else 1) from None
    except KeyboardInterrupt:
        print(
            f"\n{painted('prefect-linkerd:', 'red', sys.stderr)} interrupted. Run it again to "
            "resume.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None


def with_flags(own: Callable[..., None], flags: Sequence[Flag]) -> Callable[..., None]:
    """A function with the parameters of another one and the flags, for typer."""

    def command(**given: object) -> None:
        own(**given)

    keywords = inspect.signature(own, eval_str=True).parameters.values()
    fixed = [p.replace(kind=p.KEYWORD_ONLY) for p in keywords if p.kind != p.VAR_KEYWORD]
    made = [flag.as_parameter() for flag in flags]
    command.__signature__ = inspect.Signature([fixed[0], *made, *fixed[1:]] if fixed else made)  # type: ignore[attr-defined]
    return command
