"""Adds request counts to what workloads' proxies report, in front of a real API server."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect_linkerd.mesh.kubernetes.client import Cluster
from tests.support.fault_proxy import FaultProxy

METRICS = re.compile(r"/api/v1/namespaces/([^/]+)/pods/([^/]+):4191/proxy/metrics")


def counted(
    succeeded: float,
    failed: float,
    *,
    direction: str = "inbound",
    labels: Mapping[str, str] | None = None,
) -> str:
    """Two lines as proxies write them."""
    more = "".join(f',{key}="{value}"' for key, value in (labels or {}).items())
    return "".join(
        f'response_total{{direction="{direction}"{more},status_code="{code}",'
        f'classification="{name}"}} {count:.0f}\n'
        for name, code, count in (("success", 200, succeeded), ("failure", 503, failed))
    )


@dataclass(frozen=True)
class _Seen:
    since: float
    is_new: bool


class WatchedTraffic(FaultProxy):
    """While open, the proxy of every pod in a namespace reports requests that it has served.

    An old pod succeeds at all of them; a new pod of a workload in `failing` fails that share.
    Everything else comes from the API server.
    """

    def __init__(
        self,
        kubeconfig: Path,
        namespace: str,
        failing: Mapping[str, float],
        *,
        rate: float = 200.0,
    ) -> None:
        super().__init__(kubeconfig, share=0, seed=0)
        self._namespace, self._failing, self._rate = namespace, failing, rate
        now = time.monotonic()
        pods = Cluster.from_file(kubeconfig).list("v1", "Pod", namespace, metadata_only=True)
        # Pretend that they have run for ten minutes.
        self._seen = {pod["metadata"]["name"]: _Seen(now - 600, False) for pod in pods}
        self._guard = threading.Lock()

    def amended(self, path: str, status: int, data: bytes) -> tuple[int, bytes]:
        found = METRICS.fullmatch(path)
        if found is None or found[1] != self._namespace:
            return status, data
        name, now = found[2], time.monotonic()
        with self._guard:
            seen = self._seen.setdefault(name, _Seen(now - 1, True))
        share = self._failing.get(name.rsplit("-", 2)[0], 0.0) if seen.is_new else 0.0
        requests = (now - seen.since) * self._rate
        text = "# TYPE response_total counter\n" + counted(requests * (1 - share), requests * share)
        return status, data + text.encode()
