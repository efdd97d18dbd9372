"""How checks run, and the formats of a report."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from prefect_linkerd.mesh.atomic_file import write_whole
from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.checks.options import VerifyOptions
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError, OutputError
from prefect_linkerd.mesh.linkerd.spans import Versions
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor
from prefect_linkerd.mesh.report.events import RECOVERED, verdict_notice
from prefect_linkerd.mesh.report.metrics import as_metrics, push_metrics
from prefect_linkerd.mesh.report.otlp import push_otlp
from prefect_linkerd.mesh.report.report import (
    Report,
    as_linkerd_json,
    as_text,
    checks_markdown,
    failing_ids,
    report_markdown,
    report_rows,
    verify,
)
from prefect_linkerd.mesh.snapshot.mesh import Snapshot
from prefect_linkerd.server.loopback import free_ports
from tests.support.advice import advice, follows
from tests.support.certificates import DOMAIN, NOW
from tests.support.repository import ROOT
from tests.support.snapshots import empty_snapshot

ANCHOR = create_trust_anchor(DOMAIN, timedelta(days=100), NOW).certificate
LABEL = re.compile(r"(\w+)\s*=")
REFUSED = ApiError("Pod list in all", expected="a", found="403 forbidden", remedy="Grant it.")


def topic() -> Category:
    """A category with a check for every kind of outcome."""
    category = Category("linkerd-topic", "control-plane")

    @category.check("good", "all is well")
    def _good(_: Snapshot) -> Problems:
        yield from ()

    @category.check("careful", "nothing ends soon", "warning")
    def _careful(_: Snapshot) -> Problems:
        yield Problem("Secret/a/b", "it ends soon", "Renew it.")

    @category.check("nothing", "there is nothing to see")
    def _nothing(_: Snapshot) -> Problems:
        raise Skip("no such thing")
        yield

    @category.check("unread", "pods are read", "warning")
    def _unread(snapshot: Snapshot) -> Problems:
        yield from (Problem(pod.subject, "", "") for pod in snapshot.pods)

    @category.check("broken", "the check is broken", "warning")
    def _broken(_: Snapshot) -> Iterable[Problem]:
        return [Problem("x", str(1 / 0), "")]

    @category.check("bad", "what is bad", fatal=True)
    def _bad(_: Snapshot) -> Problems:
        for number in range(25):
            yield Problem(f"Pod/a/p{number}", "it is bad", "Fix it.")

    @category.check("after", "what comes after")
    def _after(_: Snapshot) -> Problems:
        raise AssertionError("never reached")
        yield

    @category.check("old", "only in old versions", versions=Versions(until=(2, 11)))
    def _old(_: Snapshot) -> Problems:
        raise AssertionError("not in this version")
        yield

    return category


def outcomes(report: Report) -> dict[str, str]:
    return {result.check.id: result.outcome for result in report.results}


@pytest.fixture
def report() -> Report:
    snapshot = empty_snapshot(unread={"pods": REFUSED})
    return verify(snapshot, [topic()], ["control-plane"])


def test_each_check_ends_as_it_should(report: Report) -> None:
    assert outcomes(report) == {
        "good": "success",
        "careful": "warning",
        "nothing": "skipped",
        # A check that cannot run is an error, whatever its severity.
        "unread": "error",
        "broken": "error",
        "bad": "error",
        "after": "skipped",
    }
    assert report.verdict == "failed"
    assert report.exit_code == 1
    broken = {r.check.id: str(r.problems[0]) for r in report.results if r.is_broken}
    assert "403 forbidden" in broken["unread"]
    assert "ZeroDivisionError" in broken["broken"]


def test_only_the_asked_scopes_are_run() -> None:
    assert not verify(empty_snapshot(), [topic()], ["viz"]).categories


def test_warnings_alone_are_no_failure_and_ignored_checks_do_not_count() -> None:
    errors = {"unread", "broken", "bad"}
    snapshot = empty_snapshot(unread={"pods": REFUSED})
    degraded = verify(snapshot, [topic()], ["control-plane"], errors)
    assert (degraded.verdict, degraded.exit_code) == ("degraded", 0)
    healthy = verify(snapshot, [topic()], ["control-plane"], errors | {"careful"})
    assert healthy.verdict == "healthy"
    assert healthy.counts["ignored"] == 4
    assert {row["result"] for row in report_rows(healthy)} == {"ignored", "skipped", "success"}


def test_the_json_is_that_of_linkerd(report: Report) -> None:
    found = as_linkerd_json(report)
    assert found["success"] is False
    (category,) = found["categories"]
    assert category["categoryName"] == "linkerd-topic"
    checks = category["checks"]
    assert [check["result"] for check in checks] == ["success", "warning", *["error"] * 3]
    assert checks[0] == {"description": "all is well", "result": "success"}
    assert set(checks[1]) == {"description", "hint", "error", "result"}
    assert checks[1]["hint"] == "https://linkerd.io/2/checks/#careful"
    json.dumps(found)


def test_the_text_is_that_of_linkerd(report: Report) -> None:
    lines = as_text(report).splitlines()
    assert lines[:3] == ["linkerd-topic", "-------------", "√ all is well"]
    assert "‼ nothing ends soon" in lines
    assert "    Secret/a/b: it ends soon. Renew it." in lines
    assert "    and 5 more" in lines
    assert lines[-1] == "Status check results are ×"  # noqa: RUF001 linkerd's own sign


def test_the_text_may_be_short_or_wide(report: Report) -> None:
    short = as_text(report, "short").splitlines()
    assert not [line for line in short if line.startswith(("√", "-  "))]
    assert "‼ nothing ends soon" in short
    wide = as_text(report, "wide").splitlines()
    assert "√ all is well (good)" in wide
    assert not [line for line in wide if "more" in line and line.startswith("    and")]
    assert any(line.startswith("    skipped: ") for line in wide)


def test_the_page_says_what_changed_since_the_last_run(report: Report) -> None:
    before = failing_ids(report_rows(report)) - {"bad"} | {"gone"}
    page = report_markdown(report, before)
    assert page.startswith("# Mesh mesh: failed\n")
    assert "- new: `bad`\n- fixed: `gone`" in page
    assert "Since the last run" not in report_markdown(report)
    same = report_markdown(report, failing_ids(report_rows(report)))
    assert "Nothing changed." in same


def test_a_page_has_the_words_of_every_check(report: Report) -> None:
    page = checks_markdown(report)
    assert "## Skipped\n\n### linkerd-topic\n\n- there is nothing to see (`nothing`): no su" in page
    assert "## Passed\n\n### linkerd-topic\n\n- all is well (`good`)\n" in page
    assert "Ignored" not in page
    ignored = checks_markdown(replace(report, ignored=frozenset({"careful"})))
    assert "nothing ends soon (`careful`)\n  - Secret/a/b: it ends soon. Renew it.\n" in ignored


def test_the_metrics_can_be_read_by_prometheus() -> None:
    bundle = create_trust_anchor(DOMAIN, timedelta(days=100), NOW).certificate
    snapshot = empty_snapshot(trust_bundle=bundle)
    report = verify(snapshot, [topic()], ["control-plane"])
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(as_metrics(report))
        for sample in family.samples
    }
    assert samples["linkerd_mesh_verdict", "failed", "mesh"] == 1
    assert samples["linkerd_mesh_verdict", "healthy", "mesh"] == 0
    assert samples["linkerd_mesh_problems", "bad", "error", "mesh"] == 25
    ends = samples[
        "linkerd_mesh_certificate_not_after_timestamp_seconds",
        "",
        "mesh",
        "trust anchor",
        "trust anchor",
    ]
    assert ends == (NOW + timedelta(days=100)).timestamp()


def test_of_anchors_of_one_name_the_first_to_end_counts() -> None:
    bundle = "".join(
        create_trust_anchor(DOMAIN, timedelta(days=days), NOW).certificate for days in (50, 9, 100)
    )
    report = verify(empty_snapshot(trust_bundle=bundle), [topic()], ["control-plane"])
    ends = [
        sample.value
        for family in text_string_to_metric_families(as_metrics(report))
        for sample in family.samples
        if sample.labels.get("role") == "trust anchor"
    ]
    assert ends == [(NOW + timedelta(days=9)).timestamp()]


class Gateway(BaseHTTPRequestHandler):
    """A Pushgateway that keeps what it was sent, by path; it refuses a mesh named `refused`."""

    pushed: ClassVar[dict[str, str]] = {}

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.pushed[self.path] = body
        self.send_response(400 if "refused" in self.path else 202)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@follows("Correct metrics_gateway in the options, or start the gateway.")
def test_metrics_are_pushed_and_replace_those_of_the_mesh(report: Report) -> None:
    address = f"http://127.0.0.1:{(port := free_ports(1)[0])}"
    with pytest.raises(OutputError, match="refused"):
        push_metrics(report, address)
    server = ThreadingHTTPServer(("127.0.0.1", port), Gateway)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        push_metrics(report, address)
        assert Gateway.pushed == {"/metrics/job/prefect_linkerd/mesh/mesh": as_metrics(report)}
        with pytest.raises(OutputError, match="Bad Request"):
            push_metrics(replace(report, mesh="refused"), address)
    finally:
        server.shutdown()
        server.server_close()


class Collector(Gateway):
    """The OTLP receiver of an OpenTelemetry Collector."""

    got: ClassVar[list[ExportMetricsServiceRequest]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append(ExportMetricsServiceRequest.FromString(body))
        self.send_response(400 if self.path == "/refused" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@follows("Correct metrics_otlp in the options, or start the collector.")
def test_the_same_metrics_go_to_a_collector(report: Report) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(OutputError, match="400"):
            push_otlp(report, f"{address}/refused")
        push_otlp(report, f"{address}/v1/metrics")
    finally:
        server.shutdown()
        server.server_close()
    [resource] = Collector.got[-1].resource_metrics
    sent = {
        (
            metric.name,
            *sorted((a.key, a.value.string_value) for a in point.attributes),
        ): point.as_double
        for metric in resource.scope_metrics[0].metrics
        for point in metric.gauge.data_points
    }
    assert sent == {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(as_metrics(report))
        for sample in family.samples
    }


@follows("Install it: pip install 'prefect-linkerd[otlp]'.")
def test_without_the_extra_there_is_no_exporter(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
        advice(OutputError, lambda: push_otlp(report, "http://127.0.0.1:1"))
    with pytest.raises(OutputError, match="accepts the metrics"):
        push_otlp(report, "http://127.0.0.1:1")


@pytest.mark.parametrize("address", ["gateway:9091", "ftp://gateway", "http://u:p@gateway"])
def test_a_gateway_is_an_address_without_a_password(address: str) -> None:
    for option in ("metrics_gateway", "metrics_otlp"):
        with pytest.raises(ValidationError, match=r"write http://HOST:PORT|leave user and passw"):
            VerifyOptions.model_validate({option: address})


def test_rules_and_dashboard_ask_for_metrics_and_labels_that_there_are(report: Report) -> None:
    there = {
        sample.name: set(sample.labels)
        for each in (report, verify(empty_snapshot(trust_bundle=ANCHOR), [topic()], ["pre"]))
        for family in text_string_to_metric_families(as_metrics(each))
        for sample in family.samples
    }
    folder = ROOT / "deployments/monitoring"
    rules = yaml.safe_load((folder / "prometheus-rule.yaml").read_text())
    dashboard = json.loads((folder / "grafana-dashboard.json").read_text())
    asked = [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    asked += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for expression in asked:
        names = re.findall(r"linkerd_mesh_\w+", expression)
        assert names, expression
        for name in names:
            assert name in there, expression
        labels = {
            label for part in re.findall(r"{(.*?)}", expression) for label in LABEL.findall(part)
        }
        assert labels <= set.union(*(there[name] for name in names)), expression


def test_the_event_names_what_did_not_hold(report: Report) -> None:
    notice = verdict_notice(report)
    assert notice.event == "linkerd.mesh.failed"
    assert notice.payload["errors"] == ["bad", "broken", "unread"]
    assert notice.payload["warnings"] == ["careful"]
    json.dumps(notice.payload)


def test_a_mesh_has_recovered_once_its_failures_were_told(report: Report) -> None:
    well = verify(empty_snapshot(), (), ())
    assert [RECOVERED in verdict_notice(well, times).labels for times in (0, 2, 3, 9)] == [
        False,
        False,
        True,
        True,
    ]
    assert RECOVERED not in verdict_notice(report, 9).labels


@pytest.mark.parametrize(
    ("versions", "inside", "outside"),
    [
        (Versions(), ["stable-2.11.5", "edge-26.8.3"], []),
        (Versions(until=(2, 11)), ["stable-2.11.5"], ["stable-2.12.6", "edge-26.8.3"]),
        (Versions(since=(2, 14)), ["stable-2.14.10", "edge-26.8.3"], ["stable-2.13.7"]),
        (Versions(edge_only=True), ["edge-26.8.3"], ["stable-2.14.10"]),
    ],
)
def test_versions_of_a_check(versions: Versions, inside: list[str], outside: list[str]) -> None:
    for text in inside:
        assert LinkerdVersion.parse(text) in versions
    for text in outside:
        assert LinkerdVersion.parse(text) not in versions


def test_a_snapshot_names_the_part_that_it_lacks() -> None:
    snapshot = empty_snapshot(unread={"pods": REFUSED})
    with pytest.raises(ApiError, match="403 forbidden"):
        _ = snapshot.pods
    assert snapshot.changed(pods=()).pods == ()
    with pytest.raises(TypeError, match="neither read nor failed: "):
        Snapshot({"config": MeshConfig()}, {})


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: Any) -> None:
    target = tmp_path / "deep" / "report.json"
    write_whole(target, "one")
    write_whole(target, "two")
    assert target.read_text() == "two"
    assert target.stat().st_mode & 0o777 == 0o644

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(target, "three")
    assert [path.name for path in target.parent.iterdir()] == ["report.json"]
    assert target.read_text() == "two"
