"""Writes docs/checks.md from the checks themselves.

python -m tools.checks_page > docs/checks.md
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.checks.check import Category, Check
from prefect_linkerd.mesh.checks.options import Scope
from prefect_linkerd.mesh.checks.preflight import PREFLIGHT
from prefect_linkerd.mesh.snapshot.mesh import Snapshot

Family = Literal["core", "viz", "jaeger", "multicluster"]
"""Whose check it is: of `linkerd check`, or of an extension's own."""

COMMANDS: dict[Scope, str] = {
    "pre": "linkerd check --pre",
    "crds": "linkerd check --crds",
    "control-plane": "linkerd check",
    "proxy": "linkerd check --proxy",
    "cni": "linkerd check, where CNI is enabled",
    "viz": "linkerd viz check",
    "jaeger": "linkerd jaeger check",
    "beyond": "our own",
}

PARTS: dict[str, str] = {
    "anchor_owner": "cert-manager's Certificates and issuers",
    "api_services": "APIServices",
    "api_versions": "the served API groups",
    "certificates": "cert-manager's Certificates",
    "cluster_role_bindings": "ClusterRoleBindings",
    "cluster_roles": "ClusterRoles",
    "config_maps": "ConfigMaps by name",
    "control_plane_values": "ConfigMap linkerd-config",
    "crds": "CustomResourceDefinitions",
    "denied": "SelfSubjectAccessReviews",
    "endpoints": "EndpointSlices",
    "ingresses": "ingress objects",
    "installed": "Helm's records of releases, and their owners",
    "kubernetes": "the API server's version",
    "mutating_webhooks": "MutatingWebhookConfigurations",
    "namespaces": "Namespaces",
    "newest": "the index of the chart source",
    "nodes": "Nodes",
    "pods": "Pods",
    "policies": "policy resources",
    "prometheus": "viz's Prometheus, through the API server",
    "proxy_sample": "some proxies' metrics, through the API server",
    "refusals": "FailedCreate events",
    "releases": "Helm's records of releases",
    "replica_sets": "ReplicaSets",
    "role_bindings": "RoleBindings of kube-system",
    "secrets": "Secrets by name",
    "service_accounts": "ServiceAccounts",
    "services": "Services",
    "trust_bundle": "ConfigMap linkerd-identity-trust-roots",
    "webhook_signers": "the webhooks' CAs, cert-manager's Certificates and issuers",
    "validating_webhooks": "ValidatingWebhookConfigurations",
    "wanted": "the configuration's charts and values",
    "workloads": "workloads",
}
"""The parts of a snapshot, as the page names them."""

# What a part of a snapshot is called by where it is not looked at itself.
_VIEWS = {
    "extension_namespace": "namespaces",
    "labelled": "pods",
    "meshed": "pods",
    "pods_in": "pods",
    "release_values": "releases",
    "workload": "workloads",
}
OF_NO_OBJECT = {"config", "now", "local_now"}


@dataclass(frozen=True)
class NotCovered:
    """A check of linkerd that is not done here, and why."""

    family: Family
    ids: tuple[str, ...]
    reason: str


NOT_COVERED: tuple[NotCovered, ...] = (
    NotCovered(
        "core",
        ("kubectl-version",),
        "These flows use no kubectl; they talk to the API server themselves.",
    ),
    NotCovered(
        "core",
        ("l5d-data-plane-exists",),
        "It looks whether the namespace given by `--namespace` exists, and does nothing without "
        "one: these flows look at every namespace.",
    ),
    NotCovered(
        "viz",
        ("l5d-data-plane-exists",),
        "As above: these flows look at every namespace.",
    ),
    NotCovered(
        "multicluster",
        (
            "l5d-multicluster-link-crd-exists",
            "l5d-multicluster-links-are-valid",
            "l5d-multicluster-links-version",
            "l5d-multicluster-managed-controllers",
            "l5d-smc-target-clusters-access",
            "l5d-multicluster-clusters-share-anchors",
            "l5d-multicluster-source-rbac-correct",
            "l5d-multicluster-service-mirror-running",
            "l5d-multicluster-gateways-endpoints",
            "l5d-multicluster-services-endpoints",
            "l5d-multicluster-orphaned-services",
            "l5d-multicluster-proxy-healthy",
            "l5d-multicluster-proxy-cp-version",
            "l5d-multicluster-proxy-cli-version",
        ),
        "These flows do not install the multicluster extension.",
    ),
)

