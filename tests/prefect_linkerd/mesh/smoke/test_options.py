"""The options of smoke tests: explained, checked, and refused with a remedy."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from prefect_linkerd.flows.smoke_test import smoke_test
from prefect_linkerd.mesh.smoke.options import SMOKE_TESTS, SmokeOptions
from tests.support.repository import ROOT
from tests.support.schema import undescribed_fields


def test_every_option_explains_itself_in_the_form_and_has_a_default() -> None:
    schema = SmokeOptions.model_json_schema()
    assert undescribed_fields(schema) == []
    assert "required" not in schema
    parameters = smoke_test.parameters.model_dump()
    assert list(parameters["properties"]) == ["mesh", "options", "dry_run"]
    assert parameters["required"] == ["mesh"]


def test_the_page_names_every_option_with_its_default() -> None:
    page = (ROOT / "docs/smoke-tests.md").read_text()
    for name, field in SmokeOptions.model_fields.items():
        default = field.get_default(call_default_factory=True)
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        shown = {"tests": "all", "namespace": "empty", "latency_p99_ms": "empty"}
        assert f"| {shown.get(name, f'`{default}`')} |" in row


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tests": []}, "name some of load-balancing"),
        ({"tests": ["juggling"]}, "load-balancing"),
        ({"weights": [5, 25, 50]}, "do not rise to 100"),
        ({"weights": [50, 25, 100]}, "do not rise to 100"),
        ({"weights": [0, 100]}, "do not rise to 100"),
        ({"weights": []}, "do not rise to 100"),
        ({"image": ""}, "is not an image"),
        ({"image": "https://example.com/python"}, "is not an image"),
        ({"requests": 100}, "set requests to 400 or more"),
        ({"weights": [50, 98, 100]}, "set requests to 1000 or more"),
        ({"tests": ["fault-injection"], "fault_percent": 2}, "set requests to 1000 or more"),
        ({"namespace": "Not A Name"}, "RFC 1123"),
        ({"success_rate": 0.2}, "greater than 0.5"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SmokeOptions.model_validate(options)


def test_tests_come_in_their_own_order_and_once() -> None:
    chosen = SmokeOptions(tests=["ingress", "canary", "canary"])
    assert chosen.tests == ["canary", "ingress"]
    assert SmokeOptions().tests == list(SMOKE_TESTS)
    # Too few requests for a split are enough for a test without one.
    assert SmokeOptions(tests=["load-balancing"], requests=100).requests == 100
