"""The support matrix contains what a test run covered, and no more."""

from __future__ import annotations

from pathlib import Path

from tools.support_page import LEAST, page, ran

CASE = '<testcase classname="tests.flows.test_upgrade_walk" name="test_a_hop[{}]">{}</testcase>'


def test_what_passed_is_counted(tmp_path: Path) -> None:
    cases = [CASE.format("stable-2.14.10", "")] * LEAST
    cases += [CASE.format("edge-26.8.3", "<skipped/>"), CASE.format("stable-2.11.5", "<failure/>")]
    cases += [CASE.format("edge-24.2.5", "")]
    report = tmp_path / "junit.xml"
    report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    assert ran(report) == {("stable-2.14.10", "upgrade"): LEAST, ("edge-24.2.5", "upgrade"): 1}
    text = page(report)
    assert f"| stable-2.14.10 |  |  | {LEAST} |  |" in text
    # Skipped, failed, or covered by only a test or two.
    assert "edge-26.8.3" not in text
    assert "stable-2.11.5" not in text
    assert "edge-24.2.5" not in text
