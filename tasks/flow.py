"""How a procedure becomes a flow: one declaration, which everything that lists flows reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NotRequired, ParamSpec, TypedDict, TypeVar, cast

from prefect_linkerd.tasks.names import deployment_name

if TYPE_CHECKING:
    from prefect import Flow

P = ParamSpec("P")
R = TypeVar("R")

KeyUse = Literal["unused", "named", "read", "kept"]
"""What a flow does with the trust anchor's private key; `named`: it says where that is, and `kept`:
it may make one."""


class Schedule(TypedDict):
    """When a deployment runs by itself: from a time of day (UTC), again and again."""

    minutes: int
    at: str
    parameters: NotRequired[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class flow:  # noqa: N801 a decorator
    """Declares a flow, once: its deployment, command, role, fleet membership and page.

    Its name, help and options are those of the function: the first paragraph of the docstring, the
    parameters, and their lines of `Args`. Each value is a literal, as `tasks.declared` reads them
    without importing the flow. What a new flow lacks, `tests/project/test_flows.py` says.

    Args:
        run_name: what its runs are called; may name parameters, as in `verify {mesh.name}`.
        changes: whether it changes a mesh. One such run at a time; automations treat it with care.
        page: its page in docs/, with the section if it is not the whole page.
        command: its command at a terminal; empty: it has none.
        grants: the function of `deployments.grants` for what it may do in a mesh's cluster; empty:
            it asks no cluster, or runs others that do.
        fleet: whether it may be run for each mesh of a fleet.
        key: what it does with the trust anchor's private key.
        needs_server: whether it is nothing without a Prefect server.
        confirms_cluster: whether its command asks before it changes a cluster that no mesh file
            names.
        skips_overlap: whether a run is cancelled that begins while another one runs.
        schedules: of the mesh that is saved by the name `mesh`, and so of every mesh, by names.

    Example:
        >>> @flow(run_name="greet {mesh.name}", changes=False, page="greet.md", command="greet")
        ... def greet(mesh: LinkerdMesh, often: int = 1) -> str:
        ...     '''Greet a mesh.
        ...
        ...     Args:
        ...         mesh: Which mesh.
        ...         often: How often.
        ...     '''
    """

    run_name: str
    changes: bool
    page: str
    command: str = ""
    grants: str = ""
    fleet: bool = False
    key: KeyUse = "unused"
    needs_server: bool = False
    confirms_cluster: bool = False
    skips_overlap: bool = False
    schedules: Mapping[str, Schedule] = field(default_factory=dict[str, Schedule])

    def __call__(self, function: Callable[P, R]) -> Flow[P, R]:
        """Prefect's flow; where Prefect is left out, the function itself."""
        # Not above, as `--help` only reads declarations and waits for what this imports.
        from prefect_linkerd.tasks.outside import without_prefect

        if without_prefect():
            return cast("Flow[P, R]", function)
        from prefect_linkerd.tasks.on_prefect import MeshFlow

        return MeshFlow(
            function,
            name=deployment_name(function.__name__),
            flow_run_name=self.run_name,
            persist_result=False,
            validate_parameters=True,
        )
