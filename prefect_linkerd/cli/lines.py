"""What a run prints while it runs: a line for each event."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Generator
from contextlib import contextmanager

from prefect_linkerd.cli.paint import painted

_NOISE = ("Beginning flow run", "Created task run", "View at ")
_DONE = "Finished in state "
_SAID_ANYWAY = ("Encountered exception during execution", "Retries are exhausted")
"""Left out, as the command itself prints the full error as its last line."""

_SHORT = 160
"""How many characters of a failed step's message are shown."""


class Steps(logging.Handler):
    """Prints the records of Prefect's loggers and those of `prefect_linkerd.cli.at_terminal`."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith(_NOISE) or any(sign in text for sign in _SAID_ANYWAY):
            return
        task, flow = getattr(record, "task_run_name", ""), getattr(record, "flow_name", "")
        step = str(task or flow.removeprefix("linkerd-"))
        if text.startswith(_DONE):
            text = _end(text.removeprefix(_DONE), is_step=bool(task))
            colour = "green" if text == "done" else "red" if text.startswith("failed") else "yellow"
            text = painted(text, colour, sys.stderr)
        elif record.levelno >= logging.WARNING:
            colour = "red" if record.levelno >= logging.ERROR else "yellow"
            text = f"{painted(record.levelname.lower(), colour, sys.stderr)}: {text}"
        # Look up sys.stderr each time, as a live progress bar replaces it.
        print(f"{step:>20}  {text}" if step else text, file=sys.stderr, flush=True)


def _end(state: str, *, is_step: bool) -> str:
    """Returns the wording for a state such as `Failed("why")`."""
    mark = "done" if state.startswith("Completed") else state.partition("(")[0].lower()
    if mark == "done" or (mark == "failed" and not is_step):
        return mark
    why = state.partition("(")[2].removesuffix(")")
    return f"{mark}: {textwrap.shorten(why, _SHORT, placeholder=' …')}"


@contextmanager
def shown(logger: logging.Logger, *, quiet: bool) -> Generator[None]:
    """Prints what is logged in the block; replaces the logger's own handlers.

    Args:
        quiet: whether only warnings and errors are shown.
    """
    before = (list(logger.handlers), logger.propagate, logger.level)
    level = logging.WARNING if quiet else logging.INFO
    # Prefect's handler of the root logger would print everything a second time.
    logger.handlers, logger.propagate = [Steps(level)], False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate, logger.level = before
