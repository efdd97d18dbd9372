"""The commands that only read a cluster and need neither a flow nor Prefect."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prefect_linkerd.cli.arguments import (
    CONTEXT,
    KUBECONFIG,
    MESH,
    OUTPUT,
    SET,
    Failed,
    guarded,
    with_flags,
)
from prefect_linkerd.cli.flags import arguments_of, flags_of, parameters_of
from prefect_linkerd.cli.missing_permissions import named_together
from prefect_linkerd.mesh.checks.options import ExpiryThresholds, VerifyOptions
from prefect_linkerd.mesh.helm.rehearsal import HEAD
from prefect_linkerd.mesh_file import load_mesh
from prefect_linkerd.tasks.declared import declared_flows

if TYPE_CHECKING:
    from prefect_linkerd.mesh.config.model import MeshConfig
    from prefect_linkerd.mesh.kubernetes.client import Cluster
    from prefect_linkerd.mesh.report.report import Report

PAUSE = 2.0
"""Seconds between two verifications of a command that waits."""

[VERIFY] = (
    # The thresholds are for events, which need a server.
    replace(each, without=("thresholds",))
    for each in parameters_of(declared_flows()["verify_mesh"])
)
[CERTIFICATES] = parameters_of(declared_flows()["check_certificates"])


def command(name: str) -> Callable[..., None]:
    """Returns the function of the command with this name."""
    if name == "status":
        return with_flags(_status, ())
    if name == "verify":
        return with_flags(_verify, flags_of((VERIFY,)))
    return with_flags(_certificates, flags_of((CERTIFICATES,)))


def _verify(
    mesh: MESH = None,
    settings: SET = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            help="Check only the applications of this namespace, and the mesh itself.",
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for failed checks to pass.")
    ] = 0.0,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings, too.")] = False,
    output: Annotated[
        Literal["text", "short", "wide", "json", "prometheus"],
        typer.Option(
            "--output",
            "-o",
            help="The format of stdout. short: only checks that did not pass; wide: everything; "
            "json: the same as linkerd check's.",
        ),
    ] = "text",
    **given: object,
) -> None:
    from prefect_linkerd.mesh.kubernetes.collector import paused_collector

    # Around the imports too, as they create thousands of objects.
    @paused_collector()
    def work() -> None:
        from prefect_linkerd.cli.paint import painted_checks
        from prefect_linkerd.cli.target import reached
        from prefect_linkerd.mesh.atomic_file import write_whole
        from prefect_linkerd.mesh.kubernetes.waiting import poll
        from prefect_linkerd.mesh.report.report import as_linkerd_json, as_text

        options = arguments_of((VERIFY,), flags_of((VERIFY,)), given).get("options")
        options = options or VerifyOptions()
        config = load_mesh(mesh, kubeconfig, context, settings or (), "unused")
        cluster = reached(config.access)
        report = poll(
            lambda: _report(cluster, config, options, namespace),
            lambda found: not is_bad(found, strict=strict),
            wait,
            every=PAUSE,
        )
        as_json = json.dumps(as_linkerd_json(report), indent=2) + "\n"
        as_prometheus = ""
        if output == "prometheus" or options.metrics_file is not None:
            from prefect_linkerd.mesh.report.metrics import as_metrics

            as_prometheus = as_metrics(report)
        for path, text in ((options.json_file, as_json), (options.metrics_file, as_prometheus)):
            if path is not None:
                write_whole(path, text)
        match output:
            case "json":
                print(as_json, end="")
            case "prometheus":
                print(as_prometheus, end="")
            case _:
                print(painted_checks(as_text(report, output), sys.stdout), end="")
        if options.metrics_gateway is not None:
            from prefect_linkerd.mesh.report.metrics import push_metrics

            push_metrics(report, options.metrics_gateway)
        if options.metrics_otlp is not None:
            from prefect_linkerd.mesh.report.otlp import push_otlp

            push_otlp(report, options.metrics_otlp)
        if is_bad(report, strict=strict):
            raise Failed

    guarded(work, output)


def is_bad(report: Report, *, strict: bool) -> bool:
    """Whether a check failed or, with `strict`, warns."""
    return report.verdict == "failed" or (strict and report.verdict == "degraded")


def _report(
    cluster: Cluster, config: MeshConfig, options: VerifyOptions, namespace: str | None
) -> Report:
    from prefect_linkerd.mesh.checks.categories import CATEGORIES
    from prefect_linkerd.mesh.mesh import Mesh
    from prefect_linkerd.mesh.report.report import verify
    from prefect_linkerd.mesh.snapshot.mesh import read_snapshot

    snapshot = read_snapshot(Mesh(cluster, config), permissions="pre" in options.scopes)
    if namespace is not None:
        snapshot = snapshot.narrowed(namespace)
    return verify(snapshot, CATEGORIES, options.scopes, options.ignore)


def _status(
    mesh: MESH = None,
    settings: SET = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
    output: OUTPUT = "text",
) -> None:
    from prefect_linkerd.cli.key_place import key_row
    from prefect_linkerd.cli.last_verification import last_verification
    from prefect_linkerd.cli.target import cluster_words, reached
    from prefect_linkerd.cli.user_server import has_server
    from prefect_linkerd.mesh.mesh import Mesh
    from prefect_linkerd.mesh.status import read_status, status_json, status_rows

    def work() -> None:
        config = load_mesh(mesh, kubeconfig, context, settings or (), "place")
        cluster = reached(config.access)
        on_server = has_server()
        with named_together("status", cluster, config):
            status = read_status(Mesh(cluster, config))
        key = key_row(config, cluster, has_server=on_server)
        verified = last_verification(config.name, has_server=on_server)
        if output == "json":
            said = {**status_json(status), "key": key, "verified": verified}
            print(json.dumps(said, indent=2))
            return
        first, *rows = status_rows(status)
        where = ("cluster", cluster_words(config.access))
        # A rehearsal says so in its first row.
        rows = [first, where, *rows] if status.is_rehearsal else [where, first, *rows]
        for name, line in (*rows, ("anchor's key", key), ("verified", verified)):
            print(f"{name:<13} {line}".rstrip())

    guarded(work, output)


def _certificates(
    mesh: MESH = None,
    settings: SET = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
    fail_days: Annotated[
        int,
        typer.Option(
            metavar="NUMBER",
            min=0,
            help="Exit with code 1 if a certificate has fewer days left. 0: if one has expired. "
            "One that cert-manager renews counts only once its renewal is late.",
        ),
    ] = 0,
    output: OUTPUT = "text",
    **given: object,
) -> None:
    from prefect_linkerd.cli.target import reached
    from prefect_linkerd.mesh.mesh import Mesh
    from prefect_linkerd.mesh.snapshot.expiry import expiring, read_expiries

    def work() -> None:
        flags = flags_of((CERTIFICATES,))
        thresholds = arguments_of((CERTIFICATES,), flags, given).get("thresholds")
        config = load_mesh(mesh, kubeconfig, context, settings or (), "unused")
        live = Mesh(reached(config.access), config)
        with named_together("certificates", live.cluster, config):
            found = read_expiries(live)
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
        if live.is_rehearsal:
            print(HEAD, file=sys.stderr if output == "json" else sys.stdout)
        if output == "json":
            print(json.dumps(rows, indent=2))
        else:
            for row in rows:
                print("{days_left:>10}  {certificate}  {object}  {remedy}".format(**row).rstrip())
        is_late = bool(fail_days and expiring(found, config, [fail_days]))
        if is_late or any(expiry.days_left <= 0 for expiry in found):
            raise Failed

    guarded(work, output)
