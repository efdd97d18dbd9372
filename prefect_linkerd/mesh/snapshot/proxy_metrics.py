"""What proxies report about themselves: success rates, and when their certificates expire.

Read from viz's Prometheus, if it responds, and from the admin port (4191) of a sample of proxies;
both through the API server's proxy subresources, so that nothing else has to be reachable.

Sources: https://linkerd.io/2/reference/proxy-metrics/ and linkerd2-proxy
`linkerd/identity/src/metrics.rs`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from prefect_linkerd.mesh.errors import ApiError, MeshError
from prefect_linkerd.mesh.kubernetes.client import Cluster

if TYPE_CHECKING:
    from prefect_linkerd.mesh.snapshot.mesh import Pod

SAMPLE = 10
"""How many proxies are asked; each of a different workload, if there are enough."""

AT_ONCE = 5
TIMEOUT = 3.0
"""Seconds that one response may take."""

ADMIN_PORT = 4191
WINDOW = "5m"

# The first is that of older proxies; since 2025 the registry adds the prefix `control_`.
_IDENTITY_ENDS = (
    "identity_cert_expiration_timestamp_seconds",
    "control_identity_cert_expiration_timestamp_seconds",
)


@dataclass(frozen=True, slots=True)
class Responses:
    """Inbound responses, by Linkerd's classification."""

    succeeded: float = 0.0
    failed: float = 0.0

    @property
    def total(self) -> float:
        return self.succeeded + self.failed

    @property
    def success_rate(self) -> float | None:
        """From 0 to 1; None if there were no responses."""
        return self.succeeded / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class ProxyMetrics:
    """What one proxy reports: responses since it started, and when its certificate expires."""

    responses: Responses
    identity_ends: datetime | None


@dataclass(frozen=True)
class ProxySample:
    """What some proxies reported, by `namespace/pod`, and why others did not respond.

    `workloads` names the workload of every pod that was asked.
    """

    answers: Mapping[str, ProxyMetrics] = field(default_factory=dict[str, ProxyMetrics])
    silent: Mapping[str, str] = field(default_factory=dict[str, str])
    workloads: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Prometheus:
    """viz's Prometheus: whether it answers the API server, and what it knows about the proxies.

    It `refuses` because of Linkerd's own policy, which since 2.12 admits only the mesh's metrics
    API. `pods` are the names of the pods that it has scraped; `responses` are those of the last
    five minutes, by workload as `Kind/namespace/name`.
    """

    state: Literal["answers", "refuses", "silent", "external"]
    detail: str = ""
    pods: frozenset[str] = frozenset()
    responses: Mapping[str, Responses] = field(default_factory=dict[str, Responses])


Census = Callable[[Sequence["Pod"], Sequence[str], float], Mapping[str, str]]
"""Reads metrics of many proxies in few API calls.

Takes the pods, the metrics' names and a time limit in seconds. Returns the metrics' lines by the
pods' UIDs; a proxy that is missing has to be asked separately.
"""


def no_census(_pods: Sequence[Pod], _names: Sequence[str], _seconds: float) -> Mapping[str, str]:
    """Reads none, so that every proxy is asked through the API server."""
    return {}


def parse_proxy_metrics(text: str) -> ProxyMetrics:
    """Parses a proxy's `/metrics`.

    Raises:
        ValueError: it is not the text that proxies export.
    """
    succeeded = failed = 0.0
    ends: float | None = None
    # Imported here, because most runs do not need it.
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "response_total" and sample.labels.get("direction") == "inbound":
                if sample.labels.get("classification") == "failure":
                    failed += sample.value
                else:
                    succeeded += sample.value
            elif sample.name in _IDENTITY_ENDS:
                ends = sample.value
    # A proxy reports 0 before it has its first certificate.
    moment = datetime.fromtimestamp(ends, UTC) if ends else None
    return ProxyMetrics(Responses(succeeded, failed), moment)


def without_identity(sample: ProxySample, now: datetime) -> Iterator[tuple[str, str]]:
    """The sampled proxies without a valid certificate: `namespace/pod`, and why."""
    for pod, said in sorted(sample.answers.items()):
        if said.identity_ends is None:
            yield pod, "its proxy has no certificate"
        elif said.identity_ends <= now:
            yield pod, f"its proxy's certificate expired on {said.identity_ends:%Y-%m-%d %H:%M} UTC"


