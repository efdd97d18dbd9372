"""The probe as a flow sees it: begun before the first change, and gone when the flow ends."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from prefect_linkerd.mesh.errors import ApiError, MeshError
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.probe.options import ProbeOptions
from prefect_linkerd.mesh.probe.run import Probe, start_probe
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.step import step


@step("probe", description="Starts meshed clients and servers that ask each other.")
def begin_probe(mesh: Mesh, options: ProbeOptions, say: Callable[[str], None]) -> Probe:
    return start_probe(mesh, options, say=say)


@step("ask probe", run_name="probe: {where}", description="Counts the probe's requests.")
def ask_probe(probe: Probe, where: str) -> None:
    probe.check(where)


@contextmanager
def probing(
    mesh: Mesh, options: ProbeOptions, *, absent: str = "", tolerant: bool = False
) -> Generator[Probe]:
    """A probe that asks until the end, whatever that is; then nothing of it is left.

    Args:
        absent: why there is none, such as a downtime.
        tolerant: whether the flow continues without a probe that does not start.

    Raises:
        MeshError: it does not start; nothing was changed.
    """
    log = get_run_logger()
    probe = Probe(absent)
    if not absent:
        try:
            probe = begin_probe(mesh, options, log.info)
        except MeshError as error:
            if not tolerant or (isinstance(error, ApiError) and error.transient):
                raise
            log.warning("There is no probe: %s", error)
            probe = Probe("the probe did not start")
    if not probe.asks:
        log.info("Probe: %s", probe.outcome.sentence)
    try:
        yield probe
    finally:
        probe.end()
