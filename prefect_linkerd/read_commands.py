"""The commands that read a cluster and need neither a flow nor Prefect."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from prefect_linkerd.arguments import (
    CONTEXT,
    KUBECONFIG,
    MESH,
    OUTPUT,
    SET,
    Failed,
    guarded,
    with_flags,
)
from prefect_linkerd.mesh.checks.options import ExpiryThresholds, VerifyOptions
from prefect_linkerd.mesh_file import load_mesh
from prefect_linkerd.options import Parameter, arguments_of, flags_of

VERIFY = Parameter("options", VerifyOptions, without=("thresholds",))
"""Thresholds are for events, which need a server."""
CERTIFICATES = Parameter("thresholds", ExpiryThresholds)


def command(name: str) -> Callable[..., None]:
    """The function of the command of this name."""
    if name == "verify":
        return with_flags(_verify, flags_of((VERIFY,)))
    return with_flags(_certificates, flags_of((CERTIFICATES,)))


def _verify(
    mesh: MESH = None,
    settings: SET = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
    output: Annotated[
        Literal["text", "json", "prometheus"],
        typer.Option("--output", "-o", help="What stdout is for; json is linkerd's own shape."),
    ] = "text",
    **given: Any,
) -> None:
    from prefect_linkerd.mesh.atomic_file import write_whole
    from prefect_linkerd.mesh.checks import CATEGORIES
    from prefect_linkerd.mesh.kubernetes.client import Cluster
    from prefect_linkerd.mesh.report.metrics import as_metrics
    from prefect_linkerd.mesh.report.report import as_linkerd_json, as_text, verify
    from prefect_linkerd.mesh.snapshot.mesh import read_snapshot

    def work() -> None:
        options = arguments_of((VERIFY,), flags_of((VERIFY,)), given).get("options")
        options = options or VerifyOptions()
        config = load_mesh(mesh, kubeconfig, context, settings or (), "unused")
        cluster = Cluster.from_access(config.access)
        snapshot = read_snapshot(cluster, config, permissions="pre" in options.scopes)
        report = verify(snapshot, CATEGORIES, options.scopes, options.ignore)
        as_json = json.dumps(as_linkerd_json(report), indent=2) + "\n"
        texts = {"json": as_json, "prometheus": as_metrics(report), "text": as_text(report)}
        for path, text in (
            (options.json_file, as_json),
            (options.metrics_file, texts["prometheus"]),
        ):
            if path is not None:
                write_whole(path, text)
        print(texts[output], end="")
        if report.exit_code:
            raise Failed

    guarded(work, output)


def _certificates(
    mesh: MESH = None,
    settings: SET = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
    output: OUTPUT = "text",
    **given: Any,
) -> None:
    from prefect_linkerd.mesh.kubernetes.client import Cluster
    from prefect_linkerd.mesh.snapshot.expiry import expiring, read_expiries

    def work() -> None:
        flags = flags_of((CERTIFICATES,))
        thresholds = arguments_of((CERTIFICATES,), flags, given).get("thresholds")
        config = load_mesh(mesh, kubeconfig, context, settings or (), "unused")
        found = read_expiries(Cluster.from_access(config.access), config)
        due = expiring(found, config, (thresholds or ExpiryThresholds()).days)
        rows = [
            {
                "certificate": expiry.name,
                "object": expiry.subject,
                "not_after": expiry.info.not_after.isoformat(),
                "days_left": round(expiry.days_left, 2),
                "remedy": next((item.remedy for item in due if item.expiry is expiry), ""),
            }
            for expiry in found
        ]
        if output == "json":
            print(json.dumps(rows, indent=2))
        else:
            for row in rows:
                print("{days_left:>10}  {certificate}  {object}  {remedy}".format(**row).rstrip())
        if any(expiry.days_left <= 0 for expiry in found):
            raise Failed

    guarded(work, output)
