"""What the probe counted, and whether that is good enough. Pure.

Each client keeps its own counts, by the server's generation. A ledger holds the latest report of
every client process, including those that are gone; the difference between two ledgers is what
happened between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SETTLED = 10
"""Answers that each client needs from a server to be settled: it works, and not just by luck."""

SHOWN = 5
"""The most pairs or reasons that a message names."""

Pair = tuple[str, str]
"""The generations of a client and of the server that it sends requests to."""


@dataclass(frozen=True)
class Count:
    """The requests of one pair, or the sum of several.

    `identified` are the answers whose server saw the client's mTLS identity. `early` failures are
    those before a new server's first answer, which do not count as failed; `last` is the last
    failure's reason. `p50`, `p99` and `slowest` are in milliseconds, the largest of any client.
    """

    ok: int = 0
    failed: int = 0
    early: int = 0
    identified: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict[str, int])
    last: str = ""
    p50: float = 0.0
    p99: float = 0.0
    slowest: float = 0.0

    @property
    def sent(self) -> int:
        return self.ok + self.failed

    def __add__(self, other: Count) -> Count:
        return Count(
            ok=self.ok + other.ok,
            failed=self.failed + other.failed,
            early=self.early + other.early,
            identified=self.identified + other.identified,
            reasons=dict(Counter(self.reasons) + Counter(other.reasons)),
            last=other.last or self.last,
            p50=max(self.p50, other.p50),
            p99=max(self.p99, other.p99),
            slowest=max(self.slowest, other.slowest),
        )

    def since(self, before: Count) -> Count:
        """The requests after an earlier count of the same; latencies are of the latest answers."""
        return Count(
            ok=self.ok - before.ok,
            failed=self.failed - before.failed,
            early=self.early - before.early,
            identified=self.identified - before.identified,
            reasons=dict(Counter(self.reasons) - Counter(before.reasons)),
            last=self.last,
            p50=self.p50,
            p99=self.p99,
            slowest=self.slowest,
        )

    def __str__(self) -> str:
        """The count in words, failures last.

        >>> str(Count(ok=10899, identified=10899, p50=2.4, p99=9.0))
        'p50 2 ms, p99 9 ms, 10,899 with an mTLS identity, 10,899 requests, 0 failed'
        """
        latency = f"p50 {self.p50:.0f} ms, p99 {self.p99:.0f} ms, " if self.ok else ""
        identified = f"{self.identified:,} with an mTLS identity, "
        return f"{latency}{identified}{self.sent:,} requests, {self.failed:,} failed"


NOTHING = Count()


@dataclass(frozen=True)
class ProberReport:
    """One client's report: its generation, its counts by the server's, and its process id."""

    client: str
    servers: Mapping[str, Count]
    process: str = ""


def parse_report(content: Any) -> ProberReport:
    """Parses a client's report, as `program.Prober` writes it.

    Raises:
        ValueError: it is not such a report.
    """
    try:
        servers = {
            str(server): total(_count(piece) for piece in pieces)
            for server, pieces in content["servers"].items()
        }
        return ProberReport(str(content["client"]), servers, str(content["process"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a probe's report: {error!r}") from None


def read_lines(content: Any) -> dict[str, str]:
    """Parses the metrics that a client read from other proxies, by the proxies' addresses.

    Raises:
        ValueError: it is not such an answer.
    """
    try:
        return {str(address): str(lines) for address, lines in content.items()}
    except AttributeError as error:
        raise ValueError(f"not metrics from a probe: {error!r}") from None


def _count(piece: Mapping[str, Any]) -> Count:
    latency: Mapping[str, float] = piece["latency_ms"]
    return Count(
        ok=piece["ok"],
        failed=piece["failed"],
        early=piece["early"],
        identified=piece["identified"],
        reasons=piece["reasons"],
        last=piece["last"],
        p50=latency.get("p50", 0.0),
        p99=latency.get("p99", 0.0),
        slowest=latency.get("max", 0.0),
    )


def total(counts: Iterable[Count]) -> Count:
    return sum(counts, NOTHING)


@dataclass(frozen=True)
class Ledger:
    """The latest report of every client process, by its id; a restart makes a new process."""

    words: Mapping[str, ProberReport] = field(default_factory=dict[str, ProberReport])

    def heard(self, said: Iterable[ProberReport]) -> Ledger:
        """The ledger with newer reports of some clients."""
        return Ledger({**self.words, **{one.process: one for one in said}})

    @property
    def pairs(self) -> dict[Pair, Count]:
        """The counts of every pair, summed over all clients."""
        found: dict[Pair, Count] = {}
        for said in self.words.values():
            for server, count in said.servers.items():
                pair = said.client, server
                found[pair] = found.get(pair, NOTHING) + count
        return found

    @property
    def all(self) -> Count:
        return total(self.pairs.values())


def since(now: Ledger, before: Ledger) -> dict[Pair, Count]:
    """Each pair's counts since an earlier ledger; pairs without requests are left out."""
    earlier = before.pairs
    found = {pair: count.since(earlier.get(pair, NOTHING)) for pair, count in now.pairs.items()}
    return {pair: count for pair, count in found.items() if count.sent or count.early}


