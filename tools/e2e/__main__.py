"""Installs, rotates, upgrades and uninstalls a mesh on a real cluster.

    make e2e E2E_ARGS="--kubeconfig ~/.kube/config"

See docs/e2e.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.linkerd.facts import FIRST_EDGES, release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from tools.e2e.run import EndToEnd, Stopped
from tools.e2e.story import Versions, as_markdown, steps


def two_releases_before(version: LinkerdVersion) -> LinkerdVersion:
    """Returns the first edge of the Linkerd 2.x series that is two before an edge's series."""
    return LinkerdVersion("edge", FIRST_EDGES[release_facts(version).series - 2])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.e2e", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, help="default: the one that kubectl uses")
    parser.add_argument("--context", help="the kubeconfig's context")
    newest = MeshConfig().version
    first = str(two_releases_before(LinkerdVersion.parse(newest)))
    parser.add_argument("--first", default=first, help="the version to install")
    parser.add_argument("--then", default=newest, help="the version to upgrade to")
    parser.add_argument("--charts", type=Path, help="a mirror folder, instead of upstream's charts")
    parser.add_argument("--registry", help="a registry with the images, instead of the charts' own")
    parser.add_argument("--image", default="", help="an image with python3, for the requests")
    parser.add_argument(
        "--emojivoto", type=Path, help="emojivoto's manifest, instead of upstream's"
    )
    parser.add_argument("--gentle-minutes", type=float, default=5, help="lifetime of certificates")
    parser.add_argument("--folder", type=Path, default=Path("e2e"), help="logs and the table")
    arguments = parser.parse_args()
    access = {"kubeconfig": arguments.kubeconfig, "context": arguments.context}
    base: dict[str, Any] = {
        "name": "e2e",
        "access": {key: str(value) for key, value in access.items() if value is not None},
        "charts": {"mirror": str(arguments.charts.resolve())} if arguments.charts else {},
        "viz": {"enabled": True},
        "trust_anchor": {"custody": "in-cluster"},
        "emojivoto": {"enabled": True},
    }
    if arguments.emojivoto:
        base["emojivoto"]["manifest"] = str(arguments.emojivoto.resolve())
    if arguments.registry:
        base["registry"] = {"host": arguments.registry}
    try:
        config = MeshConfig.model_validate(base)
        run = EndToEnd(
            Cluster.from_access(config.access),
            base,
            arguments.folder,
            lambda text: print(text, file=sys.stderr, flush=True),
        )
        versions = Versions(arguments.first, arguments.then)
        with run.alone():
            run.begin()
            run.tell(steps(versions, arguments.gentle_minutes, arguments.image))
    except (Stopped, MeshError) as error:
        print(error, file=sys.stderr)
        return 1
    print(as_markdown(run.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
