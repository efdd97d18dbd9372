"""The probe of a flow: started before the first change, and removed when the flow ends."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from prefect_linkerd.mesh.errors import ApiError, MeshError
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.probe.options import ProbeOptions
from prefect_linkerd.mesh.probe.run import Probe, start_probe
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.step import step


@step("probe", description="Starts meshed pods that send each other requests.")
def begin_probe(mesh: Mesh, options: ProbeOptions, say: Callable[[str], None]) -> Probe:
    return start_probe(mesh, options, say=say)


@step("ask probe", run_name="probe: {where}", description="Counts the probe's requests.")
def ask_probe(probe: Probe, where: str) -> None:
    probe.check(where)


@contextmanager
def probing(
    mesh: Mesh, options: ProbeOptions, *, absent: str = "", tolerant: bool = False
) -> Generator[Probe]:
    """Runs a probe until the `with` statement exits, even by an error, then removes it.

    Args:
        absent: why there is no probe, such as a downtime; empty: start one.
        tolerant: whether the flow continues if the probe does not start.

    Raises:
        MeshError: the probe does not start; nothing was changed.
    """
    log = get_run_logger()
    probe = Probe(absent)
    if not absent:
        try:
            probe = begin_probe(mesh, options, log.info)
        except MeshError as error:
            if not tolerant or (isinstance(error, ApiError) and error.transient):
                raise
            log.warning("Continuing without a probe: %s", error)
            probe = Probe("the probe did not start")
    if not probe.asks:
        log.info("Probe: %s", probe.outcome.sentence)
    try:
        yield probe
    finally:
        probe.end()
