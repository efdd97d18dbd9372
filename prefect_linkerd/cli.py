"""`prefect-linkerd`: every flow from a terminal, on the user's Prefect server or without one.

This module only lists the commands: what one needs is imported when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}
COMMANDS = {
    "bootstrap": ("flow_commands", "Install a mesh, or resume an interrupted install."),
    "verify": (
        "read_commands",
        "All that `linkerd check` knows, and more; read straight from the cluster.",
    ),
    "certificates": ("read_commands", "Which certificates expire soon, in a second."),
    "status": (
        "read_commands",
        "What a mesh is: versions, releases, certificates, its key's place, unfinished work.",
    ),
    "adopt": (
        "flow_commands",
        "Print the configuration of a running mesh that Helm installed; change nothing.",
    ),
    "upgrade": (
        "flow_commands",
        "Upgrade a mesh to a newer Linkerd, and roll back when a gate fails.",
    ),
    "rotate-anchor": (
        "flow_commands",
        "A new trust anchor for a running mesh, with no failed request.",
    ),
    "rotate-issuer": (
        "flow_commands",
        "A new issuer, signed by the trust anchor that the mesh has.",
    ),
    "rotate-webhooks": (
        "flow_commands",
        "New certificates for Linkerd's webhooks, by the charts that made them.",
    ),
    "smoke-test": (
        "flow_commands",
        "Test load balancing, splits, faults and ingress with real requests.",
    ),
    "watch": ("flow_commands", "New Linkerd releases, each announced once."),
    "fleet": ("fleet_command", "A flow for many meshes: the canaries first, then the rest."),
}
"""The module of each command, and its line of help. Its `command` gives the function of a name."""


class _Commands(TyperGroup):
    """Knows each command's name and line of help, and loads it when it is resolved."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _loaded(name) if name in COMMANDS else command, rest


def _loaded(name: str) -> Any:
    module, text = COMMANDS[name]
    command = cast(
        "Callable[[str], Callable[..., None]]",
        import_module(f"prefect_linkerd.{module}").command,
    )
    alone = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=CONTEXT_SETTINGS,
    )
    alone.command(name, help=text)(command(name))
    return typer.main.get_command(alone)


app = typer.Typer(
    name="prefect-linkerd",
    cls=_Commands,
    help="The life of a Linkerd service mesh: the flows of prefect-linkerd from a terminal.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Tables would cut off the names of flags.
    rich_markup_mode=None,
    context_settings=CONTEXT_SETTINGS,
)
for _name, (_, _text) in COMMANDS.items():
    app.command(_name, help=_text)(lambda: None)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"prefect-linkerd {version('prefect-linkerd')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_say_version, is_eager=True),
    ] = False,
) -> None:
    del show_version


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code is linkerd's: 1 where a check fails, 2 on wrong input."""
    # Opt out of Prefect's telemetry for CLI runs.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    try:
        app(None if arguments is None else list(arguments), standalone_mode=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
