"""Declares a procedure as a flow, once, for everything that lists flows."""

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
"""What a flow does with the trust anchor's private key; `named`: it reports where the key is;
`kept`: it may create and store one."""


class Schedule(TypedDict):
    """When a deployment runs: every `minutes`, starting at a time of day (UTC)."""

    minutes: int
    at: str
    parameters: NotRequired[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class flow:  # noqa: N801 a decorator
    """Declares a flow, once: its deployment, command, role, fleet membership and page.

    Its name, help and options come from the function: the first paragraph of the docstring, the
    parameters, and their texts in `Args`. Each value is a literal, because `tasks.declared` reads
    them without importing the flow. `tests/project/test_flows.py` names what a new flow lacks.

    Args:
        run_name: name of its runs; may use parameters, as in `verify {mesh.name}`.
        changes: whether it changes a mesh. Only one such run at a time; automations treat it with
            care.
        page: its page in docs/, with the section if it is not the whole page.
        command: its CLI command; empty: it has none.
        grants: the function in `deployments.grants` that lists what it may do in a mesh's cluster;
            empty: it accesses no cluster, or runs other flows that do.
        fleet: whether it may run for each mesh of a fleet.
        key: what it does with the trust anchor's private key.
        needs_server: whether it needs a Prefect server.
        confirms_cluster: whether its command asks for confirmation before it changes a cluster
            that no mesh file names.
        skips_overlap: whether a run is cancelled if another one is running when it starts.
        schedules: by name, the schedules of the saved mesh named `mesh`, and so of every mesh.

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
        """Returns a Prefect flow; without Prefect, the function itself."""
        # Imported here, because `--help` only reads declarations and should not wait for it.
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
