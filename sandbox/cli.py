"""`sandbox`: starts and stops a Kubernetes API on this machine."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sandbox.binaries import ensure_binaries
from sandbox.cluster import Sandbox, state_folder
from sandbox.demo import demo, demo_down
from sandbox.errors import SandboxError
from sandbox.team import Team


def parser() -> argparse.ArgumentParser:
    """The command line: `up`, `save`, `down`, `status`, `binaries`, `demo` and `team`."""
    root = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start a cluster; print its kubeconfig")
    save = commands.add_parser("save", help="save a cluster's state, to start others from it")
    down = commands.add_parser("down", help="stop a cluster and delete its data")
    status = commands.add_parser("status", help="list the clusters and their states")
    commands.add_parser("binaries", help="find, download or build every program")
    show = commands.add_parser("demo", help="start a cluster and a Prefect server; install a mesh")
    team = commands.add_parser("team", help="run a Prefect server as a team does, until Ctrl-C")
    team.add_argument("--replicas", type=int, default=2, help="API servers (2)")
    team.add_argument("--workers", type=int, default=2, help="workers of pool linkerd (2)")

    for command in (up, save, down):
        command.add_argument("--name", default="sandbox", help="the cluster's name (sandbox)")
    up.add_argument("--nodes", type=int, default=4, help="simulated nodes (4)")
    up.add_argument("--from", type=Path, dest="saved", help="a folder that `save` wrote")
    save.add_argument("--to", type=Path, required=True, help="a folder that does not exist yet")
    status.add_argument("--output", choices=("table", "json"), default="table")
    show.add_argument("--charts", type=Path, help="a mirror folder with Helm repositories")
    show.add_argument("--down", action="store_true", help="stop a running demo")
    return root


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns 0 on success, or 1 after printing the reason to stderr."""
    options = parser().parse_args(arguments)
    try:
        match options.command:
            case "up":
                sandbox = Sandbox(
                    options.name, detached=True, nodes=options.nodes, saved=options.saved
                )
                print(sandbox.start().kubeconfig)
            case "save":
                Sandbox(options.name, detached=True).save(options.to)
            case "down":
                Sandbox(options.name, detached=True).stop()
            case "status":
                return _status(options.output)
            case "binaries":
                for name, path in vars(ensure_binaries()).items():
                    print(f"{name.replace('_', '-')}\t{path}")
            case "team":
                return _team(options.replicas, options.workers)
            case _:
                return demo_down() if options.down else demo(options.charts)
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _team(replicas: int, workers: int) -> int:
    with Team(replicas=replicas) as team:
        subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            env=os.environ | team.environment(),
            cwd=Path(__file__).parents[1],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        for number in range(workers):
            team.start_worker(f"worker-{number + 1}", replica=number % replicas)
        for url in team.urls:
            print(url)
        print(f"Logs in {team.data}. Ctrl-C stops the server and deletes its data.", flush=True)
        signal.pause()
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
