"""What the probe's counts say, and when they are bad enough to stop a change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.probe.counts import (
    SETTLED,
    Count,
    Ledger,
    ProbeOutcome,
    ProberReport,
    answers_lacking,
    failing,
    parse_report,
    since,
    too_many,
    total,
    unsettled,
)

NUMBERS = st.integers(0, 10_000)
REASONS = st.dictionaries(st.sampled_from(["503, l5d-proxy-error: x", "502"]), NUMBERS, max_size=2)
COUNTS = st.builds(
    Count, ok=NUMBERS, failed=NUMBERS, early=NUMBERS, identified=NUMBERS, reasons=REASONS
)
SERVERS = st.dictionaries(st.sampled_from(["0-before", "1-spread"]), COUNTS, max_size=2)
SAID = st.builds(
    ProberReport, st.sampled_from(["0-before", "1-spread"]), SERVERS, st.sampled_from("abc")
)
LEDGERS = st.builds(Ledger().heard, st.lists(SAID, max_size=4))


def later(said: ProberReport, more: dict[str, Count]) -> ProberReport:
    """What the same process reports after more requests."""
    servers = {name: said.servers.get(name, Count()) for name in {*said.servers, *more}}
    grown = {name: count + more.get(name, Count()) for name, count in servers.items()}
    return ProberReport(said.client, grown, said.process)


def piece(**more: Any) -> dict[str, Any]:
    latency = {"p50": 1.0, "p90": 2.0, "p99": 3.0, "max": 4.0}
    return {
        "ok": 0,
        "failed": 0,
        "early": 0,
        "identified": 0,
        "reasons": {},
        "last": "",
        "latency_ms": latency,
        **more,
    }


@given(LEDGERS, st.lists(SERVERS, max_size=4), st.sets(st.sampled_from("abc")))
def test_no_request_is_lost_or_counted_twice(
    before: Ledger, more: list[dict[str, Count]], restarted: set[str]
) -> None:
    """What was counted stays counted: clients may keep asking, fall silent, restart or be new."""
    words = [
        later(said, grown)
        if said.process not in restarted
        else ProberReport(said.client, grown, "new")
        for said, grown in zip(before.words.values(), more, strict=False)
    ]
    fresh = {said.process: said for said in words}.values()
    now = before.heard(fresh)
    grown = total(since(now, before).values())
    assert grown.ok >= 0
    assert grown.failed >= 0
    assert before.all.failed + grown.failed == now.all.failed
    assert before.all.ok + grown.ok == now.all.ok
    assert now.heard(fresh).all == now.all


@given(LEDGERS, st.integers(0, 50_000))
def test_one_failure_more_than_allowed_is_too_many(ledger: Ledger, allowed: int) -> None:
    failed = sum(pair.failed for pair in ledger.pairs.values())
    assert too_many(ledger, allowed) == (failed > allowed)
    assert not too_many(ledger, failed)
    if failed:
        assert too_many(ledger, failed - 1)


@given(LEDGERS)
def test_what_fails_is_named_the_worst_first(ledger: Ledger) -> None:
    text = failing(ledger)
    worst = max((count.failed for count in ledger.pairs.values()), default=0)
    if not worst:
        assert text == ""
        return
    first = text.split(";")[0]
    assert any(
        first.startswith(f"{client} to {server}: {worst:,} of ")
        for (client, server), count in ledger.pairs.items()
        if count.failed == worst
    )


def test_a_pair_and_its_reasons_are_named() -> None:
    reasons = {"503, l5d-proxy-error: UnknownIssuer": 4, "502": 1}
    bad = Count(ok=10, failed=5, reasons=reasons)
    ledger = Ledger().heard([ProberReport("0-before", {"1-spread": bad, "0-before": Count(ok=20)})])
    assert failing(ledger) == (
        "0-before to 1-spread: 5 of 15 (503, l5d-proxy-error: UnknownIssuer: 4, 502: 1)"
    )


def test_a_pair_is_settled_when_every_client_has_enough_answers() -> None:
    enough = Count(ok=SETTLED)
    servers = ("0-before", "1-spread")
    some = {
        "a": ProberReport("0-before", {"0-before": enough, "1-spread": Count(ok=1, last="503")}),
        "b": ProberReport("1-spread", {}),
    }
    assert unsettled(some, servers) == [
        "0-before (a) to 1-spread: 503",
        "1-spread (b) to 0-before",
        "1-spread (b) to 1-spread",
    ]
    full = ProberReport("x", dict.fromkeys(servers, enough))
    assert unsettled({"a": full, "b": full}, servers) == []


def test_a_pair_lacks_as_many_answers_as_the_client_that_has_fewest() -> None:
    servers = ["0-before", "1-spread"]
    full, some = Count(ok=SETTLED + 5), Count(ok=SETTLED - 3)
    ready = ProberReport("0-before", {"0-before": full, "1-spread": full})
    late = ProberReport("0-before", {"0-before": full, "1-spread": some})
    new = ProberReport("1-spread", {"0-before": full})
    assert answers_lacking([ready], servers) == 0
    assert answers_lacking([ready, late], servers) == 3
    assert answers_lacking([ready, late, new], servers) == SETTLED
    assert answers_lacking([], servers) == SETTLED


def test_results_are_read_as_the_program_writes_them() -> None:
    content = {
        "client": "1-spread",
        "replica": "pod-1",
        "process": "8c1e",
        "asks": ["0-before"],
        # The client was told to stop asking, and later to resume.
        "servers": {"0-before": [piece(ok=2, identified=2), piece(ok=3, failed=1, last="502")]},
    }
    said = parse_report(json.loads(json.dumps(content)))
    count = said.servers["0-before"]
    assert (said.client, count.ok, count.failed, count.identified) == ("1-spread", 5, 1, 2)
    assert (count.p50, count.p99, count.slowest, count.last) == (1.0, 3.0, 4.0, "502")


@pytest.mark.parametrize(
    "content", [{}, [], "x", None, {"client": 1, "servers": [], "process": "x"}]
)
def test_anything_else_is_refused(content: Any) -> None:
    with pytest.raises(ValueError, match="not a probe's report"):
        parse_report(content)


def test_artifact_and_event_end_with_how_many_failed() -> None:
    outcome = ProbeOutcome({("0-before", "1-spread"): Count(ok=10899, identified=10899, p99=9)})
    assert outcome.markdown()[-1] == "10,899 requests, 0 failed."
    assert outcome.payload == {"sent": 10899, "failed": 0, "text": "10,899 requests, 0 failed"}
    assert any("| 0-before | 1-spread | 10,899 | 0 |" in line for line in outcome.markdown())
    absent = ProbeOutcome(absent="the probe is off (probe.enabled)")
    assert absent.markdown()[-1] == "No requests: the probe is off (probe.enabled)."
    assert absent.payload == {"text": "no requests: the probe is off (probe.enabled)"}
