"""What proxies have counted: requests by workload and by caller, from their admin ports.

A proxy counts every HTTP response that it has seen since it started, as success or failure:
inbound with the identity of the client (`client_id`, if it used mTLS), outbound with the workload
that answered (`dst_deployment` and the like). Kubelets' probes are left out if the proxy marks
them.
Sources: https://linkerd.io/2/reference/proxy-metrics/ and linkerd2-proxy
`linkerd/app/core/src/metrics.rs`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.snapshot.mesh import Pod
from prefect_linkerd.mesh.snapshot.proxy_metrics import (
    Census,
    Responses,
    is_denied,
    metrics_of,
    no_census,
)
from prefect_linkerd.mesh.traffic.judgement import Measured, Stream

AT_ONCE = 16
LIMIT = 1.0
"""Seconds that reading any number of proxies may take; those without an answer are silent."""

NOTHING = Responses()
COUNTER = "response_total"
KINDS = {
    "dst_deployment": "Deployment",
    "dst_statefulset": "StatefulSet",
    "dst_daemonset": "DaemonSet",
}


@dataclass(frozen=True)
class Counters:
    """What one proxy has counted since it started.

    `outbound` is by the workload that answered, as `Kind/namespace/name`; `clients` are inbound
    requests by the client's identity.
    """

    inbound: Responses = NOTHING
    outbound: Mapping[str, Responses] = field(default_factory=dict[str, Responses])
    clients: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Reading:
    """What proxies reported at one moment, by pod UID; `silent` is why others did not answer.

    `at` is in seconds of the monotonic clock; `pods` are those that were asked. `denied` are the
    namespaces whose proxies this identity may not read, with the API server's message.
    """

    at: float
    pods: tuple[Pod, ...] = ()
    counters: Mapping[str, Counters] = field(default_factory=dict[str, Counters])
    silent: tuple[str, ...] = ()
    denied: Mapping[str, str] = field(default_factory=dict[str, str])

    def and_also(self, other: Reading) -> Reading:
        return Reading(
            self.at,
            (*self.pods, *other.pods),
            {**self.counters, **other.counters},
            (*self.silent, *other.silent),
            {**self.denied, **other.denied},
        )


def parse_counters(text: str) -> Counters:
    """Parses the counts of HTTP responses in a proxy's `/metrics`.

    Raises:
        ValueError: it is not the text that proxies export.
    """
    # Skip the thousands of other lines that a busy proxy exports.
    lines = [line for line in text.splitlines() if line.startswith(COUNTER + "{")]
    inbound, outbound = NOTHING, defaultdict[str, Responses](Responses)
    clients = defaultdict[str, float](float)
    # Imported here, because most runs do not need it.
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            labels = sample.labels
            one = (
                Responses(failed=sample.value)
                if labels.get("classification") == "failure"
                else Responses(sample.value)
            )
            if labels.get("direction") == "outbound":
                if to := _destination(labels):
                    outbound[to] = plus(outbound[to], one)
            elif labels.get("route_name") != "probe":
                inbound = plus(inbound, one)
                if client := labels.get("client_id"):
                    clients[client] += sample.value
    return Counters(inbound, dict(outbound), dict(clients))


def _destination(labels: Mapping[str, str]) -> str:
    for label, kind in KINDS.items():
        if name := labels.get(label):
            return f"{kind}/{labels.get('dst_namespace', '')}/{name}"
    return ""


def plus(one: Responses, other: Responses) -> Responses:
    return Responses(one.succeeded + other.succeeded, one.failed + other.failed)


def read_counters(
    cluster: Cluster, pods: Sequence[Pod], census: Census = no_census, limit: float = LIMIT
) -> Reading:
    """Reads the proxies of pods in parallel.

    Args:
        census: reads many at once; those that do not answer it are read through the API server,
            with one API call each.
        limit: seconds after which each of the two returns the answers so far.
    """
    if not pods:
        return Reading(time.monotonic())

    denied: dict[str, str] = {}
    told = census(pods, (COUNTER,), limit)

    def ask(pod: Pod) -> Counters | str:
        try:
            text = told.get(pod.uid)
            return parse_counters(metrics_of(cluster, pod, limit) if text is None else text)
        except ApiError as error:
            if is_denied(error):
                denied[pod.namespace] = error.found
            return error.found
        except ValueError as error:
            return f"an answer that cannot be read: {error}"

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        asked = {pool.submit(ask, pod): pod for pod in pods}
        done, late = wait(asked, timeout=limit)
        said = {asked[one].uid: one.result() for one in done}
    finally:
        # Unfinished requests end by their own timeout.
        pool.shutdown(wait=False, cancel_futures=True)
    silent = [one for one in said.values() if isinstance(one, str)]
    silent += ["no answer in time"] * len(late)
    return Reading(
        time.monotonic(),
        tuple(pods),
        {uid: one for uid, one in said.items() if isinstance(one, Counters)},
        tuple(silent),
        dict(denied),
    )


def callers(reading: Reading, pods: Iterable[Pod]) -> list[Pod]:
    """The pods whose requests the proxies of a reading have answered, by their identities.

    A meshed client's identity is its ServiceAccount's, so all pods that share one are returned;
    clients without mTLS are unknown.
    """
    asked = {pod.uid for pod in reading.pods}
    # Such as `web.app.serviceaccount.identity.linkerd.cluster.local`.
    accounts = {
        tuple(client.split(".", 2)[:2])
        for counters in reading.counters.values()
        for client, requests in counters.clients.items()
        if requests and ".serviceaccount." in client
    }
    return [
        pod
        for pod in pods
        if (pod.service_account, pod.namespace) in accounts and pod.uid not in asked
    ]


def since_start(reading: Reading, judged: frozenset[str]) -> dict[Stream, Responses]:
    """What the proxies of a reading have counted of each stream since they started.

    Args:
        judged: the workloads whose requests are counted, as `Kind/namespace/name`, along with
            those of their callers.
    """
    found = defaultdict[Stream, Responses](Responses)
    for pod in reading.pods:
        if (counters := reading.counters.get(pod.uid)) is not None:
            for stream, one in _streams(pod, counters, judged):
                found[stream] = plus(found[stream], one)
    return dict(found)


def growth(first: Reading, second: Reading, judged: frozenset[str]) -> dict[Stream, Measured]:
    """What the proxies that are in both readings counted of each stream between them."""
    found = defaultdict[Stream, Responses](Responses)
    for pod in second.pods:
        before, after = first.counters.get(pod.uid), second.counters.get(pod.uid)
        if before is None or after is None:
            continue
        # A pod that sends its first request in between is a caller only in the second reading.
        known = {Stream(name_of(pod)): before.inbound, **dict(_streams(pod, before, judged))}
        for stream, one in _streams(pod, after, judged):
            found[stream] = plus(found[stream], _more(known.get(stream, NOTHING), one))
    seconds = max(second.at - first.at, 1e-3)
    return {stream: Measured.of(one, seconds) for stream, one in found.items()}


def _more(before: Responses, after: Responses) -> Responses:
    """The increase; all of `after` if the proxy restarted, with its counters at 0."""
    if after.succeeded < before.succeeded or after.failed < before.failed:
        return after
    return Responses(after.succeeded - before.succeeded, after.failed - before.failed)


def _streams(
    pod: Pod, counters: Counters, judged: frozenset[str]
) -> Iterable[tuple[Stream, Responses]]:
    workload = name_of(pod)
    sent = [(to, one) for to, one in counters.outbound.items() if to in judged]
    # A pod that only shares a caller's identity has sent nothing to the judged workloads.
    if workload in judged or sent:
        yield Stream(workload), counters.inbound
    for to, one in sent:
        yield Stream(to, workload), one


def name_of(pod: Pod) -> str:
    """The workload of a pod, as `Kind/namespace/name`."""
    return str(pod.owner) if pod.owner is not None else pod.subject
