"""When a mesh was last verified and with what verdict, for `status`, from the Prefect server."""

from __future__ import annotations

from prefect_linkerd.tasks.names import mesh_key


def last_verification(mesh: str, *, has_server: bool) -> str:
    """Says in one line the last report's time and verdict, or why they are unknown; never raises.

    Args:
        mesh: its name.
        has_server: whether the user has a Prefect server; nothing else keeps reports.
    """
    if not has_server:
        return "unknown: only a Prefect server (PREFECT_API_URL) keeps reports"
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort
    from prefect.exceptions import PrefectException

    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[mesh_key(mesh, "verify")]))
    try:
        with get_client(sync_client=True, httpx_settings={"timeout": 5}) as client:
            found = client.read_artifacts(
                artifact_filter=wanted, sort=ArtifactSort.UPDATED_DESC, limit=1
            )
    except (httpx.HTTPError, PrefectException, RuntimeError, OSError) as error:
        return f"unknown: your Prefect server does not answer: {type(error).__name__}"
    if not found or found[0].updated is None:
        return "never, as far as your Prefect server knows"
    report = found[0]
    verdict = (report.description or "").rpartition(": ")[2] or "no verdict"
    return f"{report.updated:%Y-%m-%d %H:%M} UTC: {verdict}"
