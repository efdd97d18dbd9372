"""`prefect-linkerd`: a mesh verified from a terminal, in place of `linkerd check`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import ValidationError

from mesh.checks import CATEGORIES
from mesh.checks.check import Scope
from mesh.cluster import Cluster
from mesh.config import MeshConfig
from mesh.errors import InvalidInput, MeshError
from mesh.expiry import expiring, read_expiries
from mesh.exposition import as_metrics
from mesh.report import as_linkerd_json, as_text, verify
from mesh.snapshot import read_snapshot
from mesh.verification import DEFAULT_SCOPES, ExpiryThresholds


def parser() -> argparse.ArgumentParser:
    """The command line: `verify` and `certificates`."""
    root = argparse.ArgumentParser(prog="prefect-linkerd", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("verify", help="all that `linkerd check` knows, and more")
    ends = commands.add_parser("certificates", help="which certificates end soon")
    for command in (check, ends):
        command.add_argument(
            "mesh", nargs="?", type=Path, help="the mesh's configuration, a YAML or JSON file"
        )
        command.add_argument("--kubeconfig", type=Path, help="wins over the configuration's")
        command.add_argument("--context", help="the kubeconfig's context")
    check.add_argument("--output", choices=("table", "json", "prometheus"), default="table")
    check.add_argument(
        "--check",
        action="append",
        choices=get_args(Scope),
        metavar="SCOPE",
        help=f"which checks, may be repeated: {', '.join(get_args(Scope))} (all but pre)",
    )
    check.add_argument("--ignore", action="append", default=[], metavar="ID", help="does not count")
    ends.add_argument("--output", choices=("table", "json"), default="table")
    ends.add_argument("--days", type=int, default=60, help="how soon is soon (60)")
    return root


def load_mesh(path: Path | None, kubeconfig: Path | None, context: str | None) -> MeshConfig:
    """The configuration of a mesh, from a file or from nothing but a cluster.

    Raises:
        InvalidInput: the file cannot be read, or a field of it is wrong; names the field.
    """
    subject = f"mesh {path}" if path else "mesh"
    try:
        content: Any = yaml.safe_load(path.read_text()) if path else {}
        if not isinstance(content, dict):
            raise ValueError("no mapping")
        fields = cast("dict[str, Any]", content)
        if kubeconfig or context:
            fields["access"] = {"kubeconfig": kubeconfig, "context": context}
        return MeshConfig.model_validate(fields)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise InvalidInput(
            subject, expected="fields of docs/options.md", found=wrong, remedy="Mend these fields."
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidInput(
            subject,
            expected="a readable YAML or JSON file with the mesh's fields",
            found=type(error).__name__,
            remedy="Name an existing file.",
        ) from None


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; its exit code is linkerd's: 1 where a check fails, 2 on wrong input."""
    options = parser().parse_args(arguments)
    try:
        mesh = load_mesh(options.mesh, options.kubeconfig, options.context)
        cluster = Cluster.from_access(mesh.access)
        if options.command == "certificates":
            return _certificates(cluster, mesh, options)
        return _verify(cluster, mesh, options)
    except InvalidInput as error:
        print(f"prefect-linkerd: {error}", file=sys.stderr)
        return 2
    except MeshError as error:
        print(f"prefect-linkerd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _verify(cluster: Cluster, mesh: MeshConfig, options: argparse.Namespace) -> int:
    scopes = options.check or DEFAULT_SCOPES
    snapshot = read_snapshot(cluster, mesh, permissions="pre" in scopes)
    report = verify(snapshot, CATEGORIES, scopes, options.ignore)
    match options.output:
        case "json":
            print(json.dumps(as_linkerd_json(report), indent=2))
        case "prometheus":
            print(as_metrics(report), end="")
        case _:
            print(as_text(report), end="")
    return report.exit_code


def _certificates(cluster: Cluster, mesh: MeshConfig, options: argparse.Namespace) -> int:
    found = read_expiries(cluster, mesh)
    due = expiring(found, mesh, ExpiryThresholds(days=[options.days]).days)
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
    if options.output == "json":
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print(f"{row['days_left']:>10}  {row['certificate']}  {row['object']}  {row['remedy']}")
    return int(any(expiry.days_left <= 0 for expiry in found))
