"""The values that a plan would change, before and after, without secrets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prefect_linkerd.mesh.helm.records import Revision
from prefect_linkerd.mesh.planning.losses import ReleaseChange
from prefect_linkerd.mesh.planning.value_changes import changed_values, values_section

DEFAULTS: dict[str, Any] = {"proxy": {"logLevel": "warn"}, "replicas": 1}


def change(before: dict[str, Any], after: dict[str, Any]) -> ReleaseChange:
    revision = Revision(
        "linkerd-control-plane",
        "linkerd",
        1,
        "deployed",
        "linkerd-control-plane",
        "1",
        "edge-26.8.3",
        before,
        DEFAULTS,
        (),
        {},
    )
    return ReleaseChange("linkerd-control-plane", "1", revision, True, DEFAULTS, after, {}, {})


def test_what_differs_is_said_key_by_key() -> None:
    one, other = "hush", "other"
    before = {"proxy": {"logLevel": "debug"}, "password": one, "gone": ["a"]}
    found = change(before, {"replicas": 3, "password": other})
    lines = values_section(changed_values([found]))
    assert lines[1] == "### Values of linkerd-control-plane"
    assert lines[4:-1] == [
        '- gone: ["a"]',
        '- password: "(hidden)"',
        '+ password: "(hidden)"',
        # Back to its default.
        '- proxy.logLevel: "debug"',
        '+ proxy.logLevel: "warn"',
        "- replicas: 1",
        "+ replicas: 3",
    ]
    assert "hush" not in str(lines)


def test_what_is_as_by_default_or_new_is_no_change() -> None:
    assert values_section(changed_values([change({"replicas": 1}, {})])) == []
    new = replace(change({}, {"replicas": 5}), before=None)
    assert list(changed_values([new])) == []
