"""Runs a flow on the user's Prefect server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast
from uuid import uuid4

from prefect.client.schemas.objects import State

from prefect_linkerd.cli.approvals import approvals
from prefect_linkerd.cli.at_terminal import End
from prefect_linkerd.cli.lines import shown
from prefect_linkerd.cli.request import RunRequest
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.names import TAG


def run(request: RunRequest) -> End:
    """Runs a flow in this process, as a run of the server.

    Raises:
        MeshError: what the flow raised.
        Refused: an approval was not given.
    """
    flow = cast("Callable[..., State[Any]]", request.load())
    mesh = (
        {}
        if request.config is None
        else {"mesh": LinkerdMesh.model_validate(request.config.model_dump())}
    )
    log, tag = logging.getLogger("prefect"), f"{TAG}:terminal-{uuid4()}"
    with shown(log, quiet=request.quiet), approvals(tag, request.answer):
        state = flow(**mesh, **request.arguments, return_state=True)
        result: Any = state.result()  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return End(state.name, state.message, result)
