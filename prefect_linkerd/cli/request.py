"""What a command requests: a run of a flow, with or without a Prefect server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, cast

from prefect_linkerd.mesh.config.model import MeshConfig

Answer = Literal["ask", "yes", "no"]
"""How a run that waits for approval is answered: by asking the user, or always yes or no."""


@dataclass(frozen=True)
class RunRequest:
    """A run of a flow, until it ends, in this process.

    Args:
        flow: its name, which is also its module's.
        config: the mesh; None for a flow that takes none.
        arguments: the flow's other parameters, by name.
        answer: how approvals are answered.
        quiet: whether only warnings and errors are shown.
    """

    flow: str
    config: MeshConfig | None
    arguments: Mapping[str, object]
    answer: Answer
    quiet: bool

    def load(self) -> Callable[..., Any]:
        """Imports and returns the flow."""
        module = import_module(f"prefect_linkerd.flows.{self.flow}")
        return cast("Callable[..., Any]", getattr(module, self.flow))
