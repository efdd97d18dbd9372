"""The gate for batches of restarts: reads the proxies before and after each, and may stop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prefect_linkerd.mesh.errors import ApiError, TrafficDropped
from prefect_linkerd.mesh.install.injection import CONTROL_PLANE_NS
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.nodes import runs_containers
from prefect_linkerd.mesh.snapshot.mesh import Pod, read_pods
from prefect_linkerd.mesh.snapshot.proxy_metrics import Census, choose_sample, no_census
from prefect_linkerd.mesh.traffic.counters import (
    Reading,
    callers,
    growth,
    name_of,
    read_counters,
    since_start,
)
from prefect_linkerd.mesh.traffic.judgement import (
    NOTHING,
    Before,
    Drop,
    Measured,
    Stream,
    in_percent,
    judge,
)

PODS = 20
"""The most pods of a batch whose proxies are read, spread over its workloads."""
CALLERS = 10
"""The most pods of their callers whose proxies are read."""
QUICK = 1.0
"""Seconds without a request after which a batch counts as one without traffic."""
SAID = 5
"""The most drops that an error names; the page has them all."""
MAX_EMPTY_READS = 3
"""Batches without traffic in a row after which proxies on simulated nodes are no longer read."""


@dataclass(frozen=True)
class BatchTraffic:
    """One row: a batch's requests just before its restart and after it.

    `note` is why it was not judged, empty if it was.
    """

    phase: str
    number: int
    workloads: tuple[str, ...]
    before: Measured = NOTHING
    after: Measured = NOTHING
    drops: tuple[Drop, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"batch {self.number}: {self.note}"
        before = f"{in_percent(self.before)} before ({self.before.rate:.0f}/s)"
        after = f"{in_percent(self.after)} since ({self.after.rate:.0f}/s)"
        return f"batch {self.number}: {before}, {after}"


@dataclass(frozen=True)
class _Look:
    """A first reading of workloads and their callers."""

    judged: frozenset[str]
    reading: Reading


@dataclass
class _Batch:
    """The current batch. `streams` is empty if there is nothing to judge."""

    workloads: tuple[str, ...]
    look: _Look | None = None
    streams: dict[Stream, Before] = field(default_factory=dict[Stream, Before])
    note: str = ""


class TrafficWatch:
    """Watches the requests of restarted workloads by batch: `before`, the restart, `after`.

    A batch whose proxies have seen no request causes no wait. One with traffic is counted for some
    seconds before, which are those after the previous batch, and for some seconds after.

    Args:
        max_drop: percentage points by which a success rate may drop; None: nothing is read.
        seconds: how long requests are counted.
        stops: whether a drop stops the restarts; otherwise it is only shown.
        remedy: what the reader can do about a drop.
        census: reads many proxies at once.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        max_drop: float | None,
        seconds: float,
        stops: bool = True,
        remedy: str = "Look at its log and its proxy's, then run again.",
        census: Census = no_census,
    ) -> None:
        self._cluster = cluster
        self._max_drop = max_drop
        self._seconds = seconds
        self._remedy = remedy
        self._census = census
        self.stops = stops
        self.phase = ""
        self.rows: list[BatchTraffic] = []
        self._off = "" if max_drop is not None else "not watched"
        self._denied: set[str] = set()
        self._pods: tuple[Pod, ...] = ()
        self._batch: _Batch = _Batch(())
        self._ahead: _Look | None = None
        self._in_vain = 0
        self._is_simulated: bool | None = None

    # Before

    def before(self, workloads: Iterable[str], judged: Iterable[str], pods: Sequence[Pod]) -> None:
        """Counts the requests of a batch that is about to be restarted.

        Args:
            workloads: the batch, as `Kind/namespace/name`.
            judged: the workloads whose requests tell whether it went well: the batch itself, or
                what depends on it.
            pods: every meshed pod, including the callers.
        """
        batch = self._batch = _Batch(tuple(workloads))
        self._pods = tuple(pods)
        if self._off:
            batch.note = self._off
        else:
            self._count(batch, frozenset(judged))

    def _count(self, batch: _Batch, asked: frozenset[str]) -> None:
        ahead, self._ahead = self._ahead, None
        chosen = self._sample(self._pods, asked)
        judged = frozenset(map(name_of, chosen))
        if not judged and self._denied:
            batch.note = "not judged"
            return
        look = ahead if ahead is not None and ahead.judged == judged else self._look(chosen)
        if look.reading.denied and not look.reading.counters:
            reason = next(iter(look.reading.denied.values()))
            batch.note = f"not judged, as the proxies may not be read: {reason}"
            return
        if not any(one.total for one in since_start(look.reading, judged).values()):
            batch.note = self._why_nothing(look)
            return
        self._in_vain = 0
        again = self._window(look.reading, judged)
        recent = growth(look.reading, again, judged)
        if not any(one.total for one in recent.values()):
            batch.note = "no traffic just before it"
            return
        batch.look = look
        batch.streams = {
            stream: Before(Measured.of(one, 0.0), recent.get(stream, NOTHING))
            for stream, one in since_start(again, judged).items()
        }

    def _read(self, pods: Sequence[Pod]) -> Reading:
        return read_counters(self._cluster, pods, self._census)

    def _sample(self, pods: Iterable[Pod], judged: frozenset[str]) -> tuple[Pod, ...]:
        return choose_sample(self._readable(pod for pod in pods if name_of(pod) in judged), PODS)

    def _readable(self, pods: Iterable[Pod]) -> Iterable[Pod]:
        return (pod for pod in pods if pod.namespace not in self._denied)

    def _look(self, chosen: Sequence[Pod]) -> _Look:
        own = self._read(chosen)
        self._denied |= set(own.denied)
        theirs = choose_sample(self._readable(callers(own, self._pods)), CALLERS)
        reading = own.and_also(self._read(theirs))
        self._denied |= set(reading.denied)
        return _Look(frozenset(map(name_of, chosen)), reading)

    def _why_nothing(self, look: _Look) -> str:
        silent = look.reading.silent
        reason = f": no proxy answers ({silent[0]})" if silent and not look.reading.counters else ""
        if not self._on_simulated_nodes():
            return f"no traffic{reason}"
        self._in_vain += 1
        if self._in_vain >= MAX_EMPTY_READS:
            self._off = "no traffic (simulated nodes)"
        return f"no traffic (simulated nodes){reason}"

    def _on_simulated_nodes(self) -> bool:
        if self._is_simulated is None:
            try:
                self._is_simulated = not any(map(runs_containers, self._cluster.list("v1", "Node")))
            except ApiError as error:
                if error.status != 403:
                    raise
                self._is_simulated = False
        return self._is_simulated

    def _window(self, first: Reading, judged: frozenset[str]) -> Reading:
        """Reads the same proxies once the seconds are over; sooner if they get no requests."""
        again = self._again(first, min(QUICK, self._seconds))
        if again.at >= first.at + self._seconds:
            return again
        is_asked = any(one.total for one in growth(first, again, judged).values())
        return self._again(first, self._seconds) if is_asked else again

    def _again(self, first: Reading, seconds: float) -> Reading:
        """Reads the proxies that answered once more, some seconds after the first reading."""
        time.sleep(max(first.at + seconds - time.monotonic(), 0.0))
        return self._read([p for p in first.pods if p.uid in first.counters])

    # After

    def after(self, ahead: Iterable[str] = ()) -> BatchTraffic:
        """Counts the batch's requests again once it is rolled out; returns its row.

        A drop has to last: it is counted a second time before it stops anything.

        Args:
            ahead: the workloads that the next batch is judged by, counted in the same seconds.

        Raises:
            TrafficDropped: a success rate dropped, and drops stop the restarts.
        """
        batch, look = self._batch, self._batch.look
        row = BatchTraffic(self.phase, len(self.rows) + 1, batch.workloads, note=batch.note)
        if look is not None and self._max_drop is not None:
            row = self._compare(row, batch, look, frozenset(ahead), self._max_drop / 100)
        self.rows.append(row)
        if row.drops and self.stops:
            raise self._dropped(row)
        return row

    def _compare(
        self,
        row: BatchTraffic,
        batch: _Batch,
        look: _Look,
        ahead: frozenset[str],
        max_drop: float,
    ) -> BatchTraffic:
        first = self._read(self._present(look))
        if ahead:
            self._ahead = self._look(self._sample(self._pods, ahead))
        again = self._again(first, self._seconds)
        after = growth(first, again, look.judged)
        drops = judge(batch.streams, after, max_drop)
        if drops:
            after = growth(again, self._again(again, self._seconds), look.judged)
            drops = judge(batch.streams, after, max_drop)
        return BatchTraffic(
            row.phase,
            row.number,
            row.workloads,
            _own({stream: seen.recent for stream, seen in batch.streams.items()}, look),
            _own(after, look),
            drops,
        )

    def _present(self, look: _Look) -> tuple[Pod, ...]:
        """The pods that the judged workloads have now, and the callers that were read before."""
        namespaces = sorted({name.split("/")[1] for name in look.judged} - self._denied)
        pods = (
            pod
            for namespace in namespaces
            for pod in read_pods(self._cluster, namespace, labels=CONTROL_PLANE_NS)
            if pod.proxy is not None
        )
        theirs = (pod for pod in look.reading.pods if name_of(pod) not in look.judged)
        return (*self._sample(pods, look.judged), *theirs)

    def _dropped(self, row: BatchTraffic) -> TrafficDropped:
        worst = row.drops[0]
        more = len(row.drops) - SAID
        return TrafficDropped(
            worst.stream.to,
            expected=f"its success rate to drop by at most {self._max_drop:g} percentage points "
            "after the restart",
            found=" | ".join(map(str, row.drops[:SAID])) + f" | and {more} more" * (more > 0),
            remedy=self._remedy,
        )


def _own(measured: Mapping[Stream, Measured], look: _Look) -> Measured:
    """What reached the judged workloads, from any client."""
    found = NOTHING
    for stream, one in measured.items():
        if stream.to in look.judged and not stream.by:
            found += one
    return found
