"""A flow as the plain procedure that it is: at a terminal, where the user has no Prefect server."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Literal, cast

import typer

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.steps import shown
from prefect_linkerd.tasks.at_terminal import LOGGER, Ask, AtTerminal, End
from prefect_linkerd.tasks.outside import within

Answer = Literal["ask", "yes", "no"]
"""How a run that waits for an approval is answered: by asking the person, or without."""


def run(
    flow: str,
    config: MeshConfig | None,
    arguments: Mapping[str, Any],
    *,
    answer: Answer,
    quiet: bool,
) -> End:
    """Runs a flow to its end: no server, no database, and nothing of it is kept.

    Args:
        flow: its name, which is that of its module too.
        config: the mesh; None for a flow that takes none.
        arguments: the flow's other parameters, by name.
        answer: how approvals are answered.
        quiet: whether only warnings and errors are shown.

    Raises:
        MeshError: what the flow raised.
        Refused: an approval was not given.
    """
    terminal = AtTerminal(flow.replace("_", "-"), _answers(answer))
    mesh = {} if config is None else {"mesh": config}
    with shown(LOGGER, quiet=quiet), within(terminal):
        found = getattr(import_module(f"prefect_linkerd.flows.{flow}"), flow)
        procedure = cast("Callable[..., Any]", getattr(found, "fn", found))
        try:
            result = procedure(**mesh, **arguments)
            end = result if isinstance(result, End) else End("Completed", data=result)
        except KeyboardInterrupt:
            terminal.interrupt()
            raise
        except Exception:
            terminal.await_rest()
            terminal.say_end(End("Failed"))
            raise
        terminal.say_end(end)
    return end


def _answers(answer: Answer) -> Ask:
    if answer == "ask":
        return ask
    return lambda _what, _plan, _seconds: answer == "yes"


def ask(what: str, plan: str, seconds: float) -> bool | None:
    """Asks the person at the terminal; None where no answer comes in time."""
    if plan:
        typer.echo(f"\n{plan.rstrip()}\n", err=True)
    while True:
        typer.echo(f"Approve {what}? [y/N]: ", nl=False, err=True)
        if not select.select([sys.stdin], [], [], seconds)[0]:
            typer.echo(err=True)
            return None
        match sys.stdin.readline().strip().lower():
            case "y" | "yes":
                return True
            case "" | "n" | "no":
                return False
            case _:
                typer.echo("Type y or n.", err=True)
