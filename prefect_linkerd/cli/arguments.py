"""What commands share: their arguments, and how they exit."""

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
        help="A field of the mesh, overriding the file's, such as viz.enabled=false. May be "
        "given several times.",
    ),
]
KUBECONFIG = Annotated[
    Path | None,
    typer.Option(
        help="The kubeconfig, instead of the mesh's. Without either: like kubectl, KUBECONFIG, "
        "else ~/.kube/config."
    ),
]
CONTEXT = Annotated[
    str | None, typer.Option(help="The kubeconfig's context, instead of the mesh's.")
]
OUTPUT = Annotated[Result, typer.Option("--output", "-o", help="The format of stdout.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Show only warnings and errors.")]
YES = Annotated[bool, typer.Option("--yes", "-y", help="Give every approval without asking.")]


class Failed(Exception):
    """The command worked, but the mesh is unhealthy: exit code 1, without an error message."""


def guarded(work: Callable[[], None], output: str) -> None:
    """Runs a command's work, prints its error and exits with the matching code."""
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
    """Wraps a function so that typer sees its parameters and the flags."""

    def command(**given: object) -> None:
        own(**given)

    keywords = inspect.signature(own, eval_str=True).parameters.values()
    fixed = [p.replace(kind=p.KEYWORD_ONLY) for p in keywords if p.kind != p.VAR_KEYWORD]
    made = [flag.as_parameter() for flag in flags]
    command.__signature__ = inspect.Signature([fixed[0], *made, *fixed[1:]] if fixed else made)  # type: ignore[attr-defined]
    return command
