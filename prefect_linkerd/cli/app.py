"""The commands: one for every flow that declares it, and those that need no flow.

A command's modules are imported only when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from prefect_linkerd.tasks.declared import declared_flows

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}
OWN = {
    "verify": "read_commands",
    "certificates": "read_commands",
    "status": "read_commands",
    "fleet": "fleet_command",
}
"""The modules of commands that do not just run a flow."""

WITHOUT_FLOW = {
    "status": "Show a mesh's versions, releases, certificates, where its key is, and unfinished "
    "work.",
}


def commands() -> dict[str, str]:
    """Returns the help line of each command; a flow provides its own."""
    flows = {f.declaration.command: f.summary for f in declared_flows().values()}
    return {name: flows[name] for name in flows if name} | WITHOUT_FLOW


class _Commands(TyperGroup):
    """Lists commands by name and help line, and loads a command only when it is resolved."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, loaded(name) if name in commands() else command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes each command's help line in full, wrapped instead of cut off."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(sorted(commands().items()))


def loaded(name: str) -> Any:
    """Loads a command with its options."""
    command = cast(
        "Callable[[str], Callable[..., None]]",
        import_module(f"prefect_linkerd.cli.{OWN.get(name, 'flow_command')}").command,
    )
    alone = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=CONTEXT_SETTINGS,
    )
    alone.command(name, help=commands()[name])(command(name))
    return typer.main.get_command(alone)


app = typer.Typer(
    name="prefect-linkerd",
    cls=_Commands,
    help="Manage the lifecycle of a Linkerd service mesh: the flows of prefect-linkerd.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Tables would cut off the names of flags.
    rich_markup_mode=None,
    context_settings=CONTEXT_SETTINGS,
)
for _name, _text in sorted(commands().items()):
    app.command(_name, help=_text)(lambda: None)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

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
    """Runs a command; returns linkerd's exit codes: 1 if a check fails, 2 on wrong input."""
    # Opt out of Prefect's telemetry for CLI runs.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    try:
        app(None if arguments is None else list(arguments), standalone_mode=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
