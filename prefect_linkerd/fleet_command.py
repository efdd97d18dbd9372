"""The command that runs a flow for many meshes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from prefect_linkerd.arguments import OUTPUT, QUIET, YES, guarded, with_flags
from prefect_linkerd.flow_commands import Command, approved, is_dry, key_use, run_flow, show
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.fleet import FleetFlow, FleetOptions
from prefect_linkerd.mesh_file import fields_of, load_fleet
from prefect_linkerd.options import Parameter, arguments_of, flags_of
from prefect_linkerd.user_server import has_server

FLEET = (
    Parameter("deployment", FleetFlow, "verify_mesh", help="The flow that each mesh has."),
    Parameter(
        "parameters",
        list[str],
        help="That flow's other parameters, each as FIELD=VALUE, such as options.scopes=[proxy].",
    ),
    Parameter("options", FleetOptions),
    Parameter(
        "goes_on",
        str,
        "",
        help="A name for this round of the fleet. A run with the name of one that was stopped "
        "resumes it.",
    ),
    Parameter("dry_run", bool, False, help="Only show the waves."),
)


def command(_name: str) -> Callable[..., None]:
    """The function of the command."""
    return with_flags(_fleet, flags_of(FLEET))


def _fleet(
    meshes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MESH",
            help="Files of meshes: their runs are on this machine. Or names of Linkerd Mesh "
            "blocks, none for all of them: the workers of your Prefect server have the runs.",
        ),
    ] = None,
    output: OUTPUT = "text",
    yes: YES = False,
    quiet: QUIET = False,
    **given: Any,
) -> None:
    def work() -> None:
        arguments = arguments_of(FLEET, flags_of(FLEET), given)
        arguments["parameters"] = fields_of(arguments.get("parameters", ()))
        named = meshes or []
        files = [Path(name) for name in named if Path(name).is_file()]
        command = Command("fleet", "fleet", takes_mesh=False)
        if not files:
            if not has_server():
                raise InvalidInput(
                    "fleet",
                    expected="files of meshes, or a Prefect server that has their blocks",
                    found="neither",
                    remedy="Name the files, or set PREFECT_API_URL.",
                )
            run_flow(command, None, {**arguments, "meshes": named}, output, yes, quiet)
            return
        if len(files) < len(named):
            raise InvalidInput(
                "fleet",
                expected="files of meshes alone, or names of blocks alone",
                found=", ".join(name for name in named if Path(name) not in files),
                remedy="Name files that exist; or blocks alone, of your Prefect server.",
            )
        flow = str(arguments.get("deployment", "verify_mesh"))
        of_key = key_use(flow)
        fleet = load_fleet(files, "unused" if of_key == "unused" else "asked")
        if of_key == "kept" and not is_dry({**arguments["parameters"], **arguments}):
            from prefect_linkerd.key_place import is_chosen, no_place

            # Its server is the command's own in any case.
            for config in fleet.values():
                if not is_chosen(config):
                    raise no_place(config)
        at_once = arguments.get("options", FleetOptions()).at_once
        from prefect_linkerd.own_server import own_server

        with own_server(partial(print, file=sys.stderr)):
            from prefect_linkerd.own_worker import prepared
            from prefect_linkerd.runs import run

            arguments["meshes"] = list(fleet)
            with prepared(fleet, flow, at_once), approved("fleet", yes) as answer:
                state = run("fleet", None, arguments, answer=answer, quiet=quiet)
        show(None, state, output)

    guarded(work, output)