def choose_sample(pods: Iterable[Pod], limit: int = SAMPLE) -> tuple[Pod, ...]:
    """The pods to ask: one of each workload, then a second of each, and so on, up to a limit."""
    by_workload: dict[object, list[Pod]] = defaultdict(list)
    for pod in pods:
        if pod.phase == "Running" and not pod.is_over:
            by_workload[pod.owner or pod.uid].append(pod)
    ranked = [
        (rank, pod.namespace, pod.name, pod)
        for group in by_workload.values()
        for rank, pod in enumerate(sorted(group, key=lambda pod: pod.name))
    ]
    return tuple(entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:3])[:limit])


def read_proxy_metrics(
    cluster: Cluster, pods: Sequence[Pod], *, timeout: float = TIMEOUT
) -> ProxySample:
    """Asks the proxies of these pods, one API call each.

    Args:
        timeout: seconds that one response may take.

    Raises:
        ApiError: this identity may not use the pods' proxy subresource.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {
            f"{pod.namespace}/{pod.name}": pool.submit(_ask_proxy, cluster, pod, timeout)
            for pod in pods
        }
        said = {key: future.result() for key, future in running.items()}
    return ProxySample(
        answers={key: one for key, one in said.items() if isinstance(one, ProxyMetrics)},
        silent={key: one for key, one in said.items() if isinstance(one, str)},
        workloads={
            f"{pod.namespace}/{pod.name}": str(pod.owner) if pod.owner else pod.subject
            for pod in pods
        },
    )


def _ask_proxy(cluster: Cluster, pod: Pod, timeout: float) -> ProxyMetrics | str:
    try:
        return parse_proxy_metrics(metrics_of(cluster, pod, timeout))
    except ApiError as error:
        if is_denied(error):
            raise
        return error.found
    except ValueError as error:
        return f"an answer that cannot be read: {error}"


def metrics_of(cluster: Cluster, pod: Pod, timeout: float | None = None) -> str:
    """The metrics of one proxy, as text; does not retry.

    Raises:
        ApiError: there was no response, or this identity may not use the pod's proxy subresource
            (`is_denied`).
    """
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}:{ADMIN_PORT}/proxy/metrics"
    answer, _ = cluster.request(
        "GET", path, subject=pod.subject, accept="text/plain", repeat=False, timeout=timeout
    )
    return answer.decode()


def read_prometheus(
    cluster: Cluster, namespace: str, external: str, *, timeout: float = TIMEOUT
) -> Prometheus:
    """Queries viz's Prometheus with two API calls.

    Args:
        namespace: that of viz.
        external: the address of a Prometheus elsewhere, as viz's namespace names it; that one is
            not queried.

    Raises:
        ApiError: this identity may not use the Service's proxy subresource.
    """
    if external:
        return Prometheus("external", external)

    def ask(query: str) -> list[dict[str, Any]]:
        path = f"/api/v1/namespaces/{namespace}/services/http:prometheus:9090/proxy/api/v1/query"
        answer = cluster.read(
            path,
            {"query": query},
            subject=f"Service/{namespace}/prometheus",
            repeat=False,
            timeout=timeout,
        )
        return answer["data"]["result"]

    try:
        # The query with which viz's metrics API itself finds pods.
        pods = ask("max(process_start_time_seconds) by (pod, namespace)")
        responses = ask(
            f'sum(increase(response_total{{direction="inbound"}}[{WINDOW}])) '
            "by (namespace, deployment, statefulset, daemonset, classification)"
        )
    except ApiError as error:
        if is_denied(error):
            raise
        return Prometheus("refuses" if error.status == 403 else "silent", error.found)
    except (ValueError, KeyError, TypeError) as error:
        return Prometheus("silent", f"an answer that is not Prometheus's: {error}")
    return Prometheus(
        "answers",
        pods=frozenset(str(one["metric"].get("pod", "")) for one in pods),
        responses=_by_workload(responses),
    )


_KINDS = {"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}


def _by_workload(result: list[dict[str, Any]]) -> dict[str, Responses]:
    found: dict[str, Responses] = {}
    for one in result:
        labels: dict[str, str] = one["metric"]
        label = next((key for key in _KINDS if labels.get(key)), None)
        if label is None:
            continue
        key = f"{_KINDS[label]}/{labels.get('namespace', '')}/{labels[label]}"
        known, value = found.get(key, Responses()), float(one["value"][1])
        found[key] = (
            Responses(known.succeeded, known.failed + value)
            if labels.get("classification") == "failure"
            else Responses(known.succeeded + value, known.failed)
        )
    return found


def is_denied(error: MeshError) -> bool:
    """Whether the API server itself refused, by RBAC, and not the backend that it proxies to."""
    return (
        isinstance(error, ApiError)
        and error.status in (401, 403)
        and ("forbidden: User" in error.found or "Unauthorized" in error.found)
    )
