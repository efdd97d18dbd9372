"""`sandbox`: a Kubernetes API on this machine, up and down."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sandbox.binaries import SandboxError, ensure_binaries
from sandbox.cluster import Sandbox, state_folder
from sandbox.demo import demo, demo_down


def parser() -> argparse.ArgumentParser:
    """The command line: `up`, `down`, `status`, `binaries` and `demo`."""
    root = argparse.ArgumentParser(prog="sandbox", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start a cluster; print its kubeconfig")
    down = commands.add_parser("down", help="end a cluster and remove its data")
    status = commands.add_parser("status", help="show which clusters run")
    commands.add_parser("binaries", help="find, download or build every program")
    show = commands.add_parser("demo", help="a cluster, a Prefect server and a mesh from nothing")

    for command in (up, down):
        command.add_argument("--name", default="sandbox", help="tells clusters apart")
    up.add_argument("--nodes", type=int, default=4, help="simulated nodes (4)")
    status.add_argument("--output", choices=("table", "json"), default="table")
    show.add_argument("--charts", type=Path, help="a mirror folder with Helm repositories")
    show.add_argument("--down", action="store_true", help="end what a demo left running")
    return root


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; 0 when it did what it says, 1 with the reason on stderr otherwise."""
    options = parser().parse_args(arguments)
    try:
        match options.command:
            case "up":
                sandbox = Sandbox(options.name, detached=True, nodes=options.nodes).start()
                print(sandbox.kubeconfig)
            case "down":
                Sandbox(options.name, detached=True).stop()
            case "status":
                return _status(options.output)
            case "binaries":
                for name, path in vars(ensure_binaries()).items():
                    print(f"{name.replace('_', '-')}\t{path}")
            case _:
                return demo_down() if options.down else demo(options.charts)
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _status(output: str) -> int:
    folder = state_folder()
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [(name, Sandbox(name, detached=True)) for name in names]
    rows = [
        {
            "name": name,
            "running": sandbox.is_running,
            "kubeconfig": str(sandbox.kubeconfig),
            "programs": sandbox.status(),
        }
        for name, sandbox in found
    ]
    if output == "json":
        print(json.dumps(rows, indent=2))
        return 0
    table = Table("name", "state", "kubeconfig")
    for row in rows:
        ended = [name for name, runs in row["programs"].items() if not runs]
        state = "running" if row["running"] else f"ended: {', '.join(ended) or 'all'}"
        table.add_row(str(row["name"]), state, str(row["kubeconfig"]))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
