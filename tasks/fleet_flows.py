"""The flows that may run for each mesh of a fleet: those declared with `fleet=True`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from prefect_linkerd.tasks.declared import declared_flows

FLEET_FLOWS = tuple(n for n, each in declared_flows().items() if each.declaration.fleet)

if TYPE_CHECKING:
    FleetFlow = str
else:
    # The choices in the form and on the command line.
    FleetFlow = Literal[FLEET_FLOWS]
