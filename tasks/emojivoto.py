"""The step that deploys the demo application into the mesh."""

from __future__ import annotations

from prefect_linkerd.mesh.bootstrap.run import Bootstrap
from prefect_linkerd.tasks.injection import log_restarted
from prefect_linkerd.tasks.step import step


@step(
    "emojivoto", description="Deploys the demo application with proxies, and waits for its rollout."
)
def emojivoto(run: Bootstrap) -> list[str]:
    """The names of its workloads."""
    done = run.deploy_emojivoto()
    log_restarted(done.remeshed)
    return [str(workload) for workload in done.workloads]
