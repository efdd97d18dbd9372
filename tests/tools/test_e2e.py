"""What an end-to-end run decides: its next step, whether to use a cluster, and a step's outcome."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from prefect_linkerd.cli.app import commands as known_commands
from prefect_linkerd.cli.flags import flags_of, parameters_of
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.values import merge
from prefect_linkerd.tasks.declared import declared_flows
from tests.support.repository import ROOT
from tools.e2e import story
from tools.e2e.run import EndToEnd
from tools.e2e.story import Kill, Row, Run, Step, Versions

STORY = story.steps(Versions("edge-25.4.4", "edge-26.8.3"), 5, "example.com/python:3")
NAMES = [step.name for step in STORY]


def test_the_story_has_everything_that_a_mesh_goes_through() -> None:
    assert len(set(NAMES)) == len(NAMES)
    commands = {run.arguments[0] for step in STORY for run in step.runs}
    assert commands <= set(known_commands())
    assert {"bootstrap", "verify", "smoke-test", "rotate-anchor", "rotate-issuer"} <= commands
    assert [step.special for step in STORY if step.special] == [
        "uninstall",
        "install-managers",
        "uninstall",
    ]


@pytest.mark.parametrize("run", [run for step in STORY for run in step.runs])
def test_each_command_is_one_that_the_command_line_takes(run: Run) -> None:
    base = {"trust_anchor": {"custody": "in-cluster"}}
    MeshConfig.model_validate(merge(base, run.settings))
    name, *arguments = run.arguments
    flow = declared_flows().get(name.replace("-", "_"))
    if flow is not None:
        flags = {f"--{flag.name}" for flag in flags_of(parameters_of(flow))}
        assert {each for each in arguments if each.startswith("--")} <= flags


def test_a_run_resumes_with_the_step_that_failed() -> None:
    rows: tuple[Row, ...] = ()
    assert story.next_step(STORY, rows) == STORY[0]
    rows = story.with_row(rows, Row(NAMES[0], "done", 9.0))
    rows = story.with_row(rows, Row(NAMES[1], "failed", 1.0))
    assert story.next_step(STORY, rows) == STORY[1]
    rows = story.with_row(rows, Row(NAMES[1], "done", 2.0))
    assert [row.step for row in rows] == NAMES[:2]
    rows = story.with_row(rows, Row(NAMES[2], "skipped", 0))
    assert story.next_step(STORY, rows) == STORY[3]
    for name in NAMES:
        rows = story.with_row(rows, Row(name, "done", 1))
    assert story.next_step(STORY, rows) is None


def test_a_run_waits_for_the_command_that_a_killed_run_left_behind(tmp_path: Path) -> None:
    nothing = cast("Any", None)
    killed = EndToEnd(nothing, {}, tmp_path, lambda _: None)
    with killed.alone():
        command = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[killed.lock]
        )
    assert command.stdin is not None
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        assert command.poll() is None
        command.communicate(b"\n")

    with EndToEnd(nothing, {}, tmp_path, say).alone():
        assert command.returncode == 0
    assert "earlier run" in said[0]


def test_a_cluster_with_somebody_elses_mesh_is_left_alone() -> None:
    found = ["CustomResourceDefinition/servers.policy.linkerd.io", "Namespace/linkerd"]
    refused = story.refusal(found, is_marked=False)
    assert "Namespace/linkerd" in refused
    assert "Use an empty cluster" in refused
    assert story.refusal(found, is_marked=True) == story.refusal([], is_marked=False) == ""


def test_requests_are_skipped_where_nothing_carries_them() -> None:
    asking = Step("smoke tests", "", traffic=True)
    assert "simulated nodes" in story.skipped(asking, carries_traffic=False)
    assert story.skipped(asking, carries_traffic=True) == ""
    assert story.skipped(Step("verify", ""), carries_traffic=False) == ""


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("Probe of this run: 10,899 requests, 0 failed.", (10899, 0)),
        ("12 requests, 1 failed\n…\n1,203 requests, 4 failed", (1203, 4)),
        ("1 request, 0 failed", (1, 0)),
        ("no traffic (simulated nodes)", None),
    ],
)
def test_what_a_command_counted_is_read_from_its_output(
    text: str, counted: tuple[int, int] | None
) -> None:
    assert story.requests_in(text) == counted


def test_each_way_to_end_is_judged() -> None:
    plain, killed, fails = Run(()), Run((), kill=Kill("switch")), Run((), fails=True)
    assert story.verdict(plain, 0) == story.verdict(killed, -9) == story.verdict(fails, 1) == ""
    # It finished before it could be killed.
    assert story.verdict(killed, 0) == ""
    assert story.verdict(plain, 1)
    assert story.verdict(killed, 1)
    assert story.verdict(fails, 0)


def test_the_table_is_markdown_and_json() -> None:
    rows = (
        Row("bootstrap", "done", 91.4),
        Row("rotation", "done", 213.2, 10899, 0),
        Row("upgrade", "failed", 60, 100, 2, "2 of 100 failed"),
    )
    lines = story.as_markdown(rows).splitlines()
    assert lines[2] == "| bootstrap | done | 91 | - | - |"
    assert lines[3] == "| rotation | done | 213 | 10,899 | 0 |"
    assert lines[4] == "| upgrade | failed (2 of 100 failed) | 60 | 100 | 2 |"
    assert lines[5] == "| all | | 365 | 10,999 | 2 |"
    assert story.from_json(story.as_json(rows)) == rows
    assert json.loads(story.as_json(rows))[1]["requests"] == 10899
    assert story.from_json("") == ()


def test_the_documented_layout_is_what_the_rotation_of_a_certificate_knows() -> None:
    text = (ROOT / "tools/e2e/layout.yaml").read_text()
    objects = {(obj["kind"], obj["metadata"]["name"]): obj for obj in yaml.safe_load_all(text)}
    sources = objects["Bundle", "linkerd-identity-trust-roots"]["spec"]["sources"]
    assert [source["secret"]["name"] for source in sources] == [
        objects["Certificate", "linkerd-trust-anchor"]["spec"]["secretName"],
        "linkerd-previous-anchor",
    ]


def test_the_page_names_every_step() -> None:
    page = Path(ROOT / "docs/e2e.md").read_text()
    assert [name for name in NAMES if f"| {name} |" not in page] == []
