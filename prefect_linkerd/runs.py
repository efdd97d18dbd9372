"""A flow run from a terminal on a Prefect server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast
from uuid import uuid4

from prefect.client.schemas.objects import State

from prefect_linkerd.approvals import approvals
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.plain_run import Answer
from prefect_linkerd.steps import shown
from prefect_linkerd.tasks.at_terminal import End
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.names import TAG


def run(
    flow_name: str,
    config: MeshConfig | None,
    arguments: Mapping[str, Any],
    *,
    answer: Answer,
    quiet: bool,
) -> End:
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
    log, tag = logging.getLogger("prefect"), f"{TAG}:terminal-{uuid4()}"
    with shown(log, quiet=quiet), approvals(tag, answer):
        state = flow(**mesh, **arguments, return_state=True)
        result: Any = state.result()  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return End(state.name, state.message, result)
