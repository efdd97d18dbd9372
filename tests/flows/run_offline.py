"""A Prefect server, a cluster, and flows on both, with no network but loopback.

    unshare --net python -m tests.flows.run_offline FOLDER CHARTS

Prints the state of the verification, and how often the kernel found no route out of this network:
for the flows and the server, and for one last connection that tries it on purpose.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from prefect_linkerd.server.prefect_server import PrefectServer
from sandbox.cluster import Sandbox

FLOWS = """
import sys
from prefect_linkerd.flows.bootstrap import bootstrap
from prefect_linkerd.flows.check_certificates import check_certificates
from prefect_linkerd.flows.verify_mesh import verify_mesh
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
mesh = LinkerdMesh.model_validate_json(sys.argv[1])
bootstrap(mesh)
check_certificates(mesh)
print(verify_mesh(mesh, return_state=True).type.value)
"""
GET_FLAGS, SET_FLAGS, IS_UP = 0x8913, 0x8914, 0x1


def raise_loopback() -> None:
    """Brings a new network's loopback up, like `ip link set lo up`; `ip` itself may be missing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, GET_FLAGS, request))[1]
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", flags | IS_UP))


def without_route() -> int:
    """How often the kernel found no route for a packet sent in this network."""
    names, values = [
        line.split()
        for line in Path("/proc/net/snmp").read_text().splitlines()
        if line[:3] == "Ip:"
    ]
    count = int(values[names.index("OutNoRoutes")])
    six = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return count + int(six["Ip6OutNoRoutes"])


def main() -> None:
    folder, charts = map(Path, sys.argv[1:])
    raise_loopback()
    with PrefectServer(folder / "prefect") as server, Sandbox("offline") as sandbox:
        config = {
            "name": "offline",
            "access": {"kubeconfig": str(sandbox.kubeconfig)},
            "charts": {"mirror": str(charts)},
            "viz": {"enabled": False},
            "traefik": {"enabled": False},
            "emojivoto": {"enabled": False},
        }
        path = os.pathsep.join([str(sandbox.binaries.helm.parent), os.environ["PATH"]])
        done = subprocess.run(
            [sys.executable, "-c", FLOWS, json.dumps(config)],
            env=os.environ | server.environment | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        attempts = without_route()
    with socket.socket() as stranger:
        stranger.connect_ex(("192.0.2.1", 443))
    found = {
        "verified": done.stdout.splitlines()[-1],
        "attempts": attempts,
        "control": without_route() - attempts,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
