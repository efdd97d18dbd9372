"""Writes the lists of flows in deployments/prefect.yaml and in README.md.

python -m tools.flow_lists
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from prefect_linkerd.tasks.declared import DeclaredFlow, declared_flows
from prefect_linkerd.tasks.names import CHANGES, READS, TAG, deployment_name

ROOT = Path(__file__).parents[1]
PREFECT_YAML = ROOT / "deployments/prefect.yaml"
README = ROOT / "README.md"
DEPLOYMENTS = re.compile(r"(?<=^deployments:\n).*", re.DOTALL | re.MULTILINE)
TABLE = re.compile(r"(?<=<!-- flows -->\n).*?(?=<!-- end of flows -->)", re.DOTALL)

LAST = """\
    # On the last deployment, because the automations need all deployments to exist.
    build:
      - prefect_linkerd.deployments.steps.sync_automations: {}
"""


def pages(flows: Iterable[DeclaredFlow] | None = None) -> dict[Path, str]:
    """Returns the files' contents, for these flows or for all declared ones."""
    listed = list(declared_flows().values() if flows is None else flows)
    return {
        PREFECT_YAML: DEPLOYMENTS.sub(
            lambda _: "\n".join(map(deployment, listed)) + LAST, PREFECT_YAML.read_text()
        ),
        README: TABLE.sub(lambda _: table(listed), README.read_text()),
    }


def deployment(flow: DeclaredFlow) -> str:
    """Returns a flow's entry in prefect.yaml. Values are JSON, which is valid YAML."""
    declared = flow.declaration
    tags = [TAG, CHANGES if declared.changes else READS]
    limit = "*changes" if declared.changes else "*reads"
    if declared.skips_overlap:
        limit = "{limit: 1, collision_strategy: CANCEL_NEW}"
    lines = [
        f"  - name: {deployment_name(flow.name)}",
        f"    entrypoint: prefect_linkerd.flows.{flow.name}.{flow.name}",
        f"    description: {json.dumps(flow.summary)}",
        f"    tags: {json.dumps(tags)}",
        "    work_pool: *pool",
        f"    concurrency_limit: {limit}",
    ]
    if declared.schedules:
        lines.append("    schedules:")
    for slug, schedule in declared.schedules.items():
        given = schedule.get("parameters", {})
        parameters = ["          mesh: *mesh"] if flow.takes_mesh else []
        parameters += [f"          {name}: {json.dumps(value)}" for name, value in given.items()]
        lines += [
            f"      - slug: {'mesh-' if flow.takes_mesh else ''}{slug}",
            f"        interval: {60 * schedule['minutes']}",
            f'        anchor_date: "2026-01-01T{schedule["at"]}:00+00:00"',
            *(["        parameters:"] if parameters else []),
            *parameters,
        ]
    return "\n".join(lines) + "\n"


def table(flows: Iterable[DeclaredFlow]) -> str:
    """Returns a Markdown table of each flow, with a link to its page and what it does."""
    rows = [
        f"| [`{flow.name}`](docs/{flow.declaration.page}) | {_clause(flow.summary)} |\n"
        for flow in flows
    ]
    return "".join(["| flow | what it does |\n", "|---|---|\n", *rows])


def _clause(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].removesuffix(".")


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