PREFACE = """# Checks

Every check of `linkerd check`, `--pre`, `--crds`, `--proxy`, `viz check` and `jaeger check`, by
Linkerd's own id and words, for stable 2.11 to 2.14 and current edges, and our own (`pl-…`).
Linkerd's are explained at `https://linkerd.io/2/checks/#<id>`. This page is made by
`python -m tools.checks_page`.

Severity, thresholds, exemptions and order are Linkerd's, read from its sources at `stable-2.11.5`,
`stable-2.14.10` and `edge-26.8.3`, and the history between them. Where a check stands for another
thing than in the CLI, it is this:

- The configured version stands where Linkerd has the version of its CLI, and the newest release
  comes from the index of the chart source instead of Linkerd's online version check.
- After a failed check that Linkerd marks as fatal, Linkerd stops altogether. Here the rest of that
  category is skipped, and checks elsewhere that lack what it would have found.
- Linkerd names the first object that is wrong. Here all are named.
- `pre-k8s-cluster-k8s`: Linkerd creates what it would install as a dry run. Here the API server's
  authorizer is asked, which needs nothing to be rendered and sends nothing.
- `linkerd-opaque-ports-definition`: a Service without any endpoint is no finding here.
- A check whose objects cannot be read, for want of a permission, is an error, never a pass.
"""


def checks_page() -> str:
    """Every check, category by category, and those of Linkerd's that are not done here."""
    lines = PREFACE.splitlines()
    for category in CATEGORIES:
        commands = ", ".join(COMMANDS[scope] for scope in (category.scope, *category.also))
        lines += ["", f"## {category.name}", "", f"Of {commands}."]
        lines += ["", "| id | description | severity | versions | reads | ours |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [_row(check) for check in category.checks]
    for category in PREFLIGHT:
        lines += ["", f"## {category.name}", "", "Of the plans of bootstrap and upgrade."]
        lines += ["", "| id | description | severity |", "|---|---|---|"]
        lines += [
            f"| `{check.id}` | {check.description} | {check.severity} |"
            for check in category.checks
        ]
    lines += ["", "## Not covered", "", "| of | id | ours |", "|---|---|---|"]
    lines += [
        f"| {each.family} | `{id_}` | no: {each.reason} |"
        for each in NOT_COVERED
        for id_ in each.ids
    ]
    return "\n".join(lines) + "\n"


def family_of(category: Category[Any]) -> Family | None:
    """Whose checks a category has; None for our own."""
    match category.scope:
        case "beyond":
            return None
        case "viz" | "jaeger":
            return category.scope
        case _:
            return "core"


def _row(check: Check[Any]) -> str:
    is_own = check.id.startswith("pl-")
    # The report's hints lead here.
    anchor = f'<a id="{check.id}"></a>' if is_own else ""
    severity = check.severity + (", fatal" if check.fatal else "")
    reads = ", ".join(sorted(set(parts_read(check.judge)), key=str.lower)) or "nothing"
    ours = "our own" if is_own else "yes"
    description = check.description.replace("|", "\\|")
    cells = (f"{anchor}`{check.id}`", description, severity, str(check.versions), reads, ours)
    return f"| {' | '.join(cells)} |"


def parts_read(judge: Callable[..., Any]) -> Iterator[str]:
    """What a check looks at: the parts of the snapshot in its own text and in what it calls."""
    known = Snapshot.parts() - OF_NO_OBJECT
    for name in _attributes(judge, set()):
        part = _VIEWS.get(name, name)
        if part in known:
            yield PARTS[part]


def _attributes(function: Callable[..., Any], seen: set[object]) -> Iterator[str]:
    if function in seen:
        return
    seen.add(function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    names: dict[str, Any] = getattr(function, "__globals__", {})
    names = names | dict(inspect.getclosurevars(function).nonlocals)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="snapshot"), attr=name):
                yield name
            # A part that could not be read is asked for by its name.
            case ast.Constant(value=str(name)):
                yield from _unread(tree, name)
            case ast.Name(id=name):
                yield from _called(names.get(name), seen)
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                yield from _called(getattr(names.get(module), name, None), seen)
            case _:
                pass


def _called(value: object, seen: set[object]) -> Iterator[str]:
    module = getattr(value, "__module__", None) or ""
    if inspect.isfunction(value) and module.startswith("prefect_linkerd.mesh.checks"):
        yield from _attributes(value, seen)


def _unread(tree: ast.AST, name: str) -> Iterator[str]:
    if any(isinstance(node, ast.Attribute) and node.attr == "unread" for node in ast.walk(tree)):
        yield name


if __name__ == "__main__":
    print(checks_page(), end="")
