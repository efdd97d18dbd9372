"""The command that runs a flow for many meshes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from prefect_linkerd.cli.arguments import OUTPUT, QUIET, YES, guarded, with_flags
from prefect_linkerd.cli.flags import arguments_of, flags_of, parameters_of
from prefect_linkerd.cli.flow_command import approved, is_dry, run_flow, show
from prefect_linkerd.cli.request import RunRequest
from prefect_linkerd.cli.user_server import has_server
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.fleet import FleetOptions
from prefect_linkerd.mesh_file import load_fleet
from prefect_linkerd.tasks.declared import declared_flows

FLEET = declared_flows()["fleet"]
PARAMETERS = parameters_of(FLEET)


def command(_name: str) -> Callable[..., None]:
    """Returns the function of the command."""
    return with_flags(_fleet, flags_of(PARAMETERS))


def _fleet(
    meshes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MESH",
            help="Mesh files, to run on this machine. Or names of Linkerd Mesh blocks (none given: "
            "all of them), to run on your Prefect server's workers.",
        ),
    ] = None,
    output: OUTPUT = "text",
    yes: YES = False,
    quiet: QUIET = False,
    **given: object,
) -> None:
    def work() -> None:
        arguments = arguments_of(PARAMETERS, flags_of(PARAMETERS), given)
        arguments.setdefault("parameters", {})
        named = meshes or []
        files = [Path(name) for name in named if Path(name).is_file()]
        if not files:
            if not has_server():
                raise InvalidInput(
                    "fleet",
                    expected="mesh files, or a Prefect server with their blocks",
                    found="neither",
                    remedy="Name the files, or set PREFECT_API_URL.",
                )
            run_flow(FLEET, None, {**arguments, "meshes": named}, output, yes, quiet)
            return
        if len(files) < len(named):
            raise InvalidInput(
                "fleet",
                expected="only mesh files, or only names of blocks",
                found=", ".join(name for name in named if Path(name) not in files),
                remedy="Name files that exist, or only blocks of your Prefect server.",
            )
        flow = str(arguments.get("deployment", "verify_mesh"))
        key_use = declared_flows()[flow].declaration.key
        fleet = load_fleet(files, "unused" if key_use == "unused" else "asked")
        if key_use == "kept" and not is_dry({**arguments["parameters"], **arguments}):
            from prefect_linkerd.cli.key_place import is_chosen, no_place

            # A fleet of files always runs on the local server, which is no place for the key.
            for config in fleet.values():
                if not is_chosen(config):
                    raise no_place(config)
        options = arguments.get("options", FleetOptions())
        at_once = 0 if arguments.get("dry_run") else options.at_once
        from prefect_linkerd.server.own_server import own_server

        with own_server(partial(print, file=sys.stderr)):
            from prefect_linkerd.cli.on_server import run
            from prefect_linkerd.server.own_worker import prepared

            arguments["meshes"] = list(fleet)
            with prepared(fleet, flow, at_once), approved("fleet", yes) as answer:
                state = run(RunRequest("fleet", None, arguments, answer, quiet))
        show(None, state, output)

    guarded(work, output)