def unsettled(said: Mapping[str, ProberReport], servers: Sequence[str]) -> list[str]:
    """The pairs of client and server that have not settled yet.

    Args:
        said: the report of every living client, by pod.
        servers: the living generations.
    """
    found: list[str] = []
    for pod, one in sorted(said.items()):
        for server in servers:
            count = one.servers.get(server, NOTHING)
            if count.ok < SETTLED:
                why = f": {count.last}" if count.last else ""
                found.append(f"{one.client} ({pod}) to {server}{why}")
    return found


def answers_lacking(said: Iterable[ProberReport], servers: Sequence[str]) -> int:
    """How many answers the pair that is furthest from settled still needs."""
    fewest = min(
        (one.servers.get(server, NOTHING).ok for one in said for server in servers), default=0
    )
    return max(SETTLED - fewest, 0)


def too_many(ledger: Ledger, allowed: int) -> bool:
    """Whether more requests failed than allowed."""
    return ledger.all.failed > allowed


def failing(ledger: Ledger) -> str:
    """Which pairs fail, and why, the worst first."""
    worst = sorted(
        ((pair, count) for pair, count in ledger.pairs.items() if count.failed),
        key=lambda item: -item[1].failed,
    )
    words = [
        f"{client} to {server}: {count.failed:,} of {count.sent:,} ({_reasons(count)})"
        for (client, server), count in worst[:SHOWN]
    ]
    left = len(worst) - SHOWN
    return "; ".join([*words, *([f"and {left} more pairs"] if left > 0 else [])])


def _reasons(count: Count) -> str:
    most = sorted(count.reasons.items(), key=lambda item: -item[1])[:SHOWN]
    return ", ".join(f"{reason}: {number:,}" for reason, number in most)


@dataclass(frozen=True)
class ProbeOutcome:
    """What a run's probe found, or why there was no probe (`absent`)."""

    pairs: Mapping[Pair, Count] = field(default_factory=dict[Pair, Count])
    absent: str = ""

    @property
    def all(self) -> Count:
        return total(self.pairs.values())

    @property
    def sentence(self) -> str:
        """The sentence at the end of an artifact and of an event.

        >>> ProbeOutcome({("0-before", "0-before"): Count(ok=1234)}).sentence
        '1,234 requests, 0 failed'
        >>> ProbeOutcome(absent="the probe is off").sentence
        'no requests: the probe is off'
        """
        if self.absent:
            return f"no requests: {self.absent}"
        count = self.all
        return f"{count.sent:,} requests, {count.failed:,} failed"

    @property
    def payload(self) -> dict[str, Any]:
        """The outcome for an event's payload."""
        if self.absent:
            return {"text": self.sentence}
        count = self.all
        return {"sent": count.sent, "failed": count.failed, "text": self.sentence}

    def markdown(self) -> list[str]:
        """The section at the end of an artifact."""
        lines = ["", "## Requests of the probe", ""]
        if self.pairs:
            lines += ["| client | server | requests | failed | mTLS | p50 | p99 | reasons |"]
            lines += ["|---|---|---|---|---|---|---|---|"]
            lines += [
                f"| {client} | {server} | {count.sent:,} | {count.failed:,} | "
                f"{count.identified:,} | {count.p50:.0f} ms | {count.p99:.0f} ms | "
                f"{_reasons(count).replace('|', ' ')} |"
                for (client, server), count in sorted(self.pairs.items())
            ]
            lines += [""]
        return [*lines, f"{self.sentence[0].upper()}{self.sentence[1:]}."]
