"""A flow run from a terminal: its steps as they go, and its result in the end."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast
from uuid import uuid4

from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL

from prefect_linkerd.approvals import Answer, approvals
from prefect_linkerd.key_place import place_words
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, cluster_of
from prefect_linkerd.tasks.names import TAG
from prefect_linkerd.tasks.trust_anchor import key_store

_NOISE = ("Beginning flow run", "Created task run", "View at ")
_DONE = "Finished in state "
_SAID_ANYWAY = ("Encountered exception during execution", "Retries are exhausted")
"""The command itself says why it failed, once and in full, as its last line."""

_SHORT = 160
"""How much of a failed step's message is shown."""


class _Steps(logging.Handler):
    """Prefect's log as people at a terminal want it: a line for each thing that happens."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith(_NOISE) or any(sign in text for sign in _SAID_ANYWAY):
            return
        is_step = bool(getattr(record, "task_run_name", ""))
        flow = str(getattr(record, "flow_name", "")).removeprefix(f"{TAG}-")
        step = str(getattr(record, "task_run_name", "") or flow)
        if text.startswith(_DONE):
            ended = text.removeprefix(_DONE)
            mark = "done" if ended.startswith("Completed") else ended.partition("(")[0].lower()
            why = textwrap.shorten(ended.partition("(")[2].rstrip(")"), _SHORT, placeholder=" …")
            is_said = mark == "done" or (mark == "failed" and not is_step)
            text = mark if is_said else f"{mark}: {why}"
        elif record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        # Looked up each time, as a live progress bar stands in for it.
        print(f"{step:>20}  {text}" if step else text, file=sys.stderr, flush=True)


@contextmanager
def _shown(quiet: bool) -> Generator[None]:
    logger = logging.getLogger("prefect")
    before = list(logger.handlers)
    steps = _Steps(logging.WARNING if quiet else logging.INFO)
    # Prefect's own handler of the root logger would say everything once more.
    logger.handlers, logger.propagate = [steps], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, True


def run(
    flow_name: str,
    config: MeshConfig | None,
    arguments: Mapping[str, Any],
    *,
    answer: Answer,
    quiet: bool,
) -> State[Any]:
    """Runs a flow to its end, in this process.

    Args:
        flow_name: its name, which is that of its module too.
        config: the mesh; None for a flow that takes none.
        arguments: the flow's other parameters, by name.
        answer: how approvals are answered.
        quiet: whether only warnings and errors are shown.

    Raises:
        MeshError: what the flow raised.
        Refused: an approval was not given.
    """
    flow = cast(
        "Callable[..., State[Any]]",
        getattr(import_module(f"prefect_linkerd.flows.{flow_name}"), flow_name),
    )
    mesh = {} if config is None else {"mesh": LinkerdMesh.model_validate(config.model_dump())}
    with _shown(quiet), approvals(f"{TAG}:terminal-{uuid4()}", answer):
        state = flow(**mesh, **arguments, return_state=True)
        state.result()  # pyright: ignore[reportUnknownMemberType,reportUnusedCoroutine]
    return state


def key_words(config: MeshConfig, server: str) -> str:
    """Where the trust anchor's private key is after a run, and how to back it up.

    Args:
        server: what this process's Prefect server is called; empty: its address.
    """
    mesh = LinkerdMesh.model_validate(config.model_dump())
    store = key_store(mesh, cluster_of(mesh))
    if store.load() is None:
        return (
            f"The trust anchor's private key is not in {store.where}: the anchor was there, or "
            "provided, without it. Rotations need it where it is."
        )
    return place_words(config, store.where, server or PREFECT_API_URL.value() or "")
