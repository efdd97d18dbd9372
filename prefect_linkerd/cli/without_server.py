"""Runs a flow as a plain function, for users without a Prefect server."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from typing import Any, cast

import typer

from prefect_linkerd.cli.at_terminal import LOGGER, Ask, AtTerminal, End
from prefect_linkerd.cli.lines import shown
from prefect_linkerd.cli.request import Answer, RunRequest
from prefect_linkerd.tasks.outside import within


def run(request: RunRequest) -> End:
    """Runs a flow without a server or a database; stores nothing about the run.

    Raises:
        MeshError: what the flow raised.
        Refused: an approval was not given.
    """
    terminal = AtTerminal(request.flow.replace("_", "-"), _answers(request.answer))
    mesh = {} if request.config is None else {"mesh": request.config}
    with shown(LOGGER, quiet=request.quiet), within(terminal):
        found = request.load()
        procedure = cast("Callable[..., Any]", getattr(found, "fn", found))
        try:
            result = procedure(**mesh, **request.arguments)
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
    """Asks the user at the terminal; returns None if no answer comes in time."""
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
